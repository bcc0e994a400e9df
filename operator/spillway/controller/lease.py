"""Leader election by a Lease, with controller-runtime's contract: whoever loses it stops at once and exits.

Only the local monotonic clock counts: a Lease is free when it has not changed for its duration as we saw it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from datetime import UTC, datetime
from typing import Any

from spillway.act.kube import Kube, KubeError, path

log = logging.getLogger(__name__)

NAME = "spillway-operator"


class LeaderLease:
    def __init__(
        self,
        kube: Kube,
        namespace: str,
        identity: str,
        duration_seconds: float,
        deadline_seconds: float,
        retry_seconds: float,
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._identity = identity
        self._duration = duration_seconds
        self._deadline = deadline_seconds
        self._retry = retry_seconds
        self._seen = ("", 0.0)  # resourceVersion and when it was first seen
        self._renewed = float("-inf")

    @property
    def valid(self) -> bool:
        """Whether leadership is certain now: renewed within the deadline."""
        return time.monotonic() - self._renewed < self._deadline

    async def acquire(self) -> None:
        """Wait until this process leads."""
        while True:
            if await self._attempt():
                return
            await asyncio.sleep(self._retry * random.uniform(0.8, 1.2))

    async def hold(self) -> None:
        """Renew; returns when leadership is lost."""
        while self.valid:
            await asyncio.sleep(self._retry)
            if await self._attempt() is None:
                self._renewed = float("-inf")
                log.error("leadership was taken by another process")
                return
        log.error("leadership was not renewed in time")

    async def release(self) -> None:
        """Let the next one lead at once. The process must end right away."""
        self._renewed = float("-inf")
        where = path("coordination.k8s.io/v1", "Lease", self._namespace, NAME)
        try:
            lease = await self._kube.request("GET", where)
            if lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
                await self._kube.request("PUT", where, lease)
        except (KubeError, OSError, TimeoutError) as error:
            log.warning("the lease was not released; it runs out by itself", extra={"error": str(error)})

    async def _attempt(self) -> bool | None:
        """True: we lead. False: not (yet, or no answer). None: somebody else does although we did."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._deadline):
                outcome = await self._try_once()
        except (KubeError, OSError, TimeoutError) as error:
            log.warning("the lease could not be read or written", extra={"error": str(error)[:200]})
            return False
        if outcome:
            self._renewed = started
        return outcome

    async def _try_once(self) -> bool | None:
        where = path("coordination.k8s.io/v1", "Lease", self._namespace, NAME)
        try:
            lease = await self._kube.request("GET", where)
        except KubeError as error:
            if error.status != 404:
                raise
            return await self._create()
        version, spec = lease["metadata"]["resourceVersion"], lease["spec"]
        if version != self._seen[0]:
            self._seen = (version, time.monotonic())
        holder = spec.get("holderIdentity") or ""
        if holder != self._identity:
            if self._renewed > float("-inf"):
                return None
            free_at = self._seen[1] + float(spec.get("leaseDurationSeconds") or self._duration)
            if holder and time.monotonic() < free_at:
                return False
            spec["acquireTime"] = _now()
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + 1
        spec |= {"holderIdentity": self._identity, "renewTime": _now(), "leaseDurationSeconds": round(self._duration)}
        return await self._write("PUT", where, lease)

    async def _create(self) -> bool:
        spec: dict[str, Any] = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": round(self._duration),
            "acquireTime": _now(),
            "renewTime": _now(),
            "leaseTransitions": 0,
        }
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": NAME, "namespace": self._namespace},
            "spec": spec,
        }
        return await self._write("POST", path("coordination.k8s.io/v1", "Lease", self._namespace), lease)

    async def _write(self, method: str, where: str, lease: dict[str, Any]) -> bool:
        try:
            written = await self._kube.request(method, where, lease)
        except KubeError as error:
            if error.status == 409:  # somebody was faster
                return False
            raise
        self._seen = (written["metadata"]["resourceVersion"], time.monotonic())
        return True


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
