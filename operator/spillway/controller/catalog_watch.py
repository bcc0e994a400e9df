"""The catalog in force: what ships with Spillway, under the ConfigMap that the platform team may lay over it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from aiohttp import ClientError
from kubernetes.aio import client, watch

from spillway.act.events import EventRecorder
from spillway.api import Reason
from spillway.catalog import Catalog, CatalogError, load, overlaid
from spillway.controller.metrics import Metrics

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
WATCH_SECONDS = 240  # below aiohttp's own limit of five minutes; then it is listed again, so that nothing stays missed


class CatalogWatch:
    """Follows one ConfigMap. A mistake in it is told (event, log, metric) and the last good catalog stays in force."""

    def __init__(
        self,
        core: client.CoreV1Api,
        namespace: str,
        name: str,
        events: EventRecorder,
        metrics: Metrics,
        on_change: Callable[[], None],
    ) -> None:
        self._core = core
        self._namespace, self._name = namespace, name
        self._events = events
        self._metrics = metrics
        self._on_change = on_change
        self._taken = ""
        self._lost = False
        self.catalog: Catalog = load()

    async def read(self) -> str | None:
        """Take the ConfigMap as it is now; its absence is no mistake. Returns from which version on to watch.

        None if the API server does not let us: the catalog stays as it is, and that is logged.
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
                log.debug("the watch of the catalog's overlay ended", extra={"error": str(error)[:200]})
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

    async def take(self, overlay: dict[str, Any] | None) -> None:
        """Lay a ConfigMap over the shipped catalog, or nothing."""
        version = overlay["metadata"]["resourceVersion"] if overlay else "none"
        if version == self._taken:
            return
        self._taken = version
        try:
            catalog = await asyncio.to_thread(overlaid, (overlay.get("data") or {}) if overlay else {})
        except CatalogError as error:
            self._metrics.catalog_problems.set(len(error.problems))
            words = (
                f"the catalog stays as it was: ConfigMap {self._namespace}/{self._name}, {'; '.join(error.problems)}"
            )
            log.warning("the catalog's overlay has mistakes", extra={"problems": list(error.problems)})
            await self._events.record(
                {"apiVersion": "v1", "kind": "ConfigMap", **(overlay or {})}, Reason.INVALID_CATALOG, words, "Warning"
            )
            return
        self._metrics.catalog_problems.set(0)
        if catalog == self.catalog:
            return
        self.catalog = catalog
        log.info("the catalog has changed", extra={"models": sorted(catalog.models)})
        self._on_change()

    def _lose(self, error: Exception) -> None:
        if not self._lost:
            log.warning(
                "the catalog's overlay cannot be read: the catalog stays as it was",
                extra={"config_map": f"{self._namespace}/{self._name}", "error": str(error)[:200]},
            )
        self._lost = True
