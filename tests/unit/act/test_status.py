"""Status of MoEDeployments from what was seen and planned."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from spillway.act.status import (
    history,
    lease_until,
    of_deployment,
    of_problem,
    of_refusal,
    readiness,
    spill_share,
    stamp,
)
from spillway.api import (
    MAX_DECISIONS,
    Metadata,
    MoEDeployment,
    MoEDeploymentStatus,
    Reason,
    dump,
    find_condition,
    parse,
)
from spillway.decide.outcome import Decision, DeploymentPlan, ProviderPlan, Refusal, RoutePlan, SpillPlan
from spillway.decide.reasons import Code
from spillway.decide.snapshot import Demand, Deployment, EngineRates, Phase, Replica, Retired
from spillway.observe.autoscalers import Autoscaler
from spillway.observe.resolve import Problem, Resolved
from tests.unit.api.examples import example
from tests.unit.decide.world import BLACKWELL, HOPPER, deployment

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
REFUSAL = Refusal(503, "no_capacity", "No replica is ready.", 30)


def moe(generation: int = 3) -> MoEDeployment:
    obj = example("MoEDeployment", "glm-5")
    obj["metadata"] |= {"namespace": "chat", "generation": generation, "uid": "u"}
    parsed = parse(MoEDeployment, obj)
    assert isinstance(parsed, MoEDeployment)
    return parsed


def resolved() -> Resolved:
    return Resolved(moe(), (), (), {BLACKWELL.name: "rev1", HOPPER.name: "rev9"})


def replica(number: int, phase: Phase, variant: str = BLACKWELL.name) -> Replica:
    return Replica(f"pod-{number}", variant, "rev1", phase, 0.0)


def seen(*phases: Phase, **changes: object) -> Deployment:
    return deployment(replicas=tuple(replica(n, phase) for n, phase in enumerate(phases)), **changes)


def planned(
    replicas: int = 1, allowed: bool = True, decisions: tuple[Decision, ...] = (), reason: str = "", stale: bool = False
) -> DeploymentPlan:
    pair = ProviderPlan("zai", "glm-5", allowed, 5 if allowed else 0, "" if allowed else reason, "because")
    spill = SpillPlan(allowed, 15.0, (pair,), REFUSAL, reason, "because")
    return DeploymentPlan(
        "chat/glm-5",
        {BLACKWELL.name: replicas},
        (),
        10,
        spill,
        decisions,
        reference=BLACKWELL.name,
        metrics_stale=stale,
    )


def routed(reason: str = "") -> DeploymentPlan:
    plan = planned()
    route = RoutePlan("zai", "glm-5", not reason, 0 if reason else 5, REFUSAL, reason, "because")
    return replace(plan, spill=replace(plan.spill, routes=(route,)))


def told(
    seen: Deployment, plan: DeploymentPlan, before: MoEDeploymentStatus | None = None, now: datetime = NOW
) -> MoEDeploymentStatus:
    return of_deployment(resolved(), seen, plan, before or MoEDeploymentStatus(), (), 1.234, now)


def condition(status: MoEDeploymentStatus, kind: str) -> tuple[str, str]:
    found = find_condition(status.conditions, kind)
    assert found is not None, kind
    return found.status, found.reason


@pytest.mark.parametrize(
    ("phases", "wanted", "allowed", "first", "expected"),
    [
        ([Phase.READY], 1, True, True, (True, Reason.AS_EXPECTED)),
        ([Phase.READY, Phase.STARTING], 2, True, False, (True, Reason.FEWER_REPLICAS_THAN_WANTED)),
        ([Phase.STARTING], 1, True, True, (None, Reason.STARTING)),
        ([Phase.STARTING], 1, True, False, (False, Reason.STARTING)),
        ([Phase.PENDING], 1, True, True, (False, Reason.NO_READY_REPLICA)),
        ([Phase.STOPPING], 0, True, False, (True, Reason.SCALED_TO_ZERO)),
        ([], 0, False, False, (False, Reason.SCALED_TO_ZERO)),
    ],
)
def test_readiness(
    phases: list[Phase], wanted: int, allowed: bool, first: bool, expected: tuple[bool | None, str]
) -> None:
    ready = phases.count(Phase.READY)
    holds, reason, message = readiness(seen(*phases), planned(wanted, allowed), ready, first)
    assert (holds, reason) == expected
    assert message


def test_waiting_for_gpus_says_whether_providers_answer_meanwhile() -> None:
    assert "providers answer" in readiness(seen(Phase.PENDING), planned(1, True), 0, False)[2]
    assert "providers answer" not in readiness(seen(Phase.PENDING), planned(1, False), 0, False)[2]


SPILLING = Demand(10.0, 1155, 211, spilled_per_second=2.0)


@pytest.mark.parametrize(
    ("demand", "lease", "allowed", "before", "expected"),
    [
        (SPILLING, 3600, True, None, 3600),
        (SPILLING, 3600, True, 1900, 1900),  # told lately
        (SPILLING, 3600, True, 1700, 3600),
        (SPILLING, 300, True, 1900, 300),  # shorter than it was
        (SPILLING, 3600, True, 200, 3600),
        (SPILLING, 15, True, 1900, None),
        (SPILLING, 3600, False, 1900, None),
        (replace(SPILLING, spilled_per_second=0.0), 3600, True, 1900, None),
        (None, 3600, True, 1900, None),
    ],
)
def test_until_when_spill_goes_on_without_the_operator(
    demand: Demand | None, lease: int, allowed: bool, before: int | None, expected: int | None
) -> None:
    plan = planned(allowed=allowed, reason=Reason.BUDGET_SPENT)
    plan = replace(plan, spill=replace(plan.spill, lease_seconds=float(lease)))
    known = None if before is None else NOW + timedelta(seconds=before)
    until = None if expected is None else NOW + timedelta(seconds=expected)
    assert lease_until(seen(Phase.READY, demand=demand), plan, known, NOW) == until
    status = told(seen(Phase.READY, demand=demand), plan)
    assert status.spill is not None
    assert (status.spill.lease_until is None) == (expected is None)
    again = told(seen(Phase.READY, demand=demand), plan, status, NOW + timedelta(seconds=5))
    assert again.spill == status.spill


def test_counts_costs_and_summary() -> None:
    status = told(seen(Phase.READY, Phase.STARTING, Phase.PENDING, Phase.STOPPING), planned(3))
    assert (status.replicas, status.ready_replicas, status.desired_replicas) == (3, 1, 3)
    assert status.summary == "1/3"
    assert status.revision == "rev1"
    assert status.observed_generation == 3
    assert status.selector == "spillway.dev/deployment=glm-5"
    # A pod without a node costs nothing, one that stops still does.
    assert status.cost is not None
    assert status.cost.gpu_per_hour == Decimal("50.40")
    assert status.cost.external_per_hour == Decimal("1.23")
    blackwell = status.variants[0]
    assert (blackwell.ready, blackwell.starting, blackwell.pending) == (1, 1, 1)
    assert blackwell.cost_per_hour == Decimal("50.40")


def test_load_is_told_by_variant_and_only_where_it_is_known() -> None:
    blackwell = [
        Replica("a", BLACKWELL.name, "rev1", Phase.READY, 0.0, in_flight=12, waiting=0, kv_use=0.5),
        Replica("b", BLACKWELL.name, "rev1", Phase.READY, 0.0, in_flight=20, waiting=4, kv_use=0.9),
        Replica("c", BLACKWELL.name, "rev1", Phase.STARTING, 0.0),
    ]
    lately = EngineRates(BLACKWELL.name, 4000.4, 900.6, 0.1, 0.05, 1.23456, 0.0304)
    (load,) = told(
        deployment(replicas=(*blackwell, replica(9, Phase.STARTING, HOPPER.name)), rates=(lately,)), planned()
    ).load
    assert dump(load) == {
        "variant": BLACKWELL.name,
        "running": 28,
        "waiting": 4,
        "kvCacheUse": "0.7",
        "saturated": 1,
        "inputTokensPerSecond": 4000,
        "outputTokensPerSecond": 901,
        "preemptionsPerMinute": 6,
        "rejectionsPerMinute": 3,
        "timeToFirstToken": "1s235ms",
        "interTokenLatency": "30ms",
    }


def test_an_idle_engine_has_a_load_without_latencies() -> None:
    idle = Replica("a", BLACKWELL.name, "rev1", Phase.READY, 0.0, in_flight=0, waiting=0, kv_use=0.0)
    (load,) = told(deployment(replicas=(idle,)), planned()).load
    assert (load.running, load.kv_use, load.time_to_first_token_seconds) == (0, 0.0, None)
    assert "timeToFirstToken" not in dump(load)


def test_a_steady_deployment_writes_the_same_status_again() -> None:
    view, plan = seen(Phase.READY, demand=Demand(3.0, 1000, 200)), planned(1)
    first = told(view, plan)
    assert dump(told(view, plan, first, LATER)) == dump(first)


@pytest.mark.parametrize(
    ("plan", "changes", "kind", "expected"),
    [
        (planned(), {}, "SpillAvailable", ("True", Reason.AS_EXPECTED)),
        (planned(allowed=False, reason="NoBudget"), {}, "SpillAvailable", ("False", "NoBudget")),
        (routed(), {}, "RoutesAvailable", ("True", Reason.AS_EXPECTED)),
        (routed("NoBudget"), {}, "RoutesAvailable", ("False", "NoBudget")),
        (routed("NoBudget"), {}, "SpillAvailable", ("True", Reason.AS_EXPECTED)),
        (planned(allowed=False, reason="NoBudget"), {}, "WithinBudget", ("True", Reason.AS_EXPECTED)),
        (planned(allowed=False, reason="BudgetSpent"), {}, "WithinBudget", ("False", Reason.BUDGET_SPENT)),
        (planned(), {"floor_only": True}, "WithinBudget", ("False", Reason.BUDGET_SPENT)),
        (planned(), {}, "MetricsAvailable", ("True", Reason.AS_EXPECTED)),
        (planned(stale=True), {}, "MetricsAvailable", ("False", Reason.METRICS_STALE)),
        (planned(decisions=(Decision(Code.NO_GPU, "full"),)), {}, "ScalingLimited", ("True", "NoGPU")),
        (planned(decisions=(Decision(Code.FLOOR_LIMITED, "less"),)), {}, "ScalingLimited", ("True", "FloorLimited")),
        (planned(decisions=(Decision(Code.MAX_REPLICAS, "at most"),)), {}, "ScalingLimited", ("True", "MaxReplicas")),
        (planned(), {}, "ScalingLimited", ("False", Reason.AS_EXPECTED)),
        (planned(), {"pinned_replicas": 2}, "Pinned", ("True", Reason.PINNED_BY_REPLICAS)),
        (planned(), {"paused": True}, "Paused", ("True", Reason.PAUSED_BY_ANNOTATION)),
        (planned(), {"dry_run": True}, "Paused", ("True", Reason.DRY_RUN)),
    ],
)
def test_conditions(plan: DeploymentPlan, changes: dict[str, object], kind: str, expected: tuple[str, str]) -> None:
    assert condition(told(seen(Phase.READY, **changes), plan), kind) == expected


def test_a_dry_run_tells_what_it_would_do() -> None:
    plan = planned(decisions=(Decision(Code.DRY_RUN, "would change 0→1 b200 (FloorRaised)"),))
    found = find_condition(told(seen(dry_run=True), plan).conditions, "Paused")
    assert found is not None
    assert found.message.startswith("would change 0→1 b200 (FloorRaised); remove annotation spillway.dev/dry-run")


def test_pinned_and_paused_are_told_only_once_they_were_true() -> None:
    usual = told(seen(Phase.READY), planned())
    assert find_condition(usual.conditions, "Pinned") is None
    assert find_condition(usual.conditions, "Paused") is None
    held = told(seen(Phase.READY, pinned_replicas=1, paused=True), planned(), usual)
    freed = told(seen(Phase.READY), planned(), held, LATER)
    assert condition(freed, "Pinned") == ("False", Reason.NOT_PINNED)
    assert condition(freed, "Paused") == ("False", Reason.AS_EXPECTED)


def test_a_problem_is_told_and_what_was_seen_stays() -> None:
    before = told(seen(Phase.READY), planned())
    problem = Problem(Metadata(name="glm-5", namespace="chat", generation=4), Reason.UNKNOWN_MODEL, "no such model")
    status = of_problem(problem, before, LATER)
    assert condition(status, "Ready") == ("False", Reason.UNKNOWN_MODEL)
    assert condition(status, "Progressing") == ("False", Reason.UNKNOWN_MODEL)
    assert status.observed_generation == 4
    assert status.summary is None
    assert status.variants == before.variants
    assert condition(status, "SpillAvailable") == condition(before, "SpillAvailable")


def test_history_keeps_the_last_changes_newest_first() -> None:
    first = history([Decision(Code.DEMAND_ROSE, "one", "v", 0, 1, 3.0)], (), NOW)
    both = history(
        [
            Decision(Code.DEMAND_ROSE, "two", "v", 1, 2, -1.005),
            Decision(Code.NO_GPU, "no change", "v", 2, 2),
            Decision(Code.DEMAND_FELL, "three", "v", 2, 1),
        ],
        first,
        LATER,
    )
    assert [d.message for d in both] == ["three", "two", "one"]
    assert [d.time for d in both] == [LATER, LATER, NOW]
    many = history([Decision(Code.PINNED, str(n), "v", n, n + 1) for n in range(30)], both, LATER)
    assert len(many) == MAX_DECISIONS
    assert many[0].message == "29"


@pytest.mark.parametrize(
    ("demand", "expected"),
    [
        (None, 0.0),
        (Demand(0.0, 1, 1, spilled_per_second=1.0), 0.0),
        (Demand(8.0, 1, 1, spilled_per_second=0.0), 0.0),
        (Demand(8.0, 1, 1, spilled_per_second=0.8), 0.1),
        (Demand(8.0, 1, 1, spilled_per_second=2.0), 0.25),
        (Demand(8.0, 1, 1, spilled_per_second=9.0), 1.0),
    ],
)
def test_spill_share(demand: Demand | None, expected: float) -> None:
    assert spill_share(deployment(demand=demand)) == expected


def test_times_are_whole_seconds() -> None:
    assert stamp(NOW.timestamp() + 0.9) == NOW


def test_a_refused_child_is_told_and_taken_back() -> None:
    words = "the API server refuses what this deployment needs, tried again: spec.env[0].name is invalid"
    refused = of_refusal(MoEDeploymentStatus(), 3, words, NOW)
    told = find_condition(refused.conditions, "Degraded")
    assert told is not None
    assert (told.status, told.reason, told.message) == ("True", Reason.APPLY_REFUSED, words)


ROLLING = Decision(Code.ROLLOUT_SURGE, "1 of 2 replicas answer in revision b, 1 older", BLACKWELL.name, 2, 2)
GIVEN_UP = Decision(Code.ROLLOUT_FAILED, "revision b is given up, back to a: p: CrashLoopBackOff", BLACKWELL.name, 2, 2)


def test_a_rollout_is_told_as_progress_and_a_bad_revision_as_a_fault() -> None:
    status = told(seen(Phase.READY, Phase.STARTING), planned(2, decisions=(ROLLING,)))
    assert condition(status, "Progressing") == ("True", Reason.ROLLING_OUT)
    assert find_condition(status.conditions, "Degraded") is None
    failed = told(seen(Phase.READY), planned(2, decisions=(GIVEN_UP, ROLLING)), status)
    assert condition(failed, "Degraded") == ("True", Reason.ROLLOUT_FAILED)
    assert condition(told(seen(Phase.READY), planned(), failed), "Degraded") == ("False", Reason.AS_EXPECTED)


def test_containers_that_do_not_start_are_a_fault_though_nothing_is_rolled_out() -> None:
    broken = replace(replica(0, Phase.STARTING), failure="pod-0: ImagePullBackOff (no such tag)")
    status = told(deployment(replicas=(broken,)), planned())
    assert condition(status, "Degraded") == ("True", Reason.REPLICAS_FAIL)
    found = find_condition(status.conditions, "Degraded")
    assert found is not None and "pod-0: ImagePullBackOff (no such tag)" in found.message


def test_replicas_of_retired_variants_cost_money_too() -> None:
    old = replace(replica(1, Phase.READY), variant="old-fp8")
    both = deployment(replicas=(replica(0, Phase.READY), old), retired=(Retired("old-fp8", "b200", 8, 33.6),))
    status = told(both, planned())
    assert status.cost is not None and status.cost.gpu_per_hour == Decimal("50.4")
    shown = [(v.name, v.ready, v.cold_start_seconds) for v in status.variants]
    assert shown == [(BLACKWELL.name, 1, None), (HOPPER.name, 0, None), ("old-fp8", 1, None)]


@pytest.mark.parametrize(
    ("autoscaler", "pinned", "reason", "words"),
    [
        (Autoscaler("web", 1, 9), 0, Reason.AUTOSCALER_INACTIVE, "does nothing while spec.replicas is 0: Spillway"),
        (Autoscaler("web", 0, 9), 0, Reason.AUTOSCALER_INACTIVE, "with minReplicas 0 it may set it"),
        (Autoscaler("web", 1, 9), 3, Reason.AUTOSCALER_PINS, "is active because spec.replicas is 3, and pins"),
        (Autoscaler("web", 1, 9), 3, Reason.AUTOSCALER_PINS, "hpa web -n chat; then kubectl scale moe/glm-5 -n chat"),
        (Autoscaler("web", 1, 9, "ScaledObject/web"), 0, Reason.AUTOSCALER_INACTIVE, "delete ScaledObject/web, which"),
    ],
)
def test_an_autoscaler_of_others_is_told_with_what_it_does_and_how_to_remove_it(
    autoscaler: Autoscaler, pinned: int, reason: str, words: str
) -> None:
    view = seen(Phase.READY, pinned_replicas=pinned)
    status = of_deployment(resolved(), view, planned(), MoEDeploymentStatus(), (), 0.0, NOW, [autoscaler])
    found = find_condition(status.conditions, "ForeignAutoscaler")
    assert found is not None
    assert (found.status, found.reason) == ("True", reason)
    assert words in found.message, found.message
    gone = told(view, planned(), status, LATER)
    assert condition(gone, "ForeignAutoscaler") == ("False", Reason.NO_AUTOSCALER)
    assert find_condition(told(view, planned()).conditions, "ForeignAutoscaler") is None
