"""One pod on the node agent: volumes, image, containers, status, and its orderly end."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from e2e.cluster.containers import Container, Launch
from e2e.cluster.controlplane import kubeconfig
from e2e.cluster.environment import Lookup, NotYet, expand, resolve, translate
from e2e.cluster.kubeapi import STRATEGIC_MERGE, ApiError, Client, Obj, Tasks, now, record_event
from e2e.cluster.processes import find_program, python_environment
from e2e.cluster.settings import GPU_RESOURCE, HOSTS_FILE, REPOSITORY, Image, Pool
from e2e.cluster.volumes import Volumes

log = logging.getLogger("cluster.pods")

# The kubelet's, of a volume that cannot be mounted yet: what comes in between is seen at the next try.
_FIRST_MOUNT_BACK_OFF_SECONDS = 0.5
_LONGEST_MOUNT_BACK_OFF_SECONDS = 122.0


@dataclass(frozen=True)
class Surroundings:
    """What pods share: the API, the images known here, and the directories."""

    client: Client
    server: str
    authority: Path
    images: list[Image]
    directory: Path  # logs, claims and the nodes' disks
    scratch: Path  # the pods' files; short, because a path of a unix socket has at most 107 characters
    lookup: Callable[[str, str, str], Obj | None]  # (namespace, kind, name)
    pull: Callable[[str, str], Awaitable[None]]  # (node, image): returns when the image is on the node


class PodRunner:
    """Runs one pod (by uid) from bound to gone."""

    def __init__(self, pod: Obj, address: str, pool: Pool | None, around: Surroundings) -> None:
        self.pod, self.address, self._pool, self._around = pod, address, pool, around
        meta = pod["metadata"]
        self.namespace, self.name, self.uid = str(meta["namespace"]), str(meta["name"]), str(meta["uid"])
        self._path = f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"
        self._lookup: Lookup = lambda kind, name: around.lookup(self.namespace, kind, name)
        directory = around.scratch / address.split(".", 2)[2]
        disk = around.directory / "disks" / pod["spec"]["nodeName"]
        self._volumes = Volumes(pod, directory, around.directory / "claims", disk, around.client)
        self._tasks = Tasks()
        self._dirty, self._dependencies = asyncio.Event(), asyncio.Event()
        self._conditions: dict[str, Obj] = {}
        self._started_at = now()
        self._stopping = False
        self._deadline = float("inf")
        self._sandbox = False
        spec = pod["spec"]
        self.init_containers = [self._container(item) for item in spec.get("initContainers", [])]
        self.containers = [self._container(item) for item in spec["containers"]]

    def start(self) -> None:
        self._tasks.start(self._run(), f"pod {self.namespace}/{self.name}")
        self._tasks.start(self._report(), f"status of {self.namespace}/{self.name}")

    def update(self, pod: Obj) -> None:
        """A newer version of the pod: a deletion stamp starts the orderly end, a shorter grace hastens it."""
        self.pod = pod
        if "deletionTimestamp" in pod["metadata"]:
            grace = float(pod["metadata"].get("deletionGracePeriodSeconds", 30))
            self._deadline = min(self._deadline, time.monotonic() + grace)
            if not self._stopping:
                self._stopping = True
                self._tasks.start(self._finish(grace), f"end of {self.namespace}/{self.name}")

    def dependency_changed(self) -> None:
        """A Secret or ConfigMap of the namespace changed."""
        self._dependencies.set()

    async def abandon(self) -> None:
        """The pod object or its node is gone: kill everything now, say nothing to the API."""
        for container in self._all():
            container.abandon()
        await self._tasks.cancel()
        self._volumes.remove()

    def _all(self) -> list[Container]:
        return [*self.init_containers, *self.containers]

    def _container(self, spec: Obj) -> Container:
        initial = spec in self.pod["spec"].get("initContainers", [])
        policy = self.pod["spec"].get("restartPolicy", "Always")
        return Container(
            spec,
            self.address,
            self._around.directory / "logs" / "pods" / self.namespace / self.name / f"{spec['name']}.log",
            ("OnFailure" if policy == "Always" else policy) if initial else policy,
            float(self.pod["spec"].get("terminationGracePeriodSeconds", 30)),
            lambda: self._launch(spec),
            self._dirty.set,
            self._event,
        )

    def _event(self, reason: str, message: str, severity: str) -> None:
        event = record_event(self._around.client, self.pod, "Pod", reason, message, severity)
        self._tasks.start(event, f"event {reason}")

    async def _run(self) -> None:
        self._dirty.set()
        await self._prepare_volumes()
        self._tasks.start(self._follow_dependencies(), f"volumes of {self.namespace}/{self.name}")
        self._sandbox = True
        self._dirty.set()
        for container in self._all():
            if not self._image(container.spec["image"]):
                message = f"no program stands for image {container.spec['image']} on the local cluster"
                container.waiting("ImagePullBackOff", message)
                self._event("Failed", message, "Warning")
                return
        for container in self._all():
            await self._around.pull(self.pod["spec"]["nodeName"], container.spec["image"])
        for container in self.init_containers:
            await container.run()
            if self._stopping or container.exit_code != 0:
                self._dirty.set()
                return
        if not self._stopping:
            await asyncio.gather(*(container.run() for container in self.containers))

    async def _prepare_volumes(self) -> None:
        last, back_off = "", _FIRST_MOUNT_BACK_OFF_SECONDS
        while True:
            try:
                await self._volumes.refresh(self._lookup, self.address)
                for container in self.pod["spec"]["containers"]:
                    resolve(container, self.pod, self.address, self._lookup)
                return
            except (NotYet, ApiError, aiohttp.ClientError) as error:
                if str(error) != last:
                    last = str(error)
                    self._event("FailedMount", last, "Warning")
                    for waiting in self._all():
                        waiting.waiting("ContainerCreating", last)
            await asyncio.sleep(back_off)
            back_off = min(2 * back_off, _LONGEST_MOUNT_BACK_OFF_SECONDS)

    async def _follow_dependencies(self) -> None:
        """Secrets and config maps that change are published into the running pod."""
        while True:
            await self._dependencies.wait()
            self._dependencies.clear()
            try:
                await self._volumes.refresh(self._lookup, self.address)
            except (NotYet, ApiError, aiohttp.ClientError) as error:
                self._event("FailedMount", str(error), "Warning")

    def _image(self, image: str) -> Image | None:
        registry, _, rest = image.partition("/")
        name = rest if "." in registry or ":" in registry else image
        return next((rule for rule in self._around.images if name.startswith(rule.prefix)), None)

    def _launch(self, spec: Obj) -> Launch:
        rule = self._image(spec["image"])
        assert rule is not None
        mounts = self._volumes.mounts(spec)
        variables = {
            "HOSTNAME": self.name,
            "POD_IP": self.address,
            **self._simulation(spec),
            **resolve(spec, self.pod, self.address, self._lookup),
        }
        command = [*(spec.get("command") or rule.default_command), *spec.get("args", [])]
        command = [translate(expand(word, variables), mounts) for word in command]
        variables = {name: translate(value, mounts) for name, value in variables.items()}
        token = self._volumes.token(spec)
        if token:
            config = self._volumes.directory / "kubeconfig"
            config.write_text(kubeconfig(self._around.server, self._around.authority, token, self.namespace))
            config.chmod(0o600)
            variables.setdefault("KUBECONFIG", str(config))
        home = self._volumes.directory / "home"
        home.mkdir(parents=True, exist_ok=True)
        path = python_environment()["PATH"]
        environment = {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1", **variables}
        if rule.repository_on_path:
            environment["PYTHONPATH"] = str(REPOSITORY)
        argv = [*rule.entrypoint, *command]
        program = sys.executable if argv[0] in ("python", "python3") else find_program(argv[0])
        return Launch([program or argv[0], *argv[1:]], environment, str(home))

    def _simulation(self, spec: Obj) -> dict[str, str]:
        """What the pool's hardware is to the engine simulator; a container without GPUs sees nothing of it."""
        gpus = int(spec.get("resources", {}).get("limits", {}).get(GPU_RESOURCE, 0))
        if self._pool is None:
            return {}
        if gpus == 0:  # what fetches for engines has the node's network
            return {"SIM_FETCH_SECONDS": f"{self._pool.fetch_seconds:g}"}
        # With SIM_GPUS the simulator refuses what so few GPUs could not run.
        names = str(self._around.scratch / HOSTS_FILE)
        return {**self._pool.simulation(), "SIM_GPUS": str(gpus), "SIM_HOSTS": names}

    async def _finish(self, grace: float) -> None:
        """Stop every container, report the end, and let the API server forget the pod."""
        self._event("Killing", "Stopping containers", "Normal")
        stops = [asyncio.create_task(container.stop(grace)) for container in self._all()]
        while stops:
            _, pending = await asyncio.wait(stops, timeout=0.5)
            stops = list(pending)
            if stops and time.monotonic() > self._deadline + 3:  # a later delete shortened the grace period
                for container in self._all():
                    container.kill()
                for task in stops:
                    task.cancel()
        while True:
            try:
                await self._write_status()
                await self._around.client.delete(self._path, uid=self.uid, grace_seconds=0)
                return
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                log.warning("end of %s/%s: %s", self.namespace, self.name, error)
                await asyncio.sleep(1)

    async def _report(self) -> None:
        """Write the status whenever it changed; changes during a write are written together."""
        last: Obj = {}
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            status = self._status()
            if status == last:
                continue
            try:
                await self._write_status(status)
                last = status
            except ApiError as error:
                if error.status in (404, 409):
                    return  # gone, or another pod of that name by now
                log.warning("status of %s/%s: %s", self.namespace, self.name, error)
                await asyncio.sleep(0.5)
                self._dirty.set()
            except (aiohttp.ClientError, TimeoutError) as error:
                log.warning("status of %s/%s: %s", self.namespace, self.name, error)
                await asyncio.sleep(0.5)
                self._dirty.set()

    async def _write_status(self, status: Obj | None = None) -> None:
        body = {"metadata": {"uid": self.uid}, "status": status or self._status()}
        try:
            await self._around.client.request("PATCH", f"{self._path}/status", body, content_type=STRATEGIC_MERGE)
        except ApiError as error:
            if status is not None or error.status not in (404, 409):
                raise

    def _status(self) -> Obj:
        initialized = all(item.exit_code == 0 for item in self.init_containers)
        running = any("running" in item.state for item in self.containers)
        ready = initialized and all(item.ready for item in self.containers)
        unready = [item.name for item in self.containers if not item.ready]
        explanation = f"containers with unready status: {unready}" if unready else ""
        self._condition("PodReadyToStartContainers", self._sandbox)
        self._condition("Initialized", initialized, "ContainersNotInitialized")
        self._condition("ContainersReady", ready, "ContainersNotReady", explanation)
        self._condition("Ready", ready, "ContainersNotReady", explanation)
        status: Obj = {
            "phase": self._phase(running),
            "startTime": self._started_at,
            "hostIP": self.address,
            "qosClass": self.pod.get("status", {}).get("qosClass", "Burstable"),
            "conditions": list(self._conditions.values()),
            "containerStatuses": [item.status() for item in self.containers],
        }
        if self.init_containers:
            status["initContainerStatuses"] = [item.status() for item in self.init_containers]
        if self._sandbox:
            status |= {"podIP": self.address, "podIPs": [{"ip": self.address}]}
        return status

    def _phase(self, running: bool) -> str:
        codes = [item.exit_code for item in self.containers]
        policy = self.pod["spec"].get("restartPolicy", "Always")
        over = self._stopping or policy == "Never" or (policy == "OnFailure" and all(code == 0 for code in codes))
        if over and all(code is not None for code in codes):
            return "Succeeded" if all(code == 0 for code in codes) else "Failed"
        was_running = running or any(item.restarts for item in self.containers) or any(c is not None for c in codes)
        return "Running" if was_running else "Pending"

    def _condition(self, kind: str, holds: bool, reason: str = "", message: str = "") -> None:
        status = "True" if holds else "False"
        old = self._conditions.get(kind, {})
        changed = old.get("status") != status
        self._conditions[kind] = {
            "type": kind,
            "status": status,
            "lastTransitionTime": now() if changed else old["lastTransitionTime"],
            "reason": None if holds else reason or None,
            "message": None if holds else message or None,
        }
