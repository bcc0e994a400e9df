"""The virtual cluster: fleets that share pools, budgets and providers, in bins of ten seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from spillway.simulate.accounts import accounts, counting
from spillway.simulate.economics import BIN_SECONDS
from spillway.simulate.fleet import Fleet, Outlet, Quota
from spillway.simulate.fluid import FluidFleet
from spillway.simulate.requests.serving import RequestFleet
from spillway.simulate.traces import Arrivals
from spillway.simulate.world import World, within


class Cluster:
    """All fleets of a world, its pools and providers."""

    def __init__(self, world: World, requests: Mapping[str, Arrivals] | None = None) -> None:
        """`requests`: of each deployment, to be played one by one; None: work is a fluid."""
        self.world = world
        streams = np.random.default_rng(world.seed).spawn(len(world.deployments))
        self.accounts = accounts(world)
        self.fleets: dict[str, Fleet] = {}
        for spec, rng in zip(world.deployments, streams, strict=True):
            paying = counting(self.accounts, spec.key)
            self.fleets[spec.key] = (
                FluidFleet(spec, world, rng, paying)
                if requests is None
                else RequestFleet(spec, world, rng, paying, requests[spec.key])
            )
        self.whole_requests = requests is not None
        self.quotas: dict[str, Quota] = {}  # by API
        self.now = 0

    @property
    def seconds(self) -> float:
        """Since the begin."""
        return self.now * BIN_SECONDS

    def held(self) -> dict[str, int]:
        """GPUs that replicas hold, those that drain included, by pool."""
        found = {p.name: 0 for p in self.world.pools}
        for fleet in self.fleets.values():
            for pool, gpus in fleet.gpus(self.now):
                found[pool] += gpus
        return found

    def held_by_namespace(self) -> dict[str, dict[str, int]]:
        """The same, by pool and namespace."""
        found: dict[str, dict[str, int]] = {p.name: {} for p in self.world.pools}
        for fleet in self.fleets.values():
            for pool, gpus in fleet.gpus(self.now):
                found[pool][fleet.spec.namespace] = found[pool].get(fleet.spec.namespace, 0) + gpus
        return found

    def free(self) -> dict[str, int]:
        """GPUs that a replica can get now, by pool."""
        held = self.held()
        return {
            p.name: 0 if within(p.stock_outs, self.seconds) else max(0, p.gpus - held[p.name]) for p in self.world.pools
        }

    def advance(self) -> None:
        """Starts go on: at the begin of a bin, and once more when something was asked for."""
        due = [fleet for fleet in self.fleets.values() if fleet.next_change <= self.now]
        if due:
            free = self.free()
            for fleet in due:
                fleet.advance(self.now, free)

    def turn(self) -> None:
        """Budgets whose period has ended begin their next."""
        for account in self.accounts:
            account.turn(self.world.begin + self.seconds)

    def quota(self, api: str, requests_per_minute: float) -> Quota:
        """What an API takes in this bin. Of whole requests the part that is left over counts in the next."""
        requests = requests_per_minute * BIN_SECONDS / 60
        found = self.quotas.setdefault(api, Quota(0.0))
        rest = found.requests % 1 if self.whole_requests and math.isfinite(found.requests) else 0.0
        found.requests = requests + rest
        return found

    def serve(
        self,
        outside: Mapping[str, Sequence[Outlet]],
        shares: Mapping[str, float],
        gates: Mapping[str, int] | None = None,
    ) -> None:
        """One bin, with the providers that each deployment may use now, the share that goes there anyway, and the
        requests that its replicas take at once. Replicas are paid first: what they take of a Total budget cannot be
        spent outside any more."""
        if self.accounts:
            for fleet in self.fleets.values():
                fleet.pay_gpus()
        for key, fleet in self.fleets.items():
            fleet.serve(self.now, outside.get(key, ()), shares.get(key, 0.0), (gates or {}).get(key))
        self.now += 1

    def finish(self) -> None:
        """After the last bin."""
        for fleet in self.fleets.values():
            fleet.finish()
