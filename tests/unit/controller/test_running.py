"""The leader's tasks: a clean end lets them finish, an error ends them at once."""

from __future__ import annotations

import asyncio

import pytest

from spillway.controller.process import running


async def test_a_clean_end_waits_for_those_that_listen() -> None:
    stopped, ended = asyncio.Event(), []

    async def listens(name: str) -> None:
        await stopped.wait()
        ended.append(name)

    async with running(listens("treasury"), listens("brain"), asyncio.Event().wait()):  # type: ignore[arg-type]
        stopped.set()
    assert sorted(ended) == ["brain", "treasury"]


async def test_an_error_ends_all_at_once() -> None:
    """Who lost the lease must not go on deciding."""
    cancelled = []

    async def works(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(name)

    async def lose() -> None:
        async with running(works("treasury"), works("brain"), works("worker")):
            await asyncio.sleep(0)
            raise LookupError("lost")

    with pytest.raises(LookupError):
        # Those that listen would be waited for ten seconds; nothing here would ever stop them.
        await asyncio.wait_for(lose(), 8)
    assert sorted(cancelled) == ["brain", "treasury", "worker"]


async def test_a_task_that_fails_is_heard_of() -> None:
    async def fails() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        async with running(fails(), asyncio.Event().wait()) as failed:  # type: ignore[arg-type]
            await asyncio.wait_for(failed, 30)
