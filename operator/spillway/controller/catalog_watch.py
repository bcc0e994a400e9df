"""The catalog in force: what ships with Spillway, under the ConfigMap that the platform team may lay over it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from kubernetes.aio import client

from spillway.act.events import EventRecorder
from spillway.api import Reason
from spillway.catalog import Catalog, CatalogError, load, overlaid
from spillway.controller.config_map_watch import ConfigMapWatch
from spillway.controller.metrics import Metrics

log = logging.getLogger(__name__)


class CatalogWatch(ConfigMapWatch):
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
        super().__init__(core, namespace, name, "the catalog's overlay")
        self._events = events
        self._metrics = metrics
        self._on_change = on_change
        self._taken = ""
        self.catalog: Catalog = load()

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
