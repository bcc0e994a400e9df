"""The provider's configuration file.

    {"style": "zai", "basePath": "/api/paas/v4", "keys": ["sk-..."],
     "models": {"glm-5": {"input": "1", "cachedInput": "0.2", "output": "3.2",
                          "tiers": [{"aboveInputTokens": 32000, "input": "2", "output": "6.4"}]}},
     "maxConcurrency": 64, "firstTokenSeconds": 0.4, "tokensPerSecond": 80, "seed": 1}

Prices are dollars per million tokens, as strings. Everything but `keys` and `models` has a default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from e2e.simulators.provider.errors import STYLES

TOKENS_PER_PRICE = Decimal(1_000_000)


@dataclass(frozen=True)
class ModelPrice:
    """Dollars per million tokens."""

    input_usd: Decimal
    cached_input_usd: Decimal
    output_usd: Decimal
    tiers: tuple[tuple[int, Decimal, Decimal], ...] = ()
    """(prompt length above which it counts, input, output), ascending; a request costs what its highest tier says."""

    def cost_usd(self, prompt_tokens: int, completion_tokens: int) -> Decimal:
        input_usd, output_usd = self.input_usd, self.output_usd
        for above, *of_tier in self.tiers:
            if prompt_tokens > above:
                input_usd, output_usd = of_tier
        return (prompt_tokens * input_usd + completion_tokens * output_usd) / TOKENS_PER_PRICE


@dataclass(frozen=True)
class ProviderConfig:
    style: str
    base_path: str
    keys: tuple[str, ...]
    models: Mapping[str, ModelPrice]
    max_concurrency: int
    first_token_seconds: float
    tokens_per_second: float
    seed: int

    @classmethod
    def load(cls, path: Path) -> ProviderConfig:
        """Raises ValueError that names the field when the file is wrong."""
        return cls.read(json.loads(path.read_text()))

    @classmethod
    def read(cls, raw: Mapping[str, object]) -> ProviderConfig:
        known = {
            "style", "basePath", "keys", "models", "maxConcurrency", "firstTokenSeconds", "tokensPerSecond", "seed",
        }  # fmt: skip
        if unknown := sorted(set(raw) - known):
            raise ValueError(f"unknown fields in the provider configuration: {', '.join(unknown)}")
        style = str(raw.get("style", "openai"))
        if style not in STYLES:
            raise ValueError(f"style {style!r} is none of {', '.join(sorted(STYLES))}")
        keys, models = raw.get("keys"), raw.get("models")
        if not isinstance(keys, list) or not keys or not all(isinstance(key, str) and key for key in keys):
            raise ValueError("keys must be a list of at least one key")
        if not isinstance(models, dict) or not models:
            raise ValueError("models must map at least one model to its prices")
        rate = _number(raw, "tokensPerSecond", 80.0)
        if rate <= 0:
            raise ValueError("tokensPerSecond must be above 0")
        return cls(
            style=style,
            base_path=str(raw.get("basePath", "/v1")).rstrip("/"),
            keys=tuple(keys),
            models={str(name): _price(str(name), prices) for name, prices in models.items()},
            max_concurrency=int(_number(raw, "maxConcurrency", 1000)),
            first_token_seconds=_number(raw, "firstTokenSeconds", 0.4),
            tokens_per_second=rate,
            seed=int(_number(raw, "seed", 0)),
        )


def _price(name: str, raw: object) -> ModelPrice:
    if not isinstance(raw, dict) or "input" not in raw or "output" not in raw:
        raise ValueError(f"models.{name} needs input and output (dollars per million tokens)")
    return ModelPrice(
        input_usd=Decimal(str(raw["input"])),
        cached_input_usd=Decimal(str(raw.get("cachedInput", raw["input"]))),
        output_usd=Decimal(str(raw["output"])),
        tiers=tuple(sorted(_tier(name, tier) for tier in raw.get("tiers", []))),
    )


def _tier(name: str, raw: object) -> tuple[int, Decimal, Decimal]:
    if not isinstance(raw, dict) or not {"aboveInputTokens", "input", "output"} <= raw.keys():
        raise ValueError(f"models.{name}.tiers: each needs aboveInputTokens, input and output")
    return int(raw["aboveInputTokens"]), Decimal(str(raw["input"])), Decimal(str(raw["output"]))


def _number(raw: Mapping[str, object], field: str, default: float) -> float:
    value = raw.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{field} must be a number, got {value!r}")
    return float(value)
