"""From the plan to what the gateways are told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from spillway.api import ExternalProvider, MoEDeployment
from spillway.controller.publish import desired, fallback
from spillway.decide.outcome import DeploymentPlan, Plan, ProviderPlan, Refusal, RoutePlan, SpillPlan, WorkloadPlan
from spillway.decide.snapshot import Phase, Replica, Snapshot
from spillway.gateway import desired as gateway
from spillway.observe import Objects, Resolved
from spillway.observe.resolve import valid
from tests.unit.api.examples import example
from tests.unit.decide.world import BLACKWELL, deployment

KEY = "chat/glm-5"
REFUSAL = Refusal(429, "budget_exhausted", "Budget 'day' is spent.", 600)


def resolved(**changes: Any) -> Resolved:
    obj = example("MoEDeployment", "glm-5", **changes)
    obj["metadata"]["namespace"] = "chat"
    [moe] = valid(MoEDeployment, {KEY: obj}).values()
    return Resolved(moe, (), (), {})


def providers(*allowed: str, **changes: Any) -> dict[str, ExternalProvider]:
    objects = {
        name: example("ExternalProvider", name, allowedNamespaces=list(allowed) or ["chat"], **changes)
        for name in ("zai", "deepinfra")
    }
    return valid(ExternalProvider, objects)


PREMIUM = {"provider": "zai", "model": "glm-5"}


def route(name: str, permitted: bool = True) -> RoutePlan:
    return RoutePlan(name, "glm-5", permitted, 9 if permitted else 0, REFUSAL)


def published(
    phases: dict[str, Phase],
    draining: tuple[str, ...] = (),
    offered: dict[str, ExternalProvider] | None = None,
    pairs: tuple[ProviderPlan, ...] = (ProviderPlan("zai", "glm-5", True, 5),),
    one: Resolved | None = None,
    without_address: str = "",
    gate: int = 10,
    routes: tuple[RoutePlan, ...] = (),
    when_empty: bool = True,
) -> gateway.Desired:
    replicas = tuple(Replica(name, BLACKWELL.name, "rev1", phase, 0.0) for name, phase in phases.items())
    objects = Objects()
    for number, name in enumerate(phases):
        status = {} if name == without_address else {"podIP": f"10.0.0.{number + 1}"}
        objects.pods[f"chat/{name}"] = {"metadata": {"name": name}, "status": status}
    workloads = (WorkloadPlan(BLACKWELL.name, "rev1", len(phases), draining),)
    spill = SpillPlan(any(p.permitted for p in pairs), 60.0, pairs, REFUSAL, routes=routes)
    spill = replace(spill, when_empty=when_empty, hold_seconds=90.0)
    plan = Plan(0.0, (DeploymentPlan(KEY, {BLACKWELL.name: len(phases)}, workloads, gate, spill),))
    snapshot = Snapshot(0.0, (deployment(replicas=replicas),), ())
    return desired(plan, snapshot, [one or resolved()], offered or providers(), objects, 2)


def test_endpoints_are_ready_pods_that_do_not_drain() -> None:
    phases = {
        "ready": Phase.READY,
        "draining": Phase.READY,
        "no-address": Phase.READY,
        "starting": Phase.STARTING,
        "stopping": Phase.STOPPING,
        "pending": Phase.PENDING,
    }
    found = published(phases, draining=("draining",), without_address="no-address")
    assert found.deployments[0].endpoints == (gateway.Endpoint("10.0.0.1", 8000),)


@pytest.mark.parametrize(("engine", "path"), [("vLLM", "/health"), ("SGLang", "/ready")])
def test_health_path_of_the_engine(engine: str, path: str) -> None:
    assert published({}, one=resolved(engine__name=engine)).deployments[0].health_path == path


def test_a_provider_that_the_namespace_may_not_use_is_not_configured_at_all() -> None:
    pairs = (ProviderPlan("zai", "glm-5", True, 5),)
    found = published({}, offered=providers("search"), pairs=pairs)
    assert found.deployments[0].chain == ()
    assert (found.providers, found.egresses) == ((), ())
    state = found.spill[found.deployments[0].id]
    assert (state.permitted, state.caps) == ({}, {})


def test_unknown_providers_and_models_are_not_configured() -> None:
    pairs = (
        ProviderPlan("ghost", "glm-5", True, 5),
        ProviderPlan("zai", "glm-6", True, 5),
        ProviderPlan("deepinfra", "glm-5", True, 5),
    )
    assert published({}, pairs=pairs).deployments[0].chain == (("deepinfra", "glm-5"),)


def test_a_pair_without_permission_stays_configured_so_that_runtime_alone_switches_it() -> None:
    pairs = (ProviderPlan("zai", "glm-5", False, 0, "BudgetSpent"), ProviderPlan("deepinfra", "glm-5", True, 7))
    found = published({}, pairs=pairs)
    one = found.deployments[0]
    assert one.chain == (("zai", "glm-5"), ("deepinfra", "glm-5")), "the user's order"
    state = found.spill[one.id]
    assert state.permitted == {("zai", "glm-5"): False, ("deepinfra", "glm-5"): True}
    assert state.caps == {("zai", "glm-5"): 0, ("deepinfra", "glm-5"): 7}
    assert (state.allowed, state.gate, state.lease_seconds) == (True, 10, 60.0)
    assert [p.name for p in found.providers] == ["deepinfra", "zai"]


ROUTES = [
    {"name": "premium", "match": {"header": {"name": "x-tier", "value": "premium"}}, "to": PREMIUM},
    {"name": "best", "match": {"model": "best"}, "to": PREMIUM},
    {"name": "canary", "match": {"percent": 5}, "to": {"provider": "deepinfra", "model": "glm-5"}},
]


def test_routes_are_published_with_their_pairs_and_refusals() -> None:
    found = published({}, one=resolved(routes=ROUTES), routes=(route("zai"), route("deepinfra", permitted=False)))
    premium, best, canary = found.deployments[0].routes
    assert (premium.header, best.model, canary.percent) == (("x-tier", "premium"), "best", 5)
    assert premium.pair == best.pair == ("zai", "glm-5") and canary.pair == ("deepinfra", "glm-5")
    assert premium.refusal == gateway.Refusal(429, "budget_exhausted", "Budget 'day' is spent.", 600)
    state = found.spill[found.deployments[0].id]
    assert state.routed == {("zai", "glm-5")}
    assert state.caps == {("zai", "glm-5"): 9, ("deepinfra", "glm-5"): 0}, "of spill and routes, the larger"
    assert [e.pair for e in found.egresses] == [("deepinfra", "glm-5"), ("zai", "glm-5")]


@pytest.mark.parametrize(
    ("offered", "to"),
    [
        (providers("search"), PREMIUM),
        (providers(), {"provider": "zai", "model": "glm-6"}),
        (providers(), {"provider": "ghost", "model": "glm-5"}),
    ],
)
def test_a_route_to_where_the_namespace_may_not_go_leads_nowhere(
    offered: dict[str, ExternalProvider], to: dict[str, str]
) -> None:
    one = resolved(routes=[{**ROUTES[0], "to": to}])
    plan = RoutePlan(to["provider"], to["model"], True, 9, REFUSAL)
    found = published({}, one=one, offered=offered, pairs=(), routes=(plan,))
    [deployment] = found.deployments
    assert deployment.routes[0].pair is None and not deployment.pairs
    assert (found.providers, found.egresses, found.spill[deployment.id].caps) == ((), (), {})


def test_refusal_names_and_credentials_are_handed_on() -> None:
    found = published({}, one=resolved(model__servedName="assistant"), offered=providers(credentials__header="x-key"))
    one = found.deployments[0]
    assert one.refusal == gateway.Refusal(429, "budget_exhausted", "Budget 'day' is spent.", 600)
    assert one.served_name == "assistant"
    [provider] = found.providers
    assert (provider.credential_key, provider.credential_header, provider.credential_prefix) == (
        "zai",
        "x-key",
        "Bearer ",
    )
    [egress] = found.egresses
    assert (egress.pair, egress.max_output_tokens, egress.max_choices) == (("zai", "glm-5"), 8192, 1)


def test_the_gateway_counts_by_the_tiers_of_the_price_and_doubts_longer_prompts() -> None:
    tiers = [{"aboveInputTokens": above, "input": "2", "output": "5"} for above in (64_000, 32_000)]
    model = {"name": "glm-5", "price": {"input": "1", "output": "3", "tiers": tiers}, "contextLength": 128_000}
    [found] = published({}, offered=providers(models=[model])).egresses
    assert (found.tiers, found.context_length) == ((32_000, 64_000), 128_000)


@pytest.mark.parametrize(
    ("phases", "pairs", "when_empty", "hold"),
    [
        ({}, (), True, True),
        ({}, (ProviderPlan("zai", "glm-5", True, 5),), True, False),
        ({}, (ProviderPlan("zai", "glm-5", True, 5),), False, True),
        ({}, (ProviderPlan("zai", "glm-5", False, 0, "NoBudget"),), True, True),
        ({"a": Phase.READY}, (), True, False),
        ({"a": Phase.STARTING}, (), True, True),
    ],
)
def test_requests_wait_where_neither_a_replica_nor_a_provider_can_take_them(
    phases: dict[str, Phase], pairs: tuple[ProviderPlan, ...], when_empty: bool, hold: bool
) -> None:
    found = published(phases, pairs=pairs, when_empty=when_empty)
    [one] = found.deployments
    assert (found.spill[one.id].hold, found.spill[one.id].when_empty) == (hold, when_empty)
    assert one.hold_seconds == 90


def test_balancing_and_occasions() -> None:
    usual, other = published({}), published({}, one=resolved(balancing="LeastRequest", spill__when=["ColdStart"]))
    assert [(d.affinity, d.some_occasions) for d in (*usual.deployments, *other.deployments)] == [
        (True, False),
        (False, True),
    ]


def test_requests_per_minute_of_a_provider() -> None:
    assert [p.requests_per_minute for p in published({}).providers] == [None]
    assert [
        p.requests_per_minute for p in published({}, offered=providers(limits__requestsPerMinute=500)).providers
    ] == [500]


def test_time_limits_of_a_provider() -> None:
    [usual] = published({}).providers
    assert (usual.connect_seconds, usual.first_byte_seconds, usual.idle_seconds) == (5.0, None, None)
    limits = {"connect": "2s", "firstByte": "500ms", "idle": "1m"}
    [limited] = published({}, offered=providers(timeouts=limits)).providers
    assert (limited.connect_seconds, limited.first_byte_seconds, limited.idle_seconds) == (2.0, 0.5, 60.0)


def test_a_deployment_without_a_plan_is_not_published() -> None:
    plan = Plan(0.0, ())
    assert desired(plan, Snapshot(0.0, (), ()), [resolved()], providers(), Objects(), 2) == gateway.Desired()


@pytest.mark.parametrize(("created", "published"), [(False, 0), (True, 1)])
def test_a_dry_run_from_its_beginning_gets_no_requests(created: bool, published: int) -> None:
    """Whose Service is there served before the dry run, and goes on."""
    spill = SpillPlan(True, 60.0, (ProviderPlan("zai", "glm-5", True, 5),), REFUSAL)
    plan = Plan(0.0, (DeploymentPlan(KEY, {}, (), 0, spill),))
    objects = Objects()
    if created:
        objects.services[KEY] = {"metadata": {"name": "glm-5", "namespace": "chat"}}
    snapshot = Snapshot(0.0, (deployment(dry_run=True),), ())
    assert len(desired(plan, snapshot, [resolved()], providers(), objects, 2).deployments) == published


@pytest.mark.parametrize(
    ("gate", "gateways", "expected"), [(0, 2, 1), (1, 2, 1), (10, 2, 4), (16, 2, 8), (17, 2, 8), (100, 0, 64)]
)
def test_fallback_gate_is_a_power_of_two_below_the_share(gate: int, gateways: int, expected: int) -> None:
    assert fallback(gate, gateways) == expected
