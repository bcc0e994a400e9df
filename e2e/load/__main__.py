"""`python -m e2e.load --gateway URL --host glm-5.chat --trace azure23_conv --speed 4 --seconds 60 [--step 5@30]`."""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass

from e2e.load.generator import LoadRun, RefusedTarget, Target
from e2e.load.schedule import Schedule
from e2e.load.summary import summarize
from e2e.load.traces import load

LIVE_SECONDS = 1.0
RECENT = 300


@dataclass(frozen=True)
class Step:
    factor: float
    at_seconds: float
    for_seconds: float | None


def step(text: str) -> Step:
    """`5@30` is five times the load from second 30 on, `5@30+20` for twenty seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)@(\d+(?:\.\d+)?)(?:\+(\d+(?:\.\d+)?))?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not FACTOR@SECOND or FACTOR@SECOND+SECONDS, as in 5@30+20")
    return Step(float(match[1]), float(match[2]), float(match[3]) if match[3] else None)


def arguments() -> argparse.Namespace:
    line = argparse.ArgumentParser(prog="python -m e2e.load", description="Replay a request trace against gateways.")
    line.add_argument("--gateway", action="append", required=True, help="base URL on a loopback address; repeatable")
    line.add_argument("--host", required=True, help="Host header: <deployment>.<namespace>")
    line.add_argument("--model", help="model in the request body (default: the Host's first label)")
    line.add_argument("--trace", default="azure23_conv")
    line.add_argument("--speed", type=float, default=1.0, help="how many times faster than recorded")
    line.add_argument("--scale", type=float, default=1.0, help="share (or multiple) of the recorded requests")
    line.add_argument("--start", type=float, default=0.0, help="seconds into the trace")
    line.add_argument("--seconds", type=float, default=60.0)
    line.add_argument("--requests", type=int, help="send at most this many")
    line.add_argument("--step", type=step, action="append", default=[], help="FACTOR@SECOND[+SECONDS]; repeatable")
    line.add_argument("--streaming", type=float, default=0.7, help="share of streamed requests")
    line.add_argument("--max-tokens", type=int)
    line.add_argument("--seed", type=int, default=0)
    return line.parse_args()


async def replay(run: LoadRun) -> None:
    """Run with a line that shows how it goes; Ctrl-C stops sending."""
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, run.stop)
    live = asyncio.create_task(_show(run))
    try:
        await run.run()
    finally:
        live.cancel()
        with suppress(asyncio.CancelledError):
            await live


async def _show(run: LoadRun) -> None:
    interactive = sys.stdout.isatty()
    while True:
        await asyncio.sleep(LIVE_SECONDS)
        recent = summarize(run.records[-RECENT:])
        failed = sum(record.failed for record in run.records)
        text = (
            f"{run.elapsed():5.0f} s · {run.sent} sent · {run.in_flight} in flight · {failed} failed · "
            f"{recent.spilled_share:.0%} spilled · p95 {recent.seconds_p95 or 0:.1f} s"
        )
        print(f"\r\x1b[2K{text}" if interactive else text, end="" if interactive else "\n", flush=True)


def main() -> int:
    options = arguments()
    try:
        target = Target(tuple(options.gateway), options.host, options.model or options.host.split(".")[0])
        trace = load(options.trace, seed=options.seed)
        schedule = Schedule.of(
            trace,
            seconds=options.seconds,
            speed=options.speed,
            scale=options.scale,
            start=options.start,
            seed=options.seed,
        )
    except (RefusedTarget, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for each in options.step:
        schedule = schedule.step(each.factor, each.at_seconds, each.for_seconds)
    if options.requests is not None:
        schedule = schedule.first(options.requests)
    print(f"{schedule.origin}: {len(schedule.arrivals)} requests in {options.seconds:g} s", flush=True)
    run = LoadRun(target, schedule, options.streaming, options.seed, max_tokens=options.max_tokens)
    asyncio.run(replay(run))
    print(("\n" if sys.stdout.isatty() else "") + run.summary().line())
    return 1 if run.summary().failed else 0


if __name__ == "__main__":
    sys.exit(main())
