"""`spill.maxShare`: how much of the last hour's tokens goes out while a replica is ready."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from spillway.decide.codec import decode_memory, encode
from spillway.decide.max_share import HOUR_SECONDS, OPEN_AGAIN
from spillway.decide.memory import Memory
from spillway.decide.outcome import SpillPlan
from spillway.decide.planner import plan
from spillway.decide.snapshot import Demand, Deployment, Phase, Pool, Replica, Snapshot

from .world import BLACKWELL, ZAI, deployment

READY = Replica("a", BLACKWELL.name, "rev1", Phase.READY, 0.0)
STARTING = replace(READY, phase=Phase.STARTING)
TOKENS = 1155 + 211
TICK = 10.0


@dataclass
class Flow:
    """So many requests per second are answered inside, and `overflow` more go out while they may."""

    deployment: Deployment
    local: float = 3.0
    overflow: float = 2.0
    now: float = 1_800_000_000.0
    memory: Memory = field(default_factory=Memory)
    outside: list[bool] = field(default_factory=list)
    counted: list[tuple[float, float]] = field(default_factory=list)  # requests inside and outside, of each tick

    def snapshot(self) -> Snapshot:
        out = self.overflow if not self.outside or self.outside[-1] else 0.0
        local = self.local if READY in self.deployment.replicas else 0.0
        self.counted.append((local, out))
        demand = Demand(local + self.overflow, 1155, 211, spilled_per_second=out, local_answers_per_second=local)
        pools = (Pool("b200", (8,), 0, 8), Pool("h200", (8,), 0, 8))
        return Snapshot(self.now, (replace(self.deployment, demand=demand),), pools)

    def step(self) -> SpillPlan:
        outcome, self.memory = plan(self.snapshot(), self.memory)
        self.now += TICK
        spilling = outcome.deployments[0].spill
        self.outside.append(spilling.allowed)
        return spilling

    def run(self, seconds: float) -> SpillPlan:
        for _ in range(round(seconds / TICK) - 1):
            self.step()
        return self.step()

    def share(self) -> float:
        """Of the trailing hour."""
        hour = self.counted[-round(HOUR_SECONDS / TICK) :]
        return sum(out for _, out in hour) / sum(local + out for local, out in hour)

    @property
    def changes(self) -> int:
        return sum(before != after for before, after in zip(self.outside, self.outside[1:], strict=False))


def limited(share: float | None, *replicas: Replica, **changes: object) -> Deployment:
    return deployment(replicas=replicas or (READY,), max_share=share, **changes)


def test_without_a_limit_nothing_is_remembered() -> None:
    for share in (None, 1.0):
        flow = Flow(limited(share), overflow=30.0)
        assert flow.run(600).allowed
        assert flow.memory.deployments["chat/glm-5"].share is None


def test_what_stays_below_the_limit_goes_out() -> None:
    flow = Flow(limited(0.5))
    flow.run(2 * HOUR_SECONDS)
    assert all(flow.outside)
    assert flow.share() == pytest.approx(0.4)


def test_the_share_of_any_hour_stays_at_the_limit_and_does_not_flicker() -> None:
    flow = Flow(limited(0.25))
    flow.run(HOUR_SECONDS)
    before, shares = flow.changes, []
    for _ in range(round(6 * HOUR_SECONDS / TICK)):
        flow.step()
        shares.append(flow.share())
    # Counted in buckets of five minutes, so that the oldest of 65 may matter; and a tick late.
    assert max(shares) < 0.25 * 1.1
    assert sum(shares) / len(shares) > 0.25 * OPEN_AGAIN * 0.95, "what may go out does"
    assert flow.changes - before <= 6 * 2 * 6, "no more than once in five minutes"


def test_it_says_why_and_clients_are_told_to_come_again() -> None:
    flow = Flow(limited(0.25))
    while (spilling := flow.step()).allowed:
        pass
    assert spilling.reason == "MaxShare"
    assert spilling.message == (
        "more than spec.spill.maxShare 0.25 of the last hour's tokens went outside; spill goes on below 0.225"
    )
    assert (spilling.refusal.status, spilling.refusal.code) == (429, "capacity_exceeded")
    assert [(p.permitted, p.cap, p.reason) for p in spilling.providers] == [(False, 0, "MaxShare")]
    by_policy = replace(flow.deployment, max_share_of="spill.maxShare of CostPolicy team")
    flow.deployment = by_policy
    assert "more than spill.maxShare of CostPolicy team 0.25" in flow.step().message


def test_a_minute_at_least() -> None:
    flow = Flow(limited(0.25), local=3.0, overflow=1.01)
    while flow.step().allowed:
        pass
    flow.local = 1000.0
    assert [flow.step().allowed for _ in range(6)] == [False] * 5 + [True]


def test_what_covers_a_cold_start_does_not_count() -> None:
    flow = Flow(limited(0.25, STARTING), overflow=5.0)
    assert flow.run(1200).allowed
    flow.deployment, flow.overflow = limited(0.25), 0.5
    assert flow.run(600).allowed, "of what went out with a ready replica it is a seventh"
    flow.overflow = 30.0
    assert not flow.run(600).allowed
    flow.deployment = limited(0.25, STARTING)
    assert flow.step().allowed, "without a ready replica the limit says nothing"


def test_nothing_at_all_while_a_replica_is_ready() -> None:
    flow = Flow(limited(0.0))
    spilling = flow.step()
    assert not spilling.allowed
    assert spilling.message == "spec.spill.maxShare is 0: nothing goes outside while a replica is ready"
    assert not flow.run(2 * HOUR_SECONDS).allowed
    assert Flow(limited(0.0, STARTING)).step().allowed


def test_routes_are_orders() -> None:
    flow = Flow(limited(0.0, routed=(ZAI,)))
    assert [route.permitted for route in flow.step().routes] == [True]


def test_a_limit_that_goes_is_forgotten() -> None:
    flow = Flow(limited(0.25))
    while flow.step().allowed:
        pass
    flow.deployment = limited(None)
    assert flow.step().allowed
    assert flow.memory.deployments["chat/glm-5"].share is None


def test_stale_metrics_count_nothing() -> None:
    flow = Flow(limited(0.25))
    stale = replace(flow.snapshot().deployments[0].demand or Demand(0, 0, 0), age_seconds=600.0)
    old = replace(flow.snapshot(), deployments=(replace(flow.deployment, demand=stale),))
    _, memory = plan(old, replace(flow.memory, time=flow.now - TICK))
    share = memory.deployments["chat/glm-5"].share
    assert share is not None and share.buckets == ()


def test_it_is_remembered_over_a_restart_and_costs_few_writes() -> None:
    flow = Flow(limited(0.25))
    while flow.step().allowed:
        pass
    assert decode_memory(encode(flow.memory)) == flow.memory
    flow.memory = decode_memory(encode(flow.memory))
    assert not flow.step().allowed
    flow.run(400)
    writes = set()
    for _ in range(180):
        flow.step()
        writes.add(flow.memory.lasting().deployments["chat/glm-5"].share)
    assert len(writes) <= 30 * 60 / 300 + 1 + flow.changes
