"""A trace out of a file, whatever its layout."""

from __future__ import annotations

import csv
import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from spillway.simulate.economics import BIN_SECONDS
from spillway.simulate.traces.layouts import (
    BINNED_COLUMNS,
    CSV_LAYOUTS,
    MOONCAKE,
    BadValue,
    Layout,
    number,
    positions,
)
from spillway.simulate.traces.lines import lines
from spillway.simulate.traces.trace import MAXIMUM_BINS, Arrivals, BadTrace, Trace, bin_arrivals

MAXIMUM_REQUESTS = 60_000_000  # in one file: 1.4 GB of arrays; a week of Azure 2024 conversations has 27 million
MAXIMUM_TOKENS = 10_000_000.0  # of one request: ten times the longest context that is sold
MAXIMUM_BIN_REQUESTS = 1e9  # in ten seconds
LATE_SECONDS = 60.0  # a log may write a request so much after one that came later; more is another file's beginning
KNOWN = (
    "known are t,n,tin,tout (ours), TIMESTAMP,ContextTokens,GeneratedTokens (Azure), "
    "Timestamp,…,Request tokens,Response tokens,… (BurstGPT) and JSON lines with timestamp, input_length, "
    "output_length (Mooncake)"
)


def read(path: str | Path, *, keep_arrivals: bool = True) -> Trace:
    """The trace in a file of any layout in `layouts`, plain or gzipped; it begins with its first row.

    Where the file tells single requests they are kept in `arrivals`, unless `keep_arrivals` is false (24 bytes each).
    Raises BadTrace, and nothing else, for whatever the file may hold or whether it is there at all.
    """
    path = Path(path)
    text = lines(path)
    blank, first = 0, ""
    for first in text:
        if first.strip():
            break
        blank += 1
    if not first.strip():
        raise BadTrace(f"{path}: is empty; {KNOWN}")
    source = _Source(path, blank)
    if first.lstrip().startswith("{"):
        arrivals = _arrivals(source, MOONCAKE, _json_rows(source, chain([first], text)))
        return bin_arrivals(source.name, arrivals, keep=keep_arrivals)
    rows = _csv_rows(source, chain([first], text))
    _, header = next(rows, (blank + 1, []))
    if places := positions(header, BINNED_COLUMNS):
        return _binned(source, _pick(source, rows, BINNED_COLUMNS, places))
    for layout in CSV_LAYOUTS:
        if places := positions(header, layout.columns):
            arrivals = _arrivals(source, layout, _pick(source, rows, layout.columns, places))
            return bin_arrivals(source.name, arrivals, keep=keep_arrivals)
    raise BadTrace(f"{path}, line {blank + 1}: {_short(first.strip())} is no header that is known; {KNOWN}")


@dataclass(frozen=True, slots=True)
class _Source:
    path: Path
    blank: int  # lines before the first that says something

    @property
    def name(self) -> str:
        return self.path.name.split(".")[0] or self.path.name

    def bad(self, line: int, column: str, value: object, why: str) -> BadTrace:
        return BadTrace(f"{self.path}, line {line}, column {column}: {_short(value)} {why}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…" + text[-1]


def _csv_rows(source: _Source, text: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of every row that is not blank."""
    reader = csv.reader(text, strict=True)
    try:
        for cells in reader:
            if any(cells):
                yield source.blank + reader.line_num, cells
    except csv.Error as error:
        line = source.blank + reader.line_num
        raise BadTrace(f"{source.path}, line {line}: is no CSV ({error}); mend the quotes") from error


def _pick(
    source: _Source, rows: Iterator[tuple[int, list[str]]], columns: tuple[str, ...], places: tuple[int, ...]
) -> Iterator[tuple[int, list[object]]]:
    """(line, the cells of `columns`) of every row."""
    for line, cells in rows:
        try:
            yield line, [cells[place] for place in places]
        except IndexError:
            column = next(name for name, place in zip(columns, places, strict=True) if place >= len(cells))
            raise source.bad(line, column, ",".join(cells), "has no such cell; complete the row") from None


def _json_rows(source: _Source, text: Iterator[str]) -> Iterator[tuple[int, list[object]]]:
    for line, row in enumerate(text, source.blank + 1):
        if not row.strip():
            continue
        try:
            record = json.loads(row)
        except (ValueError, RecursionError):
            raise BadTrace(f"{source.path}, line {line}: {_short(row.strip())} is no JSON; mend the line") from None
        if not isinstance(record, dict):
            raise BadTrace(f"{source.path}, line {line}: {_short(row.strip())} is no JSON object; write one a line")
        for column in MOONCAKE.columns:
            if column not in record:
                raise source.bad(line, column, row.strip(), "has no such key; complete the line")
        yield line, [record[column] for column in MOONCAKE.columns]


def _arrivals(source: _Source, layout: Layout, rows: Iterator[tuple[int, list[object]]]) -> Arrivals:
    """The requests in order, their time counted from the first."""
    seconds, inputs, outputs = array("d"), array("d"), array("d")
    latest = None
    for line, cells in rows:
        column = layout.time
        try:
            at = layout.seconds(cells[0])
            column = layout.input
            tokens_in = number(cells[1])
            column = layout.output
            tokens_out = number(cells[2])
        except BadValue as error:
            raise source.bad(line, column, cells[layout.columns.index(column)], str(error)) from None
        if tokens_in > MAXIMUM_TOKENS or tokens_out > MAXIMUM_TOKENS:
            column, value = (layout.input, cells[1]) if tokens_in > MAXIMUM_TOKENS else (layout.output, cells[2])
            raise source.bad(
                line, column, value, f"is above {MAXIMUM_TOKENS:,.0f} tokens; give the tokens of a request"
            )
        if latest is None or at > latest:
            latest = at
        elif at < latest - LATE_SECONDS:
            raise source.bad(line, layout.time, cells[0], "lies before the rows above it; sort the file by time")
        seconds.append(at)
        inputs.append(tokens_in)
        outputs.append(tokens_out)
        if at - seconds[0] >= MAXIMUM_BINS * BIN_SECONDS:
            raise source.bad(line, layout.time, cells[0], f"is over a year after the start; {layout.name} times differ")
        if len(seconds) > MAXIMUM_REQUESTS:
            raise BadTrace(f"{source.path}: more than {MAXIMUM_REQUESTS:,} requests; cut the trace to what you need")
    if not seconds:
        raise BadTrace(f"{source.path}: has a header and no rows; give a trace with requests")
    at_seconds = np.frombuffer(seconds, dtype=np.float64)
    order = np.argsort(at_seconds, kind="stable")
    sorted_seconds = at_seconds[order]
    return Arrivals(
        seconds=sorted_seconds - sorted_seconds[0],
        input_tokens=np.frombuffer(inputs, dtype=np.float64)[order],
        output_tokens=np.frombuffer(outputs, dtype=np.float64)[order],
    )


def _binned(source: _Source, rows: Iterator[tuple[int, list[object]]]) -> Trace:
    """Our own layout: every ten seconds have their row, also those without a request."""
    table = array("d")
    expected: float | None = None
    for line, cells in rows:
        values: list[float] = []
        for column, cell in zip(BINNED_COLUMNS, cells, strict=True):
            try:
                values.append(number(cell))
            except BadValue as error:
                raise source.bad(line, column, cell, str(error)) from None
        at, requests, *tokens = values
        if expected is not None and at != expected:
            raise source.bad(line, "t", cells[0], f"should be {expected:.15g}: one row for each ten seconds, in order")
        expected = at + BIN_SECONDS
        if expected == at:
            raise source.bad(line, "t", cells[0], "is too large; count the seconds from the start of the trace")
        if requests > MAXIMUM_BIN_REQUESTS:
            raise source.bad(line, "n", cells[1], f"is above {MAXIMUM_BIN_REQUESTS:,.0f} requests in ten seconds")
        for column, cell, value in zip(BINNED_COLUMNS[2:], cells[2:], tokens, strict=True):
            if value > MAXIMUM_TOKENS * max(requests, 1.0):
                raise source.bad(line, column, cell, f"is above {MAXIMUM_TOKENS:,.0f} tokens a request; give sums")
        table.extend(values)
        if len(table) > 4 * MAXIMUM_BINS:
            raise BadTrace(f"{source.path}: more than {MAXIMUM_BINS:,} rows, a year; cut the trace to what you need")
    if not table:
        raise BadTrace(f"{source.path}: has a header and no rows; give a trace with requests")
    columns = np.ascontiguousarray(np.frombuffer(table, dtype=np.float64).reshape(-1, 4).T)
    return Trace(source.name, requests=columns[1], input_tokens=columns[2], output_tokens=columns[3])
