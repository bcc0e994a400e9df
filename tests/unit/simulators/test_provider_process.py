"""The provider as a process: what the gateway sees over TLS, and what the bill says about it."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path

import aiohttp
import pytest

from tests.unit.simulators.running import Running, chat, events, provider

CONFIG: dict[str, object] = {
    "style": "zai",
    "basePath": "/api/paas/v4",
    "keys": ["sk-right"],
    "models": {"glm-5": {"input": "1", "cachedInput": "0.2", "output": "3.2"}},
    "firstTokenSeconds": 0.01,
    "tokensPerSecond": 2000,
}
KEY = {"Authorization": "Bearer sk-right"}


async def post(
    server: Running, session: aiohttp.ClientSession, body: dict[str, object], headers: dict[str, str] = KEY
) -> tuple[int, bytes]:
    async with session.post(f"{server.url}/chat/completions", json=body, headers=headers) as response:
        return response.status, await response.read()


async def control(server: Running, session: aiohttp.ClientSession, path: str) -> list[dict[str, object]]:
    async with session.get(f"{server.control}{path}") as response:
        found = await response.json()
    return found if isinstance(found, list) else [found]


async def fault(server: Running, session: aiohttp.ClientSession, **raw: object) -> None:
    async with session.post(f"{server.control}/faults", json=raw) as response:
        assert response.status == 200


async def total(server: Running, session: aiohttp.ClientSession) -> Decimal:
    return Decimal(str((await control(server, session, "/bill"))[0]["total_usd"]))


async def test_bills_what_it_generates_and_shows_what_arrived(tmp_path: Path) -> None:
    async with provider(tmp_path, CONFIG) as (server, session):
        assert server.url.endswith("/api/paas/v4")
        headers = {**KEY, "Cookie": "session=1", "X-Trace": "t"}
        code, body = await post(server, session, chat("x" * 393 + "[[out=500]]", max_tokens=40), headers)
        assert code == 200
        assert json.loads(body)["usage"] == {"prompt_tokens": 101, "completion_tokens": 40, "total_tokens": 141}
        assert await total(server, session) == Decimal("0.000229")
        asked = chat("x [[out=10]]", stream=True, stream_options={"include_usage": True}, n=2)
        payloads = events((await post(server, session, asked))[1])
        assert payloads[-1] == "[DONE]"
        assert json.loads(payloads[-2])["usage"]["completion_tokens"] == 20
        without = events((await post(server, session, chat("x [[out=10]]", stream=True)))[1])
        assert not any('"usage"' in payload for payload in without)
        assert await total(server, session) == Decimal("0.000229") + Decimal("0.000067") + Decimal("0.000035")
        first = (await control(server, session, "/requests?last=3"))[0]
        shown = first["headers"]
        assert isinstance(shown, dict)
        assert shown["authorization"] == "Bearer <provider key>"
        assert shown["cookie"] == "session=1"
        assert (first["max_tokens"], first["body_keys"]) == (40, ["max_tokens", "messages", "model"])
        assert (first["status"], first["usd"]) == (200, "0.000229")


async def test_refuses_wrong_keys_models_and_bodies_unbilled(tmp_path: Path) -> None:
    async with provider(tmp_path, CONFIG) as (server, session):
        code, body = await post(server, session, chat("x"), {"Authorization": "Bearer sk-wrong"})
        assert (code, json.loads(body)["error"]["code"]) == (401, "1000")
        assert (await post(server, session, {**chat("x"), "model": "gpt"}))[0] == 400
        assert (await post(server, session, {"model": "glm-5"}))[0] == 400
        assert await total(server, session) == 0
        shown = (await control(server, session, "/requests"))[0]["headers"]
        assert isinstance(shown, dict)
        assert shown["authorization"] == "Bearer sk-wrong"
        async with session.get(f"{server.url}/models", headers=KEY) as models:
            assert (await models.json())["data"][0]["pricing"]["completion"] == "0.0000032"


async def test_a_hung_up_client_pays_for_what_was_generated(tmp_path: Path) -> None:
    async with provider(tmp_path, {**CONFIG, "tokensPerSecond": 100}) as (server, session):
        for streaming in (True, False):
            before = await total(server, session)
            task = asyncio.create_task(post(server, session, chat("x [[out=100000]]", stream=streaming)))
            async with asyncio.timeout(10):
                while (await control(server, session, "/state"))[0]["in_flight"] == 0:
                    pass
                task.cancel()
                while (await control(server, session, "/state"))[0]["in_flight"] != 0:
                    pass
            charged = await total(server, session) - before
            assert 0 < charged < Decimal("0.01")
            arrival = (await control(server, session, "/requests?last=1"))[0]
            assert arrival["aborted"] is True
            assert Decimal(str(arrival["usd"])) == charged


async def test_faults_switch_at_run_time(tmp_path: Path) -> None:
    async with provider(tmp_path, CONFIG) as (server, session):
        for mode, status, code in (
            ("429", 429, "1302"),
            ("402", 429, "1113"),
            ("401", 401, "1000"),
            ("403", 403, "1220"),
            ("404", 400, "1211"),
            ("500", 500, "1234"),
        ):
            await fault(server, session, mode=mode)
            seen, body = await post(server, session, chat("x"))
            assert (seen, json.loads(body)["error"]["code"]) == (status, code)
        assert await total(server, session) == 0
        for given, sent in ((7, "7"), ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT"), ("", None)):
            await fault(server, session, mode="429", retry_after=given)
            url = f"{server.url}/chat/completions"
            async with session.post(url, json=chat("x"), headers=KEY) as answer:
                assert answer.headers.get("retry-after") == sent
        await fault(server, session, mode="outage")
        with pytest.raises(aiohttp.ClientError):
            await post(server, session, chat("x"))
        await fault(server, session, mode="hang")
        hanging = asyncio.create_task(post(server, session, chat("x")))
        async with asyncio.timeout(10):
            while (await control(server, session, "/state"))[0]["in_flight"] == 0:
                pass
        hanging.cancel()
        assert await total(server, session) == 0
        await fault(server, session, mode="no_usage")
        assert "usage" not in json.loads((await post(server, session, chat("x [[out=9]]")))[1])
        billed = await total(server, session)
        assert billed > 0
        await fault(server, session, mode="double_usage")
        asked = chat("x [[out=9]]", stream=True, stream_options={"include_usage": True})
        assert sum('"usage"' in payload for payload in events((await post(server, session, asked))[1])) == 2
        twice = await total(server, session)
        assert twice - billed < 2 * billed, "stated twice, billed once"
        billed = twice
        await fault(server, session, mode="wrong_usage")
        first = events((await post(server, session, asked))[1])
        second = json.loads((await post(server, session, chat("x [[out=9]]")))[1])["usage"]
        assert any('"prompt_tokens": -' in payload for payload in first) and second["prompt_tokens"] == "many"
        await fault(server, session, mode="running_usage")
        assert sum('"usage"' in payload for payload in events((await post(server, session, asked))[1])) >= 2
        billed = await total(server, session)
        await fault(server, session, mode="abort_midstream")
        with pytest.raises(aiohttp.ClientError):
            await post(server, session, chat("x [[out=2000]]", stream=True))
        assert await total(server, session) > billed
        await fault(server, session, mode="ok")
        assert (await post(server, session, chat("x [[out=2]]")))[0] == 200
        async with session.post(f"{server.control}/faults", json={"mode": "flood"}) as response:
            assert response.status == 400


async def test_too_many_at_once_are_rate_limited(tmp_path: Path) -> None:
    async with provider(tmp_path, {**CONFIG, "maxConcurrency": 3}) as (server, session):
        answers = await asyncio.gather(*(post(server, session, chat("x [[out=2000]]")) for _ in range(8)))
        codes = [code for code, _ in answers]
        assert (codes.count(200), codes.count(429)) == (3, 5)
