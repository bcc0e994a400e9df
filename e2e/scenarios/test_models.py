"""Every model of the catalog on both engines, at once: ready, answering, spread over its GPUs as the catalog has it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pytest

from e2e.cluster.settings import BLACKWELL_ULTRA_POOLS, GPU_RESOURCE, POOL_LABEL
from e2e.stage import NAMESPACE, Object, Stage
from spillway.catalog import load

POOLS = {"vLLM": "blackwell-b300", "SGLang": "blackwell-gb300"}
PRODUCTS = {"blackwell-b300": "B300", "blackwell-gb300": "GB300"}
SPREAD = {
    # in NVFP4: vLLM on B300, SGLang on GB300
    "glm-5": ("TP4+EP", "TP4"),
    "glm-5.2": ("TP8+EP", "TP4+EP"),
    "qwen3.5-397b-a17b": ("TP2+EP", "DP4+EP"),
    "deepseek-r1": ("TP4+EP", "TP2+EP"),
    "deepseek-v3.2": ("DP4+EP", "TP2+EP"),
    "deepseek-v4-pro": ("TP8+EP", "TP4+EP"),
    "deepseek-v4-flash": ("DP4+EP", "DP4+EP"),
}


def deployments(play: Stage) -> dict[tuple[str, str], Object]:
    """A MoEDeployment for each model and engine."""
    found = {}
    for model in SPREAD:
        for engine, pool in POOLS.items():
            name = f"{model}-{engine}".lower().replace(".", "-")
            spec = {
                "model": {"name": model},
                "engine": {"name": engine},
                "maxReplicas": 1,
                "placement": {"variants": [{"pool": pool, "precision": "NVFP4"}]},
            }
            found[model, engine] = play.moe(name, spec)
    return found


def gpu_pools(play: Stage) -> list[Object]:
    found = []
    for pool in BLACKWELL_ULTRA_POOLS:
        offered = play.pool(pool.name, PRODUCTS[pool.name], "6.50", max_gpus=None)
        offered["spec"]["nodeSelector"] = {POOL_LABEL: pool.name}
        offered["spec"]["gpu"]["perNode"] = pool.gpus_per_node
        found.append(offered)
    return found


def spread(engine: str, arguments: Sequence[str]) -> str:
    """How an engine's arguments spread it over GPUs, as docs/models.md writes it. SGLang's tensor size is all GPUs."""
    tensor_flag, data_flag, expert_flag = {
        "vLLM": ("--tensor-parallel-size", "--data-parallel-size", "--enable-expert-parallel"),
        "SGLang": ("--tp-size", "--attn-dp-size", "--ep-size"),
    }[engine]
    tensor = int(arguments[arguments.index(tensor_flag) + 1])
    data = int(arguments[arguments.index(data_flag) + 1]) if data_flag in arguments else 1
    if engine == "SGLang":
        tensor //= data
    parts = [f"DP{data}"] if data > 1 else []
    parts += [f"TP{tensor}"] if tensor > 1 or data == 1 else []
    return "+".join([*parts, *(["EP"] if expert_flag in arguments else [])])


@pytest.mark.only("local")
def test_every_model_answers_on_both_engines(play: Stage) -> None:
    assert SPREAD.keys() == load().models.keys(), "a model of the catalog is not played"
    wanted = deployments(play)
    play.apply(*gpu_pools(play), *wanted.values())
    names = [f"moedeployment/{moe['metadata']['name']}" for moe in wanted.values()]
    play.cluster.kubectl("wait", "--for=condition=Ready", *names, "-n", NAMESPACE, "--timeout=120s")

    pods = {pod["metadata"]["labels"]["spillway.dev/deployment"]: pod for pod in play.objects("pods", NAMESPACE)}
    statuses = {moe["metadata"]["name"]: moe["status"] for moe in play.objects("moedeployments", NAMESPACE)}
    (gateway, *_) = play.urls()
    runs: dict[tuple[str, str], str] = {}
    for (model, engine), moe in wanted.items():
        name = moe["metadata"]["name"]
        answer = play.ask(name, "Say something about dams. [[out=3]]", url=gateway, model=model)
        assert (answer.status, answer.headers["x-spillway-served-by"]) == (200, "local"), (name, answer.body)
        assert answer.body["model"] == model
        assert answer.body["choices"][0]["message"]["content"]

        container = pods[name]["spec"]["containers"][0]
        runs[model, engine] = spread(engine, container["args"])
        gpus = math.prod(int(size) for size in re.findall(r"\d+", runs[model, engine]))
        assert container["resources"]["limits"][GPU_RESOURCE] == str(gpus), name
        (variant,) = statuses[name]["variants"]
        assert (variant["name"], variant["ready"]) == (f"{POOLS[engine]}-nvfp4-{engine.lower()}", 1)
        assert variant["gpusPerReplica"] == gpus, name
    assert runs == {
        (model, engine): how for model, row in SPREAD.items() for engine, how in zip(POOLS, row, strict=True)
    }
