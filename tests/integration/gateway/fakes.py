"""One fake for both sides: it speaks enough of OpenAI's API, records what reached it and does what a test tells it."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 3}}


@dataclass(frozen=True)
class Seen:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Fake:
    """`hold` blocks answers until it is set, with `late` also a stream's first event; `status` other than 200 is
    answered at once, with `error` for a body, and `chunked` without its length. `payload`: the whole JSON answer.
    `pieces`: the whole answer as it is written; with `breaks` the connection is cut after them, with `stays` it stays
    open."""

    name: str
    status: int = 200
    usage: dict[str, Any] | None = field(default_factory=lambda: dict(USAGE))
    extra_headers: dict[str, str] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    late: bool = False
    error: Any = None
    chunked: bool = False
    payload: dict[str, Any] | None = None
    pieces: list[bytes] | None = None
    breaks: bool = False
    stays: bool = False
    open_requests: int = 0
    aborted: int = 0
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    runner: web.AppRunner | None = None

    def __post_init__(self) -> None:
        self.hold.set()

    async def start(self, address: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_get("/health", self._health)
        app.router.add_post("/{path:.*}", self._answer)
        self.runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, address, port, ssl_context=tls, reuse_address=True).start()

    async def stop(self) -> None:
        self.hold.set()
        if self.runner is not None:
            await self.runner.cleanup()

    async def until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        async with asyncio.timeout(seconds), self.changed:
            await self.changed.wait_for(condition)

    async def _note(self, change: Callable[[], Any]) -> None:
        async with self.changed:
            change()
            self.changed.notify_all()

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        await self._note(lambda: self.seen.append(Seen(request.path_qs, dict(request.headers), body)))
        self.open_requests += 1
        try:
            return await self._speak(request, body)
        except (asyncio.CancelledError, ConnectionError):
            self.aborted += 1
            raise
        finally:
            self.open_requests -= 1
            await asyncio.shield(self._note(lambda: None))

    async def _speak(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if self.status != 200:
            said = {"error": {"message": f"{self.name} says {self.status}", "type": "x", "code": None}}
            body_of = said if self.error is None else self.error
            raw = body_of if isinstance(body_of, bytes) else json.dumps(body_of).encode()
            error = web.Response(body=raw, status=self.status, content_type="application/json")
            error.headers.update(self.extra_headers)
            if self.chunked:
                error.enable_chunked_encoding()
            return error
        if not body.get("stream") and (self.pieces is None or self.payload is not None):
            await self.hold.wait()
            answer = self.payload or {
                "id": "1",
                "object": "chat.completion",
                "model": body.get("model"),
                "choices": [_choice(self.name)],
            }
            if self.usage is not None and self.payload is None:
                answer["usage"] = self.usage
            return web.json_response(answer, headers=self.extra_headers)
        kind = "text/event-stream; charset=utf-8" if body.get("stream") else "application/json"
        response = web.StreamResponse(headers={"content-type": kind, **self.extra_headers})
        await response.prepare(request)
        if self.late:
            await self.hold.wait()
        if self.pieces is not None:
            for piece in self.pieces:
                await response.write(piece)
                await asyncio.sleep(0)
            if self.stays:
                await asyncio.Event().wait()
            if self.breaks:
                assert request.transport is not None
                request.transport.abort()
            return response
        await _event(response, {"choices": [{"index": 0, "delta": {"role": "assistant", "content": self.name}}]})
        await self.hold.wait()
        await _event(response, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": None})
        if self.usage is not None:
            await _event(response, {"choices": [], "usage": self.usage})
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response


def _choice(text: str) -> dict[str, Any]:
    return {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}


async def _event(response: web.StreamResponse, data: dict[str, Any]) -> None:
    await response.write(f"data: {json.dumps({'id': '1', 'object': 'chat.completion.chunk', **data})}\n\n".encode())


Answerer = Callable[[web.Request], Awaitable[web.StreamResponse]]
