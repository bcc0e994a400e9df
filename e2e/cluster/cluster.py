"""A handle on a running local cluster: bring it up, ask it, break it, take it down."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from e2e.cluster.handle import ClusterHandle, ask
from e2e.cluster.kubeapi import Obj
from e2e.cluster.processes import Say, StartError, die_with_parent, process_start_ticks, python_environment
from e2e.cluster.settings import CONFIG_FILE, REPOSITORY, STATE_FILE, ClusterConfig, cache_directory

_OVERLAY_PREFIX = "127.0.0"  # what the overlay is written for
_STOP_SECONDS = 30


def run_directory(name: str = "local") -> Path:
    """Where the cluster of that name keeps its files."""
    return cache_directory() / "run" / name


class Cluster(ClusterHandle):
    """A running cluster, found by its directory. Synchronous; the work is done by the supervisor process."""

    overlay = REPOSITORY / "manifests" / "overlays" / "local"

    def __init__(self, directory: Path, state: dict[str, Any]) -> None:
        self.directory = directory
        self.audit_log = directory / "logs" / "audit.log"
        self.kubeconfig = Path(state["kubeconfig"])
        self.prometheus_url: str | None = state["prometheus"]
        self.providers: dict[str, dict[str, str]] = state["providers"]
        self.prefix: str = state["prefix"]
        self._control_url: str = state["control"]

    @classmethod
    def attach(cls, directory: Path) -> Cluster | None:
        """The cluster that runs in the directory, or None."""
        state = _read_state(directory)
        return cls(directory, state) if state and _alive(state) else None

    @classmethod
    @contextlib.contextmanager
    def up(cls, directory: Path, config: ClusterConfig | None = None, say: Say = print) -> Iterator[Cluster]:
        """A cluster for a `with` block (a test session): it ends with the block, or with this thread.

        Its addresses are chosen so that several can run side by side, unless the config names a prefix.
        """
        config = config or ClusterConfig(loopback_prefix="auto")
        supervisor = _start(directory, config, say, detached=False)
        try:
            cluster = cls.attach(directory)
            if cluster is None:
                raise StartError(f"the cluster in {directory} went away at once")
            yield cluster
        finally:
            supervisor.terminate()
            try:
                supervisor.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                supervisor.kill()
                supervisor.wait()

    @classmethod
    def start_detached(cls, directory: Path, config: ClusterConfig, say: Say = print) -> Cluster:
        """A cluster that outlives this process, until take_down()."""
        _start(directory, config, say, detached=True)
        cluster = cls.attach(directory)
        if cluster is None:
            raise StartError(f"the cluster in {directory} went away at once")
        return cluster

    def operator_manifests(self) -> str:
        """The local overlay (CRDs, RBAC, operator, gateway) with this cluster's loopback prefix."""
        rendered = self.kubectl("kustomize", str(self.overlay)).stdout
        return rendered.replace(f"{_OVERLAY_PREFIX}.", f"{self.prefix}.")

    def client_urls(self, gateways: Sequence[Obj]) -> list[str]:
        """Every gateway pod's own address: no kube-proxy stands before them here."""
        return sorted(f"http://{pod['status']['podIP']}:8080" for pod in gateways)

    def heal(self) -> None:
        for pool in self.status()["pools"]:
            self.stock_out(pool, False)

    def status(self) -> dict[str, Any]:
        """Nodes, pools, pods with pids and addresses, services."""
        return self._control("GET", "/status")

    def change_pool(self, pool: str, **changes: object) -> None:
        """Change how a pool's cloud behaves from now on, for example provisioning_seconds=60."""
        self._control("PATCH", f"/pools/{pool}", changes)

    def stock_out(self, pool: str, out: bool = True) -> None:
        """The cloud has no more machines for the pool (or has them again)."""
        self.change_pool(pool, stocked_out=out)

    def kill_pod(self, namespace: str, name: str, signal_number: int = signal.SIGKILL) -> None:
        """Signal the pod's processes: a crash, which the node agent restarts."""
        self._control("POST", f"/pods/{namespace}/{name}/kill", {"signal": int(signal_number)})

    def lose_node(self, node: str) -> None:
        """The machine dies; its object stays, Unknown, until remove_node()."""
        self._control("POST", f"/nodes/{node}/lose")

    def remove_node(self, node: str) -> None:
        """The cloud takes the machine back: node and pods disappear."""
        self._control("POST", f"/nodes/{node}/remove")

    def reclaim_node(self, node: str, notice_seconds: float = 120) -> None:
        """The cloud takes a spot machine back with notice: its pods are evicted, with their grace period, and it goes
        when it is empty, at the latest after the notice."""
        self._control("POST", f"/nodes/{node}/reclaim", {"notice_seconds": notice_seconds})

    def stop_prometheus(self) -> None:
        self._control("POST", "/prometheus/stop")

    def start_prometheus(self) -> None:
        """Again, with the data from before."""
        self._control("POST", "/prometheus/start")

    def pause_api_server(self) -> None:
        """It answers nothing until resume_api_server()."""
        self._control("POST", "/apiserver/pause")

    def resume_api_server(self) -> None:
        self._control("POST", "/apiserver/resume")

    def pod_log(self, namespace: str, name: str) -> Path:
        """The directory with one log file per container; it stays when the pod is gone."""
        return self.directory / "logs" / "pods" / namespace / name

    def _control(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        return ask(method, f"{self._control_url}{path}", body if body is not None else {})


def take_down(directory: Path) -> bool:
    """End the cluster in the directory, whoever started it, and remove its files; False if none ran."""
    state = _read_state(directory)
    running = bool(state and _alive(state))
    if state and running:
        os.kill(state["pid"], signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while _alive(state) and time.monotonic() < deadline:
            time.sleep(0.1)
        if _alive(state):
            os.kill(state["pid"], signal.SIGKILL)  # the kernel then ends all its children
    _remove(directory)
    return running


def _start(directory: Path, config: ClusterConfig, say: Say, *, detached: bool) -> subprocess.Popen[str]:
    """Start a supervisor and relay its progress until the cluster is up."""
    if Cluster.attach(directory):
        raise StartError(f"a cluster already runs in {directory}")
    _remove(directory)
    (directory / "logs").mkdir(parents=True)
    (directory / CONFIG_FILE).write_text(config.model_dump_json(indent=1))
    progress, errors = directory / "logs" / "progress.log", directory / "logs" / "supervisor.log"
    with progress.open("w") as output, errors.open("w") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "e2e.cluster.supervisor", str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=log,
            text=True,
            cwd=REPOSITORY,
            env=python_environment(PYTHONPATH=str(REPOSITORY)),
            start_new_session=True,
            preexec_fn=None if detached else die_with_parent(signal.SIGTERM),
        )
    try:
        _relay(directory, supervisor, progress, errors, say)
    except BaseException:
        supervisor.terminate()
        supervisor.wait()
        raise
    return supervisor


def _relay(directory: Path, supervisor: subprocess.Popen[str], progress: Path, errors: Path, say: Say) -> None:
    with progress.open() as lines:
        while True:
            ended, up = supervisor.poll() is not None, (directory / STATE_FILE).exists()
            for line in lines:
                say(line.rstrip())
            if ended:
                tail = "\n".join(errors.read_text().splitlines()[-20:])
                raise StartError(f"the cluster did not come up ({errors}):\n{tail}")
            if up:
                return
            time.sleep(0.05)


def _remove(directory: Path) -> None:
    """Remove a cluster's files, and nobody else's."""
    if directory.exists() and any(directory.iterdir()):
        if not (directory / CONFIG_FILE).exists():
            raise StartError(f"{directory} is not empty and holds no cluster")
        shutil.rmtree(directory)


def _read_state(directory: Path) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = json.loads((directory / STATE_FILE).read_text())
    except FileNotFoundError:
        return None
    return state


def _alive(state: dict[str, Any]) -> bool:
    ticks: int = state["start_ticks"]
    return process_start_ticks(state["pid"]) == ticks
