"""S4: the B200 pool gives no GPUs: after its provisioning timeout the H200 pool gets the replicas, in FP8; spill
covers the time between; status and events say why. When the B200 pool gives GPUs again, the replicas return to it."""

from __future__ import annotations

import pytest

from e2e.load.schedule import Schedule
from e2e.stage import NAMESPACE, Stage, is_ready

TIMEOUT_SECONDS = 15


@pytest.mark.only("local")
def test_s4_a_pool_without_gpus(play: Stage) -> None:
    play.local.stock_out("blackwell-b200")
    for node in play.objects("nodes", selector="e2e.spillway.dev/pool=blackwell-b200"):
        play.local.remove_node(node["metadata"]["name"])
    spec = {
        "model": {"name": "glm-5"},
        "maxReplicas": 2,
        "spill": {"providers": [{"name": "zai", "model": "glm-5"}]},
    }
    play.apply(play.moe("glm-5", spec))
    play.wait("spill allowed", lambda: play.status("glm-5").get("spill", {}).get("active"), 30)

    with play.load("glm-5", Schedule.steady(2.0, 300)) as sending:
        play.wait(
            "the pool marked as out of capacity",
            lambda: play.condition("gpupool", "blackwell-b200", "OutOfCapacity").get("status") == "True",
            TIMEOUT_SECONDS + 20,
        )
        noticed = sending.elapsed()
        pool = play.get("gpupool", "blackwell-b200") or {}
        assert pool["status"]["outOfCapacitySince"]
        decision = play.wait(
            "replicas on the next pool",
            lambda: next(
                (d for d in play.status("glm-5")["decisions"] if d["variant"] == "hopper-h200-fp8-vllm"), None
            ),
            20,
        )
        play.wait_ready("glm-5", 60)
        ready = sending.elapsed()
        play.wait("an answer from the H200", lambda: [r for r in sending.since(ready) if r.served_by == "local"], 30)
        command = " ".join(arguments(play, "H200")[0])
        play.local.stock_out("blackwell-b200", False)
        play.wait("the cheaper pool again", lambda: arguments(play, "B200") and not arguments(play, "H200"), 120)
        returned = sending.elapsed()
        play.wait("an answer from the B200", lambda: [r for r in sending.since(returned) if r.served_by == "local"], 30)
        sending.stop()
        summary = sending.join()

    times = f"noticed after {noticed:.1f} s, on H200 after {ready:.1f} s, back on B200 after {returned:.1f} s"
    print(f"\nS4: {times}; {summary.line()}")
    assert decision["reason"] == "PoolOutOfCapacity"
    assert "blackwell-b200" in decision["message"]
    assert summary.failed == 0, summary.by_error
    assert summary.spilled > 0, "spill covers the time until the H200 serves"
    assert "GLM-5-FP8" in command
    assert {"PoolOutOfCapacity", "CheaperVariant"} <= {e["reason"] for e in play.events("glm-5")}
    assert play.condition("gpupool", "blackwell-b200", "OutOfCapacity")["status"] == "False"


def arguments(play: Stage, product: str) -> list[list[str]]:
    """Command lines of the ready replicas on GPUs of a product."""
    on = [p for p in play.objects("pods", NAMESPACE) if is_ready(p)]
    engines = [p["spec"] for p in on if p["spec"]["nodeSelector"]["nvidia.com/gpu.product"] == f"NVIDIA-{product}"]
    return [spec["containers"][0]["command"] + spec["containers"][0]["args"] for spec in engines]
