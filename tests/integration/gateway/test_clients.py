"""Real clients through the real gateway: the openai package, curl over HTTP/2, slow readers, large bodies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from spillway.gateway.desired import Desired, Refusal
from tests.integration.gateway.fakes import Fake
from tests.integration.gateway.rig import PROVIDER_PORT, Rig, deployment, egress, provider, spill

ZAI = ("zai", "glm-5.1")
ID = "chat/glm-5"
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "level", "parameters": {"type": "object", "properties": {}}}}
]
CALL = {"id": "call_1", "type": "function", "function": {"name": "level", "arguments": '{"dam": "\\"high\\""}'}}
WAYS = ("local", "zai")


class Clients:
    """One deployment whose requests go to a replica or, with the gate shut, to a provider; and its clients."""

    def __init__(self, rig: Rig, engine: Fake, zai: Fake, publish: Any) -> None:
        self.rig, self.engine, self.zai, self._publish = rig, engine, zai, publish

    async def through(self, way: str) -> Fake:
        await self._publish(gate=100 if way == "local" else 0)
        return self.engine if way == "local" else self.zai

    def openai(self, host: str = "glm-5.chat", **kw: Any) -> AsyncOpenAI:
        url = f"{self.rig.url}/v1"
        return AsyncOpenAI(base_url=url, api_key="any", default_headers={"Host": host}, max_retries=0, **kw)


@pytest.fixture
async def clients(rig: Rig) -> AsyncIterator[Clients]:
    engine, address = await rig.fake("engine")
    zai, external = await rig.fake("zai", PROVIDER_PORT)
    (rig.directory / "keys" / "zai").write_text("sk-zai")
    refusal = Refusal(429, "budget_exhausted", "Budget 'day' is spent.", 60)
    glm = deployment(address, chain=(ZAI,), refusal=refusal, affinity=True)

    async def publish(**state: Any) -> None:
        providers, egresses = (provider("zai", external),), (egress(*ZAI),)
        await rig.publish(Desired((glm,), providers, egresses, {ID: spill(ZAI, **state)}))

    await publish()
    await rig.start_envoy()
    await rig.healthy(f"local|{ID}", 1)
    yield Clients(rig, engine, zai, publish)


def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    event: dict[str, Any] = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    event["choices"] = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return f"data: {json.dumps(event)}\n\n".encode()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("host", ["glm-5.chat", "spillway-gateway.spillway-system.svc"])
async def test_chat(clients: Clients, way: str, host: str) -> None:
    fake = await clients.through(way)
    async with clients.openai(host) as client:
        model = (await client.models.list()).data[0].id
        assert model == ("glm-5" if host == "glm-5.chat" else "chat/glm-5")
        messages: list[Any] = [{"role": "user", "content": "hello"}]
        raw = await client.chat.completions.with_raw_response.create(model=model, messages=messages)
        assert raw.headers["x-spillway-served-by"] == way
        answer = raw.parse()
        assert answer.choices[0].message.content == fake.name
        assert answer.usage is not None and answer.usage.prompt_tokens == 11
        stream = await client.chat.completions.create(model=model, messages=messages, stream=True)
        text = "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])
        assert text == fake.name
    assert {seen.body["model"] for seen in fake.seen} == {"glm-5" if way == "local" else "glm-5.1"}


@pytest.mark.parametrize("way", WAYS)
async def test_tool_calls(clients: Clients, way: str) -> None:
    fake = await clients.through(way)
    message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    fake.payload = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    parts = [{"index": 0, **CALL, "function": {"name": "level", "arguments": ""}}]
    parts += [{"index": 0, "function": {"arguments": piece}} for piece in ('{"dam":', ' "\\"high\\""}')]
    fake.pieces = [*(chunk({"tool_calls": [part]}) for part in parts), chunk({}, "tool_calls"), b"data: [DONE]\n\n"]
    messages: list[Any] = [{"role": "user", "content": "how high?"}]
    async with clients.openai() as client:
        ask: Any = {"model": "glm-5", "messages": messages, "tools": TOOLS, "tool_choice": "auto"}
        answer = await client.chat.completions.create(**ask)
        [call] = answer.choices[0].message.tool_calls or []
        assert call.function.arguments == '{"dam": "\\"high\\""}'
        stream = await client.chat.completions.create(**ask, stream=True)
        calls = [c.choices[0].delta.tool_calls async for c in stream]
        assert "".join(t[0].function.arguments or "" for t in calls if t) == call.function.arguments
        messages += [message, {"role": "tool", "tool_call_id": "call_1", "content": "9 m"}]
        await client.chat.completions.create(**ask)
    assert fake.seen[-1].body["messages"] == messages
    assert fake.seen[-1].body["tools"] == TOOLS


@pytest.mark.parametrize("way", WAYS)
async def test_completions_responses_and_embeddings(clients: Clients, way: str) -> None:
    fake = await clients.through(way)
    async with clients.openai() as client:
        choice = {"index": 0, "text": "done", "finish_reason": "stop", "logprobs": None}
        fake.payload = {"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
        assert (await client.completions.create(model="glm-5", prompt="a")).choices[0].text == "done"
        text = {"type": "output_text", "text": "done", "annotations": []}
        item = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [text]}
        fake.payload = {"id": "r", "object": "response", "created_at": 1, "model": "m", "output": [item]}
        fake.payload |= {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
        assert (await client.responses.create(model="glm-5", input="a")).output_text == "done"
        done = {"type": "response.completed", "sequence_number": 1, "response": fake.payload}
        fake.pieces = [f"event: response.completed\ndata: {json.dumps(done)}\n\n".encode()]
        stream = await client.responses.create(model="glm-5", input="a", stream=True)
        assert [event.type async for event in stream] == ["response.completed"]
        vector = {"object": "embedding", "index": 0, "embedding": [0.5, 1.0]}
        fake.payload = {
            "object": "list",
            "model": "m",
            "data": [vector],
            "usage": {"prompt_tokens": 1, "total_tokens": 1},
        }
        found = await client.embeddings.create(model="glm-5", input="a", encoding_format="float")
        assert found.data[0].embedding == [0.5, 1.0]
    assert [seen.path.rsplit("/", 1)[1] for seen in fake.seen] == [
        "completions",
        "responses",
        "responses",
        "embeddings",
    ]


async def test_errors_are_the_clients_own_exceptions(clients: Clients) -> None:
    messages: list[Any] = [{"role": "user", "content": "a"}]
    async with clients.openai() as client:
        clients.engine.status = 400
        with pytest.raises(openai.BadRequestError, match="engine says 400"):
            await client.chat.completions.create(model="glm-5", messages=messages)
        await clients._publish(gate=0, allowed=False)
        with pytest.raises(openai.RateLimitError, match="Budget 'day' is spent") as full:
            await client.chat.completions.create(model="glm-5", messages=messages, stream=True)
        assert full.value.code == "budget_exhausted" and full.value.response.headers["retry-after"] == "60"
        await clients._publish(gate=0)
        clients.zai.status = 500
        with pytest.raises(openai.InternalServerError) as failed:
            await client.chat.completions.create(model="glm-5", messages=messages)
        assert failed.value.code == "provider_error"
    async with clients.openai("elsewhere") as client:
        with pytest.raises(openai.NotFoundError, match="chat/glm-5"):
            await client.chat.completions.create(model="glm-5", messages=messages)


@pytest.mark.parametrize("way", WAYS)
async def test_five_megabytes_and_an_abort(clients: Clients, way: str) -> None:
    fake = await clients.through(way)
    messages: list[Any] = [{"role": "user", "content": 'ä"\\' * (5 << 18)}]
    async with clients.openai() as client:
        await client.chat.completions.create(model="glm-5", messages=messages)
        assert fake.seen[-1].body["messages"] == messages
        fake.hold.clear()
        stream = await client.chat.completions.create(model="glm-5", messages=messages, stream=True)
        assert fake.open_requests == 1
        await stream.close()
        await fake.until(lambda: fake.aborted == 1 and fake.open_requests == 0)


@pytest.mark.parametrize("way", WAYS)
async def test_a_slow_reader_gets_everything_and_holds_nobody_up(clients: Clients, way: str) -> None:
    """The answer is larger than all buffers between: what the client does not read, the engine cannot write."""
    fake = await clients.through(way)
    events = [chunk({"content": "x" * 60_000}) for _ in range(400)]
    fake.pieces = [*events, b"data: [DONE]\n\n"]
    host, _, port = clients.rig.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 16)
    body = b'{"model":"glm-5","stream":true,"messages":[]}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: glm-5.chat\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await reader.readuntil(b"\r\n\r\n")
    assert fake.open_requests == 1, "it waits for its reader"
    pieces, fake.pieces = fake.pieces, None
    for _ in range(20):
        assert (await clients.rig.post()).status == 200
    size = 0
    async with asyncio.timeout(60):
        while not (read := await reader.read(1 << 16)).endswith(b"0\r\n\r\n"):
            size += len(read)
    writer.close()
    assert size + len(read) > sum(map(len, pieces))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("version", ["--http2-prior-knowledge", "--http1.1"])
async def test_curl(clients: Clients, way: str, version: str) -> None:
    fake = await clients.through(way)
    request, url = '{"model":"glm-5","stream":true,"messages":[]}', f"{clients.rig.url}/v1/chat/completions"
    command = ["curl", "-sS", "--no-buffer", version, "-H", "host: glm-5.chat", "-d", request]
    process = await asyncio.create_subprocess_exec(
        *command, "-w", "%{http_version}", url, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    answer, _, spoken = out.decode().rpartition("data: [DONE]\n\n")
    assert process.returncode == 0 and f'"{fake.name}"' in answer, out
    assert version.endswith("1.1") == (spoken == "1.1") and spoken in ("1.1", "2")
