"""The virtual cluster: replicas that start, serve and stop, a queue in front of them, providers behind.

Fluid, in bins of ten seconds. Units of work are replicas of a deployment's first variant as Spillway believes it to
be. A replica is billed from having its GPUs (cold start included), at least its minimum, plus the drain after a stop;
the youngest stops first. Work is served locally first; what would wait longer than `queue_seconds` goes to the first
provider that takes it, and what none takes is refused.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from spillway.decide.snapshot import EngineRates, Phase, Replica, Variant
from spillway.simulate.accounts import Account, accounts, counting
from spillway.simulate.economics import BIN_SECONDS
from spillway.simulate.load import SECONDS_PER_OUTPUT_TOKEN
from spillway.simulate.traces import Floats
from spillway.simulate.world import Faults, Traffic, VirtualDeployment, VirtualProvider, World, within

NEVER = 1 << 60
FAILED_START_SECONDS = 60.0  # after which a start that failed begins again


@dataclass(slots=True)
class VirtualReplica:
    name: str
    variant: Variant
    asked: int  # bin
    scheduled: int = NEVER
    ready: int = NEVER
    shown: tuple[Replica, Replica] | None = None  # as it is in a snapshot, idle and busy, until its phase changes


@dataclass(slots=True)
class Ledger:
    """What one deployment did and cost, by bin. Dollars of a stop (unexpired minimum, drain) are in `stop_usd`."""

    asked: list[int] = field(default_factory=list)
    ready: list[int] = field(default_factory=list)
    served: list[float] = field(default_factory=list)
    spilled: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    gpu_usd: list[float] = field(default_factory=list)
    external_usd: list[float] = field(default_factory=list)
    stop_usd: list[float] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Quota:
    """Requests that a provider still takes in this bin, over all of its models and all deployments."""

    requests: float


@dataclass(slots=True)
class Outlet:
    """A provider that may be used."""

    provider: VirtualProvider
    quota: Quota


class Deferred:
    """Work that may wait: it fills what the replicas have left, the oldest first, and is work like any other once its
    deadline has come. Until then it never goes outside, and it is no reason to start a replica."""

    def __init__(self, share: float, deadline_seconds: float) -> None:
        self._share, self._bins = share, round(deadline_seconds / BIN_SECONDS)
        self._waiting: deque[tuple[int, float]] = deque()  # deadline (bin) and work
        self.seen = [0.0]  # work that could not wait (any longer) or was done early, cumulative, by bin

    def due(self, now: int, work: float) -> float:
        """The work of this bin that cannot wait, deadlines that have come included."""
        waits = work * self._share
        work -= waits
        self._waiting.append((now + self._bins, waits))
        while self._waiting and self._waiting[0][0] <= now:
            work += self._waiting.popleft()[1]
        self.seen.append(self.seen[-1] + work)
        return work

    def fill(self, room: float) -> float:
        """Waiting work for which there is room now."""
        taken = 0.0
        while self._waiting and taken < room:
            deadline, work = self._waiting.popleft()
            part = min(work, room - taken)
            taken += part
            if part < work:
                self._waiting.appendleft((deadline, work - part))
        self.seen[-1] += taken
        return taken


class Fleet:
    """One deployment in the cluster."""

    def __init__(
        self, spec: VirtualDeployment, world: World, rng: np.random.Generator, paying: tuple[Account, ...] = ()
    ) -> None:
        self.spec, self._world, self._rng, self.paying = spec, world, rng, paying
        first = spec.variants[0]
        traffic = spec.traffic
        self.work = _work(first, traffic)
        self.replicas: list[VirtualReplica] = []
        self.queued = 0.0
        self.ledger = Ledger()
        self.ready_units = 0.0
        self.ready_count = 0
        self.spilled_requests, self.refused_requests = [0.0], [0.0]  # cumulative, by bin
        self.deferred = Deferred(spec.deferrable_share, spec.deadline_seconds) if spec.deferrable_share else None
        self.served_tokens = [(0.0, 0.0)]  # input and output, cumulative, by bin
        self.next_change = 0
        self._leaving: list[tuple[int, VirtualReplica]] = []  # until which bin a replica drains
        self._serial = 0
        self._starts = 0
        self._stop_usd = 0.0
        self._rent = 0.0
        self._billed = 0
        # What a replica of another variant does of the first one's work, by bin; at the mean mix where nothing arrives.
        self._units = {v.name: _ratio(self.work, _work(v, traffic)) for v in spec.variants[1:]}
        total = max(float(self.work.sum()), 1e-12)
        self._mean_per_unit = (
            float(traffic.requests.sum()) / total,
            float(traffic.input_tokens.sum()) / total,
            float(traffic.output_tokens.sum()) / total,
        )
        for _ in range(spec.ready_at_begin):
            self._add(first, -10_000)
            self.replicas[-1].scheduled = self.replicas[-1].ready = -10_000

    def asked(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for replica in self.replicas:
            found[replica.variant.name] = found.get(replica.variant.name, 0) + 1
        return found

    def units(self, variant: Variant, now: int) -> float:
        """Work that a replica really does, in units of the first variant as believed, at the mix of the bin."""
        factor = 1 - self.spec.capacity_error
        return factor if variant.name == self.spec.variants[0].name else factor * float(self._units[variant.name][now])

    def scale(self, variant: Variant, wanted: int, now: int) -> None:
        """Ask for so many replicas of the variant."""
        mine = [r for r in self.replicas if r.variant.name == variant.name]
        for _ in range(wanted - len(mine)):
            self._add(variant, now)
            self._starts += 1
        surplus = sorted(mine, key=lambda r: (r.ready <= now, -r.asked))[: max(0, len(mine) - wanted)]
        for victim in surplus:
            self._stop(victim, now)
        self.next_change = min(self.next_change, now)

    def _add(self, variant: Variant, now: int) -> None:
        self._serial += 1
        self.replicas.append(VirtualReplica(f"{self.spec.name}-{self._serial:05d}", variant, now))

    def _stop(self, victim: VirtualReplica, now: int) -> None:
        self.replicas.remove(victim)
        if victim.scheduled == NEVER:
            return
        per_bin = victim.variant.usd_per_hour * BIN_SECONDS / 3600
        left = max(0, round(victim.variant.minimum_billing_seconds / BIN_SECONDS) - (now - victim.scheduled))
        drain = round(self._world.drain_seconds / BIN_SECONDS) if victim.ready <= now else 0
        self._stop_usd += (left + drain) * per_bin
        if drain:
            self._leaving.append((now + drain, victim))

    def gpus(self, now: int) -> Iterator[tuple[str, int]]:
        """Pool and GPUs of each replica that holds some."""
        self._leaving = [one for one in self._leaving if one[0] > now]
        yield from ((r.variant.pool, r.variant.gpus_per_replica) for _, r in self._leaving)
        yield from ((r.variant.pool, r.variant.gpus_per_replica) for r in self.replicas if r.scheduled != NEVER)

    def advance(self, now: int, free: dict[str, int]) -> None:
        """Starts that have come as far as they come by this bin. `free`: GPUs by pool, taken from as they are given."""
        if now < self.next_change:
            return
        faults = self._world.faults
        for replica in self.replicas:
            if replica.scheduled == NEVER and free.get(replica.variant.pool, 0) >= replica.variant.gpus_per_replica:
                free[replica.variant.pool] -= replica.variant.gpus_per_replica
                replica.scheduled, replica.shown = now, None
                replica.ready = now + self._delay(replica.variant, faults)
        pending = any(r.scheduled == NEVER for r in self.replicas)
        ready = [r for r in self.replicas if r.ready <= now]
        later = min((r.ready for r in self.replicas if r.ready > now), default=NEVER)
        self.next_change = now + 1 if pending or len(self.spec.variants) > 1 else later
        self.ready_count = len(ready)
        self.ready_units = sum(self.units(r.variant, now) for r in ready)
        given = [r for r in self.replicas if r.scheduled != NEVER]
        self._billed = len(given)
        self._rent = sum(r.variant.usd_per_hour for r in given) * BIN_SECONDS / 3600

    def pay_gpus(self) -> None:
        """Charge this bin's rent, and what stops cost since the last, to the budgets of GPU dollars."""
        for account in self.paying:
            if account.gpu:
                account.spent_usd += self._rent + self._stop_usd

    def _delay(self, variant: Variant, faults: Faults) -> int:
        """Bins from having GPUs to answering."""
        seconds = variant.cold_start_seconds
        if faults.delay_cv > 0:
            sigma = math.sqrt(math.log(1 + faults.delay_cv**2))
            seconds *= float(self._rng.lognormal(-(sigma**2) / 2, sigma))
        while faults.start_failure_share > 0 and self._rng.random() < faults.start_failure_share:
            seconds += variant.cold_start_seconds + FAILED_START_SECONDS
        return round(seconds / BIN_SECONDS)

    def serve(self, now: int, outside: Sequence[Outlet], share: float = 0.0) -> None:
        """One bin. `outside`: the providers that may be used, in order. `share`: of the work, that goes outside though
        replicas could take it."""
        ledger, work = self.ledger, float(self.work[now]) if now < len(self.work) else 0.0
        if self.deferred is not None:
            work = self.deferred.due(now, work)
        out = work * share
        self.queued += work - out
        served = min(self.queued, self.ready_units)
        self.queued -= served
        if self.deferred is not None and self.queued <= 0:
            served += self.deferred.fill(self.ready_units - served)
        excess = self.queued - self.ready_units * self.spec.queue_seconds / BIN_SECONDS
        if excess > 0:
            self.queued -= excess
            out += excess
        spilled = external = 0.0
        requests, tokens_in, tokens_out = self._per_unit(now)
        last_in, last_out = self.served_tokens[-1]
        self.served_tokens.append((last_in + served * tokens_in, last_out + served * tokens_out))
        if out > 0:
            spilled, external = self._outside(now, out, requests, tokens_in, tokens_out, outside)
        self.spilled_requests.append(self.spilled_requests[-1] + spilled * requests)
        self.refused_requests.append(self.refused_requests[-1] + (out - spilled) * requests)
        ledger.asked.append(self._billed)
        ledger.ready.append(self.ready_count)
        ledger.served.append(served)
        ledger.spilled.append(spilled)
        ledger.refused.append(out - spilled)
        ledger.gpu_usd.append(self._rent)
        ledger.external_usd.append(external)
        ledger.stop_usd.append(self._stop_usd)
        ledger.starts.append(self._starts)
        self._stop_usd, self._starts = 0.0, 0

    def _per_unit(self, now: int) -> tuple[float, float, float]:
        """Requests, input and output tokens in a replica-bin of work of this bin. What is served or overflows in an
        empty one came before: it is of the mean mix."""
        work = float(self.work[now]) if now < len(self.work) else 0.0
        if work <= 0:
            return self._mean_per_unit
        traffic = self.spec.traffic
        return (
            float(traffic.requests[now]) / work,
            float(traffic.input_tokens[now]) / work,
            float(traffic.output_tokens[now]) / work,
        )

    def _outside(
        self,
        now: int,
        out: float,
        requests: float,
        tokens_in: float,
        tokens_out: float,
        outside: Sequence[Outlet],
    ) -> tuple[float, float]:
        """Work that providers take, and its dollars. Requests and tokens are those in a replica-bin of work."""
        spilled = usd = 0.0
        paying = [account for account in self.paying if account.external]
        for outlet in outside:
            provider = outlet.provider
            price_in, price_out = provider.prices(now * BIN_SECONDS)
            per_unit = (tokens_in * price_in + tokens_out * provider.verbosity * price_out) / 1e6
            left = min((account.left_usd for account in paying), default=math.inf)
            streamed = tokens_out * provider.verbosity * SECONDS_PER_OUTPUT_TOKEN  # seconds in flight, over the unit
            take = min(
                out - spilled,
                outlet.quota.requests / requests if requests > 0 else out,
                max(0.0, left) / per_unit if per_unit > 0 else out,
                provider.concurrent * BIN_SECONDS / streamed if streamed > 0 else out,
            )
            if take <= 0:
                continue
            outlet.quota.requests -= take * requests
            for account in paying:
                account.spent_usd += take * per_unit
            usd += take * per_unit
            spilled += take
        return spilled, usd

    def shown(self, now: int) -> tuple[Replica, ...]:
        """The replicas as a snapshot has them. While work waits, every ready one is full."""
        full = self.queued > 1e-9
        found = []
        for replica in self.replicas:
            phase = (
                Phase.READY if replica.ready <= now else Phase.PENDING if replica.scheduled == NEVER else Phase.STARTING
            )
            if replica.shown is None or replica.shown[0].phase is not phase:
                idle = self._as_seen(replica, phase)
                busy = replace(idle, in_flight=replica.variant.concurrency, waiting=1)
                replica.shown = (idle, busy if phase is Phase.READY else idle)
            found.append(replica.shown[full])
        found += [self._as_seen(r, Phase.STOPPING) for until, r in self._leaving if until > now]
        return tuple(found)

    def _as_seen(self, replica: VirtualReplica, phase: Phase) -> Replica:
        begin = self._world.begin
        return Replica(
            replica.name,
            replica.variant.name,
            replica.variant.revision,
            phase,
            begin + replica.asked * BIN_SECONDS,
            None if replica.scheduled == NEVER else begin + replica.scheduled * BIN_SECONDS,
            begin + replica.ready * BIN_SECONDS if phase is Phase.READY else None,
            in_flight=0,
        )

    def rates(self, now: int, begin: int, until: int) -> tuple[EngineRates, ...]:
        """What the engines of each variant did on average from bin `begin` to before `until`: each its share of what
        was served, by what its replicas do."""
        seconds = max(until - begin, 1) * BIN_SECONDS
        served_in = (self.served_tokens[until][0] - self.served_tokens[begin][0]) / seconds
        served_out = (self.served_tokens[until][1] - self.served_tokens[begin][1]) / seconds
        if self.ready_units <= 0:
            return ()
        found = []
        for variant in self.spec.variants:
            ready = sum(r.variant.name == variant.name and r.ready <= now for r in self.replicas)
            if ready:
                share = ready * self.units(variant, min(now, len(self.work) - 1)) / self.ready_units
                found.append(EngineRates(variant.name, served_in * share, served_out * share))
        return tuple(found)


def _work(variant: Variant, traffic: Traffic) -> Floats:
    """Replicas that each bin's tokens fill."""
    prefill = traffic.input_tokens / variant.prefill_tokens_per_second
    found: Floats = (prefill + traffic.output_tokens / variant.decode_tokens_per_second) / BIN_SECONDS
    return found


def _ratio(work: Floats, other: Floats) -> Floats:
    mean = float(work.sum()) / max(float(other.sum()), 1e-12)
    return np.where(other > 0, work / np.where(other > 0, other, 1.0), mean)


class Cluster:
    """All fleets of a world, its pools and providers."""

    def __init__(self, world: World) -> None:
        self.world = world
        streams = np.random.default_rng(world.seed).spawn(len(world.deployments))
        self.accounts = accounts(world)
        self.fleets = {
            d.key: Fleet(d, world, rng, counting(self.accounts, d.key))
            for d, rng in zip(world.deployments, streams, strict=True)
        }
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

    def serve(self, outside: Mapping[str, Sequence[Outlet]], shares: Mapping[str, float]) -> None:
        """One bin, with the providers that each deployment may use now, and the share that goes there anyway. Replicas
        are paid first: what they take of a Total budget cannot be spent outside any more."""
        if self.accounts:
            for fleet in self.fleets.values():
                fleet.pay_gpus()
        for key, fleet in self.fleets.items():
            fleet.serve(self.now, outside.get(key, ()), shares.get(key, 0.0))
        self.now += 1
