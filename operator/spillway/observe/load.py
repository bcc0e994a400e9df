"""Load of the engines, one vocabulary for vLLM and SGLang.

| here                 | vLLM 0.33                                 | SGLang 0.5.23                                  |
|----------------------|-------------------------------------------|------------------------------------------------|
| running              | vllm:num_requests_running                 | sglang:num_running_reqs                        |
| waiting              | vllm:num_requests_waiting                 | sglang:num_queue_reqs                          |
| kv_use               | vllm:kv_cache_usage_perc                  | sglang:token_usage                             |
| time_to_first_token  | vllm:time_to_first_token_seconds          | sglang:time_to_first_token_seconds             |
| inter_token_latency  | vllm:inter_token_latency_seconds          | sglang:inter_token_latency_seconds             |
| input_tokens         | vllm:prompt_tokens_total                  | sglang:prompt_tokens_total                     |
| output_tokens        | vllm:generation_tokens_total              | sglang:generation_tokens_total                 |
| preemptions          | vllm:num_preemptions_total                | sglang:num_retracted_requests_total            |
| rejections           | vllm:admission_rejections_total           | sglang:http_responses_total, status_code 503   |

Data parallel ranks: vLLM has one series for each (label `engine`). With SGLang's DP attention every scheduler knows its
rank (`dp_rank`); with --enable-metrics-for-all-schedulers all tensor ranks of one data rank tell the same numbers, and
with priorities so do the classes beside their total. Hence the greatest value of each rank, then the sum of the ranks.
SGLang's pods of a multi-node group each tell of the ranks on their own node, so ranks are put together by group. A
full queue in the middle of a stream is no 503 of SGLang's and does not count as a rejection.
(sglang/srt/observability/metrics_collector.py, vllm/v1/metrics/loggers.py)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from spillway.decide.snapshot import EngineRates
from spillway.observe.prometheus import Answers, Sample

OURS = 'deployment!=""'  # Prometheus may scrape engines that are not Spillway's
PER_RANK = "namespace, pod, engine, dp_rank"
PER_VARIANT = "namespace, deployment, variant"
LATENCY_QUANTILE = 0.95
RUNNING, WAITING, KV_USE, LOAD_AGE = "running", "waiting", "kv_use", "load_age"
INPUT_TOKENS, OUTPUT_TOKENS = "input_tokens", "output_tokens"


def queries(window: str, long_window: str) -> dict[str, str]:
    """PromQL by signal: gauges by rank of each pod, rates (per second) and latencies (seconds) by variant."""

    def either(vllm: str, sglang: str, more: str = "") -> str:
        return f'{{__name__=~"vllm:{vllm}|sglang:{sglang}",{OURS}{more}}}'

    def gauge(vllm: str, sglang: str) -> str:
        return f"max by ({PER_RANK}) ({either(vllm, sglang)})"

    def rate(name: str) -> str:
        return f"sum by ({PER_VARIANT}) (rate({either(name, name)}[{long_window}]))"

    def latency(name: str) -> str:
        buckets = either(f"{name}_bucket", f"{name}_bucket")
        summed = f"sum by ({PER_VARIANT}, le) (rate({buckets}[{window}]))"
        return f"histogram_quantile({LATENCY_QUANTILE}, {summed})"

    preempted = f"rate({either('num_preemptions_total', 'num_retracted_requests_total')}[{window}])"
    refused = (f"vllm:admission_rejections_total{{{OURS}}}", f'sglang:http_responses_total{{{OURS},status_code="503"}}')
    return {
        RUNNING: gauge("num_requests_running", "num_running_reqs"),
        WAITING: gauge("num_requests_waiting", "num_queue_reqs"),
        KV_USE: gauge("kv_cache_usage_perc", "token_usage"),
        LOAD_AGE: f"time() - max by (namespace, pod) (timestamp({either('num_requests_running', 'num_running_reqs')}))",
        INPUT_TOKENS: rate("prompt_tokens_total"),
        OUTPUT_TOKENS: rate("generation_tokens_total"),
        "time_to_first_token": latency("time_to_first_token_seconds"),
        "inter_token_latency": latency("inter_token_latency_seconds"),
        "preemptions": f"sum by ({PER_VARIANT}) (max by (deployment, variant, {PER_RANK}) ({preempted}))",
        "rejections": f"sum by ({PER_VARIANT}) ({' or '.join(f'rate({one}[{window}])' for one in refused)})",
    }


@dataclass(frozen=True, slots=True)
class RankLoad:
    """Of one data parallel rank: requests, and the share of its KV cache in use (0 to 1)."""

    running: float
    waiting: float
    kv_use: float


@dataclass(frozen=True, slots=True)
class PodLoad:
    """What one pod tells, by data parallel rank."""

    ranks: Mapping[str, RankLoad]

    @property
    def running(self) -> int:
        return round(sum(rank.running for rank in self.ranks.values()))

    @property
    def waiting(self) -> int:
        return round(sum(rank.waiting for rank in self.ranks.values()))

    @property
    def kv_use(self) -> float:
        """Of the fullest rank: it is the one that preempts, whatever the others have left."""
        return max(rank.kv_use for rank in self.ranks.values())


def by_pod(answers: Answers, oldest_seconds: float) -> dict[str, PodLoad]:
    """Load by namespace/pod. A pod whose samples are older, or that tells only a part, is not known."""
    signals = {name: {(s.pod, _rank(s)): s.value for s in answers[name]} for name in (RUNNING, WAITING, KV_USE)}
    ages = {sample.pod: sample.value for sample in answers[LOAD_AGE]}
    ranks: dict[str, dict[str, RankLoad]] = {}
    for key in signals[RUNNING].keys() & signals[WAITING].keys() & signals[KV_USE].keys():
        pod, rank = key
        if ages.get(pod, float("inf")) <= oldest_seconds:
            load = RankLoad(signals[RUNNING][key], signals[WAITING][key], signals[KV_USE][key])
            ranks.setdefault(pod, {})[rank] = load
    return {pod: PodLoad(found) for pod, found in sorted(ranks.items())}


def together(pods: Iterable[PodLoad]) -> PodLoad | None:
    """The load of one replica whose pods are these: tensor ranks of one data rank may lie on several nodes and tell
    the same. None: nothing is known."""
    ranks: dict[str, RankLoad] = {}
    for pod in pods:
        for name, load in pod.ranks.items():
            known = ranks.get(name, load)
            ranks[name] = RankLoad(
                max(known.running, load.running), max(known.waiting, load.waiting), max(known.kv_use, load.kv_use)
            )
    return PodLoad(ranks) if ranks else None


def rates(answers: Answers) -> dict[str, tuple[EngineRates, ...]]:
    """What the engines of each variant did lately, by deployment. Without requests there are no latencies."""
    names = ("time_to_first_token", "inter_token_latency", INPUT_TOKENS, OUTPUT_TOKENS, "preemptions", "rejections")
    signals = {name: {(s.deployment, s.labels.get("variant", "")): s.value for s in answers[name]} for name in names}
    found: dict[str, list[EngineRates]] = {}
    for key in sorted({key for signal in signals.values() for key in signal}):
        deployment, variant = key
        one = EngineRates(
            variant=variant,
            input_tokens_per_second=signals[INPUT_TOKENS].get(key, 0.0),
            output_tokens_per_second=signals[OUTPUT_TOKENS].get(key, 0.0),
            preemptions_per_second=signals["preemptions"].get(key, 0.0),
            rejections_per_second=signals["rejections"].get(key, 0.0),
            time_to_first_token_seconds=signals["time_to_first_token"].get(key),
            inter_token_latency_seconds=signals["inter_token_latency"].get(key),
        )
        found.setdefault(deployment, []).append(one)
    return {deployment: tuple(variants) for deployment, variants in found.items()}


def _rank(sample: Sample) -> str:
    return sample.labels.get("engine") or sample.labels.get("dp_rank") or "0"
