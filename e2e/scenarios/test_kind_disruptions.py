"""What a platform team does on an ordinary day, under streaming load: no stream is broken, no request refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from e2e.cluster.settings import SYSTEM_NAMESPACE
from e2e.load.schedule import Schedule
from e2e.stage import NAMESPACE, BackgroundLoad, Stage

# An answer of 400 tokens streams for eight seconds: many are open at any moment.
LOAD = Schedule.steady(3.0, 600, prompt_tokens=800, output_tokens=400)
SPEC = {
    "model": {"name": "glm-5"},
    "minReplicas": 2,
    "maxReplicas": 2,
    "spill": {"providers": [{"name": "zai", "model": "glm-5"}]},
}


@contextmanager
def unbroken(play: Stage, sending: BackgroundLoad) -> Iterator[None]:
    """Streams that began before the block and streams that begin after it have ended well, and all in between."""
    before = sending.elapsed()
    play.wait("streams that have ended", lambda: len(sending.since(before)) > 3, 40)
    yield
    after = sending.elapsed()
    play.wait("streams that began afterwards", lambda: sending.since(after), 40)
    assert [record for record in sending.since(before) if record.failed] == []


@pytest.fixture(scope="module")
def serving(installed: Stage) -> Iterator[Stage]:
    """Two replicas of glm-5."""
    installed.platform()
    installed.apply(installed.moe("glm-5", SPEC))
    installed.wait_ready("glm-5")
    yield installed
    installed.clear()
    assert installed.refused() == []


@pytest.fixture(scope="module")
def sending(serving: Stage) -> Iterator[BackgroundLoad]:
    """The same streams through one disruption after the other."""
    with serving.streams("glm-5", LOAD) as found:
        yield found


@pytest.mark.only("kind")
@pytest.mark.parametrize("workload", ["spillway-operator", "spillway-gateway"])
def test_a_rolling_update_breaks_no_stream(serving: Stage, sending: BackgroundLoad, workload: str) -> None:
    old = names(serving, workload)
    with unbroken(serving, sending):
        serving.cluster.kubectl("rollout", "restart", f"deployment/{workload}", "-n", SYSTEM_NAMESPACE)
        serving.cluster.wait_for_operator()
        serving.wait("the old pods gone", lambda: not old & names(serving, workload), 90)
    assert len(names(serving, workload)) == 2


@pytest.mark.only("kind")
def test_a_drained_node_of_the_gateways_breaks_no_stream(serving: Stage, sending: BackgroundLoad) -> None:
    node = serving.kind.nodes[1]
    with unbroken(serving, sending), drained(serving, node):
        serving.wait_for_gateways()
        assert {pod["spec"]["nodeName"] for pod in serving.gateways()} == {serving.kind.nodes[0]}


@pytest.mark.only("kind")
def test_a_drained_gpu_node_breaks_no_stream(serving: Stage, sending: BackgroundLoad) -> None:
    node = next(pod["spec"]["nodeName"] for pod in serving.objects("pods", NAMESPACE))
    with unbroken(serving, sending), drained(serving, node):
        serving.wait(
            "both replicas on other nodes",
            lambda: [p["spec"].get("nodeName") != node for p in serving.objects("pods", NAMESPACE)] == [True, True],
            90,
        )
        serving.wait("both replicas ready", lambda: serving.status("glm-5").get("readyReplicas") == 2, 60)


@contextmanager
def drained(play: Stage, node: str) -> Iterator[None]:
    """A node as it is before its machine is replaced."""
    options = ["--ignore-daemonsets", "--delete-emptydir-data", "--timeout=180s"]
    try:
        play.cluster.kubectl("drain", node, *options)
        yield
    finally:
        play.cluster.kubectl("uncordon", node)


def names(play: Stage, workload: str) -> set[str]:
    return {
        pod["metadata"]["name"] for pod in play.objects("pods", SYSTEM_NAMESPACE, f"app.kubernetes.io/name={workload}")
    }
