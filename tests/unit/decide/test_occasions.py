"""On which occasions requests may go out, and how long they wait where none may."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.decide.memory import DeploymentMemory, Memory
from spillway.decide.occasions import LONGEST_HOLD_SECONDS, hold_seconds, may_spill, occasions
from spillway.decide.outcome import ProviderPlan
from spillway.decide.planner import plan
from spillway.decide.snapshot import Deployment, Phase, Pool, Replica, Snapshot

from .world import BLACKWELL, deployment

ALL = ("Saturated", "ColdStart", "NoCapacity", "Unavailable", "Rollout")
AUTO = {"hold_seconds": None}
READY, STARTING, PENDING = Phase.READY, Phase.STARTING, Phase.PENDING


def having(*phases: Phase, revision: str = "rev1", failure: str = "", **changes: object) -> Deployment:
    replicas = (Replica(f"p{n}", BLACKWELL.name, revision, phase, 0.0) for n, phase in enumerate(phases))
    return deployment(replicas=tuple(replace(r, failure=failure) for r in replicas), **changes)


@pytest.mark.parametrize(
    ("seen", "short", "expected"),
    [
        (having(READY), False, {"Saturated"}),
        (having(READY, STARTING), False, {"Saturated", "ColdStart"}),
        (having(READY), True, {"Saturated", "NoCapacity"}),
        (having(READY, revision="old"), False, {"Saturated", "Rollout"}),
        (having(STARTING), False, {"ColdStart"}),
        (having(PENDING), False, {"ColdStart", "NoCapacity"}),
        (having(), False, {"ColdStart"}),
        (having(), True, {"NoCapacity"}),
        (having(STARTING, failure="CrashLoopBackOff"), False, {"ColdStart", "Unavailable"}),
        (having(Phase.STOPPING, failure="OOMKilled"), False, {"Unavailable"}),
    ],
)
def test_occasions(seen: Deployment, short: bool, expected: set[str]) -> None:
    assert occasions(seen, short) == expected


@pytest.mark.parametrize(
    ("seen", "when", "expected"),
    [
        (having(READY), ALL, (True, True)),
        (having(READY), ("Saturated",), (True, False)),
        (having(READY), ("Unavailable",), (False, True)),  # a replica that went, and that we have not missed yet
        (having(READY), ("ColdStart", "NoCapacity", "Rollout"), (False, False)),
        (having(READY, STARTING), ("ColdStart",), (True, False)),
        (having(STARTING), ("ColdStart",), (False, True)),
        (having(STARTING), ("Saturated",), (True, False)),
        (having(), ("Rollout",), (False, False)),
        (having(READY), (), (False, False)),
    ],
)
def test_may_spill(seen: Deployment, when: tuple[str, ...], expected: tuple[bool, bool]) -> None:
    assert may_spill(replace(seen, spill_when=when), False) == expected


@given(
    st.lists(st.sampled_from(list(Phase)), max_size=4),
    st.sets(st.sampled_from(ALL)),
    st.sets(st.sampled_from(ALL)),
    st.booleans(),
)
def test_more_occasions_never_shut_spill(phases: list[Phase], few: set[str], more: set[str], short: bool) -> None:
    seen = having(*phases)
    less, much = (may_spill(replace(seen, spill_when=tuple(sorted(w))), short) for w in (few, few | more))
    assert all(b or not a for a, b in zip(less, much, strict=True))
    assert may_spill(replace(seen, spill_when=ALL), short) == (True, True)


@pytest.mark.parametrize(
    ("changes", "measured", "expected"),
    [
        (AUTO, {}, 480.0),  # 1.5 x the catalog's 300 s, in whole minutes
        (AUTO, {BLACKWELL.name: (100.0,) * 9}, 480.0),  # the other variant may be the one that starts
        ({**AUTO, "variants": (BLACKWELL,)}, {BLACKWELL.name: (100.0,) * 9}, 180.0),
        (AUTO, {BLACKWELL.name: (5000.0,)}, LONGEST_HOLD_SECONDS),
        ({}, {}, 0.0),
        ({"hold_seconds": 45}, {}, 45.0),
        ({**AUTO, "max_replicas": 0, "min_replicas": 0}, {}, 0.0),
        ({**AUTO, "variants": ()}, {}, 0.0),
    ],
)
def test_hold(changes: dict[str, object], measured: dict[str, tuple[float, ...]], expected: float) -> None:
    memory = DeploymentMemory(cold_starts=measured)
    assert hold_seconds(deployment(**changes), memory, ()) == expected
    shut = ProviderPlan("zai", "glm-5", False, 0, "BudgetSpent")
    assert hold_seconds(deployment(**changes), memory, (shut,)) == expected
    for reason in ("AboveValue", "BudgetPacing"):
        assert hold_seconds(deployment(**changes), memory, (replace(shut, reason=reason),)) == 0.0


def test_the_plan_tells_both() -> None:
    seen = having(READY, spill_when=("Saturated",), hold_seconds=7)
    [found] = plan(Snapshot(0.0, (seen,), (Pool("b200"),)), Memory())[0].deployments
    assert (found.spill.when_full, found.spill.when_empty, found.spill.hold_seconds) == (True, False, 7.0)
