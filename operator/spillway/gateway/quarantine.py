"""Parts that a gateway refused: remembered, so that none is asked twice, and replaced by their last good version."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from spillway.gateway.resources import Part, PartId, Parts, Rendered


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
            part_id: Rejection(part_id, rendered.deployments.get(part_id), text)
            for part_id, text in rendered.failures.items()
        }
        admitted: Parts = {part_id: self._good[part_id] for part_id in rendered.failures if part_id in self._good}
        for part_id, part in rendered.parts.items():
            refused = self._refused.get(part_id)
            if refused is None or refused[0] != part:
                admitted[part_id] = part
            elif part_id in self._good:
                admitted[part_id] = self._good[part_id]
        return admitted

    def accept(self, parts: Iterable[Part]) -> None:
        for part in parts:
            self._good[part.id] = part
            self._refused.pop(part.id, None)

    def refuse(self, part: Part, text: str) -> None:
        self._refused[part.id] = (part, text)

    def release(self) -> None:
        """Try everything again: what was refused may fit now, for example since a rival's virtual host went."""
        self._refused.clear()

    def rejections(self) -> tuple[Rejection, ...]:
        refused = (Rejection(part.id, part.deployment, text) for part, text in self._refused.values())
        return (*self._unwritable.values(), *refused)
