"""Requests that spec.routes sends away: which ones, where to, and that they never come to the replicas instead."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

from spillway.gateway.desired import Deployment, Desired, Refusal, Route
from tests.integration.gateway.fakes import Fake
from tests.integration.gateway.rig import MESSAGES, PROVIDER_PORT, Answer, Rig, deployment, egress, provider, spill

ZAI, CLAUDE = ("zai", "glm-5.1"), ("claude", "opus")
ID = "chat/glm-5"
SHUT = Refusal(429, "budget_exhausted", "This request is routed to claude/opus, and budget 'day' is spent.", 90)
BY_HEADER = Route("premium", CLAUDE, SHUT, header=("X-Task-Tier", "premium"))
BY_MODEL = Route("by-model", CLAUDE, SHUT, model="best")
PREMIUM = {"x-task-tier": "premium"}


class World:
    """One deployment with a replica, a provider for overflow and one for routes."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig

    async def start(self, *routes: Route) -> World:
        self.engine, self.address = await self.rig.fake("engine")
        self.zai, self._zai = await self.rig.fake("zai", PROVIDER_PORT)
        self.claude, self._claude = await self.rig.fake("claude", PROVIDER_PORT)
        for key in ("zai", "claude"):
            (self.rig.directory / "keys" / key).write_text(f"sk-{key}")
        await self.publish(*routes)
        await self.rig.start_envoy()
        await self.rig.healthy(f"local|{ID}", 1)
        return self

    async def publish(self, *routes: Route, chain: tuple[tuple[str, str], ...] = (), **state: Any) -> None:
        glm: Deployment = deployment(self.address, chain=chain, routes=routes)
        providers = (provider("zai", self._zai), provider("claude", self._claude))
        state = {"routed": frozenset({CLAUDE}), "caps": {CLAUDE: 10, ZAI: 10}, **state}
        caps = state.pop("caps")
        spilling = spill(*chain, **state)
        spilling = type(spilling)(**{**vars(spilling), "caps": caps})
        await self.rig.publish(Desired((glm,), providers, (egress(*ZAI), egress(*CLAUDE)), {ID: spilling}))

    def seen(self) -> tuple[int, int, int]:
        fakes: tuple[Fake, ...] = (self.engine, self.zai, self.claude)
        return tuple(len(fake.seen) for fake in fakes)  # type: ignore[return-value]


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, json.loads(answer.text)["error"]["code"]


async def test_by_header_and_by_model(rig: Rig) -> None:
    world = await World(rig).start(BY_HEADER, BY_MODEL)
    routed = await rig.post(headers=PREMIUM)
    assert (routed.status, routed.served_by, routed.headers["x-spillway-reason"]) == (200, "claude", "route")
    assert world.claude.seen[-1].body["model"] == "opus"
    assert "x-spillway-route" not in world.claude.seen[-1].headers
    assert (await rig.post(headers={"x-task-tier": "premium2"})).served_by == "local"

    assert (await rig.post({"messages": [], "model": "best"})).served_by == "claude"
    nested = {"metadata": {"model": "best"}, "model": "glm-5", **MESSAGES}
    for forged in ({}, {"x-spillway-model": "best"}, {"x-spillway-route": "premium"}):
        assert (await rig.post(nested, headers=forged)).served_by == "local"
    unnamed = await rig.post({"messages": []}, headers={"x-spillway-model": "best"})
    assert unnamed.served_by == "local", "only the body says which model is meant"
    assert not {"x-spillway-model", "x-spillway-route"} & {name.lower() for name in world.engine.seen[-1].headers}
    listed = await (await rig.session.get(f"{rig.url}/v1/models", headers={"host": "glm-5.chat"})).json()
    assert [model["id"] for model in listed["data"]] == ["glm-5", "best"]

    samples = {(s.provider, s.model, s.outcome): s.requests for s in (await rig.reading()).samples}
    assert samples == {("claude", "opus", "metered"): 2}


async def test_percentages_share_what_other_routes_leave(rig: Rig) -> None:
    some = (Route("a", CLAUDE, SHUT, percent=30), Route("b", ZAI, SHUT, percent=30), BY_HEADER)
    world = await World(rig).start(*some)
    await world.publish(*some, routed=frozenset({CLAUDE, ZAI}), caps={CLAUDE: 500, ZAI: 500}, gate=500)
    answers = await asyncio.gather(*(rig.post() for _ in range(300)))
    served = Counter(answer.served_by for answer in answers)
    assert set(served) == {"local", "claude", "zai"}
    for name, mean in (("claude", 90), ("zai", 90), ("local", 120)):
        assert abs(served[name] - mean) < 50, served  # six standard deviations
    whole = Route("all", ZAI, SHUT, percent=100)
    await world.publish(whole, BY_HEADER, routed=frozenset({CLAUDE, ZAI}))
    assert {(await rig.post()).served_by for _ in range(20)} == {"zai"}
    assert (await rig.post(headers=PREMIUM)).served_by == "claude"
    assert (await rig.reading()).arrivals[ID] == served["local"], "what routes take is not asked of replicas"


async def test_a_shut_route_refuses_and_never_falls_back(rig: Rig) -> None:
    world = await World(rig).start(BY_HEADER)

    async def refused(*routes: Route, **state: Any) -> tuple[int, str]:
        await world.publish(*(routes or (BY_HEADER,)), **state)
        before = world.seen()
        answer = await rig.post(headers=PREMIUM)
        assert world.seen()[:2] == before[:2], "neither a replica nor another provider"
        assert answer.headers["x-spillway-served-by"] == "none"
        assert int(answer.headers["retry-after"]) > 0
        return code(answer)

    assert await refused(routed=frozenset()) == (429, "budget_exhausted")
    # That spill may go to the same pair opens no door for the route, and the other way about.
    assert await refused(chain=(CLAUDE, ZAI), routed=frozenset()) == (429, "budget_exhausted")
    assert await refused(caps={CLAUDE: 0}) == (429, "budget_exhausted")
    assert await refused(lease_seconds=5) == (429, "budget_exhausted")
    nowhere = Route("premium", None, Refusal(503, "route_unavailable", "not allowed", 60), BY_HEADER.header)
    assert await refused(nowhere, chain=(ZAI,)) == (503, "route_unavailable")
    assert not world.claude.seen
    world.claude.status = 429
    assert await refused(chain=(ZAI,)) == (502, "provider_error")
    assert (await rig.post()).served_by == "local"
    await world.publish(BY_HEADER, chain=(CLAUDE,), allowed=False, gate=0)
    world.claude.status = 200
    assert (await rig.post(headers=PREMIUM)).served_by == "claude"
    assert code(await rig.post()) == (429, "capacity_exceeded")


async def test_routes_and_spill_share_one_cap(rig: Rig) -> None:
    world = await World(rig).start(BY_HEADER)
    await world.publish(BY_HEADER, chain=(CLAUDE,), gate=0, caps={CLAUDE: 3})
    world.claude.hold.clear()
    held = [asyncio.create_task(rig.post(headers=PREMIUM if n % 2 else {})) for n in range(3)]
    await world.claude.until(lambda: len(world.claude.seen) == 3)
    assert code(await rig.post(headers=PREMIUM))[0] == 429
    assert code(await rig.post())[0] == 429
    world.claude.hold.set()
    assert {answer.status for answer in await asyncio.gather(*held)} == {200}
