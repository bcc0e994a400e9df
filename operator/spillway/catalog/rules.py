"""Engine arguments and environment that depend on precision, GPU and engine version."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydantic import Field

from spillway.api import Precision
from spillway.catalog.entry import Entry, VersionText


class Rule(Entry):
    """Arguments and environment that hold for some precisions, GPUs and engine versions; empty: for all."""

    precisions: tuple[Precision, ...] = ()
    gpus: tuple[str, ...] = ()
    since: VersionText | None = None
    """First engine version that it holds for."""
    before: VersionText | None = None
    """First engine version that it holds for no more."""
    args: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)

    def holds(self, precision: Precision, gpu: str, engine_version: str) -> bool:
        """Whether it is meant for a replica in that precision on that GPU under that engine version."""
        now = version(engine_version)
        return (
            (not self.precisions or precision in self.precisions)
            and (not self.gpus or gpu in self.gpus)
            and (self.since is None or now >= version(self.since))
            and (self.before is None or now < version(self.before))
        )


def version(text: str) -> tuple[int, ...]:
    """``0.33.0`` -> ``(0, 33, 0)``; what follows the three numbers does not count."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def arguments(rules: Iterable[Rule]) -> tuple[str, ...]:
    """The arguments of all rules, in their order: the engines let the last of two equal flags win."""
    return tuple(arg for rule in rules for arg in rule.args)


def environment(rules: Iterable[Rule]) -> dict[str, str]:
    """The environment of all rules; a later one wins."""
    return {name: value for rule in rules for name, value in rule.env.items()}
