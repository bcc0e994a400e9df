"""S5: the operator dies without a word under load; two operator processes, one leader."""

from __future__ import annotations

from e2e.load.schedule import Schedule
from e2e.stage import NAMESPACE, Stage

SYSTEM = "spillway-system"
SPEC = {
    "model": {"name": "glm-5"},
    "minReplicas": 1,
    "maxReplicas": 1,
    "spill": {"providers": [{"name": "zai", "model": "glm-5"}]},
}


def test_s5_a_dead_operator_harms_no_local_request(play: Stage) -> None:
    play.patch("costpolicy", "assist", {"spec": {"whenOperatorLost": "StopAtOnce"}})  # the shortest lease: 15 s
    play.apply(play.moe("glm-5", SPEC))
    play.wait_ready("glm-5")
    before = play.status("glm-5")
    pods_before = {p["metadata"]["uid"] for p in play.objects("pods", NAMESPACE)}

    # Half of what a replica takes, then far more, so that both paths are in use when the operator dies.
    with play.load("glm-5", Schedule.steady(16.0, 240)) as sending:
        play.wait("spill", lambda: [r for r in sending.records if r.spilled], 60)
        kill_operators(play)
        killed = sending.elapsed()
        play.wait(
            "the end of spill, when the lease ends",
            lambda: any(r.status == 429 for r in sending.since(killed)),
            60,
        )
        ended = min(r.start for r in sending.since(killed) if r.status == 429) - killed
        late = sending.elapsed()
        play.wait("local answers without an operator", lambda: [r for r in sending.since(late) if not r.failed], 60)
        assert not [r for r in sending.since(late) if r.spilled]
        play.cluster.deploy_operator()
        back = sending.elapsed()
        play.wait("spill again under a new leader", lambda: [r for r in sending.since(back) if r.spilled], 90)
        sending.stop()
        summary = sending.join()

    print(f"\nS5: spill ended {ended:.1f} s after kill -9 (lease 15 s); {summary.line()}")
    assert set(summary.by_error) <= {"http_429"}, "refused for want of capacity, never broken"
    assert summary.cut == 0
    assert {p["metadata"]["uid"] for p in play.objects("pods", NAMESPACE)} == pods_before, "no needless start or stop"
    after = play.status("glm-5")
    assert after["decisions"] == before["decisions"]


def test_s5_two_operators_one_leader(play: Stage) -> None:
    first = play.leader()["metadata"]["name"]
    leaders = play.objects("pods", SYSTEM, "spillway.dev/leader=true")
    assert [p["metadata"]["name"] for p in leaders] == [first]
    lease = play.get("lease", "spillway-operator", SYSTEM)
    assert lease is not None
    assert lease["spec"]["holderIdentity"] == first

    play.delete("pod", first, SYSTEM)
    play.wait("another leader", lambda: holder(play) not in ("", first), 40)
    second = play.leader()["metadata"]["name"]
    assert second == holder(play)
    assert len(play.objects("pods", SYSTEM, "spillway.dev/leader=true")) == 1


def holder(play: Stage) -> str:
    lease = play.get("lease", "spillway-operator", SYSTEM) or {"spec": {}}
    return str(lease["spec"].get("holderIdentity") or "")


def kill_operators(play: Stage) -> None:
    """kill -9 of every operator process, with nobody who starts it again."""
    play.cluster.kubectl("delete", "deployment", "spillway-operator", "-n", SYSTEM, "--cascade=orphan")
    play.cluster.kubectl(
        "delete", "replicasets", "-n", SYSTEM, "-l", "app.kubernetes.io/name=spillway-operator", "--cascade=orphan"
    )
    for pod in play.objects("pods", SYSTEM, "app.kubernetes.io/name=spillway-operator"):
        play.cluster.kill_pod(SYSTEM, pod["metadata"]["name"])
        play.cluster.kubectl("delete", "pod", pod["metadata"]["name"], "-n", SYSTEM, "--grace-period=0", "--force")
