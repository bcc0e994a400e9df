"""What people ask to be adjusted: entries of the ConfigMap `spillway-adjustments`, which the treasury settles.

The operator only reads it. What came of each entry stands in the ledger, where it is stored together with the amounts,
and is told as an event.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from kubernetes.aio import client

from spillway.act.events import EventRecorder
from spillway.api import Reason
from spillway.controller.config_map_watch import ConfigMapWatch
from spillway.ledger import Adjustment, BadAdjustment, Settlement
from spillway.ledger.adjustment import CONFIG_MAP, parse

log = logging.getLogger(__name__)


class AdjustmentWatch(ConfigMapWatch):
    """Follows the requests. An entry that cannot be understood is told, and does not hinder the others."""

    def __init__(self, core: client.CoreV1Api, namespace: str, events: EventRecorder) -> None:
        super().__init__(core, namespace, CONFIG_MAP, "what people ask to be adjusted")
        self._events = events
        self._object: dict[str, Any] | None = None
        self._told: dict[str, str] = {}
        self.requests: Mapping[str, Adjustment] = {}

    async def take(self, found: dict[str, Any] | None) -> None:
        """The requests as they are now."""
        self._object = found
        requests: dict[str, Adjustment] = {}
        problems: dict[str, str] = {}
        for ref, text in sorted(((found or {}).get("data") or {}).items()):
            try:
                requests[ref] = parse(ref, text)
            except BadAdjustment as error:
                problems[ref] = str(error)
        self.requests = requests
        self._told = {ref: words for ref, words in self._told.items() if ref in requests or ref in problems}
        for ref, words in problems.items():
            await self._refuse(ref, words)

    async def tell(self, done: Settlement) -> None:
        """What came of requests, once it is stored; a problem that lasts is told once."""
        for ref, one in done.settled.items():
            who = {"id": ref, "by": one.adjustment.by, "whose": one.adjustment.whose, "day": one.adjustment.day}
            if one.refusal:
                await self._refuse(ref, one.refusal)
                continue
            log.info("adjusted", extra={**who, "usd": str(one.usd), "why": one.adjustment.reason})
            words = (
                f"{ref}: {one.usd:+f} USD for {one.adjustment.whose} on {one.adjustment.day}, asked for by "
                f"{one.adjustment.by}: {one.adjustment.reason}"
            )
            await self._say(Reason.ADJUSTMENT_APPLIED, words)
        for ref, words in done.problems.items():
            await self._refuse(ref, words)

    async def _refuse(self, ref: str, words: str) -> None:
        if self._told.get(ref) == words:
            return
        self._told[ref] = words
        log.warning("not adjusted", extra={"id": ref, "why": words})
        await self._say(Reason.ADJUSTMENT_REFUSED, f"{ref}: {words}")

    async def _say(self, reason: str, words: str) -> None:
        if self._object is not None:
            about = {"apiVersion": "v1", "kind": "ConfigMap", **self._object}
            await self._events.record(
                about, reason, words, "Warning" if reason == Reason.ADJUSTMENT_REFUSED else "Normal"
            )
