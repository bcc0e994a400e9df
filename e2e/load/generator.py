"""The client side: replays a schedule against gateways on loopback addresses and records every request's fate."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import random
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import aiohttp

from e2e.load.schedule import Arrival, Schedule
from e2e.load.summary import Record, Summary, summarize

BYTES_PER_TOKEN = 4
SERVED_BY = "x-spillway-served-by"
REASON = "x-spillway-reason"
_FILLER = "the water rises behind the dam and the spillway takes what the turbines cannot " * 8000


class RefusedTarget(ValueError):
    """The address is not a loopback address: load is never sent anywhere else."""


@dataclass(frozen=True)
class Target:
    """Where load goes: gateway base URLs (taken in turn), the Host header, and the model named in the body."""

    gateways: tuple[str, ...]
    host: str
    model: str
    headers: tuple[tuple[str, str], ...] = ()
    path: str = "/v1/chat/completions"

    def __post_init__(self) -> None:
        if not self.gateways:
            raise RefusedTarget("at least one gateway address is needed")
        for url in self.gateways:
            require_loopback(url)


def require_loopback(url: str) -> None:
    """Raises RefusedTarget unless `url` is http(s) to a loopback address."""
    parts = urlsplit(url)
    name = parts.hostname or ""
    try:
        loopback = name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        loopback = False
    if parts.scheme not in {"http", "https"} or not loopback:
        raise RefusedTarget(
            f"{url} is not an http address on the loopback interface: the load generator only ever talks to 127.0.0.0/8"
            " or ::1 (give the gateway's address, and the deployment's name as the Host header)"
        )


@dataclass
class LoadRun:
    """One replay. `await run()`; meanwhile `records`, `in_flight`, `summary()` show how it goes, `stop()` ends it.

    `most_in_flight` bounds the client's memory: an arrival above it is recorded as failed with error `client_limit`.
    """

    target: Target
    schedule: Schedule
    streaming_share: float = 0.7
    seed: int = 0
    most_in_flight: int = 4000
    timeout_seconds: float = 300.0
    max_tokens: int | None = None
    records: list[Record] = field(default_factory=list)
    in_flight: int = 0
    sent: int = 0
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _started: float = 0.0

    async def run(self) -> Summary:
        """Send everything at its time, wait for the last answer, add up."""
        loop = asyncio.get_running_loop()
        self._started = loop.time()
        draw = random.Random(self.seed)
        tasks: set[asyncio.Task[None]] = set()
        timeout = aiohttp.ClientTimeout(total=self.timeout_seconds, sock_connect=10.0)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            for number, arrival in enumerate(self.schedule.arrivals):
                streaming = draw.random() < self.streaming_share
                if await self._stopped_until(self._started + arrival.at):
                    break
                if self.in_flight >= self.most_in_flight:
                    self.records.append(self._failure(self.elapsed(), streaming, None, "client_limit"))
                    continue
                self.sent += 1
                self.in_flight += 1
                task = asyncio.create_task(self._request(session, number, arrival, streaming))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            while tasks:
                await asyncio.wait(tasks)
        return self.summary()

    def stop(self) -> None:
        """Send nothing more; answers under way are still awaited."""
        self._stopping.set()

    def elapsed(self) -> float:
        return asyncio.get_running_loop().time() - self._started

    def summary(self) -> Summary:
        return summarize(self.records)

    async def _stopped_until(self, moment: float) -> bool:
        wait = moment - asyncio.get_running_loop().time()
        if wait > 0:
            try:
                await asyncio.wait_for(self._stopping.wait(), wait)
            except TimeoutError:
                return False
        return self._stopping.is_set()

    async def _request(self, session: aiohttp.ClientSession, number: int, arrival: Arrival, streaming: bool) -> None:
        gateway = self.target.gateways[number % len(self.target.gateways)]
        self.records.append(await self._fate(session, gateway, number, arrival, streaming))
        self.in_flight -= 1

    async def _fate(
        self, session: aiohttp.ClientSession, gateway: str, number: int, arrival: Arrival, streaming: bool
    ) -> Record:
        """What becomes of one request at that gateway."""
        start = self.elapsed()
        url = gateway.rstrip("/") + self.target.path
        headers = {"Host": self.target.host, "Content-Type": "application/json", **dict(self.target.headers)}
        try:
            async with session.post(
                url, data=self.body(number, arrival, streaming), headers=headers, allow_redirects=False
            ) as response:
                found = await self._read(response, start, streaming)
        except TimeoutError:
            found = self._failure(start, streaming, None, "timeout")
        except aiohttp.ClientConnectorError:
            found = self._failure(start, streaming, None, "connect")
        except aiohttp.ClientError:
            found = self._failure(start, streaming, None, "disconnected")
        return replace(found, gateway=gateway)

    def body(self, number: int, arrival: Arrival, streaming: bool) -> bytes:
        """The request's JSON: a prompt of the arrival's length that ends in the output-length marker, and that begins
        like no other: traces do not say what requests have in common, so no cache may find anything."""
        head = f"conversation {number}: "
        tail = f" [[out={arrival.output_tokens}]]"
        filler = max(0, arrival.prompt_tokens * BYTES_PER_TOKEN - len(head) - len(tail))
        text = head + (_FILLER * (filler // len(_FILLER) + 1))[:filler] + tail
        body: dict[str, object] = {"model": self.target.model, "messages": [{"role": "user", "content": text}]}
        if self.max_tokens is not None:
            body["max_tokens"] = self.max_tokens
        if streaming:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return json.dumps(body).encode()

    async def _read(self, response: aiohttp.ClientResponse, start: float, streaming: bool) -> Record:
        reading = _Reading()
        error: str | None = None
        try:
            if response.status >= 300:
                reading.refused(await response.read())
                error = f"http_{response.status}"
            elif streaming:
                error = await self._read_stream(response, reading)
            else:
                error = reading.whole(await response.read())
                reading.first_token = self.elapsed()
        except TimeoutError:
            error = "timeout"
        except aiohttp.ClientError:
            error = "cut"
        return Record(
            start=start,
            end=self.elapsed(),
            streaming=streaming,
            status=response.status,
            served_by=response.headers.get(SERVED_BY),
            reason=response.headers.get(REASON),
            first_token=reading.first_token,
            prompt_tokens=reading.prompt_tokens,
            completion_tokens=reading.completion_tokens,
            error=error,
            error_code=reading.error_code,
        )

    async def _read_stream(self, response: aiohttp.ClientResponse, reading: _Reading) -> str | None:
        done = False
        error: str | None = None
        async for line in response.content:
            if not line.startswith(b"data:"):
                continue
            payload = line[5:].strip()
            if payload == b"[DONE]":
                done = True
            # Only the events that carry news are decoded: the others are tokens, and there are many.
            elif reading.first_token is None or b'"usage"' in payload or b'"error"' in payload:
                error = reading.event(payload, self.elapsed()) or error
        return error or (None if done else "cut")

    def _failure(self, start: float, streaming: bool, status: int | None, error: str) -> Record:
        return Record(start, self.elapsed(), streaming, status, None, None, None, None, None, error)


@dataclass
class _Reading:
    """What was learned from a body so far."""

    first_token: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error_code: str | None = None

    def whole(self, body: bytes) -> str | None:
        decoded = _decode(body)
        if decoded is None or not decoded.get("choices"):
            return "malformed"
        self._usage(decoded)
        return None

    def event(self, payload: bytes, now: float) -> str | None:
        decoded = _decode(payload)
        if decoded is None:
            return "malformed"
        if decoded.get("error"):
            self.refused(payload)
            return "in_stream"
        self._usage(decoded)
        if self.first_token is None and _has_text(decoded):
            self.first_token = now
        return None

    def refused(self, body: bytes) -> None:
        decoded = _decode(body) or {}
        detail = decoded.get("error")
        code = detail.get("code") if isinstance(detail, dict) else decoded.get("code")
        self.error_code = None if code is None else str(code)

    def _usage(self, decoded: dict[str, object]) -> None:
        usage = decoded.get("usage")
        if isinstance(usage, dict):
            self.prompt_tokens = _whole_number(usage.get("prompt_tokens"))
            self.completion_tokens = _whole_number(usage.get("completion_tokens"))


def _decode(body: bytes) -> dict[str, object] | None:
    try:
        decoded = json.loads(body)
    except ValueError:
        return None
    return decoded if isinstance(decoded, dict) else None


def _has_text(event: dict[str, object]) -> bool:
    choices = event.get("choices")
    if not isinstance(choices, list):
        return False
    deltas = (choice.get("delta") for choice in choices if isinstance(choice, dict))
    return any(isinstance(delta, dict) and delta.get("content") for delta in deltas)


def _whole_number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
