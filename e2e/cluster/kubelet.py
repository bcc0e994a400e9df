"""The node agent: for every pod bound to one of its nodes it runs what the image stands for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from pathlib import Path

from e2e.cluster import hosts
from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.discovery import write_targets
from e2e.cluster.kubeapi import ApiError, Client, Informer, Obj, Tasks
from e2e.cluster.podlogs import PodLogs
from e2e.cluster.pods import PodRunner, Surroundings
from e2e.cluster.pools import NodePools
from e2e.cluster.services import ServiceProxy
from e2e.cluster.settings import HOSTS_FILE, ClusterConfig

log = logging.getLogger("cluster.kubelet")


class NodeAgent:
    """One process in the place of all kubelets, kube-proxies and the cluster autoscaler."""

    def __init__(
        self,
        plane: ControlPlane,
        client: Client,
        config: ClusterConfig,
        directory: Path,
        scratch: Path,
        subnet: int,
        targets: Path | None,
    ) -> None:
        self._client, self._subnet, self._hosts = client, subnet, scratch / HOSTS_FILE
        self._around = Surroundings(
            client,
            plane.server,
            plane.authority.certificate,
            config.images,
            directory,
            scratch,
            self._object,
            self._pull,
        )
        self.pods = Informer(client, "/api/v1/pods", self._pod_changed)
        self._services = Informer(client, "/api/v1/services", self._service_changed)
        self._sources = {
            kind: Informer(client, f"/api/v1/{kind}", self._source_changed) for kind in ("secrets", "configmaps")
        }
        self._refresh, self._retarget = asyncio.Event(), asyncio.Event()
        address = f"127.{subnet}.0.1"
        self.pools = NodePools(client, config.pools, config.system_nodes, address, lambda: self.pods.objects.values())
        self._logs = PodLogs(directory / "logs" / "pods", plane.authority, address)
        self.proxy = ServiceProxy(lambda: self.pods.objects.values())
        self.runners: dict[str, PodRunner] = {}
        self._pulls: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._addresses = 0
        self._targets = targets
        self._tasks = Tasks()

    async def start(self) -> None:
        """Register the nodes and begin to work; returns when the caches are filled."""
        await self._logs.start()
        await self.pools.register()
        informers = [*self._sources.values(), self._services, self.pods]  # pods last: they refer to the others
        for informer in informers:
            self._tasks.start(informer.run(), "informer")
            await informer.synced.wait()
        self._tasks.start(self.pools.run(), "node pools")
        self._tasks.start(self._serve(), "services")
        self._tasks.start(self._discover(), "discovery")

    async def stop(self) -> None:
        """End every container at once (the cluster goes away, nobody is left to be told)."""
        await self._tasks.cancel()
        await asyncio.gather(*(runner.abandon() for runner in self.runners.values()))
        await self.proxy.close()
        await self._logs.stop()

    def runner(self, namespace: str, name: str) -> PodRunner:
        """The runner of a pod by name; KeyError with words if there is none."""
        for runner in self.runners.values():
            if (runner.namespace, runner.name) == (namespace, name):
                return runner
        raise KeyError(f"no running pod {namespace}/{name}")

    async def lose_node(self, node: str) -> None:
        """The machine dies: its processes at once, its pods stop being Ready, the node turns Unknown."""
        await self.pools.lose(node)
        lost = [runner for runner in self.runners.values() if runner.pod["spec"]["nodeName"] == node]
        for runner in lost:
            await runner.abandon()
            unready: Obj = {"type": "Ready", "status": "False", "reason": "NodeLost", "message": f"node {node} is lost"}
            path = f"/api/v1/namespaces/{runner.namespace}/pods/{runner.name}/status"
            body = {"status": {"conditions": [unready]}}
            try:
                await self._client.request("PATCH", path, body, content_type="application/strategic-merge-patch+json")
            except ApiError as error:
                if error.status != 404:
                    raise

    def _object(self, namespace: str, kind: str, name: str) -> Obj | None:
        return self._sources[kind].objects.get(f"{namespace}/{name}")

    def _pod_changed(self, old: Obj | None, new: Obj | None) -> None:
        if old and (new is None or new["metadata"]["uid"] != old["metadata"]["uid"]):
            gone = self.runners.pop(old["metadata"]["uid"], None)
            if gone:
                self._tasks.start(gone.abandon(), "pod gone")
        if new and new["spec"].get("nodeName") in self.pools.nodes:
            self._run_or_update(new)
        self.pools.poke()
        self._retarget.set()

    def _run_or_update(self, pod: Obj) -> None:
        uid, node = pod["metadata"]["uid"], pod["spec"]["nodeName"]
        if node in self.pools.lost:
            return
        runner = self.runners.get(uid)
        if runner is None and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            runner = PodRunner(pod, self._next_address(), self.pools.pool_of(node), self._around)
            self.runners[uid] = runner
            runner.start()
        if runner is not None:
            runner.update(pod)

    def _service_changed(self, old: Obj | None, new: Obj | None) -> None:
        self._refresh.set()
        self._retarget.set()

    def _source_changed(self, old: Obj | None, new: Obj | None) -> None:
        changed = new or old
        for runner in self.runners.values():
            if changed and runner.namespace == changed["metadata"]["namespace"]:
                runner.dependency_changed()

    def _next_address(self) -> str:
        number = self._addresses
        self._addresses += 1
        return f"127.{self._subnet}.{1 + number // 250 % 250}.{2 + number % 250}"

    def _pull(self, node: str, image: str) -> Awaitable[None]:
        """An image is pulled once per node; whoever needs it meanwhile waits for the same pull."""
        pool = self.pools.pool_of(node)
        if (node, image) not in self._pulls:
            seconds = pool.image_pull_seconds if pool else 0
            self._pulls[node, image] = self._tasks.start(asyncio.sleep(seconds), f"pull {image}")
        return asyncio.shield(self._pulls[node, image])

    async def _serve(self) -> None:
        while True:
            self._refresh.clear()
            await self.proxy.refresh(self._services.objects.values())
            await self._refresh.wait()

    async def _discover(self) -> None:
        """Keep the pods' names and Prometheus' targets like the pods; many changes at once are written once."""
        while True:
            await self._retarget.wait()
            self._retarget.clear()
            pods = self.pods.objects.values()
            hosts.write(self._hosts, hosts.records(self._services.objects.values(), pods))
            if self._targets:
                write_targets(pods, self._targets)
            await asyncio.sleep(0.2)
