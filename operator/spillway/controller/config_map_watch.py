"""Follows one ConfigMap beside the operator, which a person or a pipeline writes and the operator only reads."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import Any

from aiohttp import ClientError
from kubernetes.aio import client, watch

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
WATCH_SECONDS = 240  # below aiohttp's own limit of five minutes; then it is listed again, so that nothing stays missed


class ConfigMapWatch(ABC):
    """`what` names it in the log. Rights: list and watch of that one object."""

    def __init__(self, core: client.CoreV1Api, namespace: str, name: str, what: str) -> None:
        self._core = core
        self._namespace, self._name = namespace, name
        self._what = what
        self._lost = False

    @abstractmethod
    async def take(self, found: dict[str, Any] | None) -> None:
        """The ConfigMap as it is now; None where there is none. Called again for the same version."""

    async def read(self) -> str | None:
        """Take the ConfigMap as it is now; its absence is no mistake. Returns from which version on to watch.

        None if the API server does not let us: what was taken stays, and that is logged.
        """
        try:
            found = await self._core.list_namespaced_config_map(
                self._namespace, field_selector=f"metadata.name={self._name}"
            )
        except (client.ApiException, ClientError, OSError, TimeoutError) as error:
            self._lose(error)
            return None
        self._lost = False
        objects = [self._core.api_client.sanitize_for_serialization(item) for item in found.items]
        await self.take(objects[0] if objects else None)
        return str(found.metadata.resource_version) if found.metadata else ""

    async def run(self) -> None:
        """Read and watch, until cancelled."""
        while True:
            since = await self.read()
            if since is None:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            try:
                await self._follow(since)
            except (client.ApiException, ClientError, OSError, TimeoutError) as error:
                log.debug("the watch of %s ended", self._what, extra={"error": str(error)[:200]})
                await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self, since: str) -> None:
        async with watch.Watch() as watching:  # type: ignore[no-untyped-call]
            changes = watching.stream(
                self._core.list_namespaced_config_map,
                self._namespace,
                field_selector=f"metadata.name={self._name}",
                resource_version=since,
                timeout_seconds=WATCH_SECONDS,
            )
            async for change in changes:
                if change["type"] in ("ADDED", "MODIFIED"):
                    await self.take(change["raw_object"])
                elif change["type"] == "DELETED":
                    await self.take(None)

    def _lose(self, error: Exception) -> None:
        if not self._lost:
            log.warning(
                "%s cannot be read: what was read before counts",
                self._what,
                extra={"config_map": f"{self._namespace}/{self._name}", "error": str(error)[:200]},
            )
        self._lost = True
