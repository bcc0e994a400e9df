"""S6: Prometheus is gone. Times here are a thirtieth of production's (stale after 10 s), so a minute stands for half
an hour: replicas hold, the condition says so, and recovery changes nothing that demand does not."""

from __future__ import annotations

import time

import pytest

from e2e.load.schedule import Schedule
from e2e.stage import NAMESPACE, Stage

OUTAGE_SECONDS = 60


@pytest.mark.only("local")
def test_s6_without_metrics_replicas_hold(play: Stage) -> None:
    spec = {"model": {"name": "glm-5"}, "maxReplicas": 3, "spill": {"providers": [{"name": "zai", "model": "glm-5"}]}}
    play.apply(play.moe("glm-5", spec))
    play.wait_ready("glm-5")
    with play.load("glm-5", Schedule.steady(14.0, 60)) as sending:
        play.wait("a second replica", lambda: play.status("glm-5").get("readyReplicas", 0) >= 2, 60)
        play.local.stop_prometheus()
        play.wait("the condition", lambda: metrics(play) == "False", 40)
        sending.stop()
        sending.join()
    # No load at all now, and nobody who knows: what would fall must hold.
    held = {p["metadata"]["uid"] for p in play.objects("pods", NAMESPACE)}
    assert len(held) >= 2
    end = time.monotonic() + OUTAGE_SECONDS
    while time.monotonic() < end:
        assert {p["metadata"]["uid"] for p in play.objects("pods", NAMESPACE)} == held
        assert metrics(play) == "False"
        time.sleep(2)
    assert "MetricsStale" in {e["reason"] for e in play.events("glm-5")}

    play.local.start_prometheus()
    play.wait("metrics again", lambda: metrics(play) == "True", 40)
    play.wait("replicas at the floor, as demand says", lambda: play.status("glm-5").get("replicas") == 1, 90)


def metrics(play: Stage) -> str | None:
    return play.condition("moedeployment", "glm-5", "MetricsAvailable", NAMESPACE).get("status")
