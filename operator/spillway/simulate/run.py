"""Play a world under a pilot, from its first bin to its last."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from spillway.simulate.accounts import Account
from spillway.simulate.cluster import Cluster
from spillway.simulate.fleet import Ledger, Outlet, Quota
from spillway.simulate.pilots import Pilot, Steering
from spillway.simulate.requests.records import Records
from spillway.simulate.requests.serving import RequestFleet
from spillway.simulate.traces import Arrivals
from spillway.simulate.world import World, within

PROGRESS_BINS, PROGRESS_BINS_OF_REQUESTS = 360, 6


@dataclass(frozen=True, slots=True)
class Played:
    """What became of a world."""

    ledgers: Mapping[str, Ledger]  # by deployment
    gpus: Mapping[str, Sequence[int]]  # that replicas held, those that drain included, by pool and bin
    accounts: tuple[Account, ...]  # of the budgets, in the world's order
    records: Mapping[str, Records]  # by deployment, where requests were played one by one


def play(world: World, pilot: Pilot, progress: Callable[[int], None] | None = None) -> dict[str, Ledger]:
    """What each deployment did and cost, by key. `progress` hears every simulated hour of the bins that are done."""
    return dict(_play(Cluster(world), pilot, progress))


def play_out(
    world: World,
    pilot: Pilot,
    progress: Callable[[int], None] | None = None,
    requests: Mapping[str, Arrivals] | None = None,
) -> Played:
    """The same, with what became of pools and budgets. `requests`: of each deployment, to be played one by one; the
    traffic of the world's deployments must be their sums by bin, and `progress` then hears every simulated minute."""
    cluster = Cluster(world, requests)
    gpus: dict[str, list[int]] = {p.name: [] for p in world.pools}

    def look() -> None:
        for pool, held in cluster.held().items():
            gpus[pool].append(held)

    ledgers = _play(cluster, pilot, progress, look)
    fleets = cluster.fleets.items()
    records = {key: fleet.records() for key, fleet in fleets if isinstance(fleet, RequestFleet)}
    return Played(ledgers, gpus, cluster.accounts, records)


def _play(
    cluster: Cluster,
    pilot: Pilot,
    progress: Callable[[int], None] | None,
    look: Callable[[], None] | None = None,
) -> Mapping[str, Ledger]:
    """`look` is called in each bin, when it is settled who holds what."""
    world = cluster.world
    every = PROGRESS_BINS_OF_REQUESTS if cluster.whole_requests else PROGRESS_BINS
    for now in range(world.bins):
        cluster.turn()
        cluster.advance()
        steering = pilot.tick(cluster, {a.budget.key: a.left_usd for a in cluster.accounts})
        cluster.advance()
        if look is not None:
            look()
        cluster.serve(_outside(cluster, steering), steering.shares, steering.gates)
        if progress is not None and (now + 1) % every == 0:
            progress(now + 1)
    cluster.finish()
    if progress is not None:
        progress(world.bins)
    return {key: fleet.ledger for key, fleet in cluster.fleets.items()}


def _outside(cluster: Cluster, steering: Steering) -> dict[str, list[Outlet]]:
    """The providers that each deployment may use in this bin, in order; the models of one share its quota."""
    quotas: dict[str, Quota] = {}
    outlets = {}
    for provider in cluster.world.providers:
        if not within(provider.outages, cluster.seconds):
            if provider.api not in quotas:
                quotas[provider.api] = cluster.quota(provider.api, provider.requests_per_minute)
            outlets[provider.name] = Outlet(provider, quotas[provider.api])
    return {
        key: [outlets[n] for n in steering.providers.get(key, fleet.spec.usable) if n in outlets]
        for key, fleet in cluster.fleets.items()
    }
