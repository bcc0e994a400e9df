"""`spillway simulate`: what a week of traffic would cost, and what else it could have cost."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from spillway.simulate import presets
from spillway.simulate.bounds import lower_bound
from spillway.simulate.economics import BIN_SECONDS, Economics
from spillway.simulate.load import scale
from spillway.simulate.single import Controls, Trouble
from spillway.simulate.study import HINDSIGHT, SPILLWAY, Case, Run, document, known, run, run_all
from spillway.simulate.synthetic import Synthetic, generate
from spillway.simulate.traces import Trace, read
from spillway.simulate.world import Faults

COMPARED = ("hpa-tuned", "hpa", "keda", "kpa", "apa", "dynamo", "wva", "fixed-best", "all-external", "clairvoyant")
WORKERS = 2


class Seconds(click.ParamType):
    """A duration: `600`, `600s`, `10m`, `1h30m`."""

    name = "duration"
    _PART = re.compile(r"(\d+(?:\.\d+)?)(h|m|s)")
    _FACTOR = {"h": 3600.0, "m": 60.0, "s": 1.0}

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float | int):
            return float(value)
        text = str(value).strip()
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return float(text)
        parts = self._PART.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            self.fail(f"{text!r} is no duration: write 600, 600s, 10m or 1h30m", param, ctx)
        return sum(float(number) * self._FACTOR[unit] for number, unit in parts)


class Windows(click.ParamType):
    """Times from the begin: `6h-7h,30h-31h30m`."""

    name = "windows"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[tuple[float, float], ...]:
        if isinstance(value, tuple):
            return value
        found = []
        for part in str(value).split(","):
            begin, dash, end = part.partition("-")
            if not dash:
                self.fail(f"{part!r} is no window: write FROM-TO, such as 6h-7h30m", param, ctx)
            window = (Seconds().convert(begin, param, ctx), Seconds().convert(end, param, ctx))
            if window[0] >= window[1]:
                self.fail(f"{part!r} ends before it begins", param, ctx)
            found.append(window)
        return tuple(found)
