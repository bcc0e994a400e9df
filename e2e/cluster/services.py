"""A TCP proxy in place of kube-proxy: Services annotated with a loopback address are served there."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable

from e2e.cluster.kubeapi import Obj, Tasks, key_of
from e2e.cluster.settings import ADDRESS_ANNOTATION

log = logging.getLogger("cluster.services")

_UNPRIVILEGED_OFFSET = 8000  # port 80 becomes 8080 when this process may not listen below 1024


def is_ready(pod: Obj) -> bool:
    """Whether a Service would send traffic to the pod."""
    if "deletionTimestamp" in pod["metadata"] or not pod.get("status", {}).get("podIP"):
        return False
    conditions = pod["status"].get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def selects(service: Obj, pod: Obj) -> bool:
    """Whether the pod is one of the Service's."""
    selector = service["spec"].get("selector") or {}
    if not selector or pod["metadata"]["namespace"] != service["metadata"]["namespace"]:
        return False
    labels = pod["metadata"].get("labels", {})
    return all(labels.get(key) == value for key, value in selector.items())


def endpoints(service: Obj, port: Obj, pods: Iterable[Obj]) -> list[tuple[str, int]]:
    """(address, port) of the ready pods behind one port of a Service."""
    unready_too = service["spec"].get("publishNotReadyAddresses", False)
    found = []
    for pod in pods:
        if not selects(service, pod):
            continue
        number = _port_number(pod, port.get("targetPort") or port["port"])
        if number is not None and (is_ready(pod) or (unready_too and pod.get("status", {}).get("podIP"))):
            found.append((pod["status"]["podIP"], number))
    return found


def _port_number(pod: Obj, target: int | str) -> int | None:
    if isinstance(target, int):
        return target
    for container in pod["spec"]["containers"]:
        for port in container.get("ports", []):
            if port.get("name") == target:
                return int(port["containerPort"])
    return None


class _Side(asyncio.Protocol):
    """One half of a proxied connection: what it receives, its peer sends; a slow peer pauses it."""

    def __init__(self) -> None:
        self.peer: _Side | None = None
        self.transport: asyncio.Transport | None = None
        self.early = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.peer and self.peer.transport:
            self.peer.transport.write(data)
        else:
            self.early += data

    def eof_received(self) -> bool:
        if self.peer and self.peer.transport and self.peer.transport.can_write_eof():
            self.peer.transport.write_eof()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        if self.peer and self.peer.transport:
            self.peer.transport.abort() if error else self.peer.transport.close()

    def pause_writing(self) -> None:
        if self.peer and self.peer.transport:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer and self.peer.transport:
            self.peer.transport.resume_reading()


class _Incoming(_Side):
    """The client's half: picks an endpoint, round robin, and connects to it; tries each endpoint once."""

    def __init__(self, choices: Callable[[], list[tuple[str, int]]], turn: itertools.count[int], tasks: Tasks) -> None:
        super().__init__()
        self._choices, self._turn, self._tasks = choices, turn, tasks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.pause_reading()
        self._tasks.start(self._connect(self.transport), "proxied connection")

    async def _connect(self, transport: asyncio.Transport) -> None:
        choices = self._choices()
        start = next(self._turn)
        for index in range(len(choices)):
            address, port = choices[(start + index) % len(choices)]
            try:
                outgoing = await asyncio.get_running_loop().create_connection(_Side, address, port)
            except OSError:
                continue
            self.peer = outgoing[1]
            self.peer.peer = self
            if self.peer.early:
                transport.write(bytes(self.peer.early))
            if transport.is_closing():
                outgoing[0].close()
            else:
                transport.resume_reading()
            return
        transport.abort()  # nobody is ready: a reset, as a Service without endpoints gives


class ServiceProxy:
    """Listens for every annotated Service; call refresh() with the current Services."""

    def __init__(self, pods: Callable[[], Iterable[Obj]]) -> None:
        self._pods = pods
        self._listeners: dict[tuple[str, str, int], asyncio.Server] = {}
        self.addresses: dict[str, str] = {}  # "namespace/name:port" -> where it is served
        self._services: dict[str, Obj] = {}
        self._lock = asyncio.Lock()
        self._tasks = Tasks()

    async def refresh(self, services: Iterable[Obj]) -> None:
        """Open and close listeners so that they match the Services."""
        async with self._lock:
            self._services = {key_of(s): s for s in services if _address(s)}
            wanted = {
                (key, _address(service), int(port["port"]))
                for key, service in self._services.items()
                for port in service["spec"].get("ports", [])
            }
            for gone in self._listeners.keys() - wanted:
                self._listeners.pop(gone).close()
                self.addresses.pop(f"{gone[0]}:{gone[2]}", None)
            for key, address, port in sorted(wanted - self._listeners.keys()):
                await self._listen(key, address, port)

    async def close(self) -> None:
        for listener in self._listeners.values():
            listener.close()
        await self._tasks.cancel()

    async def _listen(self, key: str, address: str, port: int) -> None:
        turn = itertools.count()

        def protocol() -> _Incoming:
            return _Incoming(lambda: self._endpoints(key, port), turn, self._tasks)

        loop = asyncio.get_running_loop()
        served = port
        try:
            try:
                server = await loop.create_server(protocol, address, port)
            except PermissionError:
                served = port + _UNPRIVILEGED_OFFSET
                server = await loop.create_server(protocol, address, served)
        except OSError as error:
            log.error("Service %s cannot be served at %s:%d: %s (another local cluster?)", key, address, port, error)
            return
        self._listeners[(key, address, port)] = server
        self.addresses[f"{key}:{port}"] = f"{address}:{served}"
        log.info("Service %s is served at %s:%d", key, address, served)

    def _endpoints(self, key: str, number: int) -> list[tuple[str, int]]:
        service = self._services.get(key)
        if service is None:
            return []
        port = next((port for port in service["spec"]["ports"] if port["port"] == number), None)
        return endpoints(service, port, self._pods()) if port else []


def _address(service: Obj) -> str:
    return str(service["metadata"].get("annotations", {}).get(ADDRESS_ANNOTATION, ""))
