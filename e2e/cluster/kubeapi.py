"""A small asynchronous Kubernetes client on aiohttp: requests, patches, and informers (list, then watch)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import aiohttp

Obj = dict[str, Any]
log = logging.getLogger("cluster.kubeapi")

STRATEGIC_MERGE = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
FIELD_MANAGER = "e2e-cluster"


class ApiError(Exception):
    """An answer of the API server that is not 2xx."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status, self.reason = status, reason


def now() -> str:
    """The present as Kubernetes writes times."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def key_of(obj: Obj) -> str:
    """namespace/name, or the name of a cluster-scoped object."""
    meta = obj["metadata"]
    return f"{meta['namespace']}/{meta['name']}" if meta.get("namespace") else str(meta["name"])


class Client:
    """Speaks to one API server with a bearer token; use it as an async context manager."""

    def __init__(self, server: str, token: str, ca_file: str) -> None:
        self._server, self._token = server, token
        self._trust = ssl.create_default_context(cafile=ca_file)

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(
            base_url=self._server,
            headers={"Authorization": f"Bearer {self._token}"},
            connector=aiohttp.TCPConnector(ssl=self._trust, limit=0),
            read_bufsize=4 * 2**20,  # a watch line is a whole object; aiohttp refuses lines above twice this
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        body: Obj | None = None,
        *,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> Obj:
        """One request; raises ApiError unless the answer is 2xx."""
        data = json.dumps(body) if body is not None else None
        async with self._session.request(
            method, path, data=data, params=params, headers={"Content-Type": content_type}, timeout=_seconds(30)
        ) as response:
            answer: Obj = await response.json(content_type=None)
            if response.status >= 300:
                raise ApiError(response.status, answer.get("reason", ""), answer.get("message", ""))
            return answer

    async def create(self, path: str, body: Obj) -> Obj:
        return await self.request("POST", path, body)

    async def apply(self, path: str, body: Obj) -> Obj:
        """Server-side apply as this cluster's field manager."""
        params = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self.request("PATCH", path, body, content_type=APPLY, params=params)

    async def delete(self, path: str, *, uid: str | None = None, grace_seconds: int | None = None) -> None:
        """Delete if it is still there; with a uid only that very object."""
        options: Obj = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            await self.request("DELETE", path, options)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    def stream(self, path: str, params: Mapping[str, str]) -> contextlib.AbstractAsyncContextManager[Any]:
        """The raw response of a watch."""
        return self._session.get(path, params=params, timeout=aiohttp.ClientTimeout(total=None, sock_connect=10))


def _seconds(total: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=total)


OnChange = Callable[[Obj | None, Obj | None], None]


class Informer:
    """Keeps `objects` (by key_of) like the API server's; calls on_change(old, new) for each difference.

    A gap in the watch is closed by a new list, so every change is reported at least as its final state.
    """

    def __init__(
        self, client: Client, path: str, on_change: OnChange, selectors: Mapping[str, str] | None = None
    ) -> None:
        self._client, self._path, self._on_change = client, path, on_change
        self._selectors = dict(selectors or {})
        self.objects: dict[str, Obj] = {}
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """List and watch until cancelled; a broken connection is retried."""
        while True:
            try:
                version = await self._list()
                self.synced.set()
                await self._watch(version)
            except (aiohttp.ClientError, TimeoutError, ApiError, ConnectionError) as error:
                log.warning("watch of %s broke (%s); listing again", self._path, error)
                await asyncio.sleep(0.5)

    async def _list(self) -> str:
        answer = await self._client.request("GET", self._path, params=self._selectors)
        fresh = {key_of(item): item for item in answer["items"]}
        for key in [key for key in self.objects if key not in fresh]:
            self._report(key, None)
        for key, obj in fresh.items():
            self._report(key, obj)
        return str(answer["metadata"]["resourceVersion"])

    async def _watch(self, version: str) -> None:
        while True:
            params = {
                **self._selectors,
                "watch": "1",
                "resourceVersion": version,
                "allowWatchBookmarks": "true",
                "timeoutSeconds": "900",
            }
            async with self._client.stream(self._path, params) as response:
                if response.status == 410:
                    return
                if response.status >= 300:
                    raise ApiError(response.status, str(response.reason), await response.text())
                async for line in response.content:
                    event = json.loads(line)
                    obj: Obj = event["object"]
                    if event["type"] == "ERROR":
                        return  # the version is too old
                    version = obj["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        self._report(key_of(obj), None if event["type"] == "DELETED" else obj)

    def _report(self, key: str, new: Obj | None) -> None:
        old = self.objects.get(key)
        if new is None:
            self.objects.pop(key, None)
        else:
            if old and old["metadata"]["resourceVersion"] == new["metadata"]["resourceVersion"]:
                return
            self.objects[key] = new
        self._on_change(old, new)


class Tasks:
    """Background tasks that are cancelled together; one that fails unexpectedly is logged with its trace."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Any, name: str) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception():
            log.error("task %s failed", task.get_name(), exc_info=task.exception())

    async def cancel(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def record_event(
    client: Client, obj: Obj, kind: str, reason: str, message: str, severity: str = "Normal"
) -> None:
    """A core Event about an object; the agent's own, so a failure to write one is only logged."""
    meta = obj["metadata"]
    namespace = meta.get("namespace", "default")
    stamp = now()
    event: Obj = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{meta['name'][:40].rstrip('.-')}.", "namespace": namespace},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": kind,
            "name": meta["name"],
            "namespace": meta.get("namespace"),
            "uid": meta.get("uid"),
        },
        "reason": reason,
        "message": message,
        "type": severity,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
        "source": {"component": "node-agent"},
    }
    try:
        await client.create(f"/api/v1/namespaces/{namespace}/events", event)
    except (ApiError, aiohttp.ClientError, TimeoutError) as error:
        log.warning("event %s for %s was not written: %s", reason, key_of(obj), error)
