"""What is simulated: deployments with their load, pools, providers, and what goes wrong when."""

from __future__ import annotations

from dataclasses import dataclass, field

from spillway.decide.snapshot import HintWindow, Settings, Variant
from spillway.ledger.budgets import Period
from spillway.simulate.economics import BIN_SECONDS
from spillway.simulate.traces import Floats

Window = tuple[float, float]  # seconds from the begin: from, to


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """What arrives, by bin ([bins]). Tokens fall due in their bin."""

    requests: Floats
    input_tokens: Floats
    output_tokens: Floats

    def __len__(self) -> int:
        return len(self.requests)


@dataclass(frozen=True, slots=True)
class VirtualPool:
    """GPUs of one kind. In a stock-out it gives no GPU to anybody who has none."""

    name: str
    gpus: int = 1_000_000
    usd_per_gpu_hour: float = 4.0
    gpus_per_node: int = 8
    reserved_gpus: int = 0
    provisioning_timeout_seconds: float = 900.0
    stock_outs: tuple[Window, ...] = ()
    max_gpus_per_namespace: int | None = None


@dataclass(frozen=True, slots=True)
class PriceChange:
    """From `at` (seconds from the begin) on."""

    at: float
    usd_per_million_input: float
    usd_per_million_output: float


@dataclass(frozen=True, slots=True)
class VirtualProvider:
    """An external API, or one model of it. During an outage it answers nothing; beyond its quota it refuses."""

    name: str
    usd_per_million_input: float = 1.0
    usd_per_million_output: float = 3.0
    requests_per_minute: float = float("inf")
    verbosity: float = 1.0  # output tokens for the same task, relative to the deployment's own
    outages: tuple[Window, ...] = ()
    price_changes: tuple[PriceChange, ...] = ()
    provider: str = ""  # whose model this is; the models of one share its quota. Default: the name
    model: str = ""
    concurrent: float = float("inf")  # requests in flight that one deployment may have there
    first_token_seconds: float = 1.0  # of an answer; where single requests are played
    tokens_per_second: float = 25.0  # of a stream

    @property
    def api(self) -> str:
        return self.provider or self.name

    def prices(self, seconds: float) -> tuple[float, float]:
        """$ per million input and output tokens at that time."""
        price = (self.usd_per_million_input, self.usd_per_million_output)
        for change in self.price_changes:
            if seconds >= change.at:
                price = (change.usd_per_million_input, change.usd_per_million_output)
        return price


@dataclass(frozen=True, slots=True)
class VirtualBudget:
    """Of External, GPU or Total dollars (`scope`) of some deployments; renewed each period. The period is a calendar
    one where `period` says so, else of `period_seconds` from the begin."""

    name: str
    usd: float
    period_seconds: float = 0.0
    scope: str = "External"
    paced: bool = False
    policy: str = ""  # whose budget it is. Default: the name
    deployments: frozenset[str] | None = None  # whose dollars count, by key. None: all
    period: Period | None = None
    time_zone: str = "UTC"
    top_ups: tuple[tuple[float, float], ...] = ()  # $ more in each period that begins before that time (Unix seconds)
    to_floor: bool = False  # spent, with scope GPU or Total: replicas go down to the floor

    @property
    def key(self) -> str:
        return f"{self.policy}/{self.name}" if self.policy else self.name

    def counts(self, key: str) -> bool:
        return self.deployments is None or key in self.deployments


@dataclass(frozen=True, slots=True)
class Barred:
    """A provider that a deployment names and may not use, whatever the money: reason code and words."""

    provider: str  # name of the VirtualProvider
    reason: str
    message: str


@dataclass(frozen=True, slots=True, eq=False)
class VirtualDeployment:
    """One MoEDeployment with its traffic. `variants` is what Spillway believes; `capacity_error` 0.2 means that a
    replica really does 20 % less work than that, -0.2 that it does more."""

    namespace: str
    name: str
    variants: tuple[Variant, ...]
    traffic: Traffic
    providers: tuple[str, ...] = ()
    min_replicas: int = 0
    max_replicas: int = 400
    queue_seconds: float = 10.0
    usd_value_per_request: float | None = 1.0  # None: as `observe` has it where no policy says, a multiple of the API's
    ready_at_begin: int = 0  # replicas of the first variant
    hints: tuple[HintWindow, ...] = ()  # seconds from the begin
    deferrable_share: float = 0.0  # of the work, that may wait until its deadline
    deadline_seconds: float = 0.0  # from arrival; then it is work like any other
    capacity_error: float = 0.0
    pinned_replicas: int = 0
    max_share: float | None = None  # of the last hour's tokens that may spill while a replica is ready
    max_share_of: str = "spec.spill.maxShare"
    barred: tuple[Barred, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def usable(self) -> tuple[str, ...]:
        """Names of the providers that nothing bars, in order."""
        barred = {b.provider for b in self.barred}
        return tuple(name for name in self.providers if name not in barred)


@dataclass(frozen=True, slots=True)
class Faults:
    """Randomness of starts and of metrics. `delay_cv`: of lognormal cold starts; 0: all alike."""

    delay_cv: float = 0.0
    start_failure_share: float = 0.0  # of starts, that fail when they should be ready and begin again
    metrics_delay_seconds: float = 0.0
    metrics_lost: tuple[Window, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class World:
    deployments: tuple[VirtualDeployment, ...]
    pools: tuple[VirtualPool, ...]
    providers: tuple[VirtualProvider, ...] = ()
    budgets: tuple[VirtualBudget, ...] = ()
    faults: Faults = field(default_factory=Faults)
    settings: Settings = field(default_factory=Settings)
    drain_seconds: float = 60.0
    tick_seconds: float = 10.0
    metrics_window_seconds: float = 30.0
    begin: float = 1_767_571_200.0  # Unix seconds: a Monday, 2026-01-05 00:00 UTC
    seed: int = 0

    @property
    def bins(self) -> int:
        return max(len(d.traffic) for d in self.deployments)

    @property
    def tick_bins(self) -> int:
        return max(1, round(self.tick_seconds / BIN_SECONDS))


def within(windows: tuple[Window, ...], seconds: float) -> bool:
    return any(begin <= seconds < end for begin, end in windows)
