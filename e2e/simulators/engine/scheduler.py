"""The one ticking loop: it moves the pure model along with the clock and wakes the requests that have news."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from e2e.simulators.engine.metrics import EngineMetrics
from e2e.simulators.engine.model import EngineModel, Sequence

TICK_SECONDS = 0.1
# One server-sent event carries what a stream made in this time, not one token: events cost CPU on every hop.
CHUNK_SECONDS = 0.3


class EngineStopped(Exception):
    """The engine gave the request up while it was running."""


class Scheduler:
    """Runs `model` in real time. Requests register, wait for progress, and unregister."""

    def __init__(self, model: EngineModel, metrics: EngineMetrics) -> None:
        self.model = model
        self._metrics = metrics
        self._busy = asyncio.Event()
        self._waiters: dict[Sequence, asyncio.Event] = {}
        self._told: dict[Sequence, float] = {}
        self._stopped = False

    async def run(self) -> None:
        """Tick while there is work, sleep while there is none; ends when cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._busy.wait()
            last = loop.time()
            while not self.model.idle:
                await asyncio.sleep(TICK_SECONDS)
                now = loop.time()
                self._tick(now - last)
                last = now
            self._busy.clear()

    async def progress(self, sequence: Sequence) -> AsyncIterator[int]:
        """Submit, then yield the tokens generated so far: at the first token, every CHUNK_SECONDS, at the end.

        Leaving the iteration early aborts the sequence. Raises EngineStopped when the engine is shut down under it.
        """
        news = asyncio.Event()
        self._waiters[sequence] = news
        self.model.submit(sequence, asyncio.get_running_loop().time())
        self._busy.set()
        try:
            while True:
                await news.wait()
                news.clear()
                if sequence.finished is None and self._stopped:
                    raise EngineStopped
                yield min(sequence.generated_tokens, sequence.output_tokens)
                if sequence.finished is not None:
                    return
        finally:
            self._waiters.pop(sequence, None)
            self._told.pop(sequence, None)
            if sequence.finished is None:
                self.model.abort(sequence)

    async def finish(self, sequence: Sequence) -> None:
        """Submit and wait for the last token."""
        async for _ in self.progress(sequence):
            pass

    def stop(self) -> None:
        """Give up everything in flight."""
        self._stopped = True
        for news in self._waiters.values():
            news.set()

    def _tick(self, dt: float) -> None:
        report = self.model.step(dt)
        self._metrics.totals.stepped(report, dt)
        now = self.model.now
        for sequence in report.first_tokens:
            self._tell(sequence, now)
        for sequence in report.finished:
            self._tell(sequence, now)
        for sequence in self.model.running:
            if now - self._told.get(sequence, now) >= CHUNK_SECONDS:
                self._tell(sequence, now)

    def _tell(self, sequence: Sequence, now: float) -> None:
        self._told[sequence] = now
        with suppress(KeyError):
            self._waiters[sequence].set()
