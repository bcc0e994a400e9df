"""The report's plots, as the JSON that plotly.js draws: built as plain data, so that this needs no plotly."""

from __future__ import annotations

import base64
import zlib
from datetime import UTC, datetime, timedelta
from html import escape
from typing import Any

import numpy as np

from spillway.simulate.reported import DAY_SECONDS, PolicyCost, ReportData, called
from spillway.simulate.requests.latency import MINUTE_SECONDS
from spillway.simulate.thinning import kept
from spillway.simulate.traces import Floats

# Okabe and Ito's colours: told apart with any kind of colour vision, and in grey by their order of lightness.
BLUE, ORANGE, PURPLE = "#0072B2", "#E69F00", "#CC79A7"
INK, MUTED, GRID = "#1d2733", "#5b6773", "#e6eaee"
FONT = "Inter, 'Segoe UI', 'Helvetica Neue', 'DejaVu Sans', Arial, sans-serif"
BUCKETS = 1300  # pixels of a plot on a wide screen
TOTAL = "total"
LEVELS = 4095  # that values of the detail are rounded to: finer than a pixel
ROOM = 1.3  # of the cost axis, for the words beside the longest bar
CLIP = 2.6  # bars beyond this many times the subject's are cut off, so that the others can be told apart
DAY_MS = DAY_SECONDS * 1000

Figure = dict[str, Any]


def epoch_ms(data: ReportData) -> float:
    """Where the time axis begins: without a date, on the first day of a year, whose days are then numbered from 1."""
    began = data.began or datetime(1970, 1, 1, tzinfo=UTC)
    return began.replace(tzinfo=UTC).timestamp() * 1000


# ---- the fleet over time ---------------------------------------------------------------------------------------------


def fleet(data: ReportData) -> Figure:
    """Demand against what is ready, what was asked for, and what was served here and outside."""
    lines = [
        _line("asked", "replicas asked for", rank=5, colour=MUTED, width=1.2, dash="2px,2px"),
        _line("demand", "demand as it came", rank=3, colour="#8a97a3", width=0.8),
        _line("ready", "replicas ready", rank=4, colour=INK, width=1.5),
        _line(TOTAL, "demand sent outside", rank=2, fill=ORANGE, colour=ORANGE, width=1.0),
        _line("served", "demand served by the replicas", rank=1, fill="#74acd2", colour="#74acd2", width=0.5),
        _line("spilled", "outside", fill=ORANGE, colour=ORANGE, width=0.8, axis="y2"),
    ]
    series = _series(data)
    for line in lines:
        values = series[line["meta"]]
        at = kept(values, BUCKETS)
        line["x"] = _encoded(epoch_ms(data) + at.astype(float) * data.bin_seconds * 1000, "f8")
        line["y"] = _encoded(values[at], "f4")
    end = epoch_ms(data) + len(data.demand) * data.bin_seconds * 1000
    layout = _layout(560)
    layout["xaxis"] |= _days(data) | {
        "range": [epoch_ms(data), end],
        "anchor": "y2",
        "rangeselector": {
            "buttons": [
                {"count": 6, "label": "6 h", "step": "hour", "stepmode": "backward"},
                {"count": 1, "label": "1 day", "step": "day", "stepmode": "backward"},
                {"label": "all", "step": "all"},
            ],
            "x": 1, "xanchor": "right", "y": 1.015, "yanchor": "bottom", "bgcolor": "#f4f6f9", "activecolor": "#dfe4e9",
        },
    }  # fmt: skip
    highest = max(float(np.quantile(series["asked"], 0.9999)), float(data.demand.max()), 1.0)
    layout["yaxis"] |= {"title": {"text": "Replicas’ worth of work"}, "domain": [0.24, 1], "range": [0, highest * 1.04]}
    layout["yaxis"] |= {"fixedrange": True}
    layout["yaxis2"] = layout["yaxis"] | {"title": {"text": "outside"}, "domain": [0, 0.17], "nticks": 4}
    layout["yaxis2"] |= {"range": [0, max(float(data.spilled.max()) * 1.05, 1.0)]}
    layout["hovermode"] = "x unified"
    counted = epoch_ms(data) + data.score_from * data.bin_seconds * 1000
    if data.score_from:
        layout["shapes"] = [
            {"type": "rect", "xref": "x", "yref": "paper", "x0": epoch_ms(data), "x1": counted, "y0": 0, "y1": 1,
             "fillcolor": "#f4f6f9", "opacity": 0.6, "line": {"width": 0}},
        ]  # fmt: skip
    if data.score_from > 0.08 * len(data.demand):  # room for the words
        layout["annotations"] = [
            {"x": counted, "y": 1, "xref": "x", "yref": "paper", "xanchor": "right", "yanchor": "top",
             "showarrow": False, "text": "not counted ", "font": {"size": 11.5, "color": MUTED}},
        ]  # fmt: skip
    return {"data": lines, "layout": layout}


def detail(data: ReportData) -> dict[str, Any]:
    """Every bin of every series, for whoever zooms in: rounded to LEVELS steps, 16 bits each, deflated together. The
    page adds up the total."""
    series = {name: values for name, values in _series(data).items() if name != TOTAL}
    scales = {name: max(float(values.max()), 1e-9) / LEVELS for name, values in series.items()}
    rounded = [np.rint(values / scales[name]).astype("<u2") for name, values in series.items()]
    packed = zlib.compress(np.concatenate(rounded).tobytes(), 9)
    return {
        "bins": len(data.demand),
        "series": list(series),
        "scales": [scales[name] for name in series],
        "data": base64.b64encode(packed).decode(),
    }


def _series(data: ReportData) -> dict[str, Floats]:
    total = np.where(data.spilled > 0, data.served + data.spilled, 0.0)  # drawn behind what was served
    return {
        "demand": data.demand,
        "asked": data.asked.astype(float),
        "ready": data.ready.astype(float),
        "served": data.served,
        "spilled": data.spilled,
        TOTAL: total,
    }


def _line(
    series: str,
    name: str,
    colour: str,
    width: float,
    fill: str | None = None,
    dash: str = "solid",
    axis: str = "y",
    rank: int = 0,
) -> Figure:
    """Later ones cover earlier ones; `rank` orders the legend, 0: not in it. `meta` tells the page which series to
    fetch more of. What hovers over "total" would say less than "spilled" does."""
    line: Figure = {
        "type": "scatter", "mode": "lines", "name": name, "meta": series, "yaxis": axis,
        "showlegend": rank > 0, "legendrank": rank,
        "line": {"color": colour, "width": width, "dash": dash, "shape": "hv"},
    }  # fmt: skip
    line |= {"hoverinfo": "skip"} if series == TOTAL else {"hovertemplate": "%{y:.1f}"}
    return line | ({"fill": "tozeroy", "fillcolor": fill} if fill else {})


# ---- dollars ---------------------------------------------------------------------------------------------------------

HATCH = {"fillmode": "overlay", "fgcolor": "white", "size": 6, "solidity": 0.2}
PARTS = (
    ("GPUs, busy", "busy_usd", BLUE, ""),
    ("GPUs, idle", "idle_usd", "#b9cfe0", ""),
    ("cold starts, drain", "start_usd", PURPLE, "/"),
    ("external APIs", "external_usd", ORANGE, ""),
)


def costs(data: ReportData) -> Figure:
    """Where each policy's dollars go, the dearest below, beside the least that a clairvoyant pays."""
    ranked = sorted(data.policies, key=lambda p: -p.usd)
    names = [_bold(_named(p.name), p is data.policies[0]) for p in ranked] + ["lower bound"]
    limit = max(data.policies[0].usd, data.lower_bound_usd) * CLIP
    most = min(max(p.usd for p in data.policies), limit)
    bars: list[Figure] = [
        {
            "type": "bar", "orientation": "h", "name": label, "y": names,
            "x": [round(getattr(p, attribute), 4) for p in ranked] + [None],
            "marker": {"color": colour, "pattern": HATCH | {"shape": pattern}},
            "hovertemplate": "$%{x:,.2f}<extra>" + label + "</extra>",
        }
        for label, attribute, colour, pattern in PARTS
    ]  # fmt: skip
    bars.append(
        {
            "type": "bar", "orientation": "h", "name": "lower bound", "y": names, "showlegend": False,
            "x": [None] * len(ranked) + [round(data.lower_bound_usd, 4)],
            "marker": {"color": "#7b8794"}, "hovertemplate": "$%{x:,.2f}<extra>at least</extra>",
        }
    )  # fmt: skip
    layout = _layout(108 + 30 * len(names))
    layout |= {"barmode": "stack", "bargap": 0.32, "hovermode": "closest"}
    layout["xaxis"] |= {"tickprefix": "$", "range": [0, most * ROOM], "nticks": 7, "tickformat": ",.0f"}
    layout["yaxis"] |= {"type": "category", "ticksuffix": "  ", "showgrid": False, "automargin": True}
    layout["yaxis"].pop("rangemode")
    layout["margin"] |= {"l": 120}
    layout["annotations"] = [_total(name, p, most, data) for name, p in zip(names[:-1], ranked, strict=True)]
    layout["annotations"].append(_beside("lower bound", data.lower_bound_usd, f"${data.lower_bound_usd:,.0f}"))
    layout["shapes"] = [
        {"type": "line", "x0": data.lower_bound_usd, "x1": data.lower_bound_usd, "y0": 0, "y1": 1, "yref": "paper",
         "line": {"color": INK, "width": 1, "dash": "dot"}},
    ]  # fmt: skip
    return {"data": bars, "layout": layout}


def _total(name: str, policy: PolicyCost, most: float, data: ReportData) -> Figure:
    times = f" · {policy.usd / data.lower_bound_usd:.2f}×" if data.lower_bound_usd > 0 else ""
    cut = policy.usd > most * 1.001
    return _beside(name, most * ROOM if cut else policy.usd, f"${policy.usd:,.0f}{times}", cut)


def _beside(name: str, x: float, text: str, cut: bool = False) -> Figure:
    return {
        "x": x, "y": name, "xref": "x", "yref": "y", "showarrow": False,
        "xanchor": "right" if cut else "left", "xshift": -6 if cut else 6,
        "text": f"{text} ▸" if cut else text, "font": {"size": 12.5, "color": INK},
    } | ({"bgcolor": "rgba(255,255,255,0.92)", "borderpad": 2} if cut else {})  # fmt: skip


def regret(data: ReportData) -> Figure:
    """What each day cost above the least that a clairvoyant pays for it: the subject, and its rival beside it."""
    days = max((len(series) for series in data.regret_usd.values()), default=0)
    bars: list[Figure] = [
        {
            "type": "bar", "name": _named(name), "marker": {"color": colour},
            "x": [_day(data, day) for day in range(len(data.regret_usd[name]))],
            "y": [round(float(usd), 4) for usd in data.regret_usd[name]],
            "hovertemplate": "$%{y:,.2f}<extra>" + _named(name) + "</extra>",
        }
        for name, colour in {data.policies[0].name: BLUE, data.rival: "#b9c3cc"}.items()
        if name in data.regret_usd
    ]  # fmt: skip
    layout = _layout(max(300, 30 + 37 * len(data.policies)))  # as high as the table beside it
    layout |= {"barmode": "group", "bargap": 0.3 if days > 3 else 0.7, "bargroupgap": 0.06, "hovermode": "x unified"}
    layout["xaxis"] |= {"type": "category", "showgrid": False, "tickangle": 0, "nticks": 10}
    layout["yaxis"] |= {"tickprefix": "$", "title": {"text": "above the bound, a day"}, "tickformat": ",.0f"}
    return {"data": bars, "layout": layout}


def _day(data: ReportData, day: int) -> str:
    """The name of a day that counts: where it begins."""
    seconds = data.score_from * data.bin_seconds + day * DAY_SECONDS
    if data.began is None:
        return f"day {int(seconds // DAY_SECONDS) + 1}"
    at = data.began + timedelta(seconds=seconds)
    return f"{at:%a}<br>{at.day} {at:%b}"


# ---- latency ---------------------------------------------------------------------------------------------------------


def latency(data: ReportData) -> Figure:
    """First tokens by minute of arrival, and how many requests were in flight."""
    assert data.latency is not None
    minutes = data.latency.minutes
    at: Floats = epoch_ms(data) + np.arange(len(minutes), dtype=np.float64) * (MINUTE_SECONDS * 1000)
    drawn = [
        ("p99", "first token, p99", minutes.first_token[99], "#b9cfe0", "y"),
        ("p95", "first token, p95", minutes.first_token[95], BLUE, "y"),
        ("p50", "first token, p50", minutes.first_token[50], INK, "y"),
        ("local", "in flight on replicas", minutes.in_flight_local, "#74acd2", "y2"),
        ("outside", "in flight outside", minutes.in_flight_outside, ORANGE, "y2"),
    ]
    lines: list[Figure] = [
        {
            "type": "scatter", "mode": "lines", "name": name, "meta": series, "yaxis": axis,
            "line": {"color": colour, "width": 1.5, "shape": "hv"},
            "x": _encoded(at, "f8"), "y": _encoded(values, "f4"),
            "hovertemplate": "%{y:.2f} s" if axis == "y" else "%{y:.1f}",
        }
        for series, name, values, colour, axis in drawn
    ]  # fmt: skip
    layout = _layout(420)
    layout["xaxis"] |= _days(data) | {"anchor": "y2"}
    layout["yaxis"] |= {"title": {"text": "seconds from arrival"}, "domain": [0.4, 1]}
    layout["yaxis2"] = layout["yaxis"] | {"title": {"text": "in flight"}, "domain": [0, 0.32], "nticks": 4}
    layout["hovermode"] = "x unified"
    return {"data": lines, "layout": layout}


# ---- looks -----------------------------------------------------------------------------------------------------------


def _layout(height: int) -> Figure:
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "automargin": True}
    return {
        "height": height,
        "font": {"family": FONT, "size": 13, "color": INK},
        "margin": {"l": 62, "r": 12, "t": 40, "b": 40},
        "legend": {
            "orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "font": {"size": 12.5}, "traceorder": "normal",
        },
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "hoverlabel": {"font": {"family": FONT, "size": 12.5}},
        "xaxis": dict(axis),
        "yaxis": axis | {"rangemode": "tozero"},
    }  # fmt: skip


def _days(data: ReportData) -> Figure:
    day = "%a %-d %b" if data.began is not None else "day %-j"
    return {
        "type": "date",
        "hoverformat": f"{day}, %H:%M:%S",
        "tickformatstops": [
            {"dtickrange": [None, 59_999], "value": f"%H:%M:%S<br>{day}"},
            {"dtickrange": [60_000, DAY_MS - 1], "value": f"%H:%M<br>{day}"},
            {"dtickrange": [DAY_MS, None], "value": day},
        ],
    }


def _named(policy: str) -> str:
    """For plotly, which reads tags in a text as formatting and links."""
    return escape(called(policy), quote=False)


def _bold(text: str, is_bold: bool) -> str:
    return f"<b>{text}</b>" if is_bold else text


def _encoded(values: Floats, dtype: str) -> dict[str, str]:
    """As plotly.js reads typed arrays."""
    return {"dtype": dtype, "bdata": base64.b64encode(values.astype(f"<{dtype}").tobytes()).decode()}
