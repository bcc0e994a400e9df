"""GPU dollars: pod lifetimes become charges."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Final

from .book import NANODOLLAR, QUARTER_SECONDS, Amount, Book, Charged, Entry, Key, PodMark, add

CLOSED_KEPT_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True)
class PodUsage:
    """A pod that holds GPUs of a pool: from `scheduled` until it is really gone (`ended`; None while it holds them).

    A pod that is terminating still holds its GPUs.
    """

    uid: str
    namespace: str
    deployment: str
    pool: str
    model: str
    gpus: int
    scheduled: datetime
    ended: datetime | None = None


@dataclass(frozen=True, slots=True)
class PoolPrice:
    """USD per GPU and hour, billed per second, at least for `minimum_billing_seconds` per pod."""

    usd_per_gpu_hour: Decimal
    minimum_billing_seconds: int = 0


def charge_pods(book: Book, pods: Iterable[PodUsage], prices: Mapping[str, PoolPrice], now: datetime) -> Charged:
    """Charge every pod's GPUs from where they were charged last until `now` or its end, to the second.

    A pod of the book that is not in `pods` is charged until `now`: when its absence was seen. A pod whose end
    comes before its minimum billing is charged for the minimum. A new pool price counts from when it is first
    seen. A pod of a pool without a price is a problem in words: one already in the book goes on at its last price,
    a new one is charged from its beginning once there is a price.
    """
    now_seconds = int(now.timestamp())
    marks = dict(book.pods)
    entries: list[Entry] = []
    problems: list[str] = []
    present = sorted(pods, key=lambda pod: pod.uid)
    for pod in present:
        mark, price = marks.get(pod.uid), prices.get(pod.pool)
        if price is None:
            problems.append(
                f"pod {pod.uid} of {pod.namespace}/{pod.deployment} holds {pod.gpus} GPUs of pool {pod.pool}, "
                f"which has no price: "
                + ("charged at its last price" if mark else "not charged until GPUPool gives one")
            )
        if mark is None:
            if price is None:
                continue
            mark = _opened(pod, price)
        elif mark.closed:
            if pod.ended is not None:
                continue
            mark = replace(mark, closed=False)
        end = None if pod.ended is None else math.ceil(pod.ended.timestamp())
        marks[pod.uid] = mark = _charge(mark, now_seconds, end, entries)
        if price is not None and not mark.closed and price.usd_per_gpu_hour != mark.usd_per_gpu_hour:
            marks[pod.uid] = replace(mark, usd_per_gpu_hour=price.usd_per_gpu_hour, segment=mark.until)
    seen = {pod.uid for pod in present}
    for uid in sorted(marks.keys() - seen):
        mark = marks[uid]
        if not mark.closed:
            marks[uid] = _charge(mark, now_seconds, now_seconds, entries)
        elif mark.until < now_seconds - CLOSED_KEPT_SECONDS:
            # Closed marks outlive their pods for a day, so that a list that missed a pod once charges nothing twice.
            del marks[uid]
    return Charged(replace(add(book, entries, now_seconds), pods=marks), tuple(problems))


def _opened(pod: PodUsage, price: PoolPrice) -> PodMark:
    start = int(pod.scheduled.timestamp())
    key = Key(pod.namespace, pod.deployment, "gpu", pod.pool, pod.model)
    return PodMark(key, pod.gpus, price.usd_per_gpu_hour, price.minimum_billing_seconds, start, start, start)


def _charge(mark: PodMark, now: int, end: int | None, entries: list[Entry]) -> PodMark:
    """Charge the mark until `now`, or until `end` (with the minimum billing) if the pod has ended."""
    until = now if end is None else max(end, mark.scheduled + mark.minimum_seconds)
    closed = end is not None
    if until <= mark.until:
        return replace(mark, closed=closed)
    for start, stop in quarters(mark.until, until):
        usd = _cost(mark, stop) - _cost(mark, start)
        entries.append(Entry(start, mark.key, Amount(usd, gpu_seconds=mark.gpus * (stop - start))))
    return replace(mark, until=until, closed=closed)


def _cost(mark: PodMark, until: int) -> Decimal:
    """USD from the beginning of this price until then. Charges are differences of it, so rounding never adds up."""
    return (mark.gpus * mark.usd_per_gpu_hour * (until - mark.segment) / 3600).quantize(NANODOLLAR)


def quarters(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The parts of [start, stop) that lie in one quarter-hour each."""
    while start < stop:
        edge = min(stop, (start // QUARTER_SECONDS + 1) * QUARTER_SECONDS)
        yield start, edge
        start = edge
