"""`maxFloorGPUs`: floors of a policy's namespaces together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.decide import Memory, plan
from spillway.decide.snapshot import Settings, Snapshot
from spillway.observe import Objects, Resolved
from spillway.observe.floors import Allowed, Floor, limited
from spillway.observe.money import Money
from spillway.observe.snapshot import ProviderHealth, take
from tests.unit.api.examples import example
from tests.unit.observe.test_money import policies
from tests.unit.observe.test_resolve import moe, pools, tried

OLD = Floor("chat/old", 2, 8, ("team",), since=1.0)
NEW = Floor("chat/a-new-one", 3, 4, ("team",), since=2.0)


@pytest.mark.parametrize(
    ("most", "allowed"),
    [
        ({}, {}),
        ({"others": 0}, {}),
        ({"team": 28}, {}),
        ({"team": 27}, {"chat/a-new-one": 2}),
        ({"team": 19}, {"chat/a-new-one": 0}),
        ({"team": 15}, {"chat/old": 1, "chat/a-new-one": 1}),  # what is left of the older one's is for the next
        ({"team": 0}, {"chat/old": 0, "chat/a-new-one": 0}),
    ],
)
def test_the_oldest_keeps_its_floor(most: dict[str, int], allowed: dict[str, int]) -> None:
    found = limited([NEW, OLD], most)
    assert {key: one.replicas for key, one in found.items()} == allowed


def test_the_words_name_the_policy_and_who_has_them() -> None:
    assert limited([NEW, OLD], {"team": 20})["chat/a-new-one"] == Allowed(
        1,
        "minReplicas 3 holds 1 at most: maxFloorGPUs of CostPolicy 'team' is 20, 16 of them are floors of older "
        "deployments, and a replica takes 4",
    )


def test_each_policy_must_allow() -> None:
    both = Floor("chat/old", 4, 8, ("team", "company"), since=1.0)
    found = limited([both], {"team": 64, "company": 16})
    assert found["chat/old"].replicas == 2
    assert "'company' is 16" in found["chat/old"].words


FLOORS = st.lists(
    st.builds(
        Floor,
        st.sampled_from(["a/1", "a/2", "b/1", "b/2", "c/1"]),
        st.integers(0, 9),
        st.sampled_from([0, 1, 4, 8, 16]),
        st.sampled_from([(), ("x",), ("y",), ("x", "y")]),
        st.floats(0, 9),
    ),
    unique_by=lambda f: f.key,
)


@given(floors=FLOORS, x=st.integers(0, 100), y=st.integers(0, 100))
def test_no_policy_is_passed_and_nobody_is_cut_without_need(floors: list[Floor], x: int, y: int) -> None:
    most = {"x": x, "y": y}
    found = limited(floors, most)
    held = {f.key: (found[f.key].replicas if f.key in found else f.replicas) * f.gpus_per_replica for f in floors}
    for name, gpus in most.items():
        of_policy = [f for f in floors if name in f.policies]
        assert sum(held[f.key] for f in of_policy) <= gpus
    for floor in floors:
        if floor.key in found:
            assert 0 <= found[floor.key].replicas < floor.replicas
            one_more = floor.gpus_per_replica
            assert any(
                sum(held[f.key] for f in floors if name in f.policies) + one_more > most[name]
                or sum(
                    held[f.key] for f in floors if name in f.policies and (f.since, f.key) <= (floor.since, floor.key)
                )
                + one_more
                > most[name]
                for name in floor.policies
            )
    assert limited(list(reversed(floors)), most) == found


def observed(policy_gpus: int) -> Snapshot:
    """Two deployments with a floor of two replicas of four GPUs each, the second one younger."""
    resolved = []
    for name, created in (("first", "2026-11-20T00:00:00Z"), ("a-second", "2026-11-21T00:00:00Z")):
        obj = moe(minReplicas=2)
        obj["metadata"] |= {"name": name, "creationTimestamp": created}
        one = tried(obj)
        assert isinstance(one, Resolved)
        resolved.append(one)
    own = policies(example("CostPolicy", "team", maxFloorGPUs=policy_gpus))
    money = Money(policies={"chat": ("team",)})
    health, settings = ProviderHealth(), Settings()
    return take(1e9, resolved, Objects(), pools(capacity__maxGPUs=64), {}, own, None, money, health, settings)


def test_a_floor_that_is_cut_is_told_and_not_held() -> None:
    snapshot = observed(12)
    wishes = {d.name: (d.min_replicas, bool(d.floor_limit)) for d in snapshot.deployments}
    assert wishes == {"first": (2, False), "a-second": (1, True)}
    outcome, _ = plan(snapshot, Memory())
    second = outcome.deployment("chat/a-second")
    assert second is not None
    assert second.replicas == 1
    [told] = [d for d in second.decisions if d.code == "FloorLimited"]
    assert told.message.startswith("minReplicas 2 holds 1 at most: maxFloorGPUs of CostPolicy 'team' is 12, 8 of them")


def test_a_limit_that_is_wide_enough_changes_nothing() -> None:
    assert {d.min_replicas for d in observed(16).deployments} == {2}
