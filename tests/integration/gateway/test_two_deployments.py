"""What holds for one deployment holds for two at once, through the same listeners: overflow, order, streams, flips,
counters."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import aiohttp
import pytest

from spillway.gateway.desired import Desired
from tests.integration.gateway.fakes import Fake
from tests.integration.gateway.rig import MESSAGES, PROVIDER_PORT, Rig, deployment, egress, provider, spill

ZAI, DEEP = ("zai", "glm-5.1"), ("deep", "zai-org/GLM-5")
CHAT, SEARCH = "chat/glm-5", "search/qwen"
HOSTS = {CHAT: "glm-5.chat", SEARCH: "qwen.search"}
STREAM = {"model": "m", "stream": True, **MESSAGES}


class Pair:
    """chat/glm-5 spills to zai, then deep; search/qwen to deep alone. One replica each."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig

    async def start(self, **states: Any) -> Pair:
        self.engines: dict[str, Fake] = {}
        self.addresses: dict[str, str] = {}
        for key in HOSTS:
            self.engines[key], self.addresses[key] = await self.rig.fake(key.partition("/")[0])
        self.zai, self._zai = await self.rig.fake("zai", PROVIDER_PORT)
        self.deep, self._deep = await self.rig.fake("deep", PROVIDER_PORT)
        for key in ("zai", "deep"):
            (self.rig.directory / "keys" / key).write_text(f"sk-{key}")
        await self.publish(**states)
        await self.rig.start_envoy()
        for key in HOSTS:
            await self.rig.healthy(f"local|{key}", 1)
        return self

    async def publish(self, chat: dict[str, Any] | None = None, search: dict[str, Any] | None = None) -> None:
        both = (
            deployment(self.addresses[CHAT], chain=(ZAI, DEEP), affinity=True),
            deployment(self.addresses[SEARCH], name="qwen", namespace="search", chain=(DEEP,)),
        )
        providers = (provider("zai", self._zai), provider("deep", self._deep))
        states = {CHAT: spill(ZAI, DEEP, **(chat or {})), SEARCH: spill(DEEP, **(search or {}))}
        await self.rig.publish(Desired(both, providers, (egress(*ZAI), egress(*DEEP)), states))

    async def ask(self, key: str, body: dict[str, Any] | None = None) -> str | None:
        answer = await self.rig.post(body, host=HOSTS[key])
        assert answer.status == 200, answer.text
        return answer.served_by


async def test_gates_and_caps_are_each_deployments_own(rig: Rig) -> None:
    world = await Pair(rig).start(chat={"gate": 2}, search={"gate": 4})
    for engine in world.engines.values():
        engine.hold.clear()
    asked = [asyncio.create_task(world.ask(key)) for _ in range(10) for key in HOSTS]
    await world.zai.until(lambda: len(world.zai.seen) == 8)
    await world.deep.until(lambda: len(world.deep.seen) == 6)
    assert [engine.open_requests for engine in world.engines.values()] == [2, 4]
    for engine in world.engines.values():
        engine.hold.set()
    assert Counter(await asyncio.gather(*asked)) == {"local": 6, "zai": 8, "deep": 6}
    reading = await rig.reading()
    assert reading.arrivals == {CHAT: 10, SEARCH: 10}
    counted = {(f"{s.namespace}/{s.deployment}", s.provider): (s.requests, s.prompt_tokens) for s in reading.samples}
    assert counted == {(CHAT, "zai"): (8, 88), (SEARCH, "deep"): (6, 66)}


async def test_one_that_may_not_spill_and_one_that_may(rig: Rig) -> None:
    world = await Pair(rig).start(chat={"gate": 0}, search={"gate": 0, "allowed": False})
    assert await world.ask(CHAT) == "zai"
    assert (await rig.post(host=HOSTS[SEARCH])).status == 429
    world.zai.status = 429
    assert await world.ask(CHAT) == "deep"
    assert {seen.headers["Authorization"] for seen in world.deep.seen} == {"Bearer sk-deep"}
    await world.publish(chat={"gate": 0, "permitted": {ZAI: True}}, search={"gate": 0})
    before = len(world.deep.seen)
    assert (await rig.post(host=HOSTS[CHAT])).status == 429, "the other's permission is not its own"
    assert len(world.deep.seen) == before
    assert await world.ask(SEARCH) == "deep"
    # The egress listener of a pair serves nobody whose chain does not name it, whatever its client says.
    await world.publish(chat={"gate": 0}, search={"gate": 0, "cap": 0})
    world.zai.status = 200
    forged = {"x-spillway-deployment": CHAT, "x-spillway-route": "a", "x-spillway-addressed": "model"}
    before = len(world.zai.seen)
    assert (await rig.post(host=HOSTS[SEARCH], headers=forged)).status == 429
    assert len(world.zai.seen) == before


async def test_a_stream_that_breaks_is_cut_and_asked_for_once(rig: Rig) -> None:
    world = await Pair(rig).start(search={"gate": 0})
    for key, fake in ((CHAT, world.engines[CHAT]), (SEARCH, world.deep)):
        fake.pieces, fake.breaks = [b'data: {"choices":[]}\n\n'] * 3, True
        with pytest.raises(aiohttp.ClientPayloadError):
            await rig.post(STREAM, host=HOSTS[key])
        assert len(fake.seen) == 1
    assert not world.zai.seen


async def test_flips_break_no_stream_of_either(rig: Rig) -> None:
    """Weight, permission and gate change while streams are open and requests come in."""
    world = await Pair(rig).start()
    fakes = (*world.engines.values(), world.zai, world.deep)
    for fake in fakes:
        fake.hold.clear()
    streams = [asyncio.create_task(world.ask(key, STREAM)) for key in HOSTS for _ in range(4)]
    await world.engines[SEARCH].until(lambda: world.engines[SEARCH].open_requests == 4)
    await world.engines[CHAT].until(lambda: world.engines[CHAT].open_requests == 4)
    await world.publish(chat={"gate": 0}, search={"gate": 0})
    streams += [asyncio.create_task(world.ask(key, STREAM)) for key in HOSTS for _ in range(4)]
    await world.zai.until(lambda: world.zai.open_requests == 4)
    await world.deep.until(lambda: world.deep.open_requests == 4)
    for number in range(12):
        share = {"share_percent": 100 * (number % 2), "gate": 5 * (number % 3), "allowed": number % 4 != 3}
        await world.publish(chat=share, search={"gate": number % 2, "allowed": number % 3 != 2})
    assert not any(task.done() for task in streams)
    for fake in fakes:
        fake.hold.set()
    assert Counter(await asyncio.gather(*streams)) == {"local": 8, "zai": 4, "deep": 4}


async def test_the_metrics_page_tells_them_apart(rig: Rig) -> None:
    world = await Pair(rig).start(chat={"gate": 0}, search={})
    await asyncio.gather(*(world.ask(key) for key in HOSTS for _ in range(3)))
    async with rig.session.get(f"{rig.metrics}/metrics") as page:
        text = await page.text()
    for line in (
        'envoy_cluster_upstream_rq_total{envoy_cluster_name="local|search/qwen"} 3',
        'envoy_cluster_upstream_rq_total{envoy_cluster_name="ext|zai|glm-5.1|chat/glm-5"} 3',
        'envoy_cluster_upstream_rq_active_overflow{envoy_cluster_name="local|chat/glm-5"} 3',
    ):
        assert line in text, line
    answers = [line for line in text.splitlines() if line.startswith("envoy_spillway_answers{")]
    assert len(answers) == 2 and all(line.endswith(" 3") for line in answers)
    assert any(f'deployment="{CHAT}"' in line and 'served_by="zai"' in line for line in answers)
    models = await (await rig.session.get(f"{rig.url}/v1/models", headers={"host": "x"})).json()
    assert [json.dumps(model["id"]) for model in models["data"]] == [f'"{CHAT}"', f'"{SEARCH}"']
