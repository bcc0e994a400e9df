"""Events: one constructor, deduplicated by what they say, limited per object (after Karpenter's recorder)."""

from __future__ import annotations

import hashlib
import logging
from datetime import UTC, datetime
from typing import Any, Literal

from spillway.act.kube import Kube, KubeError, path

log = logging.getLogger(__name__)

REPEAT_SECONDS = 120.0
BURST, REFILL_SECONDS = 20, 15.0  # per object: that many at once, then one each so many seconds
MESSAGE_BYTES = 1000


class EventRecorder:
    """Posts events of the operator. An event is lost rather than delaying the work it tells of."""

    def __init__(self, kube: Kube, instance: str) -> None:
        self._kube = kube
        self._instance = instance
        self._said: dict[str, float] = {}
        self._tokens: dict[str, tuple[float, float]] = {}

    async def record(
        self, regarding: dict[str, Any], reason: str, message: str, kind: Literal["Normal", "Warning"] = "Normal"
    ) -> None:
        """Say it once in two minutes. `regarding` is the object itself."""
        now = datetime.now(UTC)
        meta = regarding["metadata"]
        digest = hashlib.sha256(f"{meta['uid']}|{reason}|{message}".encode()).hexdigest()[:16]
        if not self._may_say(digest, meta["uid"], now.timestamp()):
            return
        namespace = meta.get("namespace") or "default"  # where Kubernetes keeps events of cluster-scoped objects
        stamp = now.isoformat(timespec="microseconds").replace("+00:00", "Z")
        event = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{meta['name']}.{digest}{int(now.timestamp()):x}", "namespace": namespace},
            "eventTime": stamp,
            "reportingController": "spillway.dev/operator",
            "reportingInstance": self._instance[:128],
            "action": reason,
            "reason": reason,
            "note": message[:MESSAGE_BYTES],
            "type": kind,
            "regarding": {
                "apiVersion": regarding["apiVersion"],
                "kind": regarding["kind"],
                "name": meta["name"],
                "uid": meta["uid"],
                **({"namespace": meta["namespace"]} if meta.get("namespace") else {}),
            },
        }
        try:
            await self._kube.request("POST", path("events.k8s.io/v1", "Event", namespace), event)
        except (KubeError, OSError, TimeoutError) as error:
            log.warning("an event was not recorded", extra={"reason": reason, "error": str(error)})

    def _may_say(self, digest: str, uid: str, now: float) -> bool:
        if now - self._said.get(digest, -REPEAT_SECONDS) < REPEAT_SECONDS:
            return False
        tokens, at = self._tokens.get(uid, (float(BURST), now))
        tokens = min(float(BURST), tokens + (now - at) / REFILL_SECONDS)
        if tokens < 1:
            return False
        self._tokens[uid] = (tokens - 1, now)
        self._said[digest] = now
        if len(self._said) > 4096:
            self._said = {key: said for key, said in self._said.items() if now - said < REPEAT_SECONDS}
        return True
