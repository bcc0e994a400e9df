"""Which replica a conversation goes to."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from spillway.gateway.desired import Desired
from spillway.gateway.lua import LONGEST_OPENING_BYTES, PROMPT_OPENING_BYTES
from tests.integration.gateway.fakes import Fake
from tests.integration.gateway.rig import Rig, deployment, spill

ID = "chat/glm-5"


class Fleet:
    """Four replicas of one deployment."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.engines: dict[str, Fake] = {}

    async def start(self, affinity: bool = True) -> Fleet:
        for name in "abcd":
            fake, address = await self.rig.fake(name)
            self.engines[address] = fake
        await self.publish(*self.engines, affinity=affinity)
        await self.rig.start_envoy()
        await self.rig.healthy(f"local|{ID}", 4)
        return self

    async def publish(self, *addresses: str, affinity: bool = True) -> None:
        glm = deployment(*addresses, affinity=affinity)
        await self.rig.publish(Desired((glm,), spill={ID: spill(gate=1000)}))

    async def replica(self, body: dict[str, Any], path: str = "chat/completions", **kw: Any) -> str:
        """Who answered it."""
        answer = await self.rig.post({"model": "glm-5", **body}, path=f"/v1/{path}", **kw)
        assert answer.status == 200, answer.text
        [name] = [fake.name for fake in self.engines.values() if f'"{fake.name}"' in answer.text]
        return name


def turns(number: int, system: str = "Be brief.", many: int = 4) -> list[dict[str, Any]]:
    """A conversation as it grows."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": f'question {number}: "{{[}}"'}]
    bodies = []
    for turn in range(many):
        bodies.append({"messages": list(messages), "temperature": turn})
        messages += [{"role": "assistant", "content": f"a{turn}"}, {"role": "user", "content": f"more {turn}"}]
    return bodies


async def test_a_growing_conversation_keeps_its_replica(rig: Rig) -> None:
    fleet = await Fleet(rig).start()
    homes = []
    for number in range(24):
        served = [await fleet.replica(body) for body in turns(number)]
        assert len(set(served)) == 1, served
        homes.append(served[0])
    assert len(set(homes)) == 4, "24 conversations, four replicas"
    seen = [seen for fake in fleet.engines.values() for seen in fake.seen]
    assert not any(name.lower() == "x-spillway-prefix" for one in seen for name in one.headers)
    steered = {await fleet.replica(turns(0)[0], headers={"x-spillway-prefix": str(n)}) for n in range(8)}
    assert steered == {homes[0]}, "a client chooses no replica"
    forged = {"x-spillway-prefix": "1"}
    embedded = {await fleet.replica({"input": "a"}, "embeddings", headers=forged) for _ in range(40)}
    assert len(embedded) > 1, "nor where there is no beginning to go by"
    # Most keep their replica when another one goes (each of the others gets more points on the ring), and those that
    # had it go on elsewhere.
    rest = [address for address, fake in fleet.engines.items() if fake.name != homes[0]]
    await fleet.publish(*rest)
    moved = [await fleet.replica(turns(number)[-1]) for number in range(24)]
    assert homes[0] not in moved
    kept = [now == was for now, was in zip(moved, homes, strict=True) if was != homes[0]]
    assert sum(kept) >= 0.7 * len(kept)


@pytest.mark.parametrize(
    ("path", "common", "one", "other"),
    [
        ("responses", {"instructions": "Be brief."}, {"input": "a"}, {"input": "a", "previous_response_id": "r"}),
        ("responses", {}, {"input": turns(1)[0]["messages"]}, {"input": turns(1)[3]["messages"]}),
        ("completions", {}, {"prompt": "x" * PROMPT_OPENING_BYTES}, {"prompt": "x" * PROMPT_OPENING_BYTES + "y" * 99}),
        (
            "chat/completions",
            {},
            {"messages": [{"role": "user", "content": "x" * LONGEST_OPENING_BYTES + "1"}]},
            {"messages": [{"role": "user", "content": "x" * LONGEST_OPENING_BYTES + "2"}]},
        ),
    ],
)
async def test_what_begins_alike_goes_together(
    rig: Rig, path: str, common: dict[str, Any], one: dict[str, Any], other: dict[str, Any]
) -> None:
    fleet = await Fleet(rig).start()
    for number in range(8):
        salted = (
            {**common, "instructions": f"{common.get('instructions', '')}{number}"} if path == "responses" else common
        )
        assert await fleet.replica({**salted, **one}, path) == await fleet.replica({**salted, **other}, path)


async def test_loads_are_bounded(rig: Rig) -> None:
    """All requests begin alike: no replica has more than 1.25 times the mean in flight, rounded up. (One after the
    other: Envoy counts a request once it has a connection.)"""
    fleet = await Fleet(rig).start()
    engines = list(fleet.engines.values())
    for fake in engines:
        fake.hold.clear()
    arrived = asyncio.Condition()
    for fake in engines:
        fake.changed = arrived
    held = []
    for number in range(1, 41):
        held.append(asyncio.create_task(fleet.replica(turns(0)[0])))
        await engines[0].until(lambda: sum(fake.open_requests for fake in engines) == number)  # noqa: B023
        assert max(fake.open_requests for fake in engines) <= math.ceil(math.ceil(1.25 * number) / 4) + 1
    assert sum(fake.open_requests > 0 for fake in engines) >= 3
    for fake in engines:
        fake.hold.set()
    await asyncio.gather(*held)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 500),  # the fake's own answer to what is no JSON
        (b"{", 500),
        (b"\xff" * 99, 500),
        (b'{"messages":[7,"x",{"role":"user"', 500),
        (b"[]", 500),
        (b'{"messages":7}', 200),
        (b'{"messages":[]}', 200),
        (b'{"messages":[7,"x",{"role":"user"}]}', 200),
        (b'{"messages":"x","mess\\u0061ges":[]}', 200),
    ],
)
async def test_what_cannot_be_read_goes_to_an_engine_as_it_is(rig: Rig, body: bytes, status: int) -> None:
    await Fleet(rig).start()
    url, headers = f"{rig.url}/v1/chat/completions", {"host": "glm-5.chat"}
    async with rig.session.post(url, data=body, headers=headers) as answer:
        assert (answer.status, answer.headers["x-spillway-served-by"]) == (status, "local")


async def test_least_request_spreads_one_conversation(rig: Rig) -> None:
    fleet = await Fleet(rig).start(affinity=False)
    assert len({await fleet.replica(turns(0)[0]) for _ in range(40)}) == 4
