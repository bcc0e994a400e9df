"""What a provider takes for tokens. Above a prompt length a provider may have other prices for the whole request."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple


class Rates(NamedTuple):
    """USD per million tokens: `cached_input` for prompt tokens that the provider had in its cache, `cache_write` for
    those that it wrote there."""

    input: Decimal
    cached_input: Decimal
    cache_write: Decimal
    output: Decimal


@dataclass(frozen=True, slots=True)
class Tier:
    """The rates of requests whose prompt has more than `above_input_tokens` tokens."""

    above_input_tokens: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class Price:
    """A model's price at a provider. `cache_write` None: as `input`. `tiers` ascend."""

    input: Decimal
    cached_input: Decimal
    output: Decimal
    cache_write: Decimal | None = None
    tiers: tuple[Tier, ...] = ()

    @property
    def base(self) -> Rates:
        """The rates below every tier."""
        return Rates(
            self.input, self.cached_input, self.input if self.cache_write is None else self.cache_write, self.output
        )

    def of_tier(self, above_input_tokens: int) -> Rates:
        """The rates of a request that was counted in the tier of that threshold (0: below every tier). Where the price
        has no such tier any more, nobody knows how long the prompt was: the dearest."""
        if above_input_tokens == 0:
            return self.base
        found = (tier.rates for tier in self.tiers if tier.above_input_tokens == above_input_tokens)
        return next(found, None) or self.dearest()

    def of_prompt(self, tokens: float) -> Rates:
        """The rates of a request with a prompt of that length."""
        reached = [tier.rates for tier in self.tiers if tier.above_input_tokens < tokens]
        return reached[-1] if reached else self.base

    def dearest(self, longest_prompt: int | None = None) -> Rates:
        """The dearest of every rate that a prompt of at most that many tokens (default: any) can be charged at."""
        reached = (
            tier.rates for tier in self.tiers if longest_prompt is None or tier.above_input_tokens < longest_prompt
        )
        return Rates(*(max(column) for column in zip(self.base, *reached, strict=True)))


def cost_usd(
    rates: Rates, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0, cache_write_tokens: int = 0
) -> Decimal:
    """Exact USD. `cached_tokens` and `cache_write_tokens` are parts of `prompt_tokens`, which they cannot exceed."""
    cached = min(cached_tokens, prompt_tokens)
    written = min(cache_write_tokens, prompt_tokens - cached)
    per_million = (
        (prompt_tokens - cached - written) * rates.input
        + cached * rates.cached_input
        + written * rates.cache_write
        + completion_tokens * rates.output
    )
    return per_million.scaleb(-6)
