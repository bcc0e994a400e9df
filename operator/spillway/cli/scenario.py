"""What `spillway simulate --scenario` does: play a world of several deployments, and tell what became of each."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from spillway.cli.latency import slowest
from spillway.simulate.economics import BIN_SECONDS
from spillway.simulate.requests.latency import latency
from spillway.simulate.scenario import BadScenario, read
from spillway.simulate.scenario_world import Stage, build
from spillway.simulate.staged import WorldRun, document, overrun_usd, playable, run, totals
from spillway.simulate.study import UnknownPolicy
from spillway.simulate.world import World

STDOUT = Path("-")
DECISIONS = 15  # the last ones, in words
PERIODS = 10  # of a budget, the last ones
DAY = 86_400.0


def main(
    paths: Sequence[Path], policy: str, compare: bool | None, json_out: Path | None, requests: bool = False
) -> int:
    """Play and print; the exit status. `requests`: one by one."""
    try:
        scenario = read(paths)
        named = scenario.simulation.policies if compare is not False else ()
        policies = [playable(name) for name in dict.fromkeys((policy, *named))]
        stage = build(scenario, single=requests)
    except (BadScenario, UnknownPolicy) as error:
        Console(stderr=True, highlight=False, markup=False).print(f"spillway simulate: {error}", soft_wrap=True)
        return 2
    console = Console(
        highlight=False, markup=False, stderr=json_out == STDOUT, width=None if sys.stdout.isatty() else 140
    )
    console.print(heading(stage), soft_wrap=True)
    for note in stage.notes:
        console.print(f"Note: {note}", soft_wrap=True)
    runs = play(stage, policies)
    mine = runs[0]
    for table in (deployments(mine), pools(mine), *budgets(mine), *comparison(runs)):
        console.print()
        console.print(table)
    console.print()
    for line in decisions(mine):
        console.print(line, soft_wrap=True)
    if json_out is not None:
        text = json.dumps({**document(mine), "policies": {one.policy: totals(one) for one in runs}})
        if json_out == STDOUT:
            sys.stdout.write(text + "\n")
        else:
            json_out.write_text(text)
            console.print(f"Bin by bin: {json_out}")
    return 0


def play(stage: Stage, policies: Sequence[str]) -> list[WorldRun]:
    """Each policy in turn, with a bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        runs = []
        for policy in policies:
            task = bar.add_task(policy, total=stage.world.bins)
            runs.append(run(stage, policy, lambda done, task=task: bar.update(task, completed=done)))  # type: ignore[misc]
        return runs


def heading(stage: Stage) -> str:
    world = stage.world
    days = world.bins * BIN_SECONDS / DAY
    return (
        f"{stage.name}: {days:.3g} days from {moment(world, 0)} UTC; {_count(len(world.deployments), 'deployment')}, "
        f"{_count(len(world.pools), 'pool')}, {_count(len(world.providers), 'provider model')}, "
        f"{_count(len(world.budgets), 'budget')}."
    )


def deployments(one: WorldRun) -> Table:
    singly = ("TTFT P95", "END P95") if one.played.records else ()
    made = _table(
        "DEPLOYMENT", "COST", "GPUS", "OUTSIDE", "IN TIME", "SPILLED", "REFUSED", "STARTS/DAY", "REPLICAS", *singly
    )
    for key, scored in one.scores.items():
        made.add_row(
            key,
            f"${scored.usd:,.0f}",
            f"${scored.gpu_usd:,.0f}",
            f"${scored.external_usd:,.0f}",
            f"{scored.slo:.2%}",
            f"{scored.spill_share:.1%}",
            f"{scored.refused_share:.2%}",
            f"{scored.starts_per_day:.1f}",
            f"{scored.mean_replicas:.1f}",
            *(slowest(latency(one.played.records[key])) if singly else ()),
        )
    return made


def pools(one: WorldRun) -> Table:
    made = _table("POOL", "GPUS", "MEAN USED", "MOST USED", "RESERVED IDLE")
    for use in one.pools:
        idle = f"${use.idle_usd:,.0f}" if use.pool.reserved_gpus else ""
        made.add_row(use.pool.name, f"{use.pool.gpus}", f"{use.mean_gpus:.1f}", f"{use.most_gpus}", idle)
    return made


def budgets(one: WorldRun) -> list[Table]:
    """Of each budget the last periods; none where there is no budget. Begin and end of the run may cut a period."""
    if not one.played.accounts:
        return []
    made = _table("BUDGET", "SCOPE", "FROM (UTC)", "SPENT", "OF", "SHARE", "OVERRUN", left=3)
    for account in one.played.accounts:
        for spent in account.periods[-PERIODS:]:
            over = overrun_usd(spent)
            made.add_row(
                account.budget.key,
                account.budget.scope,
                f"{datetime.fromtimestamp(spent.starts_at, UTC):%Y-%m-%d %H:%M}",
                f"${spent.usd:,.2f}",
                f"${spent.of_usd:,.2f}",
                f"{spent.usd / spent.of_usd:.1%}",
                f"${over:,.2f}" if over else "0",
            )
    return [made]


def comparison(runs: Sequence[WorldRun]) -> list[Table]:
    if len(runs) < 2:
        return []
    mine = totals(runs[0])["cost"]
    made = _table("POLICY", "COST", f"VS {runs[0].policy.upper()}", "GPUS", "OUTSIDE", "IN TIME", "STARTS/DAY")
    for one in sorted(runs, key=lambda r: totals(r)["cost"]):
        summed = totals(one)
        made.add_row(
            one.policy,
            f"${summed['cost']:,.0f}",
            "" if one is runs[0] or mine <= 0 else f"{summed['cost'] / mine - 1:+.1%}",
            f"${summed['gpu']:,.0f}",
            f"${summed['external']:,.0f}",
            f"{summed['slo']:.2%}",
            f"{summed['starts_per_day']:.1f}",
        )
    return [made]


def decisions(one: WorldRun) -> list[str]:
    """The last ones, in words and dollars."""
    last = one.told[-DECISIONS:]
    if not last:
        return []
    world = one.stage.world
    said = [f"The last {_count(len(last), 'decision')} of {len(one.told)}:"]
    return said + [f"{moment(world, t.bin)} {t.key} {t.decision.code}: {t.decision.message}" for t in last]


def moment(world: World, at_bin: int) -> str:
    at = datetime.fromtimestamp(world.begin + at_bin * BIN_SECONDS, UTC)
    return f"{at:%a} {at.day} {at:%b %H:%M:%S}"


def _table(*headings: str, left: int = 1) -> Table:
    made = Table(box=None, pad_edge=False)
    for at, text in enumerate(headings):
        made.add_column(text, justify="left" if at < left else "right", no_wrap=True)
    return made


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
