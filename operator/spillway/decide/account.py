"""What one deployment's decision comes to, for a person who asks: demand, what each option would cost, what was chosen,
what limited it, and why a variant is not used. Pure, of the very snapshot and memory that the plan was made from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from spillway.decide import capacity, pools, providers
from spillway.decide.demand import work_per_request
from spillway.decide.holders import gpus, holders
from spillway.decide.memory import DeploymentMemory, Memory, PoolMemory
from spillway.decide.outcome import Decision, DeploymentPlan, Plan
from spillway.decide.planner import plan
from spillway.decide.reasons import Code
from spillway.decide.snapshot import Demand, Deployment, Phase, ProviderOption, Snapshot, Variant
from spillway.decide.starts import cold_start_p90_seconds, cold_start_seconds
from spillway.decide.target import HINT_MARGIN_SECONDS, Target, fresh_demand, slots, target
from spillway.decide.words import duration, hint_words

ALIKE_USD_PER_HOUR = 0.01  # a difference that nobody speaks of


@dataclass(frozen=True, slots=True)
class Option:
    """One way to serve all of the demand of now: a variant alone, or a provider alone."""

    name: str
    usd_per_hour: float | None  # None: without metrics nobody knows
    replicas: int = 0  # that cover the demand; of a provider none
    work: float = 0.0  # the same, not rounded up
    chosen: int = 0  # replicas that the plan wants of it
    ready: int = 0
    spill_cost_ratio: float | None = None  # kappa: what a replica's work costs elsewhere / its rent
    note: str = ""  # why it cannot be taken now, in a few words


@dataclass(frozen=True, slots=True)
class Account:
    """All in words and dollars; `why_not` by variant, one paragraph each, also for those that are used."""

    key: str
    time: float
    demand: str
    variants: tuple[Option, ...]
    providers: tuple[Option, ...]
    chosen: str
    usd_per_hour: float  # rent of what is wanted
    limits: tuple[str, ...] = ()
    decisions: tuple[Decision, ...] = ()
    why_not: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the paragraphs are told from."""

    snapshot: Snapshot
    deployment: Deployment
    memory: Memory
    planned: DeploymentPlan
    closed: Mapping[str, PoolMemory]  # by pool, those that are not asked now
    tokens: Demand  # the request of now, or a usual one where nobody knows
    known: bool  # whether there is demand that can be trusted
    worth: bool  # whether to say what GPUs are worth to who has them

    @property
    def own(self) -> DeploymentMemory:
        return self.memory.deployments.get(self.deployment.key, DeploymentMemory())

    def usd_per_request_per_second(self, variant: Variant) -> float:
        """Rent per hour of the capacity for one request per second."""
        return variant.usd_per_hour * work_per_request(variant, self.tokens)

    def ratio(self, variant: Variant) -> float | None:
        """kappa of a variant, from that of the plan's reference: the same request costs the same elsewhere."""
        reference = self.deployment.variant(self.planned.reference)
        if self.planned.spill_cost_ratio is None or reference is None:
            return None
        own = self.usd_per_request_per_second(variant)
        return self.planned.spill_cost_ratio * self.usd_per_request_per_second(reference) / own if own else None


def account(snapshot: Snapshot, memory: Memory, key: str, planned: Plan | None = None) -> Account:
    """The account of the deployment `key` (namespace/name). `memory` is that from before the plan; `planned` is what
    `plan` made of both, made again where it is absent. Raises KeyError for a deployment that is not in the snapshot."""
    found = accounts(snapshot, memory, planned or plan(snapshot, memory)[0], frozenset({key}))
    return found[key]


def accounts(
    snapshot: Snapshot, memory: Memory, planned: Plan, keys: Set[str], worth: bool = True
) -> dict[str, Account]:
    """Of those of `keys` that were planned. `worth`: also what a pool's GPUs are worth to who has them, which takes a
    while where there are many."""
    pool_memory = {p.name: pools.remember(snapshot, p, memory.pools.get(p.name, PoolMemory())) for p in snapshot.pools}
    closed = {name: m for name, m in pool_memory.items() if snapshot.time < m.closed_until}
    outcomes = {outcome.key: outcome for outcome in planned.deployments}
    found = {}
    for deployment in snapshot.deployments:
        outcome = outcomes.get(deployment.key)
        if outcome is None or deployment.key not in keys:
            continue
        demand = fresh_demand(deployment, snapshot.settings.metrics_stale_seconds)
        own = memory.deployments.get(deployment.key, DeploymentMemory())
        corrected = _as_planned(snapshot, deployment, own)
        usual = Demand(0.0, 1000.0, 200.0)
        seen = _Seen(snapshot, corrected, memory, outcome, closed, demand or usual, demand is not None, worth)
        found[deployment.key] = _told(seen)
    return found


def _as_planned(snapshot: Snapshot, deployment: Deployment, memory: DeploymentMemory) -> Deployment:
    """With learned rates, and with providers at their learned verbosity in the order in which they are tried."""
    return providers.ranked(snapshot.time, capacity.corrected(deployment, memory.capacity), memory)


def _told(seen: _Seen) -> Account:
    deployment = seen.deployment
    return Account(
        key=deployment.key,
        time=seen.snapshot.time,
        demand=_demand(seen),
        variants=tuple(_variant(seen, v) for v in deployment.variants),
        providers=tuple(_provider(seen, option) for option in deployment.providers),
        chosen=_chosen(seen),
        usd_per_hour=round(_rent(seen), 2),
        limits=_limits(seen),
        decisions=seen.planned.decisions,
        why_not={v.name: _why_not(seen, v) for v in deployment.variants},
    )


def _demand(seen: _Seen) -> str:
    """`4.1 requests/s of 1,155 tokens in and 211 out: 0.5 replicas of work on b200 (or 0.8 on h200)`."""
    demand = seen.tokens
    if not seen.known:
        return "How much is asked for is not known: there are no fresh metrics, and what runs is held."
    if demand.requests_per_second <= 0:
        return "Nothing is asked for now."
    works = [(v.name, demand.requests_per_second * work_per_request(v, demand)) for v in seen.deployment.variants]
    first, *others = works or [("", 0.0)]
    fill = f"That would fill {first[1]:.1f} replicas of {first[0]}" if works else "No variant can take it"
    fill += f" ({', '.join(f'or {work:.1f} of {name}' for name, work in others)})" if others else ""
    parts = [
        f"{demand.requests_per_second:.1f} requests/s are asked for, each {demand.input_tokens_per_request:,.0f} "
        f"tokens in and {demand.output_tokens_per_request:,.0f} out. {fill}."
    ]
    elsewhere = [
        f"{rate:.1f}/s {what}"
        for rate, what in ((demand.spilled_per_second, "go to providers"), (demand.refused_per_second, "are refused"))
        if rate >= 0.05
    ]
    if elsewhere:
        parts.append(f"Of these {' and '.join(elsewhere)}.")
    return " ".join(parts)


def _variant(seen: _Seen, variant: Variant) -> Option:
    work = seen.tokens.requests_per_second * work_per_request(variant, seen.tokens)
    replicas = math.ceil(work - 1e-3)
    closed = seen.closed.get(variant.pool)
    ready = sum(r.variant == variant.name and r.phase is Phase.READY for r in seen.deployment.replicas)
    note = ""
    if closed is not None:
        note = f"pool closed until {_clock(closed.closed_until)}"
    elif (room := _room(seen, variant)) + _held(seen, variant) < replicas:
        note = f"room for {room} more"
    return Option(
        variant.name,
        round(replicas * variant.usd_per_hour, 2) if seen.known else None,
        replicas,
        round(work, 2),
        seen.planned.desired.get(variant.name, 0),
        ready,
        seen.ratio(variant),
        note,
    )


def _provider(seen: _Seen, option: ProviderOption) -> Option:
    tokens = seen.tokens
    usd = option.usd_per_request(tokens.input_tokens_per_request, tokens.output_tokens_per_request)
    planned = next(
        (p for p in seen.planned.spill.providers if (p.provider, p.model) == (option.provider, option.model)), None
    )
    note = option.unavailable or (planned.reason if planned else "")
    known = seen.known and option.usd_per_million_output > 0
    return Option(
        f"{option.provider}/{option.model}",
        round(usd * tokens.requests_per_second * 3600, 2) if known else None,
        note=note,
    )


def _rent(seen: _Seen) -> float:
    rents = {v.name: v.usd_per_hour for v in seen.deployment.variants}
    rents |= {r.name: r.usd_per_hour for r in seen.deployment.retired}
    return sum(n * rents.get(name, 0.0) for name, n in seen.planned.desired.items())


def _chosen(seen: _Seen) -> str:
    wanted = {name: n for name, n in sorted(seen.planned.desired.items()) if n}
    ready = {r.variant: 0 for r in seen.deployment.replicas}
    for replica in seen.deployment.replicas:
        ready[replica.variant] += replica.phase is Phase.READY
    if not wanted:
        chosen = "No replica is wanted"
    else:
        chosen = "Wanted: " + ", ".join(f"{n} × {name} ({ready.get(name, 0)} ready)" for name, n in wanted.items())
        chosen += f" for ${_rent(seen):.2f}/h"
    spill = seen.planned.spill
    first = next((p for p in spill.providers if p.permitted), None)
    if first is not None:
        outside = f"what they cannot take goes to {first.provider}/{first.model}"
    else:
        outside = f"nothing may go to providers ({spill.message or spill.reason})"
    ratio = seen.planned.spill_cost_ratio
    kappa = ""
    if ratio is not None and seen.known:
        worth = "costs {:.1f} times its rent elsewhere" if first is not None else "is worth {:.1f} times its rent"
        kappa = f" A replica's work {worth.format(ratio)} (κ)."
    return f"{chosen}; {outside}.{kappa}"


def _limits(seen: _Seen) -> tuple[str, ...]:
    """What kept the plan from what demand asks for, or from less."""
    deployment, planned = seen.deployment, seen.planned
    told = [f"{d.code}: {d.message}" for d in planned.decisions if not d.changes]
    total = planned.replicas
    work = planned.work
    if deployment.pinned_replicas:
        told.append(f"Pinned: spec.replicas pins {deployment.pinned_replicas}")
    elif (hinted := _hinted(seen)) and work is not None and work < total:
        told.append(f"{Code.HINT}: spec.hints {hint_words(seen.snapshot, deployment, hinted)}")
    elif work is not None and total and total <= deployment.min_replicas and work < total - 1:
        told.append(f"minReplicas {deployment.min_replicas} keeps more than demand would fill ({work:.1f})")
    if deployment.floor_only:
        told.append(f"a GPU budget is spent: minReplicas {deployment.min_replicas} is all that runs")
    for pool, memory in sorted(seen.closed.items()):
        if any(v.pool == pool for v in deployment.variants):
            told.append(f"pool {pool} gives no GPUs; it is asked again at {_clock(memory.closed_until)}")
    told += [
        f"{p.provider}/{p.model} may not be used: {p.message or p.reason}"
        for p in planned.spill.providers
        if not p.permitted
    ]
    return tuple(told)


def _hinted(seen: _Seen) -> int:
    """What known events that go on, or that replicas are started for, want beyond the floor; else 0."""
    now, total = seen.snapshot.time, seen.planned.replicas
    longest = max((cold_start_p90_seconds(seen.own, v) for v in seen.deployment.variants), default=0.0)
    wanted = [
        h.min_replicas
        for h in seen.deployment.hints
        if h.begin - longest - HINT_MARGIN_SECONDS <= now < h.end and h.min_replicas <= total
    ]
    most = max(wanted, default=0)
    return most if most > seen.deployment.min_replicas else 0


def _why_not(seen: _Seen, variant: Variant) -> str:
    """One paragraph: the reason that decides first, then what would stand in the way besides."""
    wanted = seen.planned.desired.get(variant.name, 0)
    if wanted:
        return _it_is_used(seen, variant, wanted)
    first, *others = _reasons(seen, variant)
    besides = f" Besides, {'; and '.join(other[0].lower() + other[1:] for other in others)}." if others else ""
    return f"{first}.{besides}"


def _it_is_used(seen: _Seen, variant: Variant, wanted: int) -> str:
    phases = [r.phase for r in seen.deployment.replicas if r.variant == variant.name]
    ready = phases.count(Phase.READY)
    on_their_way = phases.count(Phase.STARTING) + phases.count(Phase.PENDING)
    word = "replica is" if wanted == 1 else "replicas are"
    way = f", {on_their_way} on the way" if on_their_way else ""
    used = (
        f"It is used: {wanted} {word} wanted of it and {ready} answer{'s' if ready == 1 else ''}{way}, "
        f"at ${variant.usd_per_hour:.2f}/h each."
    )
    more = _no_room(seen, variant)
    others = any(n for name, n in seen.planned.desired.items() if name != variant.name)
    return f"{used} Not more of it: {more[0].lower()}{more[1:]}." if more and others else used


def _reasons(seen: _Seen, variant: Variant) -> list[str]:
    """At least one, the one that decides first."""
    deployment, found = seen.deployment, []
    if deployment.paused:
        return ["The deployment is paused (annotation spillway.dev/paused): nothing is started or stopped"]
    if deployment.dry_run:
        would = next((d.message for d in seen.planned.decisions if d.code is Code.DRY_RUN), "would change nothing")
        return [f"It is a dry run (annotation spillway.dev/dry-run), which changes nothing: Spillway {would}"]
    if deployment.floor_only and seen.planned.replicas <= deployment.min_replicas:
        floor = deployment.min_replicas
        found.append(f"A GPU budget is spent, so no more than minReplicas {floor} runs, and the cheapest has that")
    if not seen.known and not deployment.pinned_replicas:
        found.append("There are no fresh metrics, so what runs is held")
    if seen.snapshot.pool(variant.pool) is None:
        return [*found, f"Its pool {variant.pool} is gone"]
    no_room = _no_room(seen, variant)
    if no_room and variant.pool in seen.closed:
        found.append(no_room)
    if dearer := _dearer(seen, variant):
        found.append(dearer)
    ratio = seen.ratio(variant)
    if ratio is not None and ratio <= 1 and seen.known:
        elsewhere = ratio * variant.usd_per_hour
        found.append(
            f"A replica of it costs ${variant.usd_per_hour:.2f}/h and its work only ${elsewhere:.2f}/h elsewhere "
            f"(κ = {ratio:.2f}): no replica of it pays"
        )
    if no_room and variant.pool not in seen.closed:
        found.append(no_room)
    if found:
        return found
    work = seen.planned.work
    if not any(seen.planned.desired.values()):
        rent = f"${variant.usd_per_hour:.2f}/h"
        much = f"{work:.2f} replicas of work do" if work is not None else "demand does"
        return [f"Nothing is wanted at all: {much} not earn a replica's rent of {rent} and its start yet"]
    total = seen.planned.replicas
    if work is not None and total >= deployment.max_replicas and work > total:
        return [f"maxReplicas {deployment.max_replicas} is reached with what runs"]
    return [_kept(seen, variant)]


def _no_room(seen: _Seen, variant: Variant) -> str:
    """Why no more replicas of it can be started now; empty if they can."""
    closed = seen.closed.get(variant.pool)
    if closed is not None:
        times = "once" if closed.failures == 1 else f"{closed.failures} times in a row"
        return (
            f"Pool {variant.pool} gave no GPUs ({times}, since {_clock(closed.closed_since)}) and is closed until "
            f"{_clock(closed.closed_until)}; then it is asked again"
        )
    return f"There is no room: {_who(seen, variant)}" if _room(seen, variant) == 0 else ""


def _dearer(seen: _Seen, variant: Variant) -> str:
    """Against the cheapest that is wanted, for the work of one replica of that; empty if it is not dearer."""
    wanted = [v for v in seen.deployment.variants if seen.planned.desired.get(v.name)]
    if not wanted:
        return ""
    other = min(wanted, key=seen.usd_per_request_per_second)
    ours = other.usd_per_hour * seen.usd_per_request_per_second(variant) / seen.usd_per_request_per_second(other)
    if ours <= other.usd_per_hour + ALIKE_USD_PER_HOUR:
        return ""
    return (
        f"It is dearer: the work of one replica of {other.name} costs ${other.usd_per_hour:.2f}/h there and "
        f"${ours:.2f}/h here, ${ours - other.usd_per_hour:.2f}/h more"
    )


def _kept(seen: _Seen, variant: Variant) -> str:
    """It is no dearer and has room, and still something else runs."""
    wanted = [v for v in seen.deployment.variants if seen.planned.desired.get(v.name)]
    if not wanted:  # only what the spec no longer has
        return "What runs is of variants that the spec no longer has, and demand asks for no more replicas yet"
    other = min(wanted, key=seen.usd_per_request_per_second)
    ours = other.usd_per_hour * seen.usd_per_request_per_second(variant) / seen.usd_per_request_per_second(other)
    saved = other.usd_per_hour - ours
    takes = cold_start_seconds(seen.own, variant)
    start = variant.usd_per_hour * takes / 3600
    if saved <= ALIKE_USD_PER_HOUR:
        return f"It costs the same as {other.name}, which comes first and covers the demand"
    return (
        f"It is cheaper than {other.name} by ${saved:.2f}/h for the same work, but that runs already: a start here "
        f"takes {duration(takes)} and costs ${start:.2f}, which must be earned within an hour, or demand must rise"
    )


def _room(seen: _Seen, variant: Variant) -> int:
    """Replicas that could be started now, besides those that run."""
    pool = seen.snapshot.pool(variant.pool)
    return slots(pool, variant, seen.deployment.namespace) if pool is not None else 0


def _held(seen: _Seen, variant: Variant) -> int:
    return sum(r.variant == variant.name and r.phase in (Phase.STARTING, Phase.READY) for r in seen.deployment.replicas)


def _who(seen: _Seen, variant: Variant) -> str:
    """Who has the pool's GPUs, and what they are worth to them."""
    if not seen.worth:
        return holders(seen.snapshot, seen.deployment, variant, {})
    snapshot = replace(
        seen.snapshot,
        deployments=tuple(
            _as_planned(seen.snapshot, d, seen.memory.deployments.get(d.key, DeploymentMemory()))
            for d in seen.snapshot.deployments
        ),
    )
    open_pools = frozenset(p.name for p in snapshot.pools if p.name not in seen.closed)
    targets: dict[str, Target] = {
        d.key: target(snapshot, d, seen.memory.deployments.get(d.key, DeploymentMemory()), open_pools, 0.0)
        for d in snapshot.deployments
        if d.key == seen.deployment.key or gpus(d, variant.pool)
    }
    return holders(snapshot, seen.deployment, variant, targets)


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M UTC")
