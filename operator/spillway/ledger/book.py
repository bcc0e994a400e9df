"""The book: what was spent, when, by whom, and up to where every meter has been read.

A `Book` is a value: nothing in it changes, each function returns a new one that shares what it did not touch.
Spend and watermarks live in the same value because they must be stored in the same write: then a reader that
dies between two writes re-reads the counters from the stored watermark and arrives at the same sum.

Time is kept in quarter-hours, because midnight lies on a quarter-hour in every time zone in use (India is at
+5:30, Nepal at +5:45), so a day or a month in any zone is an exact sum of buckets. `fold` makes old buckets
coarser where no period in any zone can begin: see `coarse_span`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, Literal, NamedTuple

from .adjustment import Settled
from .learned import Learned
from .price import Price

Source = Literal["external", "gpu"]

ZERO: Final = Decimal(0)
NANODOLLAR: Final = Decimal("1e-9")
"""To what is rounded where a division leaves no exact amount (GPU seconds); token charges are exact."""
QUARTER_SECONDS: Final = 900
QUARTERS_PER_DAY: Final = 96
BURN_MINUTES: Final = 10
"""How far back `Book.minutes` reaches."""
HOUR_MINUTES: Final = 60
"""How far back `Book.hour` reaches."""
RECENT_DAYS: Final = 3
"""Quarter-hours are kept at least this long: today in any time zone began less than two days ago."""
BOUNDARY_DAYS: Final = 35
"""The first and the last UTC day of a month stay in quarter-hours this long: the current month began in one of them."""
DAYS_KEPT: Final = 40
MONTHS_KEPT_DAYS: Final = 400
SETTLED_KEPT: Final = timedelta(days=MONTHS_KEPT_DAYS + 62)
"""Longer than any day that may still be adjusted: what was settled is never settled again."""
IDLE: Final = "(idle)"
"""Namespace and deployment of reserved GPUs that nobody uses: no name that an object may have."""


class Key(NamedTuple):
    """Who spent: `supplier` is the ExternalProvider (source external) or the GPUPool (source gpu). `adjustment` is the
    id of a correction, which is an amount of its own beside what it corrects: what was charged is never rewritten."""

    namespace: str
    deployment: str
    source: Source
    supplier: str
    model: str
    adjustment: str = ""

    @property
    def charged(self) -> Key:
        """What a correction corrects; itself, where it is none."""
        return self._replace(adjustment="")


class Span(NamedTuple):
    """A stretch of time: `start` in quarter-hours since 1970 UTC, and how many of them."""

    start: int
    quarters: int

    @property
    def begins(self) -> datetime:
        return datetime.fromtimestamp(self.start * QUARTER_SECONDS, UTC)


class Pair(NamedTuple):
    """A provider's model as one deployment uses it: the unit that has its own circuit breaker at the gateway."""

    namespace: str
    deployment: str
    provider: str
    model: str


class ProviderModel(NamedTuple):
    provider: str
    model: str


class Process(NamedTuple):
    """One life of a gateway: a container that restarts in its pod is another process with counters from zero."""

    pod: str
    process: str


class Counter(NamedTuple):
    """Which counters of a gateway process, as in `external.EgressSample`."""

    namespace: str
    deployment: str
    provider: str
    model: str
    outcome: str
    tier: int = 0
    answer: str = ""
    most_bytes: int = 0


class Counts(NamedTuple):
    """Cumulative counters of one process, or the difference of two readings."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    cache_write_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Amount:
    """Dollars, and what was had for them: tokens from a provider, seconds of a GPU from a pool. `estimated_usd` is the
    part of `usd` that no meter has confirmed."""

    usd: Decimal = ZERO
    tokens: int = 0
    estimated_usd: Decimal = ZERO
    gpu_seconds: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.usd + other.usd,
            self.tokens + other.tokens,
            self.estimated_usd + other.estimated_usd,
            self.gpu_seconds + other.gpu_seconds,
        )

    def __sub__(self, other: Amount) -> Amount:
        return Amount(
            self.usd - other.usd,
            self.tokens - other.tokens,
            self.estimated_usd - other.estimated_usd,
            self.gpu_seconds - other.gpu_seconds,
        )


@dataclass(frozen=True, slots=True)
class Watermark:
    """Up to where a gateway process has been charged, and when it was last read (UTC)."""

    read_at: datetime
    counts: Mapping[Counter, Counts]


@dataclass(frozen=True, slots=True)
class PodMark:
    """Up to where a pod's GPUs have been charged. Times are whole seconds since 1970 UTC.

    `segment` is where the present price began: cost is computed from there and charged by difference, so that
    how often one looks never changes the sum.
    """

    key: Key
    gpus: int
    usd_per_gpu_hour: Decimal
    minimum_seconds: int
    scheduled: int
    segment: int
    until: int
    closed: bool = False


@dataclass(frozen=True, slots=True)
class IdleMark:
    """Up to where a pool's reserved GPUs have been charged as idle: `gpus` are paid and not held by strangers.

    `gpu_seconds` were idle at this price: cost is computed from their sum and charged by difference, as of a pod.
    """

    gpus: int
    usd_per_gpu_hour: Decimal
    until: int
    gpu_seconds: int = 0


@dataclass(frozen=True)
class Book:
    """The whole state of the ledger. `minutes` holds only the last `BURN_MINUTES` and only feeds the burn rate."""

    spans: Mapping[Span, Mapping[Key, Amount]] = field(default_factory=dict)
    minutes: Mapping[int, Mapping[Key, Decimal]] = field(default_factory=dict)
    hour: Mapping[int, Mapping[str, Decimal]] = field(default_factory=dict)
    """External USD as charged, by minute since 1970 and namespace, of the last `HOUR_MINUTES`: for limits of any 60
    minutes. What a correction takes back frees none of it."""
    gateways: Mapping[Process, Watermark] = field(default_factory=dict)
    caps: Mapping[Process, Mapping[Pair, int]] = field(default_factory=dict)
    """Requests in flight that each gateway process has been allowed at most since its watermark, or a little more:
    what a process is charged by if it vanishes, also by a leader who has never known its limits."""
    leases: Mapping[Process, int] = field(default_factory=dict)
    """Seconds that each gateway process may go on spending without word, where that is more than the shortest lease:
    what a leader counts who has not been told yet what the process has."""
    pods: Mapping[str, PodMark] = field(default_factory=dict)
    learned: Mapping[ProviderModel, Learned] = field(default_factory=dict)
    prices: Mapping[ProviderModel, Price] = field(default_factory=dict)
    adjustments: Mapping[str, Settled] = field(default_factory=dict)
    """What came of each request to adjust, by its id: the history. That one was applied is known by its amount, too."""
    idle: Mapping[str, IdleMark] = field(default_factory=dict)
    """By pool with reserved GPUs."""


@dataclass(frozen=True)
class Charged:
    """A charge's result. `problems` are sentences for a person; whatever they name has not been charged."""

    book: Book
    problems: tuple[str, ...] = ()


class Entry(NamedTuple):
    """One amount to add to the book, at a time in seconds since 1970 UTC."""

    seconds: int
    key: Key
    amount: Amount


def add(book: Book, entries: Iterable[Entry], now_seconds: int) -> Book:
    """The book with the entries added to their quarter-hours (and to the minutes that feed the burn rate).

    An entry may lie in the past (an operator that was away) or ahead (a minimum billing).
    """
    spans: dict[Span, dict[Key, Amount]] = {}
    minutes: dict[int, dict[Key, Decimal]] = {}
    hour: dict[int, dict[str, Decimal]] = {}
    for seconds, key, amount in entries:
        span = Span(seconds // QUARTER_SECONDS, 1)
        bucket = spans.setdefault(span, dict(book.spans.get(span, {})))
        bucket[key] = bucket[key] + amount if key in bucket else amount
        minute = minutes.setdefault(seconds // 60, dict(book.minutes.get(seconds // 60, {})))
        minute[key] = minute.get(key, ZERO) + amount.usd
        if key.source == "external" and not key.adjustment:
            outside = hour.setdefault(seconds // 60, dict(book.hour.get(seconds // 60, {})))
            outside[key.namespace] = outside.get(key.namespace, ZERO) + amount.usd
    if not spans:
        return book
    newest = now_seconds // 60
    merged = {**book.minutes, **minutes}
    kept = {minute: by_key for minute, by_key in merged.items() if newest - BURN_MINUTES <= minute <= newest}
    lately = {minute: spent for minute, spent in {**book.hour, **hour}.items() if minute >= newest - HOUR_MINUTES}
    return replace(book, spans={**book.spans, **spans}, minutes=kept, hour=lately)


def hour_of(spans: Mapping[Span, Mapping[Key, Amount]]) -> dict[int, dict[str, Decimal]]:
    """`Book.hour` for a ledger that has none: what the last hour's quarters have is taken to be spent in their last
    minute, and so counted for longer than it must be."""
    newest = max((span.start for span in spans if span.quarters == 1), default=0)
    found: dict[int, dict[str, Decimal]] = {}
    for span, bucket in spans.items():
        if span.quarters != 1 or span.start < newest - HOUR_MINUTES * 60 // QUARTER_SECONDS:
            continue
        spent = found.setdefault((span.start + 1) * QUARTER_SECONDS // 60 - 1, {})
        for key, amount in bucket.items():
            if key.source == "external" and not key.adjustment:
                spent[key.namespace] = spent.get(key.namespace, ZERO) + amount.usd
    return {minute: spent for minute, spent in found.items() if spent}


def within(span: Span, start: datetime | None, end: datetime | None) -> bool:
    """Whether the span begins in [start, end)."""
    return (start is None or span.begins >= start) and (end is None or span.begins < end)


def total(
    book: Book,
    start: datetime | None = None,
    end: datetime | None = None,
    select: Callable[[Key], bool] = lambda key: True,
) -> dict[Key, Amount]:
    """Sums by key over the spans that begin in [start, end); exact for the current day and month of any zone."""
    sums: dict[Key, Amount] = {}
    for span, bucket in book.spans.items():
        if not within(span, start, end):
            continue
        for key, amount in bucket.items():
            if select(key):
                sums[key] = sums[key] + amount if key in sums else amount
    return sums


def burn_usd_per_hour(
    minutes: Mapping[int, Mapping[Key, Decimal]], now: datetime, select: Callable[[Key], bool]
) -> Decimal:
    """Dollars an hour over the last `BURN_MINUTES` of `Book.minutes`, or since spending began if that is less (at least
    a minute)."""
    now_seconds = int(now.timestamp())
    first = now_seconds // 60 - BURN_MINUTES
    by_minute = {
        minute: sum((usd for key, usd in by_key.items() if select(key)), ZERO)
        for minute, by_key in minutes.items()
        if first < minute <= now_seconds // 60
    }
    spending = [minute for minute, usd in by_minute.items() if usd]
    if not spending:
        return ZERO
    elapsed = max(60, now_seconds - min(spending) * 60)
    return sum(by_minute.values(), ZERO) * 3600 / elapsed


def coarse_span(span: Span, now: datetime, quarters: int = 1) -> Span:
    """Where a span belongs at `now`.

    Day and month of a zone between UTC-12 and UTC+14 begin within 14 hours of midnight UTC. So a whole UTC day
    that is neither the first nor the last of a month holds no beginning of a month, and once it is older than
    `RECENT_DAYS` no beginning of a current day: it folds into one bucket. After `DAYS_KEPT` days fold into months.

    `quarters` (1 or 4) is the finest bucket kept for what is older than a day; 4 saves space, at the price that
    zones with an odd half hour are exact only to the hour.
    """
    age = now - span.begins
    if age > timedelta(days=DAYS_KEPT) and span.quarters <= QUARTERS_PER_DAY:
        month = span.begins.replace(day=1, hour=0, minute=0, second=0)
        following = (month + timedelta(days=32)).replace(day=1)
        return Span(int(month.timestamp()) // QUARTER_SECONDS, (following - month).days * QUARTERS_PER_DAY)
    if span.quarters >= QUARTERS_PER_DAY or age <= timedelta(hours=26):
        return span
    day = span.start // QUARTERS_PER_DAY * QUARTERS_PER_DAY
    if age <= timedelta(days=RECENT_DAYS) or (_month_boundary(day) and age <= timedelta(days=BOUNDARY_DAYS)):
        if span.quarters >= quarters:
            return span
        return coarse_span(Span(span.start // quarters * quarters, quarters), now, quarters)
    # A coarser span begins earlier, so it may already be old enough for the next step: folding twice changes nothing.
    return coarse_span(Span(day, QUARTERS_PER_DAY), now, quarters)


def fold(book: Book, now: datetime, quarters: int = 1) -> Book:
    """The book with old buckets made coarser and those older than 13 months dropped, and what was settled before.
    Totals stay the same; a bucket that stays where it is stays the same object."""
    settled = {ref: one for ref, one in book.adjustments.items() if now - one.at <= SETTLED_KEPT}
    if len(settled) < len(book.adjustments):
        book = replace(book, adjustments=settled)
    kept = [span for span in book.spans if now - span.begins <= timedelta(days=MONTHS_KEPT_DAYS + 31)]
    targets = {span: coarse_span(span, now, quarters) for span in kept}
    merging = {target for span, target in targets.items() if target != span}
    if not merging and len(kept) == len(book.spans):
        return book
    spans: dict[Span, Mapping[Key, Amount]] = {}
    merged: dict[Span, dict[Key, Amount]] = {}
    for span, target in targets.items():
        if target not in merging:
            spans[span] = book.spans[span]
            continue
        into = merged.setdefault(target, {})
        for key, amount in book.spans[span].items():
            into[key] = into[key] + amount if key in into else amount
    return replace(book, spans={**spans, **merged})


def _month_boundary(day_quarter: int) -> bool:
    day = datetime.fromtimestamp(day_quarter * QUARTER_SECONDS, UTC)
    return day.day == 1 or (day + timedelta(days=1)).day == 1
