"""`spillway replay`: recorded decisions, made again by this version's `decide.plan`, bit by bit the same or not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from spillway.controller.recording import Record, Trouble, read
from spillway.decide import encode, plan

SHOWN = 8  # differences of one plan
PROGRESS = 200  # records between two lines of progress


@dataclass(frozen=True, slots=True)
class Difference:
    """One value of a plan: where, what was recorded, what comes out now (None: it is not there)."""

    path: str
    recorded: Any
    now: Any

    def words(self) -> str:
        return f"{self.path}: recorded {_short(self.recorded)}, now {_short(self.now)}"


@dataclass
class Outcome:
    """What a replay found."""

    equal: int = 0
    different: int = 0
    first_time: float | None = None  # of the first plan that differs
    first: list[Difference] = field(default_factory=list)  # its differences
    troubles: list[Trouble] = field(default_factory=list)
    begun: float | None = None  # time of the first record, and of the last
    ended: float | None = None

    @property
    def good(self) -> bool:
        return not self.different and not any(t.broken for t in self.troubles)


def show(directory: Path, as_json: bool, console: Console, errors: Console) -> int:
    """Replay all of a directory; returns the exit status: 1 where a plan differs or cannot be read, 2 for nothing."""
    try:
        outcome = replay(directory, None if as_json else errors)
    except OSError as error:
        errors.print(f"spillway replay: {directory} cannot be read: {error.strerror}")
        return 2
    if as_json:
        print(json.dumps(as_object(outcome), indent=2))
    else:
        for line in told(outcome):
            console.print(line, soft_wrap=True, markup=False)
    if not outcome.equal + outcome.different and not outcome.troubles:
        errors.print(f"spillway replay: {directory} has no recordings: was the operator run with --record?")
        return 2
    return 0 if outcome.good else 1


def replay(directory: Path, progress: Console | None = None) -> Outcome:
    """Make every recorded decision again."""
    outcome = Outcome()
    for found in read(directory):
        if isinstance(found, Trouble):
            outcome.troubles.append(found)
            continue
        _compare(found, outcome)
        done = outcome.equal + outcome.different
        if progress is not None and done % PROGRESS == 0:
            progress.print(f"{done:,} plans, to {clock(found.plan.time)}, {outcome.different:,} differ", style="dim")
    return outcome


def _compare(record: Record, outcome: Outcome) -> None:
    outcome.begun = record.snapshot.time if outcome.begun is None else outcome.begun
    outcome.ended = record.snapshot.time
    again, _ = plan(record.snapshot, record.memory)
    recorded, now = encode(record.plan), encode(again)
    if recorded == now:
        outcome.equal += 1
        return
    outcome.different += 1
    if outcome.first_time is None:
        outcome.first_time = record.snapshot.time
        outcome.first = list(differences(json.loads(recorded), json.loads(now)))


def differences(recorded: Any, now: Any, path: str = "") -> Iterator[Difference]:
    """Where two plans differ, leaf by leaf. Items of lists are named by their `key` or `name`, if they have one."""
    if isinstance(recorded, dict) and isinstance(now, dict):
        for key in [*recorded, *(k for k in now if k not in recorded)]:
            yield from differences(recorded.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif isinstance(recorded, list) and isinstance(now, list):
        for n in range(max(len(recorded), len(now))):
            old, new = (items[n] if n < len(items) else None for items in (recorded, now))
            one = old if old is not None else new
            name = (one.get("key") or one.get("name")) if isinstance(one, dict) else None
            yield from differences(old, new, f"{path}[{name or n}]")
    elif recorded != now or type(recorded) is not type(now):
        yield Difference(path, recorded, now)


def told(outcome: Outcome) -> Iterator[str]:
    """The summary in words."""
    for trouble in outcome.troubles:
        yield f"{trouble.file}: {trouble.words}"
    total = outcome.equal + outcome.different
    if outcome.begun is not None and outcome.ended is not None:
        span = f", {clock(outcome.begun)} to {clock(outcome.ended)}"
        if not outcome.different:
            yield f"{total:,} plan{'s' if total != 1 else ''} equal{span}"
        else:
            yield f"{outcome.different:,} of {total:,} plans differ{span}"
    if outcome.first_time is not None:
        yield f"the first that differs is of {clock(outcome.first_time)}:"
        for difference in outcome.first[:SHOWN]:
            yield f"  {difference.words()}"
        if len(outcome.first) > SHOWN:
            yield f"  and {len(outcome.first) - SHOWN} more"


def as_object(outcome: Outcome) -> dict[str, Any]:
    return {
        "equal": outcome.equal,
        "different": outcome.different,
        "from": None if outcome.begun is None else clock(outcome.begun),
        "to": None if outcome.ended is None else clock(outcome.ended),
        "firstDifferent": None if outcome.first_time is None else clock(outcome.first_time),
        "differences": [{"path": d.path, "recorded": d.recorded, "now": d.now} for d in outcome.first],
        "troubles": [{"file": t.file, "words": t.words, "broken": t.broken} for t in outcome.troubles],
    }


def clock(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else f"{text[:157]}…"
