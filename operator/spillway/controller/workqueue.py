"""Keyed work queue with client-go's semantics: a key is queued once, never worked on twice at a time, retried with
exponential back-off until it is forgotten."""

from __future__ import annotations

import asyncio
import random

FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.5, 120.0


class WorkQueue:
    """Keys are `namespace/name`."""

    def __init__(self, randomness: random.Random | None = None) -> None:
        self._ready: asyncio.Queue[str] = asyncio.Queue()
        self._queued: set[str] = set()
        self._working: set[str] = set()
        self._again: set[str] = set()
        self._failures: dict[str, int] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._random = randomness or random.Random()

    def __len__(self) -> int:
        return len(self._queued) + len(self._again)

    def add(self, key: str) -> None:
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if key in self._working:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.put_nowait(key)

    async def get(self) -> str:
        key = await self._ready.get()
        self._queued.discard(key)
        self._working.add(key)
        return key

    def done(self, key: str) -> None:
        """Work on the key has ended; if it was added meanwhile it is queued again."""
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def forget(self, key: str) -> None:
        """The key succeeded: the next failure starts with the shortest wait."""
        self._failures.pop(key, None)

    def retry(self, key: str) -> float:
        """Queue the key again after its back-off; returns the seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        wait = min(FIRST_RETRY_SECONDS * 2.0**failures, LONGEST_RETRY_SECONDS) * self._random.uniform(0.8, 1.2)
        if key not in self._timers:
            self._timers[key] = asyncio.get_running_loop().call_later(wait, self._due, key)
        return wait

    def _due(self, key: str) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
