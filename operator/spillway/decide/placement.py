"""Which variants: an exact integer mix over shared pools, not greedy.

All deployments are solved in one model (HiGHS through `scipy.optimize.milp`): for each deployment the cheapest
numbers of replicas that cover its target work within the free slots of the pools. A replica that has its GPUs is sunk
and costs its rent only; a new one also costs its start. GPUs that are paid anyway cost a shadow price. Slack keeps the
model feasible: what it cannot cover spills. Where a pool cannot hold all that is wanted, an hour of a GPU goes to whom
it is worth most; replicas that run make way only for those to whom it is worth clearly more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import lil_array

START_COST_HORIZON_HOURS = 1.0  # a start's dollars are compared with rents as if the replica ran for this long
# Per unit of work without a replica, of the deployment to which a unit is worth most; far above any rent. To others it
# is worth as much less as it really is, down to the least share, which is still above any rent.
UNCOVERED_USD_PER_HOUR = 1e5
LEAST_WORTH = 0.02
BELOW_FLOOR_USD_PER_HOUR = 1e6
OUTBID_MARGIN = 0.25  # whoever takes the GPUs of a running replica must have this much more use for them
SHADOW_PRICE = 0.05  # of the list price, for GPUs that are paid anyway: above nothing, so that ratios stay finite


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
    slots: int  # more that the pool could take
    open: bool = True  # whether the pool may be asked for more, even for GPUs that others give up


@dataclass(frozen=True, slots=True)
class Need:
    """What one deployment wants covered. `key` is namespace/name."""

    key: str
    units: float
    floor: int
    ceiling: int
    choices: tuple[Choice, ...]
    usd_per_unit_hour: float = 1.0  # what an hour of a unit's work costs where no replica does it

    @property
    def namespace(self) -> str:
        return self.key.partition("/")[0]

    @property
    def lacks(self) -> bool:
        """Whether the replicas that have their GPUs do not cover it."""
        units = sum(c.placed * c.units_per_replica for c in self.choices)
        return units < self.units - 1e-3 or sum(c.placed for c in self.choices) < self.floor


@dataclass(frozen=True, slots=True)
class Room:
    """What a pool holds for all deployments together."""

    pool: str
    free_gpus: int  # that they may newly take
    slots: tuple[tuple[int, int], ...] = ()  # GPUs of a replica, and how many of that size fit
    reserved_gpus: int = 0  # of those that replicas of this model hold or take: paid anyway
    usd_per_gpu_hour: float = 0.0
    # Namespaces that have a limit, and the GPUs that their replicas of this model may hold.
    namespace_gpus: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Mix:
    replicas: Mapping[str, int]  # by variant
    uncovered_units: float


def solve(needs: Sequence[Need], rooms: Iterable[Room]) -> dict[str, Mix]:
    """The cheapest mix for each need, by key. The order of needs and rooms does not matter.

    Raises RuntimeError if the solver fails: the model is always feasible, so that is a fault of ours.
    """
    most = max((need.usd_per_unit_hour for need in needs), default=0.0)
    weighed = [
        replace(need, usd_per_unit_hour=round(max(need.usd_per_unit_hour / most, LEAST_WORTH), 2) if most > 0 else 1.0)
        for need in needs
    ]
    return dict(_solve(tuple(sorted(weighed, key=lambda n: n.key)), tuple(sorted(rooms, key=lambda room: room.pool))))


class _Model:
    """Variables with their costs and bounds, and rows over them."""

    def __init__(self) -> None:
        self.cost: list[float] = []
        self.upper: list[float] = []
        self.integer: list[int] = []
        self.rows: list[dict[int, float]] = []
        self.low: list[float] = []
        self.high: list[float] = []

    def variable(self, cost: float, upper: float = np.inf, integer: bool = False) -> int:
        self.cost.append(cost)
        self.upper.append(upper)
        self.integer.append(int(integer))
        return len(self.cost) - 1

    def constrain(self, row: Mapping[int, float], low: float, high: float) -> None:
        self.rows.append(dict(row))
        self.low.append(low)
        self.high.append(high)

    def solve(self) -> np.ndarray:
        matrix = lil_array((len(self.rows), len(self.cost)))
        for i, row in enumerate(self.rows):
            for j, factor in row.items():
                matrix[i, j] = factor
        # The gap is relative to the whole cost, penalties included: it must stay below a cent of rent beside them.
        result = milp(
            np.array(self.cost),
            integrality=np.array(self.integer),
            bounds=Bounds(np.zeros(len(self.cost)), np.array(self.upper)),
            constraints=LinearConstraint(matrix.tocsr(), self.low, self.high),
            options={"node_limit": 20_000, "mip_rel_gap": 1e-9},
        )
        if result.x is None:
            raise RuntimeError(f"the placement model has no solution: {result.message}")
        found: np.ndarray = result.x
        return found


@dataclass(frozen=True, slots=True)
class _Column:
    """A choice's variables: replicas that stay, new ones, and GPUs given up to others (None: none may be)."""

    need: Need
    choice: Choice
    kept: int
    new: int
    given: int | None


# Most ticks change no input of the mix, and the solve is the dearest step of a plan.
@lru_cache(maxsize=64)
def _solve(needs: tuple[Need, ...], rooms: tuple[Room, ...]) -> dict[str, Mix]:
    if not any(need.choices for need in needs):
        return {need.key: Mix({}, need.units) for need in needs}
    model = _Model()
    columns = [_column(model, needs, need, choice) for need in needs for choice in need.choices]
    uncovered: dict[str, int] = {}
    for need in needs:
        own = [c for c in columns if c.need is need]
        uncovered[need.key] = model.variable(UNCOVERED_USD_PER_HOUR * need.usd_per_unit_hour)
        missing = model.variable(BELOW_FLOOR_USD_PER_HOUR)
        number = {v: 1.0 for c in own for v in (c.kept, c.new)}
        cover = {v: c.choice.units_per_replica for c in own for v in (c.kept, c.new)}
        # The tolerance keeps a replica of 0.9999 units from needing a second one for rounding's sake.
        model.constrain({**cover, uncovered[need.key]: 1}, need.units - 1e-3, np.inf)
        model.constrain(number, 0, need.ceiling)
        model.constrain({**number, missing: 1}, need.floor, np.inf)
    for room in rooms:
        _share(model, room, [c for c in columns if c.choice.pool == room.pool])
    found = model.solve()
    return {
        need.key: Mix(
            {c.choice.variant: round(found[c.kept] + found[c.new]) for c in columns if c.need is need},
            max(0.0, float(found[uncovered[need.key]]) - 1e-3),
        )
        for need in needs
    }


def _column(model: _Model, needs: Sequence[Need], need: Need, choice: Choice) -> _Column:
    tie = 1e-6 * len(model.cost)  # equal offers go in the order of the deployment's variants
    kept = model.variable(choice.usd_per_hour + tie, choice.placed, integer=True)
    # What others could give up is bounded by the rows of the pool.
    most = need.ceiling if choice.open and _rivals(needs, need, choice) else min(choice.slots, need.ceiling)
    start = choice.start_usd / START_COST_HORIZON_HOURS
    new = model.variable(choice.usd_per_hour + start + tie, most, integer=True)
    given = None
    if choice.placed and any(
        other is not need and other.lacks and c.open and c.pool == choice.pool
        for other in needs
        for c in other.choices
        if c.gpus_per_replica <= choice.gpus_per_replica
    ):
        worth = UNCOVERED_USD_PER_HOUR * need.usd_per_unit_hour * choice.units_per_replica / choice.gpus_per_replica
        given = model.variable(OUTBID_MARGIN * worth, choice.placed * choice.gpus_per_replica)
        gpus = float(choice.gpus_per_replica)
        model.constrain({given: 1.0, kept: gpus}, 0, choice.placed * gpus)
    return _Column(need, choice, kept, new, given)


def _rivals(needs: Sequence[Need], need: Need, choice: Choice) -> bool:
    """Whether others hold GPUs in the pool that a replica of this size could take whole: a smaller replica's GPUs
    may lie on another node than the next one's."""
    return need.lacks and any(
        c.pool == choice.pool and c.placed and c.gpus_per_replica >= choice.gpus_per_replica
        for other in needs
        if other is not need
        for c in other.choices
    )


def _share(model: _Model, room: Room, columns: Sequence[_Column]) -> None:
    """What all may hold of one pool."""
    if not columns:
        return
    slots = dict(room.slots)
    for size in sorted({c.choice.gpus_per_replica for c in columns}):
        large = [c for c in columns if c.choice.gpus_per_replica >= size]
        row = {c.new: float(c.choice.gpus_per_replica) for c in large}
        given = {c.given: -1.0 for c in large if c.given is not None}
        free = min(room.free_gpus, slots.get(size, room.free_gpus // size) * size)
        model.constrain({**row, **given}, -np.inf, free)
        # What a deployment gives up is for others: its own variants in the pool do not share it.
        for key in {c.need.key for c in columns if c.given is not None}:
            own = [c for c in large if c.need.key == key]
            if len(own) > 1:
                rest = {v: -1.0 for v in given if v not in {c.given for c in own}}
                model.constrain({**{c.new: float(c.choice.gpus_per_replica) for c in own}, **rest}, -np.inf, free)
    held = {v: float(c.choice.gpus_per_replica) for c in columns for v in (c.kept, c.new)}
    if room.reserved_gpus:
        paid = model.variable(-(1 - SHADOW_PRICE) * room.usd_per_gpu_hour, room.reserved_gpus)
        model.constrain({**held, paid: -1.0}, 0, np.inf)
    for namespace, most in room.namespace_gpus:
        own_held = {v: held[v] for c in columns if c.need.namespace == namespace for v in (c.kept, c.new)}
        if own_held:
            model.constrain(own_held, 0, max(0, most))
