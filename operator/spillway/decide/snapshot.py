"""What the operator knows at one moment: the whole input of `decide.plan`.

Frozen, without behaviour beyond look-ups, and free of Kubernetes objects: `observe` fills it from informer caches,
Prometheus and the ledger; `simulate` fills it from a virtual cluster. Times are Unix seconds, prices US dollars.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from spillway.decide.provisioning import DEFAULT_RULE

SATURATED_KV_USE = 0.8
"""Above it a KV cache has no room for the growth of the requests that it holds (decisions.md §1)."""


class Phase(StrEnum):
    """Where a replica is on its way from being asked for to serving."""

    PENDING = "Pending"  # asked for, no node yet
    STARTING = "Starting"  # has GPUs (and costs money), loads weights
    READY = "Ready"  # answers
    STOPPING = "Stopping"  # told to end; finishes what it has


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the model: pool, precision and engine with the catalog's numbers for one replica of it."""

    name: str
    pool: str
    precision: str
    engine: str
    revision: str  # of the workload that the current spec asks for
    gpus_per_replica: int
    usd_per_hour: float  # one replica: GPUs times the pool's price
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    concurrency: int  # requests that run at once within the latency target
    cold_start_seconds: float  # the catalog's estimate; measured times replace it
    minimum_billing_seconds: float = 0.0
    nodes_per_replica: int = 1  # more than one: a replica is a group of pods, one on each node


@dataclass(frozen=True, slots=True)
class Retired:
    """A variant that still has replicas, though the spec, or what fits, no longer has it."""

    name: str
    pool: str  # empty: the pool is gone, too
    gpus_per_replica: int
    usd_per_hour: float  # one replica


@dataclass(frozen=True, slots=True)
class Replica:
    """One running copy, as its pod shows it, or as the pods of its group do; the leader's name stands for a group."""

    name: str
    variant: str
    revision: str
    phase: Phase
    asked_at: float
    scheduled_at: float | None = None
    ready_at: float | None = None
    in_flight: int | None = None  # running and waiting in the engine; None: not known
    group: int | None = None  # index of its group; None: a replica of one pod
    waiting: int | None = None  # of those: for a place in the batch
    kv_use: float | None = None  # share of the KV cache, 0 to 1, of the fullest data parallel rank
    failure: str = ""  # why Kubernetes cannot get its containers to run, in words; empty: it has not failed

    @property
    def saturated(self) -> bool:
        """Whether it works at its limit: one request more would wait, or push another out."""
        return bool(self.waiting) or (self.kv_use is not None and self.kv_use > SATURATED_KV_USE)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a workload object asks for now (`spec.replicas`) for a variant and revision."""

    variant: str
    revision: str
    replicas: int
    refused: str = ""  # why Kubernetes does not create its pods (quota, admission); empty: it does


@dataclass(frozen=True, slots=True)
class Demand:
    """Traffic of one deployment as the gateway sees it, refused and spilled requests included."""

    requests_per_second: float
    input_tokens_per_request: float
    output_tokens_per_request: float
    spilled_per_second: float = 0.0  # requests answered by providers
    refused_per_second: float = 0.0  # requests answered with 429 or 503 for want of capacity
    in_flight_external: float = 0.0
    local_answers_per_second: float = 0.0  # by the replicas, errors included
    local_output_tokens: float | None = None  # of an answer of the replicas; None: not known
    local_errors_per_second: float = 0.0  # of those: 5xx
    age_seconds: float = 0.0  # of the newest sample


@dataclass(frozen=True, slots=True)
class EngineRates:
    """What the engines of one variant did lately; latencies are 95th percentiles, None without requests."""

    variant: str
    input_tokens_per_second: float = 0.0
    output_tokens_per_second: float = 0.0
    preemptions_per_second: float = 0.0  # requests pushed out of the KV cache, to be computed again
    rejections_per_second: float = 0.0  # requests that a full engine answered with 503
    time_to_first_token_seconds: float | None = None  # the engine's queue included
    inter_token_latency_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ProviderOption:
    """One (provider, model) pair that the deployment names, in its order, with what the money allows it."""

    provider: str
    model: str
    usd_per_million_input: float
    usd_per_million_output: float
    affordable_in_flight: int = 0  # cap from the ledger: what may be in flight without breaking any budget
    unavailable: str = ""  # reason code; empty: may be used
    unavailable_message: str = ""
    verbosity: float = 1.0  # output tokens relative to the deployment's own for the same task
    failing: bool = False  # most of its requests fail lately
    answers_per_second: float = 0.0  # with a usage block, lately
    output_tokens_per_answer: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.provider}/{self.model}"

    def usd_per_request(self, input_tokens: float, output_tokens: float) -> float:
        """Dollars of a request to which the deployment itself would answer with so many tokens."""
        output = output_tokens * self.verbosity
        return (input_tokens * self.usd_per_million_input + output * self.usd_per_million_output) / 1e6


@dataclass(frozen=True, slots=True)
class HintWindow:
    """A known event: from `begin` to `end` (Unix seconds) at least so many replicas shall answer."""

    begin: float
    end: float
    min_replicas: int


@dataclass(frozen=True, slots=True)
class Deployment:
    """One MoEDeployment: its wishes, its ways to run, its replicas and its traffic."""

    namespace: str
    name: str
    min_replicas: int
    max_replicas: int
    pinned_replicas: int  # 0: automatic
    queue_seconds: float  # for which a request may wait
    variants: tuple[Variant, ...]  # feasible ones, in the user's or the catalog's order
    asked: tuple[Asked, ...] = ()
    replicas: tuple[Replica, ...] = ()
    demand: Demand | None = None  # None: no metrics
    rates: tuple[EngineRates, ...] = ()  # by variant; one that is absent served nothing
    providers: tuple[ProviderOption, ...] = ()
    cheapest_first: bool = True  # of the providers; else in their order
    spill_when: tuple[str, ...] = ("Saturated", "ColdStart", "NoCapacity", "Unavailable", "Rollout")
    max_share: float | None = None  # of the last hour's tokens that may spill while a replica is ready; None: all
    max_share_of: str = "spec.spill.maxShare"  # who says so
    hold_seconds: int | None = 0  # for which a request waits for the first replica; None: by how long starts take
    last_request_at: float = 0.0  # when the gateways last got one; 0: not since this operator reads them
    routed: tuple[ProviderOption, ...] = ()  # pairs that spec.routes sends requests to, each once
    policies: tuple[str, ...] = ()  # CostPolicies that select the namespace
    lease_seconds: float = 15.0  # how long the gateway may spill without word from us (ledger)
    usd_value_per_request: float = 0.0  # what serving one request is worth
    paused: bool = False
    dry_run: bool = False
    rollout: str = "SpillAssisted"  # how a new revision takes over: SpillAssisted, Surge or Recreate
    retired: tuple[Retired, ...] = ()
    floor_only: bool = False  # a GPU or Total budget is spent: scale to the floor
    floor_limit: str = ""  # why min_replicas is less than the spec asks for, in words
    first_token_seconds: float | None = None  # promised, the queue included
    inter_token_seconds: float | None = None  # promised, from token to token
    hints: tuple[HintWindow, ...] = ()  # those that go on, and the next ones

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    def variant(self, name: str) -> Variant | None:
        return next((v for v in self.variants if v.name == name), None)


@dataclass(frozen=True, slots=True)
class Pool:
    """GPUs of one kind. `free_slots` counts whole replicas by size, since each pod needs its GPUs on one node."""

    name: str
    free_gpus_by_node: tuple[int, ...] = ()  # free of all pods, ours or not
    growable_gpus: int = 0  # that the pool may still provision (capacity.maxGPUs less what is there)
    gpus_per_node: int = 8
    provisioning_timeout_seconds: float = 900.0
    max_gpus: int | None = None  # never more than this in use by Spillway
    used_gpus: int = 0  # by Spillway's pods with a node
    used_by_namespace: Mapping[str, int] = field(default_factory=dict)  # of those
    max_gpus_per_namespace: int | None = None
    foreign_gpus: int = 0  # held by pods that are not Spillway's
    usd_per_gpu_hour: float = 0.0
    reserved_gpus: int = 0  # paid whether used or not

    def free_slots(self, gpus_per_replica: int, nodes: int = 1) -> int:
        """Replicas of that many GPUs, in equal parts on `nodes` nodes each, which could still be placed."""
        gpus_per_pod = gpus_per_replica // nodes
        if gpus_per_pod <= 0:
            return 0
        pods = sum(free // gpus_per_pod for free in self.free_gpus_by_node)
        pods += self.growable_gpus // self.gpus_per_node * (self.gpus_per_node // gpus_per_pod)
        slots = pods // nodes
        if self.max_gpus is not None:
            slots = min(slots, max(0, self.max_gpus - self.used_gpus) // gpus_per_replica)
        return slots

    def namespace_gpus(self, namespace: str) -> int | None:
        """GPUs that the namespace may still take; None: no limit but the pool's own."""
        if self.max_gpus_per_namespace is None:
            return None
        return max(0, self.max_gpus_per_namespace - self.used_by_namespace.get(namespace, 0))


@dataclass(frozen=True, slots=True)
class Budget:
    """What is left of one budget; the words for the user's answer when it is spent."""

    policy: str
    name: str
    amount: Decimal
    remaining: Decimal
    resets_at: float
    stops_spill: bool = True
    scope: str = "External"  # whose dollars count: External, GPU or Total
    starts_at: float = 0.0  # of the period
    paced: bool = False  # spread over the period


@dataclass(frozen=True, slots=True)
class Settings:
    """Numbers of the operator that change decisions; in the snapshot so that it replays."""

    metrics_stale_seconds: float = 60.0
    metrics_window_seconds: float = 60.0  # over which rates are means
    drain_seconds: float = 300.0  # longest wait for a replica's last request before it is stopped
    deregister_seconds: float = 5.0  # from leaving the gateway's endpoints to being stopped
    start_budget_seconds: float = 3600.0  # a replica of a new revision that takes longer to start has failed
    longest_step_seconds: float = 60.0  # a longer gap between ticks (restart, pause) counts as this much
    rule: str = DEFAULT_RULE  # of `decide.provisioning`: how many replicas


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything `decide.plan` may look at."""

    time: float
    deployments: tuple[Deployment, ...]
    pools: tuple[Pool, ...]
    budgets: tuple[Budget, ...] = ()
    settings: Settings = field(default_factory=Settings)

    def pool(self, name: str) -> Pool | None:
        return next((p for p in self.pools if p.name == name), None)
