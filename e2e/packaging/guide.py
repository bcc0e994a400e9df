"""The commands of a guide in docs/, so that a test can follow it to the letter.

A block that belongs to a guide has a comment right above it that names the guide, or several:

    <!-- run: kustomize helm -->
    ```bash
    kubectl get pods
    ```
"""

from __future__ import annotations

import re
from pathlib import Path

_MARKER = re.compile(r"^\s*<!--\s*run:\s*(?P<guides>[a-z0-9 -]+?)\s*-->\s*$")
_FENCE = re.compile(r"^(?P<indent>\s*)```(?P<language>\w*)\s*$")
LANGUAGES = ("bash", "console")


def blocks(page: Path, guide: str) -> list[str]:
    """The blocks of one guide in order, each a script for bash. In a `console` block only lines that begin with `$ `
    are commands.

    Raises KeyError when the page has no such guide, and ValueError for a comment without a block.
    """
    found = _all(page).get(guide)
    if not found:
        raise KeyError(f"{page.name} has no block of a guide {guide!r}; it has {', '.join(sorted(_all(page)))}")
    return found


def guides(page: Path) -> set[str]:
    """Names of all guides of the page."""
    return set(_all(page))


def _all(page: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    lines = page.read_text().splitlines()
    at = 0
    while at < len(lines):
        marker = _MARKER.match(lines[at])
        at += 1
        if not marker:
            continue
        fence = _FENCE.match(lines[at]) if at < len(lines) else None
        if not fence or fence["language"] not in LANGUAGES:
            raise ValueError(f"{page.name}:{at}: no ```{LANGUAGES[0]} block right below {lines[at - 1].strip()}")
        end = next((n for n in range(at + 1, len(lines)) if lines[n].strip() == "```"), None)
        if end is None:
            raise ValueError(f"{page.name}:{at + 1}: the block has no end")
        body = [line.removeprefix(fence["indent"]) for line in lines[at + 1 : end]]
        if fence["language"] == "console":
            body = [line.removeprefix("$ ") for line in body if line.startswith("$ ")]
        for guide in marker["guides"].split():
            found.setdefault(guide, []).append("\n".join(body) + "\n")
        at = end + 1
    return found
