"""Settling adjustments: which requests are applied to the book, by how much, and why others are not. Pure.

A correction is an amount of its own beside what it corrects, in the same bucket of time, and moves `usd` and
`estimated_usd` alike. So what a meter has confirmed (`usd - estimated_usd`) never changes, and cannot be lowered.
The id stands in the amount's key: whoever stores the amount stores that it was applied, in the same write, and folding
keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final
from zoneinfo import ZoneInfo

from .adjustment import Adjustment, Settled
from .bill import day_of
from .book import MONTHS_KEPT_DAYS, QUARTER_SECONDS, ZERO, Amount, Book, Key, Span
from .zones import zone_of

MOST_SETTLED: Final = 1000
"""Adjustments that the ledger keeps: it is one object, and whoever may ask for some must not be able to fill it."""
TOLD: Final = 8


@dataclass(frozen=True)
class Settlement:
    """The book with what was settled, and that, by id. `problems` are sentences about requests that are not settled,
    by id: they are looked at again each time."""

    book: Book
    settled: Mapping[str, Settled]
    problems: Mapping[str, str]


class Refused(Exception):
    """An adjustment that is not applied, and never will be; says why, in words for the user."""


def settle(book: Book, requests: Mapping[str, Adjustment], now: datetime) -> Settlement:
    """Apply or refuse each request that was not settled before, in the order of their ids. A refused one whose content
    is another now is looked at again; an applied one never is."""
    settled: dict[str, Settled] = {}
    problems: dict[str, str] = {}
    applied: Mapping[str, Decimal] | None = None
    for ref, request in sorted(requests.items()):
        before = book.adjustments.get(ref)
        if before is not None and before.adjustment == request:
            continue
        if before is not None and not before.refusal:
            problems[ref] = (
                f"was applied as {before.usd:+f} USD on {before.at:%Y-%m-%d} with other content and is not applied "
                "again: give another adjustment an id of its own"
            )
            continue
        if before is None and len(book.adjustments) >= MOST_SETTLED:
            problems[ref] = (
                f"is not applied: the ledger keeps {MOST_SETTLED} adjustments, and has as many; those of 13 months ago "
                "are forgotten day by day"
            )
            continue
        if applied is None:
            applied = _applied(book)
        if ref in applied:  # an older version wrote the ledger meanwhile: it keeps amounts and drops their history
            one = Settled(request, now, applied[ref])
        else:
            try:
                book, usd = apply(book, ref, request, now)
                one = Settled(request, now, usd)
            except Refused as refusal:
                one = Settled(request, now, ZERO, str(refusal))
        book = replace(book, adjustments={**book.adjustments, ref: one})
        settled[ref] = one
    return Settlement(book, settled, problems)


def apply(book: Book, ref: str, request: Adjustment, now: datetime) -> tuple[Book, Decimal]:
    """The book with the correction, and its USD. Raises Refused."""
    zone = zone_of(request.time_zone)
    key = Key(request.namespace, request.deployment, "external", request.provider, request.model)
    _within_time(request, now, zone)
    _known(book, key, request)
    places = _places(book, key, request.day, zone)
    if not places:
        _whole_month(book, request, zone)
    spent = sum((amount.usd for amount in places.values()), ZERO)
    estimated = sum((amount.estimated_usd for amount in places.values()), ZERO)
    usd = request.usd if request.usd is not None else (request.to or ZERO) - spent
    if estimated + usd < 0:
        raise Refused(_too_much(request, spent, estimated))
    correction = key._replace(adjustment=ref)
    spans = dict(book.spans)
    for span, part in _spread(places, usd, request.day, zone, now).items():
        spans[span] = {**spans.get(span, {}), correction: Amount(part, 0, part)}
    return replace(book, spans=spans), usd


def _applied(book: Book) -> dict[str, Decimal]:
    """USD of each correction in the book, by its id."""
    sums: dict[str, Decimal] = {}
    for bucket in book.spans.values():
        for key, amount in bucket.items():
            if key.adjustment:
                sums[key.adjustment] = sums.get(key.adjustment, ZERO) + amount.usd
    return sums


def _within_time(request: Adjustment, now: datetime, zone: ZoneInfo) -> None:
    today = f"{now.astimezone(zone):%Y-%m-%d}"[: len(request.day)]
    if request.day > today:
        raise Refused(f"day is {request.day}, which has not begun in {request.time_zone}: today is {today}")
    if now - _noon(request.day, zone) > timedelta(days=MONTHS_KEPT_DAYS):
        raise Refused(f"day is {request.day}: the ledger keeps 13 months")


def _known(book: Book, key: Key, request: Adjustment) -> None:
    """A name that is wrong must not make a deployment that spends."""
    known = {k.charged for bucket in book.spans.values() for k in bucket if k.source == "external"}
    if key in known:
        return
    own = sorted(f"{k.supplier} ({k.model})" for k in known if k[:2] == key[:2])
    if own:
        raise Refused(
            f"{request.namespace}/{request.deployment} never used {request.provider} ({request.model}): "
            f"provider and model are some of {_few(own)}"
        )
    others = sorted({f"{k.namespace}/{k.deployment}" for k in known})
    raise Refused(
        f"{request.namespace}/{request.deployment} never spent anything at a provider: "
        + (f"namespace and deployment are some of {_few(others)}" if others else "nobody did")
    )


def _few(names: list[str]) -> str:
    return ", ".join(names[:TOLD]) + (f" and {len(names) - TOLD} more" if len(names) > TOLD else "")


def _places(book: Book, key: Key, day: str, zone: ZoneInfo) -> dict[Span, Amount]:
    """What was spent on the day, with earlier corrections, by bucket."""
    found: dict[Span, Amount] = {}
    for span, bucket in book.spans.items():
        if day_of(span, zone)[: len(day)] == day:
            amounts = [amount for k, amount in bucket.items() if k.charged == key]
            if amounts:
                found[span] = sum(amounts, Amount())
    return found


def _whole_month(book: Book, request: Adjustment, zone: ZoneInfo) -> None:
    month = request.day[: len("2026-11")]
    if request.day != month and any(day_of(span, zone) == month for span in book.spans):
        raise Refused(f"day is {request.day}: of {month} the ledger has no days any more, give the day {month}")


def _too_much(request: Adjustment, spent: Decimal, estimated: Decimal) -> str:
    asked = f"usd is {request.usd:f}" if request.usd is not None else f"to is {request.to:f}"
    what = f"{request.whose} spent {spent:f} USD on {request.day} ({request.time_zone})"
    if not estimated:
        return f"{asked}: {what}, all of it metered, and what was metered is not lowered"
    return f"{asked}: {what}, of which only {estimated:f} are estimated, and what was metered is not lowered: " + (
        f"give usd -{estimated:f} or more" if request.usd is not None else f"give to {spent - estimated:f} or more"
    )


def _spread(
    places: Mapping[Span, Amount], usd: Decimal, day: str, zone: ZoneInfo, now: datetime
) -> dict[Span, Decimal]:
    """Where the correction goes. What is lowered is taken from the largest estimates first, from none more than it has;
    what is raised goes where most was spent, or else to noon."""
    if usd >= 0:
        most = max(places, key=lambda span: (places[span].usd, -span.start), default=None)
        if most is None:
            seconds = min(now, _noon(day, zone)).timestamp()
            most = Span(int(seconds) // QUARTER_SECONDS, 1)
        return {most: usd}
    parts: dict[Span, Decimal] = {}
    for span in sorted(places, key=lambda span: (-places[span].estimated_usd, span)):
        part = max(usd, -places[span].estimated_usd)
        if not part:
            break
        parts[span] = part
        usd -= part
    return parts


def _noon(day: str, zone: ZoneInfo) -> datetime:
    """Noon is in the day also where a whole day is kept as UTC's."""
    first = day if len(day) > len("2026-11") else f"{day}-01"
    return datetime.fromisoformat(f"{first}T12:00").replace(tzinfo=zone).astimezone(UTC)
