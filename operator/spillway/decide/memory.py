"""What `decide.plan` remembers from one tick to the next, and nothing else does.

It is handed in and handed out, so a restart that loads the last one forgets at most a minute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from spillway.decide.provisioning import State

MEMORY_VERSION = 2


@dataclass(frozen=True, slots=True)
class DrainingReplica:
    """A replica that left the gateway's endpoints at `since` and is to stop when it is empty."""

    name: str
    since: float


@dataclass(frozen=True, slots=True)
class FailedRevision:
    """A revision that is not tried again, and why, in words."""

    revision: str
    words: str


@dataclass(frozen=True, slots=True)
class HeldSpill:
    """Spill settings as they were when a pause or a dry run began."""

    gates: Mapping[str, float] = field(default_factory=dict)  # by variant, requests that a ready replica takes
    providers: tuple[tuple[str, str], ...] = ()  # provider and model, in the order in which they are tried


@dataclass(frozen=True, slots=True)
class CapacityMemory:
    """Of one variant: the regression of `decide.capacity`, weighted sums of products of the shares of a replica that
    prefill (`in`), decode (`out`) and the whole (`one`) took by the catalog, and the corrections that are in use."""

    in_in: float = 0.0
    in_out: float = 0.0
    out_out: float = 0.0
    in_one: float = 0.0
    out_one: float = 0.0
    seconds: float = 0.0  # of evidence
    full_since: float = 0.0  # since when all its replicas are saturated; 0: they are not
    prefill_correction: float = 1.0  # catalog's rate / learned rate
    decode_correction: float = 1.0

    @property
    def corrected(self) -> bool:
        return self.prefill_correction != 1.0 or self.decode_correction != 1.0


@dataclass(frozen=True, slots=True)
class ProviderMemory:
    """Of one provider pair: decayed sums of its answers and of how much longer they were than ours."""

    answers: float = 0.0
    verbosity_answers: float = 0.0  # each answer times its verbosity
    last_until: float = 0.0  # it failed: tried last until then


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """Tokens of five minutes with a ready replica: of its own answers, and of those that spilled."""

    begin: float
    local: float = 0.0
    outside: float = 0.0


@dataclass(frozen=True, slots=True)
class ShareMemory:
    """Of a deployment with a `maxShare`: the last hour, and since when nothing spills for it; 0: it may."""

    buckets: tuple[TokenBucket, ...] = ()
    shut_since: float = 0.0


@dataclass(frozen=True, slots=True)
class DeploymentMemory:
    """Of one deployment."""

    reference: str = ""  # the variant in whose units demand and layers are counted
    provisioning: State | None = None  # of the rule that says how many replicas
    desired: Mapping[str, int] = field(default_factory=dict)  # by variant, as last planned
    asked: Mapping[str, int] = field(
        default_factory=dict
    )  # by variant, what the workloads were told (drains still run)
    draining: tuple[DrainingReplica, ...] = ()
    cold_start_seconds: Mapping[str, float] = field(default_factory=dict)  # measured, by variant (EWMA)
    cold_starts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # by variant, the last ones
    capacity: Mapping[str, CapacityMemory] = field(default_factory=dict)  # by variant
    providers: Mapping[str, ProviderMemory] = field(default_factory=dict)  # by provider/model
    provider_order: tuple[str, ...] = ()  # in which they were tried last
    counted_starts: tuple[str, ...] = ()  # replicas whose cold start is in the EWMA
    worked: Mapping[str, str] = field(default_factory=dict)  # by variant, the revision that last proved itself
    alone_since: Mapping[str, float] = field(default_factory=dict)  # by variant, of its current revision
    began_with: Mapping[str, int] = field(default_factory=dict)  # by variant on its way, replicas that answered then
    failed: Mapping[str, FailedRevision] = field(default_factory=dict)  # by variant, of its current revision
    error_share: float = 0.0  # of the replicas' answers, while no new revision was among them
    held: HeldSpill | None = None  # None: neither paused nor a dry run
    share: ShareMemory | None = None  # None: nothing limits it
    demand_changed_at: float = 0.0  # when demand last crossed the number of layers that are on
    demand_seen_at: float = 0.0  # when there was any

    @property
    def layers_on(self) -> int:
        """Replicas of the reference variant that the rule wanted last."""
        return self.provisioning.on if self.provisioning is not None else 0

    def lasting(self) -> DeploymentMemory:
        """Without the statistics that fade from tick to tick though nothing happens: what is worth a write."""
        share = replace(self.share, buckets=self.share.buckets[:-1]) if self.share is not None else None
        return replace(self, provisioning=None, capacity={}, providers={}, share=share)


@dataclass(frozen=True, slots=True)
class PoolMemory:
    """Of one pool: a stock-out and when to try again."""

    closed_until: float = 0.0
    closed_since: float = 0.0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Memory:
    version: int = MEMORY_VERSION
    time: float = 0.0  # of the last plan; 0: never planned
    deployments: Mapping[str, DeploymentMemory] = field(default_factory=dict)
    pools: Mapping[str, PoolMemory] = field(default_factory=dict)

    def lasting(self) -> Memory:
        """Without its time and what fades: equal, as long as nothing happens."""
        return replace(self, time=0.0, deployments={key: one.lasting() for key, one in self.deployments.items()})
