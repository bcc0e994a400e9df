"""What is simulated: deployments with their load, pools, providers, and what goes wrong when."""

from __future__ import annotations

from dataclasses import dataclass, field

from spillway.decide.snapshot import HintWindow, Settings, Variant
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


@dataclass(frozen=True, slots=True)
class PriceChange:
    """From `at` (seconds from the begin) on."""

    at: float
    usd_per_million_input: float
    usd_per_million_output: float


@dataclass(frozen=True, slots=True)
class VirtualProvider:
    """An external API. During an outage it answers nothing; beyond its quota it refuses."""

    name: str
    usd_per_million_input: float = 1.0
    usd_per_million_output: float = 3.0
    requests_per_minute: float = float("inf")
    verbosity: float = 1.0  # output tokens for the same task, relative to the deployment's own
    outages: tuple[Window, ...] = ()
    price_changes: tuple[PriceChange, ...] = ()

    def prices(self, seconds: float) -> tuple[float, float]:
        """$ per million input and output tokens at that time."""
        price = (self.usd_per_million_input, self.usd_per_million_output)
        for change in self.price_changes:
            if seconds >= change.at:
                price = (change.usd_per_million_input, change.usd_per_million_output)
        return price


@dataclass(frozen=True, slots=True)
class VirtualBudget:
    """Of external dollars, or of all (`scope` Total), for all deployments of the world; renewed each period."""

    name: str
    usd: float
    period_seconds: float
    scope: str = "External"
    paced: bool = False


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
    usd_value_per_request: float = 1.0
    ready_at_begin: int = 0  # replicas of the first variant
    hints: tuple[HintWindow, ...] = ()  # seconds from the begin
    deferrable_share: float = 0.0  # of the work, that may wait until its deadline
    deadline_seconds: float = 0.0  # from arrival; then it is work like any other
    capacity_error: float = 0.0

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


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
