"""What somebody who knows the future would pay: what no rule can beat, and what one with hindsight could have had.

`lower_bound` is the denominator of every ratio that Spillway reports (reference/policy.md §3). As the study has it, no
work waits for longer than the queue's seconds; the simulated router caps the queue by its ready replicas instead, so
that work may wait longer where replicas stop. Schedules under that rule can cost less than the study's bound: on
made-up loads of six bins up to 18 % less was seen. The bound `by_replicas` holds for the router; on a day of each of
the six public traces (fleet 8, prices A and C) it is 0.003 to 0.03 % below the study's.

All count from `load.score_from` on, with a first fleet for free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from math import ceil
from multiprocessing import get_context

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray
from scipy.optimize import linprog

from spillway.simulate.economics import BIN_SECONDS, Economics
from spillway.simulate.layers import cheapest
from spillway.simulate.load import Load
from spillway.simulate.traces import Floats

SLICE_BINS = 8640  # a day: about a second of HiGHS; on sg_small the days' sum is 0.02 % below the week's own optimum
_LAYERS_AT_ONCE = 64  # of the dynamic programs: bounds their memory, 60 MB for a week


class UnsolvedBound(RuntimeError):
    """HiGHS gave no optimum: a defect here or there, for every load has one."""


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """A whole number of replicas that are up in each bin from `first_bin` on, and what that costs."""

    first_bin: int
    replicas: NDArray[np.int64]
    spilled: Floats  # replica-bins of work sent outside
    starts: int
    gpu_usd: float  # rent, and for each start its cold start and drain
    external_usd: float

    @property
    def usd(self) -> float:
        return self.gpu_usd + self.external_usd


def lower_bound(
    load: Load,
    economics: Economics,
    *,
    by_replicas: bool = False,
    workers: int = 1,
    on_day: Callable[[int, int], None] | None = None,
) -> float:
    """$ that no schedule can undercut under the rule of waiting that `queue_optimum` has: the sum of the optima of
    the days, each with a free first fleet and a free last backlog; what couples the days, left out, only adds cost.
    See `lower_bound_by_day`."""
    return sum(lower_bound_by_day(load, economics, by_replicas=by_replicas, workers=workers, on_day=on_day))


def lower_bound_by_day(
    load: Load,
    economics: Economics,
    *,
    by_replicas: bool = False,
    workers: int = 1,
    on_day: Callable[[int, int], None] | None = None,
) -> list[float]:
    """The bound of each day from `load.score_from` on, $.

    `workers` above 1 solves days side by side in processes of their own; `on_day(done, of)` hears of each.
    """
    begins = range(load.score_from, len(load), SLICE_BINS)
    works = [load.work[at : at + SLICE_BINS] for at in begins]
    prices = [load.spill_usd[at : at + SLICE_BINS] for at in begins]

    def heard(days: Iterable[float]) -> list[float]:
        found = []
        for day in days:
            found.append(day)
            if on_day:
                on_day(len(found), len(works))
        return found

    if min(workers, len(works)) <= 1:
        return heard(map(queue_optimum, works, prices, repeat(economics), repeat(by_replicas)))
    # spawned, not forked: the caller may have threads
    with ProcessPoolExecutor(min(workers, len(works)), mp_context=get_context("spawn")) as pool:
        return heard(pool.map(queue_optimum, works, prices, repeat(economics), repeat(by_replicas)))


def queue_optimum(work: Floats, spill_usd: Floats, economics: Economics, by_replicas: bool = False) -> float:
    """The least $ at which fractional replicas n, starts u, outside work x and backlog B can serve `work` (replicas,
    [bins]; `spill_usd` $ per replica-bin): a linear program, solved to optimality by HiGHS' dual simplex.

    What is served, s = w - x - B_t + B_(t-1), is at most n; n rises only by u. B is at most the work of the last
    `queue_seconds`, as in the study, or with `by_replicas` what n can serve in that time, as the router has it; that
    takes twice as long. The first fleet is free, the last backlog too.
    """
    bins = len(work)
    if not bins:
        return 0.0
    same = sparse.identity(bins, format="csr")
    none = sparse.csr_matrix((bins, bins))
    change = (same - sparse.eye(bins, k=-1, format="csr")).tocsr()
    # n, u, s, x, B. Timed once on four days at two prices: without a variable for s slower on five of eight, as
    # interior point on seven; presolve matters little
    served = sparse.hstack([-same, none, same, none, none])
    rises = sparse.hstack([change, -same, none, none, none]).tocsr()[1:]
    balance = sparse.hstack([none, none, same, same, change])
    limits = [served, rises]
    upper = np.full(5 * bins, np.inf)
    if by_replicas:
        limits.append(sparse.hstack([-economics.queue_seconds / BIN_SECONDS * same, none, none, none, same]))
    else:
        upper[4 * bins :] = _recent(work, ceil(economics.queue_seconds / BIN_SECONDS - 1e-9))
    rent = np.full(bins, economics.usd_per_replica_bin)
    start = np.full(bins, economics.start_usd)
    solved = linprog(
        np.concatenate([rent, start, np.zeros(bins), spill_usd, np.zeros(bins)]),
        A_ub=sparse.vstack(limits, format="csc"),
        b_ub=np.zeros(sum(limit.shape[0] for limit in limits)),
        A_eq=balance.tocsc(),
        b_eq=work,
        bounds=np.column_stack([np.zeros(5 * bins), upper]),
        method="highs-ds",
    )
    if solved.status != 0:
        raise UnsolvedBound(f"the bound of {bins} bins: {solved.message}")
    return float(solved.fun)


def layered_optimum(load: Load, economics: Economics) -> Schedule:
    """The cheapest whole-number schedule that spills at once what does not fit in its bin: exact, by layers."""
    work, spill_usd = load.work[load.score_from :], load.spill_usd[load.score_from :]

    def off_usd(first: int, end: int) -> Floats:
        layers: Floats = spill_usd[:, None] * np.clip(work[:, None] - np.arange(first, end), 0, 1)
        return layers

    replicas = _stacked(off_usd, ceil(work.max(initial=0.0)), len(work), economics)
    return _priced(load, economics, replicas, np.maximum(work - replicas, 0.0))


def clairvoyant(load: Load, economics: Economics) -> Schedule:
    """A whole-number schedule that is made with the future known and can be had: its cost is at least the optimum's,
    2 to 7 % above the lower bound on public traces at fleet 8 and a queue of 10 s, but 13 to 21 % where ServeGen's
    may queue for 60 s, and 2.5 times the bound, whose replicas are fractions, for 0.4 replicas.

    Each layer is scheduled for what its replica would save a virtual fleet of constant size, queue included; what
    the stacked fleet then really spills is priced.
    """
    work, spill_usd = load.work[load.score_from :], load.spill_usd[load.score_from :]

    def off_usd(first: int, end: int) -> Floats:
        spilled = _spilled(work, np.broadcast_to(np.arange(first, end + 1.0), (len(work), end + 1 - first)), economics)
        layers: Floats = spill_usd[:, None] * (spilled[:, :-1] - spilled[:, 1:])
        return layers

    replicas = _stacked(off_usd, ceil(work.max(initial=0.0)) + 1, len(work), economics)
    return _priced(load, economics, replicas, _spilled(work, replicas[:, None].astype(np.float64), economics)[:, 0])


def _recent(work: Floats, bins: int) -> Floats:
    """The work of the last `bins` bins, each bin's own included."""
    total = np.concatenate((np.zeros(bins + 1), np.cumsum(work)))
    recent: Floats = np.maximum(total[bins + 1 :] - total[1 : len(work) + 1], 0.0)
    return recent


def _spilled(work: Floats, replicas: Floats, economics: Economics) -> Floats:
    """Replica-bins that fleets of `replicas` [bins, fleets] cannot serve within the queue, each fleet alone."""
    queue = np.zeros(replicas.shape[1])
    spilled = np.empty(replicas.shape)
    room = economics.queue_seconds / BIN_SECONDS
    for t, ready in enumerate(replicas):
        queue = np.maximum(queue + work[t] - ready, 0.0)
        spilled[t] = np.maximum(queue - ready * room, 0.0)
        queue = queue - spilled[t]
    return spilled


def _stacked(off_usd: Callable[[int, int], Floats], layers: int, bins: int, economics: Economics) -> NDArray[np.int64]:
    """Replicas by bin from the layers' own optima; `off_usd(first, end)` prices layers [bins, end - first]."""
    replicas = np.zeros(bins, dtype=np.int64)
    minimum_on_bins = economics.minimum_billing_bins - economics.delay_bins  # a cold start is billed life
    for first in range(0, layers, _LAYERS_AT_ONCE):
        priced = off_usd(first, min(first + _LAYERS_AT_ONCE, layers))
        _, on = cheapest(priced, economics.usd_per_replica_bin, economics.start_usd, minimum_on_bins)
        replicas += on.sum(axis=1)
    return replicas


def _priced(load: Load, economics: Economics, replicas: NDArray[np.int64], spilled: Floats) -> Schedule:
    starts = int(np.maximum(np.diff(replicas), 0).sum())
    return Schedule(
        first_bin=load.score_from,
        replicas=replicas,
        spilled=spilled,
        starts=starts,
        gpu_usd=economics.usd_per_replica_bin * int(replicas.sum()) + economics.start_usd * starts,
        external_usd=float(spilled @ load.spill_usd[load.score_from :]),
    )
