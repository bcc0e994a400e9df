"""What `spillway simulate --report` writes: one HTML file that needs nothing else, to look at and to pass on."""

from __future__ import annotations

import json
import math
from collections import Counter
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

from spillway.simulate import plots
from spillway.simulate.reported import DAY_SECONDS, PolicyCost, ReportData, ReportDecision, called

__all__ = [
    "PolicyCost",
    "ReportData",
    "ReportDecision",
    "ReportPackagesMissing",
    "headline",
    "importable",
    "render",
    "write",
]

TEMPLATE = "report.html.j2"
WEEK_DAYS = 7.0
MOST_ROWS = 1000  # of decisions: more would make a file that is slow to open


class ReportPackagesMissing(RuntimeError):
    """The extra `report` is not installed."""


def importable() -> None:
    """Raises ReportPackagesMissing where a report could not be written."""
    for package in ("jinja2", "plotly"):
        if find_spec(package) is None:
            raise ReportPackagesMissing(
                f"{package} is not installed, which the report needs: pip install 'spillway[report]'"
            )


def write(data: ReportData, path: Path) -> Path:
    """Render to `path` and return it. Raises ReportPackagesMissing."""
    path.write_text(render(data), encoding="utf-8")
    return path


def render(data: ReportData) -> str:
    """The whole page, plotly.js included. Raises ReportPackagesMissing."""
    importable()
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["dollars"] = dollars
    environment.filters["percent"] = percent
    environment.filters["called"] = called
    environment.filters["seconds"] = seconds

    def inlined(thing: object) -> Markup:  # JSON in a script element, which only "</" could end
        return Markup(json.dumps(thing, separators=(",", ":")).replace("<", "\\u003c"))

    return environment.get_template(TEMPLATE).render(
        data=data,
        subject=data.policies[0],
        period=period(data.days),
        half_start_saves=None if data.half_start_saves_usd is None else week_usd(data, data.half_start_saves_usd),
        headline=headline(data),
        ranked=sorted(data.policies, key=lambda p: p.usd),
        rows=[(moment(data, d.at_seconds), d) for d in data.decisions[-MOST_ROWS:]],
        reasons=Counter(d.reason for d in data.decisions[-MOST_ROWS:]).most_common(),
        plotly=Markup(get_plotlyjs()),
        fleet=inlined(plots.fleet(data)),
        detail=inlined(plots.detail(data)),
        costs=inlined(plots.costs(data)),
        regret=inlined(plots.regret(data)),
        latency=inlined(plots.latency(data)) if data.latency is not None else None,
        epoch_ms=plots.epoch_ms(data),
        bin_ms=data.bin_seconds * 1000,
    )


# ---- words -----------------------------------------------------------------------------------------------------------


def headline(data: ReportData) -> list[str]:
    """The result, in sentences."""
    subject, rival = data.policies[0], data.compared
    said = [f"{period(data.days)} {'costs' if _one(data.days) else 'cost'} {dollars(subject.usd)}."]
    if rival is not None and subject.usd > 0:
        said.append(f"{called(rival.name)} would cost {dollars(rival.usd)} ({signed(rival.usd / subject.usd - 1)}).")
    if data.lower_bound_usd > 0:
        above = subject.usd / data.lower_bound_usd - 1
        said.append(
            f"A clairvoyant would pay {dollars(data.lower_bound_usd)} at least: knowing the future would save "
            f"{percent(above / (1 + above), 0)}."
        )
    said.append(f"{percent(subject.slo)} of the work was begun within {data.queue_seconds:g} s.")
    if data.half_start_saves_usd is not None:
        saved = week_usd(data, data.half_start_saves_usd)
        said.append(f"Halving the cold start would save {f'{dollars(saved)} a week' if saved > 0 else 'nothing'}.")
    return said


def week_usd(data: ReportData, usd: float) -> float:
    """Dollars of the bins that count, as of a week like them."""
    return usd * WEEK_DAYS / data.days


def period(days: float) -> str:
    if abs(days - WEEK_DAYS) < 0.05:
        return "This week"
    if _one(days):
        return "This day"
    if days < 1:
        return f"These {days * 24:.3g} hours"
    return f"These {days:.2g} days" if days < 10 else f"These {days:.0f} days"


def _one(days: float) -> bool:
    return abs(days - WEEK_DAYS) < 0.05 or abs(days - 1) < 0.005


def dollars(usd: float) -> str:
    digits = 0 if abs(usd) >= 100 else 2 if abs(usd) >= 0.1 or not usd else 4
    return f"{'−' if usd < 0 else ''}${abs(usd):,.{digits}f}"


def percent(share: float, digits: int = 1) -> str:
    """Rounded down, so that 99.97 % does not read as all."""
    scale = 100 * 10**digits
    return f"{int(share * scale + 1e-9) / 10**digits:.{digits}f} %"


def seconds(value: float) -> str:
    """NaN: nothing was answered."""
    return "–" if math.isnan(value) else f"{value:.2f} s"


def signed(share: float) -> str:
    return f"{'+' if share >= 0 else '−'}{abs(share) * 100:.0f} %"


def moment(data: ReportData, seconds: float) -> str:
    """`Tue 14 May 13:20:10`, or `day 3, 13:20:10` of a trace without a date."""
    at = (data.began or datetime.min) + timedelta(seconds=seconds)  # noqa: DTZ901
    if data.began is not None:
        return f"{at:%a} {at.day} {at:%b %H:%M:%S}"
    return f"day {int(seconds // DAY_SECONDS) + 1}, {at:%H:%M:%S}"
