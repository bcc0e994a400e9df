"""Demand that a running cluster had: range queries of its Prometheus, as `observe` asks for the present.

Requests are counted by the gateways as they start, so spilled and refused ones count. Tokens a request come from what
was finished around that time: the engines' counters for what replicas did, the gateways' for what providers did.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import requests
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from urllib3 import Retry

from spillway.observe.demand import BILLED, PRIOR_INPUT_TOKENS, PRIOR_OUTPUT_TOKENS
from spillway.observe.prometheus import MetricsUnavailable
from spillway.simulate.economics import BIN_SECONDS
from spillway.simulate.traces import BadTrace, Trace, from_prometheus

ARRIVALS = "envoy_spillway_arrivals"
TOKEN_WINDOW_SECONDS = 300.0  # as the operator's: of the mean tokens per request
MAXIMUM_POINTS = 10_000  # of a series in one answer: Prometheus refuses more than 11,000
TIMEOUT_SECONDS = 60.0
Series = dict[int, float]  # by Unix seconds


def queries(deployment: str, step_seconds: float) -> dict[str, str]:
    """PromQL by signal for one namespace/name; each a single series."""
    namespace, _, name = deployment.partition("/")
    window, long_window = f"{step_seconds:.0f}s", f"{max(TOKEN_WINDOW_SECONDS, step_seconds):.0f}s"
    gateway = f'deployment="{deployment}"'
    engine = f'namespace="{namespace}",deployment="{name}"'

    def engines(counter: str) -> str:
        return f'sum(rate({{__name__=~"vllm:{counter}|sglang:{counter}",{engine}}}[{long_window}]))'

    return {
        "arrivals": f'sum(rate({ARRIVALS}{{{gateway},route=""}}[{window}]))',  # less what spec.routes took at once
        "local": f'sum(rate(envoy_spillway_answers{{served_by="local",{gateway}}}[{long_window}]))',
        "spilled": (f"sum(rate(envoy_spillway_egress_requests{{{BILLED},{gateway}}}[{long_window}]))"),
        "local_input": engines("prompt_tokens_total"),
        "local_output": engines("generation_tokens_total"),
        "spilled_input": f"sum(rate(envoy_spillway_egress_prompt_tokens{{{gateway}}}[{long_window}]))",
        "spilled_output": f"sum(rate(envoy_spillway_egress_completion_tokens{{{gateway}}}[{long_window}]))",
    }


def replay(url: str, deployment: str, range_seconds: float, step_seconds: float, until: datetime) -> Trace:
    """The demand of `deployment` (namespace/name) in the `range_seconds` that end at `until`. A step must hold at least
    two scrapes, or nothing is seen. Raises MetricsUnavailable, and BadTrace where there was no such demand."""
    if step_seconds < 1 or step_seconds != round(step_seconds):
        raise BadTrace(f"a step of {step_seconds:g} s: give whole seconds")
    url = url.rstrip("/")
    client = PrometheusConnect(url=url, timeout=TIMEOUT_SECONDS, retry=Retry(total=0), disable_ssl=False)
    end = math.floor(until.timestamp())
    points = math.floor(range_seconds / step_seconds)
    if points < 1:
        raise BadTrace(f"a range of {range_seconds:g} s with steps of {step_seconds:g} s: give a longer range")
    begin = end - round((points - 1) * step_seconds)
    try:
        known = client.get_label_values(
            "deployment", {"match[]": ARRIVALS, "start": end - math.ceil(range_seconds), "end": end}
        )
        if deployment not in known:
            there = ", ".join(known) or "none"
            raise BadTrace(f"{url} has no traffic of {deployment!r} (NAMESPACE/NAME) in the range; it has {there}")
        signals = {
            name: _series(client, query, begin, end, step_seconds)
            for name, query in queries(deployment, step_seconds).items()
        }
    except requests.ConnectionError as error:
        raise MetricsUnavailable(
            f"{url} cannot be reached: give the address of a Prometheus, such as http://localhost:9090 behind "
            "kubectl port-forward"
        ) from error
    except (requests.RequestException, PrometheusApiClientException, ValueError, LookupError, TypeError) as error:
        if isinstance(error, BadTrace):
            raise
        raise MetricsUnavailable(f"{url} does not answer as a Prometheus does: {str(error)[:200]}") from error
    if not signals["arrivals"]:
        raise BadTrace(f"{url}: {deployment} was never scraped twice within {step_seconds:g} s: give a longer --step")
    return _trace(deployment, signals, step_seconds)


def _series(client: PrometheusConnect, query: str, begin: int, end: int, step_seconds: float) -> Series:
    """The values that are numbers, in pieces that Prometheus answers."""
    found: Series = {}
    length = round(MAXIMUM_POINTS * step_seconds)
    for start in range(begin, end + 1, length):
        stop = min(start + length - 1, end)
        for series in client.custom_query_range(
            query, datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(stop, UTC), f"{step_seconds:g}"
        ):
            for time, value in series["values"]:
                if math.isfinite(number := float(value)):
                    found[round(float(time))] = number
    return found


def _trace(deployment: str, signals: Mapping[str, Series], step_seconds: float) -> Trace:
    """Tokens are those of the arrivals, also of those refused: their number times the mean of what was finished, where
    nothing was the mean of the range."""
    sizes: dict[int, tuple[float, float]] = {}
    sums = [0.0, 0.0, 0.0]
    for time in signals["arrivals"]:
        finished, tokens_in, tokens_out = (
            signals[local].get(time, 0.0) + signals[spilled].get(time, 0.0)
            for local, spilled in (
                ("local", "spilled"),
                ("local_input", "spilled_input"),
                ("local_output", "spilled_output"),
            )
        )
        if finished > 0 and tokens_in > 0 and tokens_out > 0:
            sizes[time] = tokens_in / finished, tokens_out / finished
            sums = [a + b for a, b in zip(sums, (finished, tokens_in, tokens_out), strict=True)]
    mean = (sums[1] / sums[0], sums[2] / sums[0]) if sums[0] > 0 else (PRIOR_INPUT_TOKENS, PRIOR_OUTPUT_TOKENS)
    arrivals = sorted(signals["arrivals"].items())
    return from_prometheus(
        deployment,
        requests_per_second=arrivals,
        input_tokens_per_second=[(time, rate * sizes.get(time, mean)[0]) for time, rate in arrivals],
        output_tokens_per_second=[(time, rate * sizes.get(time, mean)[1]) for time, rate in arrivals],
        step_seconds=step_seconds,
    )


def save(trace: Trace, path: Path) -> None:
    """As a trace file (t, n, tin, tout), gzipped where its name says so."""
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(("t", "n", "tin", "tout"))
    columns = (trace.requests.tolist(), trace.input_tokens.tolist(), trace.output_tokens.tolist())
    for at, row in enumerate(zip(*columns, strict=True)):
        rows.writerow((round(at * BIN_SECONDS), *row))
    written = text.getvalue().encode()
    path.write_bytes(gzip.compress(written) if path.suffix == ".gz" else written)
