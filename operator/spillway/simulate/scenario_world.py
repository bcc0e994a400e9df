"""Turns a scenario into a world: the same variants, priors, prices, permissions and budgets as the operator would have.

What the operator would refuse, an unknown model or a pool that does not fit, is refused here with its words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from math import ceil

from spillway.api import CostPolicy, ExternalProvider, GPUPool, Reason, not_acted_on, not_acted_on_words
from spillway.build import BuildSettings
from spillway.catalog import load as load_catalog
from spillway.decide.snapshot import ProviderOption, Settings, Variant
from spillway.ledger import Book, Timing, UnknownTimeZone
from spillway.observe.floors import limited
from spillway.observe.money import Money, assess
from spillway.observe.resolve import Problem, Resolved, resolve, valid
from spillway.observe.snapshot import ProviderHealth, enforced, floor, max_share, most_floor_gpus, option, variants
from spillway.simulate.economics import BIN_SECONDS, Economics
from spillway.simulate.load import Load, scale
from spillway.simulate.requests.draw import MAXIMUM_HOURS, MAXIMUM_REQUESTS, single_requests
from spillway.simulate.scenario import BadScenario, Scenario
from spillway.simulate.scenario_spec import MAXIMUM_DAYS, DemandSpec, ProviderSpec, SimulationSpec
from spillway.simulate.single import FIRST_BINS
from spillway.simulate.synthetic import WEEK_BINS, generate
from spillway.simulate.traces import Arrivals, BadTrace, Trace, read
from spillway.simulate.world import (
    Barred,
    Faults,
    PriceChange,
    Traffic,
    VirtualBudget,
    VirtualDeployment,
    VirtualPool,
    VirtualProvider,
    World,
)

TIMING = Timing(shortest_seconds=Decimal("0.25"))  # the operator's default
MAXIMUM_TENANT_BINS = 10_000_000  # some 100 MB each for requests, prompt and completion tokens
NOT_THERE = (Reason.UNKNOWN_PROVIDER, Reason.MODEL_NOT_OFFERED)


@dataclass(frozen=True, slots=True)
class Stage:
    """A world that can be played, with what a rule of another scaler takes for granted, and what a reader must know."""

    name: str
    world: World
    economics: Mapping[str, Economics]  # by deployment: its first variant, its first usable provider
    notes: tuple[str, ...]
    requests: Mapping[str, Arrivals] | None = None  # by deployment, to be played one by one


def build(scenario: Scenario, *, single: bool = False) -> Stage:
    """The world of a scenario; `single`: with single requests, to be played one by one. Reads the traces that it names.
    Raises BadScenario."""
    spec, objects = scenario.simulation, scenario.objects
    pools = valid(GPUPool, objects.gpupools)
    providers = valid(ExternalProvider, objects.externalproviders)
    policies = valid(CostPolicy, objects.costpolicies)
    resolved = {key: _resolved(key, scenario, pools) for key in sorted(objects.moedeployments)}
    moes = [r.moe for r in resolved.values()]
    money = _money(policies, scenario, resolved, providers, spec.begin)
    offers = {key: _offers(r, providers, money) for key, r in resolved.items()}
    economics = {key: _economics(resolved[key], offers[key], spec) for key in resolved}
    demand = {key: _demand(key, scenario, economics[key], single) for key in resolved}
    arriving = sum(len(one.requests) for one in demand.values() if one.requests)
    if arriving > MAXIMUM_REQUESTS:
        raise BadScenario(
            f"Simulation: {arriving:,} requests; at most {MAXIMUM_REQUESTS:,} are played one by one: "
            "set fewer spec.hours, or smaller fleets"
        )
    virtual_pools = tuple(_pool(p, spec) for _, p in sorted(pools.items()))
    room = _Room(virtual_pools)
    floors = limited((floor(r, money) for r in resolved.values()), most_floor_gpus(policies))
    world = World(
        deployments=tuple(
            _deployment(
                resolved[key],
                demand[key],
                spec.deployments[key],
                offers[key],
                money,
                policies,
                room,
                floors[key].replicas if key in floors else resolved[key].moe.spec.min_replicas,
            )
            for key in resolved
        ),
        pools=virtual_pools,
        providers=_providers(offers, providers, spec),
        budgets=_budgets(policies, money, tuple(resolved)),
        faults=Faults(
            spec.faults.delay_cv,
            spec.faults.start_failure_share,
            spec.faults.metrics_delay,
            tuple(t.window for t in spec.faults.metrics_lost),
        ),
        # As in `single`: a stopped replica is taken away at once, its drain is billed.
        settings=Settings(drain_seconds=0.0, deregister_seconds=spec.drain, metrics_window_seconds=spec.metrics_window),
        drain_seconds=spec.drain,
        tick_seconds=spec.tick,
        metrics_window_seconds=spec.metrics_window,
        begin=spec.begin.timestamp(),
        seed=spec.seed,
    )
    notes = [
        f"{obj.definition.kind} {obj.key}: {not_acted_on_words(paths)}"
        for obj in (*moes, *pools.values(), *providers.values(), *policies.values())
        if (paths := not_acted_on(obj))
    ]
    notes += [f"{key}: {allowed.words}" for key, allowed in sorted(floors.items())]
    trials = sorted(name for name, policy in policies.items() if not enforced(policy))
    notes += [f"CostPolicy {name}: enforcement DryRun, so its budgets stop nothing" for name in trials]
    notes += [one.note for one in demand.values() if one.note]
    notes += [f"{m.pool}: cannot run {key}: {m.reason}" for key, r in resolved.items() for m in r.misfits]
    if scenario.ignored:
        notes.append(f"Make no difference here: {', '.join(scenario.ignored)}")
    requests = {key: one.requests for key, one in demand.items() if one.requests is not None}
    return Stage(scenario.name, world, economics, tuple(notes), requests if single else None)


# ---- what the operator would make of the objects ---------------------------------------------------------------------


def _resolved(key: str, scenario: Scenario, pools: Mapping[str, GPUPool]) -> Resolved:
    objects = scenario.objects
    found = resolve(objects.moedeployments[key], pools, objects, load_catalog(), BuildSettings())
    if isinstance(found, Problem):
        raise BadScenario(f"MoEDeployment {key}: {found.reason}: {found.message}")
    return found


def _money(
    policies: Mapping[str, CostPolicy],
    scenario: Scenario,
    resolved: Mapping[str, Resolved],
    providers: Mapping[str, ExternalProvider],
    begin: datetime,
) -> Money:
    """What the ledger allows before anything is spent: who may not spend at all, and why."""
    moes = [r.moe for r in resolved.values()]
    try:
        return assess(Book(), policies, moes, providers, scenario.objects, {}, {}, Decimal(0), begin, TIMING)
    except UnknownTimeZone as error:
        raise BadScenario(f"CostPolicy: spec.timeZone: {error}") from error


@dataclass(frozen=True, slots=True)
class _Offer:
    """One pair that a deployment names."""

    name: str  # of the virtual provider
    option: ProviderOption


def _offers(resolved: Resolved, providers: Mapping[str, ExternalProvider], money: Money) -> tuple[_Offer, ...]:
    moe, found = resolved.moe, []
    for target in moe.spec.spill.providers:
        one = option(moe, target.name, target.model, providers, money, ProviderHealth())
        if one.unavailable in NOT_THERE:
            raise BadScenario(f"MoEDeployment {moe.key}: {one.unavailable_message}")
        found.append(_Offer(f"{target.name}/{target.model}", one))
    return tuple(found)


def _economics(resolved: Resolved, offers: tuple[_Offer, ...], spec: SimulationSpec) -> Economics:
    first = resolved.variants[0]
    outside = next((o.option for o in offers if not o.option.unavailable), None)
    return Economics(
        usd_per_replica_hour=float(first.usd_per_hour),
        prefill_tokens_per_second=first.prefill_tokens_per_second,
        decode_tokens_per_second=first.decode_tokens_per_second,
        usd_per_million_input=outside.usd_per_million_input if outside else 0.0,
        usd_per_million_output=outside.usd_per_million_output if outside else 0.0,
        delay_seconds=first.cold_start_seconds,
        minimum_billing_seconds=first.minimum_billing_seconds,
        drain_seconds=spec.drain,
        queue_seconds=float(resolved.moe.spec.slo.queue_seconds),
    )


# ---- demand ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Demand:
    """Of one deployment: its load, what falls due or arrives when, and what its reader must know."""

    load: Load
    traffic: Traffic
    note: str
    requests: Arrivals | None = None


def _demand(key: str, scenario: Scenario, economics: Economics, single: bool) -> _Demand:
    spec = scenario.simulation
    wanted = spec.deployments[key]
    bins = None if spec.seconds is None else max(1, round(spec.seconds / BIN_SECONDS))
    try:
        trace = _trace(key, wanted, scenario, bins, single)
        missing = trace.missing_bins / max(len(trace), 1)
        if single:
            if len(trace) * BIN_SECONDS > MAXIMUM_HOURS * 3600:
                raise BadTrace(f"more than {MAXIMUM_HOURS:.0f} hours; with --requests set spec.hours to that or less")
            seed = spec.seed + 1000 * sorted(spec.deployments).index(key)  # two models have no common noise
            trace = single_requests(trace, economics, wanted.fleet, seed)
        fleet = None if single else wanted.fleet
        load = scale(trace, economics, fleet, spec.seed, longest_bins=len(trace))
    except (BadTrace, ValueError, MemoryError) as error:
        raise BadScenario(f"Simulation: spec.deployments.{key}: {error}") from error
    due = trace if single else load
    return _Demand(
        load,
        Traffic(due.requests, due.input_tokens, due.output_tokens),
        f"{key}: {missing:.1%} of the time nothing was measured; it counts as no demand" if missing else "",
        trace.arrivals if single else None,
    )


def _trace(key: str, wanted: DemandSpec, scenario: Scenario, bins: int | None, single: bool) -> Trace:
    """The demand as it is, cut to what is simulated."""
    if wanted.synthetic is not None:
        if (1 + wanted.synthetic.tenants) * (bins or WEEK_BINS) > MAXIMUM_TENANT_BINS:
            raise BadTrace(
                f"synthetic: {wanted.synthetic.tenants} tenants over so many days: give fewer, or fewer days"
            )
        deployments = sorted(scenario.simulation.deployments)
        seed = scenario.simulation.seed + 1000 * deployments.index(key)  # two models have no common noise
        return generate(replace(wanted.synthetic, name=key, bins=bins or WEEK_BINS), seed)
    found = read(scenario.directory / (wanted.trace or ""), keep_arrivals=single)
    if bins is not None and len(found) < bins:
        days = len(found) * BIN_SECONDS / 86_400
        raise BadTrace(f"{wanted.trace} has {days:.3g} days and {bins * BIN_SECONDS / 86_400:.3g} are asked for")
    bins = min(bins or len(found), round(MAXIMUM_DAYS * 86_400 / BIN_SECONDS))
    return found.part(0.0, bins * BIN_SECONDS)


# ---- the parts of the world ------------------------------------------------------------------------------------------


class _Room:
    """GPUs that replicas can have at the begin, taken from as they are given."""

    def __init__(self, pools: tuple[VirtualPool, ...]) -> None:
        self._pools = {p.name: p for p in pools}
        self._free = {p.name: p.gpus for p in pools}
        self._taken: dict[tuple[str, str], int] = {}

    def take(self, namespace: str, variant: Variant, wanted: int) -> int:
        """Replicas of those wanted that fit."""
        most, taken = self._pools[variant.pool].max_gpus_per_namespace, self._taken.get((variant.pool, namespace), 0)
        free = self._free[variant.pool] if most is None else min(self._free[variant.pool], most - taken)
        given = max(0, min(wanted, free // variant.gpus_per_replica))
        self._free[variant.pool] -= given * variant.gpus_per_replica
        self._taken[variant.pool, namespace] = taken + given * variant.gpus_per_replica
        return given


def _deployment(
    resolved: Resolved,
    demand: _Demand,
    wanted: DemandSpec,
    offers: tuple[_Offer, ...],
    money: Money,
    policies: Mapping[str, CostPolicy],
    room: _Room,
    least: int,
) -> VirtualDeployment:
    """`least`: of minReplicas what maxFloorGPUs allow."""
    moe, spec, ways = resolved.moe, resolved.moe.spec, variants(resolved)
    own = money.policies.get(moe.metadata.namespace, ())
    stated = [float(v) for name in own if (v := policies[name].spec.value_per_request) is not None]
    share_limit, limited_by = max_share(moe, own, policies)
    ready = wanted.ready_at_begin
    if ready is None:
        first = ceil(demand.load.work[:FIRST_BINS].mean())
        ready = spec.replicas or max(least, min(first, spec.max_replicas))
    return VirtualDeployment(
        namespace=moe.metadata.namespace,
        name=moe.metadata.name,
        variants=ways,
        traffic=demand.traffic,
        providers=tuple(o.name for o in offers),
        min_replicas=least,
        max_replicas=spec.max_replicas,
        queue_seconds=float(spec.slo.queue_seconds),
        usd_value_per_request=min(stated) if stated else None,
        ready_at_begin=room.take(moe.metadata.namespace, ways[0], ready),
        capacity_error=wanted.capacity_error,
        pinned_replicas=spec.replicas,
        max_share=share_limit,
        max_share_of=limited_by,
        barred=tuple(
            Barred(o.name, o.option.unavailable, o.option.unavailable_message) for o in offers if o.option.unavailable
        ),
    )


def _pool(pool: GPUPool, spec: SimulationSpec) -> VirtualPool:
    name, price = pool.metadata.name, pool.spec.price
    wanted = spec.pools.get(name)
    gpus = wanted.gpus if wanted is not None and wanted.gpus is not None else pool.spec.capacity.max_gpus
    if gpus is None:
        raise BadScenario(
            f"GPUPool {name}: has as many GPUs as its nodes, which are not known here: set spec.capacity.maxGPUs, or "
            f"spec.pools.{name}.gpus of the Simulation"
        )
    reserved = 0 if price.billing != "Reserved" else gpus if price.reserved_gpus is None else price.reserved_gpus
    return VirtualPool(
        name,
        gpus=gpus,
        usd_per_gpu_hour=float(price.usd_per_gpu_hour),
        gpus_per_node=pool.spec.gpu.per_node,
        reserved_gpus=reserved,
        provisioning_timeout_seconds=pool.spec.capacity.provisioning_timeout_seconds,
        stock_outs=tuple(t.window for t in wanted.stock_outs) if wanted is not None else (),
        max_gpus_per_namespace=pool.spec.max_gpus_per_namespace,
    )


def _providers(
    offers: Mapping[str, tuple[_Offer, ...]], providers: Mapping[str, ExternalProvider], spec: SimulationSpec
) -> tuple[VirtualProvider, ...]:
    """One for each pair that a deployment names."""
    found: dict[str, VirtualProvider] = {}
    for name, wanted in spec.providers.items():
        for change in wanted.price_changes:
            offered = [m.name for m in providers[name].spec.models]
            if change.model not in offered and (change.model is not None or len(offered) > 1):
                raise BadScenario(
                    f"Simulation: spec.providers.{name}.priceChanges: model is {change.model!r}: "
                    f"use one of {', '.join(offered)}"
                )
    for one in (o for several in offers.values() for o in several):
        provider = providers[one.option.provider].spec
        model = provider.model(one.option.model)
        assert model is not None
        wanted = spec.providers.get(one.option.provider, ProviderSpec())
        quota = wanted.requests_per_minute
        if quota is None:
            quota = float(provider.limits.requests_per_minute or "inf")
        changes = sorted(
            (
                PriceChange(c.at, float(c.input), float(c.output))
                for c in wanted.price_changes
                if c.model in (None, one.option.model)
            ),
            key=lambda c: c.at,
        )
        found[one.name] = VirtualProvider(
            one.name,
            float(model.price.input),
            float(model.price.output),
            requests_per_minute=quota,
            verbosity=model.verbosity or 1.0,
            outages=tuple(t.window for t in wanted.outages),
            price_changes=tuple(changes),
            provider=one.option.provider,
            model=one.option.model,
            concurrent=float(provider.limits.concurrent),
            first_token_seconds=wanted.first_token,
            tokens_per_second=wanted.tokens_per_second,
        )
    return tuple(found[name] for name in sorted(found))


def _budgets(policies: Mapping[str, CostPolicy], money: Money, keys: tuple[str, ...]) -> tuple[VirtualBudget, ...]:
    """Budgets of policies that are enforced, each with the deployments of the namespaces that its policy selects."""
    return tuple(
        VirtualBudget(
            budget.name,
            float(budget.amount),
            scope=budget.scope,
            paced=policy.spec.pacing == "Even",
            policy=name,
            deployments=frozenset(k for k in keys if name in money.policies.get(k.partition("/")[0], ())),
            period=budget.period,
            time_zone=policy.spec.time_zone,
            top_ups=tuple((float(t.amount), t.until.timestamp()) for t in budget.top_ups),
            to_floor=budget.at_limit == "StopSpillAndScaleToFloor",
        )
        for name, policy in sorted(policies.items())
        if enforced(policy)
        for budget in policy.spec.budgets
    )
