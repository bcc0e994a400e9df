"""GPU nodes as objects, and the cloud behind them: nodes appear for unschedulable pods, or are out of stock."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import aiohttp

from e2e.cluster.kubeapi import STRATEGIC_MERGE, ApiError, Client, Obj, Tasks, now, record_event
from e2e.cluster.podlogs import KUBELET_PORT
from e2e.cluster.settings import ENGINE_ANNOTATION, GPU_RESOURCE, POOL_LABEL, Pool

log = logging.getLogger("cluster.pools")

RECLAIM_TAINT = "e2e.spillway.dev/reclaimed"
_LEASE_SECONDS = 60  # heartbeat; a lost node is reported by the agent itself, so this can be slow


def node_labels(pool: Pool) -> dict[str, str]:
    """What GPU feature discovery and a cloud would put onto the pool's nodes (without the host name)."""
    major, _, minor = pool.compute_capability.partition(".")
    return {
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        POOL_LABEL: pool.name,
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.product": pool.product,
        "nvidia.com/gpu.memory": str(pool.memory_mib),
        "nvidia.com/gpu.count": str(pool.gpus_per_node),
        "nvidia.com/gpu.compute.major": major,
        "nvidia.com/gpu.compute.minor": minor or "0",
        **pool.labels,
    }


def node_object(name: str, pool: Pool | None, address: str = "") -> Obj:
    """A Ready node; without a pool a plain CPU node. The address is where the agent serves as kubelet."""
    capacity = {"cpu": "192", "memory": "2Ti", "ephemeral-storage": "8Ti", "pods": "110"}
    labels = {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    node: Obj = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "annotations": {}},
        "spec": {},
        "status": {
            "conditions": [ready_condition(True)],
            "addresses": [{"type": "Hostname", "address": name}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": KUBELET_PORT}},
            "nodeInfo": _NODE_INFO,
        },
    }
    if address:
        node["status"]["addresses"].append({"type": "InternalIP", "address": address})
    if pool is not None:
        capacity[GPU_RESOURCE] = str(pool.gpus_per_node)
        labels = node_labels(pool)
        node["metadata"]["annotations"][ENGINE_ANNOTATION] = json.dumps(
            {
                "load_seconds": pool.load_seconds,
                "speeds": {key: speed.model_dump() for key, speed in pool.speeds.items()},
            }
        )
        if pool.taint:
            node["spec"]["taints"] = [{"key": pool.taint, "value": "present", "effect": "NoSchedule"}]
    node["metadata"]["labels"] = {**labels, "kubernetes.io/hostname": name}
    node["status"] |= {"capacity": capacity, "allocatable": capacity}
    return node


_NODE_INFO = {
    "kubeletVersion": "v1.37.2-node-agent",
    "containerRuntimeVersion": "process://1",
    "operatingSystem": "linux",
    "architecture": "amd64",
    "osImage": "local processes",
    "kernelVersion": "",
    "machineID": "",
    "systemUUID": "",
    "bootID": "",
    "kubeProxyVersion": "",
}


def ready_condition(ready: bool) -> Obj:
    stamp = now()
    return {
        "type": "Ready",
        "status": "True" if ready else "Unknown",
        "reason": "AgentReady" if ready else "NodeStatusUnknown",
        "message": "node agent is posting ready status" if ready else "the node is lost",
        "lastHeartbeatTime": stamp,
        "lastTransitionTime": stamp,
    }


def gpus_of(pod: Obj) -> int:
    """GPUs that a pod asks for."""
    return sum(
        int(item.get("resources", {}).get("requests", {}).get(GPU_RESOURCE, 0)) for item in pod["spec"]["containers"]
    )


def is_unschedulable(pod: Obj) -> bool:
    """Whether the scheduler has found no place for the pod."""
    if pod["spec"].get("nodeName") or "deletionTimestamp" in pod["metadata"]:
        return False
    return any(
        condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable"
        for condition in pod.get("status", {}).get("conditions", [])
    )


def fits(pod: Obj, pool: Pool) -> bool:
    """Whether a new node of the pool would take the pod: selector, required affinity, taint, GPUs."""
    labels = node_labels(pool)
    spec = pod["spec"]
    if not 0 < gpus_of(pod) <= pool.gpus_per_node:
        return False
    if any(labels.get(key) != value for key, value in spec.get("nodeSelector", {}).items()):
        return False
    required = (
        spec.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", {})
    )
    terms = required.get("nodeSelectorTerms", [])
    if terms and not any(all(_matches(e, labels) for e in term.get("matchExpressions", [])) for term in terms):
        return False
    return pool.taint is None or any(_tolerates(item, pool.taint) for item in spec.get("tolerations", []))


def _matches(expression: Obj, labels: dict[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values", [])
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return value is not None and int(value) > int(values[0])
        case "Lt":
            return value is not None and int(value) < int(values[0])
    raise ValueError(f"unknown node affinity operator {expression['operator']}")


def _tolerates(toleration: Obj, taint: str) -> bool:
    key = toleration.get("key")
    by_value = toleration.get("operator", "Equal") == "Equal"
    return (not key or key == taint) and (not by_value or toleration.get("value") == "present")


def nodes_wanted(pending: Iterable[int], free: Iterable[int], gpus_per_node: int) -> int:
    """New nodes needed when pods (GPU counts) first fill the free GPUs of existing and coming nodes."""
    room = list(free)
    wanted = 0
    for gpus in sorted(pending, reverse=True):
        tightest = min((left for left in room if left >= gpus), default=None)
        if tightest is None:
            wanted += 1
            tightest = gpus_per_node
            room.append(tightest)
        room.remove(tightest)
        room.append(tightest - gpus)
    return wanted


@dataclass
class PoolState:
    """A pool as it is now: the settings may change at run time (stock, speed)."""

    pool: Pool
    provisioning: int = 0
    next_number: int = 0


class NodePools:
    """Registers nodes, adds them on demand, removes empty ones, and keeps their leases fresh."""

    def __init__(
        self,
        client: Client,
        pools: list[Pool],
        system_nodes: int,
        address: str,
        pods: Callable[[], Iterable[Obj]],
    ) -> None:
        self._client, self._system_nodes, self._address, self._pods = client, system_nodes, address, pods
        self.states = {pool.name: PoolState(pool) for pool in pools}
        self.nodes: dict[str, str | None] = {}  # node -> pool
        self.lost: set[str] = set()
        self.leaving: set[str] = set()  # reclaimed with notice: no pod starts there any more
        self._empty_since: dict[str, float] = {}
        self._stock = asyncio.Event()
        self._told: set[tuple[str, str]] = set()  # (pod uid, reason) that already has its event
        self._wake = asyncio.Event()
        self._tasks = Tasks()

    def pool_of(self, node: str) -> Pool | None:
        name = self.nodes.get(node)
        return self.states[name].pool if name else None

    async def register(self) -> None:
        """The nodes that exist from the start."""
        for number in range(self._system_nodes):
            await self._add(f"system-{number}", None)
        for state in self.states.values():
            for _ in range(state.pool.nodes):
                await self._add_to(state)

    def change(self, name: str, **changes: object) -> None:
        """Change a pool at run time, for example stocked_out or provisioning_seconds."""
        state = self.states[name]
        state.pool = Pool.model_validate({**state.pool.model_dump(), **changes})
        self._stock.set()
        self._stock = asyncio.Event()
        self._wake.set()

    def poke(self) -> None:
        """Pods changed: look whether nodes are needed or idle."""
        self._wake.set()

    async def lose(self, node: str) -> None:
        """The machine is gone: the node turns Unknown; its object stays until remove()."""
        self.lost.add(node)
        status: Obj = {"status": {"conditions": [ready_condition(False)]}}
        await self._client.request("PATCH", f"/api/v1/nodes/{node}/status", status, content_type=STRATEGIC_MERGE)

    async def remove(self, node: str) -> None:
        """The cloud has taken the machine back: its pods and its object go."""
        for pod in [pod for pod in self._pods() if pod["spec"].get("nodeName") == node]:
            path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
            await self._client.delete(path, uid=pod["metadata"]["uid"], grace_seconds=0)
        await self._client.delete(f"/api/v1/nodes/{node}")
        self.nodes.pop(node, None)
        self.lost.discard(node)
        self.leaving.discard(node)

    async def reclaim(self, node: str, notice_seconds: float) -> None:
        """A spot machine is taken back with notice. As a cloud's termination handler does: taint, cordon, evict; the
        machine goes when it is empty, or when the notice has passed. Returns once the notice is given."""
        self.leaving.add(node)
        taint = {"key": RECLAIM_TAINT, "effect": "NoSchedule"}
        body: Obj = {"spec": {"unschedulable": True, "taints": [taint]}}
        await self._client.request("PATCH", f"/api/v1/nodes/{node}", body, content_type=STRATEGIC_MERGE)
        self._tasks.start(self._empty_and_remove(node, time.monotonic() + notice_seconds), f"reclaim of {node}")

    async def _empty_and_remove(self, node: str, deadline: float) -> None:
        while time.monotonic() < deadline:
            pods = [pod for pod in self._pods() if pod["spec"].get("nodeName") == node]
            if not pods:
                break
            for pod in pods:
                if "deletionTimestamp" not in pod["metadata"]:
                    await self._evict(pod)
            await asyncio.sleep(0.5)
        await self.remove(node)

    async def _evict(self, pod: Obj) -> None:
        """Ask for the pod's orderly end; a PodDisruptionBudget may refuse, then it is asked again."""
        name = {"name": pod["metadata"]["name"], "namespace": pod["metadata"]["namespace"]}
        path = f"/api/v1/namespaces/{name['namespace']}/pods/{name['name']}/eviction"
        try:
            await self._client.create(path, {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": name})
        except ApiError as error:
            if error.status not in (404, 409, 429):
                raise

    async def run(self) -> None:
        """React to pods until cancelled; also renews leases and looks for idle nodes now and then."""
        self._tasks.start(self._renew_leases(), "node leases")
        try:
            while True:
                self._wake.clear()
                self._scale_up()
                timeout = 1.0 if self._empty_since else None
                try:
                    await self._scale_down()
                except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                    log.warning("an empty node was not removed: %s", error)
                    timeout = 1.0
                try:
                    await asyncio.wait_for(self._wake.wait(), timeout)
                except TimeoutError:
                    continue
        finally:
            await self._tasks.cancel()

    def _scale_up(self) -> None:
        pending = [pod for pod in self._pods() if is_unschedulable(pod)]
        for state in self.states.values():
            matching = [pod for pod in pending if fits(pod, state.pool)]
            if not matching:
                continue
            if state.pool.stocked_out:
                self._tell(matching, "FailedScaleUp", f"pool {state.pool.name} is out of capacity", "Warning")
                continue
            coming = [state.pool.gpus_per_node] * state.provisioning
            wanted = nodes_wanted(
                (gpus_of(pod) for pod in matching), [*self._free(state.pool), *coming], state.pool.gpus_per_node
            )
            room = state.pool.max_nodes - self._count(state) - state.provisioning
            if wanted > room:
                self._tell(matching, "NotTriggerScaleUp", f"pool {state.pool.name}: max node count reached", "Normal")
            for _ in range(min(wanted, room)):
                state.provisioning += 1
                self._tell(matching, "TriggeredScaleUp", f"pool {state.pool.name} gets a node", "Normal")
                self._tasks.start(self._provision(state), f"node for {state.pool.name}")

    async def _provision(self, state: PoolState) -> None:
        """A machine takes its time, and never comes while the pool is out of stock."""
        try:
            await asyncio.sleep(state.pool.provisioning_seconds)
            while state.pool.stocked_out:
                await self._stock.wait()
            await self._add_to(state)
        finally:
            state.provisioning -= 1
            self._wake.set()

    async def _scale_down(self) -> None:
        busy = {pod["spec"].get("nodeName") for pod in self._pods() if gpus_of(pod)}
        for node, pool_name in list(self.nodes.items()):
            state = self.states.get(pool_name or "")
            limit = state.pool.remove_empty_after_seconds if state else None
            if state is None or limit is None or node in busy or self._count(state) <= state.pool.nodes:
                self._empty_since.pop(node, None)
            elif time.monotonic() - self._empty_since.setdefault(node, time.monotonic()) > limit:
                self._empty_since.pop(node)
                await self.remove(node)

    def _free(self, pool: Pool) -> list[int]:
        used = dict.fromkeys(
            (n for n, p in self.nodes.items() if p == pool.name and n not in self.lost | self.leaving), 0
        )
        for pod in self._pods():
            node = pod["spec"].get("nodeName")
            if node in used and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
                used[node] += gpus_of(pod)
        return [pool.gpus_per_node - count for count in used.values()]

    def _count(self, state: PoolState) -> int:
        return sum(pool == state.pool.name for pool in self.nodes.values())

    def _tell(self, pods: list[Obj], reason: str, message: str, severity: str) -> None:
        for pod in pods:
            key = (pod["metadata"]["uid"], reason + message)
            if key not in self._told:
                self._told.add(key)
                self._tasks.start(record_event(self._client, pod, "Pod", reason, message, severity), f"event {reason}")

    async def _add_to(self, state: PoolState) -> None:
        name = f"{state.pool.name}-{state.next_number}"
        state.next_number += 1
        await self._add(name, state.pool)

    async def _add(self, name: str, pool: Pool | None) -> None:
        self.nodes[name] = pool.name if pool else None
        await self._client.create("/api/v1/nodes", node_object(name, pool, self._address))
        await self._renew(name)
        log.info("node %s is ready", name)

    async def _renew_leases(self) -> None:
        while True:
            await asyncio.sleep(_LEASE_SECONDS)
            for node in [node for node in self.nodes if node not in self.lost]:
                try:
                    await self._renew(node)
                except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                    log.warning("lease of %s: %s", node, error)

    async def _renew(self, node: str) -> None:
        lease: Obj = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": node, "namespace": "kube-node-lease"},
            "spec": {
                "holderIdentity": node,
                "leaseDurationSeconds": 4 * _LEASE_SECONDS,
                "renewTime": now().replace("Z", ".000000Z"),
            },
        }
        await self._client.apply(f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}", lease)
