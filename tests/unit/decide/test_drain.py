"""Victims, and their drain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.decide.drain import victims, workload
from spillway.decide.outcome import WorkloadPlan
from spillway.decide.snapshot import Asked, Deployment, Phase, Replica, Settings

from .world import BLACKWELL, deployment

V, NOW = BLACKWELL.name, 1000.0
SETTINGS = Settings(drain_seconds=300, deregister_seconds=5)


def replica(
    name: str,
    phase: Phase = Phase.READY,
    revision: str = "rev1",
    in_flight: int | None = 0,
    asked_at: float = 0.0,
) -> Replica:
    return Replica(name, V, revision, phase, asked_at, in_flight=in_flight)


def owner(asked: dict[str, int], *replicas: Replica) -> Deployment:
    return deployment(asked=tuple(Asked(V, r, n) for r, n in asked.items()), replicas=replicas)


OLD = "rev1"


def test_victims_are_those_that_are_missed_least() -> None:
    replicas = [
        replica("busy", in_flight=9),
        replica("unknown", in_flight=None),
        replica("quiet-old", in_flight=1, asked_at=10.0),
        replica("quiet-young", in_flight=1, asked_at=20.0),
        replica("chosen", in_flight=5),
        replica("starting", Phase.STARTING),
    ]
    order = [v.name for v in victims(replicas, 6, {"chosen": 0.0})]
    assert order == ["starting", "chosen", "quiet-young", "quiet-old", "busy", "unknown"]
    assert [v.name for v in victims(replicas, 1, {})] == ["starting"]


@pytest.mark.parametrize(
    ("replicas", "asked", "wanted", "draining", "expected", "kept"),
    [
        ((replica("a"),), 1, 1, {}, WorkloadPlan(V, OLD, 1), ()),
        ((replica("a"),), 1, 3, {"a": 900.0}, WorkloadPlan(V, OLD, 3), ()),
        # Chosen now: it leaves the endpoints first.
        ((replica("a"),), 1, 0, {}, WorkloadPlan(V, OLD, 1, ("a",)), ("a",)),
        ((replica("a"),), 1, 0, {"a": 996.0}, WorkloadPlan(V, OLD, 1, ("a",)), ("a",)),
        # Empty for long enough: it may go, and stays out of the endpoints until it has gone.
        ((replica("a"),), 1, 0, {"a": 995.0}, WorkloadPlan(V, OLD, 0, ("a",)), ("a",)),
        ((replica("a", in_flight=2),), 1, 0, {"a": 900.0}, WorkloadPlan(V, OLD, 1, ("a",)), ("a",)),
        ((replica("a", in_flight=None),), 1, 0, {"a": 900.0}, WorkloadPlan(V, OLD, 1, ("a",)), ("a",)),
        # Nobody waits for ever.
        ((replica("a", in_flight=2),), 1, 0, {"a": 700.0}, WorkloadPlan(V, OLD, 0, ("a",)), ("a",)),
        # Its workload asks for fewer already and Kubernetes has not followed yet: it stays out of the endpoints, and
        # nobody else goes in its place.
        ((replica("a"), replica("b")), 1, 1, {"a": 900.0}, WorkloadPlan(V, OLD, 1, ("a",)), ("a",)),
        (
            (replica("a"), replica("b", in_flight=3)),
            1,
            0,
            {"a": 900.0},
            WorkloadPlan(V, OLD, 1, ("a", "b")),
            ("a", "b"),
        ),
        # One of the two that drain is done: Kubernetes might take the other one.
        (
            (replica("a", in_flight=1), replica("b", in_flight=1)),
            1,
            0,
            {"a": 701.0, "b": 0.0},
            WorkloadPlan(V, OLD, 1, ("a", "b")),
            ("a", "b"),
        ),
        ((replica("a", Phase.PENDING), replica("b")), 1, 0, {}, WorkloadPlan(V, OLD, 1, ("b",)), ("b",)),
        ((replica("a"), replica("b")), 1, 2, {"a": 900.0}, WorkloadPlan(V, OLD, 2, ("a",)), ("a",)),
        # What does not answer, or does not exist, goes at once.
        ((replica("a", Phase.STARTING), replica("b")), 2, 1, {}, WorkloadPlan(V, OLD, 1), ()),
        ((replica("a"),), 3, 1, {}, WorkloadPlan(V, OLD, 1), ()),
        ((replica("a", Phase.STOPPING), replica("b")), 2, 1, {}, WorkloadPlan(V, OLD, 1), ()),
    ],
)
def test_workload(
    replicas: tuple[Replica, ...],
    asked: int,
    wanted: int,
    draining: dict[str, float],
    expected: WorkloadPlan,
    kept: tuple[str, ...],
) -> None:
    plan, remembered = workload(owner({OLD: asked}, *replicas), V, OLD, wanted, draining, NOW, SETTINGS)
    assert plan == expected
    assert tuple(d.name for d in remembered) == kept
    assert all(d.since == draining.get(d.name, NOW) for d in remembered)


def group(index: int, phase: Phase = Phase.READY, in_flight: int | None = 0) -> Replica:
    return Replica(f"g{index}", V, OLD, phase, 0.0, in_flight=in_flight, group=index)


@pytest.mark.parametrize(
    ("replicas", "asked", "wanted", "draining", "expected"),
    [
        ((group(0), group(1)), 2, 2, {}, WorkloadPlan(V, OLD, 2)),
        # The highest goes, however busy it is, and is drained like a pod.
        ((group(0), group(1, in_flight=9)), 2, 1, {}, WorkloadPlan(V, OLD, 2, ("g1",))),
        ((group(0), group(1)), 2, 1, {"g1": 995.0}, WorkloadPlan(V, OLD, 1, ("g1",))),
        ((group(0), group(1, in_flight=9)), 2, 1, {"g1": 700.0}, WorkloadPlan(V, OLD, 1, ("g1",))),
        # Lower ones that are gone or start again are no victims: asking for fewer would take the one that answers.
        ((group(0, Phase.STARTING), group(1)), 2, 1, {}, WorkloadPlan(V, OLD, 2, ("g1",))),
        ((group(0, Phase.STOPPING), group(1)), 2, 1, {}, WorkloadPlan(V, OLD, 2, ("g1",))),
        ((group(1), group(2, Phase.PENDING)), 3, 1, {}, WorkloadPlan(V, OLD, 2, ("g1",))),
        # One that still answers keeps those below it, drained or not.
        ((group(0), group(1), group(2, in_flight=1)), 3, 1, {"g1": 900.0}, WorkloadPlan(V, OLD, 3, ("g2", "g1"))),
        # Asked for no more, still there: it stays out of the endpoints.
        ((group(0), group(1)), 1, 1, {"g1": 900.0}, WorkloadPlan(V, OLD, 1, ("g1",))),
        ((group(0), group(1)), 1, 2, {"g1": 900.0}, WorkloadPlan(V, OLD, 2, ("g1",))),
        ((group(0, Phase.STARTING),), 1, 0, {}, WorkloadPlan(V, OLD, 0)),
    ],
)
def test_of_groups_the_highest_goes_first(
    replicas: tuple[Replica, ...], asked: int, wanted: int, draining: dict[str, float], expected: WorkloadPlan
) -> None:
    plan, remembered = workload(owner({OLD: asked}, *replicas), V, OLD, wanted, draining, NOW, SETTINGS)
    assert plan == expected
    assert tuple(d.name for d in remembered) == expected.draining


PHASES = st.sampled_from(list(Phase))
REPLICAS = st.lists(st.tuples(PHASES, st.one_of(st.none(), st.integers(0, 9))), max_size=8)


@given(
    REPLICAS, st.integers(0, 10), st.integers(0, 10), st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, NOW))
)
def test_a_workload_never_falls_below_what_is_wanted_nor_cuts_a_replica_that_is_not_drained(
    shapes: list[tuple[Phase, int | None]], asked: int, wanted: int, draining: dict[str, float]
) -> None:
    replicas = tuple(replica("abcdefgh"[n], phase, in_flight=load) for n, (phase, load) in enumerate(shapes))
    plan, remembered = workload(owner({OLD: asked}, *replicas), V, OLD, wanted, draining, NOW, SETTINGS)
    assert min(wanted, asked) <= plan.replicas <= max(wanted, asked)
    # Whoever answers is asked for, or has been drained, or is out of the endpoints (and so gets no new request).
    answering = {r.name: r for r in replicas if r.phase is Phase.READY}
    drained = {
        d.name
        for d in remembered
        if NOW - d.since >= SETTINGS.drain_seconds or (answering[d.name].in_flight == 0 and NOW - d.since >= 5)
    }
    assert plan.replicas >= min(asked, len(answering) - len(drained))
    assert len(answering.keys() - set(plan.draining)) <= max(plan.replicas, asked)


@given(
    st.dictionaries(st.integers(0, 7), st.tuples(PHASES, st.one_of(st.none(), st.integers(0, 9)))),
    st.integers(0, 10),
    st.integers(0, 10),
    st.dictionaries(st.sampled_from([f"g{n}" for n in range(8)]), st.floats(0, NOW)),
)
def test_no_group_that_answers_is_taken_before_it_is_drained(
    shapes: dict[int, tuple[Phase, int | None]], asked: int, wanted: int, draining: dict[str, float]
) -> None:
    groups = [group(index, phase, load) for index, (phase, load) in shapes.items()]
    plan, remembered = workload(owner({OLD: asked}, *groups), V, OLD, wanted, draining, NOW, SETTINGS)
    assert min(wanted, asked) <= plan.replicas <= max(wanted, asked)
    since = {d.name: d.since for d in remembered}
    for victim in groups:  # which Kubernetes would take now
        assert victim.group is not None
        if plan.replicas <= victim.group < asked and victim.phase is Phase.READY:
            waited = NOW - since[victim.name]
            assert waited >= SETTINGS.drain_seconds or (victim.in_flight == 0 and waited >= SETTINGS.deregister_seconds)
