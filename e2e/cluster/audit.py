"""The API server's audit log of what Spillway's own accounts asked for: proof that their roles are enough."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import yaml

from e2e.cluster.kubeapi import Obj
from e2e.cluster.settings import SYSTEM_NAMESPACE

# Nobody else's requests are written, and of these neither what was sent nor what was answered.
POLICY = yaml.safe_dump(
    {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [
            {"level": "Metadata", "userGroups": [f"system:serviceaccounts:{SYSTEM_NAMESPACE}"]},
            {"level": "None"},
        ],
    }
)


def entries(log: Path, skip: int = 0) -> list[Obj]:
    """The requests in the order in which they ended, without the first `skip`."""
    return list(_read(log))[skip:]


def refused(found: list[Obj]) -> list[str]:
    """What the API server answered with 403, in words, each once."""
    return list(dict.fromkeys(_words(entry) for entry in found if entry.get("responseStatus", {}).get("code") == 403))


def _read(log: Path) -> Iterator[Obj]:
    for line in log.read_text().splitlines() if log.exists() else []:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return  # the last line is still being written


def _words(entry: Obj) -> str:
    what = entry.get("objectRef") or {}
    resource = "/".join(part for part in (what.get("resource", ""), what.get("subresource", "")) if part)
    place = f" in {what['namespace']}" if what.get("namespace") else ""
    return f"{entry['user']['username']} may not {entry['verb']} {resource or entry['requestURI']}{place}"
