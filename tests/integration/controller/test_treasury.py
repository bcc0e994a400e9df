"""The treasury on a real API server, reading a gateway's page over HTTP: no dollar is lost or counted twice."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web
from kubernetes.aio import config
from kubernetes.aio.client import CoreV1Api, V1ConfigMap, V1Namespace, V1ObjectMeta

from spillway.act.events import EventRecorder
from spillway.act.kube import Kube as Client
from spillway.controller.adjustment_watch import AdjustmentWatch
from spillway.controller.settings import OperatorSettings
from spillway.controller.treasury import ROUNDS_IN_FORCE, Treasury
from spillway.gateway.entries import Attempt
from spillway.gateway.share import share
from spillway.ledger import IDLE, Amount, Key, Pair, Process, ProviderModel, total
from spillway.ledger.detail import Sum
from spillway.ledger.store import LedgerStore
from spillway.observe import Objects
from tests.integration.conftest import Kube
from tests.unit.api.examples import example

ZAI = Pair("chat", "glm-5", "zai", "glm-5")
CLUSTER = "ext|zai|glm-5|chat/glm-5"
PAIR = 'deployment="chat/glm-5",provider="zai",model="glm-5",outcome="metered"'


class FakeGateway:
    """Answers `/counters` as a gateway does that has sent so many requests of 1000 + 100 tokens to a provider."""

    def __init__(self) -> None:
        self.process, self.requests, self.in_flight, self.port = "p1", 0, 0, 0
        self.silent = False
        self.outcome, self.cache_writes = "metered", 0
        self.errors: dict[str, int] = {}

    def page(self) -> str:
        label = f'{PAIR.replace("metered", self.outcome)},process="{self.process}"'
        rows = {
            "requests": 1,
            "prompt_tokens": 1000,
            "completion_tokens": 100,
            "cached_tokens": 0,
            "cache_write_tokens": self.cache_writes,
        }
        lines = [f"envoy_spillway_egress_{name}{{{label}}} {each * self.requests}" for name, each in rows.items()]
        refused = f'{PAIR.replace("metered", "refused")},process="{self.process}"'
        lines.append(f"envoy_spillway_egress_requests{{{refused}}} {sum(self.errors.values())}")
        of = f'provider="zai",model="glm-5",process="{self.process}"'
        lines += [f'envoy_spillway_egress_errors{{{of},why="{why}"}} {count}' for why, count in self.errors.items()]
        cluster = f'envoy_cluster_name="ext|zai|glm-5|chat/glm-5",process="{self.process}"'
        return "\n".join([*lines, f"envoy_cluster_upstream_rq_active{{{cluster}}} {self.in_flight}", ""])


@asynccontextmanager
async def listening(address: str, port: int = 0) -> AsyncIterator[FakeGateway]:
    fake = FakeGateway()

    async def counters(_: web.Request) -> web.Response:
        return web.Response(status=503) if fake.silent else web.Response(text=fake.page())

    app = web.Application()
    app.router.add_get("/counters", counters)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, address, port).start()
    fake.port = runner.addresses[0][1]
    yield fake
    await runner.cleanup()


@pytest.fixture
async def gateway() -> AsyncIterator[FakeGateway]:
    async with listening("127.0.0.1") as fake:
        yield fake


def objects(namespace: str) -> Objects:
    """A cluster with one gateway pod, one deployment, one provider and a budget of 500 dollars a day."""
    api = {"apiVersion": "spillway.dev/v1alpha1"}
    pod = {
        "metadata": {"name": "gw-0", "namespace": namespace, "labels": {"app.kubernetes.io/name": "spillway-gateway"}},
        "status": {"phase": "Running", "podIP": "127.0.0.1"},
    }
    model = {"name": "glm-5", "price": {"input": "1", "output": "3"}, "contextLength": 8192, "maxOutputTokens": 512}
    provider = {
        **api,
        "kind": "ExternalProvider",
        "metadata": {"name": "zai"},
        "spec": {
            "baseURL": "https://api.z.ai/v4",
            "credentials": {"key": "zai"},
            "models": [model],
            "allowedNamespaces": ["chat"],
        },
    }
    spill = {"providers": [{"name": "zai", "model": "glm-5"}]}
    moe = {
        **api,
        "kind": "MoEDeployment",
        "metadata": {"name": "glm-5", "namespace": "chat", "uid": "u"},
        "spec": {"model": {"name": "glm-5"}, "spill": spill},
    }
    budget = {"name": "day", "period": "Day", "amount": "500"}
    policy = {
        **api,
        "kind": "CostPolicy",
        "metadata": {"name": "team"},
        "spec": {"selector": {"namespaces": ["chat"]}, "budgets": [budget]},
    }
    return Objects(
        moedeployments={"chat/glm-5": moe},
        externalproviders={"zai": provider},
        costpolicies={"team": policy},
        pods={f"{namespace}/gw-0": pod},
    )


@pytest.fixture
async def core(kube: Kube) -> AsyncIterator[CoreV1Api]:
    client = await config.new_client_from_config(str(kube.kubeconfig))  # type: ignore[no-untyped-call]
    async with client:
        yield CoreV1Api(client)


@pytest.fixture
async def namespace(core: CoreV1Api) -> str:
    name = f"treasury-{uuid4().hex[:8]}"
    await core.create_namespace(V1Namespace(metadata=V1ObjectMeta(name=name)))
    return name


@asynccontextmanager
async def treasury(core: CoreV1Api, found: Objects, namespace: str, port: int) -> AsyncIterator[Treasury]:
    """A leader's treasury that runs until the block ends, and then writes its last state."""
    settings = OperatorSettings(namespace=namespace, gateway_metrics_port=port)
    adjustments = AdjustmentWatch(core, namespace, EventRecorder(Client(core.api_client), "test"))
    await adjustments.read()
    one = Treasury(core, found, settings, on_threshold=lambda: None, adjustments=adjustments)
    await one.load()
    stopped = asyncio.Event()
    task = asyncio.create_task(one.run(stopped))
    watching = asyncio.create_task(adjustments.run())
    try:
        yield one
    finally:
        stopped.set()
        await task
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def until(look: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not look():  # noqa: ASYNC110 - the treasury tells nobody that it has read
            await asyncio.sleep(0.05)


def spent(one: Treasury) -> Decimal:
    return sum((a.usd for a in total(one.book).values()), Decimal(0))


def estimated(one: Treasury) -> Decimal:
    return sum((a.estimated_usd for a in total(one.book).values()), Decimal(0))


EACH = Decimal("0.0013")  # 1000 tokens at $1 and 100 at $3 a million


async def test_a_new_leader_goes_on_where_the_old_one_was(
    core: CoreV1Api, namespace: str, gateway: FakeGateway
) -> None:
    found = objects(namespace)
    gateway.requests = 10
    async with treasury(core, found, namespace, gateway.port) as one:
        await until(lambda: one.view.statements and one.view.statements["team"][0].spent == 10 * EACH)
        assert spent(one) == 10 * EACH
        assert one.fresh
    gateway.requests = 25  # while nobody looked
    async with treasury(core, found, namespace, gateway.port) as two:
        assert spent(two) == 10 * EACH
        await until(lambda: spent(two) == 25 * EACH)
        assert estimated(two) == 0


@pytest.mark.parametrize(("outcome", "marked"), [("metered:500", False), ("doubtful:500", True)])
async def test_a_tier_and_cache_writes_are_charged_at_their_prices(
    core: CoreV1Api, namespace: str, gateway: FakeGateway, outcome: str, marked: bool
) -> None:
    found = objects(namespace)
    tier = {"aboveInputTokens": 500, "input": "2", "cacheWrite": "2.5", "output": "6"}
    found.externalproviders["zai"]["spec"]["models"][0]["price"]["tiers"] = [tier]
    gateway.outcome, gateway.cache_writes, gateway.requests = outcome, 400, 10
    # 600 tokens at $2, 400 at $2.50 and 100 at $6 a million; nothing doubtful is believed to be cheaper, and its answer
    # is taken to be as long as a mean one.
    each = Decimal("0.0025") + 256 * Decimal("6e-6") if marked else Decimal("0.0028")
    async with treasury(core, found, namespace, gateway.port) as one:
        await until(lambda: spent(one) == 10 * each)
        assert estimated(one) == (10 * each if marked else 0)
    gateway.requests = 11
    async with treasury(core, found, namespace, gateway.port) as two:
        await until(lambda: spent(two) == 11 * each)


async def test_a_gateway_killed_while_nobody_leads_is_charged_its_limit(
    core: CoreV1Api, namespace: str, gateway: FakeGateway
) -> None:
    found = objects(namespace)
    gateway.requests = 10
    async with treasury(core, found, namespace, gateway.port) as one:
        await until(lambda: spent(one) == 10 * EACH)
    del found.pods[f"{namespace}/gw-0"]
    async with treasury(core, found, namespace, gateway.port) as two:
        await until(lambda: not two.book.gateways)
        assert estimated(two) > 0, "what it may have spent unread is not forgotten"


async def test_a_gateway_killed_while_nobody_leads_is_charged_the_limit_of_its_time(
    core: CoreV1Api, namespace: str, gateway: FakeGateway
) -> None:
    """The next leader allows nothing any more, and reads another process in that pod with nothing in flight."""
    found = objects(namespace)
    gateway.requests, gateway.in_flight = 10, 4
    async with treasury(core, found, namespace, gateway.port) as one:
        await until(lambda: spent(one) == 10 * EACH)
        await until(lambda: one.view.caps and min(one.view.caps.values()) > 4)
        [allowed] = one.view.caps.values()
        greatest = one.view.needs[0].slot.greatest_usd
    gateway.process, gateway.requests, gateway.in_flight = "p2", 0, 0
    found.costpolicies["team"]["spec"]["budgets"][0]["amount"] = "0.01"
    async with treasury(core, found, namespace, gateway.port) as two:
        await until(lambda: {owner.process for owner in two.book.gateways} == {"p2"})
        assert max(two.view.caps.values()) == 0
        assert estimated(two) >= allowed * greatest


async def test_no_cap_is_given_that_the_stored_ledger_does_not_know(
    core: CoreV1Api, namespace: str, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a leader that dies before its next write leaves limits behind that nobody can charge."""
    found = objects(namespace)
    async with treasury(core, found, namespace, gateway.port) as one:
        gateway.requests = 1
        await until(lambda: one.view.caps and min(one.view.caps.values()) > 0)
        stored = await one._store.load()
        assert stored is not None
        [kept] = stored.caps.values()
        for pair, cap in one.view.caps.items():
            assert kept[pair] >= cap

        async def unreachable(*_: object) -> Any:
            raise OSError("no API server")

        monkeypatch.setattr(one._store, "write", unreachable)
        found.costpolicies["team"]["spec"]["budgets"][0]["amount"] = "50000"
        gateway.requests = 2
        await until(lambda: spent(one) == 2 * EACH)
        for pair, cap in one.view.caps.items():
            assert cap <= kept[pair]
        monkeypatch.undo()


async def test_a_gateway_that_ends_cleanly_is_charged_nothing_more(
    core: CoreV1Api, namespace: str, gateway: FakeGateway
) -> None:
    found = objects(namespace)
    gateway.requests = 10
    async with treasury(core, found, namespace, gateway.port) as one:
        await until(lambda: spent(one) == 10 * EACH)
        found.pods[f"{namespace}/gw-0"]["metadata"]["deletionTimestamp"] = "2026-11-23T12:00:00Z"
        gateway.requests = 12  # its last ones, read before it goes
        await until(lambda: spent(one) == 12 * EACH)
        del found.pods[f"{namespace}/gw-0"]
        await until(lambda: not one.book.gateways)
        assert (spent(one), estimated(one)) == (12 * EACH, Decimal(0))


async def test_a_restarted_process_counts_from_zero(core: CoreV1Api, namespace: str, gateway: FakeGateway) -> None:
    found = objects(namespace)
    gateway.requests = 10
    async with treasury(core, found, namespace, gateway.port) as one:
        await until(lambda: spent(one) == 10 * EACH)
        gateway.process, gateway.requests = "p2", 3
        await until(lambda: {owner.process for owner in one.book.gateways} == {"p2"})
        assert spent(one) - estimated(one) == 13 * EACH
        assert estimated(one) > 0, "the first process was never read after its last request"


async def test_a_ledger_that_somebody_else_changed_is_read_again(
    core: CoreV1Api, namespace: str, gateway: FakeGateway
) -> None:
    found = objects(namespace)
    gateway.requests = 10
    async with treasury(core, found, namespace, gateway.port) as one:
        await until(lambda: spent(one) == 10 * EACH)
        await one.write(force=True)
        stored: Any = await core.read_namespaced_config_map("spillway-ledger", namespace)
        stored.metadata.annotations = {"somebody": "was here"}
        await core.replace_namespaced_config_map("spillway-ledger", namespace, stored)
        gateway.requests = 11
        await until(lambda: spent(one) == 11 * EACH)
        await one.write(force=True)
        await until(lambda: spent(one) == 11 * EACH)
        assert estimated(one) == 0


async def test_a_busy_gateway_that_starts_again_is_charged_what_it_had_and_not_what_its_successor_has(
    core: CoreV1Api, namespace: str, gateway: FakeGateway
) -> None:
    found = objects(namespace)
    idle_pod = deepcopy(found.pods[f"{namespace}/gw-0"])
    idle_pod["metadata"]["name"], idle_pod["status"]["podIP"] = "gw-1", "127.0.0.2"
    found.pods[f"{namespace}/gw-1"] = idle_pod
    async with listening("127.0.0.2", gateway.port) as idle, treasury(core, found, namespace, gateway.port) as one:
        idle.process = "q1"
        gateway.requests, gateway.in_flight = 10, 60
        await until(lambda: one.view.caps and one.in_flight.get("p1", {}).get(CLUSTER) == 60)
        await rounds(one, 2)  # the caps are shared out by what was in flight
        cap = one.view.caps[ZAI]
        had = share(cap, {"gw-0": 60, "gw-1": 0})["gw-0"]
        assert had > 0.7 * cap, "nearly all of the cap is with the busy one"
        kept = one.book.caps[Process("gw-0", "p1")][ZAI]
        gateway.process, gateway.requests, gateway.in_flight = "p2", 0, 0
        await until(lambda: {owner.process for owner in one.book.gateways} == {"p2", "q1"})
        [need] = one.view.needs
        assert kept >= had
        assert estimated(one) > kept * need.slot.greatest_usd


async def test_a_gateway_that_starts_again_while_nobody_leads_is_charged_its_limit(
    core: CoreV1Api, namespace: str, gateway: FakeGateway
) -> None:
    found = objects(namespace)
    gateway.requests, gateway.in_flight = 10, 60
    async with treasury(core, found, namespace, gateway.port) as one:
        await until(lambda: spent(one) == 10 * EACH)
        await rounds(one, 2)
        cap = one.view.caps[ZAI]
    gateway.process, gateway.requests, gateway.in_flight = "p2", 0, 0
    async with treasury(core, found, namespace, gateway.port) as two:
        await until(lambda: two.view.needs and {owner.process for owner in two.book.gateways} == {"p2"})
        [need] = two.view.needs
        assert cap > 50
        assert estimated(two) >= cap * (need.slot.greatest_usd + need.slot.burn_usd_per_second)


async def test_what_a_silent_gateway_may_spend_is_kept_back_until_it_answers_and_charged_when_it_is_gone(
    core: CoreV1Api, namespace: str, gateway: FakeGateway
) -> None:
    found = objects(namespace)
    # One request in flight is all that this budget allows, and a silent gateway uses it up in a few seconds.
    found.externalproviders["zai"]["spec"]["models"][0]["contextLength"] = 32768
    found.costpolicies["team"]["spec"]["budgets"][0]["amount"] = "3"
    async with treasury(core, found, namespace, gateway.port) as one:
        gateway.requests = 1
        await until(lambda: one.view.caps.get(ZAI) == 1)
        gateway.silent = True
        await until(lambda: one.view.caps.get(ZAI) == 0)
        for _ in range(2 * ROUNDS_IN_FORCE):
            await rounds(one, 1)
            assert one.view.caps[ZAI] == 0, "the limits that follow from its silence are not those that it had"
    # A leader that never read it knows as little.
    async with treasury(core, found, namespace, gateway.port) as two:
        await two.read_once.wait()
        assert two.view.caps[ZAI] == 0
        await rounds(two, 2 * ROUNDS_IN_FORCE)
        assert two.view.caps[ZAI] == 0
        del found.pods[f"{namespace}/gw-0"]
        await until(lambda: not two.book.gateways)
        assert estimated(two) > 0


async def test_a_provider_without_money_gets_nothing_until_its_object_changes_and_then_one_request(
    core: CoreV1Api, namespace: str, gateway: FakeGateway
) -> None:
    found = objects(namespace)
    zai = found.externalproviders["zai"]
    zai["metadata"]["generation"] = 1
    gateway.requests, gateway.errors = 10, {"quota": 4, "throttled": 9}
    async with treasury(core, found, namespace, gateway.port) as one:
        await until(lambda: one.view.caps.get(ZAI))
        usual = one.view.caps[ZAI]
        assert usual > 1, "what happened before this leader is no news"
        gateway.errors = {"quota": 4, "throttled": 19}
        await rounds(one, 2)
        assert one.view.caps[ZAI] == usual
        gateway.errors["quota"] = 5
        await until(lambda: one.view.caps[ZAI] == 0)
        code, words = one.view.stops[ZAI]
        assert code == "ProviderDisabled"
        assert "ExternalProvider zai says that its account has no money or no quota left" in words
        await rounds(one, 2)
        assert one.view.caps[ZAI] == 0
        zai["metadata"]["generation"] = 2  # somebody changed it, and means it to be tried
        await until(lambda: one.view.caps[ZAI] == 1)
        await rounds(one, 2)
        assert (one.view.caps[ZAI], one.view.stops) == (1, {})
        gateway.requests += 1
        await until(lambda: one.view.caps[ZAI] > 1)
        assert one.providers.guard.disabled == {}
        assert (spent(one), estimated(one)) == (11 * EACH, Decimal(0)), "what was refused cost nothing"


async def test_a_provider_gets_no_more_requests_than_its_tokens_of_a_minute_allow(
    core: CoreV1Api, namespace: str, gateway: FakeGateway
) -> None:
    found = objects(namespace)
    found.externalproviders["zai"]["spec"]["limits"] = {"tokensPerMinute": 11_000}  # ten requests of 1,100
    gateway.requests = 3
    async with treasury(core, found, namespace, gateway.port) as one:
        await until(lambda: one.view.caps.get(ZAI) == 10)  # what happened before this leader is not of its minute
        gateway.requests = 9
        await until(lambda: one.view.caps[ZAI] == 4)
        gateway.requests = 13
        await until(lambda: one.view.caps[ZAI] == 0)
        assert one.view.stops[ZAI] == (
            "ProviderLimit",
            "ExternalProvider zai took 11,000 tokens in the last minute, and limits.tokensPerMinute is 11,000: no "
            "further request goes there until there is room",
        )


def attempts(count: int, completion: int = 100) -> list[Attempt]:
    """What the gateway's log tells of requests as `FakeGateway` counts them."""
    return [Attempt("p1", "chat/glm-5", "zai", "glm-5", "metered", 0, 1000, completion, 0, 0, 9, 9, 800, 300)] * count


async def test_what_was_charged_is_checked_against_the_gateways_log(
    core: CoreV1Api, namespace: str, gateway: FakeGateway
) -> None:
    found = objects(namespace)
    gateway.requests = 50
    async with treasury(core, found, namespace, gateway.port) as one:
        await until(lambda: spent(one) == 50 * EACH)  # of before it led: not compared
        one.take_attempts(attempts(200))
        gateway.requests = 250
        await until(lambda: one.detail.sums().get("zai", Sum()).requests == 200)
        hour = one.detail.sums()["zai"]
        assert (hour.coverage, hour.drift, hour.usd) == (1.0, 0.0, 200 * EACH)
        assert one.detail.quantiles()[ProviderModel("zai", "glm-5")][0.5] == EACH
        gateway.requests = 450
        await until(lambda: one.detail.sums()["zai"].requests == 400)
        hour = one.detail.sums()["zai"]
        assert (hour.coverage, hour.drift) == (0.5, None), "entries that were lost are no drift"
        one.take_attempts(attempts(200, completion=400))
        await rounds(one, 2)
        drift = one.detail.sums()["zai"].drift
        assert drift is not None and drift == pytest.approx(0.2571, abs=1e-4)  # $0.52 were charged of $0.70


async def test_a_new_leader_begins_with_a_trial_of_a_provider_that_was_disabled(
    core: CoreV1Api, namespace: str, gateway: FakeGateway
) -> None:
    found = objects(namespace)
    healthy = {"type": "Healthy", "status": "False", "reason": "QuotaSpent", "message": "as it was"}
    found.externalproviders["zai"]["status"] = {
        "conditions": [{**healthy, "lastTransitionTime": "2026-11-23T12:00:00Z"}]
    }
    gateway.requests, gateway.errors = 10, {"quota": 4}
    async with treasury(core, found, namespace, gateway.port) as one:
        await one.read_once.wait()
        assert one.view.caps[ZAI] <= 1
        await until(lambda: one.view.caps[ZAI] == 1)
        gateway.errors = {"quota": 5}
        await until(lambda: one.view.caps[ZAI] == 0)
        assert one.providers.guard.disabled["zai"].seconds == 60


async def rounds(one: Treasury, count: int) -> None:
    """So many more readings."""
    for _ in range(count):
        before = one.view
        await until(lambda before=before: one.view is not before)  # type: ignore[misc]


# ---- adjustments -----------------------------------------------------------------------------------------------------


async def vanished(core: CoreV1Api, found: Objects, namespace: str, gateway: FakeGateway) -> Decimal:
    """A gateway that sent ten requests, was killed while nobody led, and was charged its limit: how much of it."""
    gateway.requests = 10
    async with treasury(core, found, namespace, gateway.port) as one:
        await until(lambda: spent(one) == 10 * EACH)
        await until(lambda: one.view.caps and min(one.view.caps.values()) > 0)
    gone = found.pods.pop(f"{namespace}/gw-0")
    async with treasury(core, found, namespace, gateway.port) as one:
        await until(lambda: not one.book.gateways)
        much = estimated(one)
    assert much > 1
    found.pods[f"{namespace}/gw-0"] = gone
    gateway.process, gateway.requests = "p2", 0
    return much


async def ask(core: CoreV1Api, namespace: str, ref: str, **changes: str) -> None:
    """What `kubectl spillway bill adjust` writes; yesterday is not midnight's problem: the month is named."""
    entry = {
        "day": f"{datetime.now(UTC):%Y-%m}",
        "namespace": "chat",
        "deployment": "glm-5",
        "provider": "zai",
        "model": "glm-5",
        "reason": "invoice 4711",
        "by": "ada",
        **changes,
    }
    await core.patch_namespaced_config_map("spillway-adjustments", namespace, {"data": {ref: json.dumps(entry)}})


@pytest.fixture
async def requests(core: CoreV1Api, namespace: str) -> None:
    """The ConfigMap that the manifests bring."""
    await core.create_namespaced_config_map(
        namespace, V1ConfigMap(metadata=V1ObjectMeta(name="spillway-adjustments", namespace=namespace))
    )


@pytest.mark.usefixtures("requests")
async def test_an_estimate_is_adjusted_once_and_the_budget_has_it_back(
    core: CoreV1Api, namespace: str, gateway: FakeGateway
) -> None:
    found = objects(namespace)
    much = await vanished(core, found, namespace, gateway)
    async with treasury(core, found, namespace, gateway.port) as one:
        await until(lambda: one.view.statements)
        before = one.view.statements["team"][0].remaining
        await ask(core, namespace, "inv-1", to=str(10 * EACH + 1))
        await until(lambda: spent(one) == 10 * EACH + 1)
        await until(lambda: one.view.statements["team"][0].remaining == before + much - 1)
        assert estimated(one) == 1
        stored = await one._store.load()
        assert stored is not None
        assert stored.adjustments["inv-1"].usd == 1 - much
        await rounds(one, 2)
        assert spent(one) == 10 * EACH + 1
        await ask(core, namespace, "inv-2", usd="-5")
        await until(lambda: "inv-2" in one.book.adjustments)
        assert "only 1" in one.book.adjustments["inv-2"].refusal
        assert spent(one) == 10 * EACH + 1
    async with treasury(core, found, namespace, gateway.port) as two:
        await rounds(two, 2)
        assert spent(two) == 10 * EACH + 1
        assert set(two.book.adjustments) == {"inv-1", "inv-2"}
    reasons = await told(core, namespace)
    assert reasons.count("AdjustmentApplied") == 1
    assert reasons.count("AdjustmentRefused") >= 1


async def told(core: CoreV1Api, namespace: str) -> list[str]:
    found = await Client(core.api_client).request("GET", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events")
    return [str(event["reason"]) for event in found["items"] if event["regarding"]["name"] == "spillway-adjustments"]


@pytest.mark.usefixtures("requests")
async def test_a_credit_that_cannot_be_stored_is_not_in_force(
    core: CoreV1Api, namespace: str, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be spent, and a leader who knows nothing of it would find the budget overspent."""
    found = objects(namespace)
    much = await vanished(core, found, namespace, gateway)
    async with treasury(core, found, namespace, gateway.port) as one:
        await rounds(one, 1)

        tried = asyncio.Event()

        async def unreachable(*_: object) -> Any:
            tried.set()
            raise OSError("no API server")

        monkeypatch.setattr(one._store, "write", unreachable)
        await ask(core, namespace, "inv-1", usd="-1")
        tried.clear()
        await asyncio.wait_for(tried.wait(), 20)
        await rounds(one, 1)
        assert estimated(one) == much
        assert await told(core, namespace) == []
        monkeypatch.undo()
        await until(lambda: estimated(one) == much - 1)
    assert await told(core, namespace) == ["AdjustmentApplied"]


@pytest.mark.usefixtures("requests")
async def test_a_leader_that_dies_after_storing_an_adjustment_has_it_applied_once(
    core: CoreV1Api, namespace: str, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API server took the write and its answer was lost; then somebody else wrote the ledger."""
    found = objects(namespace)
    much = await vanished(core, found, namespace, gateway)
    async with treasury(core, found, namespace, gateway.port) as one:
        await rounds(one, 1)
        write = one._store.write

        async def lost(book: Any, now: datetime) -> Any:
            version = one._store._version
            await write(book, now)
            one._store._version = version
            monkeypatch.undo()
            raise TimeoutError("no answer")

        monkeypatch.setattr(one._store, "write", lost)
        await ask(core, namespace, "inv-1", usd="-1")
        await until(lambda: "inv-1" in one.book.adjustments)
        await rounds(one, 2)
        assert estimated(one) == much - 1
    async with treasury(core, found, namespace, gateway.port) as two:
        await rounds(two, 2)
        assert estimated(two) == much - 1


@pytest.mark.usefixtures("requests")
async def test_the_command_asks_and_tells_what_the_leader_made_of_it(
    core: CoreV1Api, kube: Kube, namespace: str, gateway: FakeGateway
) -> None:
    found = objects(namespace)
    much = await vanished(core, found, namespace, gateway)

    async def bill_adjust(*arguments: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from spillway.cli.main import main; main()",
            *("bill", "adjust", "--operator-namespace", namespace, *arguments),
            env={**os.environ, "KUBECONFIG": str(kube.kubeconfig)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        text, _ = await process.communicate()
        return process.returncode, " ".join(text.decode().split())

    month = f"{datetime.now(UTC):%Y-%m}"
    asked = ("glm-5", "-n", "chat", "--provider", "zai", "--day", month, "--reason", "invoice 4711", "--id", "inv-1")
    async with treasury(core, found, namespace, gateway.port) as one:
        await rounds(one, 1)
        status, text = await bill_adjust(*asked, "--to", f"{10 * EACH:f}")
        assert (status, text) == (0, f"adjusted by -{much:f} USD: chat/glm-5 at zai (glm-5) on {month} (UTC) (inv-1)")
        assert (spent(one), estimated(one)) == (10 * EACH, Decimal(0))
    status, text = await bill_adjust("--list", "--format", "json")
    [told_of_it] = json.loads(text)
    assert (told_of_it["outcome"], told_of_it["by"], Decimal(told_of_it["usd"])) == ("applied", "admin", -much)


async def test_reserved_gpus_that_nobody_uses_are_in_the_stored_ledger_and_in_no_budget(
    core: CoreV1Api, namespace: str, gateway: FakeGateway
) -> None:
    found = objects(namespace)
    pool = example("GPUPool", "h200", price__billing="Reserved", price__reservedGPUs=8, price__perGPUHour="3.60")
    found.gpupools["h200"] = pool
    key = Key(IDLE, IDLE, "gpu", "h200", "")
    async with treasury(core, found, namespace, gateway.port) as one:
        await until(lambda: "h200" in one.book.idle)
        assert one.book.idle["h200"].gpus == 8
    # An hour passes in which no operator runs.
    store = LedgerStore(core, namespace)
    stored = await store.load()
    assert stored is not None
    mark = stored.idle["h200"]
    await store.write(replace(stored, idle={"h200": replace(mark, until=mark.until - 3600)}), datetime.now(UTC))
    async with treasury(core, found, namespace, gateway.port) as two:
        await until(lambda: key in total(two.book))
        had: Amount = total(two.book)[key]
        assert had.gpu_seconds >= 8 * (3600 - 60)
        assert had.usd == Decimal("0.001") * had.gpu_seconds
        assert two.view.statements["team"][0].gpu == 0
        assert IDLE not in two.view.policies
