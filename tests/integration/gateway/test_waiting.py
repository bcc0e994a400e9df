"""Requests that wait: for the first replica, and for a provider; and on which occasions they may go out."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from spillway.gateway.desired import Desired
from tests.integration.gateway.fakes import Fake
from tests.integration.gateway.rig import (
    MESSAGES,
    PROVIDER_PORT,
    Answer,
    Rig,
    deployment,
    egress,
    eventually,
    provider,
    spill,
)

ZAI, DEEP = ("zai", "glm-5.1"), ("deep", "zai-org/GLM-5")
ID = "chat/glm-5"
OVERFLOW = f'envoy_cluster_upstream_rq_active_overflow{{envoy_cluster_name="local|{ID}"}}'
STREAM = {"model": "glm-5", "stream": True, **MESSAGES}


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, json.loads(answer.text)["error"]["code"]


async def waiting(rig: Rig, count: int) -> list[asyncio.Task[Answer]]:
    """Requests that have come in and are held."""
    held = [asyncio.create_task(rig.post()) for _ in range(count)]

    async def arrived() -> bool:
        return (await rig.reading()).arrivals.get(ID, 0) >= count

    await eventually(arrived, f"{count} requests have come in")
    return held


async def overflowed(rig: Rig, count: int) -> bool:
    """So many found the gate full."""
    async with rig.session.get(f"{rig.metrics}/metrics") as page:
        [line] = [line for line in (await page.text()).splitlines() if line.startswith(OVERFLOW)] or [f"{OVERFLOW} 0"]
    return int(line.rpartition(" ")[2]) >= count


async def test_held_from_zero_until_a_replica_is_ready(rig: Rig) -> None:
    engine, address = await rig.fake("engine")
    glm = deployment(hold_seconds=60)
    empty = spill(gate=0, allowed=False, hold=True)
    await rig.publish(Desired((glm,), spill={ID: empty}))
    await rig.start_envoy()
    held = await waiting(rig, 8)
    assert not any(task.done() for task in held)
    # The first replica takes two at once; the others wait on, though the operator no longer holds what comes now.
    engine.hold.clear()
    served = deployment(address, hold_seconds=60)
    await rig.publish(Desired((served,), spill={ID: spill(gate=2, allowed=False)}))
    await engine.until(lambda: engine.open_requests == 2)
    await eventually(lambda: overflowed(rig, 6), "the others have found it full")
    assert not any(task.done() for task in held)
    engine.hold.set()
    answers = await asyncio.gather(*held)
    assert {(answer.status, answer.served_by) for answer in answers} == {(200, "local")}
    assert len(engine.seen) == 8
    engine.hold.clear()
    full = [asyncio.create_task(rig.post()) for _ in range(2)]
    await engine.until(lambda: engine.open_requests == 2)
    assert code(await rig.post()) == (429, "capacity_exceeded"), "what finds the replicas full does not wait"
    engine.hold.set()
    await asyncio.gather(*full)


async def test_a_hold_ends_with_no_capacity_and_zero_refuses_at_once(rig: Rig) -> None:
    for hold_seconds, keys in ((1, True), (1, False), (0, True)):
        glm = deployment(hold_seconds=hold_seconds)
        await rig.publish(Desired((glm,), spill={ID: spill(gate=0, allowed=False, hold=keys)}))
        if rig.process is None:
            await rig.start_envoy()
        answer = await rig.post()
        assert code(answer) == (503, "no_capacity")
        assert answer.headers["retry-after"] == "30" and answer.served_by == "none"


async def test_who_goes_away_no_longer_waits(rig: Rig) -> None:
    """Nor does anybody need the operator to have seen that the replicas are gone."""
    engine, address = await rig.fake("engine")
    await rig.publish(Desired((deployment(hold_seconds=600),), spill={ID: spill(gate=9, allowed=False, hold=False)}))
    await rig.start_envoy()
    gone, stays = await waiting(rig, 2)
    gone.cancel()
    await rig.publish(Desired((deployment(address, hold_seconds=600),), spill={ID: spill(gate=9, allowed=False)}))
    assert (await stays).served_by == "local"
    assert (await rig.post()).status == 200
    assert len(engine.seen) == 2


async def test_while_a_provider_is_permitted_nobody_waits(rig: Rig) -> None:
    _, external = await rig.fake("zai", PROVIDER_PORT)
    (rig.directory / "keys" / "zai").write_text("sk")
    glm = deployment(chain=(ZAI,), hold_seconds=600)
    await rig.publish(Desired((glm,), (provider("zai", external),), (egress(*ZAI),), {ID: spill(ZAI)}))
    await rig.start_envoy()
    assert (await rig.post()).served_by == "zai"


@pytest.mark.parametrize(
    ("state", "when_full", "when_empty"),
    [
        ({}, "zai", "zai"),
        ({"when_empty": False}, "zai", "none"),
        ({"when_full": False}, "none", "zai"),
        ({"when_full": False, "when_empty": False}, "none", "none"),
    ],
)
async def test_occasions(rig: Rig, state: dict[str, Any], when_full: str, when_empty: str) -> None:
    _, address = await rig.fake("engine")
    zai, external = await rig.fake("zai", PROVIDER_PORT)
    _, other = await rig.fake("deep", PROVIDER_PORT)
    for key in ("zai", "deep"):
        (rig.directory / "keys" / key).write_text("sk")
    both = (provider("zai", external), provider("deep", other)), (egress(*ZAI), egress(*DEEP))

    async def served(*endpoints: str, **more: Any) -> str | None:
        glm = deployment(*endpoints, chain=(ZAI, DEEP), some_occasions=bool(state))
        await rig.publish(Desired((glm,), *both, {ID: spill(ZAI, DEEP, **state, **more)}))
        return (await rig.post()).served_by

    await rig.publish(Desired())
    await rig.start_envoy()
    assert await served() == when_empty
    await served(address)
    await rig.healthy(f"local|{ID}", 1)
    assert await served(address, gate=1) == "local"
    assert await served(address, gate=0) == when_full
    zai.status = 429  # the next provider is no occasion of its own
    assert await served(address, gate=0) == when_full.replace("zai", "deep")
    assert await served() == when_empty.replace("zai", "deep")


@dataclass
class Slow:
    """Two providers; the first says nothing until it is told to."""

    rig: Rig
    zai: Fake
    deep: Fake
    addresses: tuple[str, str]

    async def limit(self, address: str | None = None, **limits: float) -> None:
        glm, (first, second) = deployment(chain=(ZAI, DEEP)), self.addresses
        providers = (provider("zai", address or first, **limits), provider("deep", second))
        await self.rig.publish(Desired((glm,), providers, (egress(*ZAI), egress(*DEEP)), {ID: spill(ZAI, DEEP)}))


@pytest.fixture
async def slow(rig: Rig) -> Slow:
    zai, first = await rig.fake("zai", PROVIDER_PORT)
    deep, second = await rig.fake("deep", PROVIDER_PORT)
    for key in ("zai", "deep"):
        (rig.directory / "keys" / key).write_text("sk")
    zai.hold.clear()
    found = Slow(rig, zai, deep, (first, second))
    await found.limit()
    await rig.start_envoy()
    return found


async def test_first_byte(slow: Slow) -> None:
    rig, zai = slow.rig, slow.zai
    await slow.limit(first_byte_seconds=0.3)
    assert (await rig.post()).served_by == "deep"
    await zai.until(lambda: zai.aborted == 1)
    zai.late = True
    late = asyncio.create_task(rig.post(STREAM))
    await zai.until(lambda: zai.open_requests == 1)
    assert (await rig.post()).served_by == "deep"  # takes the limit's time: by now `late` is past it
    zai.hold.set()
    answer = await late
    assert (answer.status, answer.served_by) == (200, "zai")
    assert answer.text.endswith("data: [DONE]\n\n"), "headers came in time: a first token may take as long as it likes"
    samples = {(s.provider, s.outcome): s.requests for s in (await rig.reading()).samples}
    assert samples == {("zai", "unanswered"): 2, ("zai", "metered"): 1, ("deep", "metered"): 2}


async def test_idle(slow: Slow) -> None:
    rig, zai, deep = slow.rig, slow.zai, slow.deep
    await slow.limit(idle_seconds=0.3)
    assert (await rig.post()).served_by == "deep", "silence before the headers: the next provider"
    with pytest.raises(aiohttp.ClientPayloadError):
        await rig.post(STREAM)
    await zai.until(lambda: zai.aborted == 2)
    assert len(deep.seen) == 1, "a stream that has begun is cut, not asked for a second time"


async def test_connect(slow: Slow) -> None:
    """A listener whose queue is full leaves a connection unanswered for longer than this test may take."""
    address = f"{slow.rig.subnet}.99"
    with socket.socket() as deaf, socket.socket() as one, socket.socket() as other:
        deaf.bind((address, PROVIDER_PORT))
        deaf.listen(0)
        for filler in (one, other):
            filler.setblocking(False)
            filler.connect_ex((address, PROVIDER_PORT))
        await slow.limit(address, connect_seconds=0.2)
        assert (await slow.rig.post()).served_by == "deep"
    samples = {(s.provider, s.outcome): s.requests for s in (await slow.rig.reading()).samples}
    assert samples == {("zai", "refused"): 1, ("deep", "metered"): 1}
