"""What `decide.plan` returns: what shall run, what may spill, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from spillway.decide.reasons import Code


@dataclass(frozen=True, slots=True)
class Decision:
    """One change, or one change that an observer would expect and that was not made."""

    code: Code
    message: str  # in words and dollars
    variant: str = ""
    before: int = 0
    after: int = 0
    usd_per_hour: float = 0.0  # change of the running cost

    @property
    def changes(self) -> bool:
        return self.before != self.after


@dataclass(frozen=True, slots=True)
class WorkloadPlan:
    """What the workload of one variant and revision shall ask for. Replicas in `draining` take no new requests. One
    that is `kept` stays though it may ask for none: there may be a way back to it."""

    variant: str
    revision: str
    replicas: int
    draining: tuple[str, ...] = ()
    kept: bool = False


@dataclass(frozen=True, slots=True)
class ProviderPlan:
    """One provider pair: may it be tried, and with how many requests in flight over all gateways."""

    provider: str
    model: str
    permitted: bool
    cap: int
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a client is told that can neither be served locally nor spilled."""

    status: int
    code: str
    message: str
    retry_after_seconds: int


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """A pair that spec.routes names: as for spill, and what a client of the route reads while it is shut."""

    provider: str
    model: str
    permitted: bool
    cap: int
    refusal: Refusal
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class SpillPlan:
    allowed: bool
    lease_seconds: float
    providers: tuple[ProviderPlan, ...]
    refusal: Refusal
    reason: str = ""  # why it is not allowed, or why it is at work
    message: str = ""
    routes: tuple[RoutePlan, ...] = ()
    when_full: bool = True  # what finds the replicas full may go out
    when_empty: bool = True  # what finds no replica
    hold_seconds: float = 0.0  # for which what finds no replica waits, if it may not go out


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a replica is taken to do, and whether its engines showed it or the catalog says so."""

    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    learned: bool = False


@dataclass(frozen=True, slots=True)
class DeploymentPlan:
    key: str
    desired: Mapping[str, int]  # replicas by variant
    workloads: tuple[WorkloadPlan, ...]
    gate: int  # in-flight requests that the ready replicas take, over all gateways
    spill: SpillPlan
    decisions: tuple[Decision, ...] = ()
    work: float | None = None  # replicas of the reference variant that demand would fill; None: no metrics
    reference: str = ""
    spill_cost_ratio: float | None = None  # kappa: spill cost / replica cost for the same work
    metrics_stale: bool = False
    cold_start_seconds: Mapping[str, float] = field(default_factory=dict)
    capacity: Mapping[str, Capacity] = field(default_factory=dict)  # by variant

    @property
    def replicas(self) -> int:
        return sum(self.desired.values())


@dataclass(frozen=True, slots=True)
class PoolPlan:
    name: str
    out_of_capacity_since: float | None
    retry_at: float | None  # in the past: it is being asked again now


@dataclass(frozen=True, slots=True)
class Plan:
    time: float
    deployments: tuple[DeploymentPlan, ...]
    pools: tuple[PoolPlan, ...] = ()

    def deployment(self, key: str) -> DeploymentPlan | None:
        return next((d for d in self.deployments if d.key == key), None)
