"""The report: whole, harmless, small, and in words that hold."""

from __future__ import annotations

import base64
import json
import re
import zlib
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from spillway.simulate import plots
from spillway.simulate.report import (
    MOST_ROWS,
    PolicyCost,
    ReportData,
    ReportDecision,
    ReportPackagesMissing,
    headline,
    render,
    write,
)
from spillway.simulate.reported import ReportLatency
from spillway.simulate.requests.latency import by_minute, latency
from spillway.simulate.requests.records import LOCAL, REFUSED, Records

from spillway.simulate.report import dollars, moment, percent, period  # isort: skip

WEEK = 60_480
NASTY = "</script><script>alert('x')</script><img src=http://example.com/x onerror=alert(1)>"
VOID = {"meta", "input", "br", "img", "link", "hr"}


def policy(name: str, busy: float, idle: float, start: float, external: float, slo: float = 0.9979) -> PolicyCost:
    return PolicyCost(name, busy, idle, start, external, slo, spill=0.02, starts_per_day=40)


def data(bins: int = 5 * 8640, **changes: Any) -> ReportData:
    rng = np.random.default_rng(7)
    demand = 8 + 4 * np.sin(np.arange(bins) / 8640 * 2 * np.pi) + rng.gamma(2, 0.7, bins)
    ready = np.round(demand.reshape(-1, bins // 60).mean(axis=1)).repeat(bins // 60)
    served = np.minimum(demand, ready)
    days = -(-(bins - 8640) // 8640)
    base = ReportData(
        title="A week of chat",
        bin_seconds=10.0,
        began=datetime(2024, 5, 10),  # noqa: DTZ001
        score_from=8640,
        queue_seconds=10.0,
        demand=demand,
        asked=np.roll(ready, -60),
        ready=ready,
        served=served,
        spilled=demand - served,
        policies=[
            policy("spillway", 700, 100, 50, 150),
            policy("hpa", 700, 500, 60, 40),
            policy("all-external", 0, 0, 0, 9000),
        ],
        lower_bound_usd=800.0,
        regret_usd={"spillway": [50.0] * days, "hpa": [125.0] * days},
        decisions=[
            ReportDecision(86400.0 + 60 * i, "DemandRose", f"{i}→{i + 1} b200: what it costs, $24.00 an hour", 24.0)
            for i in range(30)
        ],
        half_start_saves_usd=40.0,
        notes=["Cold starts take 10 minutes."],
    )
    return replace(base, **changes)


class Page(HTMLParser):
    """Elements in order; fails where they do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.words.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)

    def json(self, id: str) -> Any:
        names = [attributes.get("id") for name, attributes in self.elements if name == "script"]
        return json.loads(self.scripts[names.index(id)])


def test_it_is_a_page_with_its_plots_and_decisions(tmp_path: Path) -> None:
    path = write(data(), tmp_path / "out.html")
    page = Page(path.read_text(encoding="utf-8"))
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert {"fleet", "costs", "regret", "decisions", "filter"} <= ids
    assert page.count("tr") == (1 + 3) + (1 + 30)
    text = " ".join(page.words)
    assert "This week" not in text  # four days count
    assert "HPA would cost $1,300 (+30 %)." in text
    assert "Sat 11 May 00:29:00" in text
    assert "Cold starts take 10 minutes." in text


def test_it_loads_nothing_and_forbids_itself_to() -> None:
    html = render(data())
    page = Page(html)
    loaded = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in {"src", "href", "srcset", "action", "data", "poster", "background"} and value
    ]
    assert loaded == []
    styles = "".join(re.findall(r"<style>(.*?)</style>", html, re.DOTALL))
    assert styles
    assert "url(" not in styles
    assert "@import" not in styles
    policies = [a["content"] for n, a in page.elements if n == "meta" and a.get("http-equiv")]
    assert policies == [
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
    ]


def test_nothing_that_others_wrote_becomes_markup() -> None:
    plain = Page(render(data()))
    page = Page(
        render(
            data(
                title=NASTY,
                policies=[policy(NASTY, 1, 1, 1, 1), policy("hpa", 1, 1, 1, 2), policy(NASTY + "2", 1, 1, 1, 1)],
                decisions=[ReportDecision(0.0, NASTY, NASTY, 1.0)] * 30,
                notes=[NASTY],
                regret_usd={NASTY: [1.0] * 4},
            )
        )
    )
    for tag in ("script", "img"):
        assert page.count(tag) == plain.count(tag)
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert NASTY in " ".join(page.words)


def test_plotly_draws_no_markup_of_a_name() -> None:
    # plotly takes tags in texts for formatting, so that a name must not hold any
    bars = plots.costs(data(policies=[policy("<a href='http://example.com'>b</a>", 1, 1, 1, 1)]))
    assert bars["data"][0]["y"][0] == "<b>&lt;a href='http://example.com'&gt;b&lt;/a&gt;</b>"


@pytest.mark.parametrize("plot", [plots.fleet, plots.costs, plots.regret, plots.latency])
@pytest.mark.parametrize("began", [None, datetime(2024, 5, 10)])  # noqa: DTZ001
def test_plotly_knows_every_property(plot: Any, began: datetime | None) -> None:
    go.Figure(plot(data(began=began, latency=latencies())))


def latencies() -> ReportLatency:
    """Of an hour in which the last twenty minutes refuse everything."""
    at = np.arange(0, 3600, 0.5)
    refused = at >= 2400
    to = np.where(refused, REFUSED, LOCAL).astype(np.int16)
    first, ended = np.where(refused, np.nan, at + 1.25), np.where(refused, np.nan, at + 9)
    found = Records((NASTY,), at, at, at, to, first, first, ended)
    return ReportLatency({"spillway": latency(found), "hpa": latency(found, 3000)}, by_minute(found, 3600.0))


def test_latencies_have_their_plot_and_a_row_for_each_policy() -> None:
    page = Page(render(data(latency=latencies())))
    text = " ".join(" ".join(page.words).split())
    assert "Spillway 1.25 s 1.25 s 1.25 s 9.00 s 9.00 s 9.00 s 7,200 2,400" in text
    assert "HPA – – – – – – 1,200 1,200" in text
    figure = page.json("latency-data")
    p95 = next(line for line in figure["data"] if line["meta"] == "p95")
    seconds = np.frombuffer(base64.b64decode(p95["y"]["bdata"]), "<f4")
    assert seconds[:40].tolist() == [1.25] * 40 and np.isnan(seconds[40:]).all()
    assert '"latency"' in page.scripts[-1]
    without = Page(render(data()))
    assert "latency" not in {attributes.get("id") for _, attributes in without.elements}
    assert '"latency"' not in without.scripts[-1]


def test_a_week_of_10_s_bins_stays_below_6_mb() -> None:
    rng = np.random.default_rng(3)
    demand = rng.gamma(4, 2, WEEK)
    ready = rng.integers(5, 12, WEEK // 30).repeat(30).astype(float)
    served = np.minimum(demand, ready)
    message = "9→10 blackwell-b200-nvfp4-vllm: " + "demand 10.7 replicas' worth; one more costs $24.00 an hour, " * 3
    html = render(
        data(
            demand=demand,
            asked=np.roll(ready, -60),
            ready=ready,
            served=served,
            spilled=demand - served,
            decisions=[ReportDecision(60.0 * i, "DemandRose", message, 24.0) for i in range(5000)],
        )
    )
    assert len(html.encode()) < 6_000_000
    page = Page(html)
    assert page.count("tr") == (1 + 3) + (1 + MOST_ROWS)
    assert "5,000 decisions, of which these are the last 1,000" in " ".join(page.words)


def test_the_highest_peak_is_drawn_and_every_bin_can_be_had() -> None:
    noisy = data()
    noisy.demand[23_456] = 77.0
    page = Page(render(noisy))
    demand = next(trace for trace in page.json("fleet-data")["data"] if trace["meta"] == "demand")
    x = np.frombuffer(base64.b64decode(demand["x"]["bdata"]), demand["x"]["dtype"])
    y = np.frombuffer(base64.b64decode(demand["y"]["bdata"]), demand["y"]["dtype"])
    assert len(x) == len(y) <= 2 * plots.BUCKETS + 2
    assert y.max() == 77.0
    begin = datetime.fromisoformat("2024-05-10T00:00:00+00:00").timestamp()
    assert x[y.argmax()] == (begin + 234_560) * 1000
    detail = page.json("fleet-detail")
    levels = np.frombuffer(zlib.decompress(base64.b64decode(detail["data"])), "<u2").reshape(-1, detail["bins"])
    assert detail["series"] == ["demand", "asked", "ready", "served", "spilled"]
    for name, scale, values in zip(detail["series"], detail["scales"], levels, strict=True):
        whole = getattr(noisy, name)
        assert np.abs(values * scale - whole).max() <= whole.max() / plots.LEVELS


def test_bars_add_up_to_the_costs() -> None:
    figure = plots.costs(data())
    sums = np.nansum([[x if x is not None else np.nan for x in bar["x"]] for bar in figure["data"]], axis=0)
    assert dict(zip(figure["data"][0]["y"], sums.tolist(), strict=True)) == {
        "All external": 9000,
        "HPA": 1300,
        "<b>Spillway</b>": 1000,
        "lower bound": 800,
    }
    cut = [a["text"] for a in figure["layout"]["annotations"] if a["text"].endswith("▸")]
    assert cut == ["$9,000 · 11.25× ▸"]


def test_the_headline_says_what_the_figures_say() -> None:
    assert headline(data()) == [
        "These 4 days cost $1,000.",
        "HPA would cost $1,300 (+30 %).",
        "A clairvoyant would pay $800 at least: knowing the future would save 20 %.",
        "99.7 % of the work was begun within 10 s.",
        "Halving the cold start would save $70.00 a week.",  # 40 of 4 days
    ]
    assert headline(data(bins=WEEK, score_from=0))[0] == "This week costs $1,000."


def test_the_headline_says_nothing_that_was_not_simulated() -> None:
    silent = headline(data(rival="keda", lower_bound_usd=0.0, half_start_saves_usd=None))
    assert silent == ["These 4 days cost $1,000.", "99.7 % of the work was begun within 10 s."]
    assert headline(data(half_start_saves_usd=-1.0))[-1] == "Halving the cold start would save nothing."
    Page(render(data(rival="keda", lower_bound_usd=0.0, half_start_saves_usd=None, decisions=[], notes=[])))


def test_figures_in_words() -> None:
    assert [dollars(x) for x in (12345.6, 12.345, 0.0123, 0.0, -24.0)] == [
        "$12,346", "$12.35", "$0.0123", "$0.00", "−$24.00",
    ]  # fmt: skip
    assert [percent(x) for x in (1.0, 0.9999, 0.997, 0.0)] == ["100.0 %", "99.9 %", "99.7 %", "0.0 %"]
    assert [period(x) for x in (7, 1, 6, 0.5, 3.25, 13)] == [
        "This week", "This day", "These 6 days", "These 12 hours", "These 3.2 days", "These 13 days",
    ]  # fmt: skip
    assert moment(data(), 90_061.0) == "Sat 11 May 01:01:01"
    assert moment(data(began=None), 90_061.0) == "day 2, 01:01:01"


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spillway.simulate.report.find_spec", lambda name: None if name == "plotly" else object())
    with pytest.raises(ReportPackagesMissing, match=r"plotly.*pip install 'spillway\[report\]'"):
        render(data())


def test_data_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="lengths"):
        data(ready=np.zeros(3))
    with pytest.raises(ValueError, match="needs the costs"):
        data(policies=[])
    with pytest.raises(ValueError, match="no bin counts"):
        data(score_from=10**6)
