"""Where the money went: the book's amounts by day, team, deployment, supplier and model. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, Literal, NamedTuple
from zoneinfo import ZoneInfo

from .book import IDLE, QUARTER_SECONDS, QUARTERS_PER_DAY, ZERO, Amount, Book, Key, Span
from .zones import zone_of

Column = Literal["day", "month", "team", "deployment", "source", "provider", "pool", "supplier", "model", "charge"]
COLUMNS: Final[tuple[Column, ...]] = (
    "day",
    "month",
    "team",
    "deployment",
    "source",
    "provider",
    "pool",
    "supplier",
    "model",
    "charge",
)
"""`team` is the namespace; `supplier` is the provider or the pool, whichever was paid; `charge` is usage, idle
(reserved GPUs that nobody used) or adjustment."""
CHRONOLOGICAL: Final = frozenset({"day", "month"})
NONE: Final = "-"
ZONES: Final = timedelta(hours=15)
"""More than any time zone is away from UTC."""


class Row(NamedTuple):
    """What one group of amounts has in common, in the order of the columns asked for, and their sum. `adjusted_usd` is
    the part of it that people corrected."""

    values: tuple[str, ...]
    amount: Amount
    adjusted_usd: Decimal = ZERO


def rows(
    book: Book,
    by: Sequence[Column],
    time_zone: str = "UTC",
    start: datetime | None = None,
    end: datetime | None = None,
    namespace: str | None = None,
) -> tuple[Row, ...]:
    """Sums of what was spent in [start, end), by the columns: in order of time where a column is a time, the dearest
    first otherwise. All groupings of the same range have the same total, to the last digit.

    Amounts older than three days stand in whole UTC days, those older than forty in whole months, whose `day` is the
    month (`book.coarse_span`). Raises UnknownTimeZone.
    """
    where = zone_of(time_zone)
    sums: dict[tuple[str, ...], Amount] = {}
    adjusted: dict[tuple[str, ...], Decimal] = {}
    for span, bucket in book.spans.items():
        if (start and span.begins < start) or (end and span.begins >= end):
            continue
        for key, amount in bucket.items():
            if namespace is None or key.namespace == namespace:
                values = tuple(_value(column, span, key, where) for column in by)
                sums[values] = sums[values] + amount if values in sums else amount
                if key.adjustment:
                    adjusted[values] = adjusted.get(values, ZERO) + amount.usd
    times = [i for i, column in enumerate(by) if column in CHRONOLOGICAL]

    def order(row: Row) -> tuple[object, ...]:
        return (*(row.values[i] for i in times), -row.amount.usd, row.values)

    return tuple(sorted((Row(v, amount, adjusted.get(v, ZERO)) for v, amount in sums.items()), key=order))


def months_cut(book: Book, start: datetime, end: datetime) -> tuple[str, ...]:
    """Months (`2026-08`) of which no days are left and that the range takes a part of: that part nobody knows. A bound
    within a day of the month's own is a time zone's."""
    cut = set()
    for span in book.spans:
        if _is_month(span):
            ends = span.begins + timedelta(seconds=span.quarters * QUARTER_SECONDS)
            if any(span.begins + ZONES < bound < ends - ZONES for bound in (start, end)):
                cut.add(f"{span.begins:%Y-%m}")
    return tuple(sorted(cut))


def total(found: Sequence[Row]) -> Row:
    """One row without columns."""
    return Row((), sum((row.amount for row in found), Amount()), sum((row.adjusted_usd for row in found), ZERO))


def day_of(span: Span, where: ZoneInfo) -> str:
    """The day in the zone that the span counts as: the month, where it is one."""
    return _moment(span, where).strftime("%Y-%m" if _is_month(span) else "%Y-%m-%d")


def _value(column: Column, span: Span, key: Key, where: ZoneInfo) -> str:
    match column:
        case "day":
            return day_of(span, where)
        case "month":
            return day_of(span, where)[: len("2026-11")]
        case "team":
            return key.namespace
        case "deployment":
            return IDLE if key.deployment == IDLE else f"{key.namespace}/{key.deployment}"
        case "source":
            return key.source
        case "provider":
            return key.supplier if key.source == "external" else NONE
        case "pool":
            return key.supplier if key.source == "gpu" else NONE
        case "supplier":
            return key.supplier
        case "model":
            return key.model or NONE
        case "charge":
            return "adjustment" if key.adjustment else "idle" if key.deployment == IDLE else "usage"


def _is_month(span: Span) -> bool:
    return span.quarters > QUARTERS_PER_DAY


def _moment(span: Span, where: ZoneInfo) -> datetime:
    """In the zone, for spans that are finer than a UTC day: a whole one would move to the day before."""
    return span.begins.astimezone(where if span.quarters < QUARTERS_PER_DAY else UTC)
