"""`spillway simulate`: options, mistakes, and a contract that anybody can recompute (decisions.md §8)."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from typer.testing import CliRunner

from spillway.cli.main import app
from spillway.cli.simulate import seconds, windows
from spillway.simulate.presets import PRESETS
from spillway.simulate.scenario_spec import (
    DemandSpec,
    FaultsSpec,
    PoolSpec,
    PriceChangeSpec,
    ProviderSpec,
    Simulation,
    SimulationSpec,
    Times,
    spelled,
)
from spillway.simulate.study import POLICIES
from spillway.simulate.synthetic import Synthetic

REPOSITORY = Path(__file__).resolve().parents[3]
SAMPLE = REPOSITORY / "docs/simulate/two-models.yaml"
WIDE = {"COLUMNS": "2000", "TERMINAL_WIDTH": "2000", "NO_COLOR": "1"}


def simulate(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner(env=WIDE).invoke(app, ["simulate", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six hours that come and go faster and slower than a cold start."""
    random = np.random.default_rng(5)
    levels = np.repeat(random.choice([0.0, 0.2, 1.0, 2.0, 4.0], 72), 30)
    path = tmp_path_factory.mktemp("traces") / "bursts.csv"
    rows = [f"{t * 10},{n},{n * 1600},{n * 300}" for t, n in enumerate(random.poisson(50 * levels).tolist())]
    path.write_text("\n".join(["t,n,tin,tout", *rows]) + "\n")
    return path


# ---- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [("600", 600), ("600s", 600), ("10m", 600), ("1h30m", 5400), ("7d", 604_800), ("0.5h", 1800), (" 5m ", 300)],
)
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "ten", "10 m", "-5m", "5m!", "m5", "1e3"])
def test_what_is_no_duration_is_told(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no duration: write 600, 600s, 10m, 1h30m or 7d"):
        seconds(text)


def test_windows() -> None:
    found = windows("6h-7h,30h-31h30m")
    assert found.spans == ((21_600.0, 25_200.0), (108_000.0, 113_400.0))
    assert windows(str(found)) == found
    assert windows("").spans == ()
    with pytest.raises(typer.BadParameter, match="'6h' is no window"):
        windows("6h")
    with pytest.raises(typer.BadParameter, match="'7h-6h' ends before it begins"):
        windows("7h-6h")


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    for reading in (seconds, windows):
        try:
            reading(text)
        except typer.BadParameter:
            continue


def test_help_names_every_policy_and_preset() -> None:
    status, text, _ = simulate("--help")
    assert status == 0
    listed = text.replace("|", " ").replace("│", " ")
    words = {word.strip(".,;:()") for word in listed.split()}
    assert set(POLICIES) | set(PRESETS) <= words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--policy", "magic"], "no policy 'magic': there are spillway, "),
        (["--policy", "fixed-N"], "no policy 'fixed-N'"),
        (["--policy", "fixed-"], "no policy 'fixed-'"),
        (["--prices", "Z"], "no --prices 'Z': there are glm-5, A, B, C"),
        (["--trace", "/nowhere/x.csv"], "/nowhere/x.csv"),
        (["--requests"], "168.0 hours; request by request at most 24 are played: choose some with --slice"),
        (["--requests", "--slice", "0h-1h", "--policy", "clairvoyant"], "is a schedule for a fluid: leave out --req"),
        (["--requests", "--slice", "0h-2h", "--fleet", "400"], "5,000,000 are played one by one: choose less time"),
        (["--scenario", "/nowhere/x.yaml"], "/nowhere/x.yaml: cannot be read"),
        (["--scenario", str(SAMPLE), "--policy", "clairvoyant"], "policy 'clairvoyant' knows the future"),
        (["--scenario", str(SAMPLE), "--policy", "magic"], "no policy 'magic'"),
        (["--scenario", str(SAMPLE), "--requests"], "deployments.chat/glm-5: more than 24 hours; with --requests set"),
    ],
)
def test_a_mistake_ends_with_one_line_and_status_2(arguments: list[str], words: str) -> None:
    status, _, errors = simulate(*arguments)
    assert status == 2
    [told] = errors.strip().splitlines()
    assert told.startswith("spillway simulate: ")
    assert words in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--delay", "soon"], "'soon' is no duration"),
        (["--outage", "5h-4h"], "'5h-4h' ends before it begins"),
        (["--start-failures", "2"], "--start-failures"),
        (["--scenario", str(SAMPLE), "--fleet", "3"], "--scenario does not go with --fleet: say it in its Simulation"),
        (["--scenario", str(SAMPLE), "--trace", "x.csv", "--tick", "5"], "does not go with --trace, --tick"),
        (["--scenario", str(SAMPLE), "--report", "x.html"], "--report is of one deployment"),
        (["--prometheus", "http://127.0.0.1:1"], "--prometheus needs --deployment NAMESPACE/NAME"),
        (["--deployment", "chat/glm-5"], "--deployment: of what --prometheus has, which is not given"),
        (["--range", "3d", "--step", "1m"], "--range, --step: of what --prometheus has"),
        (["--slice", "1h-2h,3h-4h"], "are several windows: write one FROM-TO, such as 12h-13h"),
        (["--outside-first-token", "2s", "--outside-speed", "50"], "of single requests: add --requests"),
        (["--scenario", str(SAMPLE), "--slice", "1h-2h"], "--scenario does not go with --slice"),
        (
            ["--trace", "x.csv", "--prometheus", "http://127.0.0.1:1", "--deployment", "a/b"],
            "--trace and --prometheus are both given",
        ),
    ],
)
def test_options_that_cannot_be_are_refused(arguments: list[str], words: str) -> None:
    status, _, errors = simulate(*arguments)
    assert status == 2
    assert words in " ".join(errors.split())


# ---- the contract ----------------------------------------------------------------------------------------------------

USD, DELAY, MINIMUM, DRAIN, BIN = 24.0, 600, 900, 60, 10
CONTRACT = f"--price-replica {USD} --price-in 3 --price-out 15 --prefill 20000 --decode 10000 --delay {DELAY}"
CONTRACT += f" --min-billing {MINIMUM} --drain {DRAIN} --slo-queue 10 --fleet 3 --seed 0"


@pytest.mark.parametrize("policy", ["spillway", "hpa", "fixed-2", "all-external"])
def test_the_cost_follows_from_what_is_written(policy: str, trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    status, text, errors = simulate(*CONTRACT.split(), "--trace", trace, "--policy", policy, "--json", out)
    assert status == 0, errors
    told = json.loads(out.read_text())
    bins, first = len(told["work"]), told["score_from"]
    assert told["bin_seconds"] == BIN
    assert first == 360
    for name in ("spill_price", "asked", "ready", "served", "spilled", "refused"):
        assert len(told[name]) == bins, name
    assert np.mean(told["work"]) == pytest.approx(3.0)

    rent = USD * BIN / 3600
    gpu, starts, up = 0.0, 0, [-10_000] * told["asked"][0]  # bins in which the replicas that are up were asked for
    for t, asked in enumerate(told["asked"]):
        begun = max(0, asked - len(up))
        up += [t] * begun
        stopped = 0.0
        while len(up) > asked:  # the youngest goes first
            age = t - up.pop()
            stopped += max(0, MINIMUM // BIN - age) + (DRAIN // BIN if age >= DELAY // BIN else 0)
        assert told["ready"][t] == sum(t - since >= DELAY // BIN for since in up)
        if t >= first:
            gpu += (asked + stopped) * rent
            starts += begun
    external = sum(s * p for s, p in zip(told["spilled"][first:], told["spill_price"][first:], strict=True))
    assert told["gpu"] == pytest.approx(gpu)
    assert told["external"] == pytest.approx(external)
    assert told["cost"] == pytest.approx(gpu + external)
    assert told["starts_per_day"] == pytest.approx(starts / ((bins - first) * BIN / 86_400))
    assert told["ratio"] == pytest.approx(told["cost"] / told["lower_bound"])
    assert told["ratio"] > 1
    assert told["slo"] == 1
    if policy in ("spillway", "hpa"):
        assert starts > 2, "or the test tests nothing"

    # Work is served in order, by what is ready, and waits for ten seconds of it at most.
    queue = 0.0
    for t in range(bins):
        queue += told["work"][t]
        served = min(queue, told["ready"][t])
        queue -= served
        out_now = max(0.0, queue - told["ready"][t])
        queue -= out_now
        assert told["served"][t] == pytest.approx(served, abs=1e-6)
        assert told["spilled"][t] + told["refused"][t] == pytest.approx(out_now, abs=1e-6)
    assert f"${told['cost']:,.0f}" in text


def test_equal_wishes_give_equal_answers(trace: Path, tmp_path: Path) -> None:
    outs = [tmp_path / name for name in ("a.json", "b.json")]
    for out in outs:
        assert simulate("--trace", trace, "--prices", "C", "--fleet", "2", "--json", out)[0] == 0
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_a_table_beside_others_and_what_a_faster_start_is_worth(trace: Path) -> None:
    status, text, _ = simulate("--trace", trace, "--fleet", "4", "--prices", "B")
    assert status == 0
    for words in (
        "4.0 replicas of work on average",
        "hpa-tuned*",
        "lower bound*",
        "A cold start of 300 s instead of 600",
    ):
        assert words in text


def test_json_on_standard_output_is_nothing_but_json(trace: Path) -> None:
    status, text, errors = simulate("--trace", trace, "--prices", "C", "--fleet", "2", "--json", "-")
    assert status == 0
    assert json.loads(text)["policy"] == "spillway"
    assert "lower bound" in errors


# ---- single requests -------------------------------------------------------------------------------------------------

MOONCAKE = "\n".join(
    f'{{"timestamp": {500 * n}, "input_length": {1000 + 700 * (n % 5)}, "output_length": {100 + 90 * (n % 3)}}}'
    for n in range(4000)
)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two requests a second for half an hour and more."""
    path = tmp_path_factory.mktemp("traces") / "requests.jsonl"
    path.write_text(MOONCAKE)
    return path


def test_single_requests_tell_latencies_and_every_dollar(single: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    options = "--requests --prices C --fleet 6 --policy fixed-4 --outside-first-token 2s --outside-slots 40 --quota 600"
    status, text, errors = simulate(*options.split(), "--trace", single, "--json", out)
    assert status == 0, errors
    told = json.loads(out.read_text())
    bins, first = len(told["work"]), told["score_from"]
    assert np.mean(told["work"]) == pytest.approx(6.0)
    for name in ("gpu_usd", "stop_usd", "external_usd", "late", "served", "spilled", "refused"):
        assert len(told[name]) == bins, name
    gpu, external = sum(told["gpu_usd"][first:]) + sum(told["stop_usd"][first:]), sum(told["external_usd"][first:])
    assert (told["gpu"], told["external"]) == (pytest.approx(gpu), pytest.approx(external))
    assert told["cost"] == pytest.approx(gpu + external)
    paid = sum(s * p for s, p in zip(told["spilled"][first:], told["spill_price"][first:], strict=True))
    assert paid == pytest.approx(external) and external > 0
    work = sum(sum(told[name][first:]) for name in ("served", "spilled", "refused"))
    bad = sum(told["refused"][first:]) + sum(told["late"][first:])
    assert told["slo"] == pytest.approx(1 - bad / work)

    requests = told["requests"]
    for name in (*told, *requests, *requests["by_minute"]):
        assert name == "policy" or re.search(rf"`(requests\.)?{name}`", PAGE), name
    assert set(requests["destinations"]) == {"local", "provider", "refused"}
    assert sum(requests["destinations"].values()) == requests["count"]
    minutes = requests["by_minute"]
    arrived = sum(sum(numbers) for numbers in minutes["destinations"].values())
    since = sum(sum(numbers[first // 6 :]) for numbers in minutes["destinations"].values())
    assert requests["count"] == pytest.approx(since, abs=arrived / bins * 6)
    for kind in ("first_token", "end_to_end"):
        assert requests[kind]["p50"] <= requests[kind]["p95"] <= requests[kind]["p99"]
        assert {len(values) for values in minutes[kind].values()} == {len(minutes["in_flight_local"])}
    assert max(minutes["in_flight_outside"]) <= 40
    assert f"{requests['count']:,} requests" in text
    assert f"(p50), {requests['first_token']['p95']:.1f} s (p95)" in text
    [row] = [line for line in text.splitlines() if line.startswith("fixed-4 ")]
    assert f"{requests['first_token']['p95']:.1f} s" in row


def test_single_requests_of_all_policies_but_a_fluids_schedule(single: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    options = "--requests --prices C --slice 5m-25m --policy fixed-1 --no-compare"
    status, text, errors = simulate(*options.split(), "--trace", single, "--report", page)
    assert status == 0, errors
    assert text.startswith("requests: 20 min of 2,400 requests")
    assert "Latency" in page.read_text()
    status, text, errors = simulate("--requests", "--slice", "0h-10m", "--trace", single, "--prices", "C", "--compare")
    assert status == 0, errors
    assert "hpa-tuned*" in text and "clairvoyant" not in text


def test_a_slice_is_for_a_fluid_too(trace: Path) -> None:
    status, text, errors = simulate("--trace", trace, "--slice", "1h-3h", "--no-compare", "--policy", "fixed-2")
    assert status == 0, errors
    assert text.startswith("bursts: 2 h, ")
    status, _, errors = simulate("--trace", trace, "--slice", "7h-8h", "--no-compare")
    assert status == 2
    assert "bursts: there is nothing from 25200 s to 28800 s: it has 21600 s" in errors


# ---- a scenario ------------------------------------------------------------------------------------------------------


def test_a_scenario_tells_of_deployments_pools_budgets_policies_and_decisions(tmp_path: Path) -> None:
    short, out = tmp_path / "short.yaml", tmp_path / "out.json"
    short.write_text(SAMPLE.read_text().replace("days: 7", "hours: 2").replace("[hpa, keda]", "[hpa]"))
    status, text, errors = simulate("--scenario", short, "--json", out)
    assert status == 0, errors
    lines = text.splitlines()
    told = json.loads(out.read_text())
    assert lines[0].startswith("two-models: 0.0833 days from Tue 31 Mar 22:00:00 UTC; 2 deployments, 2 pools")
    for key, one in told["deployments"].items():
        [row] = [line for line in lines if line.startswith(f"{key} ")]
        assert f"${one['cost']:,.0f}" in row
    for name, pool in told["pools"].items():
        [row] = [line for line in lines if line.startswith(f"{name} ")]
        assert row.split()[1:4] == [str(pool["gpus"]), f"{pool['mean']:.1f}", str(pool["max"])]
    for budget in told["budgets"]:
        [period] = budget["periods"]
        [row] = [line for line in lines if line.startswith(f"{budget['policy']}/{budget['name']} ")]
        assert f"${period['spent']:,.2f}" in row
        assert row.split()[-1] == "0"
    assert set(told["policies"]) == {"spillway", "hpa"}
    assert any(line.startswith("hpa ") for line in lines)
    assert "The last " in text
    assert "hopper-h200-fp8-vllm" in lines[-2]


def test_a_scenario_compares_nothing_if_asked_so(tmp_path: Path) -> None:
    short = tmp_path / "short.yaml"
    short.write_text(SAMPLE.read_text().replace("days: 7", "hours: 0.2"))
    status, text, _ = simulate("--scenario", short, "--no-compare", "--policy", "keda")
    assert status == 0
    assert "VS KEDA" not in text


def test_a_scenario_request_by_request(tmp_path: Path) -> None:
    short, out = tmp_path / "short.yaml", tmp_path / "out.json"
    short.write_text(SAMPLE.read_text().replace("days: 7", "hours: 0.5").replace("[hpa, keda]", "[hpa]"))
    status, text, errors = simulate("--scenario", short, "--requests", "--json", out)
    assert status == 0, errors
    told = json.loads(out.read_text())
    for key, one in told["deployments"].items():
        requests = one["requests"]
        assert sum(requests["destinations"].values()) == requests["count"] > 1000
        assert len(requests["by_minute"]["in_flight_local"]) == 30
        assert len(one["late"]) == len(one["work"]) == 180
        [row] = [line for line in text.splitlines() if line.startswith(f"{key} ")]
        assert row.split()[-4:] == [*_seconds(requests["first_token"]["p95"]), *_seconds(requests["end_to_end"]["p95"])]
        assert one["external"] == pytest.approx(sum(one["external_usd"]))
    [month] = [budget for budget in told["budgets"] if budget["scope"] == "Total"]
    cost = sum(one["cost"] for one in told["deployments"].values())
    assert sum(period["spent"] for period in month["periods"]) == pytest.approx(cost), "every request is charged"
    assert set(told["policies"]) == {"spillway", "hpa"}


def _seconds(value: float) -> tuple[str, str]:
    return (f"{value:.2f}" if value < 10 else f"{value:.1f}"), "s"


# ---- the page for users ----------------------------------------------------------------------------------------------

PAGE = (REPOSITORY / "docs/simulate.md").read_text()


def test_the_page_names_only_options_that_there_are_and_every_policy() -> None:
    _, text, _ = simulate("--help")
    options = set(re.findall(r"--[a-z][a-z-]*", text))
    assert set(re.findall(r"(?<![-\w])--[a-z][a-z-]*", PAGE)) <= options
    assert options - {"--help"} <= set(re.findall(r"--[a-z][a-z-]*", PAGE)) | {"--compare"}
    for policy in POLICIES:
        assert f"`{policy}`" in PAGE, policy


@pytest.mark.parametrize(
    "model", [SimulationSpec, DemandSpec, FaultsSpec, PoolSpec, ProviderSpec, PriceChangeSpec, Times]
)
def test_the_page_names_every_field_of_a_simulation(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        assert re.search(rf"\b{field.alias or name}\b", PAGE), name


def test_the_page_names_every_field_of_synthetic_demand_and_of_the_contract(trace: Path, tmp_path: Path) -> None:
    for one in fields(Synthetic):
        if one.name not in ("name", "bins"):
            assert f"`{spelled(one.name)}`" in PAGE, one.name
    out = tmp_path / "out.json"
    assert simulate("--trace", trace, "--policy", "fixed-2", "--prices", "C", "--fleet", "2", "--json", out)[0] == 0
    for name in json.loads(out.read_text()):
        assert f"`{name}`" in PAGE or name == "policy", name


def test_the_simulation_of_the_page_is_read_as_it_is() -> None:
    [block] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    Simulation.model_validate(yaml.safe_load(block))
