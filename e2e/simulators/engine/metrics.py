"""What the engine counts, and the page that each engine makes of it (names, labels, buckets: vLLM 0.33, SGLang 0.5.23).

The dialects are read at scrape time from plain totals, so that serving a token costs no metric call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from e2e.simulators.engine.histogram import Histogram
from e2e.simulators.engine.model import EngineModel, Sequence, StepReport
from e2e.simulators.engine.settings import EngineName, Settings

VLLM_TTFT = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
)  # fmt: skip
VLLM_ITL = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
VLLM_LATENCY = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
VLLM_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000)
SGLANG_TTFT = (0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400)
SGLANG_ITL = (
    0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.06, 0.08, 0.1, 0.2, 0.4, 0.6, 0.8,
    1, 2, 4, 6, 8,
)  # fmt: skip
SGLANG_LATENCY = (*SGLANG_TTFT, 600, 1200, 1800, 2400)

_BUCKETS: Mapping[EngineName, tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]] = {
    "vllm": (VLLM_TTFT, VLLM_ITL, VLLM_LATENCY),
    "sglang": (SGLANG_TTFT, SGLANG_ITL, SGLANG_LATENCY),
}


@dataclass
class Totals:
    """Cumulative counts since the process started."""

    ttft: Histogram
    token_gap: Histogram
    token_mean: Histogram
    latency: Histogram
    queue: Histogram
    prefill: Histogram
    decode: Histogram
    inference: Histogram
    prompt_size: Histogram
    output_size: Histogram
    prompt_tokens: int = 0
    generation_tokens: int = 0
    requests: Counter[bool] = field(default_factory=Counter)
    prompt_by_stream: Counter[bool] = field(default_factory=Counter)
    generated_by_stream: Counter[bool] = field(default_factory=Counter)
    finished: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    responses: Counter[tuple[str, int]] = field(default_factory=Counter)
    aborted: int = 0
    tokens_per_second: float = 0.0

    @classmethod
    def of(cls, engine: EngineName) -> Totals:
        ttft, gap, latency = _BUCKETS[engine]
        return cls(
            ttft=Histogram(ttft),
            token_gap=Histogram(gap),
            token_mean=Histogram(gap),
            latency=Histogram(latency),
            queue=Histogram(latency),
            prefill=Histogram(latency),
            decode=Histogram(latency),
            inference=Histogram(latency),
            prompt_size=Histogram(VLLM_TOKENS),
            output_size=Histogram(VLLM_TOKENS),
        )

    def stepped(self, report: StepReport, dt: float) -> None:
        """Book one step of the model."""
        self.prompt_tokens += report.prompt_tokens
        self.generation_tokens += report.generated_tokens
        self.tokens_per_second = report.generated_tokens / dt if dt > 0 else 0.0
        for gap, times in report.token_gaps:
            self.token_gap.observe(gap, times)
        for sequence in report.first_tokens:
            if sequence.first_token is not None and sequence.admitted is not None:
                self.ttft.observe(sequence.first_token - sequence.arrived)
                self.queue.observe(sequence.admitted - sequence.arrived)
                self.prefill.observe(sequence.first_token - sequence.admitted)

    def answered(self, sequence: Sequence, *, reason: str, streaming: bool) -> None:
        """Book a request that ran to its end."""
        self.finished[reason] += 1
        self.requests[streaming] += 1
        self.prompt_by_stream[streaming] += sequence.prompt_tokens
        self.generated_by_stream[streaming] += sequence.output_tokens
        self.prompt_size.observe(sequence.prompt_tokens)
        self.output_size.observe(sequence.output_tokens)
        if sequence.finished is None or sequence.first_token is None or sequence.admitted is None:
            raise AssertionError("an answered sequence has run")
        decode_seconds = sequence.finished - sequence.first_token
        self.latency.observe(sequence.finished - sequence.arrived)
        self.inference.observe(sequence.finished - sequence.admitted)
        self.decode.observe(decode_seconds)
        if sequence.output_tokens > sequence.n:
            self.token_mean.observe(decode_seconds / (sequence.output_tokens / sequence.n - 1))


class EngineMetrics(Collector):
    """The engine's /metrics page on a registry of its own."""

    def __init__(self, settings: Settings, model: EngineModel) -> None:
        self.totals = Totals.of(settings.engine)
        self._settings = settings
        self._model = model
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def page(self) -> bytes:
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        name = self._settings.served_names[0]
        if self._settings.engine == "vllm":
            return vllm_families(self.totals, self._model, name)
        return sglang_families(self.totals, self._model, name)


def vllm_families(totals: Totals, model: EngineModel, model_name: str) -> list[Metric]:
    """vllm/v1/metrics/loggers.py; prefix caching is on in vLLM but nothing is ever a hit here."""
    labels = {"model_name": model_name, "engine": "0"}
    waiting = sum(s.n for s in model.waiting)

    def counter(name: str, total: float, extra: Mapping[str, str] | None = None) -> Metric:
        return _counter(name, {**labels, **(extra or {})}, total)

    finished = _labelled_counter("vllm:request_success", labels, "finished_reason", _with_all(
        totals.finished, ("stop", "length", "abort")))  # fmt: skip
    rejected = _labelled_counter("vllm:admission_rejections", {"model_name": model_name}, "reason", _with_all(
        totals.rejected, ("max_num_queued_reqs", "max_num_queued_tokens")))  # fmt: skip
    return [
        _gauge("vllm:num_requests_running", labels, sum(s.n for s in model.running)),
        _gauge("vllm:num_requests_waiting", labels, waiting),
        _gauge("vllm:num_requests_waiting_by_reason", {**labels, "reason": "capacity"}, waiting),
        _gauge("vllm:kv_cache_usage_perc", labels, model.kv_cache_usage),
        counter("vllm:prompt_tokens", totals.prompt_tokens),
        counter("vllm:prompt_tokens_cached", 0),
        counter("vllm:generation_tokens", totals.generation_tokens),
        counter("vllm:num_preemptions", 0),
        counter("vllm:prefix_cache_queries", totals.prompt_tokens),
        counter("vllm:prefix_cache_hits", 0),
        finished,
        rejected,
        _histogram("vllm:time_to_first_token_seconds", labels, totals.ttft),
        _histogram("vllm:inter_token_latency_seconds", labels, totals.token_gap),
        _histogram("vllm:request_time_per_output_token_seconds", labels, totals.token_mean),
        _histogram("vllm:e2e_request_latency_seconds", labels, totals.latency),
        _histogram("vllm:request_queue_time_seconds", labels, totals.queue),
        _histogram("vllm:request_inference_time_seconds", labels, totals.inference),
        _histogram("vllm:request_prefill_time_seconds", labels, totals.prefill),
        _histogram("vllm:request_decode_time_seconds", labels, totals.decode),
        _histogram("vllm:request_prompt_tokens", labels, totals.prompt_size),
        _histogram("vllm:request_generation_tokens", labels, totals.output_size),
    ]


def sglang_families(totals: Totals, model: EngineModel, model_name: str) -> list[Metric]:
    """sglang/srt/observability/metrics_collector.py: scheduler series carry rank labels, tokenizer series do not."""
    tokenizer = {"model_name": model_name, "engine_type": "unified"}
    scheduler = {**tokenizer, "tp_rank": "0", "pp_rank": "0", "moe_ep_rank": "0"}
    usage = model.kv_cache_usage
    by_stream = (
        ("sglang:prompt_tokens", totals.prompt_by_stream),
        ("sglang:generation_tokens", totals.generated_by_stream),
        ("sglang:num_requests", totals.requests),
    )
    responses = CounterMetricFamily(
        "sglang:http_responses", "HTTP responses by endpoint and status", labels=("endpoint", "status_code", "method")
    )
    for (endpoint, status), count in sorted(totals.responses.items()):
        responses.add_metric((endpoint, str(status), "POST"), count)
    return [
        _gauge("sglang:num_running_reqs", scheduler, sum(s.n for s in model.running)),
        _gauge("sglang:num_queue_reqs", scheduler, sum(s.n for s in model.waiting)),
        _gauge("sglang:token_usage", scheduler, usage),
        _gauge("sglang:full_token_usage", scheduler, usage),
        _gauge("sglang:num_used_tokens", scheduler, round(usage * model.capacity.kv_cache_tokens)),
        _gauge("sglang:max_total_num_tokens", scheduler, model.capacity.kv_cache_tokens),
        _gauge("sglang:gen_throughput", scheduler, 0.0 if model.idle else totals.tokens_per_second),
        _gauge("sglang:cache_hit_rate", scheduler, 0.0),
        _gauge("sglang:num_retracted_reqs", scheduler, 0),
        *(
            _labelled_counter(name, tokenizer, "is_streaming", {"True": counts[True], "False": counts[False]})
            for name, counts in by_stream
        ),
        _counter("sglang:num_aborted_requests", tokenizer, totals.aborted),
        responses,
        _histogram("sglang:time_to_first_token_seconds", tokenizer, totals.ttft),
        _histogram("sglang:inter_token_latency_seconds", tokenizer, totals.token_gap),
        _histogram("sglang:request_time_per_output_token_seconds", tokenizer, totals.token_mean),
        _histogram("sglang:e2e_request_latency_seconds", tokenizer, totals.latency),
        _histogram("sglang:queue_time_seconds", scheduler, totals.queue),
    ]


def _with_all(counts: Mapping[str, int], values: Iterable[str]) -> dict[str, int]:
    return {**dict.fromkeys(values, 0), **counts}


def _gauge(name: str, labels: Mapping[str, str], value: float) -> Metric:
    family = GaugeMetricFamily(name, name, labels=tuple(labels))
    family.add_metric(tuple(labels.values()), value)
    return family


def _counter(name: str, labels: Mapping[str, str], value: float) -> Metric:
    family = CounterMetricFamily(name, name, labels=tuple(labels))
    family.add_metric(tuple(labels.values()), value)
    return family


def _labelled_counter(name: str, labels: Mapping[str, str], label: str, counts: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, name, labels=(*labels, label))
    for value, count in counts.items():
        family.add_metric((*labels.values(), value), count)
    return family


def _histogram(name: str, labels: Mapping[str, str], histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(name, name, labels=tuple(labels))
    family.add_metric(tuple(labels.values()), buckets=histogram.buckets(), sum_value=histogram.total)
    return family
