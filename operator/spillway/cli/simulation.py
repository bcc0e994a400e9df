"""What `spillway simulate` does: play what is asked for, and tell what it cost."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from spillway.cli.latency import slowest, words
from spillway.cli.simulate import Wish
from spillway.observe.prometheus import MetricsUnavailable
from spillway.simulate.bounds import SLICE_BINS, lower_bound_by_day
from spillway.simulate.economics import BIN_SECONDS
from spillway.simulate.load import scale
from spillway.simulate.presets import PRESETS
from spillway.simulate.replay import replay, save
from spillway.simulate.report import PolicyCost, ReportData, ReportDecision, ReportPackagesMissing, importable, write
from spillway.simulate.reported import ReportLatency
from spillway.simulate.requests.draw import single_requests
from spillway.simulate.requests.latency import by_minute, latency
from spillway.simulate.single import Answers, Controls, Trouble
from spillway.simulate.study import HINDSIGHT, Case, Run, UnknownPolicy, known, run_all
from spillway.simulate.synthetic import Synthetic, generate
from spillway.simulate.told import document
from spillway.simulate.traces import BadTrace, Trace, read
from spillway.simulate.world import Faults

COMPARED = (
    "hpa-tuned",
    "hpa",
    "keda",
    "kpa",
    "apa-documented",
    "dynamo",
    "wva",
    "fixed-best",
    "all-external",
    "clairvoyant",
)
WORKERS = 2
STDOUT = Path("-")


def main(wish: Wish) -> int:
    """Play and print; the exit status."""
    try:
        known(wish.policy)
        demand = demand_of(wish)
        for begin, end in wish.slice.spans:
            demand = demand.part(begin, end)
        case = case_of(wish, demand)
        if wish.report is not None:
            importable()  # before minutes of work, not after them
    except (BadTrace, UnknownPolicy, MetricsUnavailable, ReportPackagesMissing) as error:
        Console(stderr=True, highlight=False, markup=False).print(f"spillway simulate: {error}", soft_wrap=True)
        return 2
    compared = wish.compare if wish.compare is not None else wish.json_out is None
    width = None if sys.stdout.isatty() else 140
    console = Console(highlight=False, stderr=wish.json_out == STDOUT, width=width)
    console.print(heading(case))
    if demand.missing_bins:
        share = demand.missing_bins / len(demand)
        console.print(f"{share:.1%} of the time nothing was measured; it counts as no demand.")
    if wish.save_demand is not None:
        save(demand, wish.save_demand)
        console.print(f"Demand: {wish.save_demand}")
    found = play(case, wish.policy, compared, compared or wish.report is not None)
    console.print(table(found, wish.policy, case.load.score_from * BIN_SECONDS))
    for line in notes(found, case, wish.policy):
        console.print(line, soft_wrap=True)
    if wish.json_out is not None:
        text = json.dumps(document(case, found.runs[wish.policy], found.lower_bound_usd))
        if wish.json_out == STDOUT:
            sys.stdout.write(text + "\n")
        else:
            wish.json_out.write_text(text)
            console.print(f"Bin by bin: {wish.json_out}")
    if wish.report is not None:
        write(report_data(case, found, wish.policy), wish.report)
        console.print(f"Report: {wish.report}")
    return 0


def demand_of(wish: Wish) -> Trace:
    """What arrives: from a file, a running cluster, or made up. Raises BadTrace and MetricsUnavailable."""
    if wish.trace is not None:
        return read(wish.trace, keep_arrivals=wish.requests)
    if wish.prometheus is not None:
        return replay(wish.prometheus, wish.deployment or "", wish.range, wish.step, datetime.now(UTC))
    return generate(Synthetic(), wish.seed)


def case_of(wish: Wish, demand: Trace) -> Case:
    """The load and the numbers that are asked for. Raises BadTrace and UnknownPolicy."""
    if wish.prices not in PRESETS:
        raise UnknownPolicy(f"no --prices {wish.prices!r}: there are {', '.join(PRESETS)}")
    given = {
        "usd_per_replica_hour": wish.price_replica,
        "usd_per_million_input": wish.price_in,
        "usd_per_million_output": wish.price_out,
        "prefill_tokens_per_second": wish.prefill,
        "decode_tokens_per_second": wish.decode,
        "delay_seconds": wish.delay,
        "minimum_billing_seconds": wish.min_billing,
        "drain_seconds": wish.drain,
        "queue_seconds": wish.slo_queue,
    }
    economics = replace(PRESETS[wish.prices](), **{name: value for name, value in given.items() if value is not None})
    faults = Faults(wish.delay_cv, wish.start_failures, wish.metrics_delay, wish.metrics_lost.spans)
    requests = single_requests(demand, economics, wish.fleet, wish.seed) if wish.requests else None
    if requests is not None and wish.policy == "clairvoyant":
        raise UnknownPolicy("policy 'clairvoyant' is a schedule for a fluid: leave out --requests, or choose another")
    return Case(
        scale(demand, economics, wish.fleet, wish.seed) if requests is None else scale(requests, economics),
        economics,
        wish.seed,
        Trouble(faults, wish.stock_out.spans, wish.outage.spans, wish.quota, wish.capacity_error),
        Controls(wish.tick, wish.metrics_window, usd_value_per_request=wish.value),
        Answers(wish.outside_first_token, wish.outside_speed, wish.outside_slots),
        requests,
    )


@dataclass(frozen=True, slots=True)
class Found:
    """What was played: runs by policy, the bound, and the cost with a cold start of half as long."""

    runs: dict[str, Run]
    bound_by_day: tuple[float, ...]
    halved: Run | None = None

    @property
    def lower_bound_usd(self) -> float:
        return sum(self.bound_by_day)


HALVED = "cold start halved"


def play(case: Case, policy: str, compared: bool, halve: bool) -> Found:
    """All runs that are asked for, with a bar."""
    others = [p for p in COMPARED if p != policy and not (case.requests and p == "clairvoyant")]
    names = [policy, *(others if compared else ())]
    jobs = [(name, case, name) for name in names]
    if halve and policy not in HINDSIGHT:
        shorter = replace(case.economics, delay_seconds=case.economics.delay_seconds / 2)
        jobs.insert(1, (HALVED, replace(case, economics=shorter), policy))
    with Progress(
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task("lower bound", total=len(jobs) + 1)
        bound = lower_bound_by_day(case.load, case.economics, workers=WORKERS)
        bar.update(task, advance=1, description=f"{policy} and {len(jobs) - 1} others" if len(jobs) > 1 else policy)
        alone = bar.add_task("bins", total=len(case.load)) if len(jobs) == 1 else None

        def heard(bins: int) -> None:
            if alone is not None:
                bar.update(alone, completed=bins)

        runs = run_all(jobs, WORKERS, lambda name, _: bar.update(task, advance=1, description=f"{name} is done"), heard)
    halved = runs.pop(HALVED, None)
    return Found(runs, tuple(bound), halved)


def heading(case: Case) -> str:
    """The case in two lines."""
    load, economics = case.load, case.economics
    external = float((load.spill_usd * load.work).sum()) / float(load.work.sum()) * 3600 / BIN_SECONDS
    singly = f" of {int(case.requests.requests.sum()):,} requests" if case.requests is not None else ""
    return (
        f"{load.name}: {lasting(len(load))}{singly}, {float(load.work.mean()):.1f} replicas of work on average, "
        f"{float(load.work.max()):.1f} at most; counted after {lasting(load.score_from)}.\n"
        f"A replica costs ${economics.usd_per_replica_hour:.2f}/h and starts in {economics.delay_seconds:.0f} s; "
        f"its work costs ${external:.2f}/h outside ({external / economics.usd_per_replica_hour:.1f} times)."
    )


def lasting(bins: int) -> str:
    """`7.0 days`, `24 h`, `6 min`."""
    seconds = bins * BIN_SECONDS
    if seconds > 86_400:
        return f"{seconds / 86_400:.1f} days"
    return f"{seconds / 3600:.3g} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def table(found: Found, policy: str, since: float = 0.0) -> Table:
    """Cost of each run, the cheapest first; those that know the future are marked. Of single requests also the 95th
    percentiles of those that arrived `since` then (seconds)."""
    made = Table(box=None, pad_edge=False)
    singly = any(run.records is not None for run in found.runs.values())
    headings = (
        "POLICY",
        "COST",
        "× BOUND",
        f"VS {policy.upper()}",
        "GPUS",
        "OUTSIDE",
        "IN TIME",
        "STARTS/DAY",
        "REPLICAS",
        "SPILLED",
        *(("TTFT P95", "END P95") if singly else ()),
    )
    for text in headings:
        made.add_column(text, justify="left" if text == "POLICY" else "right", no_wrap=True)
    mine = found.runs[policy].score.usd
    for run in sorted(found.runs.values(), key=lambda r: r.score.usd):
        one = run.score
        made.add_row(
            f"{run.policy}{'*' if run.policy in HINDSIGHT else ''}",
            f"${one.usd:,.0f}",
            f"{one.usd / found.lower_bound_usd:.3f}" if found.lower_bound_usd > 0 else "-",
            "" if run.policy == policy else f"{one.usd / mine - 1:+.1%}" if mine > 0 else "-",
            f"${one.gpu_usd:,.0f}",
            f"${one.external_usd:,.0f}",
            f"{one.slo:.2%}",
            f"{one.starts_per_day:.1f}",
            f"{one.mean_replicas:.1f}",
            f"{one.spill_share:.1%}",
            *(slowest(latency(run.records, since)) if run.records is not None else ()),
            style="bold" if run.policy == policy else None,
        )
    made.add_row("lower bound*", f"${found.lower_bound_usd:,.0f}", "1.000", style="dim")
    made.caption = "* knows the whole trace beforehand"
    made.caption_justify = "left"
    return made


def notes(found: Found, case: Case, policy: str) -> list[str]:
    """What is worth saying beside the table."""
    mine, said = found.runs[policy].score, []
    if (records := found.runs[policy].records) is not None:
        said.extend(words(latency(records, case.load.score_from * BIN_SECONDS)))
    if found.halved is not None and mine.usd > 0:
        saved, whole = mine.usd - found.halved.score.usd, case.economics.delay_seconds
        said.append(
            f"A cold start of {whole / 2:.0f} s instead of {whole:.0f} s would {'save' if saved >= 0 else 'cost'} "
            f"${abs(saved):,.0f} ({abs(saved) / mine.usd:.1%})."
        )
    if mine.slo < 0.99:
        said.append(
            f"Only {mine.slo:.2%} of the work was served in time: replicas and providers could not take the rest"
            f"{'' if case.requests is None else ', or began it later than --slo-queue'}."
        )
    return said


def report_data(case: Case, found: Found, policy: str) -> ReportData:
    """The page's content."""
    load, mine = case.load, found.runs[policy]
    ordered = [policy, *(name for name in found.runs if name != policy)]
    saved = None if found.halved is None else mine.score.usd - found.halved.score.usd
    return ReportData(
        title=load.name,
        bin_seconds=BIN_SECONDS,
        began=None,
        score_from=load.score_from,
        queue_seconds=case.economics.queue_seconds,
        demand=load.work,
        asked=np.array(mine.ledger.asked, dtype=float),
        ready=np.array(mine.ledger.ready, dtype=float),
        served=np.array(mine.ledger.served),
        spilled=np.array(mine.ledger.spilled),
        policies=[costs(case, found.runs[name]) for name in ordered],
        lower_bound_usd=found.lower_bound_usd,
        regret_usd={name: regret_by_day(found.runs[name], load.score_from, found.bound_by_day) for name in ordered},
        decisions=[
            ReportDecision(
                told.bin * BIN_SECONDS, told.decision.code, told.decision.message, told.decision.usd_per_hour
            )
            for told in mine.told
        ],
        half_start_saves_usd=saved,
        notes=heading(case).splitlines(),
        latency=report_latency(case, found, policy),
    )


def report_latency(case: Case, found: Found, policy: str) -> ReportLatency | None:
    """Of the policy first, then of the others."""
    records = found.runs[policy].records
    if records is None:
        return None
    begin = case.load.score_from * BIN_SECONDS
    runs = [found.runs[policy], *(run for name, run in found.runs.items() if name != policy)]
    policies = {run.policy: latency(run.records, begin) for run in runs if run.records is not None}
    return ReportLatency(policies, by_minute(records, len(case.load) * BIN_SECONDS))


def costs(case: Case, run: Run) -> PolicyCost:
    """Where the dollars of a run went."""
    ledger, rent, part = run.ledger, case.economics.usd_per_replica_bin, slice(case.load.score_from, None)
    served, ready, asked = sum(ledger.served[part]), sum(ledger.ready[part]), sum(ledger.asked[part])
    return PolicyCost(
        run.policy,
        busy_usd=served * rent,
        idle_usd=max(0.0, ready - served) * rent,
        start_usd=(asked - ready) * rent + sum(ledger.stop_usd[part]),
        external_usd=run.score.external_usd,
        slo=run.score.slo,
        spill=run.score.spill_share,
        starts_per_day=run.score.starts_per_day,
    )


def regret_by_day(run: Run, score_from: int, bound_by_day: tuple[float, ...]) -> list[float]:
    """Cost above the lower bound of each day."""
    ledger = run.ledger
    bins = [g + s + e for g, s, e in zip(ledger.gpu_usd, ledger.stop_usd, ledger.external_usd, strict=True)]
    days = [sum(bins[at : at + SLICE_BINS]) for at in range(score_from, len(bins), SLICE_BINS)]
    return [cost - bound for cost, bound in zip(days, bound_by_day, strict=True)]
