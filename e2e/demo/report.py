"""The self-contained report: plotly's JavaScript inlined, no request to anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from e2e.demo import charts
from e2e.demo.recording import Recording
from e2e.demo.verdict import Verdict

TEMPLATE = "report.html.j2"


def write(recording: Recording, verdicts: Sequence[Verdict], path: Path) -> Path:
    """Render to `path` and return it."""
    path.write_text(render(recording, verdicts), encoding="utf-8")
    return path


def render(recording: Recording, verdicts: Sequence[Verdict]) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(("html", "j2")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    magnified = charts.last_dollar(recording)
    return environment.get_template(TEMPLATE).render(
        recording=recording,
        verdicts=verdicts,
        held=all(v.held for v in verdicts),
        counts={
            outcome: sum(a.outcome == outcome for a in recording.answers)
            for outcome in ("local", "spilled", "refused", "failed", "cut")
        },
        moments=charts.numbered(recording),
        chapter_of=lambda at: next((c.name for c in reversed(recording.chapters) if c.began <= at), ""),
        plotly=Markup(get_plotlyjs()),
        demand=_div(charts.demand(recording)),
        requests=_div(charts.requests(recording)),
        tokens=_div(charts.tokens(recording)),
        running_cost=_div(charts.running_cost(recording)),
        dollars=_div(charts.dollars(recording)),
        last_dollar=_div(magnified) if magnified is not None else None,
    )


def _div(figure: Any) -> Markup:
    settings = {"displayModeBar": False, "responsive": True}
    return Markup(figure.to_html(full_html=False, include_plotlyjs=False, config=settings))
