"""From the ledger's book to what each provider pair may do, and why not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from spillway.api import CostPolicy, ExternalProvider, MoEDeployment, Reason
from spillway.decide.snapshot import Deployment, ProviderOption, Settings
from spillway.ledger import Book, Pair, Rates, Tier, Timing
from spillway.ledger.book import Amount, Entry, Key, add
from spillway.observe import Objects, Resolved, take
from spillway.observe.money import Leased, Money, assess, prices
from spillway.observe.resolve import valid
from spillway.observe.snapshot import (
    ProviderHealth,
    budgets,
    last_request_at,
    max_share,
    most_floor_gpus,
    option,
    value_per_request,
)
from tests.unit.api.examples import example

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
PAIR = Pair("chat", "glm-5", "zai", "glm-5")
HEALTHY = ProviderHealth()
SMALL = {"name": "glm-5", "price": {"input": "1", "output": "3.2"}, "contextLength": 8192, "maxOutputTokens": 512}
LIST_PRICE = ProviderOption("zai", "glm-5", 1.0, 3.2)


def moes(provider: str = "zai", model: str = "glm-5") -> list[MoEDeployment]:
    obj = example("MoEDeployment", "glm-5", spill__providers=[{"name": provider, "model": model}])
    obj["metadata"]["namespace"] = "chat"
    return list(valid(MoEDeployment, {"chat/glm-5": obj}).values())


def providers(**changes: Any) -> dict[str, ExternalProvider]:
    spec = {"allowedNamespaces": ["chat"], "models": [SMALL]} | changes
    return valid(ExternalProvider, {"zai": example("ExternalProvider", "zai", **spec)})


def policies(*objects: dict[str, Any]) -> dict[str, CostPolicy]:
    given = objects or (example("CostPolicy", "team"),)
    return valid(CostPolicy, {obj["metadata"]["name"]: obj for obj in given})


def spent(usd: str) -> Book:
    key = Key("chat", "glm-5", "external", "zai", "glm-5")
    at = int((NOON - timedelta(hours=1)).timestamp())
    return add(Book(), [Entry(at, key, Amount(Decimal(usd)))], at)


def assessed(
    book: Book | None = None,
    own: dict[str, CostPolicy] | None = None,
    offered: dict[str, ExternalProvider] | None = None,
    asking: list[MoEDeployment] | None = None,
    unread: str = "0",
    in_flight: int = 0,
    timing: Timing | None = None,
    disabled: dict[str, tuple[int, str]] | None = None,
) -> Money:
    return assess(
        book or Book(),
        policies() if own is None else own,
        moes() if asking is None else asking,
        providers() if offered is None else offered,
        Objects(),
        {PAIR: in_flight},
        {},
        Decimal(unread),
        NOON,
        timing or Timing(),
        disabled,
    )


def test_money_left_gives_caps_and_a_bound() -> None:
    money = assessed()
    assert money.caps[PAIR] >= 1
    assert money.stops == {}
    assert money.policies == {"chat": ("team",)}
    assert money.grants["team", "day"].bound_usd == Decimal(4)
    [budget] = budgets(money, {})
    assert (budget.policy, budget.name, budget.amount, budget.remaining) == ("team", "day", Decimal(400), Decimal(400))
    assert budget.resets_at == datetime(2026, 11, 24, tzinfo=UTC).timestamp()


LONG = {
    "aboveInputTokens": 4000,
    "input": "2",
    "cachedInput": "0.5",
    "output": "6",
}


def test_prices_are_what_is_stated_and_input_where_nothing_is() -> None:
    price = {"input": "1", "output": "3.2", "cacheWrite": "1.25", "tiers": [LONG | {"aboveInputTokens": 6000}, LONG]}
    [found] = prices(providers(models=[SMALL | {"price": price}])).values()
    assert found.base == Rates(Decimal(1), Decimal(1), Decimal("1.25"), Decimal("3.2"))
    long = Rates(Decimal(2), Decimal("0.5"), Decimal(2), Decimal(6))
    assert found.tiers == (Tier(4000, long), Tier(6000, long))


def test_a_tier_that_a_prompt_can_reach_makes_requests_dearer() -> None:
    book = spent("399")
    tiered = providers(models=[SMALL | {"price": {"input": "1", "output": "3.2", "tiers": [LONG]}}])
    base, dear = assessed(book), assessed(book, offered=tiered)
    assert dear.needs[0].slot.greatest_usd == (8192 * Decimal(2) + 512 * Decimal(6)).scaleb(-6)
    assert 0 < dear.caps[PAIR] < base.caps[PAIR]


@pytest.mark.parametrize(("prompt", "usd"), [(4000.0, (1.0, 3.2)), (4001.0, (2.0, 6.0))])
def test_a_mean_prompt_in_a_tier_costs_what_the_tier_costs(prompt: float, usd: tuple[float, float]) -> None:
    tiered = providers(models=[SMALL | {"price": {"input": "1", "output": "3.2", "tiers": [LONG]}}])
    one = option(moes()[0], "zai", "glm-5", tiered, assessed(), HEALTHY, prompt_tokens=prompt)
    assert (one.usd_per_million_input, one.usd_per_million_output) == usd


def test_a_disabled_provider_has_no_slot_and_one_on_trial_a_single_one() -> None:
    shut = assessed(disabled={"zai": (0, "its account has no money: top it up")}, in_flight=3)
    assert (shut.caps[PAIR], shut.stops[PAIR]) == (0, ("ProviderDisabled", "its account has no money: top it up"))
    assert shut.needs[0].in_flight == 3, "what it has in flight still counts"
    trial = assessed(disabled={"zai": (1, "on trial")})
    assert (trial.caps[PAIR], trial.stops) == (1, {})
    assert assessed(disabled={"other": (0, "x")}).caps == assessed().caps
    spent_too = assessed(spent("400"), disabled={"zai": (0, "no money there")})
    assert spent_too.stops[PAIR][0] == "BudgetSpent", "the provider is not all that stands in the way"
    found = option(moes()[0], "zai", "glm-5", providers(), shut, HEALTHY)
    assert (found.unavailable, found.unavailable_message) == (Reason.PROVIDER_NOT_READY, shut.stops[PAIR][1])
    refused = ProviderHealth({"zai": (Reason.KEY_REFUSED, "put a key there")})
    assert option(moes()[0], "zai", "glm-5", providers(), shut, refused).unavailable == Reason.KEY_REFUSED


def test_a_faster_provider_may_burn_more_and_gets_fewer_slots() -> None:
    book = spent("390")
    usual, fast = assessed(book, timing=Timing()), assessed(book, timing=Timing(shortest_seconds=Decimal("0.05")))
    assert 0 < fast.caps[PAIR] < usual.caps[PAIR]


@pytest.mark.parametrize(
    ("when_lost", "expected"),
    [("LeaseOnly", 3600), ("StopAtOnce", 15)],
)
def test_lease(when_lost: str, expected: int) -> None:
    rich = example(
        "CostPolicy",
        "team",
        budgets=[{"name": "day", "period": "Day", "amount": "9000000"}],
        whenOperatorLost=when_lost,
    )
    assert assessed(own=policies(rich)).lease_seconds["chat"] == expected


def hourly(amount: str, **changes: Any) -> dict[str, CostPolicy]:
    return policies(example("CostPolicy", "team", spill__maxPerHour=amount, **changes))


def spent_lately(usd: str, minutes: int = 20) -> Book:
    key, at = Key("chat", "glm-5", "external", "zai", "glm-5"), int((NOON - timedelta(minutes=minutes)).timestamp())
    return add(Book(), [Entry(at, key, Amount(Decimal(usd)))], at)


def test_an_hour_that_is_spent_stops_spill_until_it_has_passed() -> None:
    money = assessed(spent_lately("8"), hourly("8"))
    assert money.caps[PAIR] == 0
    found = option(moes()[0], "zai", "glm-5", providers(), money, HEALTHY)
    assert found.unavailable == Reason.BUDGET_SPENT
    assert "spill.maxPerHour of CostPolicy team ($8 in any 60 minutes)" in found.unavailable_message
    hour = next(b for b in budgets(money, {}) if b.name == "maxPerHour")
    assert (hour.policy, hour.remaining, hour.amount) == ("team", Decimal(0), Decimal(8))
    assert hour.resets_at == (NOON + timedelta(minutes=41)).timestamp()
    assert 0 < assessed(spent_lately("3"), hourly("8")).caps[PAIR] < assessed(own=hourly("80")).caps[PAIR]
    assert assessed(spent_lately("200", 61), hourly("8")).caps[PAIR] > 0, "that was an hour ago"
    assert money.statements["team"][0].remaining == Decimal(392), "the budget has enough"


def test_a_limit_of_the_hour_permits_nothing_by_itself() -> None:
    gpus = [{"name": "day", "period": "Day", "amount": "400", "scope": "GPU"}]
    money = assessed(own=hourly("8", budgets=gpus))
    assert money.stops[PAIR][0] == "NoBudget"
    other = example("CostPolicy", "company")
    both = hourly("8", budgets=gpus) | policies(other)
    assert assessed(own=both).caps[PAIR] > 0
    assert assessed(spent_lately("8"), both).caps[PAIR] == 0, "and another policy's budget does not lift it"


def test_the_smallest_share_that_anybody_says_counts() -> None:
    team, company = example("CostPolicy", "team", spill__maxShare="0.4"), example("CostPolicy", "company")
    own = policies(team, company)
    found = seen(assessed(own=own), own)
    assert (found.max_share, found.max_share_of) == (0.4, "spill.maxShare of CostPolicy team")
    assert (seen(assessed(), policies()).max_share, seen(assessed(), policies()).max_share_of) == (
        None,
        "spec.spill.maxShare",
    )
    on_trial_ = policies(example("CostPolicy", "team", spill__maxShare="0.4", enforcement="DryRun"))
    assert seen(assessed(own=on_trial_), on_trial_).max_share is None
    obj = example("MoEDeployment", "glm-5", spill__maxShare="0.3")
    [moe] = valid(MoEDeployment, {"chat/glm-5": obj}).values()
    assert max_share(moe, ("team", "gone"), own) == (0.3, "spec.spill.maxShare")


def test_a_limit_of_requests_lengthens_the_lease() -> None:
    """Of $400: one request costs at most a cent, but 64 slots could burn $2,100 in an hour."""
    [plain], [limited] = assessed().needs, assessed(offered=providers(limits__requestsPerMinute=60)).needs
    assert (plain.per_minute, limited.per_minute) == (None, 60)
    assert assessed().lease_seconds["chat"] == 300
    assert assessed(offered=providers(limits__requestsPerMinute=60)).lease_seconds["chat"] == 3600
    pinned = policies(example("CostPolicy", "team", whenOperatorLost="StopAtOnce"))
    assert assessed(own=pinned, offered=providers(limits__requestsPerMinute=60)).lease_seconds["chat"] == 15
    by_two = policies(example("CostPolicy", "team"), example("CostPolicy", "tight", budgets=[
        {"name": "day", "period": "Day", "amount": "5"}]))  # fmt: skip
    assert assessed(own=by_two, offered=providers(limits__requestsPerMinute=60)).lease_seconds["chat"] < 3600


def test_a_lease_that_gateways_still_hold_is_in_the_needs() -> None:
    own, offered = policies(), providers()
    money = assess(
        Book(), own, moes(), offered, Objects(), {}, {}, Decimal(0), NOON, Timing(), leased={PAIR: Leased(7, 300)}
    )
    assert [(need.leased_cap, need.leased_seconds) for need in money.needs] == [(7, 300)]
    assert money.grants["team", "day"].outstanding_usd > assessed().grants["team", "day"].outstanding_usd


def test_no_budget_means_the_shortest_lease() -> None:
    assert assessed(own={}).lease_seconds["chat"] == 15


@pytest.mark.parametrize(
    ("money", "offered", "asking", "health", "reason", "words"),
    [
        (assessed(), {}, moes(), HEALTHY, Reason.UNKNOWN_PROVIDER, ["'zai'", "none"]),
        (
            assessed(),
            providers(),
            moes("kimi"),
            HEALTHY,
            Reason.UNKNOWN_PROVIDER,
            ["'kimi'", "zai"],
        ),
        (
            assessed(),
            providers(),
            moes("zai", "glm-6"),
            HEALTHY,
            Reason.MODEL_NOT_OFFERED,
            ["'glm-6'", "glm-5"],
        ),
        (assessed(), providers(suspend=True), moes(), HEALTHY, Reason.PROVIDER_NOT_READY, ["spec.suspend"]),
        (
            assessed(),
            providers(allowedNamespaces=["search"]),
            moes(),
            HEALTHY,
            Reason.NAMESPACE_NOT_ALLOWED,
            ["chat", "allowedNamespaces"],
        ),
        (
            assessed(),
            providers(),
            moes(),
            ProviderHealth({"zai": (Reason.MISSING_KEY, "no key 'zai'")}),
            Reason.MISSING_KEY,
            ["no key"],
        ),
        (
            assessed(own=policies(example("CostPolicy", "team", suspend=True))),
            providers(),
            moes(),
            HEALTHY,
            Reason.SUSPENDED,
            ["team"],
        ),
        (assessed(own={}), providers(), moes(), HEALTHY, Reason.NO_BUDGET, ["namespace chat"]),
        (
            assessed(own=policies(example("CostPolicy", "gpus", budgets=[
                {"name": "day", "period": "Day", "amount": "400", "scope": "GPU"}]))),
            providers(),
            moes(),
            HEALTHY,
            Reason.NO_BUDGET,
            ["External or Total"],
        ),
        (assessed(spent("400")), providers(), moes(), HEALTHY, Reason.BUDGET_SPENT, ["day", "team", "$400"]),
        (assessed(spent("390"), unread="11"), providers(), moes(), HEALTHY, Reason.BUDGET_SPENT, ["does not answer"]),
        (
            assessed(own=policies(example("CostPolicy", "tiny", budgets=[
                {"name": "day", "period": "Day", "amount": "0.01"}]))),
            providers(),
            moes(),
            HEALTHY,
            Reason.BUDGET_SPENT,
            ["lower max_tokens"],
        ),
    ],
)  # fmt: skip
def test_what_stands_against_a_pair(
    money: Money,
    offered: dict[str, ExternalProvider],
    asking: list[MoEDeployment],
    health: ProviderHealth,
    reason: str,
    words: list[str],
) -> None:
    [moe] = asking
    [target] = moe.spec.spill.providers
    found = option(moe, target.name, target.model, offered, money, health)
    assert found.unavailable == reason
    assert found.affordable_in_flight == 0
    for word in words:
        assert word in found.unavailable_message


def test_pairs_of_routes_share_the_budgets_with_those_of_spill() -> None:
    to = {"provider": "zai", "model": "glm-5"}
    by_route = example("MoEDeployment", "routed", routes=[{"name": "a", "match": {"percent": 5}, "to": to}])
    by_route["metadata"]["namespace"] = "chat"
    [moe] = valid(MoEDeployment, {"chat/routed": by_route}).values()
    assert moe.spec.pairs == (("zai", "glm-5"),)
    book = spent("396")
    alone, money = assessed(book), assessed(book, asking=[*moes(), moe])
    pair = Pair("chat", "routed", "zai", "glm-5")
    assert {need.pair for need in money.needs} == {PAIR, pair}
    assert money.caps[PAIR] >= 1 and money.caps[pair] >= 1
    assert money.caps[PAIR] + money.caps[pair] <= alone.caps[PAIR] < 64, "the budget binds, not the provider's limit"


def test_a_pair_with_money_may_be_used() -> None:
    money = assessed()
    found = option(moes()[0], "zai", "glm-5", providers(), money, HEALTHY)
    assert not found.unavailable
    assert found.affordable_in_flight == money.caps[PAIR]
    assert found.usd_per_request(1e6, 1e6) == pytest.approx(4.2)


def test_spend_of_other_namespaces_does_not_count() -> None:
    key = Key("search", "glm-5", "external", "zai", "glm-5")
    book = add(Book(), [Entry(int(NOON.timestamp()) - 60, key, Amount(Decimal(500)))], int(NOON.timestamp()))
    assert assessed(book).caps[PAIR] >= 1


def test_a_spent_budget_counts_as_spent_and_another_policys_does_not() -> None:
    idle = example("CostPolicy", "idle", selector={"namespaces": ["batch"]})
    money = assessed(spent("400"), policies(example("CostPolicy", "team"), idle))
    left = {b.policy: b.remaining for b in budgets(money, {})}
    assert left == {"team": Decimal(0), "idle": Decimal(400)}


def on_trial(**changes: Any) -> dict[str, CostPolicy]:
    return policies(example("CostPolicy", "team", enforcement="DryRun", **changes))


def test_a_policy_on_trial_tells_and_stops_nothing() -> None:
    money = assessed(spent("900"), on_trial())
    [told] = money.statements["team"]
    assert (told.exhausted, told.spent) == (True, Decimal(900))
    assert money.caps == assessed(own=on_trial()).caps, "as if nothing was spent"
    found = option(moes()[0], "zai", "glm-5", providers(), money, HEALTHY)
    assert (found.unavailable, found.affordable_in_flight > 0) == ("", True)
    assert budgets(money, on_trial()) == ()


def test_a_policy_on_trial_frees_nobody_from_another_one() -> None:
    both = on_trial() | policies(example("CostPolicy", "company"))
    money = assessed(spent("900"), both)
    assert money.caps[PAIR] == 0
    assert {b.policy for b in budgets(money, both)} == {"company"}
    suspended = assessed(own=on_trial(suspend=True))
    assert suspended.caps[PAIR] == 0, "the switch is a switch"


def test_a_trial_takes_no_replicas() -> None:
    day = [{"name": "day", "period": "Day", "amount": "400", "scope": "Total", "atLimit": "StopSpillAndScaleToFloor"}]
    own = on_trial(budgets=day, maxFloorGPUs=0)
    assert not seen(assessed(spent("900"), own), own).floor_only
    assert most_floor_gpus(own) == {}


def test_a_paced_budget_has_its_period() -> None:
    paced = policies(example("CostPolicy", "team", pacing="Even"))
    [found] = budgets(assessed(spent("100"), paced), paced)
    assert found.paced
    assert found.starts_at <= NOON.timestamp() < found.resets_at
    [plain] = budgets(assessed(spent("100")), policies(example("CostPolicy", "team")))
    assert not plain.paced


def test_a_budget_whose_rest_carries_no_request_counts_as_spent() -> None:
    money = assessed(spent("399.9999999"), in_flight=2000)
    assert PAIR in money.stops
    assert [b.remaining for b in budgets(money, {})] == [Decimal(0)]


@pytest.mark.parametrize(
    ("own", "stated", "options", "expected"),
    [
        ((), {}, (), 0.01),
        ((), {}, (LIST_PRICE,), 10 * (1200 * 1.0 + 200 * 3.2) / 1e6),
        (("team",), {"team": "0.02"}, (LIST_PRICE,), 0.02),
        (("team", "rich"), {"team": "0.02", "rich": "0.5"}, (), 0.02),
        (("gone",), {}, (LIST_PRICE,), 10 * (1200 * 1.0 + 200 * 3.2) / 1e6),
    ],
)
def test_value_of_a_request(
    own: tuple[str, ...], stated: dict[str, str], options: tuple[ProviderOption, ...], expected: float
) -> None:
    given = [example("CostPolicy", name, valuePerRequest=value) for name, value in stated.items()]
    found = value_per_request(own, policies(*given) if given else {}, options)
    assert found == pytest.approx(expected)


def seen(money: Money, own: dict[str, CostPolicy]) -> Deployment:
    [moe] = moes()
    one = Resolved(moe, (), (), {})
    snapshot = take(NOON.timestamp(), [one], Objects(), {}, providers(), own, None, money, HEALTHY, Settings())
    return snapshot.deployments[0]


def gpu_policy(*names: str, at_limit: str = "StopSpillAndScaleToFloor") -> dict[str, Any]:
    day = [{"name": n, "period": "Day", "amount": "400", "scope": "Total", "atLimit": at_limit} for n in names]
    return example("CostPolicy", "team", budgets=day)


@pytest.mark.parametrize(
    ("usd", "at_limit", "expected"),
    [
        ("400", "StopSpillAndScaleToFloor", True),
        ("399", "StopSpillAndScaleToFloor", False),
        ("400", "StopSpill", False),
    ],
)
def test_floor_only(usd: str, at_limit: str, expected: bool) -> None:
    own = policies(gpu_policy("day", at_limit=at_limit))
    assert seen(assessed(spent(usd), own), own).floor_only is expected


def test_policies_may_change_between_the_ledgers_reading_and_the_plan() -> None:
    # The ledger's view is up to two seconds old: what it speaks of may be gone, renamed, or more by now.
    money = assessed(spent("400"), policies(gpu_policy("day")))
    assert not seen(money, {}).floor_only
    assert seen(money, policies(gpu_policy("another", "day"))).floor_only
    assert not seen(money, policies(gpu_policy("renamed"))).floor_only


def test_what_the_spec_says_of_routes_and_waiting_is_in_the_snapshot() -> None:
    to = [{"provider": "zai", "model": "glm-5"}, {"provider": "ghost", "model": "x"}]
    matches = ({"percent": 5}, {"model": "best"}, {"percent": 6})
    routes = [{"name": f"r{n}", "match": m, "to": to[n // 2]} for n, m in enumerate(matches)]
    obj = example("MoEDeployment", "glm-5", routes=routes, spill__when=["ColdStart"], spill__holdSeconds=45)
    obj["metadata"]["namespace"] = "chat"
    [moe] = valid(MoEDeployment, {"chat/glm-5": obj}).values()
    money = assessed(asking=[moe])
    one, at = Resolved(moe, (), (), {}), NOON.timestamp()
    last = {"chat/glm-5": at - 7, "chat/other": at}
    [found] = take(
        at, [one], Objects(), {}, providers(), policies(), None, money, HEALTHY, Settings(), last
    ).deployments
    assert (found.spill_when, found.hold_seconds, found.last_request_at) == (("ColdStart",), 45, at - 7)
    for created, expected in (("2026-11-23T11:59:00Z", at - 7), ("2026-11-23T11:59:58Z", 0.0)):
        obj["metadata"]["creationTimestamp"] = created
        [moe] = valid(MoEDeployment, {"chat/glm-5": obj}).values()
        assert last_request_at(moe, last) == expected, "one of the same name that was deleted"
    known, unknown = found.routed
    assert (known.name, known.unavailable, known.affordable_in_flight) == ("zai/glm-5", "", money.caps[PAIR])
    assert unknown.unavailable == Reason.UNKNOWN_PROVIDER
    assert "spec.routes names 'ghost'" in unknown.unavailable_message
    assert seen(assessed(), policies()).hold_seconds is None, "by how long starts take"
