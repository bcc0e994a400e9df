"""Prefetch: image and weights are on the pool's nodes before a replica is; the next replica goes to such a node and
starts without fetching."""

from __future__ import annotations

from datetime import datetime

import pytest

from e2e.stage import NAMESPACE, Object, Stage, is_ready

FETCH_SECONDS = 15
POOL = "hopper-h200"
SPEC: Object = {
    "model": {"name": "glm-5", "cache": {"node": True, "prefetch": True}},
    "minReplicas": 1,
    "maxReplicas": 2,
    "placement": {"variants": [{"pool": POOL, "precision": "FP8"}]},
    "rollout": {"strategy": "Recreate"},  # so that the first one's GPUs are free for the next
}


@pytest.mark.only("local")
def test_the_next_replica_finds_its_weights(play: Stage) -> None:
    play.local.change_pool(POOL, fetch_seconds=FETCH_SECONDS)
    try:
        pool = play.pool(POOL, "H200", "2.50", timeout="60s")
        pool["spec"]["nodeCache"] = {"hostPath": "/mnt/nvme/spillway", "maxGB": 2000}
        play.apply(pool, play.moe("glm-5", SPEC))
        play.wait_ready("glm-5", 90)
        (first,) = replicas(play)
        assert "fetching zai-org/GLM-5-FP8" in log(play, first), "nobody had it when the first one came"
        play.wait("the weights on every node", lambda: prefetched(play).get("status") == "True", 90)
        words = prefetched(play)["message"]
        print(f"\n{words}")

        # The node goes empty: its disk has what the next replica needs.
        play.patch("moedeployment", "glm-5", {"metadata": {"annotations": {"spillway.dev/restart": "1"}}}, NAMESPACE)
        second = play.wait("another replica alone", lambda: successor(play, first), 120)
        assert "found zai-org/GLM-5-FP8" in log(play, second)
        holders = play.objects("pods", NAMESPACE, "app.kubernetes.io/component=prefetch")
        assert second["spec"]["nodeName"] in {pod["spec"]["nodeName"] for pod in holders if is_ready(pod)}
        cold, warm = start_seconds(first), start_seconds(second)
        print(f"from its node to ready: {cold:.0f} s with the fetch, {warm:.0f} s without")
        assert cold - warm > FETCH_SECONDS / 2
    finally:
        play.local.change_pool(POOL, fetch_seconds=0)
    play.patch("moedeployment", "glm-5", {"spec": {"model": {"cache": {"prefetch": False}}}}, NAMESPACE)
    play.wait("no DaemonSet", lambda: not play.objects("daemonsets", NAMESPACE), 30)


def replicas(play: Stage) -> list[Object]:
    return play.objects("pods", NAMESPACE, "spillway.dev/deployment=glm-5")


def successor(play: Stage, first: Object) -> Object | None:
    """The only replica, if it answers and is another one."""
    now = replicas(play)
    alone = len(now) == 1 and is_ready(now[0]) and now[0]["metadata"]["uid"] != first["metadata"]["uid"]
    return now[0] if alone else None


def prefetched(play: Stage) -> Object:
    return play.condition("moedeployment", "glm-5", "Prefetched", NAMESPACE)


def log(play: Stage, pod: Object) -> str:
    return play.local.pod_log(NAMESPACE, pod["metadata"]["name"]).joinpath("engine.log").read_text()


def start_seconds(pod: Object) -> float:
    """From its node to ready, by the pod's own conditions."""
    at = {
        c["type"]: datetime.fromisoformat(c["lastTransitionTime"].replace("Z", "+00:00"))
        for c in pod["status"]["conditions"]
    }
    return (at["Ready"] - at["PodScheduled"]).total_seconds()
