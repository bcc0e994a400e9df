"""The load generator against a small gateway that misbehaves on command."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from e2e.load import LoadRun, RefusedTarget, Schedule, Target
from e2e.load.schedule import Arrival

TOKEN = b'data: {"choices":[{"delta":{"content":"abcd"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
JSON = {"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}


@dataclass
class Gateway:
    """Its address, and the requests that came."""

    url: str = ""
    seen: list[web.Request] = field(default_factory=list)


@asynccontextmanager
async def gateway(stream: tuple[bytes, ...], *, status: int = 200, served_by: str = "local") -> AsyncIterator[Gateway]:
    """Serves `stream` to streaming requests (b"" closes the connection) and JSON to the others, on 127.0.0.1."""
    started = Gateway()

    async def answer(request: web.Request) -> web.StreamResponse:
        started.seen.append(request)
        body = await request.json()
        headers = {"x-spillway-served-by": served_by}
        if status >= 300:
            error = {"error": {"code": "budget_exhausted"}}
            return web.json_response(error, status=status, headers={**headers, "x-spillway-reason": "budget"})
        if not body.get("stream"):
            return web.json_response(JSON, headers=headers)
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        for part in stream:
            if part == b"":
                assert request.transport is not None
                request.transport.close()
                return response
            await response.write(part)
        return response

    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    started.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield started
    finally:
        await runner.cleanup()


def load_run(at: Gateway, count: int, *, streaming_share: float = 1.0) -> LoadRun:
    target = Target((at.url,), "glm-5.chat", "glm-5")
    arrivals = tuple(Arrival(0.001 * i, 100, 20) for i in range(count))
    return LoadRun(target, Schedule(arrivals, 1.0, "test", 0), streaming_share)


async def test_records_tokens_first_token_and_who_served() -> None:
    async with gateway((TOKEN, TOKEN, USAGE, DONE), served_by="zai") as at:
        run = load_run(at, 40, streaming_share=0.5)
        summary = await run.run()
    assert (summary.requests, summary.failed, summary.cut) == (40, 0, 0)
    assert (summary.spilled, summary.spilled_share) == (40, 1.0)
    assert (summary.prompt_tokens, summary.completion_tokens) == (280, 80)
    assert summary.by_status == {"200": 40}
    assert summary.by_served == {"zai": 40}
    assert 10 < sum(record.streaming for record in run.records) < 30
    assert all(r.first_token is not None and r.start <= r.first_token <= r.end for r in run.records)
    assert {request.headers["Host"] for request in at.seen} == {"glm-5.chat"}
    assert run.in_flight == 0


async def test_local_answers_are_not_spilled() -> None:
    async with gateway((TOKEN, DONE)) as at:
        assert (await load_run(at, 5).run()).spilled == 0


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        ((TOKEN, TOKEN), "cut"),
        ((TOKEN, b""), "cut"),
        ((TOKEN, b'data: {"error":{"code":503}}\n\n', DONE), "in_stream"),
        ((b"data: {nonsense\n\n", DONE), "malformed"),
    ],
)
async def test_broken_streams_are_failures(stream: tuple[bytes, ...], error: str) -> None:
    async with gateway(stream) as at:
        summary = await load_run(at, 3).run()
    assert (summary.failed, summary.by_error) == (3, {error: 3})
    assert summary.cut == (3 if error == "cut" else 0)


async def test_refusals_carry_status_code_and_reason() -> None:
    async with gateway((), status=429, served_by="none") as at:
        run = load_run(at, 2)
        summary = await run.run()
    assert summary.by_error == {"http_429": 2}
    assert {(r.error_code, r.reason) for r in run.records} == {("budget_exhausted", "budget")}
    assert summary.spilled == 0


async def test_no_gateway_is_a_connection_failure() -> None:
    async with gateway(()) as at:
        pass
    assert (await load_run(at, 2).run()).by_error == {"connect": 2}


async def test_stop_ends_the_sending() -> None:
    async with gateway((TOKEN, DONE)) as at:
        arrivals = (Arrival(0.0, 10, 1), Arrival(3600.0, 10, 1))
        run = LoadRun(Target((at.url,), "h", "m"), Schedule(arrivals, 3601.0, "test", 0))
        task = asyncio.create_task(run.run())
        async with asyncio.timeout(10):
            # Nothing tells when a record is added, and the run under test is not to be changed for it.
            while not run.records:  # noqa: ASYNC110
                await asyncio.sleep(0)
            run.stop()
            summary = await task
    assert (summary.requests, len(at.seen)) == (1, 1)


async def test_prompt_has_the_length_asked_for_and_the_marker() -> None:
    async with gateway((TOKEN, DONE)) as at:
        body = load_run(at, 1).body(3, Arrival(0.0, 50_000, 33), streaming=False)
    assert b"[[out=33]]" in body
    assert abs(len(body) - 200_000) < 200


@pytest.mark.parametrize(
    "url", ["http://10.0.0.5:8080", "https://api.openai.com/v1", "http://example.test", "ftp://127.0.0.1", "http://"]
)
def test_only_loopback_is_ever_a_target(url: str) -> None:
    with pytest.raises(RefusedTarget, match="loopback"):
        Target(("http://127.0.0.1:1", url), "h", "m")


def test_loopback_addresses_are_targets() -> None:
    Target(("http://127.3.2.1:80", "http://localhost:80", "http://[::1]:80"), "h", "m")


async def test_command_line_replays_and_reports() -> None:
    async with gateway((TOKEN, USAGE, DONE)) as at:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "e2e.load", "--gateway", at.url, "--host", "glm-5.chat",
            "--seconds", "2", "--speed", "20", "--requests", "20", "--step", "2@1",
            cwd=Path(__file__).resolve().parents[3], stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert b"20 answered \xc2\xb7 0 failed" in output
