"""Accounts of a day: those of changes, within a bound, found by time; and what the leader answers over HTTP."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from spillway.controller.chronicle import Chronicle
from spillway.controller.health import Explain, HealthServer
from spillway.controller.metrics import Metrics
from spillway.decide import plan
from tests.unit.decide.world import World

KEY = "chat/glm-5"


def day(chronicle: Chronicle, hours: float, world: World) -> World:
    for _ in range(round(hours * 360)):
        snapshot, before = world.snapshot(), world.memory
        planned, world.memory = plan(snapshot, before)
        chronicle.take(snapshot, before, planned)
        world.follow(planned)
        world.now += world.tick
    return world


def test_the_account_of_now_and_that_of_before() -> None:
    chronicle = Chronicle()
    world = day(chronicle, 2, World(now=0.0, work=lambda t: 0.5 + 3.0 * (t > 3600)))
    chronicle.misfits({KEY: [{"pool": "old", "precision": "FP8", "reason": "too small"}]})
    now = chronicle.answer(KEY)
    assert now is not None
    assert now["account"]["time"] == world.now - world.tick
    assert now["misfits"][0]["pool"] == "old"
    early, late = chronicle.answer(KEY, 3000.0), chronicle.answer(KEY, 7000.0)
    assert early is not None
    assert late is not None
    assert early["account"]["time"] <= 3000.0 < late["account"]["time"] <= 7000.0
    assert early["account"]["usd_per_hour"] < late["account"]["usd_per_hour"]
    before = chronicle.answer(KEY, -5.0)
    assert before == {"account": None, "misfits": [], "since": 0.0}
    assert chronicle.answer("chat/other") is None


def test_it_keeps_changes_and_one_an_hour_and_a_day_of_them() -> None:
    chronicle = Chronicle()
    day(chronicle, 27, World(now=0.0))
    times = [kept.time for kept in chronicle._kept]
    assert 24 <= len(times) <= 40
    assert times[0] >= 26.9 * 3600 - 86_400 - 3600


def test_it_is_bounded() -> None:
    chronicle = Chronicle(most_bytes=5000)
    day(chronicle, 26, World(now=0.0))
    assert 0 < sum(len(kept.packed) for kept in chronicle._kept) <= 5000
    answer = chronicle.answer(KEY, 100.0)
    assert answer is not None
    assert answer["account"] is None
    assert answer["since"] > 100.0


def test_a_deployment_that_is_gone_is_still_told_of_for_its_time() -> None:
    chronicle = Chronicle()
    world = day(chronicle, 0.1, World(now=1000.0))
    snapshot = replace(world.snapshot(), deployments=())
    chronicle.take(snapshot, world.memory, plan(snapshot, world.memory)[0])
    assert chronicle.answer(KEY) is None
    then = chronicle.answer(KEY, 1100.0)
    assert then is not None
    assert then["account"]["key"] == KEY


@pytest.mark.parametrize(
    ("path", "leads", "status", "words"),
    [
        ("/explain/chat/glm-5", True, 200, '"demand"'),
        ("/explain/chat/glm-5?at=1.5", True, 200, '"since"'),
        ("/explain/chat/glm-5?at=noon", True, 400, "give Unix seconds"),
        ("/explain/chat/none", True, 404, "no decision is made for chat/none"),
        ("/explain/chat/glm-5", False, 503, "does not lead"),
    ],
)
async def test_the_leader_answers(path: str, leads: bool, status: int, words: str) -> None:
    chronicle = Chronicle()
    day(chronicle, 0.1, World(now=1000.0))
    answer: Explain | None = chronicle.answer if leads else None
    server = HealthServer("127.0.0.1", 0, Metrics(), str, str, lambda: answer)
    await server.start()
    try:
        runner: Any = server._runner
        host, port = runner.addresses[0][:2]
        async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}{path}") as response:
            assert response.status == status
            assert words in await response.text()
    finally:
        await server.stop()
