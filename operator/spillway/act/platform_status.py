"""Status of GPUPools, ExternalProviders and CostPolicies: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from spillway.act.status import ConditionSet
from spillway.api import (
    BudgetStatus,
    BudgetSummary,
    ConditionType,
    CostPolicy,
    CostPolicyStatus,
    DeploymentSpend,
    ExternalProvider,
    ExternalProviderStatus,
    GPUPool,
    GPUPoolStatus,
    HourStatus,
    InvalidSpec,
    Reason,
    stored_status,
)
from spillway.catalog import Catalog, pool_gpu
from spillway.decide.outcome import PoolPlan
from spillway.ledger import MAX_PER_HOUR, Grant
from spillway.ledger import BudgetStatus as Statement
from spillway.ledger import HourStatus as Hour
from spillway.observe import cluster, pools
from spillway.observe.objects import Objects
from spillway.observe.snapshot import ProviderHealth

CENTS = Decimal("0.01")
FINE = Decimal("0.0001")
TOLD_NODES = 3  # that take no replicas, by name; the rest as a number


PlatformStatus = GPUPoolStatus | ExternalProviderStatus | CostPolicyStatus


def of_invalid(
    kind: type[GPUPool] | type[ExternalProvider] | type[CostPolicy],
    invalid: InvalidSpec,
    obj: Mapping[str, Any],
    now: datetime,
) -> PlatformStatus:
    """The object cannot be used as it is: say why; what was seen of it before stays."""
    before: PlatformStatus = stored_status(kind, obj)  # type: ignore[assignment]
    generation = invalid.metadata.generation
    conditions = ConditionSet(before.conditions, generation, now)
    conditions.set(ConditionType.READY, False, Reason.INVALID_SPEC, invalid.message)
    return before.model_copy(update={"observed_generation": generation, "conditions": conditions.conditions})


def of_pool(pool: GPUPool, objects: Objects, plan: PoolPlan | None, catalog: Catalog, now: datetime) -> GPUPoolStatus:
    """GPUs by holder, what they cost now, and whether the pool gives any."""
    resource = pool.spec.gpu.resource_name
    nodes = pools.pool_nodes(pool, objects)
    names = {n["metadata"]["name"] for n in nodes}
    used = pools.gpus_in_use(objects, resource)
    ours = pending = 0
    for pod in objects.pods.values():
        if not cluster.of_pool(pod, pool) or (pod.get("status") or {}).get("phase") in cluster.FINISHED:
            continue
        if pod["spec"].get("nodeName"):
            ours += cluster.requested(pod, resource)
        elif not pod["metadata"].get("deletionTimestamp"):
            pending += cluster.requested(pod, resource)
    gpu = pool_gpu(pool, catalog)
    conditions = ConditionSet(pool.status.conditions, pool.metadata.generation, now)
    if gpu is None:
        known = ", ".join(catalog.gpus)
        words = f"spec.gpu.product is {pool.spec.gpu.product!r}, which is not in the catalog: use one of {known}"
        conditions.set(ConditionType.READY, False, Reason.UNKNOWN_GPU, words)
    elif not nodes and pool.spec.capacity.max_gpus is None:
        words = (
            f"no node with the labels of spec.nodeSelector takes replicas{left_out(pool, objects)}: add nodes, "
            "or set spec.capacity.maxGPUs if they come on demand"
        )
        conditions.set(ConditionType.READY, False, Reason.NO_NODES, words)
    else:
        words = f"{len(nodes)} nodes take replicas{left_out(pool, objects)}"
        conditions.set(ConditionType.READY, True, Reason.AS_EXPECTED, words)
    since = plan.out_of_capacity_since if plan else None
    if plan is not None and since is not None:
        timeout = pool.spec.capacity.provisioning_timeout_seconds
        retry = datetime.fromtimestamp(plan.retry_at or 0, UTC).strftime("%H:%M:%S UTC")
        words = f"gave no GPUs within spec.capacity.provisioningTimeout ({timeout:.0f} s); asked again from {retry} on"
        conditions.set(ConditionType.OUT_OF_CAPACITY, True, Reason.POOL_OUT_OF_CAPACITY, words)
    else:
        conditions.set(ConditionType.OUT_OF_CAPACITY, False, Reason.AS_EXPECTED, "gives what is asked for")
    conditions.set_not_acted_on(pool)
    return GPUPoolStatus(
        observed_generation=pool.metadata.generation,
        precisions=gpu.precisions if gpu else (),
        allocatable_gpus=sum(pools.allocatable(n, resource) for n in nodes),
        used_gpus=sum(used.get(name, 0) for name in names),
        spillway_gpus=ours,
        pending_gpus=pending,
        out_of_capacity_since=datetime.fromtimestamp(int(since), UTC) if since is not None else None,
        cost_per_hour=(ours * pool.spec.price.usd_per_gpu_hour).quantize(CENTS),
        conditions=conditions.conditions,
    )


def left_out(pool: GPUPool, objects: Objects) -> str:
    """`; not n2 (cordoned), n3 (not ready)`, or nothing."""
    nodes = pools.nodes_left_out(pool, objects)
    more = f" and {len(nodes) - TOLD_NODES} more" if len(nodes) > TOLD_NODES else ""
    return f"; not {', '.join(nodes[:TOLD_NODES])}{more}" if nodes else ""


def of_provider(
    provider: ExternalProvider, health: ProviderHealth, spent_today: Decimal, now: datetime
) -> ExternalProviderStatus:
    """Whether it is tried, whether it answers, whether it takes the key."""
    name, conditions = (
        provider.metadata.name,
        ConditionSet(provider.status.conditions, provider.metadata.generation, now),
    )
    blocked = health.blocked.get(name)
    reason, message, on_trial = health.disabled.get(name, ("", "", False))
    if provider.spec.suspend:
        conditions.set(ConditionType.READY, False, Reason.SUSPENDED, "spec.suspend is true: nothing is sent there")
    elif blocked is not None:
        conditions.set(ConditionType.READY, False, *blocked)
    elif not provider.spec.allowed_namespaces:
        words = "spec.allowedNamespaces is empty: nobody may send requests there; add the namespaces that may"
        conditions.set(ConditionType.READY, False, Reason.NAMESPACE_NOT_ALLOWED, words)
    elif on_trial:
        conditions.set(ConditionType.READY, True, Reason.ON_TRIAL, message)
    else:
        conditions.set(ConditionType.READY, True, Reason.AS_EXPECTED, "requests may be sent there, budgets allowing")
    if reason:
        conditions.set(ConditionType.HEALTHY, False, reason, message)
    elif name in health.unwell:
        conditions.set(ConditionType.HEALTHY, False, *health.unwell[name])
    else:
        conditions.set(ConditionType.HEALTHY, True, Reason.PROVIDER_ANSWERS, "most of its requests are answered")
    if blocked is not None and blocked[0] == Reason.MISSING_KEY:
        conditions.set(ConditionType.CREDENTIALS, False, *blocked)
    elif reason == Reason.KEY_REFUSED:
        conditions.set(ConditionType.CREDENTIALS, False, reason, message)
    else:
        words = f"the gateways hold key {provider.spec.credentials.key!r} of Secret spillway-provider-keys"
        conditions.set(ConditionType.CREDENTIALS, True, Reason.KEY_PRESENT, words)
    conditions.set_not_acted_on(provider)
    error_rate, first_token = health.error_rates.get(name), health.first_token_seconds.get(name)
    return ExternalProviderStatus(
        observed_generation=provider.metadata.generation,
        spent_today=spent_today.quantize(CENTS),
        error_rate=None if error_rate is None else round(error_rate, 2),
        time_to_first_token_seconds=None if first_token is None else round(first_token, 1 if first_token >= 1 else 2),
        conditions=conditions.conditions,
    )


def of_policy(
    policy: CostPolicy,
    statements: Sequence[Statement],
    grants: Mapping[tuple[str, str], Grant],
    now: datetime,
    hour: Hour | None = None,
) -> CostPolicyStatus:
    """The budgets as the ledger states them, with the bound that is promised for each."""
    conditions = ConditionSet(policy.status.conditions, policy.metadata.generation, now)
    conditions.set(ConditionType.READY, True, Reason.AS_EXPECTED, f"{len(statements)} budgets are kept")
    spent = [s for s in statements if s.exhausted]
    if policy.spec.suspend:
        conditions.set(ConditionType.WITHIN_BUDGET, True, Reason.SUSPENDED, "spec.suspend is true: nothing spills")
    elif spent or (hour is not None and hour.exhausted):
        words = "; ".join((*(_spent(s) for s in spent), *(_spent_hour(hour) if hour is not None else ())))
        if policy.spec.enforcement == "DryRun":
            words += " (enforcement DryRun: it would stop spill, and stops nothing)"
        conditions.set(ConditionType.WITHIN_BUDGET, False, Reason.BUDGET_SPENT, words)
    else:
        conditions.set(ConditionType.WITHIN_BUDGET, True, Reason.AS_EXPECTED, "all budgets hold")
    if ends := [(s.name, s.exhausted_at) for s in statements if s.exhausted_at]:
        when = "; ".join(f"{name}: {at:%Y-%m-%d %H}:00 UTC" for name, at in ends)  # by the hour, so as to stand still
        conditions.set(ConditionType.FORECAST, False, Reason.RUNS_OUT, f"at today's burn the money lasts until {when}")
    else:
        conditions.set(ConditionType.FORECAST, True, Reason.LASTS, "at today's burn all budgets last their periods")
    conditions.set_not_acted_on(policy)
    return CostPolicyStatus(
        observed_generation=policy.metadata.generation,
        budgets=tuple(_budget(s, grants.get((policy.metadata.name, s.name))) for s in statements),
        last_hour=_hour(hour, grants.get((policy.metadata.name, MAX_PER_HOUR))) if hour is not None else None,
        summary=_summary(statements),
        conditions=conditions.conditions,
    )


def _spent(budget: Statement) -> str:
    return (
        f"budget {budget.name}: ${budget.spent.quantize(CENTS)} of ${budget.amount} spent, "
        f"opens again {budget.resets_at:%Y-%m-%d %H:%M UTC}"
    )


def _spent_hour(hour: Hour) -> tuple[str, ...]:
    if hour.opens_at is None:
        return ()
    return (
        f"spill.maxPerHour: ${hour.spent.quantize(CENTS)} of ${hour.amount} spent in the last 60 minutes, "
        f"opens again {hour.opens_at:%Y-%m-%d %H:%M UTC}",
    )


def _hour(hour: Hour, granted: Grant | None) -> HourStatus:
    return HourStatus(
        amount=hour.amount,
        spent=hour.spent.quantize(FINE),
        remaining=hour.remaining.quantize(FINE),
        bound=granted.bound_usd.quantize(FINE) if granted else Decimal(0),
        opens_at=hour.opens_at,
    )


def _summary(statements: Sequence[Statement]) -> BudgetSummary:
    def joined(values: Iterable[Decimal]) -> str:
        return ", ".join(str(value.quantize(CENTS)) for value in values)

    return BudgetSummary(
        budgets=", ".join(s.name for s in statements),
        spent=joined(s.spent for s in statements),
        amount=joined(s.amount for s in statements),
        remaining=joined(s.remaining for s in statements),
        burn_per_hour=joined(s.burn_per_hour for s in statements),
    )


def _budget(statement: Statement, granted: Grant | None) -> BudgetStatus:
    return BudgetStatus(
        name=statement.name,
        period=statement.period,
        period_start=statement.period_start,
        amount=statement.amount,
        spent=statement.spent.quantize(FINE),
        gpu=statement.gpu.quantize(FINE),
        external=statement.external.quantize(FINE),
        reserved=statement.reserved.quantize(FINE),
        remaining=statement.remaining.quantize(FINE),
        burn_per_hour=statement.burn_per_hour.quantize(CENTS),
        exhausted_at=statement.exhausted_at.replace(microsecond=0)
        if statement.exhausted and statement.exhausted_at
        else None,
        bound=granted.bound_usd.quantize(FINE) if granted else Decimal(0),
        by_deployment=tuple(
            DeploymentSpend(namespace=d.namespace, name=d.deployment, spent=d.usd.quantize(FINE))
            for d in statement.by_deployment
        ),
    )
