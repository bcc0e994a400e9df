"""Cost of each policy over the lower bound: public traces, prices and fleet sizes (reference/policy.md §4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from spillway.simulate.bounds import lower_bound
from spillway.simulate.load import Load, scale
from spillway.simulate.presets import PRESETS
from spillway.simulate.study import Case, run
from spillway.simulate.synthetic import pattern
from spillway.simulate.traces import read

TRACES = ("azure24_code", "azure24_conv", "deepseek_day", "sg_large", "sg_mid", "sg_small")
PRICES = ("A", "B", "C")
FLEETS = (1.0, 2.0, 8.0, 30.0)
BASELINES = (
    "hpa",
    "hpa-tuned",
    "keda",
    "kpa",
    "apa",
    "apa-documented",
    "dynamo",
    "wva",
    "fixed-best",
    "all-external",
    "clairvoyant",
)
SEED = 0


@dataclass(frozen=True, slots=True)
class Point:
    """One case: a trace file or `pattern:NAME`, prices, fleet, and what differs from the preset's economics."""

    source: str
    prices: str
    fleet: float
    bins: int = 0  # of a pattern
    delay_seconds: float | None = None

    def case(self, traces: Path) -> Case:
        economics = PRESETS[self.prices]()
        if self.delay_seconds is not None:
            economics = replace(economics, delay_seconds=self.delay_seconds)
        if self.source.startswith("pattern:"):
            trace = pattern(self.source.removeprefix("pattern:"), self.bins, SEED)
        else:
            trace = read(traces / f"{self.source}.csv.gz", keep_arrivals=False)
        load: Load = scale(trace, economics, self.fleet, SEED)
        return Case(load, economics, SEED)


@dataclass(frozen=True, slots=True)
class Outcome:
    point: Point
    policy: str
    usd: float
    bound_usd: float
    starts_per_day: float
    slo: float
    spill_share: float

    @property
    def ratio(self) -> float:
        return self.usd / self.bound_usd

    def as_json(self) -> dict[str, Any]:
        return {
            "source": self.point.source,
            "prices": self.point.prices,
            "fleet": self.point.fleet,
            "policy": self.policy,
            "usd": round(self.usd, 2),
            "ratio": round(self.ratio, 4),
            "starts_per_day": round(self.starts_per_day, 1),
            "slo": round(self.slo, 5),
            "spill_share": round(self.spill_share, 4),
        }


def outcomes_of(point: Point, policies: Sequence[str], traces: Path) -> list[Outcome]:
    """All policies on one case: in one process, so that the trace is read once."""
    case = point.case(traces)
    bound = lower_bound(case.load, case.economics)
    found = []
    for policy in policies:
        score = run(case, policy).score
        found.append(Outcome(point, policy, score.usd, bound, score.starts_per_day, score.slo, score.spill_share))
    return found


def measure(
    work: Iterable[tuple[Point, Sequence[str]]], traces: Path, told: Callable[[Point, int, int], None]
) -> list[Outcome]:
    """Outcomes in the order of `work`, two processes at a time; `told(point, done, of)` as each ends."""
    jobs = list(work)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(outcomes_of, point, policies, traces): i for i, (point, policies) in enumerate(jobs)}
        found: dict[int, list[Outcome]] = {}
        for done, future in enumerate(as_completed(futures), 1):
            found[futures[future]] = future.result()
            told(jobs[futures[future]][0], done, len(jobs))
    return [outcome for i in range(len(jobs)) for outcome in found[i]]


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def tables(outcomes: Sequence[Outcome]) -> list[str]:
    """For each price and fleet: ratios by policy and trace, the geometric mean, the worst, starts a day."""
    lines = []
    for prices in dict.fromkeys(o.point.prices for o in outcomes):
        for fleet in dict.fromkeys(o.point.fleet for o in outcomes):
            chosen = [o for o in outcomes if o.point.prices == prices and o.point.fleet == fleet]
            if not chosen:
                continue
            sources = list(dict.fromkeys(o.point.source for o in chosen))
            lines += [
                f"\n### prices {prices}, fleet {fleet:g}\n",
                "| policy | " + " | ".join(sources) + " | geo-mean | worst | starts/day | in time |",
            ]
            lines.append("|---|" + "---|" * (len(sources) + 4))
            policies = list(dict.fromkeys(o.policy for o in chosen))
            for policy in sorted(policies, key=lambda p: geometric_mean(o.ratio for o in chosen if o.policy == p)):
                mine = {o.point.source: o for o in chosen if o.policy == policy}
                cells = [f"{mine[s].ratio:.3f}" if s in mine else "-" for s in sources]
                ratios = [o.ratio for o in mine.values()]
                starts = sum(o.starts_per_day for o in mine.values()) / len(mine)
                slo = min(o.slo for o in mine.values())
                lines.append(
                    f"| {policy} | {' | '.join(cells)} | {geometric_mean(ratios):.4f} | {max(ratios):.3f} "
                    f"| {starts:.1f} | {slo:.2%} |"
                )
    return lines


def paired(outcomes: Sequence[Outcome], policy: str) -> list[str]:
    """Against each other policy over all cases that both have: how often it costs no more, and by how much."""
    mine = {o.point: o for o in outcomes if o.policy == policy}
    lines = [
        f"\n### {policy} against each, case by case\n",
        "| against | cases | no dearer in | cost | best | worst |",
        "|---|---|---|---|---|---|",
    ]
    for other in dict.fromkeys(o.policy for o in outcomes if o.policy != policy):
        pairs = [mine[o.point].usd / o.usd for o in outcomes if o.policy == other and o.point in mine and o.usd > 0]
        if pairs:
            lines.append(
                f"| {other} | {len(pairs)} | {sum(p <= 1.0005 for p in pairs)} | ×{geometric_mean(pairs):.3f} "
                f"| ×{min(pairs):.3f} | ×{max(pairs):.3f} |"
            )
    return lines
