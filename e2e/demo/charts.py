"""The report's plots: from the recording to plotly figures. Times are story seconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from e2e.demo.recording import Kind, Moment, Recording, Sample

# Okabe and Ito's colours: told apart with any kind of colour vision, and in grey by their order of lightness.
BLUE, SKY, GREEN, ORANGE, VERMILLION, PURPLE = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7"
INK, MUTED, GRID, BAND = "#1d2733", "#5b6773", "#e6eaee", "#f4f6f9"
VARIANT_COLOURS = (BLUE, GREEN, SKY, PURPLE)
KIND_COLOURS: dict[Kind, str] = {"act": INK, "decision": BLUE, "condition": VERMILLION}
FONT = "Inter, 'Segoe UI', 'Helvetica Neue', 'DejaVu Sans', Arial, sans-serif"
SMOOTH_SECONDS = 3
LANES = 4
STATES = ("ready", "starting", "pending")
SPILLED, REFUSED, BROKEN = "spilled to providers", "refused with a reason (429)", "failed or cut"

Figure = Any  # plotly publishes no types


def numbered(recording: Recording) -> list[tuple[int, Moment]]:
    """The moments that the plots mark, with the numbers that the table repeats."""
    told = [m for m in recording.moments if m.kind != "condition" or m.name in ("WithinBudget", "OutOfCapacity")]
    return list(enumerate(sorted(told, key=lambda m: m.at), 1))


def demand(recording: Recording) -> Figure:
    """Demand against what is ready and on its way, with every decision as a numbered mark above."""
    figure = go.Figure()
    times = [s.at for s in recording.samples]
    names = variants(recording.samples)
    for name, colour in zip(names, VARIANT_COLOURS, strict=False):
        ready = [work(s, name, "ready") for s in recording.samples]
        figure.add_trace(_area(times, ready, f"ready: {name}", colour, group="capacity", shape="hv"))
    for state, pattern in (("starting", "/"), ("pending", ".")):
        coming = [sum(work(s, name, state) for name in names) for s in recording.samples]
        trace = _area(times, coming, f"{state} (all variants)", MUTED, group="capacity", shape="hv", opacity=0.10)
        trace.update(line_width=0.6, fillpattern={"shape": pattern, "fgcolor": MUTED, "size": 5, "solidity": 0.25})
        figure.add_trace(trace)
    figure.add_trace(
        go.Scatter(
            x=times,
            y=[s.work for s in recording.samples],
            name="demand: what clients ask for",
            line={"color": INK, "width": 2.6},
            hovertemplate="%{y:.1f} replicas of work<extra>demand</extra>",
        )
    )
    held = (sum(work(s, n, state) for n in names for state in STATES) for s in recording.samples)
    highest = max([*held, *(s.work for s in recording.samples), 1.0])
    style(figure, recording, "Replicas’ worth of work<br>(1 = one B200 replica)", height=470)
    figure.update_yaxes(domain=[0, 0.78], range=[0, highest * 1.06])
    _marks(figure, recording)
    return figure


def requests(recording: Recording) -> Figure:
    """Requests by what became of them, at the second when they were sent."""
    figure = go.Figure()
    kinds = (
        ("answered by own replicas", ("local",), BLUE, ""),
        (SPILLED, ("spilled",), ORANGE, ""),
        (REFUSED, ("refused",), PURPLE, "x"),
        (BROKEN, ("failed", "cut"), VERMILLION, ""),
    )
    for name, outcomes, colour, pattern in kinds:
        sent = [a.at for a in recording.answers if a.outcome in outcomes]
        if not sent and name == BROKEN:
            continue
        trace = _area(seconds(recording), rate(sent, recording), name, colour, group="requests")
        if pattern:
            trace.update(fillpattern={"shape": pattern, "fgcolor": colour, "bgcolor": "#f4dfeb", "size": 6})
        figure.add_trace(trace)
    style(figure, recording, "Requests per second<br>(by the time they were sent)", height=330)
    return figure


def tokens(recording: Recording) -> Figure:
    """Output tokens per second by who made them."""
    figure = go.Figure()
    for name, colour in zip(variants(recording.samples), VARIANT_COLOURS, strict=False):
        speeds = [s.variants[name].output_tokens_per_second if name in s.variants else 0.0 for s in recording.samples]
        each_second = np.interp(seconds(recording), [s.at for s in recording.samples], speeds).round(1).tolist()
        figure.add_trace(_area(seconds(recording), each_second, name, colour, group="tokens"))
    total = np.zeros(len(seconds(recording)))
    for each in (a for a in recording.answers if a.outcome == "spilled"):
        first, last = int(each.at), max(int(each.at) + 1, round(each.ended))
        total[first:last] += each.output_tokens / (last - first)
    figure.add_trace(_area(seconds(recording), _smooth(total), "providers", ORANGE, group="tokens"))
    style(figure, recording, "Output tokens per second", height=330, short=True)
    return figure


def running_cost(recording: Recording) -> Figure:
    """What is on costs, in dollars per hour."""
    figure = go.Figure()
    times = [s.at for s in recording.samples]
    gpus, apis = ([getattr(s, n) for s in recording.samples] for n in ("gpu_usd_per_hour", "external_usd_per_hour"))
    figure.add_trace(_area(times, gpus, "GPUs", BLUE, group="cost", shape="hv"))
    figure.add_trace(_area(times, apis, "external APIs", ORANGE, group="cost"))
    style(figure, recording, "Dollars per hour, now", height=330, short=True)
    figure.update_yaxes(tickprefix="$")
    return figure


def dollars(recording: Recording) -> Figure:
    """The day's API dollars against the day's budget; a budget far above what was spent is off the scale."""
    figure = go.Figure()
    top = max([s.spent_usd for s in recording.samples] + [s.billed_usd for s in recording.samples] + [0.1]) * 1.25
    _money_lines(figure, recording.samples, top)
    style(figure, recording, "API dollars of the day", height=360, short=True)
    figure.update_yaxes(tickprefix="$", range=[0, top])
    off = sorted({f"${s.budget_usd:,.0f}" for s in recording.samples if s.budget_usd > top}, key=lambda t: -len(t))
    if off:
        figure.add_annotation(
            x=0.01, y=0.97, xref="paper", yref="paper", xanchor="left", yanchor="top", showarrow=False,
            text=f"budgets of {' and '.join(off)} are off this scale", font={"size": 12, "color": MUTED},
        )  # fmt: skip
    return figure


def last_dollar(recording: Recording) -> Figure | None:
    """The end of the lowered budget, magnified; None when it was not lowered."""
    lowered, raised = recording.act("lowered"), recording.act("raised")
    amount, bound = recording.number("lowered_amount_usd"), recording.number("lowered_bound_usd")
    if lowered is None or amount is None or bound is None:
        return None
    begin, end = lowered - 4, (raised if raised is not None else recording.seconds) + 1
    samples = recording.seen(begin, end)
    lows = [s.spent_usd for s in samples if s.at >= lowered] + [s.billed_usd for s in samples if s.at >= lowered]
    figure = go.Figure()
    _money_lines(figure, samples, amount * 1.5)
    figure.add_hrect(y0=amount, y1=amount + bound, fillcolor=VERMILLION, opacity=0.14, line_width=0, layer="below")
    figure.add_annotation(
        x=begin + 0.5, y=amount + bound, yshift=3, text=f"budget + bound: ${amount + bound:.3f}", xanchor="left",
        yanchor="bottom", showarrow=False, font={"size": 12, "color": VERMILLION},
    )  # fmt: skip
    style(figure, recording, "API dollars of the day", height=360, bands=False)
    low = min(lows, default=amount)
    figure.update_yaxes(tickprefix="$", range=[low - (amount - low) * 0.1, amount + 3 * bound])
    figure.update_xaxes(range=[begin, end])
    return figure


# ---- data --------------------------------------------------------------------------------------------------------


def variants(samples: Iterable[Sample]) -> list[str]:
    """Names in order of first use; those that never ran are left out."""
    found: dict[str, None] = {}
    for sample in samples:
        found.update(dict.fromkeys(n for n, v in sample.variants.items() if v.ready + v.starting + v.pending))
    return list(found)


def work(sample: Sample, variant: str, state: str) -> float:
    """Replicas of a variant in that state, in replicas of the first variant."""
    found = sample.variants.get(variant)
    return float(getattr(found, state)) * found.units if found else 0.0


def seconds(recording: Recording) -> list[float]:
    last = max([a.ended for a in recording.answers] + [recording.seconds])
    return [float(s) for s in range(int(last) + 2)]


def rate(times: Sequence[float], recording: Recording) -> list[float]:
    """Events per second, smoothed over three."""
    counts = np.bincount(np.asarray(times, dtype=int), minlength=len(seconds(recording))) if times else np.zeros(1)
    full = np.zeros(len(seconds(recording)))
    full[: len(counts)] = counts[: len(full)]
    return _smooth(full)


def _smooth(values: np.ndarray[Any, Any]) -> list[float]:
    kernel = np.ones(SMOOTH_SECONDS) / SMOOTH_SECONDS
    smoothed: list[float] = np.convolve(values, kernel, mode="same").round(2).tolist()
    return smoothed


# ---- drawing -----------------------------------------------------------------------------------------------------


def _area(
    times: Sequence[float],
    values: Sequence[float],
    name: str,
    colour: str,
    group: str,
    shape: str = "linear",
    opacity: float = 0.72,
) -> Figure:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return go.Scatter(
        x=list(times),
        y=list(values),
        name=name,
        stackgroup=group,
        line={"color": colour, "width": 1, "shape": shape},
        fillcolor=f"rgba({red},{green},{blue},{opacity})",
        hovertemplate="%{y:,.1f}<extra>" + name + "</extra>",
    )


def _money_lines(figure: Figure, samples: Sequence[Sample], top: float) -> None:
    times = [s.at for s in samples]
    budgets = [s.budget_usd if 0 < s.budget_usd <= top else None for s in samples]
    lines = (
        ("the day’s budget", budgets, VERMILLION, "solid", 2.2, "hv"),
        ("ledger: spent", [s.spent_usd for s in samples], BLUE, "solid", 2.6, "linear"),
        ("providers’ own bills", [s.billed_usd for s in samples], ORANGE, "dot", 2.6, "linear"),
    )
    for name, values, colour, dash, width, shape in lines:
        figure.add_trace(
            go.Scatter(
                x=times,
                y=values,
                name=name,
                mode="lines",
                line={"color": colour, "width": width, "dash": dash, "shape": shape},
                hovertemplate="$%{y:.3f}<extra>" + name + "</extra>",
            )
        )


def _marks(figure: Figure, recording: Recording) -> None:
    """Numbers in lanes above the plot: a mark that would touch its neighbour goes one lane down."""
    apart = max(recording.seconds, 60.0) / 46
    lane_ends = [-apart] * LANES
    for number, moment in numbered(recording):
        free = [i for i, end in enumerate(lane_ends) if moment.at - end >= apart]
        lane = free[0] if free else min(range(LANES), key=lambda i: lane_ends[i])
        lane_ends[lane] = moment.at
        figure.add_trace(
            go.Scatter(
                x=[moment.at],
                y=[LANES - lane],
                yaxis="y2",
                mode="markers+text",
                text=[str(number)],
                textfont={"size": 10.5, "color": "white", "family": FONT},
                marker={"size": 18, "color": KIND_COLOURS[moment.kind], "symbol": _SYMBOLS[moment.kind]},
                showlegend=False,
                hovertext=f"<b>{moment.name}</b><br>" + "<br>".join(wrapped(moment.text)),
                hoverinfo="text",
            )
        )
        if moment.kind == "act":
            figure.add_shape(
                type="line", x0=moment.at, x1=moment.at, y0=0, y1=0.78, yref="paper",
                line={"color": MUTED, "width": 1, "dash": "dot"},
            )  # fmt: skip
    figure.update_layout(
        yaxis2={"domain": [0.80, 1], "range": [0.4, LANES + 0.6], "visible": False, "fixedrange": True, "anchor": "x"}
    )


_SYMBOLS: dict[Kind, str] = {"act": "square", "decision": "circle", "condition": "hexagon2"}


def wrapped(text: str, width: int = 80) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + len(word) >= width:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    return [*lines, line]


def style(
    figure: Figure, recording: Recording, ylabel: str, height: int, short: bool = False, bands: bool = True
) -> None:
    """The looks that all plots share, with the chapters as bands."""
    figure.update_layout(
        template="plotly_white",
        font={"family": FONT, "size": 13, "color": INK},
        height=height,
        margin={"l": 70, "r": 14, "t": 34, "b": 84 if height > 400 else 70},
        legend={"orientation": "h", "yanchor": "top", "y": -0.2 if height < 400 else -0.14, "x": 0, "font_size": 12.5},
        hovermode="x unified" if height < 400 else "closest",
        paper_bgcolor="white",
        plot_bgcolor="white",
    )
    figure.update_xaxes(
        title={"text": "Seconds since the start of the story", "standoff": 6},
        range=[-0.012 * recording.seconds, 1.012 * recording.seconds],
        gridcolor=GRID,
        zeroline=False,
    )
    figure.update_yaxes(title_text=ylabel, gridcolor=GRID, rangemode="tozero", zeroline=True, zerolinecolor=GRID)
    for index, chapter in enumerate(recording.chapters if bands else []):
        end = chapter.ended if chapter.ended is not None else recording.seconds
        if index % 2:
            figure.add_shape(
                type="rect", x0=chapter.began, x1=end, y0=0, y1=1, yref="paper", fillcolor=BAND, line_width=0,
                layer="below",
            )  # fmt: skip
        wide = not short and end - chapter.began > recording.seconds / 6
        figure.add_annotation(
            x=(chapter.began + end) / 2, y=1, yref="paper", yshift=18, showarrow=False, font={"size": 13},
            text=f"<b>{chapter.name}</b> {chapter.title}" if wide else f"<b>{chapter.name}</b>",
        )  # fmt: skip
