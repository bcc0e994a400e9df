"""What happens to a running gateway: leases, refused configuration, draining, replicas that come and go."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import aiohttp
import pytest

from spillway.gateway import names, runtime
from spillway.gateway.desired import Desired, Endpoint
from spillway.gateway.process import drain
from tests.integration.gateway.rig import (
    MESSAGES,
    PROVIDER_PORT,
    Rig,
    deployment,
    egress,
    eventually,
    provider,
    spill,
)

ZAI = ("zai", "glm-5.1")
ID = "chat/glm-5"
STREAM = {"model": "glm-5", "stream": True, **MESSAGES}


async def spilling(rig: Rig, lease_seconds: float = 15) -> Desired:
    _, address = await rig.fake("zai", PROVIDER_PORT)
    _, engine = await rig.fake("engine")
    (rig.directory / "keys" / "zai").write_text("sk")
    local = deployment(engine, name="local")
    desired = Desired(
        (deployment(chain=(ZAI,)), local),
        (provider("zai", address),),
        (egress(*ZAI),),
        {ID: spill(ZAI, lease_seconds=lease_seconds), local.id: spill(gate=5)},
    )
    await rig.publish(desired)
    await rig.start_envoy()
    await rig.healthy(f"local|{local.id}", 1)
    return desired


async def test_lease_runs_out_when_the_operator_dies(rig: Rig) -> None:
    desired = await spilling(rig)
    assert (await rig.post()).served_by == "zai"
    await rig.ads.stop()

    async def refused() -> bool:
        assert (await rig.post(host="local.chat")).served_by == "local"
        return (await rig.post()).status == 503

    assert not await refused()
    await eventually(refused, "spill ends with its lease")
    await rig.start_ads()

    async def connected() -> bool:
        async with rig.session.get(f"{rig.metrics}/metrics") as page:
            return "envoy_control_plane_connected_state{} 1" in await page.text()

    await eventually(connected, "the gateway has found the next leader")
    assert await refused()  # which has not decided yet, and takes nothing away
    rig.ads.publish(desired)

    async def spilled() -> bool:
        return (await rig.post()).served_by == "zai"

    await eventually(spilled, "the next leader allows spill again")


async def test_a_longer_lease_outlives_a_shorter_one(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real lengths would take their time: here the shortest layer lasts a second, and the next one long enough."""
    monkeypatch.setattr(runtime, "LEASES", {"spill-15s": 1, "spill-1m": 600, "spill-5m": 1200, "spill-1h": 3600})
    _, address = await rig.fake("zai", PROVIDER_PORT)
    (rig.directory / "keys" / "zai").write_text("sk")
    rich, poor = deployment(chain=(ZAI,), name="rich"), deployment(chain=(ZAI,), name="poor")
    states = {rich.id: spill(ZAI, lease_seconds=600), poor.id: spill(ZAI, lease_seconds=1)}
    await rig.publish(Desired((rich, poor), (provider("zai", address),), (egress(*ZAI),), states))
    await rig.start_envoy()
    [process] = {node.process for node in rig.ads.nodes()}
    held = {
        names.external_cluster(ZAI, each.id): runtime.Leased(100, 600 if each is rich else 1) for each in (rich, poor)
    }
    assert rig.ads.leases() == {process: held}

    async def spills(name: str) -> bool:
        return (await rig.post(host=f"{name}.chat")).served_by == "zai"

    async def renewed() -> bool:
        await rig.ads.renew()
        return await spills("poor")

    await eventually(renewed, "both spill")
    await rig.ads.stop()

    async def refused() -> bool:
        return not await spills("poor")

    await eventually(refused, "the shorter lease has run out")
    assert await spills("rich")


async def test_what_a_gateway_has_been_lent_is_known_until_it_has_given_it_up(rig: Rig) -> None:
    """From an hour to the shortest lease, and over a change of leaders, who does not know until the gateway tells."""
    desired = await spilling(rig, lease_seconds=3600)
    cluster = names.external_cluster(ZAI, ID)

    async def known(cap: int, seconds: int) -> bool:
        return [*rig.ads.leases().values()] == [{cluster: runtime.Leased(cap, seconds)}]

    await rig.ads.wait_synced(10)
    assert await known(100, 3600)
    [process] = rig.ads.leases()
    rig.leader = False  # its word does not reach the gateway
    shorter = replace(desired, spill={**desired.spill, ID: spill(ZAI, cap=3, lease_seconds=15)})
    rig.ads.publish(shorter, {process: {}, "another": {}})
    await rig.ads.wait_synced(10)
    assert await known(100, 3600), "nothing was acknowledged"
    rig.leader = True
    rig.ads.publish(shorter, {process: {}, "another": {}})
    await eventually(lambda: known(1, 15), "it has given up the hour, and the other one's part of the cap")
    assert (await rig.post()).served_by == "zai"

    await rig.ads.stop()
    await rig.start_ads()
    assert rig.ads.leases() == {}
    rig.ads.publish(desired)
    await eventually(lambda: known(100, 3600), "the next leader knows what it has lent")


async def test_lease_is_not_renewed_by_who_may_not(rig: Rig) -> None:
    await spilling(rig)
    rig.leader = False

    async def refused() -> bool:
        await rig.ads.renew()
        return (await rig.post()).status == 503

    assert not await refused()
    await eventually(refused, "spill ends although renewals were asked for")
    rig.leader = True
    await rig.ads.renew()
    await rig.ads.wait_synced(10)

    async def spilled() -> bool:
        return (await rig.post()).served_by == "zai"

    await eventually(spilled, "a renewal brings it back")


async def test_clean_stop_ends_spill_at_once(rig: Rig) -> None:
    await spilling(rig, lease_seconds=3600)
    assert (await rig.post()).served_by == "zai"
    await rig.ads.stop(spill_off=True)
    assert (await rig.post()).status == 503
    assert (await rig.post(host="local.chat")).served_by == "local"


async def test_one_bad_deployment_harms_no_other(rig: Rig) -> None:
    _, first = await rig.fake("first")
    _, second = await rig.fake("second")
    good, other = deployment(first), deployment(first, name="other")
    bad_path = replace(deployment(second, name="bad-path"), health_path="")
    bad_address = replace(deployment(name="bad-address"), endpoints=(Endpoint("nowhere", 8000),))
    bad_route = deployment(second, name="bad\nroute")
    everything = (bad_path, good, bad_address, other, bad_route)
    limits = {each.id: spill(gate=5) for each in everything}
    await rig.publish(Desired(everything, spill=limits))
    await rig.start_envoy()
    await rig.ads.wait_synced(10)
    await rig.healthy(f"local|{good.id}", 1)
    await rig.healthy(f"local|{other.id}", 1)
    assert (await rig.post()).served_by == (await rig.post(host="other.chat")).served_by == "local"
    reasons = {rejection.deployment: rejection.text for rejection in rig.ads.rejections()}
    assert set(reasons) == {bad_path.id, bad_address.id, bad_route.id}
    assert "nowhere" in reasons[bad_address.id]
    assert (await rig.post(host="bad-address.chat")).status == 503

    # A good one that turns bad stays as it was; the change of the other one arrives.
    worse = replace(good, health_path="", endpoints=(Endpoint("nowhere", 8000),))
    moved = replace(other, endpoints=(Endpoint(second, 8000),))
    await rig.publish(Desired((worse, moved), spill=limits))
    assert {rejection.deployment for rejection in rig.ads.rejections()} == {good.id}

    async def arrived() -> bool:
        return '"second"' in (await rig.post(host="other.chat")).text

    await eventually(arrived, "the other deployment's new replica serves")
    assert '"first"' in (await rig.post()).text

    await rig.publish(Desired((good, moved), spill=limits))
    assert rig.ads.rejections() == ()


async def test_drain_finishes_open_streams_and_waits_for_the_ledger(rig: Rig) -> None:
    engine, address = await rig.fake("engine")
    await rig.publish(Desired((deployment(address),), spill={ID: spill(gate=5)}))
    await rig.start_envoy()
    await rig.healthy(f"local|{ID}", 1)
    engine.hold.clear()
    stream = asyncio.create_task(rig.post(STREAM))
    await engine.until(lambda: engine.open_requests == 1)

    draining = asyncio.create_task(drain(rig.admin_socket, settle_seconds=0))

    await eventually(lambda: _unready(rig), "the gateway says that it is going")
    assert not draining.done()
    engine.hold.set()
    assert (await stream).text.endswith("data: [DONE]\n\n")

    async def drained() -> bool:
        assert (await rig.reading()).arrivals == {ID: 1}
        return draining.done()

    await eventually(drained, "the drain ends once the counters were read")
    await draining


async def test_drain_waits_for_what_comes_on_a_connection_that_was_open(rig: Rig) -> None:
    """A stream that began before the drain could not tell its client to close: the next request comes the same way."""
    engine, address = await rig.fake("engine")
    await rig.publish(Desired((deployment(address),), spill={ID: spill(gate=5)}))
    await rig.start_envoy()
    await rig.healthy(f"local|{ID}", 1)
    headers = {"host": "glm-5.chat"}
    async with aiohttp.ClientSession(f"{rig.url}", connector=aiohttp.TCPConnector(limit=1), headers=headers) as client:

        async def stream() -> str:
            async with client.post("/v1/chat/completions", json=STREAM) as answer:
                return await answer.text()

        engine.hold.clear()
        first = asyncio.create_task(stream())
        await engine.until(lambda: engine.open_requests == 1)
        draining = asyncio.create_task(drain(rig.admin_socket, settle_seconds=0))
        await eventually(lambda: _unready(rig), "the gateway says that it is going")
        engine.hold.set()
        assert (await first).endswith("data: [DONE]\n\n")

        engine.hold.clear()
        second = asyncio.create_task(stream())
        await engine.until(lambda: engine.open_requests == 1)
        for _ in range(10):  # far more than the drain asks for
            await rig.reading()
            await asyncio.wait([draining], timeout=0.2)
        assert not draining.done(), "the drain ended under a stream"
        engine.hold.set()
        assert (await second).endswith("data: [DONE]\n\n")

    async def drained() -> bool:
        assert (await rig.reading()).arrivals == {ID: 2}
        return draining.done()

    await eventually(drained, "the drain ends once the counters were read")


async def _unready(rig: Rig) -> bool:
    async with rig.session.get(f"{rig.metrics}/ready") as answer:
        return answer.status == 503


async def test_arrivals_are_counted_when_a_request_starts(rig: Rig) -> None:
    engine, address = await rig.fake("engine")
    await rig.publish(Desired((deployment(address),), spill={ID: spill(gate=5)}))
    await rig.start_envoy()
    await rig.healthy(f"local|{ID}", 1)
    engine.hold.clear()
    held = asyncio.create_task(rig.post())
    await engine.until(lambda: engine.open_requests == 1)
    reading = await rig.reading()
    assert reading.arrivals == {ID: 1}
    assert reading.in_flight[f"local|{ID}"] == 1
    assert reading.process is not None and reading.process.startswith("gateway-0-")
    engine.hold.set()
    assert (await held).status == 200


async def test_another_replica_takes_over(rig: Rig) -> None:
    one, first = await rig.fake("one")
    two, second = await rig.fake("two")
    await rig.publish(Desired((deployment(first, second),), spill={ID: spill(gate=50)}))
    await rig.start_envoy()
    await rig.healthy(f"local|{ID}", 2)
    one.status = 503
    assert {(await rig.post()).status for _ in range(10)} == {200}
    assert one.seen and len(two.seen) == 10
    one.status = 200
    await one.stop()
    assert {(await rig.post()).status for _ in range(10)} == {200}


async def test_removed_replica_finishes_what_it_has(rig: Rig) -> None:
    one, first = await rig.fake("one")
    two, second = await rig.fake("two")
    await rig.publish(Desired((deployment(first),), spill={ID: spill(gate=50)}))
    await rig.start_envoy()
    await rig.healthy(f"local|{ID}", 1)
    one.hold.clear()
    stream = asyncio.create_task(rig.post(STREAM))
    await one.until(lambda: one.open_requests == 1)
    await rig.publish(Desired((deployment(second),), spill={ID: spill(gate=50)}))
    await eventually(lambda: _served_by_two(rig), "the new replica serves")
    assert {'"two"' in (await rig.post()).text for _ in range(5)} == {True}
    one.hold.set()
    assert (await stream).text.endswith("data: [DONE]\n\n")
    assert len(one.seen) == 1 and two.seen


async def _served_by_two(rig: Rig) -> bool:
    return '"two"' in (await rig.post()).text
