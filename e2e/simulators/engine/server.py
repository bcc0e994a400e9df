"""The engine's HTTP server: OpenAI endpoints, health, metrics, and its life from cold start to drained."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from json import JSONDecodeError
from typing import Any

from aiohttp import web

from e2e.simulators import completions
from e2e.simulators.engine import dialect
from e2e.simulators.engine.dialect import Refusal
from e2e.simulators.engine.group import Membership, RendezvousFailed
from e2e.simulators.engine.hub import fetch
from e2e.simulators.engine.metrics import EngineMetrics
from e2e.simulators.engine.model import Capacity, EngineModel, Sequence
from e2e.simulators.engine.prefix import blocks
from e2e.simulators.engine.scheduler import EngineStopped, Scheduler
from e2e.simulators.engine.settings import Settings, Surroundings

MAX_BODY_BYTES = 64 * 1024 * 1024


class EngineServer:
    """One engine process: `app()` for the routes, `drain()` for the end."""

    def __init__(self, settings: Settings, around: Surroundings) -> None:
        self.settings = settings
        self.around = around
        capacity = Capacity(
            prefill_tokens_per_second=around.prefill_tokens_per_second,
            decode_tokens_per_second=around.decode_tokens_per_second,
            stream_tokens_per_second=around.stream_tokens_per_second,
            max_running=settings.max_running,
            kv_cache_tokens=max(around.kv_cache_tokens, settings.max_model_tokens),
            prefix_caching=settings.prefix_caching,
        )
        self.model = EngineModel(capacity)
        self.metrics = EngineMetrics(settings, self.model)
        self.scheduler = Scheduler(self.model, self.metrics)
        self.draining = False
        self._numbers = itertools.count(1)
        self._open_answers = 0
        self._answers_closed = asyncio.Event()

    def app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._guard])
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._completion)
        if self.settings.metrics:
            app.router.add_get("/metrics", self._metrics_page)
        if self.settings.engine == "vllm":
            app.router.add_get("/ping", self._health)
        else:
            app.router.add_get("/ready", self._health)
            app.router.add_get("/health_generate", self._health)
        return app

    async def drain(self) -> None:
        """After SIGTERM: finish what is in flight within the engine's time, then give up the rest."""
        self.draining = True
        if self.settings.shutdown_seconds is None:
            # SGLang looks every few seconds whether anything is left, so its exit is late by up to that.
            while self._open_answers:  # noqa: ASYNC110
                await asyncio.sleep(self.around.drain_poll_seconds)
            return
        try:
            async with asyncio.timeout(self.settings.shutdown_seconds):
                while self._open_answers:
                    self._answers_closed.clear()
                    await self._answers_closed.wait()
        except TimeoutError:
            print(f"shutdown timeout reached, aborting {self.model.unfinished} requests", flush=True)
            self.scheduler.stop()

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if self.settings.api_keys and request.path.startswith("/v1"):
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not any(hmac.compare_digest(given.encode(), key.encode()) for key in self.settings.api_keys):
                return web.json_response({"error": "Unauthorized"}, status=401)
        self._open_answers += request.method == "POST"
        try:
            response = await handler(request)
        finally:
            if request.method == "POST":
                self._open_answers -= 1
                self._answers_closed.set()
        if request.method == "POST":
            self.metrics.totals.responses[(request.path, response.status)] += 1
        return response

    async def _health(self, _: web.Request) -> web.Response:
        # vLLM stays healthy while it drains (measured), so only SGLang can be probed for it.
        if self.draining and self.settings.engine == "sglang":
            return web.Response(status=503)
        return web.Response(status=200)

    async def _metrics_page(self, _: web.Request) -> web.Response:
        return web.Response(body=self.metrics.page(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _models(self, _: web.Request) -> web.Response:
        cards = [
            {
                "id": name,
                "object": "model",
                "created": int(time.time()),
                "owned_by": self.settings.engine,
                "root": self.settings.model,
                "parent": None,
                "max_model_len": self.settings.max_model_tokens,
            }
            for name in self.settings.served_names
        ]
        return web.json_response({"object": "list", "data": cards})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._complete(request, chat=True)

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        return await self._complete(request, chat=False)

    async def _complete(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        engine = self.settings.engine
        try:
            asked = completions.parse(await request.json(), chat=chat, seed=self.around.seed)
        except (completions.InvalidRequest, JSONDecodeError, UnicodeDecodeError) as error:
            return dialect.error_response(engine, dialect.bad_request(str(error)))
        refusal = self._refusal(asked)
        if refusal is not None:
            if refusal.counted:
                self.metrics.totals.rejected[refusal.counted] += 1
            if engine == "sglang" and refusal.status == 503 and asked.stream:
                return await self._refuse_in_stream(request, refusal)
            return dialect.error_response(engine, refusal)
        sequence = self._sequence(asked)
        try:
            if asked.stream:
                return await self._stream(request, asked, sequence)
            return await self._whole(asked, sequence)
        except EngineStopped:
            self._book_abort()
            if asked.stream:
                # The headers are out: the connection breaks in mid-stream, as it does when the process dies.
                if request.transport is not None:
                    request.transport.abort()
                raise
            return dialect.error_response(engine, Refusal(500, "Engine was shut down.", "InternalServerError"))
        except (asyncio.CancelledError, ConnectionResetError):
            self._book_abort()
            raise

    def _refusal(self, asked: completions.CompletionRequest) -> Refusal | None:
        settings, model = self.settings, self.model
        if settings.engine == "vllm" and asked.model and asked.model not in settings.served_names:
            return dialect.unknown_model(asked.model)
        longest = asked.max_tokens or asked.output_tokens
        if asked.prompt_tokens + longest > settings.max_model_tokens:
            return dialect.too_long(settings.max_model_tokens, asked.prompt_tokens, longest)
        if settings.engine == "sglang":
            limit = settings.max_queued_requests
            # A request that can run at once never waits, so it cannot find the queue full.
            has_slot = not model.waiting and sum(s.n for s in model.running) < settings.max_running
            if limit is not None and not has_slot and len(model.waiting) >= limit:
                return dialect.queue_full("sglang", "max_queued_requests", limit)
            return None
        if self.draining:
            return dialect.draining()
        # Despite its name vLLM's limit is on all unfinished requests, running ones included (measured).
        in_flight = sum(s.n for s in (*model.running, *model.waiting))
        if settings.max_queued_requests is not None and in_flight + asked.n > settings.max_queued_requests:
            return dialect.queue_full("vllm", "max_num_queued_reqs", settings.max_queued_requests)
        if settings.max_queued_tokens is not None and model.prefill_tokens_queued >= settings.max_queued_tokens:
            return dialect.queue_full("vllm", "max_num_queued_tokens", settings.max_queued_tokens)
        return None

    async def _whole(self, asked: completions.CompletionRequest, sequence: Sequence) -> web.Response:
        await self.scheduler.finish(sequence)
        self.metrics.totals.answered(sequence, reason=asked.finish_reason, streaming=False)
        body = completions.answer(
            asked,
            identifier=self._identifier(asked),
            created=int(time.time()),
            model=self._model_name(asked),
            cached_tokens=self._told(sequence),
        )
        return web.json_response(body)

    async def _stream(
        self, request: web.Request, asked: completions.CompletionRequest, sequence: Sequence
    ) -> web.StreamResponse:
        writer = completions.ChunkWriter(
            asked, identifier=self._identifier(asked), created=int(time.time()), model=self._model_name(asked)
        )
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        sent = 0
        try:
            async for generated in self.scheduler.progress(sequence):
                if not response.prepared:
                    await response.prepare(request)
                    await response.write(writer.role())
                per_choice = generated // asked.n
                if per_choice > sent:
                    await response.write(writer.tokens(sent, per_choice - sent))
                    sent = per_choice
        except EngineStopped:
            if not response.prepared:
                return dialect.error_response(
                    self.settings.engine, Refusal(500, "Engine was shut down.", "InternalServerError")
                )
            raise
        usage = writer.usage(asked.completion_tokens, self._told(sequence)) if asked.include_usage else b""
        await response.write(writer.finish() + usage + completions.DONE)
        await response.write_eof()
        self.metrics.totals.answered(sequence, reason=asked.finish_reason, streaming=True)
        return response

    def _sequence(self, asked: completions.CompletionRequest) -> Sequence:
        sequence = Sequence(asked.prompt_tokens, asked.completion_tokens, asked.n)
        if self.settings.prefix_caching:
            prompt = asked.prompt.encode()
            sequence.prompt = blocks(prompt)
            answer = completions.text(0, asked.output_tokens).encode() if asked.n == 1 else b""
            sequence.whole = blocks(prompt + answer)
        return sequence

    def _told(self, sequence: Sequence) -> int | None:
        return sequence.cached_tokens if self.settings.tells_cached_tokens else None

    async def _refuse_in_stream(self, request: web.Request, refusal: Refusal) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(dialect.error_event(self.settings.engine, refusal) + completions.DONE)
        await response.write_eof()
        return response

    def _book_abort(self) -> None:
        self.metrics.totals.aborted += 1
        if self.settings.engine == "vllm":
            self.metrics.totals.finished["abort"] += 1

    def _identifier(self, asked: completions.CompletionRequest) -> str:
        return f"{'chatcmpl' if asked.chat else 'cmpl'}-{next(self._numbers):08x}"

    def _model_name(self, asked: completions.CompletionRequest) -> str:
        return asked.model or self.settings.served_names[0]


async def serve(settings: Settings, around: Surroundings) -> int:
    """Load, serve, drain. Returns the exit status."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    membership = None
    if settings.group:
        membership = Membership(settings.group, around.bind_address("0.0.0.0"), around.hosts)
    try:
        return await _live(settings, around, stop, membership)
    except RendezvousFailed as error:
        print(error, flush=True)
        return 1
    finally:
        if membership:
            await membership.leave()


async def _live(settings: Settings, around: Surroundings, stop: asyncio.Event, membership: Membership | None) -> int:
    lost = membership.lost if membership else asyncio.Event()
    if membership and await _first(stop.wait(), membership.meet()) == 0:
        return 143
    # Nothing listens while the weights load: connections are refused, as with the real engines.
    ended = await _first(stop.wait(), lost.wait(), _load(settings.model, around))
    if ended != 2:
        return 143 if ended == 0 else _engine_died()
    if settings.headless:
        return 0 if await _first(stop.wait(), lost.wait()) == 0 else _engine_died()
    server = EngineServer(settings, around)
    runner = web.AppRunner(server.app(), access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, settings.host, settings.port, backlog=1024)
    ticking = asyncio.create_task(server.scheduler.run())
    try:
        await site.start()
        port = runner.addresses[0][1]
        print(f"{settings.engine} simulator of {settings.model} on http://{settings.host}:{port}", flush=True)
        if await _first(stop.wait(), lost.wait()) == 0 and await _first(server.drain(), lost.wait()) == 0:
            return 0
        server.scheduler.stop()  # what was in flight breaks
        return _engine_died()
    finally:
        await runner.cleanup()
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)


async def _load(model: str, around: Surroundings) -> None:
    """The weights into GPU memory; before that, unless a volume or the hub's cache holds them, from far away."""
    if not model.startswith("/") and "://" not in model:
        await fetch(model, around.hub, around.fetch_seconds)
    await asyncio.sleep(around.load_seconds)


def _engine_died() -> int:
    print("EngineDeadError: a process of this engine on another node has gone", flush=True)
    return 1


async def _first(*ways: Coroutine[Any, Any, object]) -> int:
    """The number of the way that ends first, the first of those that end together; the others are given up."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        number = next(n for n, task in enumerate(tasks) if task.done())
        tasks[number].result()
        return number
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
