"""client-go's promises: queued once, worked on once at a time, retried later and later until forgotten."""

from __future__ import annotations

import asyncio
import random

from hypothesis import given
from hypothesis import strategies as st

from spillway.controller.workqueue import FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, WorkQueue


async def test_a_key_is_queued_once() -> None:
    queue = WorkQueue()
    for key in ("a", "b", "a", "a"):
        queue.add(key)
    assert len(queue) == 2
    assert [await queue.get(), await queue.get()] == ["a", "b"]
    assert len(queue) == 0


async def test_a_key_that_is_added_while_it_is_worked_on_comes_again_afterwards() -> None:
    queue = WorkQueue()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    queue.add("a")
    queue.add("b")
    assert await queue.get() == "b", "nobody else may take a key that is worked on"
    assert len(queue) == 1
    queue.done("a")
    assert await queue.get() == "a"
    queue.done("a")
    assert len(queue) == 0


async def test_done_without_another_add_brings_nothing_back() -> None:
    queue = WorkQueue()
    queue.add("a")
    queue.done(await queue.get())
    assert len(queue) == 0
    queue.add("a")
    assert len(queue) == 1


async def test_waits_double_up_to_a_limit_and_start_anew_when_forgotten() -> None:
    queue = WorkQueue(random.Random(1))
    waits = [queue.retry("a") for _ in range(12)]
    for failures, wait in enumerate(waits):
        nominal = min(FIRST_RETRY_SECONDS * 2.0**failures, LONGEST_RETRY_SECONDS)
        assert 0.8 * nominal <= wait <= 1.2 * nominal
    assert queue.retry("b") < 2 * FIRST_RETRY_SECONDS, "each key has failures of its own"
    queue.forget("a")
    assert queue.retry("a") < 2 * FIRST_RETRY_SECONDS
    queue.close()


async def test_a_retry_is_queued_when_its_time_has_come() -> None:
    queue = WorkQueue()
    queue.add("a")
    key = await queue.get()
    queue.retry(key)
    queue.done(key)
    assert len(queue) == 0
    assert await asyncio.wait_for(queue.get(), 30) == "a"


async def test_new_word_of_a_key_does_not_wait_for_its_retry() -> None:
    queue = WorkQueue()
    queue.retry("a")
    queue.add("a")
    assert len(queue) == 1
    assert await queue.get() == "a"
    queue.done("a")
    assert not queue._timers, "and the retry is not made a second time"


async def test_close_cancels_what_waits() -> None:
    queue = WorkQueue()
    queue.retry("a")
    timer = queue._timers["a"]
    queue.close()
    assert timer.cancelled()


@given(st.lists(st.tuples(st.sampled_from(["add", "get", "done"]), st.sampled_from("abc")), max_size=40))
def test_no_key_is_lost_or_worked_on_twice_at_a_time(steps: list[tuple[str, str]]) -> None:
    async def play() -> None:
        queue, working, owed = WorkQueue(), set[str](), set[str]()
        for step, key in steps:
            if step == "add":
                queue.add(key)
                owed.add(key)
            elif step == "get" and owed - working:
                got = await asyncio.wait_for(queue.get(), 30)
                assert got not in working
                working.add(got)
                owed.discard(got)
            elif step == "done" and key in working:
                working.discard(key)
                queue.done(key)
        for key in tuple(working):
            queue.done(key)
        left = {await asyncio.wait_for(queue.get(), 30) for _ in range(len(queue))}
        assert left == owed

    asyncio.run(play())
