"""What providers state as usage, through the real gateway: what can be counted is, and nothing spoils a counter."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import aiohttp
import pytest

from spillway.gateway.desired import Desired
from spillway.gateway.readings import EgressSample
from spillway.ledger.book import Counts
from tests.integration.gateway.fakes import Fake
from tests.integration.gateway.rig import MESSAGES, PROVIDER_PORT, Rig, deployment, egress, eventually, provider, spill

ZAI = ("zai", "glm-5.1")
ID = "chat/glm-5"
CONTEXT, MOST_OUTPUT, TIERS = 300_000, 1000, (32_000, 200_000)
NOTHING = Counts()


@pytest.fixture
async def tiered(rig: Rig) -> tuple[Rig, Fake]:
    """Everything goes to one provider with two price tiers."""
    zai, address = await rig.fake("zai", PROVIDER_PORT)
    (rig.directory / "keys" / "zai").write_text("sk")
    out = egress(*ZAI, cap=MOST_OUTPUT, context_length=CONTEXT, tiers=TIERS)
    await rig.publish(Desired((deployment(chain=(ZAI,)),), (provider("zai", address),), (out,), {ID: spill(ZAI)}))
    await rig.start_envoy()
    return rig, zai


def counts(sample: EgressSample) -> Counts:
    return Counts(
        sample.requests,
        sample.prompt_tokens,
        sample.completion_tokens,
        sample.cached_tokens,
        sample.request_bytes,
        sample.response_bytes,
        sample.cache_write_tokens,
    )


async def readings(rig: Rig) -> dict[tuple[str, int], Counts]:
    """By outcome and tier, of answers of any kind and requests of any size."""
    found: dict[tuple[str, int], Counts] = {}
    for s in (await rig.reading()).samples:
        known = found.get((s.outcome, s.tier), NOTHING)
        found[s.outcome, s.tier] = Counts(*(a + b for a, b in zip(known, counts(s), strict=True)))
    return found


async def counted(rig: Rig, before: dict[tuple[str, int], Counts]) -> dict[tuple[str, int], Counts]:
    """What one more attempt added."""
    found: dict[tuple[str, int], Counts] = {}

    async def there() -> bool:
        found.clear()
        for key, now in (await readings(rig)).items():
            delta = Counts(*(a - b for a, b in zip(now, before.get(key, NOTHING), strict=True)))
            if any(delta):
                found[key] = delta
        return bool(found)

    await eventually(there, "one more attempt is counted")
    return found


def usage(prompt: Any, completion: Any, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, **more}


def details(**more: Any) -> dict[str, Any]:
    return {"prompt_tokens_details": more}


CASES: list[tuple[dict[str, Any], str, int, tuple[int, int, int, int]]] = [
    (usage(11, 7), "metered", 0, (11, 7, 0, 0)),
    (usage(32_000, 7), "metered", 0, (32_000, 7, 0, 0)),
    (usage(32_001, 7), "metered", 32_000, (32_001, 7, 0, 0)),
    (usage(200_001, 1000), "metered", 200_000, (200_001, 1000, 0, 0)),
    (usage(100, 7, **details(cached_tokens=60, cache_write_tokens=40)), "metered", 0, (100, 7, 60, 40)),
    (usage(100, 7, **details(cache_creation_input_tokens=40)), "metered", 0, (100, 7, 0, 40)),
    (usage(100, 7, cache_creation_input_tokens=30), "metered", 0, (100, 7, 0, 30)),
    (usage("12", 7), "metered", 0, (12, 7, 0, 0)),
    (usage(11, 0), "metered", 0, (11, 0, 0, 0)),
    # more than the ExternalProvider says that there can be
    (usage(CONTEXT + 1, 7), "doubtful", 200_000, (CONTEXT + 1, 7, 0, 0)),
    (usage(11, MOST_OUTPUT + 1), "doubtful", 0, (11, MOST_OUTPUT + 1, 0, 0)),
    (usage(11, 7, cache_creation_input_tokens=50), "doubtful", 0, (11, 7, 0, 50)),
    (usage(11, 7, **details(cached_tokens=90)), "doubtful", 0, (11, 7, 90, 0)),
    # no counts of tokens
    (usage(-5, 7), "malformed", 0, (0, 0, 0, 0)),
    (usage(11, -3), "malformed", 0, (0, 0, 0, 0)),
    (usage(11, 7, **details(cached_tokens=-1)), "malformed", 0, (0, 0, 0, 0)),
    (usage("x", 7), "malformed", 0, (0, 0, 0, 0)),
    (usage("nan", 7), "malformed", 0, (0, 0, 0, 0)),
    (usage("inf", 7), "malformed", 0, (0, 0, 0, 0)),
    (usage(0, 0), "malformed", 0, (0, 0, 0, 0)),
    (usage(1e300, 7), "malformed", 0, (0, 0, 0, 0)),
    (usage(2**64 + 11, 7), "malformed", 0, (0, 0, 0, 0)),
    (usage(11, 3_000_000_000), "malformed", 0, (0, 0, 0, 0)),
    (usage([1], 7), "untold", 0, (0, 0, 0, 0)),
    (usage(None, 7), "untold", 0, (0, 0, 0, 0)),
    (usage(11, None), "malformed", 0, (0, 0, 0, 0)),
    ({"prompt_tokens": 11}, "malformed", 0, (0, 0, 0, 0)),
    ({"completion_tokens": 7}, "untold", 0, (0, 0, 0, 0)),
    ({}, "untold", 0, (0, 0, 0, 0)),
]


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_usage_blocks(tiered: tuple[Rig, Fake], stream: bool) -> None:
    rig, zai = tiered
    before = await readings(rig)
    for block, outcome, tier, (prompt, completion, cached, written) in CASES:
        zai.usage = block
        assert (await rig.post({"model": "glm-5", "stream": stream, **MESSAGES})).status == 200
        [(key, delta)] = (await counted(rig, before)).items()
        allowed = ("unmetered", "malformed") if outcome == "untold" else (outcome,)  # whether a prompt's count is there
        assert key[0] in allowed and key[1] == tier, block
        assert delta[:4] == (1, prompt, completion, cached) and delta.cache_write_tokens == written, block
        assert delta.request_bytes and delta.response_bytes, block
        before = await readings(rig)


async def test_an_embedding_has_no_completion(tiered: tuple[Rig, Fake]) -> None:
    rig, zai = tiered
    zai.usage = {"prompt_tokens": 9, "total_tokens": 9}
    await rig.post({"model": "glm-5", "input": "a"}, path="/v1/embeddings")
    [(key, delta)] = (await counted(rig, {})).items()
    assert key == ("metered", 0) and delta[:3] == (1, 9, 0)


@pytest.mark.parametrize("who", ["client", "provider"])
async def test_usage_of_an_answer_that_is_cut_after_it_is_doubtful(tiered: tuple[Rig, Fake], who: str) -> None:
    """Providers that state the usage so far with every event have stated less than they bill."""
    rig, zai = tiered
    event = b"data: " + json.dumps({"choices": [], "usage": usage(11, 1)}).encode() + b"\n\n"
    stream = {"model": "glm-5", "stream": True, **MESSAGES}
    if who == "provider":
        zai.pieces, zai.breaks = [event], True
        with pytest.raises(aiohttp.ClientPayloadError):
            await rig.post(stream)
    else:
        zai.pieces, zai.stays = [event], True
        async with rig.session.post(
            f"{rig.url}/v1/chat/completions", json=stream, headers={"host": "glm-5.chat"}
        ) as answer:
            assert await answer.content.readuntil(b"\n\n") == event
            answer.close()
    [(key, delta)] = (await counted(rig, {})).items()
    assert key == ("doubtful", 0) and delta[:3] == (1, 11, 1)


@pytest.mark.parametrize("who", ["nobody", "client", "provider"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "json"])
async def test_how_an_answer_without_usage_ended(tiered: tuple[Rig, Fake], stream: bool, who: str) -> None:
    """Bytes tell what a whole answer came to, and a stream up to where it was cut; and how large no request was."""
    rig, zai = tiered
    zai.usage, zai.breaks, zai.stays = None, who == "provider", who == "client"
    zai.pieces = [b'data: {"choices": []}\n\n' if stream else b'{"choices": ']
    zai.pieces += [b"data: [DONE]\n\n" if stream else b"[]}"] if who == "nobody" else []
    asked = asyncio.create_task(rig.post({"model": "glm-5", "stream": stream, **MESSAGES, "user": "x" * 5000}))
    if who == "client":
        await zai.until(lambda: zai.open_requests == 1)
        asked.cancel()
    await asyncio.wait([asked])
    samples: list[EgressSample] = []

    async def there() -> bool:
        samples[:] = (await rig.reading()).samples
        return bool(samples)

    await eventually(there, "the attempt is counted")
    [sample] = samples
    assert sample.outcome == {"nobody": "unmetered", "client": "left", "provider": "broken"}[who]
    assert sample.answer == ("stream" if stream else "json")
    assert sample.most_bytes == 65536, "as small as any that is below the lowest tier"


async def test_how_large_requests_without_usage_were(tiered: tuple[Rig, Fake]) -> None:
    """Near enough to tell their tier, and in few steps: each is a counter, and a row of the ledger."""
    rig, zai = tiered
    zai.usage, found = None, dict[int, int]()
    sizes = (100, 60_000, 100_000, 101_000, 150_000, 1_500_000, 1_700_000)
    for size in sizes:
        await rig.post({"model": "glm-5", **MESSAGES, "user": "x" * size})

    async def there() -> bool:
        found.update((s.most_bytes, s.requests) for s in (await rig.reading()).samples)
        return sum(found.values()) == len(sizes)

    await eventually(there, "all are counted", dump=lambda: str(found))
    assert found == {65_536: 2, 102_400: 2, 155_648: 1, 1_507_328: 1, 0: 1}


@pytest.mark.parametrize("seed", range(3))
async def test_no_block_makes_a_counter_fall(tiered: tuple[Rig, Fake], seed: int) -> None:
    rig, zai = tiered
    draw = random.Random(seed)
    odd = (
        0,
        1,
        7,
        -1,
        -(2**40),
        2**31,
        2**53,
        2**63,
        2**64,
        10**400,
        1.5,
        -0.0,
        1e308,
        "7",
        "-7",
        "1e9",
        "",
        None,
        True,
    )
    names = ("prompt_tokens", "completion_tokens", "cache_creation_input_tokens", "prompt_cache_hit_tokens")
    before, asked = await readings(rig), 60
    for number in range(asked):
        zai.usage = {name: draw.choice(odd) for name in names if draw.random() < 0.8}
        zai.usage |= draw.choice(({}, details(cached_tokens=draw.choice(odd)), {"prompt_tokens_details": "x"}))
        assert (await rig.post({"model": "glm-5", "stream": number % 2 == 0, **MESSAGES})).status == 200
        [delta] = (await counted(rig, before)).values()
        assert min(delta) >= 0 and max(delta[1:4]) < 10_485_760, zai.usage
        before = await readings(rig)
    assert sum(c.requests for c in before.values()) == asked


async def test_answers_at_once_are_counted_one_by_one(tiered: tuple[Rig, Fake]) -> None:
    rig, zai = tiered
    zai.usage = usage(33_000, 10)
    await asyncio.gather(*(rig.post() for _ in range(20)))
    found: dict[tuple[str, int], Counts] = {}

    async def all_there() -> bool:
        found.update(await readings(rig))
        return sum(c.requests for c in found.values()) == 20

    await eventually(all_there, "twenty are counted", dump=lambda: str(found))
    assert {key: c[:3] for key, c in found.items()} == {("metered", 32_000): (20, 660_000, 200)}
