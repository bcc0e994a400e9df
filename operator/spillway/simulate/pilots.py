"""Who steers the virtual cluster: `decide.plan` itself, or another scaler's rule for each deployment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Protocol

import numpy as np

from spillway.decide import Memory, Plan, Snapshot, plan
from spillway.decide.outcome import Decision
from spillway.decide.snapshot import Asked, Budget, Demand, Deployment, EngineRates, Pool, ProviderOption
from spillway.observe.demand import PRIOR_INPUT_TOKENS, PRIOR_OUTPUT_TOKENS
from spillway.observe.snapshot import value_per_request
from spillway.simulate.accounts import Account
from spillway.simulate.baselines import Rule, Seen
from spillway.simulate.cluster import Cluster
from spillway.simulate.economics import BIN_SECONDS, Economics
from spillway.simulate.fleet import Fleet
from spillway.simulate.traces import Floats
from spillway.simulate.world import VirtualDeployment, VirtualPool, World, within

AFFORDABLE = 1_000_000  # requests in flight that money allows while there is some: the simulator meters dollars itself


@dataclass(frozen=True, slots=True)
class Told:
    """A decision of one bin."""

    bin: int
    key: str
    decision: Decision


@dataclass(frozen=True, slots=True)
class Steering:
    """What holds until the next tick: providers in order, the share that goes outside anyway, and the requests that
    replicas take at once, by deployment; those that are not named use all providers, and a gate as `decide` has it."""

    providers: Mapping[str, tuple[str, ...]]
    shares: Mapping[str, float]
    gates: Mapping[str, int] = field(default_factory=dict)


class Pilot(Protocol):
    def tick(self, cluster: Cluster, left_usd: Mapping[str, float]) -> Steering:
        """Scale the fleets as they should be at this bin. `left_usd`: of each budget."""
        ...


class SpillwayPilot:
    """Calls `decide.plan` each tick with what a real operator would have seen by then."""

    def __init__(self, world: World) -> None:
        self.memory = Memory()
        self.told: list[Told] = []
        self._world = world
        self._deployments = {d.key: _deployment(d, world) for d in world.deployments}
        self._providers = {p.name: p for p in world.providers}
        self._by_pair = {(p.api, p.model): p.name for p in world.providers}
        self._barred = {(d.key, b.provider): b for d in world.deployments for b in d.barred}
        self._steering = Steering({}, {})

    def tick(self, cluster: Cluster, left_usd: Mapping[str, float]) -> Steering:
        if cluster.now % self._world.tick_bins == 0:
            planned, self.memory = plan(self.snapshot(cluster, left_usd), self.memory)
            self._follow(planned, cluster)
        return self._steering

    def snapshot(self, cluster: Cluster, left_usd: Mapping[str, float]) -> Snapshot:
        """What is known at the begin of this bin."""
        world, now = self._world, cluster.now
        held = cluster.held_by_namespace()
        deployments = []
        for key, fleet in cluster.fleets.items():
            asked = tuple(Asked(v.name, v.revision, fleet.asked().get(v.name, 0)) for v in fleet.spec.variants)
            demand, options = self._demand(fleet, now), self._options(fleet, cluster.seconds, left_usd)
            value = fleet.spec.usd_value_per_request
            deployments.append(
                replace(
                    self._deployments[key],
                    asked=asked,
                    replicas=fleet.shown(now),
                    demand=demand,
                    rates=self._rates(fleet, now),
                    providers=options,
                    usd_value_per_request=value_per_request((), {}, options, demand) if value is None else value,
                    floor_only=any(_at_floor(a, left_usd) for a in fleet.paying),
                )
            )
        pools = tuple(_pool(p, held[p.name]) for p in world.pools)
        budgets = tuple(
            Budget(
                a.budget.policy or a.budget.name,
                a.budget.name,
                Decimal(str(a.usd)),
                Decimal(str(max(left_usd[a.budget.key], 0.0))),
                starts_at=a.starts_at,
                resets_at=a.ends_at,
                stops_spill=a.external,
                scope=a.budget.scope,
                paced=a.budget.paced,
            )
            for a in cluster.accounts
        )
        return Snapshot(world.begin + cluster.seconds, tuple(deployments), pools, budgets, world.settings)

    def _window(self, now: int) -> tuple[int, int]:
        """Bins of the newest metrics: from, until. Empty before there are any."""
        world = self._world
        until = now - round(world.faults.metrics_delay_seconds / BIN_SECONDS)
        while world.faults.metrics_lost and within(world.faults.metrics_lost, until * BIN_SECONDS):
            until -= 1
        until = max(until, 0)
        return max(0, until - max(1, round(world.metrics_window_seconds / BIN_SECONDS))), until

    def _rates(self, fleet: Fleet, now: int) -> tuple[EngineRates, ...]:
        begin, until = self._window(now)
        return fleet.rates(now, begin, until) if until > begin else ()

    def _demand(self, fleet: Fleet, now: int) -> Demand | None:
        """Means over the window that ended when the newest metrics were taken."""
        begin, until = self._window(now)
        if until <= begin:
            return None
        requests, tokens_in, tokens_out = fleet.came(begin, until)
        seconds = (until - begin) * BIN_SECONDS
        spilled = (fleet.spilled_requests[until] - fleet.spilled_requests[begin]) / seconds
        refused = (fleet.refused_requests[until] - fleet.refused_requests[begin]) / seconds
        known = requests > 0
        return Demand(
            requests_per_second=fleet.pressing(begin, until) * requests / seconds,
            input_tokens_per_request=tokens_in / requests if known else PRIOR_INPUT_TOKENS,
            output_tokens_per_request=tokens_out / requests if known else PRIOR_OUTPUT_TOKENS,
            spilled_per_second=spilled,
            refused_per_second=refused,
            local_answers_per_second=max(0.0, requests / seconds - spilled - refused),
            age_seconds=(now - until) * BIN_SECONDS,
        )

    def _options(self, fleet: Fleet, seconds: float, left_usd: Mapping[str, float]) -> tuple[ProviderOption, ...]:
        spent = next((a for a in fleet.paying if a.external and left_usd[a.budget.key] <= 0), None)
        found = []
        for name in fleet.spec.providers:
            provider = self._providers[name]
            price_in, price_out = provider.prices(seconds)
            reason = message = ""
            if barred := self._barred.get((fleet.spec.key, name)):
                reason, message = barred.reason, barred.message
            elif within(provider.outages, seconds - BIN_SECONDS):
                reason = "ProviderUnhealthy"
                message = f"{name}: {reason}"
            elif spent is not None:
                reason = "BudgetSpent"
                message = f"budget {spent.budget.key} (${spent.usd:,.2f}) is spent"
            found.append(
                ProviderOption(
                    provider.api,
                    provider.model,
                    price_in,
                    price_out,
                    verbosity=provider.verbosity,
                    affordable_in_flight=0 if reason else int(min(AFFORDABLE, provider.concurrent)),
                    unavailable=reason,
                    unavailable_message=message,
                )
            )
        return tuple(found)

    def _follow(self, planned: Plan, cluster: Cluster) -> None:
        providers, gates = {}, {}
        for outcome in planned.deployments:
            fleet = cluster.fleets[outcome.key]
            variants = {v.name: v for v in fleet.spec.variants}
            for workload in outcome.workloads:
                fleet.scale(variants[workload.variant], workload.replicas, cluster.now)
            permitted = (self._by_pair[p.provider, p.model] for p in outcome.spill.providers if p.permitted)
            providers[outcome.key] = tuple(permitted)
            gates[outcome.key] = outcome.gate
            self.told.extend(Told(cluster.now, outcome.key, d) for d in outcome.decisions if d.changes)
        self._steering = Steering(providers, {}, gates)


class RulePilot:
    """Another scaler's rule for each deployment, with the first variant; everything overflows as with Spillway."""

    def __init__(self, world: World, rules: Mapping[str, Rule], economics: Economics | Mapping[str, Economics]) -> None:
        self._rules = rules
        self._economics = dict.fromkeys(rules, economics) if isinstance(economics, Economics) else economics
        self._spill_usd = {d.key: spill_usd_per_unit(d.key, world) for d in world.deployments}
        self._spilled = {d.key: np.zeros(world.bins) for d in world.deployments}

    def tick(self, cluster: Cluster, left_usd: Mapping[str, float]) -> Steering:
        now = cluster.now
        for key, rule in self._rules.items():
            fleet = cluster.fleets[key]
            if now:
                self._spilled[key][now - 1] = fleet.ledger.spilled[-1]
            seen = Seen(
                now,
                fleet.work[:now],
                self._spill_usd[key][:now],
                self._spilled[key][:now],
                fleet.queued,
                fleet.ready_count,
                len(fleet.replicas),
                self._economics[key],
            )
            wanted = rule.replicas(seen)
            spec = fleet.spec
            if wanted is not None and wanted != seen.total:
                clamped = spec.pinned_replicas or max(spec.min_replicas, min(wanted, spec.max_replicas))
                fleet.scale(spec.variants[0], clamped, now)
        return Steering({}, {})


def spill_usd_per_unit(key: str, world: World) -> Floats:
    """$ of a replica-bin of each bin's own mix at the first usable provider's price of the begin; none without one."""
    spec = next(d for d in world.deployments if d.key == key)
    provider = next((p for p in world.providers if p.name in spec.usable[:1]), None)
    first, traffic = spec.variants[0], spec.traffic
    if provider is None:
        return np.zeros(len(traffic))
    usd = (
        traffic.input_tokens * provider.usd_per_million_input + traffic.output_tokens * provider.usd_per_million_output
    ) / 1e6
    work = (
        traffic.input_tokens / first.prefill_tokens_per_second + traffic.output_tokens / first.decode_tokens_per_second
    ) / BIN_SECONDS
    mean = float(usd.sum()) / max(float(work.sum()), 1e-12)
    return np.where(work > 0, usd / np.where(work > 0, work, 1.0), mean)


def _at_floor(account: Account, left_usd: Mapping[str, float]) -> bool:
    """Whether a spent GPU or Total budget asks for the floor."""
    return account.budget.to_floor and account.gpu and left_usd[account.budget.key] <= 0


def _pool(pool: VirtualPool, held: Mapping[str, int]) -> Pool:
    """As it is seen: replicas fill node after node. `held`: GPUs by namespace."""
    used = sum(held.values())
    begun = -used % pool.gpus_per_node  # free GPUs of the node that is in use in part
    return Pool(
        pool.name,
        free_gpus_by_node=(begun,) if 0 < begun <= pool.gpus - used else (),
        growable_gpus=max(0, pool.gpus - used - begun),
        gpus_per_node=pool.gpus_per_node,
        provisioning_timeout_seconds=pool.provisioning_timeout_seconds,
        max_gpus=pool.gpus,
        used_gpus=used,
        used_by_namespace=held,
        max_gpus_per_namespace=pool.max_gpus_per_namespace,
        usd_per_gpu_hour=pool.usd_per_gpu_hour,
        reserved_gpus=pool.reserved_gpus,
    )


def _deployment(spec: VirtualDeployment, world: World) -> Deployment:
    own = [b for b in world.budgets if b.counts(spec.key)]
    return Deployment(
        namespace=spec.namespace,
        name=spec.name,
        min_replicas=spec.min_replicas,
        max_replicas=spec.max_replicas,
        pinned_replicas=spec.pinned_replicas,
        queue_seconds=spec.queue_seconds,
        variants=spec.variants,
        max_share=spec.max_share,
        max_share_of=spec.max_share_of,
        policies=tuple(dict.fromkeys(b.policy or b.name for b in own)),
        hints=tuple(replace(h, begin=h.begin + world.begin, end=h.end + world.begin) for h in spec.hints),
    )
