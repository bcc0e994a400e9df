"""The audit log that proves the operator's roles to be enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from e2e.cluster import audit

OPERATOR = "system:serviceaccount:spillway-system:spillway-operator"


def entry(code: int, verb: str, **reference: str) -> dict[str, Any]:
    return {
        "user": {"username": OPERATOR},
        "verb": verb,
        "objectRef": reference,
        "requestURI": "/version",
        "responseStatus": {"code": code},
    }


def test_each_refusal_is_told_once_and_in_words(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    found = [
        entry(200, "list", resource="pods"),
        entry(403, "get", resource="secrets", namespace="chat"),
        entry(403, "get", resource="secrets", namespace="chat"),
        entry(404, "get", resource="leases"),
        entry(403, "patch", resource="deployments", subresource="scale", namespace="chat"),
    ]
    log.write_text("".join(json.dumps(each) + "\n" for each in found) + '{"user": {"userna')
    entries = audit.entries(log)
    assert len(entries) == len(found), "a line that is still being written is not read"
    assert audit.refused(entries) == [
        f"{OPERATOR} may not get secrets in chat",
        f"{OPERATOR} may not patch deployments/scale in chat",
    ]
    assert audit.refused(audit.entries(log, skip=4)) == [f"{OPERATOR} may not patch deployments/scale in chat"]


def test_before_the_first_request_there_is_no_log(tmp_path: Path) -> None:
    assert audit.entries(tmp_path / "audit.log") == []
