"""Churn: users scale and roll out two deployments, and gateways restart, faster than anything settles, under streams of
which none may fail or break.

`CHURN` events (100), about one every `PACE_SECONDS`, drawn from `CHURN_SEED` and printed with their times.
`CHURN_LONGEST` seconds (20) is how long every tenth stream lasts; where that is longer than the simulated times let
replicas and gateways drain, they are given the time that the defaults of a real cluster give.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from e2e.cluster.settings import SYSTEM_NAMESPACE
from e2e.hunt import Timeline
from e2e.load.generator import LoadRun, Target
from e2e.load.schedule import Schedule
from e2e.stage import NAMESPACE, BackgroundLoad, Object, Stage, is_ready

EVENTS = int(os.environ.get("CHURN", "100"))
SEED = int(os.environ.get("CHURN_SEED", "1"))
LONGEST_SECONDS = float(os.environ.get("CHURN_LONGEST", "20"))
PACE_SECONDS = 1.5
STREAMS_PER_SECOND = 2.0  # to each deployment
DECODE_TOKENS_PER_SECOND = 50  # of one stream: what the simulated replica gives
DRAINED_SECONDS = 25.0  # as long as manifests/components/simulated-times lets a replica drain
INOTIFY_PER_GATEWAY = 7
INOTIFY_LEFT = 40  # for all else that runs here
NAMES = ("churn-a", "churn-b")
MOST_REPLICAS = 3


@dataclass
class Churn:
    """What users ask for, one event after the other; none waits for the one before."""

    play: Stage
    timeline: Timeline
    draw: random.Random
    asked: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 2))
    done: Counter[str] = field(default_factory=Counter)

    def event(self) -> None:
        name = self.draw.choice(NAMES)
        kind = self.draw.choices(("scale", "roll out", "restart"), (45, 40, 15))[0]
        self.done[kind] += 1
        what = self._scale(name) if kind == "scale" else self._roll_out(name) if kind == "roll out" else self._restart()
        self.timeline.note(f"{self.done.total()}: {what}")

    def _scale(self, name: str) -> str:
        self.asked[name] = self.draw.choice([n for n in range(1, MOST_REPLICAS + 1) if n != self.asked[name]])
        self._patch(name, {"spec": {"minReplicas": self.asked[name], "maxReplicas": self.asked[name]}})
        return f"{name} is scaled to {self.asked[name]}"

    def _roll_out(self, name: str) -> str:
        number = self.done.total()
        if self.draw.random() < 0.5:
            self._patch(name, {"metadata": {"annotations": {"spillway.dev/restart": str(number)}}})
            return f"{name} is restarted"
        argument = f"--max-num-batched-tokens={8192 + number}"
        self._patch(name, {"spec": {"engine": {"extraArgs": [argument]}}})
        return f"{name} is rolled out with {argument}"

    def _restart(self) -> str:
        """One gateway pod, or all by a rolling update; never the last that serves: its PodDisruptionBudget holds it.
        As many drain at once as the machine can have."""
        drained = DRAINED_SECONDS + LONGEST_SECONDS + 120
        self.play.wait("room for more gateways", lambda: len(self.play.gateway_pods()) <= most_gateways() - 2, drained)
        if self.draw.random() < 0.3:
            self.play.cluster.kubectl("rollout", "restart", "deployment/spillway-gateway", "-n", SYSTEM_NAMESPACE)
            return "the gateways are rolled out"
        found = self.play.wait("two gateways that serve", lambda: two(self.play.gateways()), 60)
        name = self.draw.choice(sorted(pod["metadata"]["name"] for pod in found))
        self.play.cluster.kubectl("delete", "pod", name, "-n", SYSTEM_NAMESPACE, "--wait=false")
        return f"gateway {name} is deleted"

    def _patch(self, name: str, patch: Object) -> None:
        self.play.patch("moedeployment", name, patch, NAMESPACE)


@pytest.mark.only("local")
@pytest.mark.timeout(EVENTS * 4 + 6 * LONGEST_SECONDS + 600)
def test_churn_breaks_no_stream(play: Stage) -> None:
    if LONGEST_SECONDS > DRAINED_SECONDS:
        let_drain(play, LONGEST_SECONDS)
    play.apply(*(play.moe(name, spec(2)) for name in NAMES))
    for name in NAMES:
        play.wait_ready(name)
        play.wait("two replicas", lambda name=name: len(settled(play, name, 2)) == 2, 90)  # type: ignore[misc]
    timeline = Timeline.kept(f"churn-{SEED}")
    churn = Churn(play, timeline, random.Random(SEED))
    print(f"\nchurn {SEED}: {EVENTS} events, streams of up to {LONGEST_SECONDS:.0f} s")
    loads = {name: streams(play, name) for name in NAMES}
    try:
        for number in range(EVENTS):
            time.sleep(max(0.0, (number + 1) * PACE_SECONDS - timeline.now()))
            churn.event()
        last = timeline.now()
        for load in loads.values():
            load.stop()  # those that are open go on: what drains last is free once they have ended
        for name, count in churn.asked.items():
            wanted = f"{name} as it was asked for last"  # once those that drain have left their GPUs
            play.wait(wanted, lambda n=name, c=count: settled(play, n, c), 240 + LONGEST_SECONDS)  # type: ignore[misc]
        play.wait_for_gateways()
        timeline.note("all is as it was asked for last")
    finally:
        for load in loads.values():
            load.stop()
    broken = []
    for name, load in loads.items():
        summary = load.join(2 * LONGEST_SECONDS + 180)
        timeline.tell(f"  {name}: {summary.line()}")
        broken += [record for record in load.records if record.failed]
        assert summary.requests > EVENTS * PACE_SECONDS, "there were hardly any streams"
    longest = max(r.end - r.start for load in loads.values() for r in load.records)
    timeline.tell(f"churn {SEED}: {dict(churn.done)} in {last:.0f} s, the longest stream {longest:.0f} s")
    timeline.keep(broken, play.cluster.directory)
    assert broken == []
    assert churn.done.total() == EVENTS


def spec(replicas: int) -> Object:
    return {
        "model": {"name": "glm-5"},
        "minReplicas": replicas,
        "maxReplicas": replicas,
        "placement": {"variants": [{"pool": "blackwell-b200", "precision": "NVFP4"}]},
        "spill": {"providers": [{"name": "zai", "model": "glm-5"}]},
    }


def streams(play: Stage, name: str) -> BackgroundLoad:
    """Four seconds each, but every tenth lasts as long as they may; through the Service, which knows who serves."""
    seconds = 600.0 + EVENTS * 3
    steady = Schedule.steady(STREAMS_PER_SECOND, seconds, prompt_tokens=400, output_tokens=200)
    long = round(LONGEST_SECONDS * DECODE_TOKENS_PER_SECOND)
    arrivals = tuple(
        replace(arrival, output_tokens=long) if number % 10 == 9 else arrival
        for number, arrival in enumerate(steady.arrivals)
    )
    address = play.local.status()["services"][f"{SYSTEM_NAMESPACE}/spillway-gateway:80"]
    target = Target((f"http://{address}",), f"{name}.{NAMESPACE}", "glm-5")
    run = LoadRun(
        target, replace(steady, arrivals=arrivals), streaming_share=1.0, timeout_seconds=3 * LONGEST_SECONDS + 60
    )
    return BackgroundLoad(run)


def settled(play: Stage, name: str, count: int) -> list[Object]:
    """The replicas, if there are as many as asked for, ready and of one revision; else nothing."""
    selector = f"spillway.dev/deployment={name}"
    pods = [p for p in play.objects("pods", NAMESPACE, selector) if not p["metadata"].get("deletionTimestamp")]
    commands = {" ".join(pod["spec"]["containers"][0]["args"]) for pod in pods}
    return pods if len(pods) == count and len(commands) == 1 and all(map(is_ready, pods)) else []


def most_gateways() -> int:
    """Envoys that one user of this machine may run: each watches files by so many inotify instances, and ends where it
    gets none. `sysctl -w fs.inotify.max_user_instances=1024` lets a thousand events pass in half an hour."""
    instances = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())
    return max(4, (instances - INOTIFY_LEFT) // INOTIFY_PER_GATEWAY)


def two(pods: list[Object]) -> list[Object]:
    return pods if len(pods) == 2 else []


def let_drain(play: Stage, longest: float) -> None:
    """Replicas and gateways may take as long to drain as the longest stream lasts, as the defaults do."""
    seconds = round(longest) + 60
    play.cluster.kubectl(
        *("set", "env", "deployment/spillway-operator", "-n", SYSTEM_NAMESPACE),
        *(f"SPILLWAY_DRAIN_SECONDS={seconds}", f"SPILLWAY_ENGINE_DRAIN_SECONDS={seconds}"),
    )
    patch = {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": seconds + 30}}}}
    play.patch("deployment", "spillway-gateway", patch, SYSTEM_NAMESPACE)
    play.cluster.wait_for_operator()
    play.leader()
