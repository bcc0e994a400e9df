"""Recorded decisions come back and replay to the same; a crash, a full disk and another version are told."""

from __future__ import annotations

import errno
import gzip
import json
import logging
import queue
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spillway.cli.main import app
from spillway.cli.replay import replay
from spillway.controller import recording
from spillway.controller.recording import Record, Recorder, Trouble, files, read
from spillway.decide import Memory, Plan, Snapshot, plan
from tests.unit.decide.world import World

START = 1_764_000_000.0


def ticks(number: int) -> list[tuple[Snapshot, Memory, Plan]]:
    """Decisions of a world in which things happen."""
    world = World(now=START, work=lambda t: 0.5 + 3.0 * (t > START + 300))
    found = []
    for _ in range(number):
        snapshot, before = world.snapshot(), world.memory
        planned, world.memory = plan(snapshot, before)
        world.follow(planned)
        world.now += world.tick
        found.append((snapshot, before, planned))
    return found


def recorded(directory: Path, steps: list[tuple[Snapshot, Memory, Plan]], megabytes: float = 100.0) -> None:
    recorder = Recorder(directory, "pod/1", round(megabytes * 1e6))
    recorder.start()
    for step in steps:
        recorder._queue.put(recording.Record(recording.FORMAT, *step))  # as `take`, but waits: a test leaves none out
    recorder.stop(60.0)


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, ["replay", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_what_is_recorded_comes_back_and_replays_to_the_same(tmp_path: Path) -> None:
    steps = ticks(400)  # more than an hour
    recorded(tmp_path, steps)
    assert len(files(tmp_path)) == 2
    assert [(r.snapshot, r.memory, r.plan) for r in read(tmp_path) if isinstance(r, Record)] == steps
    status, text, errors = run(str(tmp_path))
    assert (status, text) == (0, "400 plans equal, 2025-11-24 16:00:00Z to 2025-11-24 17:06:30Z\n")
    assert "200 plans, to 2025-11-24 16:33:10Z, 0 differ" in errors


def test_a_difference_is_found_and_told(tmp_path: Path) -> None:
    steps = ticks(60)
    snapshot, before, planned = steps[40]
    (one,) = planned.deployments
    wrong = replace(planned, deployments=(replace(one, desired={"b200-nvfp4-vllm": 7}, gate=1),))
    steps[40] = (snapshot, before, wrong)
    recorded(tmp_path, steps)
    status, text, _ = run(str(tmp_path))
    assert status == 1
    assert "1 of 60 plans differ" in text
    assert "the first that differs is of 2025-11-24 16:06:40Z:" in text
    assert "deployments[chat/glm-5].desired.b200-nvfp4-vllm: recorded 7, now " in text
    assert "deployments[chat/glm-5].gate: recorded 1, now " in text
    status, text, _ = run(str(tmp_path), "--json")
    found = json.loads(text)
    assert (status, found["equal"], found["different"]) == (1, 59, 1)
    assert found["firstDifferent"] == "2025-11-24 16:06:40Z"


@pytest.mark.parametrize("cut", [1, 20, 300])
def test_a_crash_costs_the_last_record_at_most(tmp_path: Path, cut: int) -> None:
    recorded(tmp_path, ticks(30))
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[: -cut - 10])  # the end of the stream is 10 bytes: a killed process wrote none
    status, text, _ = run(str(tmp_path))
    assert status == 0
    assert ("its last record is cut off" in text) or ("it has no end" in text)
    assert (29 if cut > 1 else 30) == replay(tmp_path).equal


def test_a_killed_process_that_was_between_two_records_lost_nothing(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "pod", 10**9)
    for step in ticks(5):
        recorder._write(Record(recording.FORMAT, *step))
    assert [type(found) for found in read(tmp_path)] == [*[Record] * 5, Trouble]
    outcome = replay(tmp_path)
    assert outcome.good
    assert "still writes it, or was killed" in outcome.troubles[0].words


def test_two_operators_of_one_name_share_a_file(tmp_path: Path) -> None:
    recorded(tmp_path, ticks(3))
    recorded(tmp_path, ticks(3))
    assert len(files(tmp_path)) == 1
    assert replay(tmp_path).equal == 6


def rewrite(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in change(lines)).encode()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda lines: [line.replace('"format":1', '"format":2', 1) for line in lines],
            "line 1 is a record of format 2, this spillway reads format 1: replay it with the version",
        ),
        (lambda lines: ["hello", *lines], "line 1 is no record"),
        (lambda lines: ["[]", *lines], "line 1 is a record of format None"),
        (lambda lines: [lines[0].replace('"time":', '"time":"x","then":', 1), *lines], "line 1 cannot be read"),
    ],
)
def test_what_is_no_record_of_this_version_is_told(
    tmp_path: Path, change: Callable[[list[str]], list[str]], words: str
) -> None:
    recorded(tmp_path, ticks(3))
    rewrite(files(tmp_path)[0], change)
    status, text, _ = run(str(tmp_path))
    assert status == 1
    assert words in text


def test_a_damaged_file_is_told_and_the_next_one_read(tmp_path: Path) -> None:
    recorded(tmp_path, ticks(400))
    first, second = files(tmp_path)
    first.write_bytes(first.read_bytes()[:2000] + random.Random(1).randbytes(5000))
    outcome = replay(tmp_path)
    assert outcome.equal > 30
    assert not outcome.good
    assert ["damaged" in t.words for t in outcome.troubles] == [True]
    assert second.exists()


def test_nothing_to_replay_is_said(tmp_path: Path) -> None:
    assert run(str(tmp_path))[0] == 2
    status, _, errors = run(str(tmp_path / "none"))
    assert status == 2
    assert "cannot be read: No such file or directory" in errors
    (tmp_path / "20261126T190000Z-pod.jsonl.gz").touch()
    assert next(t.words for t in read(tmp_path) if isinstance(t, Trouble)).startswith("it is empty")


def test_the_oldest_files_go(tmp_path: Path) -> None:
    steps = [(replace(s, time=START + 3600 * n), m, p) for n, (s, m, p) in enumerate(ticks(6))]
    (tmp_path / "notes.txt").write_text("not ours")
    recorded(tmp_path, steps)
    sizes = [path.stat().st_size for path in files(tmp_path)]
    for path in files(tmp_path):
        path.unlink()
    recorded(tmp_path, steps, megabytes=(sum(sizes[-2:]) + 50) / 1e6)
    assert len(files(tmp_path)) == 2
    assert [r.snapshot.time for r in read(tmp_path) if isinstance(r, Record)] == [START + 14_400, START + 18_000]
    assert (tmp_path / "notes.txt").exists()


def test_a_full_disk_costs_records_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = [4]
    real = recording._File._all

    def write(file: recording._File, data: bytes) -> None:
        if refusals[0]:
            refusals[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, data)

    monkeypatch.setattr(recording._File, "_all", write)
    recorder = Recorder(tmp_path, "pod", 10**9)
    recorder._queue = queue.Queue()
    for step in ticks(30):
        recorder._queue.put(Record(recording.FORMAT, *step))
    recorder._queue.put(None)
    with caplog.at_level(logging.INFO):
        recorder._run()
    assert caplog.text.count("decisions cannot be recorded, tried again each minute") == 1
    assert caplog.text.count("decisions are recorded again") == 1
    assert replay(tmp_path).equal > 10


def test_a_slow_disk_never_blocks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(tmp_path, "pod", 10**9)  # not started: nothing is taken from the queue
    step = ticks(1)[0]
    for _ in range(50):
        recorder.take(*step)
    assert caplog.text.count("the recording does not keep up") == 1
