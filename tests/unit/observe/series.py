"""Answers of Prometheus as plain data."""

from __future__ import annotations

from spillway.observe.prometheus import Sample
from spillway.observe.traffic import Windows, queries

NAMES = tuple(queries(Windows()))


def sample(value: float, **labels: str) -> Sample:
    return Sample(labels, value)


def answers(**given: list[Sample]) -> dict[str, tuple[Sample, ...]]:
    """What the signals say; those that are not named say nothing."""
    assert set(given) <= set(NAMES)
    return {name: tuple(given.get(name, ())) for name in NAMES}
