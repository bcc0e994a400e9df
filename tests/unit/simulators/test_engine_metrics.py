from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from e2e.simulators.engine import metrics
from e2e.simulators.engine.__main__ import read_command
from e2e.simulators.engine.histogram import Histogram
from e2e.simulators.engine.metrics import EngineMetrics
from e2e.simulators.engine.model import Capacity, EngineModel, Sequence
from e2e.simulators.engine.settings import Surroundings

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def page(command: str) -> tuple[Samples, set[str]]:
    """The samples after ten finished requests, one running and one waiting."""
    settings = read_command(command.split(), Surroundings.from_environment({}))
    assert settings is not None
    model = EngineModel(Capacity(22_000, 2_800, 50, max_running=10, kv_cache_tokens=100_000))
    exposed = EngineMetrics(settings, model)
    sequences = [Sequence(1000, 100) for _ in range(10)]
    for sequence in sequences:
        model.submit(sequence, at=0.0)
    while not model.idle:
        exposed.totals.stepped(model.step(0.1), 0.1)
    for sequence in sequences:
        exposed.totals.answered(sequence, reason="stop", streaming=True)
    for _ in range(11):
        model.submit(Sequence(1000, 100), at=model.now)
    exposed.totals.rejected["max_num_queued_reqs"] += 3
    families = list(text_string_to_metric_families(exposed.page().decode()))
    samples = {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}
    return samples, {family.name for family in families}


def value(samples: Samples, name: str, **labels: str) -> float:
    found = [number for (key, having), number in samples.items() if key == name and having >= set(labels.items())]
    assert len(found) == 1, f"{name} {labels}: {found}"
    return found[0]


def bounds(samples: Samples, name: str) -> set[str]:
    return {dict(labels)["le"] for key, labels in samples if key == f"{name}_bucket"}


def test_vllm_dialect() -> None:
    samples, names = page("vllm serve nvidia/GLM-5-NVFP4 --served-model-name glm-5")
    labels = {"model_name": "glm-5", "engine": "0"}
    assert value(samples, "vllm:num_requests_running", **labels) == 10
    assert value(samples, "vllm:num_requests_waiting", **labels) == 1
    assert value(samples, "vllm:kv_cache_usage_perc", **labels) == 0.1
    assert value(samples, "vllm:prompt_tokens_total", **labels) == 10_000
    assert value(samples, "vllm:generation_tokens_total", **labels) == 1_000
    assert value(samples, "vllm:request_success_total", finished_reason="stop", **labels) == 10
    assert value(samples, "vllm:admission_rejections_total", reason="max_num_queued_reqs", model_name="glm-5") == 3
    assert value(samples, "vllm:time_to_first_token_seconds_count", **labels) == 10
    assert value(samples, "vllm:inter_token_latency_seconds_count", **labels) == 990
    assert value(samples, "vllm:e2e_request_latency_seconds_count", **labels) == 10
    assert bounds(samples, "vllm:time_to_first_token_seconds") == {str(float(b)) for b in metrics.VLLM_TTFT} | {"+Inf"}
    gone = {"vllm:gpu_cache_usage_perc", "vllm:num_requests_swapped", "vllm:time_per_output_token_seconds"}
    assert not gone & names
    assert all(name.startswith("vllm:") for name in names)


def test_sglang_dialect() -> None:
    samples, names = page("sglang serve --model-path m --served-model-name r1 --enable-metrics")
    tokenizer = {"model_name": "r1", "engine_type": "unified"}
    scheduler = {**tokenizer, "tp_rank": "0", "pp_rank": "0", "moe_ep_rank": "0"}
    assert value(samples, "sglang:num_running_reqs", **scheduler) == 10
    assert value(samples, "sglang:num_queue_reqs", **scheduler) == 1
    assert value(samples, "sglang:token_usage", **scheduler) == 0.1
    assert value(samples, "sglang:prompt_tokens_total", is_streaming="True", **tokenizer) == 10_000
    assert value(samples, "sglang:generation_tokens_total", is_streaming="True", **tokenizer) == 1_000
    assert value(samples, "sglang:num_requests_total", is_streaming="False", **tokenizer) == 0
    assert value(samples, "sglang:inter_token_latency_seconds_count", **tokenizer) == 990
    assert bounds(samples, "sglang:time_to_first_token_seconds") == {
        str(float(bound)) for bound in metrics.SGLANG_TTFT
    } | {"+Inf"}
    assert all(name.startswith("sglang:") for name in names)


def total(samples: Samples, name: str) -> float:
    return sum(number for (key, _), number in samples.items() if key == name)


def ranks(samples: Samples, name: str, *labels: str) -> dict[tuple[str | None, ...], float]:
    return {tuple(dict(own).get(label) for label in labels): n for (key, own), n in samples.items() if key == name}


def test_vllm_has_one_series_for_each_data_parallel_engine() -> None:
    samples, _ = page("vllm serve nvidia/GLM-5-NVFP4 --served-model-name glm-5 -dp 4 -ep")
    assert ranks(samples, "vllm:num_requests_running", "engine") == {("0",): 3, ("1",): 3, ("2",): 2, ("3",): 2}
    assert total(samples, "vllm:prompt_tokens_total") == 10_000
    assert total(samples, "vllm:time_to_first_token_seconds_count") == 10
    assert total(samples, "vllm:admission_rejections_total") == 3  # of the API server, not of an engine
    assert set(ranks(samples, "vllm:kv_cache_usage_perc", "engine").values()) == {0.1}


def test_vllm_behind_a_hybrid_balancer_tells_of_its_own_engines() -> None:
    samples, _ = page("vllm serve m --data-parallel-hybrid-lb -dp 4 -dpl 2 -dpr 2 -ep")
    assert ranks(samples, "vllm:num_requests_running", "engine") == {("2",): 5, ("3",): 5}


def test_sglang_tells_of_each_data_rank_once() -> None:
    command = "sglang serve --model-path m --enable-metrics --tp 8 --ep 8 --dp 4 --enable-dp-attention"
    samples, _ = page(command)
    labels = ("dp_rank", "tp_rank", "moe_ep_rank")
    assert ranks(samples, "sglang:num_running_reqs", *labels) == {
        ("0", "0", "0"): 3, ("1", "2", "2"): 3, ("2", "4", "4"): 2, ("3", "6", "6"): 2,
    }  # fmt: skip
    assert total(samples, "sglang:prompt_tokens_total") == 10_000


def test_sglang_tells_of_a_data_rank_as_often_as_it_has_tensor_ranks_with_metrics_for_all_schedulers() -> None:
    command = "sglang serve --model-path m --enable-metrics --tp 8 --attn-dp-size 4 --enable-metrics-for-all-schedulers"
    samples, _ = page(command)
    found = ranks(samples, "sglang:num_running_reqs", "dp_rank", "tp_rank")
    assert sorted(found) == [(str(rank // 2), str(rank)) for rank in range(8)]
    assert sum(found.values()) == 20
    samples, _ = page("sglang serve --model-path m --enable-metrics --tp 2 --enable-metrics-for-all-schedulers")
    assert ranks(samples, "sglang:num_running_reqs", "dp_rank", "tp_rank") == {(None, "0"): 10, (None, "1"): 10}


def test_histogram_counts_at_most_the_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.observe(1.0, 3)
    histogram.observe(1.5)
    histogram.observe(9.0)
    assert histogram.buckets() == [("1.0", 3.0), ("2.0", 4.0), ("+Inf", 5.0)]
    assert (histogram.count, histogram.total) == (5, 13.5)


def test_prefix_cache_in_both_dialects() -> None:
    for command, names in (
        (
            "vllm serve nvidia/GLM-5-NVFP4 --served-model-name glm-5",
            {"vllm:prefix_cache_queries_total": 2000, "vllm:prefix_cache_hits_total": 992},
        ),
        (
            "sglang serve --model-path zai-org/GLM-5-FP8 --enable-metrics",
            {"sglang:cached_tokens_total": 992, "sglang:cache_hit_rate": 0.992},
        ),
    ):
        settings = read_command(command.split(), Surroundings.from_environment({}))
        assert settings is not None and settings.prefix_caching
        model = EngineModel(Capacity(22_000, 2_800, 50, 10, 100_000, prefix_caching=True))
        exposed = EngineMetrics(settings, model)
        for _ in range(2):
            model.submit(Sequence(1000, 1, prompt=tuple(range(62))), at=model.now)
            while not model.idle:
                exposed.totals.stepped(model.step(0.1), 0.1)
        families = text_string_to_metric_families(exposed.page().decode())
        samples = {(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples}
        for name, expected in names.items():
            assert value(samples, name) == expected, name
