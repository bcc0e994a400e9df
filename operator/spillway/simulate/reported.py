"""What a report of a simulation is made from: whoever simulates fills this in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from spillway.simulate.requests.latency import ByMinute, Latency
from spillway.simulate.traces import Floats

DAY_SECONDS = 86400.0
NAMES = {
    "spillway": "Spillway",
    "lcp": "LCP",
    "plcp": "LCP with predictions",
    "hpa": "HPA",
    "hpa-tuned": "HPA, tuned in hindsight",
    "keda": "KEDA",
    "kpa": "Knative KPA",
    "apa": "AIBrix APA",
    "apa-documented": "AIBrix APA, documented",
    "dynamo": "Dynamo planner",
    "wva": "llm-d WVA, V1",
    "wva-v2": "llm-d WVA, V2",
    "kubeai": "KubeAI",
    "skyserve": "SkyServe",
    "fixed-best": "Fixed, best in hindsight",
    "fixed-p99.9": "Fixed, for 99.9 % of bins",
    "all-external": "All external",
    "clairvoyant": "Clairvoyant, whole replicas",
}


def called(name: str) -> str:
    """A policy's name as people write it; an unknown one as it is."""
    return NAMES.get(name, name)


@dataclass(frozen=True, slots=True)
class PolicyCost:
    """Dollars of one policy over the bins that count. What a replica costs while it starts or drains, or between its
    end and the end of its billing minimum, is `start_usd`; otherwise it is busy or idle."""

    name: str
    busy_usd: float
    idle_usd: float
    start_usd: float
    external_usd: float
    slo: float  # share of the work that was begun in time, here or outside
    spill: float  # share of the work that went outside
    starts_per_day: float

    @property
    def usd(self) -> float:
        return self.busy_usd + self.idle_usd + self.start_usd + self.external_usd


@dataclass(frozen=True, slots=True)
class ReportDecision:
    at_seconds: float  # since the trace's begin
    reason: str  # a code, as DemandRose
    message: str  # in words and dollars
    usd_per_hour: float = 0.0  # change of the running cost


@dataclass(frozen=True, slots=True, eq=False)
class ReportLatency:
    """Where requests were played one by one: of each policy, and of `policies[0]` by minute."""

    policies: Mapping[str, Latency]
    minutes: ByMinute


@dataclass(frozen=True, slots=True, eq=False)
class ReportData:
    """One simulated deployment. The arrays ([bins], in replicas) are those of `policies[0]`, the policy that the report
    is about; the other policies are what it is compared with. Dollars are those of the bins from `score_from` on."""

    title: str
    bin_seconds: float
    began: datetime | None  # of the trace, as its clock showed it; None: unknown, and days are numbered
    score_from: int
    queue_seconds: float  # that work may wait
    demand: Floats
    asked: Floats  # replicas that are ready or starting
    ready: Floats
    served: Floats
    spilled: Floats
    policies: Sequence[PolicyCost]
    lower_bound_usd: float  # what a clairvoyant pays at least
    regret_usd: Mapping[str, Sequence[float]]  # cost above the lower bound, by policy, of each day from `score_from` on
    decisions: Sequence[ReportDecision] = ()
    rival: str = "hpa"  # the policy that the headline compares with
    half_start_saves_usd: float | None = None  # if cold starts took half as long; None: not simulated
    notes: Sequence[str] = ()  # what a reader must know of how this was made
    latency: ReportLatency | None = None

    def __post_init__(self) -> None:
        lengths = {len(series) for series in (self.demand, self.asked, self.ready, self.served, self.spilled)}
        if len(lengths) != 1 or not len(self.demand):
            raise ValueError(f"series of the lengths {sorted(lengths)}: there must be one, and not of zero")
        if not self.policies:
            raise ValueError("a report needs the costs of the policy that it is about")
        if not 0 <= self.score_from < len(self.demand):
            raise ValueError(f"no bin counts: {self.score_from} of {len(self.demand)}")

    @property
    def days(self) -> float:
        """That the dollars are for."""
        return (len(self.demand) - self.score_from) * self.bin_seconds / DAY_SECONDS

    @property
    def compared(self) -> PolicyCost | None:
        return next((p for p in self.policies[1:] if p.name == self.rival), None)
