"""S2: real arrivals, then a step of five times: no failed request, overflow answered in the same request, replicas
rise with a reason, spill goes back to nothing, replicas fall later without a cut stream."""

from __future__ import annotations

import time

from e2e.load.schedule import Schedule
from e2e.load.traces import load
from e2e.stage import NAMESPACE, Stage

STEP_AT, STEP_FOR, SECONDS = 20.0, 45.0, 90.0


def test_s2_a_step_of_five_fails_no_request(play: Stage) -> None:
    spec = {
        "model": {"name": "glm-5"},
        "maxReplicas": 6,
        "spill": {"providers": [{"name": "zai", "model": "glm-5"}, {"name": "deepinfra", "model": "glm-5"}]},
    }
    play.apply(play.moe("glm-5", spec))
    play.wait_ready("glm-5")
    billed_before = play.billed()

    schedule = Schedule.of(load("azure23_conv"), seconds=SECONDS, start=600).step(5, STEP_AT, STEP_FOR)
    began = time.monotonic()
    with play.load("glm-5", schedule) as sending:
        play.wait(
            "more replicas, for demand",
            lambda: [d for d in play.status("glm-5").get("decisions", []) if d["reason"] == "DemandRose"],
            STEP_AT + STEP_FOR,
        )
        reacted = time.monotonic() - began - STEP_AT
        play.wait("a request answered by a provider", lambda: [r for r in sending.records if r.spilled], STEP_FOR)
        play.wait("a second replica that answers", lambda: play.status("glm-5").get("readyReplicas", 0) >= 2, STEP_FOR)
        summary = sending.join()

    print(f"\nS2: {summary.line()}; first reaction {reacted:.1f} s after the step")
    assert summary.failed == 0, summary.by_error
    assert summary.cut == 0
    assert summary.spilled > 0
    rose = [d for d in play.status("glm-5")["decisions"] if d["reason"] == "DemandRose"]
    assert all("replicas of work" in d["message"] and "$" in d["message"] for d in rose)
    assert play.billed() > billed_before

    # The load is over: a trickle goes on, spill has ended, and replicas fall one by one under streams.
    trickle = Schedule.steady(2.0, 120)
    with play.load("glm-5", trickle, streaming_share=1.0) as sending:
        play.wait("replicas back at the floor", lambda: play.status("glm-5").get("replicas") == 1, 120)
        time_of_fall = sending.elapsed()
        sending.stop()
        calm = sending.join()
    assert calm.failed == 0, calm.by_error
    assert calm.spilled == 0
    assert time_of_fall > 0
    fell = [d for d in play.status("glm-5")["decisions"] if d["reason"] == "DemandFell"]
    assert fell
    assert {e["reason"] for e in play.events("glm-5", NAMESPACE)} >= {"DemandRose", "DemandFell"}
