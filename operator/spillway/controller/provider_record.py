"""How providers do, put together: what fails, who is disabled, times to first tokens, and tokens of the last minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import datetime

from spillway.api import ExternalProvider
from spillway.controller.first_token import FirstTokens
from spillway.controller.provider_guard import ProviderGuard
from spillway.controller.provider_tokens import TokensLately
from spillway.controller.provider_watch import ProviderWatch, Told
from spillway.gateway.readings import GatewayReading
from spillway.ledger.reader import Reading

log = logging.getLogger(__name__)


class ProviderRecord:
    """Takes what each round of readings tells of providers."""

    def __init__(self) -> None:
        self.watch = ProviderWatch()
        self.guard = ProviderGuard()
        self.first_tokens = FirstTokens()
        self.tokens = TokensLately()

    def note(
        self,
        readings: Sequence[Reading],
        told: Mapping[str, GatewayReading],
        tokens: Mapping[str, int],
        providers: Mapping[str, ExternalProvider],
        now: datetime,
    ) -> None:
        """`told`: the same readings as the gateways gave them, by pod. `tokens`: of the ledger, by provider, of all
        time."""
        moment, before = time.monotonic(), dict(self.guard.disabled)
        new = self.watch.note(
            (Told(r.pod, r.page.process, r.page.samples, told[r.pod].errors) for r in readings), moment
        )
        self.first_tokens.note(
            {(r.pod, r.page.process): told[r.pod].first_bytes for r in readings if r.page.process}, moment
        )
        self.tokens.note(tokens, moment)
        self.guard.note(providers, new, now.timestamp())
        for name in before.keys() | self.guard.disabled.keys():
            held = self.guard.disabled.get(name)
            if held != before.get(name):
                words = held.message if held else "it answers again"
                log.warning("provider", extra={"provider": name, "words": words})

    @property
    def disabled(self) -> dict[str, tuple[int, str]]:
        """By provider that refuses everything: requests that a deployment may still have in flight, and why."""
        return {name: (held.most, held.message) for name, held in self.guard.disabled.items()}
