"""Engine metrics in one vocabulary: what is asked, and what the answers come to."""

from __future__ import annotations

import pytest

from spillway.decide.snapshot import EngineRates
from spillway.observe.load import PodLoad, RankLoad, by_pod, queries, rates, together
from spillway.observe.prometheus import Sample
from tests.unit.observe.series import answers, sample

OURS = 'deployment!=""'
RANK, VARIANT = "namespace, pod, engine, dp_rank", "namespace, deployment, variant"
TTFT, ITL = "time_to_first_token_seconds_bucket", "inter_token_latency_seconds_bucket"

EXPECTED = {
    "running": f'max by ({RANK}) ({{__name__=~"vllm:num_requests_running|sglang:num_running_reqs",{OURS}}})',
    "waiting": f'max by ({RANK}) ({{__name__=~"vllm:num_requests_waiting|sglang:num_queue_reqs",{OURS}}})',
    "kv_use": f'max by ({RANK}) ({{__name__=~"vllm:kv_cache_usage_perc|sglang:token_usage",{OURS}}})',
    "load_age": "time() - max by (namespace, pod) "
    f'(timestamp({{__name__=~"vllm:num_requests_running|sglang:num_running_reqs",{OURS}}}))',
    "input_tokens": f"sum by ({VARIANT}) "
    f'(rate({{__name__=~"vllm:prompt_tokens_total|sglang:prompt_tokens_total",{OURS}}}[90s]))',
    "output_tokens": f"sum by ({VARIANT}) "
    f'(rate({{__name__=~"vllm:generation_tokens_total|sglang:generation_tokens_total",{OURS}}}[90s]))',
    "time_to_first_token": f"histogram_quantile(0.95, sum by ({VARIANT}, le) "
    f'(rate({{__name__=~"vllm:{TTFT}|sglang:{TTFT}",{OURS}}}[20s])))',
    "inter_token_latency": f"histogram_quantile(0.95, sum by ({VARIANT}, le) "
    f'(rate({{__name__=~"vllm:{ITL}|sglang:{ITL}",{OURS}}}[20s])))',
    "preemptions": f"sum by ({VARIANT}) (max by (deployment, variant, {RANK}) "
    f'(rate({{__name__=~"vllm:num_preemptions_total|sglang:num_retracted_requests_total",{OURS}}}[20s])))',
    "rejections": f"sum by ({VARIANT}) (rate(vllm:admission_rejections_total{{{OURS}}}[20s]) "
    f'or rate(sglang:http_responses_total{{{OURS},status_code="503"}}[20s]))',
}


@pytest.mark.parametrize("signal", EXPECTED)
def test_query(signal: str) -> None:
    assert queries("20s", "90s")[signal] == EXPECTED[signal]


def test_every_query_is_in_the_table() -> None:
    assert queries("20s", "90s").keys() == EXPECTED.keys()


def gauges(pod: str, running: float, waiting: float, kv_use: float, **rank: str) -> dict[str, Sample]:
    labels = {"namespace": "chat", "pod": pod, **rank}
    return {
        "running": sample(running, **labels),
        "waiting": sample(waiting, **labels),
        "kv_use": sample(kv_use, **labels),
    }


def told(*pods: dict[str, Sample], age: float = 5.0) -> dict[str, tuple[Sample, ...]]:
    names = {one["running"].labels["pod"] for one in pods}
    signals = {name: [one[name] for one in pods if name in one] for name in ("running", "waiting", "kv_use")}
    return answers(**signals, load_age=[sample(age, namespace="chat", pod=name) for name in sorted(names)])


@pytest.mark.parametrize(
    ("pods", "expected"),
    [
        ([gauges("a", 8, 2, 0.5, engine="0")], (8, 2, 0.5)),
        ([gauges("a", 8, 2, 0.5)], (8, 2, 0.5)),  # SGLang without data parallelism has no rank
        ([gauges("a", 8, 2, 0.5, engine="0"), gauges("a", 4, 1, 0.9, engine="1")], (12, 3, 0.9)),
        ([gauges("a", 8, 2, 0.5, dp_rank="0"), gauges("a", 4, 0, 0.2, dp_rank="1")], (12, 2, 0.5)),
    ],
)
def test_ranks_add_up_and_the_fullest_cache_counts(
    pods: list[dict[str, Sample]], expected: tuple[int, int, float]
) -> None:
    found = by_pod(told(*pods), 60.0)
    assert found.keys() == {"chat/a"}
    load = found["chat/a"]
    assert (load.running, load.waiting, load.kv_use) == expected


def test_a_pod_that_tells_only_a_part_is_not_known() -> None:
    part = gauges("a", 8, 2, 0.5, engine="0")
    del part["waiting"]
    assert by_pod(told(part, gauges("b", 1, 0, 0.1, engine="0")), 60.0).keys() == {"chat/b"}


@pytest.mark.parametrize(("age", "known"), [(59.0, True), (61.0, False)])
def test_old_samples_are_not_known(age: float, known: bool) -> None:
    assert bool(by_pod(told(gauges("a", 8, 2, 0.5), age=age), 60.0)) is known


def test_nodes_of_one_replica_are_put_together_by_rank() -> None:
    first = PodLoad({"0": RankLoad(5, 1, 0.4), "1": RankLoad(6, 0, 0.3)})
    second = PodLoad({"1": RankLoad(6, 0, 0.3), "2": RankLoad(7, 2, 0.9)})  # data rank 1 lies on both
    found = together([first, second])
    assert found is not None
    assert (found.running, found.waiting, found.kv_use) == (18, 3, 0.9)
    assert together([]) is None


def test_rates_by_deployment_and_variant() -> None:
    b200 = {"namespace": "chat", "deployment": "glm-5", "variant": "b200"}
    h200 = {"namespace": "chat", "deployment": "glm-5", "variant": "h200"}
    found = rates(
        answers(
            input_tokens=[sample(4000, **b200), sample(0, **h200)],
            output_tokens=[sample(900, **b200), sample(0, **h200)],
            time_to_first_token=[sample(0.8, **b200)],  # no requests, no number: h200 is not there
            inter_token_latency=[sample(0.03, **b200)],
            preemptions=[sample(0.5, **b200)],
            rejections=[sample(0.25, **b200), sample(1, namespace="search", deployment="r1", variant="b200")],
        )
    )
    assert found == {
        "chat/glm-5": (EngineRates("b200", 4000, 900, 0.5, 0.25, 0.8, 0.03), EngineRates("h200")),
        "search/r1": (EngineRates("b200", rejections_per_second=1),),
    }
