"""Nothing of a cluster survives it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from e2e.cluster import Cluster, ClusterConfig, take_down
from e2e.cluster.processes import StartError, process_start_ticks, wait_until
from tests.integration.conftest import Kube

BARE = ClusterConfig(pools=[], providers=[], prometheus=False, loopback_prefix="auto")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_killed_supervisor_takes_everything_with_it(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    Cluster.start_detached(directory, BARE)
    try:
        with pytest.raises(StartError, match="already runs"):
            Cluster.start_detached(directory, BARE)
        supervisor = json.loads((directory / "cluster.json").read_text())["pid"]
        started = children(supervisor)
        assert len(started) >= 4
        os.kill(supervisor, signal.SIGKILL)
        wait_until("all gone", lambda: not any(process_start_ticks(pid) for pid in started), 30)
        assert Cluster.attach(directory) is None
    finally:
        take_down(directory)
    assert not directory.exists()


def test_foreign_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    with pytest.raises(StartError, match="holds no cluster"):
        Cluster.start_detached(tmp_path, BARE)
    assert (tmp_path / "precious").read_text() == "data"


def test_api_server_alone_answers_and_checks_rights(kube: Kube) -> None:
    assert kube.kubectl("get", "--raw", "/readyz").stdout == "ok"
    assert kube.kubectl("auth", "can-i", "list", "pods", "--as=nobody").returncode == 1
