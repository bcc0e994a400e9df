"""The xDS server of the leader: every gateway connects to it and is kept at the published state."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import grpc
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

from spillway.gateway import names, resources, runtime
from spillway.gateway.authority import Identity
from spillway.gateway.bootstrap import node_from_metadata
from spillway.gateway.desired import Desired, GatewayNode
from spillway.gateway.entries import Attempt, attempts
from spillway.gateway.quarantine import Quarantine, Rejection
from spillway.gateway.rates import Rates, RateShares
from spillway.gateway.runtime import Leased
from spillway.gateway.runtime_stream import RuntimeStream
from spillway.gateway.session import Session, Target
from spillway.gateway.share import growing, share
from spillway.gateway.transport import admit, server_credentials

log = logging.getLogger(__name__)

_AGGREGATED = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
_RUNTIME = "/envoy.service.runtime.v3.RuntimeDiscoveryService/StreamRuntime"
_DETAIL = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
# 1,000 deployments' clusters are one response.
_LARGEST_MESSAGE_BYTES = 256 << 20

InFlight = Mapping[str, Mapping[str, int]]
"""In-flight requests by gateway process and cluster name, as the readings say."""


class AdsServer:
    """`may_spill` is asked before every send of a layer with a lease: the leader's own deadline, by its own clock.
    `identity` is asked before every handshake: a renewed certificate is shown from then on, open streams go on.
    `on_attempts` takes what the gateways' log tells of attempts at providers, and must not block."""

    def __init__(
        self,
        bind: str,
        port: int,
        may_spill: Callable[[], bool],
        identity: Callable[[], Identity],
        on_attempts: Callable[[Sequence[Attempt]], None] = lambda _: None,
    ) -> None:
        self._address = f"{bind}:{port}"
        self._may_spill = may_spill
        self._identity = identity
        self._on_attempts = on_attempts
        self._desired = Desired()
        self._published = asyncio.Event()
        self._in_flight: InFlight = {}
        self._generation = 0
        self._spill_stopped = False
        self._stopping = False
        self._sessions: list[Session] = []
        self._layers: list[RuntimeStream] = []
        self._quarantine = Quarantine()
        self._renderer = resources.Renderer()
        self._rendered: dict[GatewayNode, tuple[Rates, resources.Rendered]] = {}
        self._rates = RateShares()
        self._shares: dict[str, dict[str, int]] = {}
        self._layers_heard: set[tuple[str, str]] = set()  # process and layer: what it has of it is known
        self._left_behind: dict[tuple[str, str], tuple[tuple[Mapping[str, int], ...], float]] = {}
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
        streams = {_AGGREGATED: self._configure, _RUNTIME: self._serve_layer}
        self._server.add_generic_rpc_handlers((_Handler(streams, self._take_detail),))
        # It raises RuntimeError itself when the address cannot be bound.
        self._server.add_secure_port(self._address, server_credentials(self._identity))
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
        self._stopping = True
        self._published.set()
        for stream in self._streams():
            stream.close()
        if self._server is not None:
            await self._server.stop(grace=1.0)
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
            self._renderer.forget()
            self._quarantine.release()
        self._desired = desired
        self._in_flight = in_flight or {}
        alive = {*self._in_flight, *(stream.node.process for stream in self._streams())}
        self._layers_heard = {heard for heard in self._layers_heard if heard[0] in alive}
        self._left_behind = {left: what for left, what in self._left_behind.items() if left[0] in alive}
        self._published.set()
        self._changed()

    async def renew(self) -> None:
        """Prolong the leases of all connected gateways, if `may_spill` allows it; look again for missing keys."""
        for layer in self._layers:
            layer.renew()
        for session in self._sessions:
            session.read_again()

    async def wait_synced(self, timeout_seconds: float) -> None:
        """Until every connected gateway has acknowledged what is published now; raises TimeoutError."""
        generation = self._generation
        async with asyncio.timeout(timeout_seconds), self._synced:
            await self._synced.wait_for(lambda: all(s.synced_generation >= generation for s in self._streams()))

    def nodes(self) -> tuple[GatewayNode, ...]:
        """The connected gateways."""
        return tuple(session.node for session in self._sessions)

    def rejections(self) -> tuple[Rejection, ...]:
        """What is not in force as it was asked for, with Envoy's own words."""
        return self._quarantine.rejections()

    def missing_keys(self) -> tuple[str, ...]:
        """Provider keys (file names) that a connected gateway could not read; looked at again by each `renew`."""
        prefix = names.credential_secret("")
        unread = {name for session in self._sessions for name in session.unread_secrets}
        return tuple(sorted(name.removeprefix(prefix) for name in unread if name.startswith(prefix)))

    def leases(self) -> dict[str, dict[str, Leased]]:
        """By gateway process and external cluster, what may be in flight there and by how long a lease, connected or
        not. A process is absent until it has acknowledged each of its layers: what it has is from another leader."""
        heard = (process for process, _ in self._layers_heard)
        return {process: self._leased(process) for process in {*heard} if self._is_known(process)}

    def _is_known(self, process: str) -> bool:
        return all((process, layer) in self._layers_heard for layer in runtime.LEASES)

    def _leased(self, process: str) -> dict[str, Leased]:
        now = time.monotonic()
        possible = [(s.layer, content) for s in self._layers if s.node.process == process for content in s.possible]
        for (owner, layer), (contents, expires_at) in self._left_behind.items():
            if owner == process and now < expires_at:
                possible += [(layer, content) for content in contents]
        return runtime.leased(possible)

    def _changed(self) -> None:
        self._generation += 1
        self._share_out()
        for stream in self._streams():
            stream.wake()

    def _streams(self) -> list[Session | RuntimeStream]:
        return [*self._sessions, *self._layers]

    def _share_out(self) -> None:
        connected = (stream.node.process for stream in self._streams())
        processes = {*self._in_flight, *connected}
        self._shares = {process: {} for process in processes}
        held = {process: self._leased(process) for process in processes}
        gates, caps = runtime.limits(self._desired)
        for cluster, total in (gates | caps).items():
            load = {process: self._in_flight.get(process, {}).get(cluster, 0) for process in processes}
            told = share(total, load)
            if cluster in caps:  # that is money
                has = {process: leased[cluster].cap for process, leased in held.items() if cluster in leased}
                told = growing(total, told, has)
            for process, part in told.items():
                self._shares[process][cluster] = part
        limits = {p.name: p.requests_per_minute for p in self._desired.providers if p.requests_per_minute is not None}
        self._rates.share_out(limits, {process: self._at_providers(process) for process in processes})

    def _at_providers(self, process: str) -> dict[str, int]:
        """Requests of the process in flight at each provider."""
        found: dict[str, int] = {}
        for cluster, count in self._in_flight.get(process, {}).items():
            if (provider := names.provider_of(cluster)) is not None:
                found[provider] = found.get(provider, 0) + count
        return found

    def _target(self, node: GatewayNode) -> Target:
        rates = self._rates.of(node.process)
        if node not in self._rendered or self._rendered[node][0] != rates:
            self._rendered[node] = rates, self._renderer.render(self._desired, node, rates)
        return Target(self._generation, self._rendered[node][1], rates)

    def _session_synced(self, session: Session) -> None:
        if self._rates.acknowledged(session.node.process, session.synced_rates):
            self._changed()  # what it gave up is another one's
        self._notify()

    def _layer_content(self, process: str, layer: str) -> tuple[int, Mapping[str, int]]:
        wanted = runtime.layers(self._desired, self._shares.get(process, {}))
        if self._spill_stopped:
            wanted = {name: {} if name in runtime.LEASES else keys for name, keys in wanted.items()}
        acknowledged = {
            stream.layer: stream.acknowledged or {} for stream in self._layers if stream.node.process == process
        }
        return self._generation, runtime.handover(layer, wanted, acknowledged)

    async def _configure(self, requests: AsyncIterator[DiscoveryRequest], context: Any) -> None:
        await admit(context)
        first = await self._first(requests)
        if first is None:
            return
        node = node_from_metadata(first.node)
        session = Session(node, lambda: self._target(node), self._quarantine, lambda: self._session_synced(session))
        self._sessions.append(session)
        self._changed()
        log.info("gateway connected", extra={"gateway": node.name, "gateway_process": node.process})
        try:
            await session.run(first, requests, context.write)
        except (TimeoutError, RuntimeError) as error:
            # The gateway keeps its last configuration and connects again; then it is told everything anew.
            log.warning("gateway stream ended: %r", error, extra={"gateway": node.name})
        finally:
            self._sessions.remove(session)
            if all(other.node != node for other in self._sessions):
                self._rendered.pop(node, None)
            self._changed()
            self._notify()
            log.info("gateway disconnected", extra={"gateway": node.name, "gateway_process": node.process})

    async def _first(self, requests: AsyncIterator[DiscoveryRequest]) -> DiscoveryRequest | None:
        """The first request, once there is something to answer: silence keeps what a former leader published."""
        first = await anext(aiter(requests), None)
        await self._published.wait()
        return first if not self._stopping else None

    async def _serve_layer(self, requests: AsyncIterator[DiscoveryRequest], context: Any) -> None:
        await admit(context)
        first = await self._first(requests)
        if first is None:
            return
        node, [layer] = node_from_metadata(first.node), first.resource_names
        content = partial(self._layer_content, node.process, layer)
        stream = RuntimeStream(
            node, layer, content, self._may_spill, partial(self._acknowledged, node.process, layer), self._notify
        )
        self._layers.append(stream)
        self._changed()
        try:
            await stream.run(requests, context.write)
        except (TimeoutError, RuntimeError) as error:
            log.warning("runtime stream ended: %r", error, extra={"gateway": node.name, "layer": layer})
        finally:
            self._layers.remove(stream)
            if stream.possible:
                self._left_behind[node.process, layer] = stream.possible, stream.expires_at
            self._changed()
            self._notify()

    def _acknowledged(self, process: str, layer: str) -> None:
        self._layers_heard.add((process, layer))
        self._left_behind.pop((process, layer), None)
        before = self._shares
        self._share_out()
        if self._shares != before:
            self._changed()  # what it gave up is another one's
        self._hand_over(process, layer)

    async def _take_detail(self, export: ExportLogsServiceRequest, context: Any) -> ExportLogsServiceResponse:
        await admit(context)
        found, odd = attempts(export)
        if odd:
            log.warning("records of a gateway's log are no attempts", extra={"records": odd})
        self._on_attempts(found)
        return ExportLogsServiceResponse()

    def _hand_over(self, process: str, layer: str) -> None:
        """What a layer holds on behalf of another one can go once that one has it."""
        for other in self._layers:
            if other.node.process == process and other.layer != layer:
                _, content = self._layer_content(process, other.layer)
                if content != other.acknowledged:
                    other.wake()

    def _notify(self) -> None:
        notice = asyncio.create_task(self._wake_waiters())
        self._notices.add(notice)
        notice.add_done_callback(self._notices.discard)

    async def _wake_waiters(self) -> None:
        async with self._synced:
            self._synced.notify_all()


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(
        self,
        methods: Mapping[str, Callable[[AsyncIterator[DiscoveryRequest], Any], Any]],
        detail: Callable[[ExportLogsServiceRequest, Any], Any],
    ) -> None:
        self._methods = methods
        self._detail = detail

    def service(self, details: Any) -> Any:
        if details.method == _DETAIL:
            return grpc.unary_unary_rpc_method_handler(
                self._detail,
                request_deserializer=ExportLogsServiceRequest.FromString,
                response_serializer=ExportLogsServiceResponse.SerializeToString,
            )
        method = self._methods.get(details.method)
        if method is None:
            return None
        return grpc.stream_stream_rpc_method_handler(
            method,
            request_deserializer=DiscoveryRequest.FromString,
            response_serializer=DiscoveryResponse.SerializeToString,
        )
