"""Pools that cannot give GPUs: closed, tried again later, opened for good once they give some."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spillway.decide.memory import PoolMemory
from spillway.decide.pools import LONGEST_CLOSURE_SECONDS, plan_of, remember, waiting_since
from spillway.decide.snapshot import Asked, Phase, Pool, Replica, Snapshot

from .world import BLACKWELL, HOPPER, deployment

TIMEOUT = 600.0
POOL = Pool("b200", provisioning_timeout_seconds=TIMEOUT)


def snapshot(now: float, *replicas: Replica, asked: tuple[Asked, ...] = ()) -> Snapshot:
    return Snapshot(now, (deployment(replicas=replicas, asked=asked),), (POOL,))


def waiting(since: float, variant: str = BLACKWELL.name, name: str = "w") -> Replica:
    return Replica(name, variant, "rev1", Phase.PENDING, since)


def placed(asked_at: float, scheduled_at: float) -> Replica:
    return Replica("p", BLACKWELL.name, "rev1", Phase.STARTING, asked_at, scheduled_at)


REFUSED = (Asked(BLACKWELL.name, "rev1", 1, "exceeded quota: gpus"),)
ELSEWHERE = (Asked(HOPPER.name, "rev1", 1, "exceeded quota: gpus"),)


@pytest.mark.parametrize(
    ("seen", "closed"),
    [
        (snapshot(1000.0), False),
        (snapshot(1000.0, waiting(1000.0 - TIMEOUT + 1)), False),
        (snapshot(1000.0, waiting(1000.0 - TIMEOUT)), True),
        (snapshot(1000.0, waiting(990.0), waiting(100.0, name="older")), True),
        (snapshot(1000.0, waiting(0.0, HOPPER.name)), False),
        (snapshot(1000.0, replace(waiting(0.0), phase=Phase.STARTING, scheduled_at=1.0)), False),
        (snapshot(1000.0, waiting(0.0, "a-variant-that-is-gone")), False),
        (snapshot(1000.0, asked=REFUSED), True),
        (snapshot(1000.0, asked=ELSEWHERE), False),
    ],
)
def test_closing(seen: Snapshot, closed: bool) -> None:
    memory = remember(seen, POOL, PoolMemory())
    assert (memory.closed_until > seen.time) is closed
    if closed:
        assert memory == PoolMemory(seen.time + TIMEOUT, seen.time, 1)
    else:
        assert memory == PoolMemory()


def test_each_failure_doubles_the_closure_up_to_an_hour() -> None:
    memory, now, closures = PoolMemory(), 1000.0, []
    for _ in range(6):
        memory = remember(snapshot(now, waiting(now - TIMEOUT)), POOL, memory)
        closures.append(memory.closed_until - now)
        now = memory.closed_until
    assert closures == [600, 1200, 2400, LONGEST_CLOSURE_SECONDS, LONGEST_CLOSURE_SECONDS, LONGEST_CLOSURE_SECONDS]
    assert memory.closed_since == 1000.0, "since when it gives nothing does not move"


def test_a_closed_pool_stays_closed_whatever_happens() -> None:
    closed = PoolMemory(2000.0, 1000.0, 1)
    for seen in (snapshot(1500.0), snapshot(1999.0, waiting(0.0)), snapshot(1500.0, placed(900.0, 1400.0))):
        assert remember(seen, POOL, closed) == closed


def test_it_is_forgiven_only_when_it_gives_a_gpu_that_was_asked_for_after_it_opened() -> None:
    opened = PoolMemory(2000.0, 1000.0, 2)
    assert remember(snapshot(2010.0), POOL, opened) == opened
    assert remember(snapshot(2010.0, placed(900.0, 950.0)), POOL, opened) == opened
    assert remember(snapshot(2010.0, placed(2000.0, 2005.0)), POOL, opened) == PoolMemory()
    again = remember(snapshot(2600.0, waiting(2000.0)), POOL, opened)
    assert (again.failures, again.closed_until) == (3, 2600.0 + 4 * TIMEOUT)


def test_waiting_since_is_the_oldest_of_the_pool() -> None:
    seen = snapshot(1000.0, waiting(800.0), waiting(700.0, name="x"), waiting(1.0, HOPPER.name))
    assert waiting_since(seen, POOL) == 700.0
    assert waiting_since(snapshot(1000.0), POOL) is None


@pytest.mark.parametrize(
    ("memory", "now", "since"),
    [
        (PoolMemory(), 1990.0, None),
        (PoolMemory(2000.0, 1000.0, 1), 1990.0, 1000.0),
        (PoolMemory(2000.0, 1000.0, 1), 2000.0 + TIMEOUT - 1, 1000.0),  # asked again, no answer yet
        (PoolMemory(2000.0, 1000.0, 1), 2000.0 + TIMEOUT, None),
    ],
)
def test_what_is_told_of_a_pool(memory: PoolMemory, now: float, since: float | None) -> None:
    told = plan_of(POOL, memory, now)
    assert told.out_of_capacity_since == since
    assert told.retry_at == (None if since is None else 2000.0)
