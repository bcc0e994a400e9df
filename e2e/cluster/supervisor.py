"""The process that is the cluster: it owns every other process and offers a control port on loopback.

`python -m e2e.cluster.supervisor DIRECTORY` reads DIRECTORY/config.json, and writes DIRECTORY/cluster.json once
everything is up. It ends, with all it started, on SIGTERM; if it is killed, the kernel ends its children.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from aiohttp import web

from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.kubeapi import Client
from e2e.cluster.kubelet import NodeAgent
from e2e.cluster.leaderworkersets import LeaderWorkerSets
from e2e.cluster.processes import StartError, process_start_ticks
from e2e.cluster.prometheus import Prometheus
from e2e.cluster.providers import Providers
from e2e.cluster.settings import CONFIG_FILE, STATE_FILE, ClusterConfig

log = logging.getLogger("cluster.supervisor")

_CLAIM_PORT = 10249
_SUBNETS = range(64, 250)  # second part of the pods' loopback addresses; one per running cluster


def say(message: str) -> None:
    """Progress, for whoever waits for the cluster."""
    print(message, flush=True)


@contextlib.contextmanager
def own_subnet() -> Iterator[int]:
    """A second address part that no other running cluster of this machine uses, whoever started it: held by a socket
    that the kernel gives to one process only and takes back when it dies."""
    for number in _SUBNETS:
        with socket.socket() as claim:
            try:
                claim.bind((f"127.{number}.255.254", _CLAIM_PORT))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            claim.listen()
            yield number
            return
    raise StartError(f"all {len(_SUBNETS)} loopback subnets are in use by running clusters")


def pod_directory(subnet: int) -> Path:
    """An empty, private directory with a short path; what a killed cluster left there goes."""
    path = Path(tempfile.gettempdir(), f"spillway-{os.getuid()}-{subnet}")
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700)
    return path


class Supervisor:
    """The parts of one running cluster and the requests that change them."""

    def __init__(self, directory: Path, config: ClusterConfig, plane: ControlPlane, subnet: int) -> None:
        self.directory, self.config, self.plane, self.subnet = directory, config, plane, subnet
        self.prefix = f"127.{subnet}.0" if config.loopback_prefix == "auto" else config.loopback_prefix
        self.providers = Providers(plane, directory, config.providers, self.prefix)
        self.leader_worker_sets: LeaderWorkerSets | None = None
        if config.leader_worker_sets:
            self.leader_worker_sets = LeaderWorkerSets(plane, directory / "lws", say)
        self.prometheus: Prometheus | None = None
        if config.prometheus:
            address = f"{self.prefix}.{config.prometheus_host}"
            self.prometheus = Prometheus(plane, directory / "prometheus", address, config.scrape_seconds, say)

    def start_processes(self) -> None:
        """All but the control plane; from the main thread, whose end would end them."""
        if self.leader_worker_sets:
            say("starting LeaderWorkerSet's controller")
            self.leader_worker_sets.start()
        if self.prometheus:
            say("starting Prometheus")
            self.prometheus.launch()
            self.prometheus.wait()
        if self.config.providers:
            say("starting the provider simulators: " + ", ".join(item.name for item in self.config.providers))
        self.providers.start()

    async def run(self, began: float) -> None:
        """Serve until SIGTERM."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        plane = self.plane
        async with Client(plane.server, plane.token, str(plane.authority.certificate)) as client:
            targets = self.prometheus.targets if self.prometheus else None
            scratch = pod_directory(self.subnet)
            self.agent = NodeAgent(plane, client, self.config, self.directory, scratch, self.subnet, targets)
            await self.agent.start()
            runner = web.AppRunner(self._control(), access_log=None)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self._write_state(f"http://127.0.0.1:{runner.addresses[0][1]}")
            say(f"the cluster is up after {time.monotonic() - began:.1f} s")
            await self._until(stop)
            await runner.cleanup()
            await self.agent.stop()
            shutil.rmtree(scratch)

    async def _until(self, stop: asyncio.Event) -> None:
        """Wait for the end; a process of the control plane that dies ends the cluster with words."""
        processes = [*self.plane.processes]
        if self.leader_worker_sets and self.leader_worker_sets.process:
            processes.append(self.leader_worker_sets.process)
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 5)
            for process in processes:
                if process.exit_code is not None and not stop.is_set():
                    raise StartError(f"{process.name} died (status {process.exit_code}):\n{process.log_tail()}")

    def _write_state(self, control: str) -> None:
        state = {
            "pid": os.getpid(),
            "start_ticks": process_start_ticks(os.getpid()),
            "control": control,
            "kubeconfig": str(self.plane.kubeconfig),
            "prometheus": self.prometheus.url if self.prometheus else None,
            "providers": self.providers.describe(),
            "prefix": self.prefix,
        }
        fresh = self.directory / f"{STATE_FILE}.new"
        fresh.write_text(json.dumps(state, indent=1))
        fresh.replace(self.directory / STATE_FILE)

    def _control(self) -> web.Application:
        application = web.Application(middlewares=[_errors_as_answers])
        application.add_routes(
            [
                web.get("/status", self._status),
                web.patch("/pools/{pool}", self._change_pool),
                web.post("/pods/{namespace}/{name}/kill", self._kill_pod),
                web.post("/nodes/{name}/lose", self._lose_node),
                web.post("/nodes/{name}/remove", self._remove_node),
                web.post("/nodes/{name}/reclaim", self._reclaim_node),
                web.post("/prometheus/{verb:start|stop}", self._switch_prometheus),
                web.post("/apiserver/{verb:pause|resume}", self._pause_api_server),
            ]
        )
        return application

    async def _status(self, request: web.Request) -> web.Response:
        pools = self.agent.pools
        return web.json_response(
            {
                "nodes": {node: {"pool": pool, "lost": node in pools.lost} for node, pool in pools.nodes.items()},
                "pools": {
                    name: {"stocked_out": state.pool.stocked_out, "provisioning": state.provisioning}
                    for name, state in pools.states.items()
                },
                "pods": {
                    f"{runner.namespace}/{runner.name}": {
                        "address": runner.address,
                        "node": runner.pod["spec"]["nodeName"],
                        "containers": {item.name: item.pid for item in runner.containers},
                    }
                    for runner in self.agent.runners.values()
                },
                "services": self.agent.proxy.addresses,
                "prometheus_running": bool(self.prometheus and self.prometheus.running),
            }
        )

    async def _change_pool(self, request: web.Request) -> web.Response:
        self.agent.pools.change(request.match_info["pool"], **await request.json())
        return web.json_response({})

    async def _kill_pod(self, request: web.Request) -> web.Response:
        asked = await request.json()
        runner = self.agent.runner(request.match_info["namespace"], request.match_info["name"])
        for container in runner.containers:
            container.kill(int(asked.get("signal", signal.SIGKILL)))
        return web.json_response({})

    async def _lose_node(self, request: web.Request) -> web.Response:
        await self.agent.lose_node(request.match_info["name"])
        return web.json_response({})

    async def _remove_node(self, request: web.Request) -> web.Response:
        await self.agent.pools.remove(request.match_info["name"])
        return web.json_response({})

    async def _reclaim_node(self, request: web.Request) -> web.Response:
        asked = await request.json()
        await self.agent.pools.reclaim(request.match_info["name"], float(asked["notice_seconds"]))
        return web.json_response({})

    async def _switch_prometheus(self, request: web.Request) -> web.Response:
        if self.prometheus is None:
            raise KeyError("this cluster has no Prometheus")
        # Waiting is for other threads: this one serves every proxied connection.
        if request.match_info["verb"] == "stop":
            await asyncio.to_thread(self.prometheus.stop)
            return web.json_response({})
        self.prometheus.launch()  # here, because a child dies with the thread that started it
        await asyncio.to_thread(self.prometheus.wait)
        return web.json_response({})

    async def _pause_api_server(self, request: web.Request) -> web.Response:
        """It keeps its connections and answers nothing, as one that is out of memory or whose disk hangs."""
        [server] = [p for p in self.plane.processes if p.name == "kube-apiserver" and p.pid is not None]
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP if request.match_info["verb"] == "pause" else signal.SIGCONT)
        return web.json_response({})


@web.middleware
async def _errors_as_answers(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except (KeyError, ValueError, StartError) as error:
        return web.json_response({"error": str(error)}, status=400)


def main(arguments: list[str]) -> int:
    """Run a cluster in the directory; the exit status is 1, with words on stderr, if it could not come up."""
    directory = Path(arguments[0])
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", level=logging.INFO)
    began = time.monotonic()
    config = ClusterConfig.model_validate_json((directory / CONFIG_FILE).read_text())
    try:
        with own_subnet() as subnet:
            say("starting etcd and the Kubernetes control plane")
            with ControlPlane(directory, say=say) as plane:
                supervisor = Supervisor(directory, config, plane, subnet)
                try:
                    supervisor.start_processes()
                    asyncio.run(supervisor.run(began))
                finally:
                    supervisor.providers.stop()
                    if supervisor.prometheus:
                        supervisor.prometheus.stop()
                    if supervisor.leader_worker_sets:
                        supervisor.leader_worker_sets.stop()
    except (RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # before the event loop takes over
    sys.exit(main(sys.argv[1:]))
