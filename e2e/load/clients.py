"""Clients that ask, read, and ask again: so many at once, however fast the answers come."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import aiohttp

from e2e.load.generator import LoadRun
from e2e.load.summary import Summary

RAMP_SECONDS = 3.0
THINK_SECONDS = (0.2, 1.2)  # between an answer and the next request
REFUSED_SECONDS = (1.0, 3.0)  # after a refusal: what a patient client waits, whatever retry-after says


@dataclass
class Clients(LoadRun):
    """`clients` conversations for `seconds`; requests are drawn from the schedule's. A gateway that refuses the
    connection is left for another one, as a Service would: nothing was sent yet."""

    clients: int = 200
    seconds: float = 60.0

    async def run(self) -> Summary:
        """Ask until the time is over or `stop`; answers under way are awaited."""
        self._started = asyncio.get_running_loop().time()
        timeout = aiohttp.ClientTimeout(total=self.timeout_seconds, sock_connect=5.0)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            await asyncio.gather(*(self._converse(session, number) for number in range(self.clients)))
        return self.summary()

    async def _converse(self, session: aiohttp.ClientSession, client: int) -> None:
        draw = random.Random(f"{self.seed}-{client}")
        pause = draw.uniform(0, RAMP_SECONDS)
        while not await self._stopped_until(asyncio.get_running_loop().time() + pause):
            if self.elapsed() >= self.seconds:
                return
            arrival = draw.choice(self.schedule.arrivals)
            streaming = draw.random() < self.streaming_share
            gateways = draw.sample(self.target.gateways, len(self.target.gateways))
            self.sent += 1
            self.in_flight += 1
            for gateway in gateways:
                found = await self._fate(session, gateway, self.sent, arrival, streaming)
                if found.error != "connect":
                    break
            self.records.append(found)
            self.in_flight -= 1
            pause = draw.uniform(*(REFUSED_SECONDS if found.failed else THINK_SECONDS))
