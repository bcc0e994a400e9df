"""The NetworkPolicies hold, where the network plugin enforces them (SPILLWAY_CNI_ENFORCES=true, kindnet or Calico).

The pod network that our own node image brings enforces nothing; there `make test` checks the policies' text only.
"""

from __future__ import annotations

import os

import pytest

from e2e.cluster.kind.world import MONITORING
from e2e.cluster.settings import SYSTEM_NAMESPACE
from e2e.stage import NAMESPACE, Stage

_ENFORCED = os.environ.get("SPILLWAY_CNI_ENFORCES") == "true"
_PROBE = """
import socket, sys
for target in sys.argv[1:]:
    host, port = target.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 3).close()
        print("open")
    except OSError:
        print("closed")
"""


@pytest.mark.only("kind" if _ENFORCED else "kind with a network plugin that enforces")
def test_only_those_who_need_it_reach_spillways_pods(play: Stage) -> None:
    gateway = play.gateways()[0]["status"]["podIP"]
    operator = play.leader()["status"]["podIP"]
    targets = [f"{gateway}:8080", f"{gateway}:9902", f"{operator}:8081", f"{operator}:18000"]
    assert reached_from(play, NAMESPACE, targets) == ["open", "closed", "closed", "closed"], "a client"
    assert reached_from(play, MONITORING, targets) == ["open", "open", "open", "closed"], "Prometheus"
    assert reached_from(play, SYSTEM_NAMESPACE, targets) == ["closed"] * 4, "an unknown pod beside them"


def reached_from(play: Stage, namespace: str, targets: list[str]) -> list[str]:
    """Which of the addresses accept a connection from a new pod in the namespace."""
    return play.kind.run_python(namespace, _PROBE, targets).split()
