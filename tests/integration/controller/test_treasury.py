"""The treasury on a real API server, reading a gateway's page over HTTP: no dollar is lost or counted twice."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from kubernetes.aio.client import CoreV1Api

from spillway.controller.treasury import ROUNDS_IN_FORCE
from spillway.gateway.entries import Attempt
from spillway.gateway.share import share
from spillway.ledger import IDLE, Amount, Key, Process, ProviderModel, total
from spillway.ledger.detail import Sum
from spillway.ledger.store import LedgerConflict, LedgerStore
from tests.integration.controller.treasuries import (
    CLUSTER,
    EACH,
    ZAI,
    FakeGateway,
    estimated,
    listening,
    objects,
    rounds,
    spent,
    stored_usd,
    treasury,
    until,
)
from tests.unit.api.examples import example


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


@pytest.mark.parametrize(
    ("outcome", "marked"), [("metered/stream:500", False), ("metered:500", False), ("doubtful/stream:500", True)]
)
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


async def test_a_ledger_that_is_gone_when_it_is_read_again_is_written_from_the_book_in_hand(
    core: CoreV1Api, namespace: str, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of its objects was touched and another one deleted: nothing is what is stored, and not what was spent."""
    found = objects(namespace)
    gateway.requests = 10
    async with treasury(core, found, namespace, gateway.port) as one:
        await until(lambda: spent(one) == 10 * EACH)
        await one.write(force=True)
        await core.delete_namespaced_config_map("spillway-ledger", namespace)

        async def touched(*_: object) -> Any:
            monkeypatch.undo()
            raise LedgerConflict("an object of pages was written by somebody else")

        monkeypatch.setattr(one._store, "write", touched)
        gateway.requests = 11
        await until(lambda: spent(one) == 11 * EACH)
        await one.write(force=True)
        assert spent(one) == 11 * EACH
    assert await stored_usd(core, namespace) == 11 * EACH


async def test_a_ledger_that_does_not_fit_is_told_and_ends_nobody(
    core: CoreV1Api,
    namespace: str,
    gateway: FakeGateway,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = objects(namespace)
    gateway.requests = 10
    async with treasury(core, found, namespace, gateway.port) as one:
        await until(lambda: spent(one) == 10 * EACH)
        with monkeypatch.context() as full:
            full.setattr(one._store, "_limit_bytes", 100)
            gateway.requests = 11
            await until(lambda: spent(one) == 11 * EACH)
            await one.save(force=True)
            assert "the ledger cannot be written" in caplog.text
        await one.write(force=True)
    assert await stored_usd(core, namespace) == 11 * EACH


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
