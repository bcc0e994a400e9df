"""An idle cluster: nothing is written but the leader's Lease and, once a minute, the ledger and what shows it."""

from __future__ import annotations

import time

import pytest

from e2e.stage import NAMESPACE, Stage

WATCH_SECONDS = 20
QUIET = (
    "moedeployments,gpupools,externalproviders,deployments,services,serviceaccounts,poddisruptionbudgets,"
    "networkpolicies,pods"
)


@pytest.mark.only("local")
def test_an_idle_cluster_writes_nothing(play: Stage) -> None:
    spec = {"model": {"name": "glm-5"}, "spill": {"providers": [{"name": "zai", "model": "glm-5"}]}}
    play.apply(play.moe("glm-5", spec))
    play.wait_ready("glm-5")
    play.wait("what Prometheus first tells of the load", lambda: play.status("glm-5").get("load"), 90)
    play.wait("a quiet moment", lambda: settled(play), 60)

    before = versions(play)
    events = len(play.objects("events", NAMESPACE))
    time.sleep(WATCH_SECONDS)  # what is to be seen is that nothing happens
    assert versions(play) == before
    assert len(play.objects("events", NAMESPACE)) == events


def settled(play: Stage) -> bool:
    """Whether nothing changed between two looks."""
    before = versions(play)
    time.sleep(6)  # three ticks
    return versions(play) == before


def versions(play: Stage) -> dict[str, str]:
    found = [o for o in play.objects(QUIET) if o["metadata"].get("namespace") != "spillway-system"]
    return {f"{o['kind']}/{o['metadata']['name']}": o["metadata"]["resourceVersion"] for o in found}
