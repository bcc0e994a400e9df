"""Demand of all deployments, from the gateways: counted when a request starts, so spilled and refused ones count.

Tokens per request come from what was finished, over a longer window: the engines' own counters for what the replicas
did, the gateways' for what providers did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from spillway.decide.snapshot import Demand
from spillway.observe.prometheus import Answers, Sample

Rates = dict[str, float]
PRIOR_INPUT_TOKENS, PRIOR_OUTPUT_TOKENS = 1200.0, 200.0  # before the first finished request; chat traffic's means
AGE = "age"
PAIR = "deployment, provider, model"
BILLED = 'outcome=~"metered.*|doubtful.*|unmetered.*"'
"""Attempts at providers that had an answer."""


def queries(window: str, long_window: str) -> dict[str, str]:
    """PromQL by signal. Gateway series carry `deployment` as namespace/name."""
    own = 'route=""'  # what spec.routes sends away is no demand for replicas
    turned_away = f'served_by="none",code_class=~"4xx|5xx",{own}'
    metered = 'outcome=~"metered.*"'  # of any price tier
    return {
        AGE: "time() - max(timestamp(envoy_server_live))",
        "arrivals": f"sum by (deployment) (rate(envoy_spillway_arrivals{{{own}}}[{window}]))",
        "spilled": f"sum by (deployment) (rate(envoy_spillway_egress_requests{{{BILLED}}}[{window}]))",
        "refused": f"sum by (deployment) (rate(envoy_spillway_answers{{{turned_away}}}[{window}]))",
        "routed_late": f'sum by (deployment) (rate(envoy_spillway_answers{{route=~"model[|].+"}}[{window}]))',
        "routed_out": f'sum by (deployment) (rate(envoy_spillway_answers{{route!="",served_by!="none"}}[{window}]))',
        "local_answers": f'sum by (deployment) (rate(envoy_spillway_answers{{served_by="local"}}[{long_window}]))',
        "local_now": f'sum by (deployment) (rate(envoy_spillway_answers{{served_by="local"}}[{window}]))',
        "local_errors": (
            f'sum by (deployment) (rate(envoy_spillway_answers{{served_by="local",code_class="5xx"}}[{window}]))'
        ),
        "spilled_long": f"sum by (deployment) (rate(envoy_spillway_egress_requests{{{BILLED}}}[{long_window}]))",
        "spilled_input": f"sum by (deployment) (rate(envoy_spillway_egress_prompt_tokens[{long_window}]))",
        "spilled_output": f"sum by (deployment) (rate(envoy_spillway_egress_completion_tokens[{long_window}]))",
        "pair_answers": f"sum by ({PAIR}) (rate(envoy_spillway_egress_requests{{{metered}}}[{long_window}]))",
        "pair_output": f"sum by ({PAIR}) (rate(envoy_spillway_egress_completion_tokens{{{metered}}}[{long_window}]))",
        "in_flight_external": (
            'sum by (envoy_cluster_name) (envoy_cluster_upstream_rq_active{envoy_cluster_name=~"ext[|].+"})'
        ),
    }


def by_deployment(samples: Iterable[Sample]) -> Rates:
    """Sums by namespace/name."""
    rates: Rates = {}
    for sample in samples:
        if key := sample.deployment:
            rates[key] = rates.get(key, 0.0) + sample.value
    return rates


def demands(
    answers: Answers, local_input: Mapping[str, float], local_output: Mapping[str, float], age_seconds: float
) -> dict[str, Demand]:
    """Demand of each deployment that any signal names. `local_input`, `local_output`: tokens per second that the
    engines read and wrote over the long window, by deployment."""
    signal = {name: by_deployment(samples) for name, samples in answers.items()}
    external: Rates = {}
    for sample in answers["in_flight_external"]:
        key = sample.labels.get("envoy_cluster_name", "").rsplit("|", 1)[-1]
        external[key] = external.get(key, 0.0) + sample.value
    found = {}
    for key in sorted(signal["arrivals"].keys() | signal["local_answers"].keys() | signal["spilled"].keys()):
        finished = signal["local_answers"].get(key, 0.0) + signal["spilled_long"].get(key, 0.0)
        tokens_in = local_input.get(key, 0.0) + signal["spilled_input"].get(key, 0.0)
        tokens_out = local_output.get(key, 0.0) + signal["spilled_output"].get(key, 0.0)
        known = finished > 0 and tokens_in > 0 and tokens_out > 0
        found[key] = Demand(
            # What a route by model takes is seen when it ends: when it came in, its model was not known yet.
            requests_per_second=max(0.0, signal["arrivals"].get(key, 0.0) - signal["routed_late"].get(key, 0.0)),
            input_tokens_per_request=tokens_in / finished if known else PRIOR_INPUT_TOKENS,
            output_tokens_per_request=tokens_out / finished if known else PRIOR_OUTPUT_TOKENS,
            spilled_per_second=max(0.0, signal["spilled"].get(key, 0.0) - signal["routed_out"].get(key, 0.0)),
            refused_per_second=signal["refused"].get(key, 0.0),
            in_flight_external=external.get(key, 0.0),
            local_answers_per_second=signal["local_now"].get(key, 0.0),
            local_output_tokens=_ratio(local_output.get(key, 0.0), signal["local_answers"].get(key, 0.0)),
            local_errors_per_second=signal["local_errors"].get(key, 0.0),
            age_seconds=age_seconds,
        )
    return found


@dataclass(frozen=True, slots=True)
class PairAnswers:
    """Of one provider pair: its metered answers per second, and their mean length."""

    per_second: float
    output_tokens: float


def pair_answers(answers: Answers) -> dict[tuple[str, str, str], PairAnswers]:
    """By deployment (namespace/name), provider and model."""
    rates: dict[tuple[str, str, str], dict[str, float]] = {}
    for signal in ("pair_answers", "pair_output"):
        for sample in answers[signal]:
            if key := sample.deployment:
                pair = (key, sample.labels.get("provider", ""), sample.labels.get("model", ""))
                rates.setdefault(pair, {})[signal] = sample.value
    return {
        pair: PairAnswers(found["pair_answers"], found.get("pair_output", 0.0) / found["pair_answers"])
        for pair, found in rates.items()
        if found.get("pair_answers", 0.0) > 0
    }


def _ratio(total: float, number: float) -> float | None:
    return total / number if total > 0 and number > 0 else None
