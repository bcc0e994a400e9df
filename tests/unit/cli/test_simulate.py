"""`spillway simulate`: what it takes, what it refuses, and a JSON from which anybody can recompute the cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from spillway.cli import simulate as options
from spillway.cli.main import app
from spillway.simulate.presets import PRESETS
from spillway.simulate.study import POLICIES

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four hours in bins of ten seconds."""
    path = tmp_path_factory.mktemp("traces") / "four-hours.csv"
    rng = np.random.default_rng(0)
    requests = rng.poisson(100 + 80 * np.sin(np.arange(1440) / 200))
    rows = [f"{10 * i},{n},{n * 900},{n * 150}" for i, n in enumerate(requests.tolist())]
    path.write_text("t,n,tin,tout\n" + "\n".join(rows) + "\n")
    return path


def played(trace: Path, out: Path, *more: str) -> dict[str, Any]:
    wish = "--price-replica 24 --price-in 3 --price-out 15 --prefill 20000 --decode 10000 --delay 600 --min-billing 600"
    wish += " --drain 60 --slo-queue 10 --fleet 6 --seed 0"
    result = RUNNER.invoke(app, ["simulate", "--trace", str(trace), *wish.split(), *more, "--json", str(out)])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize("policy", ["spillway", "lcp", "hpa", "fixed-7", "all-external"])
def test_anybody_can_recompute_the_cost(trace: Path, tmp_path: Path, policy: str) -> None:
    """From the arrays alone: rent of what is asked for, the last replica stops first, what is left of its minimum and
    its drain is paid, what is spilled is paid at its bin's price."""
    found = played(trace, tmp_path / "out.json", "--policy", policy)
    rent, scored = 24 * 10 / 3600, found["score_from"]
    births: list[int] = [-(10**9)] * found["asked"][0]
    gpu = 0.0
    for at, asked in enumerate(found["asked"]):
        births += [at] * (asked - len(births))
        while len(births) > asked:
            age = at - births.pop()
            if at >= scored:
                gpu += max(60 - age, 0) * rent + (6 * rent if age >= 60 else 0.0)
        if at >= scored:
            gpu += asked * rent
    external = sum(s * p for s, p in zip(found["spilled"][scored:], found["spill_price"][scored:], strict=True))
    assert found["gpu"] == pytest.approx(gpu)
    assert found["external"] == pytest.approx(external)
    assert found["cost"] == pytest.approx(gpu + external)
    assert found["ratio"] == pytest.approx(found["cost"] / found["lower_bound"])
    assert found["ratio"] >= 1
    assert found["slo"] == 1
    lengths = {len(found[name]) for name in ("work", "spill_price", "asked", "ready", "served", "spilled")}
    assert lengths == {1440}
    assert found["bin_seconds"] == 10
    served = np.array(found["served"])
    assert np.all(served <= np.array(found["ready"]) + 1e-9)


def test_equal_wishes_give_equal_answers(trace: Path, tmp_path: Path) -> None:
    assert played(trace, tmp_path / "a.json") == played(trace, tmp_path / "b.json")


def test_a_table_beside_others_and_what_a_faster_start_is_worth(trace: Path) -> None:
    result = RUNNER.invoke(app, ["simulate", "--trace", str(trace), "--fleet", "4", "--prices", "B"])
    assert result.exit_code == 0, result.output
    for words in (
        "4.0 replicas of work on average",
        "hpa-tuned*",
        "lower bound*",
        "A cold start of 300 s instead of 600",
    ):
        assert words in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--policy", "hpx"], "no policy 'hpx': there are spillway"),
        (["--prices", "D"], "no --prices 'D': there are glm-5, A, B, C"),
        (["--trace", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(arguments: list[str], says: str) -> None:
    result = RUNNER.invoke(app, ["simulate", *arguments])
    assert result.exit_code == 2
    assert says in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("option", ["--delay=x", "--outage=5h", "--outage=6h-5h", "--fleet=0", "--delay-cv=-1"])
def test_bad_options_name_themselves(option: str) -> None:
    result = RUNNER.invoke(app, ["simulate", option])
    assert result.exit_code == 2
    assert option.split("=")[0] in result.output


def test_the_help_names_every_policy_and_preset() -> None:
    named = options.POLICIES.replace(";", ",").replace("in hindsight ", "")
    assert [name.strip() for name in named.split(",")] == list(POLICIES)
    assert ", ".join(PRESETS) == options.PRESETS


@pytest.mark.parametrize(
    ("text", "expected"), [("600", 600), ("0.5", 0.5), ("10m", 600), ("1h30m", 5400), ("2h5s", 7205), ("90s", 90)]
)
def test_durations(text: str, expected: float) -> None:
    assert options.seconds(text) == expected


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    for reading in (options.seconds, options.windows):
        try:
            reading(text)
        except typer.BadParameter:
            continue


def test_windows() -> None:
    assert options.windows("6h-7h30m,100-200").spans == ((21600, 27000), (100, 200))
    assert options.windows("").spans == ()
    assert options.windows(options.Windows(((1.0, 2.0),))).spans == ((1.0, 2.0),)
