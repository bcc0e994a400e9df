"""Keeps the memory of decisions in ConfigMaps beside the operator: what changed, at most once a minute, and at the end.

Each namespace's memory is a part of its own (several, where it is large), and so is the pools': one that cannot be read
is dropped alone, and then what runs counts. Parts lie in a fixed number of objects, so that the operator's rights name
each of them and a thousand busy namespaces cost no more writes than there are objects (docs/adr/0011).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import gzip
import hashlib
import logging
import re
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from spillway.act.events import EventRecorder
from spillway.act.kube import Kube, KubeError, Object, path
from spillway.api import Reason
from spillway.decide import Memory, UnreadableMemory, decode_memory, encode
from spillway.observe.objects import Objects

log = logging.getLogger(__name__)

POOLS = "spillway-memory"
SLOTS = tuple(f"{POOLS}-{n}" for n in range(8))
"""Objects of the namespaces' parts, as manifests/base/rbac-operator.yaml names them."""
OLD_KEY = "memory.json"  # of the one object that held everything
HASHED_KEY = "memory.json.gz"  # of objects that held an eighth of all deployments each
POOLS_KEY = "pools.gz"
INTERVAL_SECONDS = 60.0
SLOT_BYTES = 900_000  # the API server takes 1,048,576 of data in a ConfigMap
PART_BYTES = 256_000  # of JSON, before it is packed: what one damaged part takes along, and what moves between slots
UNPACKED_BYTES = 64 * 2**20  # no part of ours unpacks to more
EVENTS = 50  # at most, of one restart: the log has the rest
PART = re.compile(r"([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)\.(\d+)\.gz")


def pack(memory: Memory) -> str:
    """As binaryData has it."""
    return base64.b64encode(gzip.compress(encode(memory).encode(), mtime=0)).decode()


def unpack(text: object) -> Memory:
    """What `pack` made. Raises UnreadableMemory for anything else."""
    try:
        raw = base64.b64decode(str(text), validate=True)
        unzip = zlib.decompressobj(wbits=31)
        data = unzip.decompress(raw, UNPACKED_BYTES)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise UnreadableMemory(f"cannot be unpacked: {error}") from error
    if not unzip.eof:
        raise UnreadableMemory("cannot be unpacked: it is cut off, or too large to be a memory")
    return decode_memory(data)


def parts(memory: Memory) -> dict[str, Memory]:
    """The memory of the deployments by part, `namespace.number.gz`. A deployment's part depends on its key alone, so
    that what one remembers does not move what others do."""
    by_namespace: dict[str, list[str]] = {}
    for key in sorted(memory.deployments):
        by_namespace.setdefault(key.partition("/")[0], []).append(key)
    found: dict[str, Memory] = {}
    for namespace, keys in by_namespace.items():
        size = sum(len(encode(memory.deployments[key])) for key in keys) if len(keys) > 1 else 0
        number = 1 << max(0, (size // PART_BYTES).bit_length())  # a power of two: a little growth splits nothing anew
        split: dict[int, list[str]] = {}
        for key in keys:
            split.setdefault(_hash(key) % number, []).append(key)
        for n, chosen in sorted(split.items()):
            own = {key: memory.deployments[key] for key in chosen}
            found[f"{namespace}.{n}.gz"] = Memory(time=memory.time, deployments=own)
    return found


def place(sizes: Mapping[str, int], before: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The slot of each part: where it was, while it fits, else the first with room from the one that its name gives.
    Also the parts that fit nowhere."""
    left = dict.fromkeys(SLOTS, SLOT_BYTES)
    found: dict[str, str] = {}
    for part in sorted(sizes, key=lambda p: (p not in before, p)):
        first = _hash(part) % len(SLOTS)
        turns = [*((before[part],) if part in before else ()), *SLOTS[first:], *SLOTS[:first]]
        slot = next((s for s in turns if sizes[part] <= left[s]), None)
        if slot is not None:
            found[part] = slot
            left[slot] -= sizes[part]
    return found, sorted(sizes.keys() - found.keys())


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


class Recollection:
    """Only the leader loads and keeps."""

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        objects: Objects | None = None,
        events: EventRecorder | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._objects = objects or Objects()
        self._events = events
        self._clock = clock
        self._stored: dict[str, dict[str, str]] = {name: {} for name in (POOLS, *SLOTS)}  # by object and part, packed
        self._kept: dict[str, Memory] = {}  # by part, what is stored
        self._places: dict[str, str] = {}
        self._homeless: list[str] = []
        self._tell_left = EVENTS
        self._looked_at = float("-inf")

    async def load(self) -> Memory:
        """What the last leader remembered, without what cannot be read: there, what runs counts."""
        stored = await asyncio.gather(*(self._read(name) for name in self._stored))
        found: list[Memory] = []
        for name, obj in zip(self._stored, stored, strict=True):
            if obj is not None:
                found += await self._take(name, obj)
        if not any(obj is not None for obj in stored):
            log.info("no memory of earlier decisions: what runs now counts")
        return merged(found)

    async def _read(self, name: str) -> Object | None:
        try:
            return await self._kube.request("GET", path("v1", "ConfigMap", self._namespace, name))
        except KubeError as error:
            if error.status != 404:
                raise
            return None

    async def _take(self, name: str, obj: Object) -> list[Memory]:
        """The parts of one object that can be read; the others are dropped, and that is told."""
        found = []
        binary: Mapping[str, Any] = obj.get("binaryData") or {}
        self._stored[name] = {key: str(value) for key, value in binary.items()}
        old = (obj.get("data") or {}).get(OLD_KEY)
        if name == POOLS and old is not None:
            self._stored[name][OLD_KEY] = ""  # differs from what is kept from now on, so it goes
            try:
                found.append(decode_memory(str(old)))
                log.info("the memory of decisions was in one object: it is split by namespace from now on")
            except UnreadableMemory as error:
                await self._drop("*", f"ConfigMap {self._namespace}/{name}, {OLD_KEY}: {error}")
        for part, text in sorted(binary.items()):
            if part == HASHED_KEY:
                try:
                    found.append(unpack(text))
                except UnreadableMemory as error:
                    await self._drop("*", f"ConfigMap {self._namespace}/{name}, {part}: {error}")
                continue
            match = PART.fullmatch(part)
            if (part != POOLS_KEY) if name == POOLS else not match:
                log.warning("not a memory of decisions", extra={"config_map": name, "key": part})
                continue
            namespace = match[1] if match and name != POOLS else ""
            try:
                memory = unpack(text)
                strangers = [key for key in memory.deployments if key.partition("/")[0] != namespace]
                if strangers or (namespace and memory.pools):
                    raise UnreadableMemory(f"it speaks of others: {', '.join(sorted(strangers)[:3]) or 'pools'}")
            except UnreadableMemory as error:
                await self._drop(namespace, f"ConfigMap {self._namespace}/{name}, {part}: {error}")
                continue
            held = self._kept.get(part)
            if held is None or held.time <= memory.time:  # two, if a leader died while a part changed its slot
                self._kept[part], self._places[part] = memory, name
            found.append(memory)
        return found

    async def dropped(self, why: str) -> None:
        """Tell that all of what was loaded is dropped."""
        await self._drop("*", why)

    async def _drop(self, namespace: str, why: str) -> None:
        """Tell those concerned: the namespace's MoEDeployments, the GPUPools, or both."""
        log.warning(
            "a memory of earlier decisions is dropped: what runs now counts",
            extra={"reason": str(Reason.MEMORY_DROPPED), "namespace": namespace or "pools", "error": why},
        )
        if self._events is None:
            return
        words = f"what Spillway had learned here is dropped, what runs now counts: {why}"
        for obj in list(self._concerned(namespace))[: self._tell_left]:
            self._tell_left -= 1
            await self._events.record(obj, Reason.MEMORY_DROPPED, words, "Warning")

    def _concerned(self, namespace: str) -> Iterable[Object]:
        for key, obj in sorted(self._objects.moedeployments.items()):
            if namespace in ("*", key.partition("/")[0]):
                yield obj
        if namespace in ("*", ""):
            yield from (obj for _, obj in sorted(self._objects.gpupools.items()))

    async def keep(self, memory: Memory, force: bool = False) -> None:
        """Write the objects of which a part changed; look for that once a minute, or now if `force`. What only fades
        while nothing happens is a change at the end (`force`) alone. Namespaces that are gone leave their object."""
        now = self._clock()
        if not force and now - self._looked_at < INTERVAL_SECONDS:
            return
        self._looked_at = now
        current, packed = await asyncio.to_thread(self._packed, memory, force)
        sizes = {part: len(text) * 3 // 4 for part, text in packed.items() if part != POOLS_KEY}
        places, homeless = place(sizes, {p: s for p, s in self._places.items() if s in SLOTS})
        if homeless and homeless != self._homeless:
            log.error(
                "the memory of decisions does not fit: a restart forgets some of it",
                extra={"parts": homeless[:20], "number": len(homeless)},
            )
        self._homeless = homeless
        wanted: dict[str, dict[str, str]] = {name: {} for name in self._stored}
        for part, slot in places.items():
            wanted[slot][part] = packed[part]
        if POOLS_KEY in packed:
            wanted[POOLS][POOLS_KEY] = packed[POOLS_KEY]
        # What moves is written to its new slot before it is taken out of the old one.
        for name in sorted(wanted, key=lambda n: not wanted[n].keys() - self._stored[n].keys()):
            if wanted[name] != self._stored[name] and await self._write(name, wanted[name]):
                self._kept |= {p: current[p] for p, text in wanted[name].items() if self._stored[name].get(p) != text}
                self._stored[name] = wanted[name]
        self._kept = {part: kept for part, kept in self._kept.items() if part in current}
        self._places = places

    def _packed(self, memory: Memory, whole: bool) -> tuple[dict[str, Memory], dict[str, str]]:
        """All parts, and packed: those that did not change as they are stored. `whole`: also what fades counts."""
        current = parts(memory)
        if memory.pools:
            current[POOLS_KEY] = Memory(time=memory.time, pools=memory.pools)
        packed = {}
        for part, one in current.items():
            kept, text = self._kept.get(part), self._stored[self._places.get(part, POOLS)].get(part)
            if text is None or kept is None:
                same = False
            elif whole:
                same = replace(kept, time=0.0) == replace(one, time=0.0)
            else:
                same = kept.lasting() == one.lasting()
            packed[part] = text if same and text is not None else pack(one)
        return current, packed

    async def _write(self, name: str, wanted: Mapping[str, str]) -> bool:
        """Whether the API server took it."""
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": name,
                "namespace": self._namespace,
                "labels": {"app.kubernetes.io/part-of": "spillway", "app.kubernetes.io/managed-by": "spillway"},
            },
            "binaryData": dict(wanted),
        }
        try:
            answer = await self._kube.apply(body)
            # What another hand wrote there is not ours to leave out, but to remove.
            others = {
                kind: dict.fromkeys(extra)
                for kind, ours in (("binaryData", wanted), ("data", {}))
                if (extra := (answer.get(kind) or {}).keys() - ours.keys())
            }
            if others:
                await self._kube.merge(path("v1", "ConfigMap", self._namespace, name), others)
        except (KubeError, OSError, TimeoutError) as error:
            log.warning(
                "the memory of decisions could not be written yet",
                extra={"config_map": name, "error": str(error)[:200]},
            )
            return False
        return True


def merged(found: Iterable[Memory]) -> Memory:
    """One memory. Of two that know the same deployment or pool, the later one counts."""
    whole = Memory()
    for memory in sorted(found, key=lambda m: m.time):
        whole = replace(
            whole,
            time=memory.time,
            deployments={**whole.deployments, **memory.deployments},
            pools={**whole.pools, **memory.pools},
        )
    return whole
