"""Certificates of a leader that is this process and of one gateway, as the operator issues them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from spillway.gateway import authority
from spillway.gateway.authority import Identity
from spillway.gateway.names import GATEWAY_NAME, OPERATOR_NAME


def issued(directory: Path) -> Identity:
    """The leader's; the gateway's lies in `directory` afterwards, as a mount brings it."""
    now = datetime.now(UTC)
    authorities = authority.renewed((), now)
    directory.mkdir(exist_ok=True)
    for name, content in authority.issue(authorities, GATEWAY_NAME, now).data().items():
        (directory / name).write_bytes(content)
    return authority.issue(authorities, OPERATOR_NAME, now)
