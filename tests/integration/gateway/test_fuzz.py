"""What clients and providers send that nobody would write: the gateway stays up, and says what it should."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import aiohttp
import pytest

from spillway.gateway.desired import Desired
from tests.integration.gateway.fakes import USAGE, Fake
from tests.integration.gateway.rig import MESSAGES, PROVIDER_PORT, Rig, deployment, egress, eventually, provider, spill

ZAI = ("zai", "glm-5.1")
ID = "chat/glm-5"
HOSTS = ("glm-5.chat", "spillway-gateway")
PATHS = ("chat/completions", "completions", "responses", "embeddings")
SEEDS = range(4)


@pytest.fixture
async def both(rig: Rig) -> tuple[Rig, Fake, Fake]:
    """One deployment with affinity, half of whose requests go to a provider first."""
    engine, address = await rig.fake("engine")
    zai, external = await rig.fake("zai", PROVIDER_PORT)
    (rig.directory / "keys" / "zai").write_text("sk-zai")
    glm = deployment(address, chain=(ZAI,), affinity=True)
    state = spill(ZAI, share_percent=50)
    await rig.publish(Desired((glm,), (provider("zai", external),), (egress(*ZAI),), {ID: state}))
    await rig.start_envoy()
    await rig.healthy(f"local|{ID}", 1)
    return rig, engine, zai


def value(draw: random.Random, depth: int = 0) -> Any:
    kinds = ("text", "number", "null", "bool") + (("list", "object") if depth < 4 else ())
    match draw.choice(kinds):
        case "text":
            return "".join(draw.choice('a"\\{}[],:\n\t\x00é𝄞 model') for _ in range(draw.randrange(12)))
        case "number":
            return draw.choice((0, -1, 7, 1e300, -0.0, 2**63))
        case "null":
            return None
        case "bool":
            return draw.random() < 0.5
        case "list":
            return [value(draw, depth + 1) for _ in range(draw.randrange(4))]
    return {str(value(draw, 9)): value(draw, depth + 1) for _ in range(draw.randrange(4))}


def body(draw: random.Random) -> bytes:
    """JSON with odd values where clients have theirs, sometimes damaged."""
    names = (
        "model",
        "messages",
        "prompt",
        "input",
        "instructions",
        "max_tokens",
        "n",
        "stream",
        "stream_options",
        "user",
    )
    fields = {name: value(draw) for name in names if draw.random() < 0.5}
    if draw.random() < 0.6:
        fields |= {"model": ID, **MESSAGES}
    if fields.get("stream") not in (None, False):
        fields["stream"] = True
    text = json.dumps(fields, ensure_ascii=draw.random() < 0.5, separators=draw.choice(((",", ":"), (" ,\t", " :\n"))))
    raw = bytearray(text.encode())
    for _ in range(draw.choice((0, 0, 0, 1, 3))):
        at = draw.randrange(len(raw))
        match draw.randrange(3):
            case 0:
                raw[at] = draw.randrange(256)
            case 1:
                del raw[at:]
            case _:
                raw[at:at] = bytes(draw.randrange(256) for _ in range(3))
        raw = raw or bytearray(b"{")
    return bytes(raw)


@pytest.mark.parametrize("seed", SEEDS)
async def test_bodies(both: tuple[Rig, Fake, Fake], seed: int) -> None:
    rig, engine, zai = both
    draw = random.Random(seed)
    for _ in range(150):
        sent, host, path = body(draw), draw.choice(HOSTS), draw.choice(PATHS)
        async with rig.session.post(f"{rig.url}/v1/{path}", data=sent, headers={"host": host}) as answer:
            text = await answer.text()
            served = answer.headers["x-spillway-served-by"]
        # 500 is the fake engine's own, to what is no JSON object.
        assert answer.status in (200, 400, 404, 429, 500), (sent, text)
        assert answer.status != 500 or served == "local", sent
        if served == "none":
            assert json.loads(text)["error"]["message"], sent
    for seen in zai.seen:
        assert seen.body["model"] == "glm-5.1"
        if seen.path.endswith("completions"):
            limits = [seen.body.get(name) for name in ("max_tokens", "max_completion_tokens")]
            assert all(1 <= limit <= 100 for limit in limits if limit is not None) and any(limits)
            assert seen.body.get("n") in (None, 1)
    assert (await rig.post()).status == 200
    assert engine.seen and zai.seen


@pytest.mark.parametrize("seed", SEEDS)
async def test_raw_requests(both: tuple[Rig, Fake, Fake], seed: int) -> None:
    """Heads with odd lines and lengths: refused or served, and the next client is served as if nothing had been."""
    rig, _, _ = both
    draw = random.Random(seed)
    host, _, port = rig.url.removeprefix("http://").partition(":")
    lines = [
        b"host: glm-5.chat", b"host:", b"host: a b", b"host: \xff", b"content-length: 2", b"content-length: -1",
        b"content-length: 99999999999999999999", b"transfer-encoding: chunked", b"transfer-encoding: gzip, chunked",
        b"content-encoding: br", b"expect: 100-continue", b"x: " + b"y" * 70_000, b"x-spillway-next: saturated",
        b"x-spillway-deployment: a/b", b"x-spillway-addressed: 1", b"x-spillway-prefix: 1", b"no colon", b"\x00: a",
        b"upgrade: h2c", b"connection: upgrade, x-spillway-route", b"x-envoy-max-retries: 99", b" folded",
    ]  # fmt: skip
    targets = [
        b"/v1/chat/completions",
        b"/v1/../v1/models",
        b"/v1/%2e%2e/x",
        b"//v1//models",
        b"*",
        b"http://glm-5.chat/v1/models",
        b"/v1/models\xff",
    ]
    for _ in range(80):
        reader, writer = await asyncio.open_connection(host, int(port))
        method = draw.choice((b"POST", b"GET", b"OPTIONS", b"CONNECT", b"\xff", b"PRI"))
        head = b" ".join((method, draw.choice(targets), draw.choice((b"HTTP/1.1", b"HTTP/1.0", b"HTTP/9", b""))))
        chosen = draw.sample(lines, draw.randrange(6))
        writer.write(b"\r\n".join((head, *chosen, b"", draw.choice((b"{}", b"2\r\n{}\r\n0\r\n\r\n", b"\xff" * 40)))))
        writer.write_eof()
        try:
            answer = await asyncio.wait_for(reader.read(), 30)
        except ConnectionResetError:
            answer = b""
        writer.close()
        assert not answer.startswith(b"HTTP/1.1 5") or b" 500 " in answer[:20] or b" 501 " in answer[:20], (
            head,
            chosen,
        )
        assert (await rig.post()).status == 200
    assert rig.process is not None and rig.process.returncode is None


@pytest.mark.parametrize("seed", SEEDS)
async def test_framings_of_a_stream(both: tuple[Rig, Fake, Fake], seed: int) -> None:
    """However a provider cuts and ends its events: the client has every byte, and the usage is counted."""
    rig, _, zai = both
    draw = random.Random(seed)
    await rig.publish(_spilling(rig, zai))
    rounds = 20
    for _ in range(rounds):
        newline = draw.choice((b"\n", b"\r\n", b"\r"))
        data = draw.choice((b"data:", b"data: "))
        events = [b": keep-alive", data + b'{"choices":[],"usage":null}', b"event: x" + newline + data + b"{broken"]
        events = draw.sample(events, draw.randrange(4))
        events.append(data + json.dumps({"choices": [], "usage": USAGE}).encode())
        events.append(data + b"[DONE]")
        whole = b"".join(event + newline * 2 for event in events)
        cuts = sorted(draw.sample(range(1, len(whole)), draw.choice((0, 1, 5, 30))))
        zai.pieces = [whole[a:b] for a, b in zip((0, *cuts), (*cuts, len(whole)), strict=True)]
        answer = await rig.post({"model": ID, "stream": True, **MESSAGES})
        assert answer.text.encode() == whole
    await eventually(lambda: _metered(rig, rounds), f"{rounds} answers are counted with their usage")


def _spilling(rig: Rig, zai: Fake) -> Desired:
    glm = deployment(chain=(ZAI,), affinity=True)
    address = f"{rig.subnet}.21"
    return Desired((glm,), (provider("zai", address),), (egress(*ZAI),), {ID: spill(ZAI)})


async def _metered(rig: Rig, count: int) -> bool:
    samples = (await rig.reading()).samples
    requests, tokens = (sum(s.requests for s in samples), sum(s.prompt_tokens for s in samples))
    return {s.outcome for s in samples} == {"metered"} and (requests, tokens) == (count, 11 * count)


async def test_a_stream_without_an_end_and_one_event_that_is_too_large(both: tuple[Rig, Fake, Fake]) -> None:
    rig, _, zai = both
    await rig.publish(_spilling(rig, zai))
    zai.pieces = [b"data: " + b"x" * (3 << 20), b"\n\n", b"data: [DONE]\n\n"]
    assert len((await rig.post({"model": ID, "stream": True, **MESSAGES})).text) > 3 << 20
    zai.pieces, zai.breaks = [b"data: {"], True
    with pytest.raises(aiohttp.ClientPayloadError):
        await rig.post({"model": ID, "stream": True, **MESSAGES})
    samples = {s.outcome: s.requests for s in (await rig.reading()).samples}
    assert samples == {"unmetered": 1, "broken": 1}


@pytest.mark.parametrize("seed", SEEDS)
async def test_errors_of_providers(both: tuple[Rig, Fake, Fake], seed: int) -> None:
    """Whatever a provider's error says: the client has it as it is, or our own words, and it has a class."""
    rig, _, zai = both
    draw = random.Random(seed)
    await rig.publish(_spilling(rig, zai))
    codes: tuple[Any, ...] = ("insufficient_quota", "1113", 1305, None, {"a": []}, "", "1211", True, "billing_error")
    waits = ("-1", "0x0", "nan", "", "soon", "Wed, 21 Oct 2015 07:28:00 GMT", "99 99")
    rounds = 60
    for number in range(rounds):
        fields = {name: draw.choice(codes) for name in ("code", "type", "status", "message") if draw.random() < 0.6}
        said: Any = draw.choice((fields, {"error": fields}, [{"error": fields}], [fields, fields], {"error": [fields]}))
        raw = bytearray(json.dumps(said).encode())
        if draw.random() < 0.4:
            raw[draw.randrange(len(raw))] = draw.randrange(256)
        if draw.random() < 0.2:
            del raw[draw.randrange(len(raw)) :]
        zai.status = draw.choice((300, 400, 401, 402, 403, 404, 413, 418, 422, 429, 500, 503, 529, 599))
        zai.error, zai.chunked = bytes(raw), draw.random() < 0.5
        # Who asks for a pause in earnest has a short one: the next round is to reach it.
        earnest = zai.status in (429, 529)
        odd = {"retry-after": draw.choice(waits), "retry-after-ms": draw.choice(("", "-1", "x", "nan"))}
        zai.extra_headers = {"retry-after-ms": "1"} if earnest else odd
        before = len(zai.seen)
        while len(zai.seen) == before:
            async with rig.session.post(
                f"{rig.url}/v1/chat/completions", json={"model": ID, **MESSAGES}, headers={"host": HOSTS[0]}
            ) as answer:
                found = await answer.read()
        assert answer.status in (zai.status, 502), (number, zai.status, raw)
        assert answer.status == 502 or found == bytes(raw), (number, zai.status)
    await eventually(lambda: _asked(rig, rounds), "each has a class")
    assert "script log" not in (rig.directory / "envoy.log").read_text()


async def _asked(rig: Rig, count: int) -> bool:
    reading = await rig.reading()
    classes = sum(n for (_, _, why), n in reading.errors.items() if why != "held")
    return classes == sum(s.requests for s in reading.samples) == count
