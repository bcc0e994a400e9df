"""Reserved GPUs that nobody uses: paid all the same, and no team's.

A pool's reserved GPUs cost `gpus x price` whether used or not. Pods are charged for what they hold, as on any pool, and
what is left of the fixed cost stands in the ledger as a row of its own (`book.IDLE`). So the sum of a pool is what its
reservation costs, and more only while more is held than reserved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from typing import Final

from .book import IDLE, NANODOLLAR, Amount, Book, Entry, IdleMark, Key, PodMark, add
from .gpu import quarters

SEEN_SECONDS: Final = 60
"""A pod is surely seen so long after it was scheduled: until then, nobody says that its GPUs were idle."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """GPUs of a pool that are paid whether used or not, without those that others than Spillway's replicas hold; USD
    per GPU and hour."""

    gpus: int
    usd_per_gpu_hour: Decimal


def charge_idle(book: Book, pools: Mapping[str, Reserved], now: datetime) -> Book:
    """Charge each pool's reserved GPUs that no pod of the book holds, until a minute ago, to the second.

    Call it after `charge_pods`. A pool that is not in the book begins now. One that is charged already goes on as it
    was last seen until then, also over a time that nobody looked; a new price or number counts from there, and a pool
    that is not in `pools` any more ends there.
    """
    until = int(now.timestamp()) - SEEN_SECONDS
    entries: list[Entry] = []
    marks: dict[str, IdleMark] = {}
    for pool, mark in book.idle.items():
        mark = _charge(pool, mark, until, [m for m in book.pods.values() if m.key.supplier == pool], entries)
        found = pools.get(pool)
        if found is None:
            continue
        if found.usd_per_gpu_hour != mark.usd_per_gpu_hour:
            mark = replace(mark, usd_per_gpu_hour=found.usd_per_gpu_hour, gpu_seconds=0)
        marks[pool] = replace(mark, gpus=found.gpus)
    for pool in pools.keys() - book.idle.keys():
        marks[pool] = IdleMark(pools[pool].gpus, pools[pool].usd_per_gpu_hour, int(now.timestamp()))
    if not entries and marks == book.idle:
        return book
    return replace(add(book, entries, int(now.timestamp())), idle=marks)


def _charge(pool: str, mark: IdleMark, until: int, pods: list[PodMark], entries: list[Entry]) -> IdleMark:
    key = Key(IDLE, IDLE, "gpu", pool, "")
    for start, stop in quarters(mark.until, until):
        idle = sum(max(0, mark.gpus - held) * (end - begin) for begin, end, held in _held(pods, start, stop))
        if idle:
            usd = _cost(mark, mark.gpu_seconds + idle) - _cost(mark, mark.gpu_seconds)
            entries.append(Entry(start, key, Amount(usd, gpu_seconds=idle)))
        mark = replace(mark, until=stop, gpu_seconds=mark.gpu_seconds + idle)
    return mark


def _cost(mark: IdleMark, gpu_seconds: int) -> Decimal:
    """USD since the beginning of this price. Charges are differences of it, so rounding never adds up."""
    return (mark.usd_per_gpu_hour * gpu_seconds / 3600).quantize(NANODOLLAR)


def _held(pods: list[PodMark], start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """The parts of [start, stop) in which pods hold the same number of GPUs: begin, end, GPUs. A pod holds its GPUs for
    as long as it is charged for them."""
    edges = {t for pod in pods for t in (pod.scheduled, pod.until) if start < t < stop}
    bounds = sorted({start, stop, *edges})
    for begin, end in pairwise(bounds):
        yield begin, end, sum(pod.gpus for pod in pods if pod.scheduled <= begin and end <= pod.until)
