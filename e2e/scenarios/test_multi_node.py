"""A replica on two nodes: DeepSeek R1 in FP8 on 2 x 8 H100 becomes ready as a group, serves through its leader, is
replaced as a group when one of its pods dies, and scales by group."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from e2e.load.schedule import Schedule
from e2e.stage import NAMESPACE, BackgroundLoad, Object, Stage, is_ready

SETS = "leaderworkersets.leaderworkerset.x-k8s.io"
LWS = "leaderworkerset.sigs.k8s.io"


def groups(play: Stage) -> dict[int, list[Object]]:
    """The pods that stay, by the index of their group, the leader first."""
    found: dict[int, list[Object]] = {}
    pods = play.objects("pods", NAMESPACE, "spillway.dev/deployment=deepseek-r1")
    for pod in sorted(pods, key=lambda p: int(p["metadata"]["labels"][f"{LWS}/worker-index"])):
        if not pod["metadata"].get("deletionTimestamp"):
            found.setdefault(int(pod["metadata"]["labels"][f"{LWS}/group-index"]), []).append(pod)
    return found


def uids(pods: list[Object]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}


def complete(play: Stage, number: int) -> Callable[[], dict[int, list[Object]] | None]:
    """The groups, once there are so many with both pods ready, and no others."""

    def look() -> dict[int, list[Object]] | None:
        found = groups(play)
        whole = all(len(pods) == 2 and all(map(is_ready, pods)) for pods in found.values())
        return found if whole and sorted(found) == list(range(number)) else None

    return look


def h100(play: Stage) -> Object:
    """The pool whose replicas may span nodes."""
    pool = play.pool("hopper-h100", "H100", "2.10")
    pool["spec"]["nodeSelector"] = {"e2e.spillway.dev/pool": "hopper-h100"}
    pool["spec"]["topology"] = {"multiNode": "LeaderWorkerSet"}
    return pool


@pytest.mark.only("local")
def test_both_engines_span_nodes_with_tensor_and_with_data_ranks(play: Stage) -> None:
    data = {"strategy": "DataExpert", "tensor": 2, "data": 8, "nodes": 2}
    place = {"pool": "hopper-h100", "precision": "FP8"}
    specs = {
        "r1-vllm": {"engine": {"name": "vLLM"}, "placement": {"variants": [{**place, "parallelism": data}]}},
        "r1-sglang": {"engine": {"name": "SGLang"}, "placement": {"variants": [place]}},
    }
    model = {"model": {"name": "deepseek-r1", "servedName": "glm-5"}}
    play.apply(h100(play), *(play.moe(name, model | spec) for name, spec in specs.items()))
    for name in specs:
        play.wait_ready(name, 60)
        assert play.ask(name, "who serves? [[out=3]]").headers["x-spillway-served-by"] == "local"


@pytest.mark.only("local")
def test_a_replica_on_two_nodes(play: Stage) -> None:
    spec = {
        "model": {"name": "deepseek-r1", "servedName": "glm-5"},
        "minReplicas": 1,
        "maxReplicas": 2,
        "placement": {"variants": [{"pool": "hopper-h100", "precision": "FP8"}]},
        "spill": {"providers": [{"name": "zai", "model": "glm-5"}]},
    }
    play.apply(h100(play), play.moe("deepseek-r1", spec))
    play.wait_ready("deepseek-r1", 60)

    (first,) = play.wait("one group", complete(play, 1), 10).values()
    assert len({pod["spec"]["nodeName"] for pod in first}) == 2
    assert [pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] for pod in first] == ["8", "8"]
    status = play.status("deepseek-r1")
    assert (status["replicas"], status["readyReplicas"], status["variants"][0]["gpusPerReplica"]) == (1, 1, 16)
    assert play.ask("deepseek-r1", "who serves? [[out=3]]").headers["x-spillway-served-by"] == "local"

    with play.load("deepseek-r1", Schedule.steady(2.0, 170)) as sending:
        play.wait("an answer from the group", lambda: [r for r in sending.records if r.served_by == "local"], 20)
        lost = replaced(play, sending, first)
        grown = scaled(play, 2)
        assert uids(grown[0]) == uids(groups(play)[0]), "the first group stays"
        assert len({pod["spec"]["nodeName"] for pods in grown.values() for pod in pods}) == 4
        play.wait("a budget of one pod of four", lambda: budget(play) == (4, 3), 20)
        shrunk = scaled(play, 1)
        assert uids(shrunk[0]) == uids(grown[0]), "the highest group goes first"
        sending.stop()
        summary = sending.join()

    print(f"\nmulti-node: {summary.line()}; {summary.failed} failed, with the killed engine")
    assert all(record.start <= lost for record in sending.records if record.failed), summary.by_error
    assert summary.spilled > 0, "providers answer while the group starts again"


def replaced(play: Stage, sending: BackgroundLoad, old: list[Object]) -> float:
    """Kill the worker; both pods go and come back. Returns the time of the run until which its engine had requests."""
    worker = old[1]["metadata"]
    play.local.kill_pod(worker["namespace"], worker["name"])
    lost = sending.elapsed()
    play.wait("both pods replaced", lambda: not uids(old) & uids(groups(play).get(0, [])), 30)
    play.wait("a whole group again", complete(play, 1), 60)
    play.wait_ready("deepseek-r1", 30)
    ready = sending.elapsed()
    play.wait("an answer from the new group", lambda: [r for r in sending.since(ready) if r.served_by == "local"], 30)
    return lost


def budget(play: Stage) -> tuple[int, int]:
    """Pods that the PodDisruptionBudget counts, and how many of them must stay healthy."""
    status = (play.get("poddisruptionbudget", "deepseek-r1", NAMESPACE) or {})["status"]
    return status["expectedPods"], status["desiredHealthy"]


def scaled(play: Stage, number: int) -> dict[int, list[Object]]:
    """Pin so many groups and wait for them, as the LeaderWorkerSet has them."""
    play.patch("moedeployment", "deepseek-r1", {"spec": {"replicas": number}}, NAMESPACE)
    found = play.wait(f"{number} groups", complete(play, number), 90)
    (owner,) = play.objects(SETS, NAMESPACE)
    assert owner["spec"]["replicas"] == number
    play.wait("the status", lambda: play.status("deepseek-r1").get("readyReplicas") == number, 20)
    return found
