"""Which variants: an exact integer mix over shared pools, not greedy.

All deployments are solved in one model (HiGHS through `scipy.optimize.milp`): for each deployment the cheapest
numbers of replicas that cover its target work within the free slots of the pools. A replica that has its GPUs is sunk
and costs its rent only; a new one also costs its start. Slack keeps the model feasible: what it cannot cover spills.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

START_COST_HORIZON_HOURS = 1.0  # a start's dollars are compared with rents as if the replica ran for this long
UNCOVERED_USD_PER_HOUR = 1e5  # per unit of work without a replica; far above any rent
BELOW_FLOOR_USD_PER_HOUR = 1e6


@dataclass(frozen=True, slots=True)
class Choice:
    """One variant that a deployment may use."""

    variant: str
    pool: str
    gpus_per_replica: int
    units_per_replica: float  # work that one replica does, in units of the reference variant
    usd_per_hour: float
    start_usd: float
    placed: int  # replicas that have their GPUs
    slots: int  # more that the pool could take (0: closed)


@dataclass(frozen=True, slots=True)
class Need:
    """What one deployment wants covered."""

    key: str
    units: float
    floor: int
    ceiling: int
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Mix:
    replicas: Mapping[str, int]  # by variant
    uncovered_units: float


def solve(needs: Sequence[Need], free_gpus: Mapping[str, int]) -> dict[str, Mix]:
    """The cheapest mix for each need, by key.

    `free_gpus` bounds what all deployments together may newly take from a pool. The order of the needs does not
    matter. Raises RuntimeError if the solver fails: the model is always feasible, so that is a fault of ours.
    """
    return dict(_solve(tuple(sorted(needs, key=lambda n: n.key)), tuple(sorted(free_gpus.items()))))


# Most ticks change no input of the mix, and the solve is the dearest step of a plan.
@lru_cache(maxsize=64)
def _solve(needs: tuple[Need, ...], free_gpus: tuple[tuple[str, int], ...]) -> dict[str, Mix]:
    columns = [(need, choice) for need in needs for choice in need.choices]
    if not columns:
        return {need.key: Mix({}, need.units) for need in needs}
    count, deployments = len(columns), len(needs)
    # Variables: kept and new replicas of each column, then uncovered units and missing floor of each need.
    size = 2 * count + 2 * deployments
    cost, upper, integer = np.zeros(size), np.full(size, np.inf), np.zeros(size)
    for i, (need, choice) in enumerate(columns):
        tie = 1e-6 * i  # equal offers go in the order of the deployment's variants
        cost[i] = choice.usd_per_hour + tie
        cost[count + i] = choice.usd_per_hour + choice.start_usd / START_COST_HORIZON_HOURS + tie
        upper[i], upper[count + i] = choice.placed, min(choice.slots, need.ceiling)
    integer[: 2 * count] = 1
    cost[2 * count : 2 * count + deployments] = UNCOVERED_USD_PER_HOUR
    cost[2 * count + deployments :] = BELOW_FLOOR_USD_PER_HOUR

    rows: list[np.ndarray] = []
    lower_bounds: list[float] = []
    upper_bounds: list[float] = []

    def constrain(row: np.ndarray, low: float, high: float) -> None:
        rows.append(row)
        lower_bounds.append(low)
        upper_bounds.append(high)

    for d, need in enumerate(needs):
        cover, number, floor = np.zeros(size), np.zeros(size), np.zeros(size)
        for i, (owner, choice) in enumerate(columns):
            if owner is need:
                cover[[i, count + i]] = choice.units_per_replica
                number[[i, count + i]] = 1
        floor[:] = number
        cover[2 * count + d] = 1
        floor[2 * count + deployments + d] = 1
        # The tolerance keeps a replica of 0.9999 units from needing a second one for rounding's sake.
        constrain(cover, need.units - 1e-3, np.inf)
        constrain(number, 0, need.ceiling)
        constrain(floor, need.floor, np.inf)
    for pool, free in free_gpus:
        row = np.zeros(size)
        for i, (_, choice) in enumerate(columns):
            if choice.pool == pool:
                row[count + i] = choice.gpus_per_replica
        constrain(row, 0, free)

    # The gap is relative to the whole cost, penalties included: it must stay below a cent of rent beside them.
    result = milp(
        cost,
        integrality=integer,
        bounds=Bounds(np.zeros(size), upper),
        constraints=LinearConstraint(np.array(rows), lower_bounds, upper_bounds),
        options={"node_limit": 20_000, "mip_rel_gap": 1e-9},
    )
    if result.x is None:
        raise RuntimeError(f"the placement model has no solution: {result.message}")
    mixes: dict[str, Mix] = {}
    for d, need in enumerate(needs):
        replicas = {
            choice.variant: round(result.x[i] + result.x[count + i])
            for i, (owner, choice) in enumerate(columns)
            if owner is need
        }
        mixes[need.key] = Mix(replicas, max(0.0, float(result.x[2 * count + d]) - 1e-3))
    return mixes
