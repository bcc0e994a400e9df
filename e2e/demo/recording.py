"""What was seen during the demo, second by second and request by request; stored as JSON. Times: story seconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["local", "spilled", "refused", "failed", "cut"]
Kind = Literal["act", "decision", "condition"]
REFUSALS = frozenset({"budget_exhausted", "capacity_exceeded", "no_capacity"})
"""Codes of Spillway's own honest answers to requests that nobody can take."""


@dataclass(frozen=True)
class Chapter:
    """One part of the story; `ended` is None while it is on."""

    name: str
    title: str
    watch: str
    began: float
    ended: float | None = None


@dataclass(frozen=True)
class Replicas:
    """Of one variant. `units`: the work that one replica does, in replicas of the first variant."""

    wanted: int
    ready: int
    starting: int
    pending: int
    units: float
    output_tokens_per_second: float


@dataclass(frozen=True)
class Sample:
    """One second's look. `work`: what clients ask for, in replicas of the first variant at its simulated speed.

    Dollars: `spent` by the ledger, `billed` by the providers' own books, `bound` by which `budget` may be passed;
    per hour, GPUs as the status gives them, external ones as the bills grew in the last seconds.
    """

    at: float
    work: float
    in_flight: int
    variants: dict[str, Replicas]
    gpu_usd_per_hour: float
    external_usd_per_hour: float
    spill_reason: str
    spent_usd: float
    billed_usd: float
    budget_usd: float
    bound_usd: float

    @property
    def ready(self) -> int:
        return sum(v.ready for v in self.variants.values())

    @property
    def wanted(self) -> int:
        return sum(v.wanted for v in self.variants.values())


@dataclass(frozen=True)
class Answer:
    """One request's end: sent at `at`. `server`: local, a provider's name or none. `code`: of an error, else empty."""

    at: float
    ended: float
    outcome: Outcome
    server: str
    code: str
    output_tokens: int


@dataclass(frozen=True)
class Moment:
    """Something that happened: an act of the story's people, a decision of the operator, a condition that changed."""

    at: float
    kind: Kind
    name: str
    text: str
    variant: str = ""
    before: int = 0
    after: int = 0


@dataclass
class Recording:
    """The whole story. `facts`: figures and texts that were measured once."""

    began: str = ""
    arrivals: str = ""
    chapters: list[Chapter] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    facts: dict[str, float | str] = field(default_factory=dict)

    # ---- what verdicts and charts ask --------------------------------------------------------------------------------

    def chapter(self, name: str) -> Chapter | None:
        return next((c for c in self.chapters if c.name == name), None)

    def span(self, name: str) -> tuple[float, float]:
        """Begin and end of a chapter; an empty span at the end of time when it was not reached."""
        found = self.chapter(name)
        if found is None:
            return float("inf"), float("inf")
        return found.began, found.ended if found.ended is not None else self.seconds

    @property
    def seconds(self) -> float:
        ends = [c.ended for c in self.chapters if c.ended is not None]
        return max([s.at for s in self.samples[-1:]] + ends, default=0.0)

    def act(self, name: str) -> float | None:
        """When an act happened first; None if it did not."""
        return next((m.at for m in self.moments if m.kind == "act" and m.name == name), None)

    def decisions(
        self, begin: float, end: float, suits: Callable[[Moment], bool] = lambda moment: True
    ) -> Iterator[Moment]:
        return (m for m in self.moments if m.kind == "decision" and begin <= m.at <= end and suits(m))

    def sent(self, begin: float, end: float) -> list[Answer]:
        """Answers to the requests that were sent in that time."""
        return [a for a in self.answers if begin <= a.at < end]

    def seen(self, begin: float, end: float) -> list[Sample]:
        return [s for s in self.samples if begin <= s.at <= end]

    def number(self, fact: str) -> float | None:
        value = self.facts.get(fact)
        return float(value) if isinstance(value, int | float) else None

    # ---- file --------------------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), separators=(",", ":")))

    @classmethod
    def load(cls, path: Path) -> Recording:
        raw: dict[str, Any] = json.loads(path.read_text())
        return cls(
            began=raw["began"],
            arrivals=raw["arrivals"],
            chapters=[Chapter(**c) for c in raw["chapters"]],
            samples=[
                Sample(**{**s, "variants": {n: Replicas(**v) for n, v in s["variants"].items()}})
                for s in raw["samples"]
            ],
            answers=[Answer(**a) for a in raw["answers"]],
            moments=[Moment(**m) for m in raw["moments"]],
            facts=raw["facts"],
        )
