"""What the money allows: budgets from the book, and from them caps, leases and reasons for each provider pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from spillway import api
from spillway.api import CostPolicy, ExternalProvider, MoEDeployment
from spillway.ledger import (
    IDLE,
    LEASES_SECONDS,
    Book,
    Budget,
    BudgetStatus,
    Grant,
    HourStatus,
    Limit,
    Need,
    Pair,
    Policy,
    Price,
    ProviderModel,
    Rates,
    Slot,
    Sums,
    Tier,
    Timing,
    TopUp,
    caps,
    grant,
    hour_limit,
    last_hour,
    limits,
    max_input_tokens,
    slot,
    statement,
    why_none,
)
from spillway.ledger.book import ZERO
from spillway.observe.objects import Objects

BODY_BYTES = 16 * 2**20  # the gateway takes no larger request


class Leased(NamedTuple):
    """Requests in flight that gateways may have, and the longest lease by which."""

    cap: int
    seconds: int


NO_LEASE = Leased(0, 0)
NOTHING_LEASED: Mapping[Pair, Leased] = {}
NOTHING_LIMITED: Mapping[Pair, tuple[int, str]] = {}


@dataclass(frozen=True, slots=True)
class Money:
    """The ledger's view of one moment. Grants and statements are in the policies' order."""

    statements: Mapping[str, tuple[BudgetStatus, ...]] = field(default_factory=dict)  # by policy
    grants: Mapping[tuple[str, str], Grant] = field(default_factory=dict)  # by policy and budget
    hours: Mapping[str, HourStatus] = field(default_factory=dict)  # of policies that limit an hour
    needs: tuple[Need, ...] = ()
    caps: Mapping[Pair, int] = field(default_factory=dict)
    stops: Mapping[Pair, tuple[str, str]] = field(default_factory=dict)  # why a cap is 0: code and sentence
    policies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by namespace
    lease_seconds: Mapping[str, int] = field(default_factory=dict)  # by namespace


def prices(providers: Mapping[str, ExternalProvider]) -> dict[ProviderModel, Price]:
    """Today's list prices of all pairs."""
    return {
        ProviderModel(name, model.name): ledger_price(model.price)
        for name, provider in providers.items()
        for model in provider.spec.models
    }


def ledger_price(price: api.TokenPrice) -> Price:
    """The price as the ledger sees it: what is not stated costs what `input` costs, in a tier that tier's."""
    tiers = sorted(price.tiers, key=lambda tier: tier.above_input_tokens)
    base = _rates(price)
    return Price(
        base.input,
        base.cached_input,
        base.output,
        price.cache_write,
        tuple(Tier(tier.above_input_tokens, _rates(tier)) for tier in tiers),
    )


def _rates(price: api.TokenPrice | api.PriceTier) -> Rates:
    cached, written = price.cached_input, price.cache_write
    return Rates(
        price.input,
        price.input if cached is None else cached,
        price.input if written is None else written,
        price.output,
    )


def ledger_policy(policy: CostPolicy, namespaces: Sequence[str], objects: Objects) -> Policy:
    """The policy as the ledger sees it: with the namespaces that it selects now, among those in use."""
    selected = frozenset(n for n in namespaces if policy.spec.selects(n, objects.namespace_labels(n)))
    budgets = tuple(ledger_budget(b) for b in policy.spec.budgets)
    spec = policy.spec
    dry_run = spec.enforcement == "DryRun"
    return Policy(
        policy.metadata.name, selected, budgets, spec.time_zone, spec.suspend, dry_run, spec.spill.max_per_hour
    )


def ledger_budget(budget: api.Budget) -> Budget:
    """The budget as the ledger sees it."""
    top_ups = tuple(TopUp(t.amount, t.until) for t in budget.top_ups)
    return Budget(budget.name, budget.period, budget.amount, budget.scope, top_ups)


def pairs(moes: Sequence[MoEDeployment], providers: Mapping[str, ExternalProvider], timing: Timing) -> dict[Pair, Slot]:
    """Every pair that a deployment names and that exists, with what one request there can cost at most."""
    found: dict[Pair, Slot] = {}
    for moe in moes:
        for provider_name, model_name in moe.spec.pairs:
            provider = providers.get(provider_name)
            model = provider.spec.model(model_name) if provider else None
            if model is not None:
                pair = Pair(moe.metadata.namespace, moe.metadata.name, provider_name, model_name)
                price = ledger_price(model.price)
                most_input = max_input_tokens(model.context_length, BODY_BYTES)
                found[pair] = slot(price, most_input, model.max_output_tokens, 1, timing)
    return found


def assess(
    book: Book,
    policies: Mapping[str, CostPolicy],
    moes: Sequence[MoEDeployment],
    providers: Mapping[str, ExternalProvider],
    objects: Objects,
    in_flight: Mapping[Pair, int],
    previous_caps: Mapping[Pair, int],
    unread_usd: Decimal,
    now: datetime,
    timing: Timing,
    disabled: Mapping[str, tuple[int, str]] | None = None,
    sums: Sums | None = None,
    leased: Mapping[Pair, Leased] = NOTHING_LEASED,
    limited: Mapping[Pair, tuple[int, str]] = NOTHING_LIMITED,
) -> Money:
    """Budgets, caps and leases at `now`. `unread_usd`: what gateways that do not answer may have spent unseen.
    `disabled`: of providers that refuse everything, how many requests a deployment may still have in flight there (0,
    or 1 as a trial), and why in words. `sums` have followed the book so far. `leased`: what gateways may still hold by
    a lease longer than the shortest. `limited`: how many requests a pair may have in flight by what its provider takes
    in a minute, and why not more in words."""
    disabled, sums = disabled or {}, sums or Sums()
    namespaces = sorted({m.metadata.namespace for m in moes} | sums.of(book).keys() - {IDLE})
    own = {name: ledger_policy(policy, namespaces, objects) for name, policy in sorted(policies.items())}
    stated = {name: statement(book, policy, now, sums) for name, policy in own.items()}
    hours = {name: hour for name, policy in own.items() if (hour := last_hour(book, policy, now)) is not None}
    budgeted = [limit for name, policy in own.items() for limit in limits(policy, stated[name])]
    # A limit of the hour permits nothing: that is for budgets.
    permitted = frozenset[str]().union(*(limit.namespaces for limit in budgeted))
    hourly = (hour_limit(own[name], hour) for name, hour in hours.items())
    hourly_limits = [replace(limit, namespaces=limit.namespaces & permitted) for limit in hourly]
    all_limits = [replace(limit, unread_usd=unread_usd) for limit in (*budgeted, *hourly_limits)]
    needs = tuple(
        Need(
            pair,
            costs,
            wanted=in_flight.get(pair, 0) + 1,
            in_flight=in_flight.get(pair, 0),
            previous_cap=previous_caps.get(pair, 0),
            most=min(
                held[0]
                for held in (
                    (providers[pair.provider].spec.limits.concurrent, ""),
                    disabled.get(pair.provider),
                    limited.get(pair),
                )
                if held is not None
            ),
            per_minute=providers[pair.provider].spec.limits.requests_per_minute,
            leased_cap=leased.get(pair, NO_LEASE).cap,
            leased_seconds=leased.get(pair, NO_LEASE).seconds,
        )
        for pair, costs in sorted(pairs(moes, providers, timing).items())
    )
    given = caps(needs, all_limits, timing)
    stops = {need.pair: _stop(need, all_limits, timing, disabled, limited) for need in needs if given[need.pair] < 1}
    grants = {(lim.policy, lim.budget): grant(needs, given, lim, timing) for lim in all_limits if not lim.suspended}
    reserved = {name: {b: g.reserved_usd for (p, b), g in grants.items() if p == name} for name in own}
    return Money(
        statements={
            name: tuple(replace(s, reserved=reserved[name].get(s.name, ZERO)) for s in statuses)
            for name, statuses in stated.items()
        },
        hours=hours,
        grants=grants,
        needs=needs,
        caps=given,
        stops=stops,
        policies={n: tuple(name for name, p in own.items() if n in p.namespaces) for n in namespaces},
        lease_seconds={n: _lease(n, own, policies, grants) for n in namespaces},
    )


def _stop(
    need: Need,
    all_limits: Sequence[Limit],
    timing: Timing,
    disabled: Mapping[str, tuple[int, str]],
    limited: Mapping[Pair, tuple[int, str]],
) -> tuple[str, str]:
    """Why a pair has no slot: for want of money first, which its owner hears of in any case."""
    stop = why_none(need, all_limits, timing)
    if stop[0] == "NotWanted" and need.pair.provider in disabled:
        return "ProviderDisabled", disabled[need.pair.provider][1]
    if stop[0] == "NotWanted" and need.pair in limited:
        return "ProviderLimit", limited[need.pair][1]
    return stop


def _lease(
    namespace: str,
    own: Mapping[str, Policy],
    policies: Mapping[str, CostPolicy],
    grants: Mapping[tuple[str, str], Grant],
) -> int:
    """The shortest lease that any budget of the namespace allows."""
    leases = [LEASES_SECONDS[-1]]
    for (name, _), granted in grants.items():
        if namespace not in own[name].namespaces:
            continue
        at_once = policies[name].spec.when_operator_lost == "StopAtOnce"
        leases.append(LEASES_SECONDS[0] if at_once else granted.lease_seconds)
    return min(leases) if len(leases) > 1 else LEASES_SECONDS[0]
