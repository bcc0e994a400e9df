"""Demand that a real Prometheus has, written into it for a day beforehand, as the simulator replays it."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from e2e.cluster.controlplane import answers
from e2e.cluster.processes import Process, free_port, wait_until
from e2e.cluster.prometheus import find_prometheus
from spillway.cli.main import app
from spillway.observe.prometheus import MetricsUnavailable
from spillway.simulate.replay import replay
from spillway.simulate.traces import BadTrace, read

SCRAPE = 15
HOURS = 6
BEGIN = 1_767_571_200  # 2026-01-05 00:00 UTC
UNTIL = datetime.fromtimestamp(BEGIN + HOURS * 3600, UTC)
GAP = (3 * 3600, 3 * 3600 + 1800)  # Prometheus was away
STEP_AT = 2 * 3600  # demand rises
KEY = 'deployment="chat/glm-5"'
ENGINE = 'namespace="chat",deployment="glm-5",variant="v",pod="glm-5-a"'


def per_second(at: float) -> float:
    return 2.0 if at < STEP_AT else 5.0


def counters() -> Iterator[tuple[str, str, Callable[[float], float]]]:
    """Series by family, with what each counts at a number of requests: of ten one goes to a provider, one is refused;
    a local request has 1,000 tokens and 100, one outside 1,500 and 300."""
    yield "envoy_spillway_arrivals", KEY, lambda n: n
    yield "envoy_spillway_arrivals", 'deployment="search/r1"', lambda n: n
    yield "envoy_spillway_answers", f'{KEY},served_by="local",code_class="2xx"', lambda n: 0.8 * n
    yield "envoy_spillway_egress_requests", f'{KEY},outcome="metered/stream"', lambda n: 0.1 * n
    yield "envoy_spillway_egress_prompt_tokens", KEY, lambda n: 0.1 * n * 1500
    yield "envoy_spillway_egress_completion_tokens", KEY, lambda n: 0.1 * n * 300
    yield "vllm:prompt_tokens_total", ENGINE, lambda n: 0.8 * n * 1000
    yield "vllm:generation_tokens_total", ENGINE, lambda n: 0.8 * n * 100


def backfill(directory: Path) -> None:
    """What scrapes of six hours would have left."""
    lines: list[str] = []
    told: set[str] = set()
    for name, labels, count in counters():
        if name not in told:
            lines.append(f"# TYPE {name} unknown")
            told.add(name)
        requests = 0.0
        for at in range(0, HOURS * 3600 + 1, SCRAPE):
            requests += SCRAPE * per_second(at)
            if not GAP[0] <= at < GAP[1]:
                lines.append(f"{name}{{{labels}}} {count(requests)} {BEGIN + at}")
    page = directory / "history.txt"
    page.write_text("\n".join([*lines, "# EOF", ""]))
    promtool = Path(find_prometheus()).with_name("promtool")
    command = [str(promtool), "tsdb", "create-blocks-from", "openmetrics", str(page), str(directory / "data")]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("prometheus")
    backfill(directory)
    configuration = directory / "prometheus.yml"
    configuration.write_text(yaml.safe_dump({"scrape_configs": []}))
    listen = f"127.0.0.1:{free_port()}"
    process = Process(
        "prometheus",
        [
            find_prometheus(),
            f"--config.file={configuration}",
            f"--storage.tsdb.path={directory / 'data'}",
            "--storage.tsdb.retention.time=100y",
            f"--web.listen-address={listen}",
            "--log.level=warn",
        ],
        directory / "prometheus.log",
    ).start()
    try:
        wait_until("prometheus", lambda: answers(f"http://{listen}/-/ready"), 30, process)
        yield f"http://{listen}"
    finally:
        process.stop()


def test_demand_is_what_arrived_with_the_tokens_of_what_was_finished(url: str) -> None:
    trace = replay(url, "chat/glm-5", HOURS * 3600, 60, UNTIL)
    assert len(trace) == pytest.approx(HOURS * 360, abs=12)
    assert trace.requests[200:700].mean() == pytest.approx(20, rel=0.02)
    assert trace.requests[800:1000].mean() == pytest.approx(50, rel=0.02)
    # (8 x 1000 + 1 x 1500) / 9 tokens a request, also of those that were refused.
    assert trace.input_tokens.sum() / trace.requests.sum() == pytest.approx(9500 / 9, rel=0.02)
    assert trace.output_tokens.sum() / trace.requests.sum() == pytest.approx(1100 / 9, rel=0.02)


def test_what_nobody_measured_is_missing(url: str) -> None:
    trace = replay(url, "chat/glm-5", HOURS * 3600, 60, UNTIL)
    assert trace.missing is not None
    assert trace.missing_bins == pytest.approx(180, abs=12)
    assert trace.missing[1090:1250].all()
    assert not trace.missing[:1070].any()


def test_a_long_range_comes_in_pieces(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = replay(url, "chat/glm-5", HOURS * 3600, 60, UNTIL)
    monkeypatch.setattr("spillway.simulate.replay.MAXIMUM_POINTS", 7)
    pieces = replay(url, "chat/glm-5", HOURS * 3600, 60, UNTIL)
    assert (pieces.requests == whole.requests).all()
    assert (pieces.input_tokens == whole.input_tokens).all()


def test_a_deployment_that_is_not_there_is_told_with_those_that_are(url: str) -> None:
    with pytest.raises(BadTrace, match=r"no traffic of 'chat/glm-6' .* it has chat/glm-5, search/r1"):
        replay(url, "chat/glm-6", HOURS * 3600, 60, UNTIL)
    with pytest.raises(BadTrace, match="it has none"):
        replay(url, "chat/glm-5", 3600, 60, datetime.fromtimestamp(BEGIN - 86_400, UTC))
    with pytest.raises(BadTrace, match="give a longer --step"):
        replay(url, "chat/glm-5", HOURS * 3600, 10, UNTIL)  # one scrape in each step


def test_the_command_replays_reports_the_gap_and_keeps_the_demand(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Then(datetime):
        @classmethod
        def now(cls, tz: object = None) -> Then:
            return cls.fromtimestamp(UNTIL.timestamp(), UTC)

    monkeypatch.setattr("spillway.cli.simulation.datetime", Then)
    kept, out = tmp_path / "demand.csv.gz", tmp_path / "out.json"
    arguments = ["--prometheus", url, "--deployment", "chat/glm-5", "--range", "6h", "--prices", "C"]
    result = CliRunner(env={"NO_COLOR": "1"}).invoke(
        app, ["simulate", *arguments, "--save-demand", str(kept), "--json", str(out)]
    )
    assert result.exit_code == 0, result.stderr
    assert "8.3% of the time nothing was measured" in result.stdout or "8.2% of the time" in result.stdout
    told = json.loads(out.read_text())
    again = read(kept)
    assert len(again) == len(told["work"])
    with gzip.open(kept, "rt") as file:
        assert next(csv.reader(file)) == ["t", "n", "tin", "tout"]


@contextmanager
def serving(status: int, body: bytes) -> Iterator[str]:
    """Something at an address of HTTP that is no Prometheus."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, b"not here"), (200, b"<html>"), (200, b"{}"), (200, b'{"data": null}'), (200, b'{"data": ["chat/glm-5"]}')],
)
def test_what_is_no_prometheus_is_told(status: int, body: bytes) -> None:
    with serving(status, body) as url, pytest.raises(MetricsUnavailable, match=url):
        replay(url, "chat/glm-5", 3600, 60, UNTIL)


def test_who_does_not_answer_is_told_in_one_line() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    result = CliRunner().invoke(app, ["simulate", "--prometheus", url, "--deployment", "chat/glm-5"])
    assert result.exit_code == 2
    [told] = result.stderr.strip().splitlines()
    assert told.startswith(f"spillway simulate: {url} cannot be reached")
