"""All that is known at one moment, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from spillway.api import CostPolicy, ExternalProvider, GPUPool, MoEDeployment, Reason
from spillway.decide.snapshot import (
    Budget,
    Demand,
    Deployment,
    ProviderOption,
    Settings,
    Snapshot,
    Variant,
)
from spillway.ledger import MAX_PER_HOUR, Pair
from spillway.observe import cluster
from spillway.observe.demand import PRIOR_INPUT_TOKENS, PRIOR_OUTPUT_TOKENS, PairAnswers
from spillway.observe.floors import Allowed, Floor, limited
from spillway.observe.hints import hint_windows
from spillway.observe.money import Money, ledger_price
from spillway.observe.objects import Objects
from spillway.observe.pools import pool as observed_pool
from spillway.observe.resolve import Resolved
from spillway.observe.traffic import Traffic

SPENT = ("BudgetSpent", "RequestTooDear")  # the ledger's codes for money that is used up, to the last request
STOPS = {
    "NoBudget": Reason.NO_BUDGET,
    "Suspended": Reason.SUSPENDED,
    "ProviderDisabled": Reason.PROVIDER_NOT_READY,
    "ProviderLimit": Reason.PROVIDER_NOT_READY,
}
DEFAULT_VALUE_FACTOR = 10  # a request is worth ten times its API price where no policy says otherwise


@dataclass(frozen=True, slots=True)
class ProviderHealth:
    """What the gateways learned of providers, by name: `blocked` ones are not tried (reason and words: those without a
    key, and `disabled` ones), `failing` ones are, each time, before the next in the chain (words). `disabled` ones
    refused the key or have no money left (reason, words, and whether single requests are sent as a trial). `unwell`:
    what their owner should look at (reason and words). `error_rates` are shares of the last minute's requests,
    `first_token_seconds` medians."""

    blocked: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    failing: Mapping[str, str] = field(default_factory=dict)
    error_rates: Mapping[str, float] = field(default_factory=dict)
    disabled: Mapping[str, tuple[str, str, bool]] = field(default_factory=dict)
    unwell: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    first_token_seconds: Mapping[str, float] = field(default_factory=dict)


def take(
    now: float,
    resolved: Sequence[Resolved],
    objects: Objects,
    pools: Mapping[str, GPUPool],
    providers: Mapping[str, ExternalProvider],
    policies: Mapping[str, CostPolicy],
    traffic: Traffic | None,
    money: Money,
    health: ProviderHealth,
    settings: Settings,
    last_requests: Mapping[str, float] | None = None,
) -> Snapshot:
    """The snapshot of `now` (Unix seconds). `traffic` is None when Prometheus cannot be asked. `last_requests`: when a
    deployment last got one."""
    floors = limited((floor(r, money) for r in resolved), most_floor_gpus(policies))
    return Snapshot(
        time=now,
        deployments=tuple(
            replace(
                with_floor(deployment(r, objects, providers, policies, traffic, money, health), floors),
                hints=hint_windows(r.moe.spec.hints, now),
                last_request_at=last_request_at(r.moe, last_requests or {}),
            )
            for r in sorted(resolved, key=lambda r: r.moe.key)
        ),
        pools=tuple(observed_pool(p, objects) for _, p in sorted(pools.items())),
        budgets=budgets(money, policies),
        settings=settings,
    )


def deployment(
    resolved: Resolved,
    objects: Objects,
    providers: Mapping[str, ExternalProvider],
    policies: Mapping[str, CostPolicy],
    traffic: Traffic | None,
    money: Money,
    health: ProviderHealth,
) -> Deployment:
    moe, spec = resolved.moe, resolved.moe.spec
    own_policies = money.policies.get(moe.metadata.namespace, ())
    demand = traffic.of(moe.key) if traffic else None
    pairs = traffic.pairs if traffic else {}
    prompt = PRIOR_INPUT_TOKENS if demand is None else demand.input_tokens_per_request
    options = tuple(
        option(
            moe,
            t.name,
            t.model,
            providers,
            money,
            health,
            pairs.get((moe.key, t.name, t.model)),
            prompt_tokens=prompt,
        )
        for t in spec.spill.providers
    )
    share_limit, limited_by = max_share(moe, own_policies, policies)
    routed = dict.fromkeys((route.to.provider, route.to.model) for route in spec.routes)
    return Deployment(
        namespace=moe.metadata.namespace,
        name=moe.metadata.name,
        min_replicas=spec.min_replicas,
        max_replicas=spec.max_replicas,
        pinned_replicas=spec.replicas,
        queue_seconds=float(spec.slo.queue_seconds),
        first_token_seconds=spec.slo.time_to_first_token_seconds,
        inter_token_seconds=spec.slo.inter_token_latency_seconds,
        variants=variants(resolved),
        asked=cluster.asked(moe, objects),
        replicas=cluster.replicas(moe, objects, traffic.load if traffic else {}),
        demand=demand,
        rates=traffic.rates.get(moe.key, ()) if traffic else (),
        providers=options,
        spill_when=spec.spill.when,
        max_share=share_limit,
        max_share_of=limited_by,
        hold_seconds=spec.spill.hold_seconds,
        routed=tuple(
            option(moe, *pair, providers, money, health, field="spec.routes", prompt_tokens=prompt) for pair in routed
        ),
        cheapest_first=spec.spill.order == "Cheapest",
        policies=own_policies,
        lease_seconds=float(money.lease_seconds.get(moe.metadata.namespace, 15)),
        usd_value_per_request=value_per_request(own_policies, policies, options, demand),
        rollout=spec.rollout.strategy,
        retired=cluster.retired(moe, {v.name for v in resolved.variants}, objects, resolved.pools),
        paused=moe.paused,
        dry_run=moe.dry_run,
        floor_only=floor_only(own_policies, policies, money),
    )


def floor(resolved: Resolved, money: Money) -> Floor:
    """What the deployment's minReplicas ask for."""
    meta, created = resolved.moe.metadata, resolved.moe.metadata.creation_timestamp
    return Floor(
        resolved.moe.key,
        resolved.moe.spec.min_replicas,
        max((v.gpus_per_replica for v in variants(resolved)), default=0),
        money.policies.get(meta.namespace, ()),
        created.timestamp() if created is not None else 0.0,
    )


def most_floor_gpus(policies: Mapping[str, CostPolicy]) -> dict[str, int]:
    """`maxFloorGPUs` of those policies that say and enforce it."""
    return {
        name: p.spec.max_floor_gpus for name, p in policies.items() if p.spec.max_floor_gpus is not None and enforced(p)
    }


def with_floor(deployment: Deployment, floors: Mapping[str, Allowed]) -> Deployment:
    allowed = floors.get(deployment.key)
    if allowed is None:
        return deployment
    return replace(deployment, min_replicas=allowed.replicas, floor_limit=allowed.words)


def last_request_at(moe: MoEDeployment, last_requests: Mapping[str, float]) -> float:
    """When the deployment last got a request. One of the same name that was deleted is none of its business."""
    at, created = last_requests.get(moe.key, 0.0), moe.metadata.creation_timestamp
    return at if created is None or at >= created.timestamp() else 0.0


def variants(resolved: Resolved) -> tuple[Variant, ...]:
    """The deployment's ways to run, with the catalog's numbers."""
    return tuple(
        Variant(
            name=v.name,
            pool=v.pool,
            precision=v.precision,
            engine=v.engine,
            revision=resolved.revisions[v.name],
            gpus_per_replica=v.gpus_per_replica,
            usd_per_hour=float(v.usd_per_hour),
            prefill_tokens_per_second=v.prefill_tokens_per_second,
            decode_tokens_per_second=v.decode_tokens_per_second,
            concurrency=v.concurrency,
            cold_start_seconds=v.cold_start_seconds,
            minimum_billing_seconds=v.minimum_billing_seconds,
            nodes_per_replica=v.parallelism.nodes,
        )
        for v in resolved.variants
    )


def enforced(policy: CostPolicy | None) -> bool:
    """Whether budgets stop what they do not cover; one that the objects do not have any more still does."""
    return policy is None or policy.spec.enforcement == "Enforce"


def floor_only(own_policies: Sequence[str], policies: Mapping[str, CostPolicy], money: Money) -> bool:
    """Whether a spent GPU or Total budget asks for the floor. By name: `money` is up to two seconds older than
    `policies`, and what it speaks of may be gone."""
    exhausted = {(name, s.name) for name in own_policies for s in money.statements.get(name, ()) if s.exhausted}
    return any(
        (name, budget.name) in exhausted
        for name in own_policies
        if name in policies and enforced(policies[name])
        for budget in policies[name].spec.budgets
        if budget.at_limit == "StopSpillAndScaleToFloor" and budget.scope != "External"
    )


def max_share(
    moe: MoEDeployment, own_policies: Sequence[str], policies: Mapping[str, CostPolicy]
) -> tuple[float | None, str]:
    """The least `maxShare` that the deployment or an enforced policy says, and who says it."""
    said = [(moe.spec.spill.max_share, "spec.spill.maxShare")]
    said += [
        (policies[name].spec.spill.max_share, f"spill.maxShare of CostPolicy {name}")
        for name in own_policies
        if name in policies and enforced(policies[name])
    ]
    limits = [(float(share), who) for share, who in said if share is not None]
    return min(limits, default=(None, said[0][1]))


def value_per_request(
    own_policies: Sequence[str],
    policies: Mapping[str, CostPolicy],
    options: Sequence[ProviderOption],
    demand: Demand | None = None,
) -> float:
    """What serving one request is worth: the smallest that a policy says, else ten times the dearest API price named
    for a request of the present size, else a cent, which is about ten times the list price of an open model's mean
    request."""
    known = [policies[name] for name in own_policies if name in policies]
    stated = [float(v) for policy in known if (v := policy.spec.value_per_request) is not None]
    if stated:
        return min(stated)
    tokens = (PRIOR_INPUT_TOKENS, PRIOR_OUTPUT_TOKENS)
    if demand is not None:
        tokens = (demand.input_tokens_per_request, demand.output_tokens_per_request)
    listed = [o.usd_per_request(*tokens) for o in options if o.usd_per_million_input > 0]
    return DEFAULT_VALUE_FACTOR * max(listed) if listed else 0.01


def option(
    moe: MoEDeployment,
    provider_name: str,
    model_name: str,
    providers: Mapping[str, ExternalProvider],
    money: Money,
    health: ProviderHealth,
    answers: PairAnswers | None = None,
    field: str = "spec.spill.providers",
    prompt_tokens: float = PRIOR_INPUT_TOKENS,
) -> ProviderOption:
    """One pair that `field` names, with what stands against it: the user's errors first, then money, then health. Its
    price is the one of a mean prompt of `prompt_tokens`."""
    provider = providers.get(provider_name)
    model = provider.spec.model(model_name) if provider else None
    if provider is None or model is None:
        known = ", ".join(sorted(providers)) or "none"
        offered = ", ".join(m.name for m in provider.spec.models) if provider else ""
        reason, message = (
            (
                Reason.UNKNOWN_PROVIDER,
                f"{field} names {provider_name!r}: no such ExternalProvider (there are: {known})",
            )
            if provider is None
            else (
                Reason.MODEL_NOT_OFFERED,
                f"ExternalProvider {provider_name} does not offer {model_name!r} (it offers: {offered})",
            )
        )
        return ProviderOption(provider_name, model_name, 0.0, 0.0, 0, reason, message)
    pair = Pair(moe.metadata.namespace, moe.metadata.name, provider_name, model_name)
    rates = ledger_price(model.price).of_prompt(prompt_tokens)
    stop = money.stops.get(pair)
    reason, message = "", ""
    if provider.spec.suspend:
        reason, message = Reason.PROVIDER_NOT_READY, f"ExternalProvider {provider_name} is suspended (spec.suspend)"
    elif not provider.spec.allows(moe.metadata.namespace):
        reason = Reason.NAMESPACE_NOT_ALLOWED
        message = (
            f"ExternalProvider {provider_name} does not allow namespace {moe.metadata.namespace}: "
            "add it to allowedNamespaces"
        )
    elif provider_name in health.blocked:
        reason, message = health.blocked[provider_name]
    elif stop is not None:
        code, message = stop
        reason = STOPS.get(code, Reason.BUDGET_SPENT)
    return ProviderOption(
        provider_name,
        model_name,
        usd_per_million_input=float(rates.input),
        usd_per_million_output=float(rates.output),
        affordable_in_flight=0 if reason else money.caps.get(pair, 0),
        unavailable=reason,
        unavailable_message=message,
        verbosity=1.0 if model.verbosity is None else float(model.verbosity),
        failing=provider_name in health.failing,
        answers_per_second=answers.per_second if answers else 0.0,
        output_tokens_per_answer=answers.output_tokens if answers else 0.0,
    )


def budgets(money: Money, policies: Mapping[str, CostPolicy]) -> tuple[Budget, ...]:
    """All budgets that are enforced. One whose rest does not carry a single request more counts as spent."""
    stopped = {
        name for pair, (code, _) in money.stops.items() if code in SPENT for name in money.policies[pair.namespace]
    }
    found = []
    for name, statements in money.statements.items():
        if not enforced(policies.get(name)):
            continue
        for status in statements:
            granted = money.grants.get((name, status.name))
            spent = status.exhausted or (granted is not None and granted.max_burn_usd_per_hour == 0 and name in stopped)
            found.append(
                Budget(
                    policy=name,
                    name=status.name,
                    amount=status.amount,
                    remaining=Decimal(0) if spent else status.remaining,
                    resets_at=status.resets_at.timestamp(),
                    stops_spill=status.scope != "GPU",
                    scope=status.scope,
                    starts_at=status.period_start.timestamp(),
                    paced=name in policies and policies[name].spec.pacing == "Even",
                )
            )
        if (hour := money.hours.get(name)) is not None:
            opens = hour.opens_at.timestamp() if hour.opens_at else 0.0
            found.append(Budget(name, MAX_PER_HOUR, hour.amount, hour.remaining, opens))
    return tuple(found)
