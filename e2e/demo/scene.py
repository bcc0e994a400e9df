"""The demo's cluster: the scenarios' stage with providers, prices and limits that make a budget run out in a minute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster.cluster import Cluster, take_down
from e2e.cluster.processes import Say
from e2e.cluster.settings import DEFAULT_POOLS, ClusterConfig, Pool
from e2e.stage import NAMESPACE, PROVIDER_MODELS, Object, Stage, providers

DEPLOYMENT, POLICY, BUDGET = "glm-5", "assist", "api-day"
FIRST_POOL, SECOND_POOL = "blackwell-b200", "hopper-h200"
FIRST_VARIANT = "blackwell-b200-nvfp4-vllm"
DAY_USD = "500"
TIMEOUT_SECONDS = 15

# What one request outside can cost at most decides how large a budget must be to be used to its end: its bound, 1 %,
# has to hold one slot (docs/money.md). So prompts and answers are short here, and the operator is told what is true
# of these providers: none answers in less than two seconds, or streams faster than they do.
CONTEXT_TOKENS, ANSWER_TOKENS = 3072, 256
FIRST_TOKEN_SECONDS, TOKENS_PER_SECOND = 2.0, 290
LONGEST_PROMPT_TOKENS = 2900
TRUE_OF_PROVIDERS = {
    "SPILLWAY_SHORTEST_ANSWER_SECONDS": FIRST_TOKEN_SECONDS,
    "SPILLWAY_FASTEST_STREAM_TOKENS_PER_SECOND": 1.0 + TOKENS_PER_SECOND,
}


def config() -> ClusterConfig:
    """Nodes come within three seconds and leave when they were empty for six; cold starts take about ten."""
    pools = [p.model_copy(update={"provisioning_seconds": 3, "remove_empty_after_seconds": 6}) for p in DEFAULT_POOLS]
    speed = {"firstTokenSeconds": FIRST_TOKEN_SECONDS, "tokensPerSecond": TOKENS_PER_SECOND}
    apis = [p.model_copy(update={"config": p.config | speed}) for p in providers()]
    return ClusterConfig(pools=pools, providers=apis, loopback_prefix="auto")


class InformedCluster(Cluster):
    """The operator is told how fast these providers are at most."""

    def operator_manifests(self) -> str:
        documents = list(yaml.safe_load_all(super().operator_manifests()))
        for document in documents:
            if (document["kind"], document["metadata"]["name"]) == ("Deployment", "spillway-operator"):
                container = document["spec"]["template"]["spec"]["containers"][0]
                kept = [e for e in container["env"] if e["name"] not in TRUE_OF_PROVIDERS]
                told = [{"name": name, "value": f"{value:g}"} for name, value in TRUE_OF_PROVIDERS.items()]
                container["env"] = kept + told
        return yaml.safe_dump_all(documents)


@contextmanager
def scene(directory: Path, say: Say) -> Iterator[Stage]:
    """The cluster with Spillway, until the block ends; what an earlier demo left behind is removed first."""
    take_down(directory)
    with InformedCluster.up(directory, config(), say) as cluster:
        say("installing Spillway: CRDs, operator (two processes), gateway (two Envoys)")
        cluster.deploy_operator()
        cluster.wait_for_operator()
        found = Stage(cluster)
        found.wait_for_gateways()
        found.leader()
        yield found


def platform(stage: Stage) -> list[Object]:
    """What the platform team applies: the namespace, two pools, two providers, one budget a day."""
    prices = PROVIDER_MODELS["glm-5"]
    model = {"name": "glm-5", "price": prices, "contextLength": CONTEXT_TOKENS, "maxOutputTokens": ANSWER_TOKENS}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        stage.pool(FIRST_POOL, "B200", "4.20", f"{TIMEOUT_SECONDS}s"),
        stage.pool(SECOND_POOL, "H200", "2.50", f"{TIMEOUT_SECONDS}s"),
        stage.provider("zai", models=[model]),
        stage.provider("deepinfra", models=[model]),
        stage.policy(POLICY, DAY_USD),
    ]


def app(stage: Stage) -> Object:
    """What the app team applies."""
    names = [{"name": name, "model": "glm-5"} for name in ("zai", "deepinfra")]
    spec = {"model": {"name": "glm-5"}, "maxReplicas": 6, "slo": {"queueSeconds": 3}, "spill": {"providers": names}}
    return stage.moe(DEPLOYMENT, spec)


def amount(usd: str, **changes: Any) -> Object:
    """The patch of the CostPolicy that sets its one budget, and whatever else of its spec."""
    budget = {"name": BUDGET, "period": "Day", "amount": usd, "scope": "External"}
    return {"spec": {"budgets": [budget]} | changes}


def units_of(variant: str, prompt_tokens: float = 1154, output_tokens: float = 211) -> float:
    """The work that one replica of a variant does, in B200 replicas, as the simulated engines are set."""
    mean = prompt_tokens, output_tokens
    return replica_seconds(FIRST_VARIANT, *mean) / replica_seconds(variant, *mean)


def replica_seconds(variant: str, prompt_tokens: float, output_tokens: float) -> float:
    """How long one replica of the variant is busy with one request."""
    pool = next((p for p in DEFAULT_POOLS if variant.startswith(p.name)), DEFAULT_POOLS[0])
    precision = variant.removeprefix(f"{pool.name}-").split("-")[0].upper()
    speed, gpus = pool.speeds.get(precision, next(iter(pool.speeds.values()))), _gpus(pool, precision)
    return (
        prompt_tokens / speed.prefill_tokens_per_second_per_gpu + output_tokens / speed.decode_tokens_per_second_per_gpu
    ) / gpus


def _gpus(pool: Pool, precision: str) -> int:
    """GLM-5's GPUs per replica: NVFP4 fits on four B200, FP8 takes eight of either."""
    return 4 if (pool.product, precision) == ("NVIDIA-B200", "NVFP4") else 8
