"""External dollars: the gateways' cumulative counters become charges."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import ROUND_UP, Decimal
from typing import Final, Literal

from .book import (
    NANODOLLAR,
    ZERO,
    Amount,
    Book,
    Charged,
    Counter,
    Counts,
    Entry,
    Key,
    Learned,
    Pair,
    Process,
    ProviderModel,
    Watermark,
    add,
)
from .exposure import LEASES_SECONDS
from .price import Price, cost_usd

Outcome = Literal["metered", "doubtful", "unmetered", "unanswered", "refused"]
ESTIMATED: Final = ("doubtful", "unmetered", "unanswered")

PRIOR_PROMPT_TOKENS_PER_BYTE: Final = 0.25
"""English text and code in JSON: about four bytes a token."""
PRIOR_COMPLETION_TOKENS_PER_BYTE: Final = 0.05
"""Between a JSON answer (about 5 bytes a token) and an SSE stream with one token per event (200 to 250 bytes)."""
PRIOR_COMPLETION_TOKENS_PER_REQUEST: Final = 256.0
BYTES_SPREAD: Final = 0.25
"""Standard deviation of a request's tokens to what its bytes come to: code and prose, short and long differ so much."""
LENGTH_SPREAD: Final = 1.0
"""Of an answer's tokens to their mean: as of lengths that are exponential, which is more than most traffic has."""
SURE: Final = 3.0
"""Standard deviations by which what is estimated lies above what it comes to. A sum of many is then below the bill once
in a thousand; one answer alone, whose length nothing tells, passes four times the mean once in fifty-five."""
HALF_LIFE_REQUESTS: Final = 500.0
"""After so many metered requests an older one weighs half in what has been learned."""


@dataclass(frozen=True, slots=True)
class EgressSample:
    """Cumulative counters of one gateway process for one pair and outcome, since the process started.

    metered: the provider's usage was seen, and is possible. doubtful: it was seen, but the answer was cut after it, or
    it says more than the ExternalProvider's contextLength or maxOutputTokens allow, or more cached tokens than prompt.
    unmetered: a 2xx answer without usage that could be counted (aborted, cut, malformed, negative).
    unanswered: the provider took the request and broke off before its answer, or was too late with it.
    refused: an error, or it could not be reached; not billed.

    `prompt_tokens` include `cached_tokens` and `cache_write_tokens`. Only metered and doubtful have tokens, and `tier`:
    the highest `above_input_tokens` of the price's tiers that the prompt exceeds, 0 for none.
    """

    namespace: str
    deployment: str
    provider: str
    model: str
    outcome: Outcome
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    request_bytes: int
    response_bytes: int
    cache_write_tokens: int = 0
    tier: int = 0


def charge_reading(
    book: Book,
    pod: str,
    process: str,
    samples: Iterable[EgressSample],
    prices: Mapping[ProviderModel, Price],
    at: datetime,
) -> Charged:
    """Charge what the process counted since its watermark, at the prices valid now.

    A process that the book does not know starts from zero. A counter below its watermark charges nothing and
    leaves the watermark (a counter of one process cannot fall: somebody else answers under its name). A sample
    whose price was never known leaves its watermark too, so it is charged as soon as there is a price.
    """
    owner = Process(pod, process)
    known = book.gateways.get(owner)
    marks = dict(known.counts) if known else {}
    learned = dict(book.learned)
    prices_used = {**book.prices, **prices}
    entries: list[Entry] = []
    problems: list[str] = []
    seconds = int(at.timestamp())
    # What this reading teaches serves its own estimates, in any order of samples.
    for counter, counts in sorted(_sums(samples).items(), key=lambda item: (item[0].outcome in ESTIMATED, item[0])):
        before = marks.get(counter, Counts())
        delta = Counts(*(now - then for now, then in zip(counts, before, strict=True)))
        if min(delta) < 0:
            problems.append(_fallen(owner, counter, before, counts))
            continue
        if not any(delta):
            continue
        if counter.outcome != "refused":
            what = ProviderModel(counter.provider, counter.model)
            price = prices_used.get(what)
            if price is None:
                problems.append(
                    f"{counter.deployment} in {counter.namespace} used {counter.model} of {counter.provider}, "
                    f"which has no price: declare it in the ExternalProvider; until then it is not charged"
                )
                continue
            entries.append(Entry(seconds, _key(counter), _amount(price, learned.get(what), before, delta, counter)))
            if counter.outcome not in ESTIMATED:
                learned[what] = _learn(learned.get(what, Learned()), delta)
        marks[counter] = counts
    gateways = {**book.gateways, owner: Watermark(at, marks)}
    return Charged(
        replace(add(book, entries, seconds), gateways=gateways, learned=learned, prices=prices_used), tuple(problems)
    )


def charge_vanished(
    book: Book,
    pod: str,
    process: str,
    in_flight_limit_usd: Mapping[Pair, Decimal],
    burn_limit_usd_per_hour: Mapping[Pair, Decimal],
    at: datetime,
) -> Charged:
    """Charge a gateway process that went without its last reading the most it can have spent since, as estimated.

    For each pair: what its circuit breaker let be in flight (cap of this pod times greatest cost) plus its burn limit
    over the time unread. The process is forgotten afterwards; one that the book does not know is a problem in words.
    """
    owner = Process(pod, process)
    if owner not in book.gateways:
        return Charged(book, (f"gateway process {process} of pod {pod} is not in the ledger: nothing to charge",))
    entries = [
        Entry(int(at.timestamp()), _key(pair), Amount(usd, 0, usd))
        for pair, usd in unread_usd(book, owner, in_flight_limit_usd, burn_limit_usd_per_hour, at).items()
    ]
    return Charged(retire(add(book, entries, int(at.timestamp())), pod, process))


def unread_usd(
    book: Book,
    owner: Process,
    in_flight_limit_usd: Mapping[Pair, Decimal],
    burn_limit_usd_per_hour: Mapping[Pair, Decimal],
    at: datetime,
) -> dict[Pair, Decimal]:
    """USD by pair that a process of the book can have spent at most since it was last read. While a gateway exists but
    does not answer, this belongs into `caps.Limit.unread_usd`; when it has vanished, it is charged."""
    unread_seconds = max(0, math.ceil((at - book.gateways[owner].read_at).total_seconds()))
    most = {
        pair: in_flight_limit_usd.get(pair, ZERO) + burn_limit_usd_per_hour.get(pair, ZERO) * unread_seconds / 3600
        for pair in sorted(in_flight_limit_usd.keys() | burn_limit_usd_per_hour.keys())
    }
    return {pair: usd.quantize(NANODOLLAR, ROUND_UP) for pair, usd in most.items() if usd}


def retire(book: Book, pod: str, process: str) -> Book:
    """Forget a process whose last reading was taken after its last request: nothing of it is left to charge."""
    gateways = {owner: mark for owner, mark in book.gateways.items() if owner != (pod, process)}
    caps = {owner: allowed for owner, allowed in book.caps.items() if owner != (pod, process)}
    leases = {owner: seconds for owner, seconds in book.leases.items() if owner != (pod, process)}
    return replace(book, gateways=gateways, caps=caps, leases=leases)


def lend(book: Book, owner: Process, seconds: int) -> Book:
    """The book that knows how long the process may go on spending without word from now on."""
    if book.leases.get(owner, LEASES_SECONDS[0]) == seconds:
        return book
    others = {other: lease for other, lease in book.leases.items() if other != owner}
    return replace(book, leases=others if seconds <= LEASES_SECONDS[0] else {**others, owner: seconds})


def allow(book: Book, owner: Process, caps: Mapping[Pair, int], *, read: bool) -> Book:
    """The book that knows what the process may have in flight from now on. `read`: its watermark is of now, so what it
    was allowed before is charged already. Kept in powers of two, so that caps that breathe are seldom news."""
    before = {} if read else book.caps.get(owner, {})
    kept = {
        pair: max(before.get(pair, 0), 1 << (cap - 1).bit_length() if cap > 0 else 0)
        for pair, cap in {**dict.fromkeys(before, 0), **caps}.items()
    }
    kept = {pair: cap for pair, cap in kept.items() if cap}
    if book.caps.get(owner) == kept:
        return book
    return replace(book, caps={**book.caps, owner: kept})


def vanished(book: Book, living: Iterable[Process]) -> tuple[Process, ...]:
    """The processes that the book has charged and that are no more: their pod is gone or runs another process."""
    return tuple(sorted(book.gateways.keys() - set(living)))


def _sums(samples: Iterable[EgressSample]) -> dict[Counter, Counts]:
    sums: dict[Counter, Counts] = {}
    for s in samples:
        counter = Counter(s.namespace, s.deployment, s.provider, s.model, s.outcome, s.tier)
        counts = Counts(
            s.requests,
            s.prompt_tokens,
            s.completion_tokens,
            s.cached_tokens,
            s.request_bytes,
            s.response_bytes,
            s.cache_write_tokens,
        )
        before = sums.get(counter, Counts())
        sums[counter] = Counts(*(a + b for a, b in zip(before, counts, strict=True)))
    return sums


def _amount(price: Price, learned: Learned | None, before: Counts, delta: Counts, of: Counter) -> Amount:
    prompt_tokens, completion_tokens = delta.prompt_tokens, delta.completion_tokens
    if of.outcome not in ESTIMATED:
        rates = price.of_tier(of.tier)
        usd = cost_usd(rates, prompt_tokens, completion_tokens, delta.cached_tokens, delta.cache_write_tokens)
        return Amount(usd, prompt_tokens + completion_tokens)
    if of.outcome == "doubtful":
        rates = price.of_tier(of.tier)
        # Cached tokens beyond the prompt: this provider counts them apart from it.
        prompt_tokens = max(prompt_tokens, delta.cached_tokens + delta.cache_write_tokens)
        completion_tokens = max(completion_tokens, estimated_tokens(learned, delta)[1])
    else:
        rates = price.dearest(delta.request_bytes)  # no prompt of theirs had more tokens than all of them bytes
        deviations = more_deviations(before.requests, delta.requests)
        prompt_tokens, completion_tokens = estimated_tokens(learned, delta, deviations)
    usd = cost_usd(rates._replace(input=max(rates.input, rates.cache_write)), prompt_tokens, completion_tokens)
    return Amount(usd, prompt_tokens + completion_tokens, usd)


def estimated_tokens(learned: Learned | None, delta: Counts, deviations: float = 0.0) -> tuple[int, int]:
    """Prompt and completion tokens of requests without usage: bytes times learned tokens per byte, rounded up, and so
    many standard deviations above.

    The output is never put below requests times the mean output of this model: a cut JSON answer has no bytes at all
    although the provider has computed (and bills) it, and JSON has far fewer bytes a token than a stream.
    A ledger that errs must err upwards, or the budget leaks.
    """
    in_per_byte, out_per_byte = PRIOR_PROMPT_TOKENS_PER_BYTE, PRIOR_COMPLETION_TOKENS_PER_BYTE
    out_per_request = PRIOR_COMPLETION_TOKENS_PER_REQUEST
    if learned and learned.requests > 0:
        out_per_request = learned.completion_tokens / learned.requests
        if learned.request_bytes > 0:
            in_per_byte = learned.prompt_tokens / learned.request_bytes
        if learned.response_bytes > 0:
            out_per_byte = learned.completion_tokens / learned.response_bytes
    by_bytes = 1 + deviations * BYTES_SPREAD / max(1, delta.requests)
    by_count = delta.requests + deviations * LENGTH_SPREAD
    completion = max(delta.response_bytes * out_per_byte * by_bytes, out_per_request * by_count)
    return math.ceil(delta.request_bytes * in_per_byte * by_bytes), math.ceil(completion)


def more_deviations(before: int, requests: int) -> float:
    """What `requests` more than `before` add to the margin that keeps their sum from being below the bill.

    One request may be far from the mean; the sum of n is off by the root of n. So the margin is that of all that a
    counter has counted, less what was charged of it before: however often one looks, it is the same.
    """
    return SURE * (math.sqrt(before + requests) - math.sqrt(before))


def _learn(learned: Learned, delta: Counts) -> Learned:
    fade = 0.5 ** (delta.requests / HALF_LIFE_REQUESTS)
    return Learned(
        learned.requests * fade + delta.requests,
        learned.prompt_tokens * fade + delta.prompt_tokens,
        learned.completion_tokens * fade + delta.completion_tokens,
        learned.request_bytes * fade + delta.request_bytes,
        learned.response_bytes * fade + delta.response_bytes,
    )


def _key(of: Counter | Pair) -> Key:
    return Key(of.namespace, of.deployment, "external", of.provider, of.model)


def _fallen(owner: Process, counter: Counter, before: Counts, now: Counts) -> str:
    fallen = ", ".join(
        f"{name} {then} → {value}"
        for name, then, value in zip(Counts._fields, before, now, strict=True)
        if value < then
    )
    return (
        f"gateway pod {owner.pod}, process {owner.process}: counters of {counter.namespace}/{counter.deployment} at "
        f"{counter.provider} ({counter.model}, {counter.outcome}) fell ({fallen}); this reading is not charged"
    )
