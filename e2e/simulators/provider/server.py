"""The provider's API and its control port."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import time
from collections import deque
from dataclasses import asdict, dataclass
from json import JSONDecodeError

from aiohttp import web

from e2e.simulators import completions
from e2e.simulators.provider.bill import Bill
from e2e.simulators.provider.config import TOKENS_PER_PRICE, ProviderConfig
from e2e.simulators.provider.errors import STYLES, Situation
from e2e.simulators.provider.faults import SITUATIONS, Faults, Mode, wrong_usage

CHUNK_SECONDS = 0.3
LATE_SECONDS = 4.0  # how much later the first token comes in the mode "late"
REQUESTS_KEPT = 500
MAX_BODY_BYTES = 64 * 1024 * 1024


@dataclass
class Arrival:
    """What came in and what became of it; the provider's own key is replaced, any other credential is kept visible."""

    at: float
    path: str
    headers: dict[str, str]
    body_keys: list[str]
    model: str | None = None
    stream: bool | None = None
    max_tokens: int | None = None
    n: int | None = None
    status: int | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    aborted: bool = False
    usd: str = "0"


@dataclass
class Generation:
    """Tokens of one answer as time passes: nothing until the first token, then a constant rate per choice."""

    asked: completions.CompletionRequest
    started: float
    first_token_seconds: float
    tokens_per_second: float

    def per_choice(self, now: float) -> int:
        since = now - self.started - self.first_token_seconds
        return 0 if since < 0 else min(self.asked.output_tokens, 1 + int(since * self.tokens_per_second))

    def tokens(self, now: float) -> int:
        return self.asked.n * self.per_choice(now)

    def seconds_left(self, now: float, *, per_choice: int | None = None) -> float:
        """Seconds until `per_choice` tokens (default: all) are there."""
        wanted = self.asked.output_tokens if per_choice is None else per_choice
        ready = self.started + self.first_token_seconds + max(0, wanted - 1) / self.tokens_per_second
        # A hair late, so that rounding cannot leave the last token for another turn.
        return max(0.0, ready - now) + 1e-4


class ProviderServer:
    def __init__(self, config: ProviderConfig) -> None:
        self.config = config
        self.bill = Bill(config.models)
        self.faults = Faults()
        self.arrivals: deque[Arrival] = deque(maxlen=REQUESTS_KEPT)
        self.in_flight = 0
        self.most_in_flight = 0
        self._numbers = itertools.count(1)
        self._wrong = itertools.count()

    def app(self) -> web.Application:
        """The API that customers see."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        base = self.config.base_path
        app.router.add_get(f"{base}/models", self._models)
        app.router.add_post(f"{base}/chat/completions", self._chat)
        return app

    def control(self) -> web.Application:
        """The test's side door."""
        app = web.Application()
        app.router.add_get("/bill", self._show_bill)
        app.router.add_get("/requests", self._show_requests)
        app.router.add_get("/state", self._show_state)
        app.router.add_get("/faults", self._show_faults)
        app.router.add_post("/faults", self._switch_faults)
        return app

    async def _models(self, request: web.Request) -> web.Response:
        if not self._authorized(request):
            return self._error("unauthorized")
        cards = [
            {
                "id": name,
                "object": "model",
                "owned_by": self.config.style,
                "pricing": {
                    "prompt": format(price.input_usd / TOKENS_PER_PRICE, "f"),
                    "input_cache_read": format(price.cached_input_usd / TOKENS_PER_PRICE, "f"),
                    "completion": format(price.output_usd / TOKENS_PER_PRICE, "f"),
                },
            }
            for name, price in self.config.models.items()
        ]
        return web.json_response({"object": "list", "data": cards})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        arrival = Arrival(time.time(), request.path, self._headers_without_key(request), [])
        self.arrivals.append(arrival)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            response = await self._answer(request, arrival)
        finally:
            self.in_flight -= 1
        arrival.status = response.status
        return response

    async def _answer(self, request: web.Request, arrival: Arrival) -> web.StreamResponse:
        mode = self.faults.draw()
        if mode == "outage":
            _break_connection(request)
        if not self._authorized(request):
            return self._error("unauthorized")
        if mode in SITUATIONS:
            return self._error(SITUATIONS[mode])
        if mode == "hang":
            # Until the customer gives up: the handler is cancelled when the connection closes.
            await asyncio.Event().wait()
        try:
            body = await request.json()
            asked = completions.parse(body, chat=True, seed=self.config.seed)
        except (completions.InvalidRequest, JSONDecodeError, UnicodeDecodeError):
            return self._error("bad_request")
        arrival.body_keys = sorted(body)
        arrival.model, arrival.stream = asked.model, asked.stream
        arrival.max_tokens, arrival.n = asked.max_tokens, asked.n
        if asked.model not in self.config.models:
            return self._error("unknown_model")
        if self.in_flight > self.config.max_concurrency:
            return self._error("rate_limited")
        generation = Generation(
            asked,
            asyncio.get_running_loop().time(),
            self.config.first_token_seconds + (LATE_SECONDS if mode == "late" else 0.0),
            self.config.tokens_per_second,
        )
        complete = False
        try:
            if asked.stream:
                response = await self._stream(request, generation, mode)
            else:
                response = await self._whole(request, generation, mode)
            complete = True
            return response
        finally:
            # Also when the customer hung up: what was generated until then is charged.
            self._charge(arrival, generation, complete=complete)

    async def _whole(self, request: web.Request, generation: Generation, mode: Mode) -> web.StreamResponse:
        asked = generation.asked
        loop = asyncio.get_running_loop()
        cut = mode == "abort_midstream"
        stop_at = max(1, asked.output_tokens // 2) if cut else asked.output_tokens
        await asyncio.sleep(generation.seconds_left(loop.time(), per_choice=stop_at))
        if cut:
            _break_connection(request)
        body = completions.answer(asked, identifier=self._identifier(), created=int(time.time()), model=asked.model)
        if mode == "no_usage":
            del body["usage"]
        elif mode == "wrong_usage":
            body["usage"] = wrong_usage(asked, next(self._wrong))
        return web.json_response(body)

    async def _stream(self, request: web.Request, generation: Generation, mode: Mode) -> web.StreamResponse:
        asked = generation.asked
        loop = asyncio.get_running_loop()
        cut = mode == "abort_midstream"
        writer = completions.ChunkWriter(
            asked, identifier=self._identifier(), created=int(time.time()), model=asked.model
        )
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await asyncio.sleep(generation.seconds_left(loop.time(), per_choice=1))
        await response.prepare(request)
        await response.write(writer.role())
        sent = 0
        while sent < asked.output_tokens:
            ready = generation.per_choice(loop.time())
            if ready > sent:
                await response.write(writer.tokens(sent, ready - sent))
                sent = ready
                if mode == "running_usage":
                    await response.write(writer.usage(asked.n * sent))
            if cut and sent * 2 >= asked.output_tokens:
                _break_connection(request)
            await asyncio.sleep(min(CHUNK_SECONDS, generation.seconds_left(loop.time())))
        tail = writer.finish()
        if asked.include_usage:
            match mode:
                case "no_usage":
                    pass
                case "wrong_usage":
                    tail += writer.stated(wrong_usage(asked, next(self._wrong)))
                case _:
                    tail += (2 if mode == "double_usage" else 1) * writer.usage(asked.completion_tokens)
        await response.write(tail + completions.DONE)
        await response.write_eof()
        return response

    def _charge(self, arrival: Arrival, generation: Generation, *, complete: bool) -> None:
        asked = generation.asked
        now = asyncio.get_running_loop().time()
        made = asked.completion_tokens if complete else generation.tokens(now)
        usd = self.bill.charge(asked.model, asked.prompt_tokens, made, at=time.time(), aborted=not complete)
        arrival.prompt_tokens, arrival.completion_tokens = asked.prompt_tokens, made
        arrival.aborted, arrival.usd = not complete, format(usd, "f")

    def _authorized(self, request: web.Request) -> bool:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        given = given or request.headers.get("x-api-key", "")
        return any(hmac.compare_digest(given.encode(), key.encode()) for key in self.config.keys)

    def _headers_without_key(self, request: web.Request) -> dict[str, str]:
        shown: dict[str, list[str]] = {}
        for name, value in request.headers.items():
            for key in self.config.keys:
                value = value.replace(key, "<provider key>")
            shown.setdefault(name.lower(), []).append(value)
        return {name: ", ".join(values) for name, values in shown.items()}

    def _error(self, situation: Situation) -> web.Response:
        answer = STYLES[self.config.style][situation]
        headers = dict(answer.headers)
        if self.faults.retry_after is not None:
            headers["retry-after"] = self.faults.retry_after
        return web.json_response(
            answer.body, status=answer.status, headers={name: value for name, value in headers.items() if value}
        )

    def _identifier(self) -> str:
        return f"{self.config.style}-{next(self._numbers):08x}"

    async def _show_bill(self, _: web.Request) -> web.Response:
        return web.json_response(self.bill.as_json())

    async def _show_requests(self, request: web.Request) -> web.Response:
        try:
            last = int(request.query.get("last", REQUESTS_KEPT))
        except ValueError:
            return web.json_response({"error": "last must be a whole number"}, status=400)
        kept = list(self.arrivals)[-last:] if last > 0 else []
        return web.json_response([asdict(arrival) for arrival in kept])

    async def _show_state(self, _: web.Request) -> web.Response:
        return web.json_response({"in_flight": self.in_flight, "most_in_flight": self.most_in_flight})

    async def _show_faults(self, _: web.Request) -> web.Response:
        return web.json_response(self.faults.as_json())

    async def _switch_faults(self, request: web.Request) -> web.Response:
        try:
            self.faults.switch(await request.json())
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response(self.faults.as_json())


def _break_connection(request: web.Request) -> None:
    """Drop the TCP connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionResetError("the simulated provider dropped the connection")
