"""Play a world under a pilot, from its first bin to its last."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from spillway.simulate.accounts import Account
from spillway.simulate.cluster import Cluster
from spillway.simulate.economics import BIN_SECONDS
from spillway.simulate.fleet import Ledger, Outlet, Quota
from spillway.simulate.pilots import Pilot, Steering
from spillway.simulate.world import World, within

PROGRESS_BINS = 360


@dataclass(frozen=True, slots=True)
class Played:
    """What became of a world."""

    ledgers: Mapping[str, Ledger]  # by deployment
    gpus: Mapping[str, Sequence[int]]  # that replicas held, those that drain included, by pool and bin
    accounts: tuple[Account, ...]  # of the budgets, in the world's order


def play(world: World, pilot: Pilot, progress: Callable[[int], None] | None = None) -> dict[str, Ledger]:
    """What each deployment did and cost, by key. `progress` hears every simulated hour of the bins that are done."""
    return dict(_play(Cluster(world), pilot, progress))


def play_out(world: World, pilot: Pilot, progress: Callable[[int], None] | None = None) -> Played:
    """The same, with what became of pools and budgets."""
    cluster = Cluster(world)
    gpus: dict[str, list[int]] = {p.name: [] for p in world.pools}

    def look() -> None:
        for pool, held in cluster.held().items():
            gpus[pool].append(held)

    ledgers = _play(cluster, pilot, progress, look)
    return Played(ledgers, gpus, cluster.accounts)


def _play(
    cluster: Cluster,
    pilot: Pilot,
    progress: Callable[[int], None] | None,
    look: Callable[[], None] | None = None,
) -> Mapping[str, Ledger]:
    """`look` is called in each bin, when it is settled who holds what."""
    world = cluster.world
    for now in range(world.bins):
        cluster.turn()
        cluster.advance()
        steering = pilot.tick(cluster, {a.budget.key: a.left_usd for a in cluster.accounts})
        cluster.advance()
        if look is not None:
            look()
        cluster.serve(_outside(cluster, steering), steering.shares)
        if progress is not None and (now + 1) % PROGRESS_BINS == 0:
            progress(now + 1)
    if progress is not None:
        progress(world.bins)
    return {key: fleet.ledger for key, fleet in cluster.fleets.items()}


def _outside(cluster: Cluster, steering: Steering) -> dict[str, list[Outlet]]:
    """The providers that each deployment may use in this bin, in order; the models of one share its quota."""
    quotas: dict[str, Quota] = {}
    outlets = {
        p.name: Outlet(p, quotas.setdefault(p.api, Quota(p.requests_per_minute * BIN_SECONDS / 60)))
        for p in cluster.world.providers
        if not within(p.outages, cluster.seconds)
    }
    return {
        key: [outlets[n] for n in steering.providers.get(key, fleet.spec.usable) if n in outlets]
        for key, fleet in cluster.fleets.items()
    }
