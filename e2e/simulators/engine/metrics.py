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
    cached_tokens: int = 0
    generation_tokens: int = 0
    requests: Counter[bool] = field(default_factory=Counter)
    prompt_by_stream: Counter[bool] = field(default_factory=Counter)
    generated_by_stream: Counter[bool] = field(default_factory=Counter)
    finished: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    responses: Counter[tuple[str, int]] = field(default_factory=Counter)
    aborted: int = 0
    tokens_per_second: float = 0.0
    hit_rate: float = 0.0  # of the last step that began an answer

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
        self.cached_tokens += report.cached_tokens
        self.generation_tokens += report.generated_tokens
        self.tokens_per_second = report.generated_tokens / dt if dt > 0 else 0.0
        if report.prompt_tokens:
            self.hit_rate = report.cached_tokens / report.prompt_tokens
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
        if self._settings.engine == "vllm":
            return vllm_families(self.totals, self._model, self._settings)
        return sglang_families(self.totals, self._model, self._settings)


def vllm_families(totals: Totals, model: EngineModel, settings: Settings) -> list[Metric]:
    """vllm/v1/metrics/loggers.py; prefix cache queries and hits are tokens."""
    server = {"model_name": settings.served_names[0]}
    ranks = _Ranks(server, settings)
    waiting = sum(s.n for s in model.waiting)
    return [
        ranks.gauge("vllm:num_requests_running", sum(s.n for s in model.running)),
        ranks.gauge("vllm:num_requests_waiting", waiting),
        ranks.gauge("vllm:num_requests_waiting_by_reason", waiting, {"reason": "capacity"}),
        ranks.level("vllm:kv_cache_usage_perc", model.kv_cache_usage),
        ranks.counter("vllm:prompt_tokens", totals.prompt_tokens),
        ranks.counter("vllm:prompt_tokens_cached", totals.cached_tokens),
        ranks.counter("vllm:generation_tokens", totals.generation_tokens),
        ranks.counter("vllm:num_preemptions", 0),
        ranks.counter("vllm:prefix_cache_queries", totals.prompt_tokens if settings.prefix_caching else 0),
        ranks.counter("vllm:prefix_cache_hits", totals.cached_tokens),
        ranks.labelled_counter(
            "vllm:request_success", "finished_reason", _with_all(totals.finished, ("stop", "length", "abort"))
        ),
        _labelled_counter(
            "vllm:admission_rejections",
            server,
            "reason",
            _with_all(totals.rejected, ("max_num_queued_reqs", "max_num_queued_tokens")),
        ),
        ranks.histogram("vllm:time_to_first_token_seconds", totals.ttft),
        ranks.histogram("vllm:inter_token_latency_seconds", totals.token_gap),
        ranks.histogram("vllm:request_time_per_output_token_seconds", totals.token_mean),
        ranks.histogram("vllm:e2e_request_latency_seconds", totals.latency),
        ranks.histogram("vllm:request_queue_time_seconds", totals.queue),
        ranks.histogram("vllm:request_inference_time_seconds", totals.inference),
        ranks.histogram("vllm:request_prefill_time_seconds", totals.prefill),
        ranks.histogram("vllm:request_decode_time_seconds", totals.decode),
        ranks.histogram("vllm:request_prompt_tokens", totals.prompt_size),
        ranks.histogram("vllm:request_generation_tokens", totals.output_size),
    ]


def sglang_families(totals: Totals, model: EngineModel, settings: Settings) -> list[Metric]:
    """sglang/srt/observability/metrics_collector.py: scheduler series carry rank labels, tokenizer series do not."""
    tokenizer = {"model_name": settings.served_names[0], "engine_type": "unified"}
    schedulers = _Ranks(tokenizer, settings)
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
        schedulers.gauge("sglang:num_running_reqs", sum(s.n for s in model.running)),
        schedulers.gauge("sglang:num_queue_reqs", sum(s.n for s in model.waiting)),
        schedulers.level("sglang:token_usage", usage),
        schedulers.level("sglang:full_token_usage", usage),
        schedulers.gauge("sglang:num_used_tokens", round(usage * model.capacity.kv_cache_tokens)),
        schedulers.gauge("sglang:max_total_num_tokens", model.capacity.kv_cache_tokens),
        schedulers.level("sglang:gen_throughput", 0.0 if model.idle else totals.tokens_per_second / schedulers.parts),
        schedulers.level("sglang:cache_hit_rate", totals.hit_rate),
        _labelled_counter("sglang:cached_tokens", tokenizer, "cache_source", {"device": totals.cached_tokens}),
        schedulers.gauge("sglang:num_retracted_reqs", 0),
        schedulers.counter("sglang:num_retracted_requests", 0),
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
        schedulers.histogram("sglang:queue_time_seconds", totals.queue),
    ]


class _Ranks:
    """Series with rank labels: whole numbers are dealt out evenly to the data parallel ranks, so that each rank's part
    never falls while the total grows."""

    def __init__(self, labels: Mapping[str, str], settings: Settings) -> None:
        self.parts = len({rank.data_rank for rank in settings.ranks})
        self._ranks = [({**labels, **rank.labels}, rank.data_rank) for rank in settings.ranks]

    def gauge(self, name: str, total: int, extra: Mapping[str, str] | None = None) -> Metric:
        return self._whole(GaugeMetricFamily, name, total, extra)

    def counter(self, name: str, total: int) -> Metric:
        return self._whole(CounterMetricFamily, name, total)

    def level(self, name: str, value: float) -> Metric:
        """The same on every rank."""
        family = GaugeMetricFamily(name, name, labels=tuple(self._ranks[0][0]))
        for labels, _ in self._ranks:
            family.add_metric(tuple(labels.values()), value)
        return family

    def labelled_counter(self, name: str, label: str, counts: Mapping[str, int]) -> Metric:
        family = CounterMetricFamily(name, name, labels=(*self._ranks[0][0], label))
        for labels, data_rank in self._ranks:
            for value, count in counts.items():
                family.add_metric((*labels.values(), value), self._part(count, data_rank))
        return family

    def histogram(self, name: str, histogram: Histogram) -> Metric:
        family = HistogramMetricFamily(name, name, labels=tuple(self._ranks[0][0]))
        for labels, data_rank in self._ranks:
            buckets = [(bound, float(self._part(int(count), data_rank))) for bound, count in histogram.buckets()]
            family.add_metric(tuple(labels.values()), buckets=buckets, sum_value=histogram.total / self.parts)
        return family

    def _whole(
        self,
        kind: type[GaugeMetricFamily] | type[CounterMetricFamily],
        name: str,
        total: int,
        extra: Mapping[str, str] | None = None,
    ) -> Metric:
        more = extra or {}
        family = kind(name, name, labels=(*self._ranks[0][0], *more))
        for labels, data_rank in self._ranks:
            family.add_metric((*labels.values(), *more.values()), self._part(total, data_rank))
        return family

    def _part(self, total: int, data_rank: int) -> int:
        return total // self.parts + (data_rank < total % self.parts)


def _with_all(counts: Mapping[str, int], values: Iterable[str]) -> dict[str, int]:
    return {**dict.fromkeys(values, 0), **counts}


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
