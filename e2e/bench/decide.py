"""`make bench-decide`: what decisions cost on public traces and how long they take. JSON in build/bench/decide.json.

Ratios are of one run, seeds are fixed; only the times depend on the machine. `--parts ratios,ticks` plays some of it,
`--fleets 8` a part of the ratios (all four fleets take the better part of an hour on two cores).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from e2e.bench import budgets, problems, ratios, ticks
from e2e.bench.ratios import BASELINES, FLEETS, PRICES, TRACES, Outcome, Point
from e2e.load.traces import recorded_in
from spillway.simulate.study import SPILLWAY
from spillway.simulate.synthetic import PATTERNS

OUT = Path("build/bench/decide.json")
PARTS = ("ratios", "patterns", "problems", "budgets", "ticks", "mix")
PATTERN_BINS = 4 * 8640
PATTERN_FLEET = 4.0


def main(arguments: Sequence[str] | None = None) -> int:
    wanted = parser().parse_args(arguments)
    parts = wanted.parts.split(",")
    found: dict[str, Any] = json.loads(wanted.out.read_text()) if wanted.out.exists() else {}
    if "ratios" in parts:
        fleets = [float(f) for f in wanted.fleets.split(",")]
        outcomes = play(public(fleets, wanted.rules.split(",")), "public traces")
        found["ratios"] = [o.as_json() for o in outcomes]
        print("\n".join([*ratios.tables(outcomes), *ratios.paired(outcomes, SPILLWAY)]))
    if "patterns" in parts:
        outcomes = play(adversarial(), "patterns")
        found["patterns"] = [o.as_json() for o in outcomes]
        print("\n".join([*ratios.tables(outcomes), *ratios.paired(outcomes, "hex")]))
    if "problems" in parts:
        found["problems"] = []
        for finding in problems.findings():
            found["problems"].append(finding.as_json())
            print(f"problems: {finding.as_json()}", file=sys.stderr, flush=True)
        show("the problem changed", found["problems"])
    if "budgets" in parts:
        found["budgets"] = []
        for one in budgets.bought():
            found["budgets"].append(one.as_json())
            print(f"budgets: {one.as_json()}", file=sys.stderr, flush=True)
        show("a month's budget", found["budgets"])
    if "ticks" in parts:
        found["ticks"] = [ticks.tick_seconds(n) for n in (1, 100, 1000)]
        show("tick", found["ticks"])
    if "mix" in parts:
        found["mix"] = [ticks.exact_against_greedy(n) for n in (3, 10, 30, 100)]
        show("exact mix against greedy", found["mix"])
    wanted.out.parent.mkdir(parents=True, exist_ok=True)
    wanted.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"\n{wanted.out}")
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="make bench-decide", description=__doc__)
    made.add_argument("--parts", default=",".join(PARTS), help=f"default: {','.join(PARTS)}")
    made.add_argument("--fleets", default=",".join(f"{f:g}" for f in FLEETS), help="mean replicas of the public traces")
    made.add_argument("--rules", default="lcp,plcp", help="rules beside Spillway's own (lcp, plcp, hex)")
    made.add_argument("--out", type=Path, default=OUT)
    return made


def public(fleets: Sequence[float], rules: Sequence[str]) -> list[tuple[Point, Sequence[str]]]:
    """All traces at all prices; rules beside Spillway's own at all fleets but the largest, where they take long."""
    policies = (SPILLWAY, *filter(None, rules), *BASELINES)
    return [(Point(t, p, f), policies) for f in fleets for p in PRICES for t in TRACES]


def adversarial() -> list[tuple[Point, Sequence[str]]]:
    """Demand that is drawn to hurt: bursts of about a cold start, redrawn levels, clocks, ramps, launches."""
    return [
        (Point(f"pattern:{name}", prices, PATTERN_FLEET, PATTERN_BINS), ("lcp", "plcp", "hex", "hpa-tuned"))
        for prices in ("A", "C")
        for name in PATTERNS
    ]


def play(work: list[tuple[Point, Sequence[str]]], what: str) -> list[Outcome]:
    """With a line for each case as it ends."""
    began = time.monotonic()

    def told(point: Point, done: int, of: int) -> None:
        left = (time.monotonic() - began) / done * (of - done)
        line = f"{what}: {done} of {of} ({point.source}, prices {point.prices}, fleet {point.fleet:g})"
        print(f"{line}, about {left / 60:.0f} min left", file=sys.stderr, flush=True)

    return ratios.measure(work, recorded_in(), told)


def show(title: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n### {title}\n\n| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        print(f"| {' | '.join(str(v) for v in row.values())} |")


if __name__ == "__main__":
    sys.exit(main())
