"""GPU pools: engines on them, machines on demand, stock-outs, lost machines; and Prometheus and the providers."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from typing import Any

from e2e.cluster.processes import wait_until
from tests.integration.cluster.conftest import Local, program_pod
from tests.integration.cluster.test_pods import ask

GPU = "nvidia.com/gpu"


def gpu_pod(name: str, product: str, gpus: int) -> dict[str, Any]:
    resources = {"limits": {GPU: gpus}}
    return program_pod(name, container={"resources": resources}, nodeSelector={"nvidia.com/gpu.product": product})


def engine_pod(name: str, *flags: str) -> dict[str, Any]:
    probe = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 1, "failureThreshold": 60}
    container = {
        "name": "engine",
        "image": "vllm/vllm-openai:v0.33.0",
        "command": ["vllm", "serve", "nvidia/GLM-5-NVFP4", "--host", "0.0.0.0", "--port", "8000", *flags],
        "resources": {"limits": {GPU: 4}},
        "startupProbe": probe,
        "readinessProbe": probe,
    }
    labels = {
        "app.kubernetes.io/part-of": "spillway",
        "app.kubernetes.io/component": "engine",
        "spillway.dev/deployment": "glm-5",
        "spillway.dev/variant": "busy-nvfp4-vllm",
    }
    return program_pod(name, labels=labels, container=container, nodeSelector={"nvidia.com/gpu.product": "NVIDIA-B200"})


def test_engine_pod_serves_and_is_scraped(local: Local) -> None:
    local.apply(engine_pod("engine", "--served-model-name", "glm-5"))
    wait_until("ready", lambda: local.condition("engine", "Ready") == "True", 60)
    assert json.loads(ask(local.pod("engine")["status"]["podIP"], "v1/models"))["data"][0]["id"] == "glm-5"

    def scraped() -> bool:
        return query(local, 'up{pod="engine"}') == [
            {"deployment": "glm-5", "namespace": "default", "variant": "busy-nvfp4-vllm"}
        ]

    wait_until("scraped", scraped, 30)
    local.cluster.stop_prometheus()
    assert not local.cluster.status()["prometheus_running"]
    local.cluster.start_prometheus()
    wait_until("scraped again, with the data from before", scraped, 30)
    local.cluster.kubectl("delete", "pod", "engine")


def query(local: Local, expression: str) -> list[dict[str, str]]:
    text = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{local.cluster.prometheus_url}/api/v1/query?{text}", timeout=10) as response:
        result = json.load(response)["data"]["result"]
    names = ("deployment", "namespace", "variant")
    return [{name: item["metric"][name] for name in names} for item in result if item["value"][1] == "1"]


def test_engine_with_a_wrong_flag_crashes_as_it_would(local: Local) -> None:
    local.apply(engine_pod("wrong-flag", "--no-such-flag"))

    def crashed() -> bool:
        statuses = local.pod("wrong-flag")["status"].get("containerStatuses", [])
        return any(item["lastState"].get("terminated", {}).get("exitCode") == 2 for item in statuses)

    wait_until("crashed", crashed, 30)
    log = local.cluster.pod_log("default", "wrong-flag") / "engine.log"
    assert "--no-such-flag" in log.read_text()
    local.cluster.kubectl("delete", "pod", "wrong-flag")


def test_machines_come_on_demand_and_no_more_than_the_pool_has(local: Local) -> None:
    names = [f"big-{number}" for number in range(3)]
    local.apply(*(gpu_pod(name, "NVIDIA-B200", 8) for name in names))

    def ready() -> int:
        return sum(local.condition(name, "Ready") == "True" for name in names)

    wait_until("two of three run", lambda: ready() == 2, 60)
    waiting = next(name for name in names if local.condition(name, "Ready") != "True")
    wait_until("the third is told why", lambda: "NotTriggerScaleUp" in local.reasons(waiting), 30)
    assert len([node for node in local.cluster.status()["nodes"] if node.startswith("busy-")]) == 2
    local.cluster.kubectl("delete", "pod", *names)


def test_pool_without_stock_gives_nothing_until_it_has_some(local: Local) -> None:
    local.apply(gpu_pod("wanting", "NVIDIA-H200", 4))
    wait_until("the pod is told", lambda: "FailedScaleUp" in local.reasons("wanting"), 30)
    assert not [node for node in local.cluster.status()["nodes"] if node.startswith("sold-out-")]
    local.cluster.stock_out("sold-out", False)
    wait_until("it runs", lambda: local.condition("wanting", "Ready") == "True", 60)
    local.cluster.stock_out("sold-out", True)
    local.cluster.kubectl("delete", "pod", "wanting")


def test_lost_machine_takes_its_pods(local: Local) -> None:
    local.apply(gpu_pod("doomed", "NVIDIA-B300", 8))
    wait_until("it runs", lambda: local.condition("doomed", "Ready") == "True", 60)
    node = local.pod("doomed")["spec"]["nodeName"]
    local.cluster.lose_node(node)
    assert local.condition("doomed", "Ready") == "False"
    assert local.condition(node, "Ready", "node") == "Unknown"
    local.cluster.remove_node(node)
    local.wait_gone("doomed")
    assert local.get("node", node) is None


def test_a_machine_taken_back_with_notice_ends_its_pods_in_order(local: Local) -> None:
    """A pod that a PodDisruptionBudget protects stays until the notice has passed; the other one is evicted."""
    guard = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "guarded"}}
    guard |= {"spec": {"minAvailable": 1, "selector": {"matchLabels": {"guarded": "yes"}}}}
    guarded = gpu_pod("guarded", "NVIDIA-B300", 4)
    guarded["metadata"]["labels"] = {"guarded": "yes"}
    local.apply(guard, guarded, gpu_pod("evicted", "NVIDIA-B300", 4))
    wait_until("one runs", lambda: local.condition("guarded", "Ready") == "True", 60)
    wait_until("so does the other", lambda: local.condition("evicted", "Ready") == "True", 60)
    node = local.pod("guarded")["spec"]["nodeName"]
    assert local.pod("evicted")["spec"]["nodeName"] == node

    local.cluster.reclaim_node(node, notice_seconds=12)
    spec = (local.get("node", node) or {})["spec"]
    assert spec["unschedulable"]
    assert "e2e.spillway.dev/reclaimed" in {taint["key"] for taint in spec["taints"]}
    local.wait_gone("evicted")
    assert "deletionTimestamp" not in local.pod("guarded")["metadata"]
    assert "Killing" in local.reasons("evicted")
    local.wait_gone("guarded")
    wait_until("the machine is gone", lambda: local.get("node", node) is None, 10)
    local.cluster.kubectl("delete", "pdb", "guarded")


def test_empty_machines_go(local: Local) -> None:
    local.apply(gpu_pod("short", "NVIDIA-B300", 8))
    wait_until("it runs", lambda: local.condition("short", "Ready") == "True", 60)
    node = local.pod("short")["spec"]["nodeName"]
    local.cluster.kubectl("delete", "pod", "short")
    wait_until("the node goes", lambda: local.get("node", node) is None, 30)


def test_providers_bill_and_their_keys(local: Local) -> None:
    assert local.cluster.provider_bill("zai")["total_usd"] == "0"
    local.cluster.provider_faults("zai", mode="outage")
    local.cluster.provider_faults("zai", mode="ok")
    done = local.cluster.kubectl("get", "secret", "spillway-provider-keys", "-n", "spillway-system", "-o", "json")
    assert set(json.loads(done.stdout)["data"]) == {"zai", "deepinfra", "provider-ca.crt"}
