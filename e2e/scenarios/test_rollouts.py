"""Rollouts under streams: image, argument, model revision, precision and pool, each without a failed request or a
broken stream; on a full pool, where an old replica goes first and its requests spill; and a revision that is no good,
which is given up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from e2e.load.schedule import Schedule
from e2e.stage import NAMESPACE, BackgroundLoad, Object, Stage, is_ready

# An answer of 200 tokens streams for four seconds: some are open at any moment.
LOAD = Schedule.steady(3.0, 400, prompt_tokens=400, output_tokens=200)
B200 = {"pool": "blackwell-b200", "precision": "NVFP4"}
SPEC: Object = {
    "model": {"name": "glm-5"},
    "minReplicas": 2,
    "maxReplicas": 2,
    "placement": {"variants": [B200]},
    "spill": {"providers": [{"name": "zai", "model": "glm-5"}]},
}
FIVE: dict[str, Object] = {
    "image": {"engine": {"image": "docker.io/vllm/vllm-openai:v0.33.0-patched"}},
    "argument": {"engine": {"extraArgs": ["--max-num-batched-tokens=16384"]}},
    "model revision": {"model": {"sources": {"NVFP4": {"uri": "hf://nvidia/GLM-5-NVFP4@8f1c2d3"}}}},
    "precision": {"placement": {"variants": [{"pool": "blackwell-b200", "precision": "FP8"}]}},
    "pool": {"placement": {"variants": [{"pool": "hopper-h200", "precision": "FP8"}]}},
}


@contextmanager
def streaming(play: Stage, spec: Object) -> Iterator[BackgroundLoad]:
    """Streams to two replicas; none may fail or be cut until the block ends."""
    play.apply(play.moe("glm-5", spec))
    play.wait("both replicas", lambda: len(pods(play)) == 2 and all(map(is_ready, pods(play))), 60)
    play.wait_ready("glm-5")
    with play.streams("glm-5", LOAD) as sending:
        play.wait("an answer", lambda: sending.records, 30)
        yield sending


def pods(play: Stage) -> list[Object]:
    """The replicas that stay."""
    found = play.objects("pods", NAMESPACE, "spillway.dev/deployment=glm-5")
    return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]


def uids(found: list[Object]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in found}


def replaced(play: Stage, before: set[str], seconds: float = 90) -> list[Object]:
    """Both replicas, once they answer and none of those before is left."""

    def look() -> list[Object] | None:
        now = pods(play)
        return now if len(now) == 2 and all(map(is_ready, now)) and not before & uids(now) else None

    return play.wait("two new replicas", look, seconds)


@pytest.mark.only("local")
def test_five_rollouts_break_no_stream(play: Stage) -> None:
    with streaming(play, SPEC) as sending:
        for what, change in FIVE.items():
            before, began = uids(pods(play)), sending.elapsed()
            play.patch("moedeployment", "glm-5", {"spec": change}, NAMESPACE)
            now = replaced(play, before)
            print(f"\n{what}: {sending.elapsed() - began:.0f} s")
            assert {r.served_by for r in sending.since(began)} <= {"local"}, "there is room: nothing needs to spill"
        commands = {" ".join(pod["spec"]["containers"][0]["args"]) for pod in now}
        assert all("GLM-5-FP8" in command and "--max-num-batched-tokens=16384" in command for command in commands)
        assert {p["spec"]["containers"][0]["image"] for p in now} == {FIVE["image"]["engine"]["image"]}
    reasons = {event["reason"] for event in play.events("glm-5")}
    assert "RolloutSurge" in reasons
    assert not reasons & {"RolloutFailed", "RolloutWaiting", "RolloutSpill"}


@pytest.mark.only("local")
def test_rollouts_on_a_full_pool_and_of_a_bad_revision(play: Stage) -> None:
    play.apply(play.pool("blackwell-b200", "B200", "4.20", max_gpus=8))
    with streaming(play, SPEC) as sending:
        # A bad flag: the new replica crashes, the old one is asked for again, and whoever looks is told.
        before = uids(pods(play))
        play.patch("moedeployment", "glm-5", {"spec": {"engine": {"extraArgs": ["--no-such-flag"]}}}, NAMESPACE)
        degraded = play.wait(
            "the bad revision given up",
            lambda: (
                (c := play.condition("moedeployment", "glm-5", "Degraded", NAMESPACE)).get("status") == "True"
                and c["reason"] == "RolloutFailed"
                and c
            ),
            90,
        )
        assert "CrashLoopBackOff" in degraded["message"]
        play.wait(
            "both replicas of the old revision", lambda: len(pods(play)) == 2 and all(map(is_ready, pods(play))), 60
        )
        assert len(before & uids(pods(play))) == 1, "one made room, the other one served on"
        play.patch(
            "moedeployment", "glm-5", {"spec": {"engine": {"extraArgs": ["--max-num-batched-tokens=8192"]}}}, NAMESPACE
        )
        told = play.wait("why one goes first, and its price", lambda: spill_words(play), 30)
        replaced(play, uids(pods(play)) | before)
        play.wait(
            "an end",
            lambda: play.condition("moedeployment", "glm-5", "Progressing", NAMESPACE).get("status") == "False",
            30,
        )
        assert play.condition("moedeployment", "glm-5", "Degraded", NAMESPACE)["status"] == "False"
        # Recreate by annotation: no replica serves for a while, and providers answer.
        before, began = uids(pods(play)), sending.elapsed()
        patch = {
            "metadata": {"annotations": {"spillway.dev/restart": "1"}},
            "spec": {"rollout": {"strategy": "Recreate"}},
        }
        play.patch("moedeployment", "glm-5", patch, NAMESPACE)
        replaced(play, before)
        assert {r.served_by for r in sending.since(began)} >= {"zai"}
    print(f"\n{told}")


def spill_words(play: Stage) -> str | None:
    """The event before the first old replica goes; a later one has the same reason."""
    told = [e["message"] for e in play.events("glm-5") if e["reason"] == "RolloutSpill"]
    return next((words for words in told if "no room for a new replica: an old one goes first; " in words), None)
