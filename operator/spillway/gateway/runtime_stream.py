"""One runtime layer of one gateway, on a stream of its own.

Not over the aggregated stream: when the TTL of one of several runtime layers on one stream runs out, Envoy 1.40 tells
every layer's watcher that it was removed, and the others end the process ("Unexpected removal of unknown RTDS runtime
layer"). Apart from that, no lease should ever wait for a change of configuration.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse, Resource
from envoy.service.runtime.v3.rtds_pb2 import Runtime
from google.protobuf.message import Message

from spillway.gateway import runtime
from spillway.gateway.desired import GatewayNode
from spillway.gateway.messages import parse
from spillway.gateway.together import until_first

_TYPE = "type.googleapis.com/envoy.service.runtime.v3.Runtime"
_ACKNOWLEDGE_SECONDS = 5.0

Write = Callable[[DiscoveryResponse], Awaitable[None]]
Content = Callable[[], tuple[int, Mapping[str, int]]]
"""(generation of the publication, keys and values that the layer should have now)"""


class RuntimeStream:
    """`acknowledged` is what the gateway has of this layer, as far as its lease has not run out."""

    def __init__(
        self,
        node: GatewayNode,
        layer: str,
        content: Content,
        may_spill: Callable[[], bool],
        on_acknowledged: Callable[[], None],
        on_synced: Callable[[], None],
    ) -> None:
        self.node = node
        self.layer = layer
        self.synced_generation = -1
        self.acknowledged: Mapping[str, int] | None = None
        self._sent: Mapping[str, int] | None = None  # without an answer yet
        self._sent_at = float("-inf")
        self._content = content
        self._may_send = may_spill if layer in runtime.LEASES else lambda: True
        self._on_acknowledged = on_acknowledged
        self._on_synced = on_synced
        self._wake = asyncio.Event()
        self._renew = False
        self._nonces = itertools.count(1)
        self._closing = asyncio.Event()

    def wake(self) -> None:
        """Something was published."""
        self._wake.set()

    def renew(self) -> None:
        """Send the layer again if it has a lease."""
        self._renew = self.layer in runtime.LEASES
        self.wake()

    @property
    def possible(self) -> tuple[Mapping[str, int], ...]:
        """Every content that the gateway may have of this layer now."""
        return tuple(content for content in (self.acknowledged, self._sent) if content is not None)

    @property
    def expires_at(self) -> float:
        """When the lease of what it may have has surely run out (monotonic seconds), if nothing more is sent."""
        return self._sent_at + runtime.LEASES.get(self.layer, 0) + _ACKNOWLEDGE_SECONDS

    def close(self) -> None:
        """End the stream; a lease that the gateway has runs out by itself."""
        self._closing.set()

    async def run(self, requests: AsyncIterator[DiscoveryRequest], write: Write) -> None:
        """Until the gateway goes away. Raises TimeoutError if it does not acknowledge, RuntimeError if it refuses."""
        self.wake()
        await until_first(self._work(requests, write), self._closing.wait())

    async def _work(self, requests: AsyncIterator[DiscoveryRequest], write: Write) -> None:
        answers: asyncio.Queue[DiscoveryRequest | None] = asyncio.Queue()
        reader = asyncio.create_task(self._read(requests, answers))
        try:
            while True:
                waking = asyncio.create_task(self._wake.wait())
                await asyncio.wait({waking, reader}, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
                if reader.done():
                    return
                self._wake.clear()
                generation, content = self._content()
                renew, self._renew = self._renew and bool(content), False
                if (renew or content != self.acknowledged) and self._may_send():
                    await self._send(content, answers, write)
                self.synced_generation = generation
                self._on_synced()
        finally:
            reader.cancel()

    async def _read(
        self, requests: AsyncIterator[DiscoveryRequest], answers: asyncio.Queue[DiscoveryRequest | None]
    ) -> None:
        async for request in requests:
            answers.put_nowait(request)
        answers.put_nowait(None)

    async def _send(
        self, content: Mapping[str, int], answers: asyncio.Queue[DiscoveryRequest | None], write: Write
    ) -> None:
        nonce = str(next(self._nonces))
        response = DiscoveryResponse(type_url=_TYPE, version_info=nonce, nonce=nonce)
        response.resources.add().Pack(self._resource(content), deterministic=True)
        self._sent, self._sent_at = dict(content), time.monotonic()
        await write(response)
        async with asyncio.timeout(_ACKNOWLEDGE_SECONDS):
            while (answer := await answers.get()) is not None and answer.response_nonce != nonce:
                pass
        if answer is None:
            return  # the gateway went away; what it has nobody knows
        if answer.HasField("error_detail"):
            raise RuntimeError(f"runtime layer {self.layer} refused: {answer.error_detail.message}")
        news = content != self.acknowledged
        self.acknowledged, self._sent = dict(content), None
        if news:
            self._on_acknowledged()

    def _resource(self, content: Mapping[str, int]) -> Message:
        layer = parse(Runtime, {"name": self.layer, "layer": dict(content)})
        seconds = runtime.LEASES.get(self.layer)
        if seconds is None or not content:
            return layer
        leased = Resource(name=self.layer)
        leased.resource.Pack(layer, deterministic=True)
        leased.ttl.seconds = seconds
        return leased
