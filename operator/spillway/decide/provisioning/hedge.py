"""HEX: a hedge over virtual fleets. No forecast, no assumption on the kind of traffic.

Thirty small rules ("experts") each run a virtual fleet on the observed demand with the real physics: cold start, queue,
overflow, drain. Their costs are known afterwards, whatever the real fleet did; an expert's weight is
exp(-eta * its discounted relative cost), and the real fleet is held between the weighted 0.4 and 0.6 quantiles of the
virtual sizes. So the fleet follows whoever was cheapest lately on this traffic: quick ones on bursts, lazy ones on
noise. Experts, for each layer with load l and kappa = what a unit costs elsewhere / its rent:

    leaky: s = kappa * sum_j a_j EWMA_j(l);           start when s > up, stop when s < down
    LCP:   as in `lcp`, at lam * beta, with a credit of mu * beta for a start

Nothing is proven of it but what its median expert does; it was never above LCP by more than 2 % on anything tried
(docs/adr/0009-provisioning-rule.md).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spillway.decide.provisioning.evidence import Evidence, Floats, layer_loads, resampled
from spillway.decide.provisioning.lcp import ALMOST, NOTHING_USD

# Of the loads' EWMAs, and what an expert is charged for each start, so that nobody flaps for a cent; both in units of
# what a start takes (cold start and drain): a fleet that starts in seconds may follow its load in seconds.
HALF_LIVES = np.array([90.0, 180.0, 360.0, 720.0, 1500.0, 5400.0]) / 660.0
WEAR = 240.0 / 660.0
LEAST_START_SECONDS = 5.0
ETA = 300.0  # how sharply weights follow costs; costs are in days of the mean expert's cost
MEMORY_HALF_LIFE_SECONDS = 43_200.0  # of the experts' costs
QUANTILES = (0.4, 0.6)  # of the weighted virtual sizes, between which the real fleet stays as it is
PRICE_MEMORY_SECONDS = 3600.0  # time constant of the mean price of a unit elsewhere
JUMP = 4.0  # change of that price at which what was learned at the old one is dropped; traffic mixes change it less
NEGLIGIBLE = 1e-6  # load below which a layer's averages are forgotten

# Leaky experts: weights over the half-lives, start above, stop below.
_LEAKY = [
    *((np.eye(6)[j], up, up * ratio) for j, up, ratio in itertools.product(range(4), (0.15, 0.5, 1.2), (0.4, 1.0))),
    *((0.8 * np.eye(6)[1] + 0.2 * np.eye(6)[5], up, up * 0.7) for up in (0.4, 1.0)),
]
_LCP = list(itertools.product((0.25, 0.5), (1.0, 2.0)))  # share of beta at which to start, credit in betas
WEIGHTS = np.array([weights for weights, _, _ in _LEAKY])  # [leaky, half-lives]
UP = np.array([up for _, up, _ in _LEAKY])[:, None]
DOWN = np.array([down for _, _, down in _LEAKY])[:, None]
LAMBDA = np.array([lam for lam, _ in _LCP])[:, None]
MU = np.array([mu for _, mu in _LCP])[:, None]
LEAKY, EXPERTS = len(_LEAKY), len(_LEAKY) + len(_LCP)


@dataclass(frozen=True, slots=True)
class HexState:
    """Of all experts in turn: `sizes`, `queued` (replica-seconds that wait), `costs` (discounted, relative),
    `owed_usd` (drain and wear of the last moves), `youngest` (when each last started one). `starting`: expert and
    time of each virtual replica that is not ready yet."""

    on: int = 0
    ewma: tuple[tuple[float, ...], ...] = ()  # [half-lives][layers]
    regrets_usd: tuple[tuple[float, ...], ...] = ()  # [LCP experts][layers]
    sizes: tuple[int, ...] = ()
    queued: tuple[float, ...] = ()
    costs: tuple[float, ...] = ()
    owed_usd: tuple[float, ...] = ()
    youngest: tuple[float, ...] = ()
    starting: tuple[tuple[int, float], ...] = ()
    mean_usd: float = 0.0  # discounted sum of the mean expert's cost, and of the seconds it took
    mean_seconds: float = 0.0
    spill_usd: float = 0.0  # work-weighted sums for the mean price of a unit elsewhere
    spill_work: float = 0.0
    rule: Literal["hex"] = "hex"


@dataclass(slots=True)
class _Fleets:
    """The state of one tick as arrays."""

    ewma: Floats
    regrets: Floats
    sizes: NDArray[np.int64]
    queued: Floats
    costs: Floats
    owed: Floats
    youngest: Floats
    starting: list[tuple[int, float]]


def advance(state: HexState | None, evidence: Evidence) -> HexState:
    """One tick of all virtual fleets, and the size of the real one."""
    known = state if state is not None and state.sizes else None
    before = known or HexState()
    size = evidence.size(max([len(before.ewma[0]) if before.ewma else 0, *(n + 1 for n in before.sizes)]))
    fleets = _restore(before, evidence, size) if known else _begin(evidence, size)
    mean_usd, mean_seconds = before.mean_usd, before.mean_seconds
    spill_usd, spill_work = before.spill_usd, before.spill_work
    if spill_work > 0 and not 1 / JUMP < evidence.off_usd * spill_work / max(spill_usd, 1e-12) < JUMP:
        # A provider failed or came back, a budget ended or began: who was cheapest before says little now.
        spill_usd = spill_work = 0.0
        fleets.costs[:] = 0.0
    if evidence.seconds > 0:
        cost = _settle(fleets, evidence, size)
        fade = 0.5 ** (evidence.seconds / 86_400)
        mean_usd, mean_seconds = mean_usd * fade + cost.mean(), mean_seconds * fade + evidence.seconds
        day_usd = mean_usd / mean_seconds * 86_400
        fleets.costs *= 0.5 ** (evidence.seconds / MEMORY_HALF_LIFE_SECONDS)
        if day_usd > 0:
            fleets.costs += (cost - cost.mean()) / day_usd
        keep = np.exp(-evidence.seconds / PRICE_MEMORY_SECONDS)
        spill_usd = spill_usd * keep + evidence.work * evidence.off_usd * evidence.seconds
        spill_work = spill_work * keep + evidence.work * evidence.seconds
    price = spill_usd / spill_work if spill_work > 1e-9 else evidence.off_usd
    _decide(fleets, evidence, size, price / evidence.rent_usd)
    return HexState(
        on=_follow(fleets, evidence),
        ewma=_stored(np.where(fleets.ewma < NEGLIGIBLE, 0.0, fleets.ewma)),
        regrets_usd=_stored(fleets.regrets),
        sizes=tuple(fleets.sizes.tolist()),
        queued=tuple(fleets.queued.tolist()),
        costs=tuple((fleets.costs - fleets.costs.min()).tolist()),
        owed_usd=tuple(fleets.owed.tolist()),
        youngest=tuple(fleets.youngest.tolist()),
        starting=tuple(fleets.starting),
        mean_usd=float(mean_usd),
        mean_seconds=float(mean_seconds),
        spill_usd=float(spill_usd),
        spill_work=float(spill_work),
    )


def _begin(evidence: Evidence, size: int) -> _Fleets:
    """All virtual fleets are what the real one is, and what runs has to disprove itself."""
    regrets = np.zeros((len(_LCP), size))
    regrets[:, : evidence.on] = MU * evidence.start_usd
    loads = (np.arange(size) < evidence.on).astype(float)
    return _Fleets(
        ewma=np.tile(loads, (len(HALF_LIVES), 1)),
        regrets=regrets,
        sizes=np.full(EXPERTS, min(evidence.on, size)),
        queued=np.zeros(EXPERTS),
        costs=np.zeros(EXPERTS),
        owed=np.zeros(EXPERTS),
        youngest=np.full(EXPERTS, -1e12),
        starting=[],
    )


def _restore(state: HexState, evidence: Evidence, size: int) -> _Fleets:
    return _Fleets(
        ewma=_rows(state.ewma, len(HALF_LIVES), size),
        regrets=_rows(state.regrets_usd, len(_LCP), size),
        sizes=np.minimum(np.array(state.sizes), size),
        queued=np.array(state.queued),
        costs=np.array(state.costs),
        owed=np.array(state.owed_usd),
        youngest=np.array(state.youngest),
        # Those that have become ready need not be told apart any more.
        starting=[s for s in state.starting if s[1] > evidence.time - evidence.seconds - evidence.delay_seconds],
    )


def _start_seconds(evidence: Evidence) -> float:
    return max(evidence.delay_seconds + evidence.drain_seconds, LEAST_START_SECONDS)


def _settle(fleets: _Fleets, evidence: Evidence, size: int) -> Floats:
    """Run the virtual fleets over the last tick with the sizes decided before it; what each cost, $ [experts]."""
    seconds, rent = evidence.seconds, evidence.rent_usd
    cold = np.bincount([expert for expert, _ in fleets.starting], minlength=EXPERTS) if fleets.starting else 0
    ready = np.maximum(fleets.sizes - cold, 0)
    work = max(evidence.work, evidence.ready + evidence.unserved if evidence.unserved > 0 else 0.0)
    queued = fleets.queued + work * seconds
    queued -= np.minimum(queued, ready * seconds)
    spilled = np.maximum(queued - ready * evidence.queue_seconds, 0.0)
    fleets.queued = queued - spilled
    rents = np.concatenate(([0.0], np.cumsum(evidence.shares(size)))) * rent
    cost: Floats = fleets.owed + rents[fleets.sizes] * seconds + spilled * evidence.off_usd
    loads = layer_loads(evidence, size)
    fleets.ewma += (1 - 0.5 ** (seconds / (HALF_LIVES * _start_seconds(evidence))))[:, None] * (loads - fleets.ewma)
    fleets.regrets += (evidence.off_usd * loads / evidence.shares(size) - rent) * seconds
    return cost


def _decide(fleets: _Fleets, evidence: Evidence, size: int, kappa: float) -> None:
    """New sizes of the virtual fleets."""
    layer = np.arange(size)
    old = fleets.sizes
    on, beta = layer < old[:, None], evidence.start_usd
    score = kappa * (WEIGHTS @ fleets.ewma) / evidence.shares(size)
    mine = on[LEAKY:]
    fleets.regrets = np.clip(fleets.regrets, 0.0, np.where(mine, MU * beta, beta))
    start = np.vstack([score > UP, fleets.regrets >= LAMBDA * beta * ALMOST]) | on
    keep = np.vstack([score >= DOWN, fleets.regrets > NOTHING_USD]) & on
    if kappa <= 1:
        start = on
    up = np.where(start.all(axis=1), size, np.argmin(start, axis=1))  # the first layer that is neither on nor wanted
    low = np.where(keep.any(axis=1), size - np.argmax(keep[:, ::-1], axis=1), 0)  # the last layer worth keeping
    may_stop = evidence.time - fleets.youngest >= max(evidence.minimum_seconds, evidence.delay_seconds)
    new = np.where(up > old, up, np.minimum(np.where(may_stop, low, old), old))
    more, fewer = np.maximum(new - old, 0), np.maximum(old - new, 0)
    wear = WEAR * _start_seconds(evidence)
    fleets.owed = (fewer * evidence.drain_seconds + more * wear) * evidence.rent_usd
    fleets.youngest = np.where(more > 0, evidence.time, fleets.youngest)
    for expert in np.flatnonzero(more).tolist():
        fleets.starting.extend([(expert, evidence.time)] * int(more[expert]))
    fresh = ((layer >= old[:, None]) & (layer < new[:, None]))[LEAKY:]
    fleets.regrets = np.where(fresh, MU * beta, fleets.regrets)
    fleets.regrets = np.where((layer >= new[:, None])[LEAKY:] & mine, 0.0, fleets.regrets)
    fleets.sizes = new


def _follow(fleets: _Fleets, evidence: Evidence) -> int:
    """The real size: no further than to the nearer of the weighted quantiles of the virtual ones."""
    weights = np.exp(-ETA * (fleets.costs - fleets.costs.min()))
    share = np.cumsum(np.bincount(fleets.sizes, weights)) / weights.sum()
    low, high = (int(np.argmax(share >= quantile - 1e-12)) for quantile in QUANTILES)
    if evidence.on < low:
        return low
    return high if evidence.on > high and evidence.may_stop else evidence.on


def rescale(state: HexState, ratio: float, start_usd_ratio: float) -> HexState:
    """The same evidence in units of another variant; virtual fleets that grow by it are ready at once."""
    return HexState(
        on=max(round(state.on * ratio), 1) if state.on else 0,
        ewma=tuple(resampled(row, ratio, 1.0) for row in state.ewma),
        regrets_usd=tuple(resampled(row, ratio, start_usd_ratio) for row in state.regrets_usd),
        sizes=tuple(round(n * ratio) for n in state.sizes),
        queued=tuple(q * ratio for q in state.queued),
        costs=state.costs,
        owed_usd=tuple(usd * start_usd_ratio for usd in state.owed_usd),
        youngest=state.youngest,
        starting=(),
        mean_usd=state.mean_usd,
        mean_seconds=state.mean_seconds,
        spill_usd=state.spill_usd,
        spill_work=state.spill_work * ratio,
    )


def _rows(stored: tuple[tuple[float, ...], ...], rows: int, size: int) -> Floats:
    found = np.zeros((rows, size))
    known = min(size, len(stored[0])) if stored else 0
    if known:
        found[:, :known] = np.array(stored)[:, :known]
    return found


def _stored(values: Floats) -> tuple[tuple[float, ...], ...]:
    """Without the layers of which nothing is known."""
    nonzero = np.flatnonzero(values.any(axis=0))
    size = int(nonzero[-1]) + 1 if len(nonzero) else 0
    return tuple(map(tuple, values[:, :size].tolist()))
