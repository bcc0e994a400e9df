#!/usr/bin/env python3
"""release.py check TAG: the tag is the version of everything. release.py notes TAG: what CHANGELOG.md says of it.

For release.yaml; needs nothing but Python 3.11.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
_IMAGE = re.compile(r"^\s*(?:- )?image: spillway/[a-z]+:(\S+)", re.MULTILINE)
_CHART = re.compile(r"^(?:version|appVersion): [\"']?([^\s\"']+)", re.MULTILINE)


class ReleaseError(Exception):
    """The repository is not ready for this tag; the message says what to change."""


def versions(root: Path = REPOSITORY) -> dict[str, set[str]]:
    """The versions that each file names, by its path; a file without any has an empty set."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    found = {"pyproject.toml": {str(project["version"])}}
    for name in ("manifests/base/operator.yaml", "manifests/base/gateway.yaml", "manifests/install.yaml"):
        found[name] = set(_IMAGE.findall((root / name).read_text()))
    chart = "manifests/helm/spillway/Chart.yaml"
    found[chart] = set(_CHART.findall((root / chart).read_text()))
    return found


def notes(version: str, root: Path = REPOSITORY) -> str:
    """The section `## VERSION` of CHANGELOG.md (a date may follow it), without its heading."""
    for section in re.split(r"^## ", (root / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        if heading.split()[:1] == [version] and text.strip():
            return text.strip() + "\n"
    raise ReleaseError(f"CHANGELOG.md says nothing under '## {version}': rename '## Unreleased' to it")


def check(tag: str, root: Path = REPOSITORY) -> None:
    """Raises ReleaseError unless `tag` is vX.Y.Z and X.Y.Z is the version everywhere, the changelog included."""
    if not re.fullmatch(r"v\d+\.\d+\.\d+", tag):
        raise ReleaseError(f"a release's tag is vX.Y.Z, not {tag}")
    wanted = tag.removeprefix("v")
    wrong = {name: found for name, found in versions(root).items() if found != {wanted}}
    if wrong:
        told = "; ".join(f"{name} has {', '.join(sorted(found)) or 'none'}" for name, found in wrong.items())
        raise ReleaseError(f"the tag is {tag}, but {told}: change them (and `make generate`), commit, and tag anew")
    notes(wanted, root)


def main(arguments: list[str]) -> int:
    """The exit status: 1, with words on stderr, when the repository is not ready."""
    match arguments:
        case ["check", tag]:
            command, tag = "check", tag
        case ["notes", tag]:
            command, tag = "notes", tag
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    try:
        if command == "check":
            check(tag)
        else:
            print(notes(tag.removeprefix("v")), end="")
    except ReleaseError as error:
        print(f"::error::{error}" if command == "check" else f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
