"""Who may be a gateway and who may be the operator: TLS on both sides, with the real Envoy and with strangers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import grpc
import pytest
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse

from spillway.gateway import ads, authority
from spillway.gateway.authority import CERTIFICATE_LIFE, SETTLE, Identity
from spillway.gateway.bootstrap import node_metadata
from spillway.gateway.desired import Desired, GatewayNode
from spillway.gateway.messages import parse
from spillway.gateway.names import GATEWAY_NAME, OPERATOR_NAME
from spillway.gateway.resources import CLUSTER
from tests.integration.gateway.fakes import Fake
from tests.integration.gateway.rig import MESSAGES, START, Rig, deployment, eventually

_METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"


async def ask(rig: Rig, credentials: Any) -> DiscoveryResponse:
    """The first answer of the operator to somebody who asks as a gateway would."""
    options = [("grpc.ssl_target_name_override", OPERATOR_NAME), ("grpc.enable_retries", 0)]
    address = f"{rig.subnet}.1:18000"
    channel = (
        grpc.aio.secure_channel(address, credentials, options) if credentials else grpc.aio.insecure_channel(address)
    )
    node = GatewayNode("gateway-9", "gateway-9-x", "127.0.0.9", "127.0.0.9", 8080, 9902, "/keys", "/ca")
    request = parse(DiscoveryRequest, {"node": {"id": node.name, "metadata": node_metadata(node)}, "type_url": CLUSTER})
    async with channel:
        call = channel.stream_stream(
            _METHOD,
            request_serializer=DiscoveryRequest.SerializeToString,
            response_deserializer=DiscoveryResponse.FromString,
        )(timeout=15)
        await call.write(request)
        answer: DiscoveryResponse = await call.read()
        if answer is grpc.aio.EOF:
            raise AssertionError(f"ended with {await call.code()}: {await call.details()}")
        return answer


def shown(identity: Identity, roots: bytes | None = None) -> Any:
    return grpc.ssl_channel_credentials(roots or identity.roots, identity.key, identity.certificate)


async def test_a_gateway_is_answered_and_strangers_are_not(rig: Rig) -> None:
    rig.ads.publish(Desired())
    now, roots = datetime.now(UTC), rig.identity.roots
    own = authority.issue(rig.authorities, GATEWAY_NAME, now)
    assert (await ask(rig, shown(own))).type_url == CLUSTER

    others = authority.renewed((), now)
    ended = authority.issue(rig.authorities, GATEWAY_NAME, now - CERTIFICATE_LIFE - timedelta(minutes=1))
    strangers = {
        "plain text": (None, grpc.StatusCode.UNAVAILABLE),
        "no certificate": (grpc.ssl_channel_credentials(roots), grpc.StatusCode.UNAVAILABLE),
        "of another authority": (
            shown(authority.issue(others, GATEWAY_NAME, now), roots),
            grpc.StatusCode.UNAVAILABLE,
        ),
        "expired": (shown(ended), grpc.StatusCode.UNAVAILABLE),
    }
    for who, (credentials, code) in strangers.items():
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask(rig, credentials)
        assert refused.value.code() == code, who
    assert rig.ads.nodes() == ()


async def test_the_operators_certificate_is_not_a_gateways(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both that it is no client's certificate, and that it has another name, are enough to be refused."""
    rig.ads.publish(Desired())
    now = datetime.now(UTC)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ask(rig, shown(authority.issue(rig.authorities, OPERATOR_NAME, now)))
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    monkeypatch.setitem(authority._USAGES, OPERATOR_NAME, authority._USAGES[GATEWAY_NAME])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ask(rig, shown(authority.issue(rig.authorities, OPERATOR_NAME, now)))
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert rig.ads.nodes() == ()


@pytest.mark.parametrize("fault", ["a gateway's certificate", "another name", "another authority", "expired"])
async def test_envoy_does_not_take_another_for_the_operator(
    rig: Rig, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await serving(rig)
    now = datetime.now(UTC)
    if fault == "a gateway's certificate":
        wrong = authority.issue(rig.authorities, GATEWAY_NAME, now)
    elif fault == "another name":  # that of a gateway, although the usage is a server's
        with monkeypatch.context() as patched:
            patched.setitem(authority._USAGES, GATEWAY_NAME, authority._USAGES[OPERATOR_NAME])
            wrong = authority.issue(rig.authorities, GATEWAY_NAME, now)
    elif fault == "expired":
        wrong = authority.issue(rig.authorities, OPERATOR_NAME, now - CERTIFICATE_LIFE - timedelta(minutes=1))
    else:
        wrong = replace(authority.issue(authority.renewed((), now), OPERATOR_NAME, now), roots=rig.identity.roots)
    right, refusals = rig.identity, await refused_connections(rig)
    rig.identity = wrong
    await reconnect(rig)

    async def tried() -> bool:
        return await refused_connections(rig) > refusals

    await eventually(tried, "the gateway refuses the connection")
    assert rig.ads.nodes() == ()
    assert (await rig.post()).status == 200  # it keeps its last configuration
    rig.identity = right
    await eventually(connected(rig), "the gateway is back")


async def test_both_sides_are_renewed_without_a_break(rig: Rig) -> None:
    engine = await serving(rig)
    now = datetime.now(UTC)
    engine.hold.clear()
    async with rig.session.post(
        f"{rig.url}/v1/chat/completions",
        json={"model": "glm-5", "stream": True, **MESSAGES},
        headers={"host": "glm-5.chat"},
    ) as stream:
        assert stream.status == 200
        node = rig.ads.nodes()
        # A successor is trusted by both first, then it signs, then the first authority is no more.
        both = (*authority.renewed((), now - SETTLE), *rig.authorities)
        rig.identity = replace(rig.identity, roots=authority.roots(both))
        rig.mount(replace(authority.issue(rig.authorities, GATEWAY_NAME, now), roots=authority.roots(both)))
        assert rig.ads.nodes() == node  # the open connection goes on
        await reconnect(rig)
        await eventually(connected(rig), "the gateway is back with the old authority's certificate")

        assert authority.issuer(both, now) is both[0]
        rig.identity = authority.issue(both, OPERATOR_NAME, now)
        await reconnect(rig)
        await eventually(connected(rig), "the gateway believes the new authority before it has its certificate")

        rig.identity = authority.issue(both[:1], OPERATOR_NAME, now)
        await rig.ads.stop()
        rig.mount(authority.issue(both[:1], GATEWAY_NAME, now))
        await rig.start_ads()
        rig.ads.publish(rig.published)
        await eventually(connected(rig), "the gateway shows the new authority's certificate")
        engine.hold.set()
        rest = await stream.text()
    assert "[DONE]" in rest


PLAIN = """
from spillway.gateway import bootstrap
with_tls = bootstrap._ads_cluster
bootstrap._ads_cluster = lambda *given: {k: v for k, v in with_tls(*given).items() if k != "transport_socket"}
"""


async def test_a_gateway_from_before_mtls_serves_on_while_it_cannot_connect(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade: the new leader speaks mTLS only, the old gateway plain text; and an operator that goes back."""
    engine, address = await rig.fake("engine")
    desired = Desired((deployment(address),))
    await rig.ads.stop()
    with monkeypatch.context() as before:
        before.setattr(ads, "server_credentials", lambda identity: grpc.insecure_server_credentials())
        before.setattr(ads, "admit", _anybody)
        await rig.start_ads()
        await rig.publish(desired)
        await rig.start_envoy(start=f"{PLAIN}\n{START}")
        await rig.healthy("local|chat/glm-5", 1)
        await rig.ads.wait_synced(20)

    engine.hold.clear()
    async with rig.session.post(
        f"{rig.url}/v1/chat/completions",
        json={"model": "glm-5", "stream": True, **MESSAGES},
        headers={"host": "glm-5.chat"},
    ) as stream:
        await reconnect(rig)
        await eventually(lambda: disconnected(rig), "the gateway is without a leader")
        assert rig.ads.nodes() == ()
        engine.hold.set()
        assert "[DONE]" in await stream.text()
    assert (await rig.post()).status == 200
    await rig.ads.stop()
    monkeypatch.setattr(ads, "server_credentials", lambda identity: grpc.insecure_server_credentials())
    monkeypatch.setattr(ads, "admit", _anybody)
    await rig.start_ads()
    rig.ads.publish(desired)
    await eventually(connected(rig), "the gateway is back with an operator of before")


async def _anybody(context: Any) -> None:
    """The operator of before mTLS."""


async def disconnected(rig: Rig) -> bool:
    async with rig.session.get(f"{rig.metrics}/metrics") as page:
        return "envoy_control_plane_connected_state{} 0" in await page.text()


async def serving(rig: Rig) -> Fake:
    engine, address = await rig.fake("engine")
    await rig.publish(Desired((deployment(address),)))
    await rig.start_envoy()
    await rig.healthy("local|chat/glm-5", 1)
    await rig.ads.wait_synced(20)
    return engine


async def reconnect(rig: Rig) -> None:
    """The operator's process ends and another one starts at its address."""
    await rig.ads.stop()
    await rig.start_ads()
    rig.ads.publish(rig.published)


def connected(rig: Rig) -> Callable[[], Awaitable[bool]]:
    async def there() -> bool:
        return len(rig.ads.nodes()) == 1

    return there


async def refused_connections(rig: Rig) -> int:
    """TLS handshakes that Envoy gave up with the operator."""
    connector = aiohttp.UnixConnector(path=str(rig.admin_socket))
    async with aiohttp.ClientSession(connector=connector) as admin, admin.get("http://admin/clusters") as answer:
        text = await answer.text()
    [line] = [line for line in text.splitlines() if line.startswith("ads::") and "::cx_connect_fail::" in line]
    return int(line.rpartition("::")[2])
