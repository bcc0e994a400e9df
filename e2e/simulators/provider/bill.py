"""What the provider will charge, in exact decimal dollars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from e2e.simulators.provider.config import ModelPrice


@dataclass
class Line:
    """The sum of some charges."""

    requests: int = 0
    aborted: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: Decimal = Decimal(0)

    def add(self, prompt_tokens: int, completion_tokens: int, usd: Decimal, *, aborted: bool) -> None:
        self.requests += 1
        self.aborted += aborted
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.usd += usd

    def as_json(self) -> dict[str, object]:
        return {
            "requests": self.requests,
            "aborted": self.aborted,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "usd": format(self.usd, "f"),
        }


class Bill:
    """Charges by model and by minute; every request that was accepted is charged once, at its end."""

    def __init__(self, prices: Mapping[str, ModelPrice]) -> None:
        self._prices = prices
        self._total = Line()
        self._models: dict[str, Line] = {}
        self._minutes: dict[str, Line] = {}

    @property
    def total_usd(self) -> Decimal:
        return self._total.usd

    def charge(
        self, model: str, prompt_tokens: int, completion_tokens: int, *, at: float, aborted: bool = False
    ) -> Decimal:
        """Book one request that ended at `at` (seconds since the epoch); returns its dollars."""
        usd = self._prices[model].cost_usd(prompt_tokens, completion_tokens)
        minute = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%MZ")
        for line in (
            self._total,
            self._models.setdefault(model, Line()),
            self._minutes.setdefault(minute, Line()),
        ):
            line.add(prompt_tokens, completion_tokens, usd, aborted=aborted)
        return usd

    def as_json(self) -> dict[str, object]:
        """`total_usd` and the lines; dollars are strings, because floats are no money."""
        return {
            "total_usd": format(self._total.usd, "f"),
            "total": self._total.as_json(),
            "models": {name: line.as_json() for name, line in sorted(self._models.items())},
            "by_minute": {minute: line.as_json() for minute, line in sorted(self._minutes.items())},
        }
