"""What goes wrong at the provider, switchable while it runs."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Literal, get_args

from e2e.simulators.completions import CompletionRequest
from e2e.simulators.provider.errors import Situation

Mode = Literal[
    "ok", "outage", "429", "401", "402", "403", "404", "500", "overloaded", "hang", "late",
    "abort_midstream", "no_usage", "double_usage", "wrong_usage", "running_usage",
]  # fmt: skip
MODES: tuple[Mode, ...] = get_args(Mode)

# Modes that are a plain error answer; its status and body depend on the provider's style.
SITUATIONS: Mapping[Mode, Situation] = {
    "429": "rate_limited",
    "401": "unauthorized",
    "402": "no_balance",
    "403": "forbidden",
    "404": "unknown_model",
    "500": "server_error",
    "overloaded": "overloaded",
}


def wrong_usage(asked: CompletionRequest, number: int) -> dict[str, object]:
    """Usage blocks that no provider should send, one kind after the other."""
    prompt, completion = asked.prompt_tokens, asked.completion_tokens
    blocks: tuple[dict[str, object], ...] = (
        {"prompt_tokens": -prompt, "completion_tokens": completion},
        {"prompt_tokens": "many", "completion_tokens": completion},
        {"prompt_tokens": prompt, "completion_tokens": 10**18},
        {"prompt_tokens": prompt},
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": prompt, "completion_tokens": completion, "prompt_tokens_details": {"cached_tokens": -1}},
    )
    return blocks[number % len(blocks)]


class Faults:
    """The current mode, drawn for each request with `probability` from a seeded stream. `retry_after`: the header of
    error answers, in seconds or as an HTTP date; "" for none, and without it what the style sends by itself."""

    def __init__(self) -> None:
        self._mode: Mode = "ok"
        self._probability = 1.0
        self._random = random.Random(0)
        self.retry_after: str | None = None

    def switch(self, raw: object) -> None:
        """Take `{"mode": …, "probability": 0..1, "seed": …, "retry_after": …}`; raises ValueError and changes nothing
        when wrong."""
        if not isinstance(raw, dict) or raw.get("mode") not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}")
        probability, seed = raw.get("probability", 1.0), raw.get("seed", 0)
        if isinstance(probability, bool) or not isinstance(probability, int | float) or not 0 <= probability <= 1:
            raise ValueError("probability must lie between 0 and 1")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ValueError("seed must be a whole number")
        retry_after = raw.get("retry_after")
        if isinstance(retry_after, bool) or not isinstance(retry_after, str | int | float | None):
            raise ValueError("retry_after must be a number of seconds or a text")
        if unknown := sorted(set(raw) - {"mode", "probability", "seed", "retry_after"}):
            raise ValueError(f"unknown fields: {', '.join(unknown)}")
        self._mode = raw["mode"]
        self._probability = float(probability)
        self._random = random.Random(seed)
        self.retry_after = None if retry_after is None else str(retry_after)

    def draw(self) -> Mode:
        """The mode that the next request meets."""
        if self._mode == "ok" or self._random.random() >= self._probability:
            return "ok"
        return self._mode

    def as_json(self) -> dict[str, object]:
        return {"mode": self._mode, "probability": self._probability, "retry_after": self.retry_after}
