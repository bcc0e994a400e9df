"""A thousand changes of weight, permission and lease under streams: none broken, none refused, each one counted."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from spillway.gateway.desired import Desired, SpillState
from tests.integration.gateway.fakes import Fake
from tests.integration.gateway.rig import (
    ENGINE_PORT,
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
FLIPS = 1000
HELD = 10  # streams at each of the three that are open from before the first flip until after the last
CLIENTS = 8  # others; the n-th lasts n flips, and then opens the next
SEED = 5


@dataclass
class Flips:
    """How many there were, and whether they are over; streams wait for them."""

    done: int = 0
    over: bool = False
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def note(self, *, over: bool = False) -> None:
        async with self.changed:
            self.done, self.over = self.done + 1, over
            self.changed.notify_all()

    async def until(self, count: int | None) -> None:
        """Until there were so many; None: until all are over."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.over or (count is not None and self.done >= count))


@dataclass
class Streamer(Fake):
    """Streams a chunk for each flip: as many as the request's `user` says, or until the last one."""

    flips: Flips = field(default_factory=Flips)

    async def _speak(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        await _chunk(response, choices=[{"index": 0, "delta": {"role": "assistant", "content": self.name}}])
        lasts, began = body["user"], self.flips.done
        for number in range(1, 1 + (1 if lasts == "held" else int(lasts))):
            await self.flips.until(None if lasts == "held" else began + number)
            await _chunk(response, choices=[{"index": 0, "delta": {"content": "."}}])
        await _chunk(response, choices=[], usage=self.usage)
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response


async def _chunk(response: web.StreamResponse, **event: Any) -> None:
    await response.write(f"data: {json.dumps({'id': '1', 'object': 'chat.completion.chunk', **event})}\n\n".encode())


def flipped(draw: random.Random) -> SpillState:
    """Weight, both permissions, spill as a whole and its lease, each drawn anew. The gate takes everything."""
    return spill(
        ZAI,
        DEEP,
        gate=1000,
        share_percent=draw.choice((0, 1, 50, 100)),
        allowed=draw.random() < 0.8,
        permitted={ZAI: draw.random() < 0.6, DEEP: draw.random() < 0.6},
        lease_seconds=draw.choice((15.0, 60.0, 300.0, 3600.0)),
    )


async def test_a_thousand_flips_break_no_stream(rig: Rig) -> None:
    flips = Flips()
    fakes = {name: Streamer(name, flips=flips) for name in ("local", "zai", "deep")}
    addresses = {name: f"{rig.subnet}.{next(rig.addresses)}" for name in fakes}
    for name, fake in fakes.items():
        await fake.start(addresses[name], ENGINE_PORT if name == "local" else PROVIDER_PORT)
        rig.fakes.append(fake)
        (rig.directory / "keys" / name).write_text(f"sk-{name}")
    glm = deployment(addresses["local"], chain=(ZAI, DEEP))
    providers = provider("zai", addresses["zai"]), provider("deep", addresses["deep"])

    async def turn(state: SpillState) -> None:
        await rig.publish(Desired((glm,), providers, (egress(*ZAI), egress(*DEEP)), {ID: state}))

    async def stream(lasts: str) -> Answer:
        return await rig.post({"model": "glm-5", "stream": True, "user": lasts, **MESSAGES})

    async def client(number: int) -> list[Answer]:
        answers = []
        while not flips.over:
            answers.append(await stream(str(number)))
        return answers

    await turn(spill(ZAI, DEEP, gate=1000))
    await rig.start_envoy()
    await rig.healthy(f"local|{ID}", 1)
    held: list[asyncio.Task[Answer]] = []
    for name, state in {
        "local": spill(ZAI, DEEP, gate=1000),
        "zai": spill(ZAI, DEEP, gate=1000, share_percent=100),
        "deep": spill(ZAI, DEEP, gate=1000, share_percent=100, permitted={ZAI: False, DEEP: True}),
    }.items():
        await turn(state)
        held += [asyncio.create_task(stream("held")) for _ in range(HELD)]
        await fakes[name].until(lambda name=name: fakes[name].open_requests == HELD)  # type: ignore[misc]

    clients = [asyncio.create_task(client(1 + number)) for number in range(CLIENTS)]
    draw = random.Random(SEED)
    for _ in range(FLIPS):
        await turn(flipped(draw))
        await flips.note()
    await flips.note(over=True)
    short = [answer for answers in await asyncio.gather(*clients) for answer in answers]
    long = await asyncio.gather(*held)

    print(f"\n{FLIPS} flips, {len(short)} streams of up to {CLIENTS} flips, {len(long)} that lasted through all")
    assert Counter(answer.served_by for answer in long) == dict.fromkeys(fakes, HELD)
    assert {answer.served_by for answer in short} == set(fakes), "each flip changed where streams go"
    assert {answer.status for answer in (*long, *short)} == {200}
    assert all(answer.text.endswith("data: [DONE]\n\n") for answer in (*long, *short))
    assert len(short) > FLIPS / 10, "streams must begin between flips"
    assert [fake.aborted for fake in fakes.values()] == [0, 0, 0]

    async def all_counted() -> bool:
        counted: Counter[tuple[str, str]] = Counter()
        for sample in (await rig.reading()).samples:
            counted[sample.provider, sample.outcome] += sample.requests
        return counted == {(name, "metered"): len(fakes[name].seen) for name in ("zai", "deep")}

    await eventually(all_counted, "the counters hold each stream that a provider served, once")
