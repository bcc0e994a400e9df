"""What requests come to whose usage nobody told: by their bytes, as others' bytes turned out, and how sure that is.

A ledger that errs must err upwards, or the budget leaks. So what is charged is what they come to and a margin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NamedTuple

from .book import Counter, Counts
from .learned import BYTES_SPREAD, LENGTH_SPREAD, Fit, Learned, Line
from .price import Price, Rates

PRIOR_PROMPT_TOKENS_PER_BYTE: Final = 0.25
"""English text and code in JSON: about four bytes a token."""
PRIOR_COMPLETION_TOKENS_PER_BYTE: Final[Mapping[str, float]] = {"json": 0.2, "stream": 0.05, "": 0.05}
"""A JSON answer has about five bytes a token; an SSE event 200 to 250, but some have many tokens in one."""
PRIOR_COMPLETION_TOKENS: Final = 256.0
USAGE_BYTES: Final[Mapping[str, int]] = {"json": 100, "stream": 250}
"""What a usage block and its event take. Answers that were learned from have one, those that are estimated do not."""
STREAM_SPREAD: Final = 0.2
"""Standard deviation, at least, of a stream's tokens to what its bytes come to: a busy server puts more of them into an
event."""
STREAM_DRIFT: Final = 0.03
"""And of all streams alike, since they are busy at the same time."""
BYTES_TELL: Final = frozenset(
    {(outcome, answer) for outcome in ("unmetered", "malformed") for answer in ("json", "stream")}
    | {("broken", "stream")}
)
"""Outcomes and kinds of answers whose bytes tell what the provider computed."""
SURE: Final = 3.0
"""Standard deviations by which what is estimated lies above what it comes to. A sum of many is then below the bill once
in a thousand; one answer alone, whose length nothing tells, passes four times the mean once in fifty-five."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """How far off a sum of estimates may be: squared dollars of what each request differs by, and dollars of what they
    have in common, since the lines that they are read from are only as good as what was seen."""

    apart: float = 0.0
    common: float = 0.0

    def __add__(self, other: Doubt) -> Doubt:
        return Doubt(self.apart + other.apart, self.common + other.common)

    @property
    def deviation(self) -> float:
        """Dollars."""
        return math.sqrt(self.apart + self.common**2)


class Estimate(NamedTuple):
    """Tokens that some requests have together, and the lines that they were read from."""

    requests: int
    prompt: float
    completion: float
    prompt_fit: Fit
    completion_fit: Fit

    def doubt(self, rates: Rates) -> Doubt:
        """At these rates."""
        apart = common = 0.0
        for rate, fit in (
            (max(rates.input, rates.cache_write), self.prompt_fit),
            (rates.output, self.completion_fit),
        ):
            squared_usd = (float(rate) / 1e6) ** 2
            apart, common = apart + squared_usd * fit.variance, common + squared_usd * fit.common
        return Doubt(self.requests * apart, self.requests * math.sqrt(common))


def estimate(learned: Learned | None, of: Counter, counts: Counts) -> Estimate:
    """What they come to, without a margin. Bytes tell the completion only of what came through: of a stream up to where
    it was cut, of a JSON answer all or nothing. What the provider may have computed for somebody who had left is not
    below the mean."""
    known, n = learned or Learned(), counts.requests
    prompt_fit = _prompt(known, of.answer) or _text(PRIOR_PROMPT_TOKENS_PER_BYTE, counts.request_bytes, n)
    by_bytes, by_count = _by_bytes(known, of, counts), _by_count(known, of.answer)
    completion, tokens = by_bytes.tokens(n, counts.response_bytes), by_count.tokens(n, 0)
    line = known.answers.get(of.answer, Line())
    if of.answer == "json" and line.n > 0:
        # Answers of one length tell little of longer ones, but text of JSON has a token in at most five bytes.
        beyond = max(0.0, counts.response_bytes - n * line.x / line.n)
        completion += beyond * max(0.0, PRIOR_COMPLETION_TOKENS_PER_BYTE["json"] - by_bytes.slope)
    told = line.n > 0 and counts.response_bytes > 0
    if not (told and (of.outcome, of.answer) in BYTES_TELL) and (of.outcome == "unanswered" or completion <= tokens):
        completion, by_bytes = tokens, by_count
    return Estimate(n, prompt_fit.tokens(n, counts.request_bytes), completion, prompt_fit, by_bytes)


def longest_prompt(learned: Learned | None, answer: str, request_bytes: int) -> int:
    """Tokens that no prompt of so many bytes has more of: as far as was seen, else one a byte."""
    fit = _prompt(learned, answer) if learned else None
    if fit is None:
        return request_bytes
    return min(request_bytes, math.ceil(fit.tokens(1, request_bytes) + SURE * math.sqrt(fit.variance)))


def rates_of(price: Price, learned: Learned | None, of: Counter, counts: Counts) -> Rates:
    """The dearest that one of these prompts can be charged at: where the gateway did not tell how many bytes the
    largest of them had, it may have had them all."""
    if not price.tiers:
        return price.base
    return price.dearest(longest_prompt(learned, of.answer, of.most_bytes or counts.request_bytes))


def margin_usd(before: Doubt, more: Doubt) -> Decimal:
    """What more doubt adds to the margin of a sum.

    One request may be far from the mean; the sum of n is off by the root of n. So the margin is that of all that is
    estimated, less what was charged of it before: however often one looks, it is the same while the lines are.
    """
    usd = SURE * ((before + more).deviation - before.deviation)
    return Decimal(math.ceil(usd * 1e9)).scaleb(-9)


def _prompt(known: Learned, answer: str) -> Fit | None:
    own = known.prompts.get(answer, Line()).fit() if answer else None
    return own or known.prompt.fit()


def _by_bytes(known: Learned, of: Counter, counts: Counts) -> Fit:
    per_byte = PRIOR_COMPLETION_TOKENS_PER_BYTE.get(of.answer, PRIOR_COMPLETION_TOKENS_PER_BYTE[""])
    line = known.answers.get(of.answer, Line())
    fit = line.fit() or _text(per_byte, counts.response_bytes, counts.requests)
    if of.answer == "stream" and line.n > 0:
        mean = line.y / line.n
        fit = fit._replace(
            variance=max(fit.variance, (STREAM_SPREAD * mean) ** 2), common=fit.common + (STREAM_DRIFT * mean) ** 2
        )
    if of.outcome == "malformed":
        return fit
    if of.outcome == "unmetered":
        return fit._replace(intercept=fit.intercept + fit.slope * USAGE_BYTES.get(of.answer, 0))
    # What a whole answer has beside its tokens stands mostly at its end: one that was cut has little of it.
    return fit._replace(intercept=max(0.0, fit.intercept))


def _by_count(known: Learned, answer: str) -> Fit:
    own = known.answers.get(answer, Line()).mean() if answer else None
    prior = Fit(PRIOR_COMPLETION_TOKENS, 0.0, (LENGTH_SPREAD * PRIOR_COMPLETION_TOKENS) ** 2)
    return own or known.completion.mean() or prior


def _text(per_byte: float, size: int, requests: int) -> Fit:
    """Before anything was seen."""
    return Fit(0.0, per_byte, (BYTES_SPREAD * per_byte * size / max(1, requests)) ** 2)
