"""One deployment's replicas: they start, serve and stop, and its ledger says what became of the work.

Units of work are replicas of a deployment's first variant as Spillway believes it to be. A replica is billed from
having its GPUs (cold start included), at least its minimum, plus the drain after a stop; the youngest stops first. How
work is served is for those that inherit: as a fluid (`fluid`) or request by request (`requests`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from spillway.decide.snapshot import EngineRates, Phase, Replica, Variant
from spillway.simulate.accounts import Account
from spillway.simulate.economics import BIN_SECONDS
from spillway.simulate.traces import Floats
from spillway.simulate.world import Faults, Traffic, VirtualDeployment, VirtualProvider, World

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
    late: list[float] = field(default_factory=list)  # served, but begun later than it may wait
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


@dataclass(slots=True)
class Served:
    """What became of the work of one bin: replica-bins, dollars, requests, and tokens that replicas did."""

    work: float = 0.0
    spilled: float = 0.0
    refused: float = 0.0
    late: float = 0.0
    external_usd: float = 0.0
    spilled_requests: float = 0.0
    refused_requests: float = 0.0
    input_tokens: float = 0.0
    output_tokens: float = 0.0


@dataclass(slots=True)
class Leaving:
    """A replica that was stopped and holds its GPUs until it has drained."""

    replica: VirtualReplica
    until: int  # bin


class Fleet(ABC):
    """One deployment in the cluster."""

    def __init__(
        self, spec: VirtualDeployment, world: World, rng: np.random.Generator, paying: tuple[Account, ...] = ()
    ) -> None:
        self.spec, self._world, self._rng, self.paying = spec, world, rng, paying
        first = spec.variants[0]
        traffic = spec.traffic
        self.work = work_of(first, traffic)
        self._sums = [np.concatenate(([0.0], np.cumsum(a))).tolist() for a in _columns(traffic)]
        self.replicas: list[VirtualReplica] = []
        self.queued = 0.0  # work that waits for the ready replicas
        self.ledger = Ledger()
        self.ready_units = 0.0
        self.ready_count = 0
        self.spilled_requests, self.refused_requests = [0.0], [0.0]  # cumulative, by bin
        self.served_tokens = [(0.0, 0.0)]  # input and output, cumulative, by bin
        self.next_change = 0
        self._leaving: list[Leaving] = []
        self._serial = 0
        self._starts = 0
        self._stop_usd = 0.0
        self._rent = 0.0
        self._billed = 0
        # What a replica of another variant does of the first one's work, by bin; at the mean mix where nothing arrives.
        self._units = {v.name: _ratio(self.work, work_of(v, traffic)) for v in spec.variants[1:]}
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
        per_bin = usd_per_bin(victim.variant)
        left = max(0, round(victim.variant.minimum_billing_seconds / BIN_SECONDS) - (now - victim.scheduled))
        drain = round(self._world.drain_seconds / BIN_SECONDS) if victim.ready <= now else 0
        self._stop_usd += (left + drain) * per_bin
        if drain:
            self._leaving.append(Leaving(victim, now + drain))

    def gpus(self, now: int) -> Iterator[tuple[str, int]]:
        """Pool and GPUs of each replica that holds some."""
        self._leaving = [one for one in self._leaving if one.until > now]
        yield from ((one.replica.variant.pool, one.replica.variant.gpus_per_replica) for one in self._leaving)
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

    def serve(self, now: int, outside: Sequence[Outlet], share: float = 0.0, gate: int | None = None) -> None:
        """One bin. `outside`: the providers that may be used, in order. `share`: of the work, that goes outside though
        replicas could take it. `gate`: requests that the ready replicas take at once; None: as many as wait in time."""
        done, ledger = self._serve(now, outside, share, gate), self.ledger
        last_in, last_out = self.served_tokens[-1]
        self.served_tokens.append((last_in + done.input_tokens, last_out + done.output_tokens))
        self.spilled_requests.append(self.spilled_requests[-1] + done.spilled_requests)
        self.refused_requests.append(self.refused_requests[-1] + done.refused_requests)
        ledger.asked.append(self._billed)
        ledger.ready.append(self.ready_count)
        ledger.served.append(done.work)
        ledger.spilled.append(done.spilled)
        ledger.refused.append(done.refused)
        ledger.late.append(done.late)
        ledger.gpu_usd.append(self._rent)
        ledger.external_usd.append(done.external_usd)
        ledger.stop_usd.append(self._stop_usd)
        ledger.starts.append(self._starts)
        self._stop_usd, self._starts = 0.0, 0

    @abstractmethod
    def _serve(self, now: int, outside: Sequence[Outlet], share: float, gate: int | None) -> Served:
        """What becomes of the bin's work."""

    def finish(self) -> None:  # noqa: B027 (nothing is left of a fluid that anybody asks for)
        """After the last bin: what is under way comes to its end."""

    def came(self, begin: int, until: int) -> Sequence[float]:
        """Requests, input and output tokens that came from bin `begin` to before `until`, as the operator sees them."""
        last = len(self._sums[0]) - 1
        begin, until = min(begin, last), min(until, last)
        return [sums[until] - sums[begin] for sums in self._sums]

    def pressing(self, begin: int, until: int) -> float:
        """Of what came, the share that the fleet is to be sized for."""
        return 1.0

    def shown(self, now: int) -> tuple[Replica, ...]:
        """The replicas as a snapshot has them."""
        found = []
        for replica in self.replicas:
            phase = (
                Phase.READY if replica.ready <= now else Phase.PENDING if replica.scheduled == NEVER else Phase.STARTING
            )
            if replica.shown is None or replica.shown[0].phase is not phase:
                idle = self._as_seen(replica, phase)
                busy = replace(idle, in_flight=replica.variant.concurrency, waiting=1)
                replica.shown = (idle, busy if phase is Phase.READY else idle)
            found.append(self._with_load(replica, *replica.shown))
        found += [self._as_seen(one.replica, Phase.STOPPING) for one in self._leaving if one.until > now]
        return tuple(found)

    def _with_load(self, replica: VirtualReplica, idle: Replica, busy: Replica) -> Replica:
        """As it is in a snapshot, with what it has to do."""
        return busy if self.queued > 1e-9 else idle

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


def work_of(variant: Variant, traffic: Traffic) -> Floats:
    """Replicas of the variant that each bin's tokens fill."""
    prefill = traffic.input_tokens / variant.prefill_tokens_per_second
    found: Floats = (prefill + traffic.output_tokens / variant.decode_tokens_per_second) / BIN_SECONDS
    return found


def _ratio(work: Floats, other: Floats) -> Floats:
    mean = float(work.sum()) / max(float(other.sum()), 1e-12)
    return np.where(other > 0, work / np.where(other > 0, other, 1.0), mean)


def _columns(traffic: Traffic) -> tuple[Floats, Floats, Floats]:
    return traffic.requests, traffic.input_tokens, traffic.output_tokens


def usd_per_bin(variant: Variant) -> float:
    return variant.usd_per_hour * BIN_SECONDS / 3600
