"""Parts that a gateway refused: remembered, so that no gateway is asked twice, and replaced by their last good version."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from spillway.gateway.resources import SECRET, Part, PartId, Parts, Rendered


@dataclass(frozen=True)
class Rejection:
    """Why a part is not in force as it was asked for."""

    part: PartId
    deployment: str | None
    text: str


class Quarantine:
    """Shared by all sessions of one server."""

    def __init__(self) -> None:
        self._good: Parts = {}
        self._refused: dict[PartId, tuple[Part, str]] = {}
        self._unwritable: dict[PartId, Rejection] = {}

    def admit(self, rendered: Rendered) -> Parts:
        """What may be sent: a refused part's last good version, or nothing where it never had one."""
        self._unwritable = {
            id: Rejection(id, rendered.deployments.get(id), text) for id, text in rendered.failures.items()
        }
        admitted: Parts = {id: self._good[id] for id in rendered.failures if id in self._good}
        for id, part in rendered.parts.items():
            refused = self._refused.get(id)
            if refused is None or refused[0] != part:
                admitted[id] = part
            elif id in self._good:
                admitted[id] = self._good[id]
        return admitted

    def accept(self, parts: Iterable[Part]) -> None:
        for part in parts:
            self._good[part.id] = part
            self._refused.pop(part.id, None)

    def refuse(self, part: Part, text: str) -> None:
        self._refused[part.id] = (part, text)

    def release(self, type_url: str | None = None) -> None:
        """Try again: the world has changed (a file was mounted, a rival's virtual host went)."""
        self._refused = {
            id: entry for id, entry in self._refused.items() if type_url is not None and id.type_url != type_url
        }

    def rejections(self) -> tuple[Rejection, ...]:
        refused = (Rejection(part.id, part.deployment, text) for part, text in self._refused.values())
        return (*self._unwritable.values(), *refused)

    def missing_secrets(self) -> tuple[str, ...]:
        """Names of SDS resources whose file a gateway could not read."""
        return tuple(sorted(id.resource for id in self._refused if id.type_url == SECRET))
