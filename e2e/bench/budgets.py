"""A month's budget under bursty demand: what it buys with and without pacing, against who knows the month beforehand.

Three deployments whose requests are worth 2, 5 and 20 times what they cost outside share one budget that pays for a
part of what they ask for. Scope External: no GPUs; the optimum in hindsight is exact (a fractional knapsack of bins by
value per dollar). Scope Total: GPUs and the outside; the bound lets every bin have its work at the cheaper of a full
replica's rent and the outside, without starts, so nobody reaches it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from spillway.simulate import single
from spillway.simulate.economics import BIN_SECONDS, Economics
from spillway.simulate.fleet import Ledger
from spillway.simulate.load import Load, scale
from spillway.simulate.pilots import SpillwayPilot
from spillway.simulate.presets import PRESETS
from spillway.simulate.run import play_out
from spillway.simulate.synthetic import Synthetic, generate
from spillway.simulate.traces import Floats, Trace
from spillway.simulate.world import VirtualBudget, VirtualDeployment, World

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
BINS = 30 * 8640
FLEET = 2.0  # replicas of work of each deployment, on average
WORTH = (2.0, 5.0, 20.0)  # times what a request costs outside
PRICES = "B"
SHARES = {"External": (0.3, 0.6), "Total": (0.1, 0.2)}  # of what all would cost outside; all on GPUs costs 0.28 of it


@dataclass(frozen=True, slots=True)
class Bought:
    """What one budget bought in a month. Values in $ of what served requests are worth."""

    scope: str
    share: float  # of what serving everything outside would cost
    paced: bool
    budget_usd: float
    spent_usd: float
    used: float
    value_usd: float
    optimum_usd: float
    of_optimum: float
    days_with_money: float  # until the budget was used up

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def bought() -> Iterator[Bought]:
    """All of them; each takes about a minute."""
    cases = [(scope, share, paced) for scope, shares in SHARES.items() for share in shares for paced in (True, False)]
    with ProcessPoolExecutor(2) as pool:
        yield from pool.map(_bought, cases)


def _bought(case: tuple[str, float, bool]) -> Bought:
    scope, share, paced = case
    economics = PRESETS[PRICES]()
    loads = [scale(_demand(seed), economics, FLEET, longest_bins=BINS) for seed in range(len(WORTH))]
    outside = sum(float(_outside_usd(load, economics).sum()) for load in loads)
    budget = VirtualBudget("month", round(share * outside, 2), scope=scope, paced=paced, period="Month", to_floor=True)
    world = _world(loads, economics, budget)
    played = play_out(world, SpillwayPilot(world))
    [account] = played.accounts
    served, optimum = _value(loads, economics, played.ledgers), _optimum(loads, economics, budget.usd, scope)
    return Bought(
        scope,
        share,
        paced,
        budget.usd,
        round(account.spent_usd, 2),
        round(account.spent_usd / budget.usd, 4),
        round(served),
        round(optimum),
        round(served / optimum, 4),
        round(_days_with_money(played.ledgers, budget, scope), 1),
    )


def _demand(seed: int) -> Trace:
    """Chat with bursts like ServeGen's."""
    return generate(replace(Synthetic(), bins=BINS, arrival_cv=3.5, spikes_per_day=3.0, spike_factor=3.0), seed)


def _world(loads: Sequence[Load], economics: Economics, budget: VirtualBudget) -> World:
    one = single.world(loads[0], economics)
    gpus = 0 if budget.scope == "External" else 400
    deployments: list[VirtualDeployment] = []
    for load, worth in zip(loads, WORTH, strict=True):
        base = single.world(load, economics).deployments[0]
        per_request = float(_outside_usd(load, economics).sum() / load.requests.sum())
        deployments.append(
            replace(
                base,
                name=f"worth-{worth:g}",
                max_replicas=gpus,
                ready_at_begin=base.ready_at_begin if gpus else 0,
                usd_value_per_request=worth * per_request,
            )
        )
    return replace(one, deployments=tuple(deployments), budgets=(budget,), begin=BEGIN.timestamp(), tick_seconds=60.0)


def _outside_usd(load: Load, economics: Economics) -> Floats:
    """$ of each bin if all of it went outside."""
    usd: Floats = (
        load.input_tokens * economics.usd_per_million_input + load.output_tokens * economics.usd_per_million_output
    ) / 1e6
    return usd


def _worth_usd(load: Load, economics: Economics, worth: float) -> Floats:
    """$ that each bin's requests are worth."""
    value: Floats = load.requests * worth * float(_outside_usd(load, economics).sum() / load.requests.sum())
    return value


def _value(loads: Sequence[Load], economics: Economics, ledgers: Mapping[str, Ledger]) -> float:
    """Of what was not refused. Work waits for ten seconds at most: what is refused came in its bin or just before."""
    total = 0.0
    for load, worth in zip(loads, WORTH, strict=True):
        value = _worth_usd(load, economics, worth)
        mean = float(value.sum() / load.work.sum())
        per_unit = np.divide(value, load.work, out=np.full(len(load), mean), where=load.work > 0)
        refused = np.array(ledgers[f"{single.NAMESPACE}/worth-{worth:g}"].refused)
        total += float(value.sum() - (refused * per_unit).sum())
    return total


def _optimum(loads: Sequence[Load], economics: Economics, usd: float, scope: str) -> float:
    """The fractional knapsack of all bins."""
    rent = economics.usd_per_replica_hour * BIN_SECONDS / 3600
    costs, values = [], []
    for load, worth in zip(loads, WORTH, strict=True):
        outside = _outside_usd(load, economics)
        costs.append(outside if scope == "External" else np.minimum(outside, load.work * rent))
        values.append(_worth_usd(load, economics, worth))
    cost, value = np.concatenate(costs), np.concatenate(values)
    cost, value = cost[cost > 0], value[cost > 0]
    order = np.argsort(-value / cost, kind="stable")
    before = np.cumsum(cost[order]) - cost[order]
    share = np.clip((usd - before) / cost[order], 0.0, 1.0)
    return float((share * value[order]).sum())


def _days_with_money(ledgers: Mapping[str, Ledger], budget: VirtualBudget, scope: str) -> float:
    spent = np.zeros(BINS)
    for ledger in ledgers.values():
        spent += np.array(ledger.external_usd)
        if scope == "Total":
            spent += np.array(ledger.gpu_usd) + np.array(ledger.stop_usd)
    gone = np.nonzero(np.cumsum(spent) >= 0.999 * budget.usd)[0]
    return (float(gone[0]) if len(gone) else BINS) / 8640
