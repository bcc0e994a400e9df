"""A request that waits for the first replica gets one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from spillway.decide.snapshot import Snapshot

from .world import ZAI, World, deployment

SHUT = replace(ZAI, affordable_in_flight=0, unavailable="NoBudget")


@dataclass
class Zero(World):
    """No demand that a rate could show, and requests at these times."""

    requests: tuple[float, ...] = ()

    def snapshot(self) -> Snapshot:
        last = max((at for at in self.requests if at <= self.now), default=0.0)
        self.deployment = replace(self.deployment, last_request_at=last)
        return super().snapshot()


def world(*requests: float, **changes: object) -> Zero:
    wishes = {"min_replicas": 0, "providers": (), "hold_seconds": 480, **changes}
    return Zero(deployment(**wishes), work=lambda _: 0.0, requests=requests)


@pytest.mark.parametrize("metrics", [True, False])
def test_one_request_starts_one_replica_which_goes_when_nobody_can_wait_any_more(metrics: bool) -> None:
    play = world(1100.0)
    play.metrics = metrics
    assert play.run(90.0).replicas == 0
    assert play.run(60.0).replicas == 1
    assert "RequestWaits" in play.codes()
    assert play.run(400.0).replicas == 1 and play.answering() == 1, "it is there before the request gives up"
    if metrics:
        assert play.run(200.0).replicas == 0


def test_it_stays_while_requests_come_and_is_no_more_than_one() -> None:
    play = world(*(1100.0 + 100 * n for n in range(20)))
    for _ in range(15):
        assert play.run(100.0).replicas <= 1
    assert play.answering() == 1
    assert [d.before for d in play.changes()] == [0]


@pytest.mark.parametrize(
    ("changes", "replicas"),
    [
        ({}, 1),
        ({"hold_seconds": 0}, 0),
        ({"max_replicas": 0}, 0),
        ({"floor_only": True}, 0),
        ({"providers": (ZAI,)}, 0),  # which answers it
        ({"providers": (SHUT,)}, 1),
        ({"providers": (ZAI,), "spill_when": ("Saturated",)}, 1),
        ({"providers": (ZAI,), "usd_value_per_request": 1e-9}, 0),  # not worth a provider, and so no replica
        ({"min_replicas": 2}, 2),
        ({"pinned_replicas": 3}, 3),
    ],
)
def test_only_where_nothing_else_may_answer(changes: dict[str, object], replicas: int) -> None:
    assert world(1100.0, **changes).run(200.0).replicas == replicas
