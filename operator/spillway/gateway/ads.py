"""The xDS server of the leader: every gateway connects to it and is kept at the published state."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc

from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from spillway.gateway import resources, runtime
from spillway.gateway.bootstrap import node_from_metadata
from spillway.gateway.desired import Desired, GatewayNode
from spillway.gateway.quarantine import Quarantine, Rejection
from spillway.gateway.session import Session, Target
from spillway.gateway.share import share

log = logging.getLogger(__name__)

_METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
# 1,000 deployments' clusters are one response.
_LARGEST_MESSAGE_BYTES = 256 << 20

InFlight = Mapping[str, Mapping[str, int]]
"""In-flight requests by gateway process and cluster name, as the readings say."""


class AdsServer:
    """`may_spill` is asked before every send of a layer with a lease: the leader's own deadline, by its own clock."""

    def __init__(self, bind: str, port: int, may_spill: Callable[[], bool]) -> None:
        self._address = f"{bind}:{port}"
        self._may_spill = may_spill
        self._desired = Desired()
        self._in_flight: InFlight = {}
        self._generation = 0
        self._spill_stopped = False
        self._sessions: list[Session] = []
        self._quarantine = Quarantine()
        self._rendered: dict[GatewayNode, resources.Rendered] = {}
        self._shares: dict[str, dict[str, int]] = {}
        self._synced = asyncio.Condition()
        self._server: Any = None
        self._notices: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Raises RuntimeError when the address cannot be bound."""
        options = [
            ("grpc.max_receive_message_length", _LARGEST_MESSAGE_BYTES),
            ("grpc.max_send_message_length", _LARGEST_MESSAGE_BYTES),
            ("grpc.keepalive_time_ms", 10_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
            ("grpc.so_reuseport", 0),
        ]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers((_Handler(self._stream),))
        if self._server.add_insecure_port(self._address) == 0:
            raise RuntimeError(f"cannot listen on {self._address}")
        await self._server.start()

    async def stop(self, *, spill_off: bool = False, grace_seconds: float = 2.0) -> None:
        """Close all streams; with `spill_off` the gateways are told first to serve locally only."""
        if spill_off:
            self._spill_stopped = True
            self._changed()
            try:
                await self.wait_synced(grace_seconds)
            except TimeoutError:
                log.warning("not every gateway confirmed the end of spill; their leases run out")
        if self._server is not None:
            await self._server.stop(grace=0)
        await asyncio.gather(*self._notices)

    def publish(self, desired: Desired, in_flight: InFlight | None = None) -> None:
        """Make this the state of every gateway, connected now or later.

        in_flight must name every gateway process that may be alive, connected or not: the limits are shared out
        over these and the connected ones, so that the sum is never above the total.
        """
        if (desired.deployments, desired.providers, desired.egresses) != (
            self._desired.deployments,
            self._desired.providers,
            self._desired.egresses,
        ):
            self._rendered.clear()
            self._quarantine.release()
        self._desired = desired
        self._in_flight = in_flight or {}
        self._changed()

    async def renew(self) -> None:
        """Prolong the leases of all connected gateways, if `may_spill` allows it."""
        for session in self._sessions:
            session.renew()

    async def wait_synced(self, timeout_seconds: float) -> None:
        """Until every connected gateway has acknowledged what is published now; raises TimeoutError."""
        generation = self._generation
        async with asyncio.timeout(timeout_seconds), self._synced:
            await self._synced.wait_for(lambda: all(s.synced_generation >= generation for s in self._sessions))

    def nodes(self) -> tuple[GatewayNode, ...]:
        """The connected gateways."""
        return tuple(session.node for session in self._sessions)

    def rejections(self) -> tuple[Rejection, ...]:
        """What is not in force as it was asked for, with Envoy's own words."""
        return self._quarantine.rejections()

    def missing_keys(self) -> tuple[str, ...]:
        """Provider keys (file names) that a gateway could not read."""
        prefix = runtime.names.credential_secret("")
        missing = self._quarantine.missing_secrets()
        return tuple(name.removeprefix(prefix) for name in missing if name.startswith(prefix))

    def _changed(self) -> None:
        self._generation += 1
        self._share_out()
        for session in self._sessions:
            session.wake()

    def _share_out(self) -> None:
        processes = {*self._in_flight, *(session.node.process for session in self._sessions)}
        self._shares = {process: {} for process in processes}
        for totals in runtime.limits(self._desired):
            for cluster, total in totals.items():
                load = {process: self._in_flight.get(process, {}).get(cluster, 0) for process in processes}
                for process, part in share(total, load).items():
                    self._shares[process][cluster] = part

    def _target(self, node: GatewayNode) -> Target:
        if node not in self._rendered:
            self._rendered[node] = resources.render(self._desired, node)
        layers = resources.runtime_layers(self._desired, self._shares.get(node.process, {}))
        if self._spill_stopped:
            off = resources.runtime_layers(Desired(), {})
            layers = {name: off[name] if name in runtime.LEASES else layer for name, layer in layers.items()}
        return Target(self._generation, self._rendered[node], layers)

    async def _stream(self, requests: AsyncIterator[DiscoveryRequest], context: Any) -> None:
        first = await anext(aiter(requests), None)
        if first is None:
            return
        node = node_from_metadata(first.node)
        session = Session(node, lambda: self._target(node), self._quarantine, self._may_spill, self._notify)
        self._sessions.append(session)
        self._changed()
        log.info("gateway connected", extra={"gateway": node.name, "gateway_process": node.process})
        try:
            await session.run(first, requests, context.write)
        except (TimeoutError, RuntimeError) as error:
            # The gateway keeps its last configuration and connects again; then it is told everything anew.
            log.warning("gateway stream ended: %r", error, extra={"gateway": node.name, "error": str(error)})
        finally:
            self._sessions.remove(session)
            if all(other.node != node for other in self._sessions):
                self._rendered.pop(node, None)
            self._changed()
            self._notify()
            log.info("gateway disconnected", extra={"gateway": node.name, "gateway_process": node.process})

    def _notify(self) -> None:
        notice = asyncio.create_task(self._wake_waiters())
        self._notices.add(notice)
        notice.add_done_callback(self._notices.discard)

    async def _wake_waiters(self) -> None:
        async with self._synced:
            self._synced.notify_all()


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, stream: Callable[[AsyncIterator[DiscoveryRequest], Any], Any]) -> None:
        self._stream = stream

    def service(self, details: Any) -> Any:
        if details.method != _METHOD:
            return None
        return grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=DiscoveryRequest.FromString,
            response_serializer=DiscoveryResponse.SerializeToString,
        )
