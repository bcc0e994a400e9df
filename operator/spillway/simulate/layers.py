"""When the k-th replica should have been up: exact dynamic programs, one per layer of demand.

With n replicas a bin costs c n + e (w - n)^+, which is a sum over layers: the k-th replica is on and costs c, or off
and costs e clip(w - (k - 1), 0, 1). Layers do not touch each other, their loads are nested, so their optima stack into
the optimum of the fleet (Lu, Chen 2013; reference/policy.md §3).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spillway.simulate.traces import Bools, Floats


def cheapest(off_usd: Floats, on_usd: float, start_usd: float, minimum_on_bins: int) -> tuple[float, Bools]:
    """The least cost of all layers together and when each is on.

    `off_usd` [bins, layers] is the cost of being off. A layer that starts pays `start_usd` and stays on for at least
    `minimum_on_bins`, of which what lies past the end is not paid. Before the first bin each layer is on or off as it
    likes, free to change. O(bins x layers); the result has the shape of `off_usd`.
    """
    bins, layers = off_usd.shape
    lock = max(minimum_on_bins, 1)
    lock_usd = start_usd + lock * on_usd
    before_off = np.empty((bins + 1, layers))  # least cost until before bin t, being off there
    began = np.zeros((bins, layers), dtype=np.bool_)  # on and free after bin t because of a start lock bins earlier
    stopped = np.empty((bins, layers), dtype=np.bool_)  # off in bin t, on and free before it
    off, on = np.zeros(layers), np.zeros(layers)
    before_off[0] = off
    for t in range(bins):
        stopped[t] = on < off
        off = np.minimum(on, off) + off_usd[t]
        on = on + on_usd
        if t + 1 >= lock:
            new = before_off[t + 1 - lock] + lock_usd
            began[t] = new < on
            on = np.minimum(on, new)
        before_off[t + 1] = off
    best, is_on, locked = np.minimum(on, off), on <= off, np.zeros(layers, dtype=np.int64)
    for paid in range(1, min(lock, bins + 1)):  # starts whose minimum the end cuts
        cut = before_off[bins - paid] + start_usd + paid * on_usd
        better = cut < best
        best, is_on, locked = np.where(better, cut, best), is_on | better, np.where(better, paid, locked)
    return float(best.sum()), _backwards(began, stopped, is_on, locked, lock)


def _backwards(began: Bools, stopped: Bools, is_on: Bools, locked: NDArray[np.int64], lock: int) -> Bools:
    """The schedule that the choices lead back to. `locked`: bins left to go back to the start of a layer that must
    have started; before that it was off."""
    schedule = np.empty_like(began)
    for t in range(len(began) - 1, -1, -1):
        schedule[t] = is_on
        locked = np.where(is_on & (locked == 0) & began[t], lock, locked)
        forced = locked > 0
        locked = np.maximum(locked - 1, 0)
        is_on = np.where(forced, locked > 0, is_on | stopped[t])
    return schedule
