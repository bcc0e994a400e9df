"""Pools that cannot give what is wanted: two deployments want the last GPUs; a spot machine is taken back."""

from __future__ import annotations

from typing import Any

import pytest

from e2e.load.schedule import Schedule
from e2e.stage import ANSWER_TOKENS, CONTEXT_TOKENS, NAMESPACE, Object, Stage

# Streams of seconds: some are open when their machine goes.
STREAMS = Schedule.steady(2.0, 150, prompt_tokens=800, output_tokens=300)
LOAD = Schedule.steady(2.0, 150, prompt_tokens=800, output_tokens=100)


def priced(play: Stage, name: str, usd: int) -> Object:
    """The provider at that price for a million tokens, far above a GPU's, so that replicas pay within seconds."""
    model = {"name": "glm-5", "contextLength": CONTEXT_TOKENS, "maxOutputTokens": ANSWER_TOKENS}
    return play.provider(name, models=[{**model, "price": {"input": str(usd), "output": str(3 * usd)}}])


def contender(play: Stage, name: str, provider: str) -> Object:
    """Wants the one replica that the H200 pool has room for."""
    return play.moe(name, {
        "model": {"name": "glm-5"},
        "minReplicas": 0,
        "maxReplicas": 1,
        "placement": {"variants": [{"pool": "hopper-h200", "precision": "FP8"}]},
        "spill": {"providers": [{"name": provider, "model": "glm-5"}]},
    })  # fmt: skip


@pytest.mark.only("local")
def test_the_last_gpus_go_where_they_are_worth_more(play: Stage) -> None:
    play.local.stock_out("hopper-h200")  # its one node is all there is
    play.apply(
        play.policy("assist", "20000"),
        play.pool("hopper-h200", "H200", "2.50", max_gpus=None),
        priced(play, "deepinfra", 250),
        priced(play, "zai", 1000),
        contender(play, "cheap", "deepinfra"),
    )
    play.wait("spill allowed", lambda: play.status("cheap").get("spill", {}).get("active"), 30)
    with play.load("cheap", LOAD) as first:
        play.wait("the GPUs of the first", lambda: play.status("cheap").get("readyReplicas") == 1, 60)
        play.apply(contender(play, "dear", "zai"))
        play.wait("spill allowed", lambda: play.status("dear").get("spill", {}).get("active"), 30)
        with play.load("dear", LOAD) as second:
            play.wait("the GPUs change hands", lambda: play.status("dear").get("readyReplicas") == 1, 90)
            limited = play.wait("the loser's reason", lambda: without_gpus(play, "cheap"), 20)
            second.stop()
            first.stop()
            sums = first.join(), second.join()

    print(f"\ncheap: {sums[0].line()}\ndear: {sums[1].line()}\n{limited}")
    assert "hopper-h200: 8 GPUs are chat/dear's, to whom one is worth $" in limited
    decisions = play.status("cheap")["decisions"]
    # More than one where metrics were missing while the loser drained: it is held as it is, and outbid again.
    outbid = [(d["from"], d["to"]) for d in decisions if d["reason"] == "Outbid"]
    assert set(outbid) == {(1, 0)}, decisions
    assert decisions[0]["reason"] == "Outbid", decisions
    assert play.status("cheap")["replicas"] == 0
    assert [s.failed for s in sums] == [0, 0]


def without_gpus(play: Stage, name: str) -> str:
    found = play.condition("moe", name, "ScalingLimited", NAMESPACE)
    return str(found["message"]) if found.get("reason") == "NoGPU" else ""


@pytest.mark.only("local")
def test_a_spot_machine_is_taken_back_under_load(play: Stage) -> None:
    pool = play.pool("blackwell-b200", "B200", "1.90")
    pool["spec"]["price"]["billing"] = "Spot"
    spec: dict[str, Any] = {
        "model": {"name": "glm-5"},
        "maxReplicas": 1,
        "placement": {"variants": [{"pool": "blackwell-b200", "precision": "NVFP4"}]},
        "spill": {"providers": [{"name": "zai", "model": "glm-5"}]},
    }
    play.apply(pool, play.moe("glm-5", spec))
    play.wait_ready("glm-5", 60)
    [old] = nodes(play)
    with play.streams("glm-5", STREAMS) as sending:
        play.wait("streams of the replica", lambda: local(sending.records), 20)
        play.local.reclaim_node(old)
        reclaimed = sending.elapsed()
        play.wait(
            "the pool names the node", lambda: old in play.condition("gpool", "blackwell-b200", "Ready")["message"], 15
        )
        play.wait("the machine gone", lambda: play.get("node", old) is None, 60)
        play.wait("a replica on another machine", lambda: nodes(play) not in ([], [old]), 60)
        play.wait_ready("glm-5", 60)
        back = sending.elapsed()
        play.wait("streams of the new replica", lambda: local(sending.since(back)), 30)

    print(f"\nspot: reclaimed at {reclaimed:.1f} s, back at {back:.1f} s")
    assert [r for r in local(sending.records) if r.start < reclaimed < r.end], "streams were open on that machine"
    assert [r for r in sending.since(reclaimed) if r.spilled and r.start < back], "providers answer meanwhile"


def local(records: list[Any]) -> list[Any]:
    return [r for r in records if r.served_by == "local"]


def nodes(play: Stage) -> list[str]:
    """Where the replicas of glm-5 run that stay."""
    pods = play.objects("pods", NAMESPACE, "spillway.dev/deployment=glm-5")
    return [
        p["spec"]["nodeName"] for p in pods if not p["metadata"].get("deletionTimestamp") and "nodeName" in p["spec"]
    ]
