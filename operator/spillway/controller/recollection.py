"""Keeps the memory of decisions: written when something happened, at most once a minute, and at the end.

A ConfigMap holds at most 1 MiB, and a thousand deployments' memories are about 3 MB of JSON: they are spread over a
fixed number of ConfigMaps, whose names the operator's Role can therefore list, and compressed. One that cannot be read
is dropped alone: of its deployments what runs counts then.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import logging
import time
import zlib
from collections.abc import Mapping
from dataclasses import replace

from spillway.act.events import EventRecorder
from spillway.act.kube import Kube, KubeError, Object, path
from spillway.decide import Memory, UnreadableMemory, decode_memory, encode
from spillway.decide.memory import DeploymentMemory

log = logging.getLogger(__name__)

PREFIX, KEY = "spillway-memory", "memory.json.gz"
SHARDS = 8
NAMES = tuple(f"{PREFIX}-{number}" for number in range(SHARDS))
INTERVAL_SECONDS = 60.0
LARGEST_BYTES = 64 * 2**20  # of one shard's JSON; a stored megabyte that unpacks to more is not ours


class Recollection:
    def __init__(self, kube: Kube, namespace: str, events: EventRecorder) -> None:
        self._kube = kube
        self._namespace = namespace
        self._events = events
        self._written: dict[str, Memory] = {}
        self._written_at = float("-inf")

    async def load(self) -> Memory:
        """What the last leader remembered; nothing of what is absent or unreadable: then what runs counts."""
        found = []
        for name in NAMES:
            stored = await self._get(name)
            if stored is None:
                continue
            try:
                memory = unpacked((stored.get("binaryData") or {}).get(KEY, ""))
            except UnreadableMemory as error:
                await self._drop(stored, error)
                continue
            self._written[name] = memory
            found.append(memory)
        if not found:
            log.info("no memory of earlier decisions: what runs now counts")
        return merged(found)

    async def keep(self, memory: Memory, force: bool = False) -> None:
        """Write the parts to which something happened, if a minute has passed. What only fades is no reason to write,
        and goes with the next thing that happens; at the end everything is written that differs at all."""
        now = time.monotonic()
        if not force and now - self._written_at < INTERVAL_SECONDS:
            return
        wrote = False
        for name, part in shards(memory).items():
            before = self._written.get(name, Memory())
            same = replace(part, time=0.0) == replace(before, time=0.0) if force else part.lasting() == before.lasting()
            if same:
                continue
            try:
                await self._kube.apply(self._object(name, part))
            except (KubeError, OSError, TimeoutError) as error:
                log.warning("the memory of decisions could not be written yet", extra={"error": str(error)[:200]})
                return
            self._written[name] = part
            wrote = True
        if wrote:
            self._written_at = now

    async def _get(self, name: str) -> Object | None:
        try:
            return await self._kube.request("GET", path("v1", "ConfigMap", self._namespace, name))
        except KubeError as error:
            if error.status != 404:
                raise
            return None

    async def _drop(self, stored: Object, error: UnreadableMemory) -> None:
        """Say that a part is not used; the next write replaces it."""
        words = (
            f"the memory of earlier decisions in {stored['metadata']['name']} is dropped ({error}): what runs counts"
        )
        log.warning("a memory of earlier decisions is dropped", extra={"error": str(error)[:200]})
        await self._events.record(
            {"apiVersion": "v1", "kind": "ConfigMap", **stored}, "MemoryDropped", words, "Warning"
        )

    def _object(self, name: str, memory: Memory) -> Object:
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": name,
                "namespace": self._namespace,
                "labels": {"app.kubernetes.io/part-of": "spillway", "app.kubernetes.io/managed-by": "spillway"},
            },
            "binaryData": {KEY: packed(memory)},
        }


def packed(memory: Memory) -> str:
    """As a ConfigMap holds it. Equal memories give equal texts."""
    return base64.b64encode(gzip.compress(encode(memory).encode(), mtime=0)).decode()


def unpacked(text: str) -> Memory:
    """The memory that `packed` wrote; UnreadableMemory for anything else."""
    try:
        unzip = zlib.decompressobj(wbits=31)
        data = unzip.decompress(base64.b64decode(text, validate=True), LARGEST_BYTES)
    except (ValueError, zlib.error) as error:
        raise UnreadableMemory(f"not a packed memory: {error}") from error
    if unzip.unconsumed_tail or not unzip.eof:
        raise UnreadableMemory("not a packed memory: cut off, or larger than any of ours")
    return decode_memory(data)


def shard(key: str) -> str:
    """The ConfigMap that holds a deployment's memory."""
    return NAMES[hashlib.sha256(key.encode()).digest()[0] % SHARDS]


def shards(memory: Memory) -> Mapping[str, Memory]:
    """The memory in parts; the pools' is in the first. Parts of nothing are not there, but for those once written."""
    parts: dict[str, dict[str, DeploymentMemory]] = {name: {} for name in NAMES}
    for key, one in memory.deployments.items():
        parts[shard(key)][key] = one
    return {
        name: replace(memory, deployments=own, pools=memory.pools if name == NAMES[0] else {})
        for name, own in parts.items()
    }


def merged(parts: list[Memory]) -> Memory:
    """The whole from its parts; its time is that of the newest."""
    return Memory(
        time=max((part.time for part in parts), default=0.0),
        deployments={key: one for part in parts for key, one in part.deployments.items()},
        pools={name: one for part in parts for name, one in part.pools.items()},
    )
