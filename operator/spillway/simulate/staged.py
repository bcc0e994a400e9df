"""A scenario played under several policies, and what each deployment, pool and budget came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from spillway.decide.provisioning import DEFAULT_RULE, RULES
from spillway.simulate.accounts import Account, Spent
from spillway.simulate.baselines import BASELINES, Fixed, Rule
from spillway.simulate.economics import BIN_SECONDS
from spillway.simulate.fleet import Ledger
from spillway.simulate.pilots import Pilot, RulePilot, SpillwayPilot, Told, spill_usd_per_unit
from spillway.simulate.requests import latency
from spillway.simulate.run import Played, play_out
from spillway.simulate.scenario_world import Stage
from spillway.simulate.score import Score, score
from spillway.simulate.study import HINDSIGHT, SPILLWAY, UnknownPolicy, known
from spillway.simulate.world import VirtualDeployment, VirtualPool


@dataclass(frozen=True, slots=True)
class PoolUse:
    pool: VirtualPool
    mean_gpus: float
    most_gpus: int
    idle_usd: float  # of reserved GPUs that no replica held


@dataclass(frozen=True, slots=True)
class WorldRun:
    """One policy on one stage."""

    policy: str
    stage: Stage
    played: Played
    told: tuple[Told, ...]

    @property
    def scores(self) -> Mapping[str, Score]:
        """From the first bin on: budgets count from there, too."""
        return {key: score(ledger) for key, ledger in self.played.ledgers.items()}

    @property
    def pools(self) -> tuple[PoolUse, ...]:
        return tuple(_use(pool, self.played) for pool in self.stage.world.pools)


def playable(policy: str) -> str:
    """The name, if a world can be played under it. Raises UnknownPolicy."""
    if known(policy) in HINDSIGHT:
        raise UnknownPolicy(f"policy {policy!r} knows the future of one deployment alone: it is not for a scenario")
    return policy


def run(stage: Stage, policy: str, progress: Callable[[int], None] | None = None) -> WorldRun:
    """Play the stage. Raises UnknownPolicy."""
    playable(policy)
    if policy == SPILLWAY or policy in RULES:
        rule = DEFAULT_RULE if policy == SPILLWAY else policy
        world = replace(stage.world, settings=replace(stage.world.settings, rule=rule))
        pilot = SpillwayPilot(world)
        played = play_out(world, pilot, progress, stage.requests)
        return WorldRun(policy, stage, played, tuple(pilot.told))
    other: Pilot = RulePilot(stage.world, {d.key: _rule(policy) for d in stage.world.deployments}, stage.economics)
    return WorldRun(policy, stage, play_out(stage.world, other, progress, stage.requests), ())


def _rule(policy: str) -> Rule:
    return BASELINES[policy]() if policy in BASELINES else Fixed(int(policy.removeprefix("fixed-")), policy)


def _use(pool: VirtualPool, played: Played) -> PoolUse:
    held = played.gpus[pool.name]
    idle = sum(max(0, pool.reserved_gpus - gpus) for gpus in held)
    return PoolUse(
        pool,
        sum(held) / max(len(held), 1),
        max(held, default=0),
        idle * pool.usd_per_gpu_hour * BIN_SECONDS / 3600,
    )


def totals(one: WorldRun) -> dict[str, float]:
    """Of all deployments together; work counts in each one's own replicas."""
    ledgers = one.played.ledgers.values()
    refused, work = sum(sum(x.refused) for x in ledgers), sum(sum(x.served) + sum(x.spilled) for x in ledgers)
    late = sum(sum(x.late) for x in ledgers)
    scores = one.scores.values()
    return {
        "cost": sum(s.usd for s in scores),
        "gpu": sum(s.gpu_usd for s in scores),
        "external": sum(s.external_usd for s in scores),
        "slo": 1 - (refused + late) / (work + refused) if work + refused > 0 else 1.0,
        "starts_per_day": sum(s.starts_per_day for s in scores),
    }


def overrun_usd(spent: Spent) -> float:
    """By how much a period's spend passed its amount, to the millionth of a dollar: sums of floats are not exact."""
    return max(0.0, round(spent.usd - spent.of_usd, 6))


# ---- for others to recompute -----------------------------------------------------------------------------------------


def document(one: WorldRun) -> dict[str, Any]:
    """The run bin by bin: for each deployment the arrays of `study.document`, all counted from the first bin on; what
    GPUs, stops and providers cost in each bin; pools and budgets."""
    world = one.stage.world
    return {
        "scenario": one.stage.name,
        "policy": one.policy,
        "begin": _moment(world.begin),
        "bin_seconds": BIN_SECONDS,
        "deployments": {d.key: _deployment(one, d) for d in world.deployments},
        "pools": {
            use.pool.name: {
                "gpus": use.pool.gpus,
                "mean": use.mean_gpus,
                "max": use.most_gpus,
                "reserved_idle": use.idle_usd,
                "used": list(one.played.gpus[use.pool.name]),
            }
            for use in one.pools
        },
        "budgets": [_budget(account) for account in one.played.accounts],
    }


def _deployment(one: WorldRun, spec: VirtualDeployment) -> dict[str, Any]:
    ledger, scored = one.played.ledgers[spec.key], one.scores[spec.key]
    economics = one.stage.economics[spec.key]
    traffic = spec.traffic
    prefill = traffic.input_tokens / economics.prefill_tokens_per_second
    work = (prefill + traffic.output_tokens / economics.decode_tokens_per_second) / BIN_SECONDS
    rest = [0.0] * (len(ledger.asked) - len(work))
    records = one.played.records.get(spec.key)
    seconds = len(ledger.asked) * BIN_SECONDS
    singly = {} if records is None else {"late": ledger.late, "requests": latency.document(records, 0.0, seconds)}
    return singly | {
        "policy": one.policy,
        "bin_seconds": BIN_SECONDS,
        "score_from": 0,
        "work": [*work.tolist(), *rest],
        "spill_price": _spill_prices(one, spec, ledger),
        "asked": ledger.asked,
        "ready": ledger.ready,
        "served": ledger.served,
        "spilled": ledger.spilled,
        "refused": ledger.refused,
        "gpu_usd": ledger.gpu_usd,
        "stop_usd": ledger.stop_usd,
        "external_usd": ledger.external_usd,
        "cost": scored.usd,
        "gpu": scored.gpu_usd,
        "external": scored.external_usd,
        "lower_bound": None,
        "ratio": None,
        "slo": scored.slo,
        "starts_per_day": scored.starts_per_day,
        "spill_share": scored.spill_share,
    }


def _spill_prices(one: WorldRun, spec: VirtualDeployment, ledger: Ledger) -> list[float]:
    """$ per replica-bin: what was paid where something went out, else the first usable provider's list price."""
    listed = spill_usd_per_unit(spec.key, one.stage.world).tolist()
    listed += [listed[-1] if listed else 0.0] * (len(ledger.spilled) - len(listed))
    return [
        usd / spilled if spilled > 0 else price
        for usd, spilled, price in zip(ledger.external_usd, ledger.spilled, listed, strict=True)
    ]


def _budget(account: Account) -> dict[str, Any]:
    budget = account.budget
    return {
        "policy": budget.policy,
        "name": budget.name,
        "scope": budget.scope,
        "amount": budget.usd,
        "paced": budget.paced,
        "deployments": sorted(budget.deployments or ()),
        "periods": [
            {
                "from": _moment(spent.starts_at),
                "to": _moment(spent.ends_at),
                "spent": spent.usd,
                "of": spent.of_usd,
                "overrun": overrun_usd(spent),
            }
            for spent in account.periods
        ],
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
