"""Records each decision with all that it was made from, so that it can be replayed: `spillway operator --record DIR`.

One file for each hour and process, `20261126T190000Z-POD.jsonl.gz`: a line for each plan, flushed as it is written, so
that a crash costs the last line at most. All files together stay below a number of bytes; the oldest go first.
"""

from __future__ import annotations

import json
import logging
import queue
import re
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from spillway.decide import Memory, Plan, Snapshot, decode, encode

log = logging.getLogger(__name__)

FORMAT = 1
SUFFIX = ".jsonl.gz"
NAME = re.compile(r"\d{8}T\d{6}Z-[-._A-Za-z0-9]+\.jsonl\.gz")
WAITING = 8  # plans that may wait for the disk; more are left out, and that is told
RETRY_SECONDS = 60.0  # after the disk refused
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """One plan: the snapshot and memory that it was made from, and what came out."""

    format: int
    snapshot: Snapshot
    memory: Memory
    plan: Plan


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something in a file that is no record of ours, in words. `broken`: it means that records are missing or cannot
    be read; else it is what a crash leaves."""

    file: str
    words: str
    broken: bool = True


class Recorder:
    """Writes in a thread of its own: the loop never waits for the disk, and a full one only costs records."""

    def __init__(self, directory: Path, instance: str, most_bytes: int) -> None:
        self._directory = directory
        self._instance = re.sub(r"[^-._A-Za-z0-9]", "-", instance)
        self._most_bytes = most_bytes
        self._queue: queue.Queue[Record | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._file: _File | None = None
        self._retry_at = float("-inf")  # in the time of the records
        self._left_out = 0
        self._failing = False

    def start(self) -> None:
        self._thread.start()

    def take(self, snapshot: Snapshot, memory: Memory, plan: Plan) -> None:
        """Record it soon, or leave it out if the disk does not keep up. Never blocks, never raises."""
        try:
            self._queue.put_nowait(Record(FORMAT, snapshot, memory, plan))
        except queue.Full:
            if not self._left_out:
                log.warning("the recording does not keep up: plans are left out", extra={"directory": self._where})
            self._left_out += 1
        else:
            if self._left_out:
                log.info("the recording keeps up again", extra={"left_out": self._left_out})
            self._left_out = 0

    def stop(self, seconds: float = 5.0) -> None:
        """Finish what waits, at most that long. Call it off the loop."""
        if not self._thread.is_alive():
            return
        try:
            self._queue.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    @property
    def _where(self) -> str:
        return str(self._directory)

    def _run(self) -> None:
        while (record := self._queue.get()) is not None:
            now = record.snapshot.time
            if now < self._retry_at:
                continue
            try:
                self._write(record)
            except OSError as error:
                self._retry_at = now + RETRY_SECONDS
                self._close(quietly=True)
                if not self._failing:
                    log.warning(
                        "decisions cannot be recorded, tried again each minute",
                        extra={"directory": self._where, "error": str(error)},
                    )
                self._failing = True
            else:
                if self._failing:
                    log.info("decisions are recorded again", extra={"directory": self._where})
                self._failing = False
        self._close(quietly=True)

    def _write(self, record: Record) -> None:
        hour = int(record.snapshot.time // 3600)
        if self._file is None or self._file.hour != hour:
            self._close()
            self._directory.mkdir(parents=True, exist_ok=True)
            begun = datetime.fromtimestamp(record.snapshot.time, UTC).strftime("%Y%m%dT%H%M%SZ")
            self._file = _File(self._directory / f"{begun}-{self._instance}{SUFFIX}", hour)
        self._file.write(encode(record).encode() + b"\n")
        prune(self._directory, self._most_bytes, self._file.path)

    def _close(self, quietly: bool = False) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        try:
            file.close()
        except OSError:
            if not quietly:
                raise


class _File:
    """A gzip file whose every line is on the disk once it is written."""

    def __init__(self, path: Path, hour: int) -> None:
        self.path, self.hour = path, hour
        self._zip = zlib.compressobj(6, zlib.DEFLATED, 31)
        self._handle = path.open("ab", buffering=0)

    def write(self, line: bytes) -> None:
        self._all(self._zip.compress(line) + self._zip.flush(zlib.Z_SYNC_FLUSH))

    def close(self) -> None:
        try:
            self._all(self._zip.flush())
        finally:
            self._handle.close()

    def _all(self, data: bytes) -> None:
        while data:
            data = data[self._handle.write(data) :]


def files(directory: Path) -> list[Path]:
    """The recordings, oldest first."""
    return sorted(p for p in directory.iterdir() if NAME.fullmatch(p.name))


def prune(directory: Path, most_bytes: int, current: Path) -> None:
    """Delete the oldest files until all are below the limit; the one that is being written stays."""
    found = [(p, p.stat().st_size) for p in files(directory)]
    total = sum(size for _, size in found)
    for path, size in found:
        if total <= most_bytes:
            return
        if path != current:
            path.unlink(missing_ok=True)
            total -= size


def read(directory: Path, on_file: Callable[[Path], None] = lambda _: None) -> Iterator[Record | Trouble]:
    """All records in their order, and what is found beside them. Raises OSError where the directory cannot be read."""
    for path in files(directory):
        on_file(path)
        yield from read_file(path)


def read_file(path: Path) -> Iterator[Record | Trouble]:
    number = 0
    for number, line in enumerate(_lines(path), 1):
        if isinstance(line, Trouble):
            yield line  # the last thing that can be said of the file
            return
        yield parsed(path, number, line)
    if not number:
        yield Trouble(
            path.name, "it is empty: the operator ended before its first record was on the disk", broken=False
        )


def parsed(path: Path, number: int, line: bytes) -> Record | Trouble:
    """One line."""
    try:
        found = json.loads(line)
        version = found.get("format") if isinstance(found, dict) else None
    except (ValueError, RecursionError) as error:
        return Trouble(path.name, f"line {number} is no record: {error}")
    if version != FORMAT:
        return Trouble(
            path.name,
            f"line {number} is a record of format {version}, this spillway reads format {FORMAT}: "
            "replay it with the version of Spillway that wrote it",
        )
    try:
        return decode(Record, line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        return Trouble(path.name, f"line {number} cannot be read: {where}: {first['msg']}")


def _lines(path: Path) -> Iterator[bytes | Trouble]:
    """Whole lines as far as the file goes; a last one without its end is what a crash leaves."""
    unzip, rest = zlib.decompressobj(wbits=31), b""
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK):
            try:
                while chunk:
                    rest += unzip.decompress(chunk)
                    chunk = unzip.unused_data
                    if chunk:  # a second operator of the same name in the same second went on in this file
                        unzip = zlib.decompressobj(wbits=31)
            except zlib.error as error:
                yield Trouble(path.name, f"it is damaged, the rest of it cannot be read: {error}")
                return
            *whole, rest = rest.split(b"\n")
            yield from whole
    if rest:
        yield Trouble(
            path.name, "its last record is cut off: the operator ended while it wrote; left out", broken=False
        )
    elif not unzip.eof and path.stat().st_size:
        yield Trouble(path.name, "it has no end: the operator still writes it, or was killed", broken=False)
