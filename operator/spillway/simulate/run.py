"""Play a world under a pilot, from its first bin to its last."""

from __future__ import annotations

from collections.abc import Callable

from spillway.simulate.cluster import Cluster, Ledger, Outlet
from spillway.simulate.economics import BIN_SECONDS
from spillway.simulate.pilots import Pilot
from spillway.simulate.world import World, within

PROGRESS_BINS = 360


def play(world: World, pilot: Pilot, progress: Callable[[int], None] | None = None) -> dict[str, Ledger]:
    """What each deployment did and cost, by key. `progress` hears every simulated hour of the bins that are done."""
    cluster = Cluster(world)
    left = {b.name: b.usd for b in world.budgets}
    spent_until = {b.name: 0 for b in world.budgets}
    for now in range(world.bins):
        for budget in world.budgets:
            period = int(now * BIN_SECONDS // budget.period_seconds)
            if period != spent_until[budget.name]:
                spent_until[budget.name], left[budget.name] = period, budget.usd
        cluster.advance()
        steering = pilot.tick(cluster, left)
        cluster.advance()
        up = [p for p in world.providers if not within(p.outages, now * BIN_SECONDS)]
        outlets = {
            p.name: Outlet(p, p.requests_per_minute * BIN_SECONDS / 60, min(left.values(), default=float("inf")))
            for p in up
        }
        outside = {
            key: [outlets[n] for n in steering.providers.get(key, fleet.spec.providers) if n in outlets]
            for key, fleet in cluster.fleets.items()
        }
        cluster.serve(outside, steering.shares)
        if left:
            _charge(cluster, world, left)
        if progress is not None and (now + 1) % PROGRESS_BINS == 0:
            progress(now + 1)
    if progress is not None:
        progress(world.bins)
    return {key: fleet.ledger for key, fleet in cluster.fleets.items()}


def _charge(cluster: Cluster, world: World, left: dict[str, float]) -> None:
    """Take the last bin's dollars from the budgets."""
    external = sum(f.ledger.external_usd[-1] for f in cluster.fleets.values())
    gpus = sum(f.ledger.gpu_usd[-1] + f.ledger.stop_usd[-1] for f in cluster.fleets.values())
    for budget in world.budgets:
        left[budget.name] -= external + (gpus if budget.scope == "Total" else 0.0)
