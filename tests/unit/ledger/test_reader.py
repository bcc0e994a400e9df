"""The reader: every gateway, every round, whatever the others do."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from spillway.ledger.reader import GatewayPod, Page, Reader, Reading, ReadingFailed, Round

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
PODS = [GatewayPod("gw-1", "127.0.0.2:9902"), GatewayPod("gw-0", "127.0.0.1:9902")]


async def nothing(_: Round) -> None:
    return


async def test_a_gateway_that_fails_does_not_hide_the_others() -> None:
    async def fetch(pod: GatewayPod) -> Page:
        if pod.pod == "gw-1":
            raise ReadingFailed("status 503")
        if pod.pod == "gw-2":
            await asyncio.Event().wait()
        if pod.pod == "gw-3":
            raise ConnectionRefusedError
        return Page("p1", ())

    pods = [*PODS, GatewayPod("gw-2", "127.0.0.3:9902"), GatewayPod("gw-3", "127.0.0.4:9902")]
    reader = Reader(fetch, lambda: pods, nothing, lambda: NOON, timeout_seconds=0.05)
    seen = await reader.read()
    assert seen.readings == (Reading("gw-0", Page("p1", ()), NOON),)
    assert seen.failures == {
        "gw-1": "status 503",
        "gw-2": "no answer from 127.0.0.3:9902 within 0.05 s",
        "gw-3": "ConnectionRefusedError",
    }


async def test_a_bug_is_not_a_failed_reading() -> None:
    async def fetch(_: GatewayPod) -> Page:
        raise KeyError("process")

    with pytest.raises(KeyError):
        await Reader(fetch, lambda: PODS, nothing, lambda: NOON).read()


async def test_it_reads_again_and_again_until_stopped_and_follows_the_pods() -> None:
    stopped = asyncio.Event()
    rounds: list[Round] = []
    pods = PODS[:1]

    async def fetch(_: GatewayPod) -> Page:
        return Page("p1", ())

    async def on_round(seen: Round) -> None:
        rounds.append(seen)
        pods[:] = PODS
        if len(rounds) == 3:
            stopped.set()

    await Reader(fetch, lambda: pods, on_round, lambda: NOON, interval_seconds=0).run(stopped)
    assert [len(seen.readings) for seen in rounds] == [1, 2, 2]


async def test_stopping_does_not_wait_for_the_next_round() -> None:
    stopped, read_once = asyncio.Event(), asyncio.Event()

    async def fetch(_: GatewayPod) -> Page:
        return Page("p1", ())

    async def on_round(_: Round) -> None:
        read_once.set()

    running = asyncio.create_task(
        Reader(fetch, lambda: PODS, on_round, lambda: NOON, interval_seconds=3600).run(stopped)
    )
    await read_once.wait()
    stopped.set()
    await asyncio.wait_for(running, 60)
