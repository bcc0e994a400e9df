"""One connected gateway: what it has, what it should have, and the order in which it learns the difference."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse

from spillway.gateway import resources
from spillway.gateway.credentials import respell
from spillway.gateway.desired import GatewayNode
from spillway.gateway.quarantine import Quarantine
from spillway.gateway.rates import Rates
from spillway.gateway.resources import Part, PartId, Parts, Rendered
from spillway.gateway.together import until_first

log = logging.getLogger(__name__)

_ACKNOWLEDGE_SECONDS = 5.0
_WARM_SECONDS = 90.0
"""Envoy acknowledges clusters when they are warm: endpoints known, name resolved, first health check done."""
_WHOLE = (resources.CLUSTER, resources.LISTENER)
"""Types whose every response is the complete list; of the others a response may carry a subset."""

Write = Callable[[DiscoveryResponse], Awaitable[None]]


@dataclass(frozen=True)
class Target:
    """What one gateway should have. `generation` counts publications; `rates` are in `rendered`."""

    generation: int
    rendered: Rendered
    rates: Rates = field(default_factory=dict)


class Session:
    """State-of-the-world xDS over one stream.

    A single worker writes: clusters first, then endpoints and secrets, listeners, routes; what is no longer
    needed goes last (make before break). Each response waits for its ACK; a NACK is narrowed down to the parts that
    caused it, which then stay at their last good version. While clusters and listeners are on their way (an ACK may
    take as long as a slow name server), endpoints and secrets go on.
    """

    def __init__(
        self,
        node: GatewayNode,
        target: Callable[[], Target],
        quarantine: Quarantine,
        on_synced: Callable[[], None],
    ) -> None:
        self.node = node
        self.synced_generation = -1
        self.synced_rates: Rates = {}
        self._target = target
        self._quarantine = quarantine
        self._on_synced = on_synced
        self._wake = asyncio.Event()
        self._urgent = asyncio.Event()
        self._subscribed: dict[str, frozenset[str]] = {}
        self._has: dict[str, Parts] = {}
        self._unread: dict[PartId, int] = {}
        self._read_again = False
        self._closing = asyncio.Event()
        self._nonces = itertools.count(1)
        self._last_nonce: dict[str, str] = {}
        self._waiting: dict[str, asyncio.Future[str | None]] = {}

    def wake(self) -> None:
        """Something was published or asked for."""
        self._wake.set()
        self._urgent.set()

    def read_again(self) -> None:
        """Look again at the secrets that could not be read before."""
        self._read_again = True
        self.wake()

    def close(self) -> None:
        """End the stream; the gateway keeps what it has."""
        self._closing.set()

    @property
    def unread_secrets(self) -> frozenset[str]:
        """Names of secrets whose file this gateway could not read when it was last asked."""
        return frozenset(part_id.resource for part_id in self._unread)

    async def run(self, first: DiscoveryRequest, requests: AsyncIterator[DiscoveryRequest], write: Write) -> None:
        """Until the gateway goes away. Raises TimeoutError when it does not acknowledge."""
        self._receive(first)
        await until_first(self._read(requests), self._work(write), self._closing.wait())

    async def _read(self, requests: AsyncIterator[DiscoveryRequest]) -> None:
        async for request in requests:
            self._receive(request)

    def _receive(self, request: DiscoveryRequest) -> None:
        kind, wanted = request.type_url, frozenset(request.resource_names)
        answered = self._waiting.pop(request.response_nonce, None)
        if answered is not None and not answered.done():
            answered.set_result(request.error_detail.message if request.HasField("error_detail") else None)
        known = self._subscribed.get(kind)
        self._subscribed[kind] = wanted
        if known is None:
            self.wake()
        elif wanted != known:
            # New names were never sent; names that went are forgotten, so that they are sent when they come back.
            self._forget(kind, wanted ^ known)
        elif answered is None and request.response_nonce == self._last_nonce.get(kind):
            self._forget(kind, wanted)  # asked again: a cluster or listener that was replaced wants its parts anew

    def _forget(self, kind: str, names: frozenset[str]) -> None:
        self._has[kind] = {
            part_id: part for part_id, part in self._has.get(kind, {}).items() if part_id.resource not in names
        }
        self.wake()

    async def _work(self, write: Write) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            target = self._target()
            await self._sync(target, write)
            if not self._wake.is_set():
                self.synced_generation, self.synced_rates = target.generation, target.rates
                self._on_synced()

    async def _sync(self, target: Target, write: Write) -> None:
        wanted = self._wanted(target)
        await self._send_urgent(wanted, write)
        for kind in (resources.CLUSTER, resources.ENDPOINT, resources.LISTENER, resources.ROUTE):
            await self._update(kind, wanted.get(kind, {}), write)
        await self._update_secrets(wanted.get(resources.SECRET, {}), write)
        for kind in reversed(_WHOLE):
            await self._prune(kind, wanted.get(kind, {}), write)

    async def _send_urgent(self, wanted: Mapping[str, Parts], write: Write) -> None:
        """What must not wait: replicas that came or went, keys."""
        self._urgent.clear()
        await self._update(resources.ENDPOINT, wanted.get(resources.ENDPOINT, {}), write)
        await self._update_secrets(wanted.get(resources.SECRET, {}), write)

    def _wanted(self, target: Target) -> dict[str, Parts]:
        by_kind: dict[str, Parts] = {}
        for part_id, part in self._quarantine.admit(target.rendered).items():
            by_kind.setdefault(part_id.type_url, {})[part_id] = part
        return by_kind

    async def _update(self, kind: str, wanted: Parts, write: Write) -> None:
        if kind not in self._subscribed:
            return
        if kind not in _WHOLE:
            names = self._subscribed[kind]
            wanted = {part_id: part for part_id, part in wanted.items() if part_id.resource in names}
        has = self._has.setdefault(kind, {})
        changes = [part for part_id, part in wanted.items() if has.get(part_id) != part]
        if kind == resources.CLUSTER and changes:
            # Envoy warms a replaced cluster anew and waits for its endpoints, even unchanged ones.
            self._forget(resources.ENDPOINT, frozenset(part.id.resource for part in changes))
        for group in _groups(kind, changes):
            base = dict(has) if kind in _WHOLE else {}
            if kind == resources.ROUTE:
                resource = group[0].id.resource
                base = {part_id: has[part_id] for part_id in wanted if part_id.resource == resource and part_id in has}
            settled, asked = await self._settle(kind, base, group, write)
            if asked is False:  # the last trial was refused: say again what stands
                await self._send(kind, settled, write)
            has.update(settled)
        if kind == resources.ROUTE:
            await self._drop_hosts(wanted, write)

    async def _update_secrets(self, wanted: Parts, write: Write) -> None:
        """One by one: a file that is missing (yet) in this gateway's mount concerns nobody else."""
        if resources.SECRET not in self._subscribed:
            return
        again, self._read_again = self._read_again, False
        has = self._has.setdefault(resources.SECRET, {})
        self._unread = {part_id: tries for part_id, tries in self._unread.items() if part_id in wanted}
        for part_id, part in wanted.items():
            if part_id.resource not in self._subscribed[resources.SECRET] or has.get(part_id) == part:
                continue
            tries = self._unread.get(part_id, 0)
            if tries > 0 and not again:
                continue
            # Envoy does not look again at a secret that it has seen, even in vain: every other time the path of the
            # same file is written differently.
            spelled = replace(part, message=respell(part.message)) if tries % 2 else part
            refusal = await self._send(resources.SECRET, {part_id: spelled}, write)
            if refusal is None:
                has[part_id] = part
                self._unread.pop(part_id, None)
                continue
            if tries == 0:
                log.warning("gateway cannot read a secret", extra={"secret": part_id.resource, "refusal": refusal})
            self._unread[part_id] = tries + 1

    async def _settle(self, kind: str, base: Parts, changes: Sequence[Part], write: Write) -> tuple[Parts, bool]:
        """Bisect: (base and every change that the gateway took, whether the last response was taken)."""
        trial = {**base, **{part.id: part for part in changes}}
        refusal = await self._send(kind, trial, write)
        if refusal is None:
            self._quarantine.accept(changes)
            return trial, True
        if len(changes) == 1:
            log.warning("gateway refused a part", extra={"part": str(changes[0].id), "refusal": refusal})
            self._quarantine.refuse(changes[0], refusal)
            return base, False
        half = len(changes) // 2
        left, _ = await self._settle(kind, base, changes[:half], write)
        return await self._settle(kind, left, changes[half:], write)

    async def _drop_hosts(self, wanted: Parts, write: Write) -> None:
        has = self._has[resources.ROUTE]
        gone = [part_id for part_id in has if part_id not in wanted]
        for resource in {part_id.resource for part_id in gone}:
            rest = {
                part_id: part for part_id, part in wanted.items() if part_id.resource == resource and part_id in has
            }
            if rest:
                await self._send(resources.ROUTE, rest, write)
        for part_id in gone:
            has.pop(part_id, None)

    async def _prune(self, kind: str, wanted: Parts, write: Write) -> None:
        has = self._has.get(kind, {})
        rest = {part_id: part for part_id, part in has.items() if part_id in wanted}
        if len(rest) < len(has) and await self._send(kind, rest, write) is None:
            self._has[kind] = rest

    async def _send(self, kind: str, parts: Parts, write: Write) -> str | None:
        """The refusal's text, or None when it was acknowledged."""
        composed = resources.compose(parts.values())
        response = DiscoveryResponse(type_url=kind)
        for message in composed.values():
            response.resources.add().Pack(message, deterministic=True)
        return await self._exchange(response, write)

    async def _exchange(self, response: DiscoveryResponse, write: Write) -> str | None:
        response.nonce = response.version_info = str(next(self._nonces))
        self._last_nonce[response.type_url] = response.nonce
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._waiting[response.nonce] = answer
        await write(response)
        patience = _WARM_SECONDS if response.type_url in _WHOLE else _ACKNOWLEDGE_SECONDS
        try:
            async with asyncio.timeout(patience):
                while response.type_url in _WHOLE and not answer.done():
                    await self._answered_or_urgent(answer)
                    if not answer.done():
                        target = self._target()
                        await self._send_urgent(self._wanted(target), write)
                return await answer
        finally:
            self._waiting.pop(response.nonce, None)

    async def _answered_or_urgent(self, answer: asyncio.Future[str | None]) -> None:
        urgent = asyncio.create_task(self._urgent.wait())
        try:
            either: set[asyncio.Future[Any]] = {answer, urgent}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            urgent.cancel()


def _groups(kind: str, changes: list[Part]) -> list[list[Part]]:
    """What is sent in one response: all, except that each route configuration goes by itself."""
    if not changes:
        return []
    if kind != resources.ROUTE:
        return [changes]
    groups: dict[str, list[Part]] = {}
    for part in changes:
        groups.setdefault(part.id.resource, []).append(part)
    return list(groups.values())
