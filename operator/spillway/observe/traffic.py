"""Traffic of all deployments from Prometheus: one query per signal for all of them, with the age of the data.

Demand is counted at the gateway when a request starts, so spilled and refused requests count; tokens per request come
from what was finished, over a longer window.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import requests
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from urllib3 import Retry

from spillway.decide.snapshot import Demand

Rates = dict[str, float]
UNKNOWN_AGE_SECONDS = 1e9  # finite, so that a snapshot of it can be stored and replayed
PRIOR_INPUT_TOKENS, PRIOR_OUTPUT_TOKENS = 1200.0, 200.0  # before the first finished request; chat traffic's means


class MetricsUnavailable(Exception):
    """Prometheus cannot be asked; the message says why."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """By `namespace/name`; a deployment that is absent had no traffic. `age_seconds`: of the newest gateway sample."""

    demand: Mapping[str, Demand] = field(default_factory=dict)
    in_flight: Mapping[str, int] = field(default_factory=dict)  # requests in the engine, by namespace/pod
    age_seconds: float = UNKNOWN_AGE_SECONDS

    def of(self, key: str) -> Demand:
        idle = Demand(0.0, PRIOR_INPUT_TOKENS, PRIOR_OUTPUT_TOKENS, age_seconds=self.age_seconds)
        return self.demand.get(key, idle)


def queries(window: str, long_window: str) -> dict[str, str]:
    """PromQL by signal. Engine series carry the target's `namespace` and `deployment`, gateway series `deployment`
    as namespace/name."""

    def engine(*metrics: str) -> str:
        names = "|".join(metrics)
        return f'sum by (namespace, deployment) (rate({{__name__=~"{names}",deployment!=""}}[{long_window}]))'

    turned_away = 'served_by="none",code_class=~"4xx|5xx"'
    billed = 'outcome=~"metered|unmetered"'
    return {
        "age": "time() - max(timestamp(envoy_server_live))",
        "arrivals": f"sum by (deployment) (rate(envoy_spillway_arrivals[{window}]))",
        "spilled": f"sum by (deployment) (rate(envoy_spillway_egress_requests{{{billed}}}[{window}]))",
        "refused": f"sum by (deployment) (rate(envoy_spillway_answers{{{turned_away}}}[{window}]))",
        "local_answers": f'sum by (deployment) (rate(envoy_spillway_answers{{served_by="local"}}[{long_window}]))',
        "local_input": engine("vllm:prompt_tokens_total", "sglang:prompt_tokens_total"),
        "local_output": engine("vllm:generation_tokens_total", "sglang:generation_tokens_total"),
        "spilled_long": f"sum by (deployment) (rate(envoy_spillway_egress_requests{{{billed}}}[{long_window}]))",
        "spilled_input": f"sum by (deployment) (rate(envoy_spillway_egress_prompt_tokens[{long_window}]))",
        "spilled_output": f"sum by (deployment) (rate(envoy_spillway_egress_completion_tokens[{long_window}]))",
        "in_flight_external": (
            'sum by (envoy_cluster_name) (envoy_cluster_upstream_rq_active{envoy_cluster_name=~"ext[|].+"})'
        ),
        "engine_in_flight": (
            'sum by (namespace, pod) ({__name__=~"vllm:num_requests_running|vllm:num_requests_waiting'
            '|sglang:num_running_reqs|sglang:num_queue_reqs"})'
        ),
    }


def by_deployment(samples: list[dict[str, Any]]) -> Rates:
    """Values by namespace/name; NaN and infinities are no data."""
    rates: Rates = {}
    for sample in samples:
        metric, value = sample["metric"], float(sample["value"][1])
        key = metric.get("deployment", "")
        if metric.get("namespace"):
            key = f"{metric['namespace']}/{key}"
        if key and math.isfinite(value):
            rates[key] = rates.get(key, 0.0) + value
    return rates


def by_pod(samples: list[dict[str, Any]]) -> dict[str, int]:
    """Whole numbers by namespace/pod; what is no number is no data."""
    found = {}
    for sample in samples:
        value = float(sample["value"][1])
        if math.isfinite(value):
            found[f"{sample['metric'].get('namespace')}/{sample['metric'].get('pod')}"] = int(value)
    return found


def demands(answers: Mapping[str, list[dict[str, Any]]], age_seconds: float) -> dict[str, Demand]:
    """Demand of each deployment that any signal names."""
    signal = {name: by_deployment(samples) for name, samples in answers.items()}
    external: Rates = {}
    for sample in answers.get("in_flight_external", []):
        key, value = sample["metric"].get("envoy_cluster_name", "").rsplit("|", 1)[-1], float(sample["value"][1])
        if math.isfinite(value):
            external[key] = external.get(key, 0.0) + value
    found = {}
    for key in sorted(signal["arrivals"].keys() | signal["local_answers"].keys() | signal["spilled"].keys()):
        finished = signal["local_answers"].get(key, 0.0) + signal["spilled_long"].get(key, 0.0)
        tokens_in = signal["local_input"].get(key, 0.0) + signal["spilled_input"].get(key, 0.0)
        tokens_out = signal["local_output"].get(key, 0.0) + signal["spilled_output"].get(key, 0.0)
        known = finished > 0 and tokens_in > 0 and tokens_out > 0
        found[key] = Demand(
            requests_per_second=signal["arrivals"].get(key, 0.0),
            input_tokens_per_request=tokens_in / finished if known else PRIOR_INPUT_TOKENS,
            output_tokens_per_request=tokens_out / finished if known else PRIOR_OUTPUT_TOKENS,
            spilled_per_second=signal["spilled"].get(key, 0.0),
            refused_per_second=signal["refused"].get(key, 0.0),
            in_flight_external=external.get(key, 0.0),
            age_seconds=age_seconds,
        )
    return found


class Prometheus:
    """Asks one Prometheus server, in a bounded pool of threads: its client is synchronous and has no time-out."""

    def __init__(
        self, url: str, window_seconds: float, long_window_seconds: float, timeout_seconds: float = 5.0
    ) -> None:
        self._client = PrometheusConnect(url=url, timeout=timeout_seconds, retry=Retry(total=0), disable_ssl=False)
        self._queries = queries(f"{window_seconds:.0f}s", f"{long_window_seconds:.0f}s")
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="prometheus")
        self._timeout_seconds = timeout_seconds
        self.url = url

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def traffic(self) -> Traffic:
        """All signals now. Raises MetricsUnavailable when Prometheus does not answer."""
        loop = asyncio.get_running_loop()
        jobs = {name: loop.run_in_executor(self._pool, self._ask, query) for name, query in self._queries.items()}
        try:
            results = await asyncio.wait_for(asyncio.gather(*jobs.values()), 2 * self._timeout_seconds)
        except TimeoutError as error:
            raise MetricsUnavailable(f"{self.url} did not answer within {2 * self._timeout_seconds:.0f} s") from error
        answers = dict(zip(jobs, results, strict=True))
        ages = [float(s["value"][1]) for s in answers["age"]]
        age = ages[0] if ages and math.isfinite(ages[0]) else math.inf
        in_flight = {
            f"{s['metric'].get('namespace')}/{s['metric'].get('pod')}": int(float(s["value"][1]))
            for s in answers["engine_in_flight"]
            if math.isfinite(float(s["value"][1]))
        }
        return Traffic(demands(answers, age), in_flight, age)

    def _ask(self, query: str) -> list[dict[str, Any]]:
        try:
            samples: list[dict[str, Any]] = self._client.custom_query(query)
        except (requests.RequestException, PrometheusApiClientException, ValueError) as error:
            raise MetricsUnavailable(f"{self.url}: {str(error)[:200]}") from error
        return samples
