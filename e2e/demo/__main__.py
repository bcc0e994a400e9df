"""`python -m e2e.demo`: play, record, judge, report. Exit status 1: the story did not hold; 130: interrupted."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from openai import OpenAIError

from e2e.cluster.cluster import run_directory
from e2e.cluster.settings import REPOSITORY
from e2e.demo import scene
from e2e.demo.recording import Recording
from e2e.demo.report import write
from e2e.demo.story import Story
from e2e.demo.table import shown
from e2e.demo.verdict import judge
from e2e.demo.watcher import Watcher
from e2e.stage import Unmet

OUTPUT = REPOSITORY / "build" / "demo"


def main() -> int:
    line = argparse.ArgumentParser(prog="python -m e2e.demo", description="Play the demo, or report a recorded one.")
    line.add_argument("--output", type=Path, default=OUTPUT, help="where recording and report go")
    line.add_argument("--replay", type=Path, help="judge and report this recording; no cluster is started")
    options = line.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    if options.replay:
        return conclude(Recording.load(options.replay), options.output, "")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        recording, trouble = perform()
    except KeyboardInterrupt:
        print("\ninterrupted: the cluster is gone", file=sys.stderr)
        return 130
    except (Unmet, RuntimeError) as error:
        print(f"the stage could not be set: {error}", file=sys.stderr)
        return 1
    recording.save(options.output / "recording.json")
    return conclude(recording, options.output, trouble)


def perform() -> tuple[Recording, str]:
    """The recording, and what ended the story early (empty: nothing did)."""
    recording, trouble = Recording(), ""
    began = time.monotonic()
    with scene.scene(run_directory("demo"), print) as stage:
        recording.facts["cluster_seconds"] = round(time.monotonic() - began, 1)
        with Watcher(stage, recording) as watcher, shown(watcher):
            try:
                Story(stage, watcher, watcher.raise_error).play()
            except (Unmet, RuntimeError, OpenAIError) as error:
                trouble = str(error)
        recording.facts["skipped_samples"] = float(watcher.skipped)
    return recording, trouble


def conclude(recording: Recording, output: Path, trouble: str) -> int:
    """Judge, report, and print the figures."""
    verdicts = judge(recording)
    path = write(recording, verdicts, output / "report.html")
    print()
    for verdict in verdicts:
        print(f"{verdict.chapter} {verdict.title}: {'held' if verdict.held else 'NOT HELD'}")
        for check in verdict.checks:
            print(f"   {'✓' if check.held else '✗'} {check.text}: {check.figure}")
    reasons = ([f"the story ended early: {trouble}"] if trouble else []) + [r for v in verdicts for r in v.reasons]
    print(f"\n{recording.arrivals}; {len(recording.answers)} requests, {recording.seconds:.0f} s")
    print(f"report: {path}")
    if reasons:
        print("\nThe story did not hold:\n  " + "\n  ".join(reasons), file=sys.stderr)
    return 1 if reasons else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
