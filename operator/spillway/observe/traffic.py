"""All that Prometheus knows, at one moment: demand from the gateways, load from the engines.

One query per signal for all deployments, each with the age of its data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from spillway.decide.snapshot import Demand, EngineRates
from spillway.observe import demand, load
from spillway.observe.demand import PRIOR_INPUT_TOKENS, PRIOR_OUTPUT_TOKENS, PairAnswers
from spillway.observe.load import PodLoad
from spillway.observe.prometheus import Answers, Prometheus

UNKNOWN_AGE_SECONDS = 1e9  # finite, so that a snapshot of it can be stored and replayed


@dataclass(frozen=True, slots=True)
class Windows:
    """Over how many seconds rates are taken (demand and latencies; tokens), and how old a pod's load may be."""

    rate_seconds: float = 60.0
    token_seconds: float = 300.0
    stale_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Traffic:
    """By `namespace/name`; a deployment that is absent had no traffic. `age_seconds`: of the newest gateway sample."""

    demand: Mapping[str, Demand] = field(default_factory=dict)
    load: Mapping[str, PodLoad] = field(default_factory=dict)  # by namespace/pod
    rates: Mapping[str, tuple[EngineRates, ...]] = field(default_factory=dict)
    pairs: Mapping[tuple[str, str, str], PairAnswers] = field(default_factory=dict)  # by deployment, provider, model
    age_seconds: float = UNKNOWN_AGE_SECONDS

    def of(self, key: str) -> Demand:
        idle = Demand(0.0, PRIOR_INPUT_TOKENS, PRIOR_OUTPUT_TOKENS, age_seconds=self.age_seconds)
        return self.demand.get(key, idle)


def queries(windows: Windows) -> dict[str, str]:
    """PromQL by signal."""
    window, long_window = f"{windows.rate_seconds:.0f}s", f"{windows.token_seconds:.0f}s"
    return {**demand.queries(window, long_window), **load.queries(window, long_window)}


def read(answers: Answers, windows: Windows) -> Traffic:
    """What the answers to `queries` come to."""
    age = next((sample.value for sample in answers[demand.AGE]), UNKNOWN_AGE_SECONDS)
    tokens = [demand.by_deployment(answers[name]) for name in (load.INPUT_TOKENS, load.OUTPUT_TOKENS)]
    return Traffic(
        demand=demand.demands(answers, tokens[0], tokens[1], age),
        load=load.by_pod(answers, windows.stale_seconds),
        rates=load.rates(answers),
        pairs=demand.pair_answers(answers),
        age_seconds=age,
    )


async def look(prometheus: Prometheus, windows: Windows) -> Traffic:
    """All signals now. Raises MetricsUnavailable when Prometheus does not answer."""
    return read(await prometheus.ask(queries(windows)), windows)
