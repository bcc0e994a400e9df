"""Reads the counters of every gateway pod every two seconds: an outage of Prometheus must not blind a budget."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from .external import EgressSample

READ_SECONDS: Final = 2.0
TIMEOUT_SECONDS: Final = 1.5


class ReadingFailed(Exception):
    """A gateway's counters could not be had; the message says why. Raised by the fetch callable."""


@dataclass(frozen=True, slots=True)
class GatewayPod:
    """A gateway pod that exists: its name and the address its counters are read at."""

    pod: str
    address: str


@dataclass(frozen=True, slots=True)
class Page:
    """One page of counters: which life of the gateway it is from, and what it counted since that life began."""

    process: str
    samples: tuple[EgressSample, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    pod: str
    page: Page
    at: datetime


@dataclass(frozen=True, slots=True)
class Round:
    """One look at all gateways: what was read, and why the others were not (by pod name). A pod that could not be read
    has not vanished: it is charged when it answers again or is gone."""

    readings: tuple[Reading, ...]
    failures: dict[str, str]


Fetch = Callable[[GatewayPod], Awaitable[Page]]


class Reader:
    """Reads all gateway pods at once, then hands the round over, again and again until stopped.

    `fetch` raises `ReadingFailed` (or `OSError`, or takes too long) for a gateway that does not answer; anything else
    is a bug and ends `run`. `on_round` is awaited before the next round, so rounds never overlap.
    """

    def __init__(
        self,
        fetch: Fetch,
        gateways: Callable[[], Iterable[GatewayPod]],
        on_round: Callable[[Round], Awaitable[None]],
        clock: Callable[[], datetime],
        interval_seconds: float = READ_SECONDS,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._fetch = fetch
        self._gateways = gateways
        self._on_round = on_round
        self._clock = clock
        self._interval_seconds = interval_seconds
        self._timeout_seconds = timeout_seconds

    async def run(self, stopped: asyncio.Event) -> None:
        """Read until `stopped` is set; a round under way is finished and handed over."""
        loop = asyncio.get_running_loop()
        while not stopped.is_set():
            due = loop.time() + self._interval_seconds
            await self._on_round(await self.read())
            await _wait(stopped, due - loop.time())

    async def read(self) -> Round:
        """Read every gateway once, at the same time. A reading is dated when its answer was asked for, so that it never
        claims to know more than it does."""
        pods = sorted(self._gateways(), key=lambda pod: pod.pod)
        results = await asyncio.gather(*(self._read(pod) for pod in pods))
        return Round(
            tuple(result for result in results if isinstance(result, Reading)),
            {pod.pod: result for pod, result in zip(pods, results, strict=True) if isinstance(result, str)},
        )

    async def _read(self, pod: GatewayPod) -> Reading | str:
        at = self._clock()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return Reading(pod.pod, await self._fetch(pod), at)
        except TimeoutError:
            return f"no answer from {pod.address} within {self._timeout_seconds:g} s"
        except (ReadingFailed, OSError) as error:
            return str(error) or type(error).__name__


async def _wait(stopped: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await stopped.wait()
    except TimeoutError:
        return
