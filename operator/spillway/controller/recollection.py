"""Keeps the memory of decisions in a ConfigMap: written when it changed, at most once a minute, and at the end."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from spillway.act.kube import Kube, KubeError, path
from spillway.decide import Memory, UnreadableMemory, decode_memory, encode

log = logging.getLogger(__name__)

NAME, KEY = "spillway-memory", "memory.json"
INTERVAL_SECONDS = 60.0


class Recollection:
    def __init__(self, kube: Kube, namespace: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._written: Memory | None = None
        self._written_at = float("-inf")

    async def load(self) -> Memory:
        """What the last leader remembered; nothing where that is absent or unreadable: then what runs counts."""
        try:
            stored = await self._kube.request("GET", path("v1", "ConfigMap", self._namespace, NAME))
            return decode_memory((stored.get("data") or {}).get(KEY, ""))
        except KubeError as error:
            if error.status != 404:
                raise
            log.info("no memory of earlier decisions: what runs now counts")
        except UnreadableMemory as error:
            log.warning("the memory of earlier decisions is dropped", extra={"error": str(error)})
        return Memory()

    async def keep(self, memory: Memory, force: bool = False) -> None:
        """Write it if it changed and a minute has passed. An idle cluster's memory differs in its time alone."""
        now = time.monotonic()
        if not force and now - self._written_at < INTERVAL_SECONDS:
            return
        if self._written is not None and replace(memory, time=0.0) == replace(self._written, time=0.0):
            return
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": NAME,
                "namespace": self._namespace,
                "labels": {"app.kubernetes.io/part-of": "spillway", "app.kubernetes.io/managed-by": "spillway"},
            },
            "data": {KEY: encode(memory)},
        }
        try:
            await self._kube.apply(body)
        except (KubeError, OSError, TimeoutError) as error:
            log.warning("the memory of decisions could not be written yet", extra={"error": str(error)[:200]})
            return
        self._written, self._written_at = memory, now
