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
    Pair,
    Process,
    ProviderModel,
    Watermark,
    add,
)
from .estimate import Doubt, Estimate, estimate, margin_usd, rates_of
from .exposure import LEASES_SECONDS
from .learned import Learned
from .price import Price, Rates, cost_usd

Outcome = Literal["metered", "doubtful", "unmetered", "malformed", "broken", "left", "unanswered", "refused"]
UNTOLD: Final = ("unmetered", "malformed", "broken", "left", "unanswered")
"""Outcomes without usage that counts."""


@dataclass(frozen=True, slots=True)
class EgressSample:
    """Cumulative counters of one gateway process for one pair and outcome, since the process started.

    metered: the provider's usage was seen, and is possible. doubtful: it was seen, but the answer was cut after it, or
    it says more than the ExternalProvider's contextLength or maxOutputTokens allow, or more cached tokens than prompt.
    Of 2xx answers without usage that could be counted, unmetered came to their end without one, malformed with one that
    cannot be, broken were cut by the provider, and left by the client or the gateway.
    unanswered: the provider took the request and broke off before its answer, or was too late with it.
    refused: an error, or it could not be reached, or it broke off at once; not billed.

    `prompt_tokens` include `cached_tokens` and `cache_write_tokens`. Only metered and doubtful have tokens, and `tier`:
    the highest `above_input_tokens` of the price's tiers that the prompt exceeds, 0 for none. `answer`: "stream" or
    "json", what was asked for where none came, "" where the gateway does not tell. `most_bytes`: no request of an
    untold outcome had more, 0 where it is not known.
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
    answer: str = ""
    most_bytes: int = 0


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
    margins = _Margins(dict(marks), prices_used, learned)
    # What this reading teaches serves its own estimates, in any order of samples.
    for counter, counts in sorted(_sums(samples).items(), key=lambda item: (item[0].outcome != "metered", item[0])):
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
            if counter.outcome == "metered":
                amount = _told(price, delta, counter.tier)
                learned[what] = _learn(learned.get(what, Learned()), counter.answer, delta)
            elif counter.outcome == "doubtful":
                amount = _doubted(price, learned.get(what), delta, counter)
            else:
                amount = margins.estimated(delta, counter)
            entries.append(Entry(seconds, _key(counter), amount))
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
        counter = Counter(s.namespace, s.deployment, s.provider, s.model, s.outcome, s.tier, s.answer, s.most_bytes)
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


def _told(price: Price, delta: Counts, tier: int) -> Amount:
    """By the provider's own usage."""
    tokens = delta.prompt_tokens, delta.completion_tokens
    usd = cost_usd(price.of_tier(tier), *tokens, delta.cached_tokens, delta.cache_write_tokens)
    return Amount(usd, sum(tokens))


def _doubted(price: Price, learned: Learned | None, delta: Counts, of: Counter) -> Amount:
    """By usage that says too much, or that more may have followed: no discount in it is believed."""
    # Cached tokens beyond the prompt: this provider counts them apart from it.
    prompt_tokens = max(delta.prompt_tokens, delta.cached_tokens + delta.cache_write_tokens)
    completion_tokens = max(delta.completion_tokens, math.ceil(estimate(learned, of, delta).completion))
    return _estimated(price.of_tier(of.tier), prompt_tokens, completion_tokens)


def _estimated(rates: Rates, prompt_tokens: int, completion_tokens: int, margin: Decimal = ZERO) -> Amount:
    dearer = rates._replace(input=max(rates.input, rates.cache_write))
    usd = cost_usd(dearer, prompt_tokens, completion_tokens) + margin
    return Amount(usd, prompt_tokens + completion_tokens, usd)


class _Margins:
    """What a process charges for requests whose usage nobody told: what they come to, and a margin for all of them that
    it has counted for a provider's model."""

    def __init__(
        self,
        marks: Mapping[Counter, Counts],
        prices: Mapping[ProviderModel, Price],
        learned: Mapping[ProviderModel, Learned],
    ) -> None:
        self._marks, self._prices, self._learned = marks, prices, learned
        self._doubts: dict[ProviderModel, Doubt] = {}

    def estimated(self, delta: Counts, of: Counter) -> Amount:
        what = ProviderModel(of.provider, of.model)
        found, rates = self._estimate(delta, of)
        before = self._doubts[what] if what in self._doubts else self._counted(what)
        more = found.doubt(rates)
        self._doubts[what] = before + more
        return _estimated(rates, math.ceil(found.prompt), math.ceil(found.completion), margin_usd(before, more))

    def _counted(self, what: ProviderModel) -> Doubt:
        """Of all before this reading."""
        doubt = Doubt()
        for counter, counts in self._marks.items():
            if (counter.provider, counter.model) == what and counter.outcome in UNTOLD:
                found, rates = self._estimate(counts, counter)
                doubt += found.doubt(rates)
        return doubt

    def _estimate(self, counts: Counts, of: Counter) -> tuple[Estimate, Rates]:
        what = ProviderModel(of.provider, of.model)
        learned = self._learned.get(what)
        return estimate(learned, of, counts), rates_of(self._prices[what], learned, of, counts)


def _learn(learned: Learned, answer: str, delta: Counts) -> Learned:
    return learned.after(
        answer,
        requests=delta.requests,
        prompt_tokens=delta.prompt_tokens,
        completion_tokens=delta.completion_tokens,
        request_bytes=delta.request_bytes,
        response_bytes=delta.response_bytes,
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
