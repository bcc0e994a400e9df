"""The command `spillway simulate`: its options. What it does is in `simulation`, which takes a second to import."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

# As in `simulate.study` and `simulate.presets`; a test compares.
POLICIES = (
    "spillway, lcp, plcp, hex, hpa, keda, kpa, apa, apa-documented, dynamo, wva, wva-v2, kubeai, skyserve, "
    "all-external; "
    "in hindsight hpa-tuned, fixed-best, fixed-p99.9, clairvoyant; fixed-N"
)
PRESETS = "glm-5, A, B, C"
Window = tuple[float, float]


PART = re.compile(r"(\d+(?:\.\d+)?)(d|h|m|s)")
SECONDS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


def seconds(text: object) -> float:
    """Of a duration: `600`, `600s`, `10m`, `1h30m`, `7d`."""
    written = str(text).strip()
    if re.fullmatch(r"\d+(\.\d+)?", written):
        return float(written)
    parts = PART.findall(written)
    if not parts or "".join(number + unit for number, unit in parts) != written:
        raise typer.BadParameter(f"{written!r} is no duration: write 600, 600s, 10m, 1h30m or 7d")
    return sum(float(number) * SECONDS[unit] for number, unit in parts)


@dataclass(frozen=True, slots=True)
class Windows:
    """Times from the begin of the trace, in seconds."""

    spans: tuple[Window, ...] = ()

    def __str__(self) -> str:
        return ",".join(f"{begin:g}-{end:g}" for begin, end in self.spans)


def windows(text: object) -> Windows:
    """Of `6h-7h,30h-31h30m`."""
    found = []
    for part in filter(None, str(text).split(",")):
        begin, dash, end = part.partition("-")
        if not dash:
            raise typer.BadParameter(f"{part!r} is no window: write FROM-TO, such as 6h-7h30m")
        if seconds(begin) >= seconds(end):
            raise typer.BadParameter(f"{part!r} ends before it begins")
        found.append((seconds(begin), seconds(end)))
    return Windows(tuple(found))


def one_window(text: object) -> Windows:
    """Of `6h-7h`, or none."""
    found = windows(text)
    if len(found.spans) > 1:
        raise typer.BadParameter(f"{str(text)!r} are several windows: write one FROM-TO, such as 12h-13h")
    return found


@dataclass(frozen=True, slots=True)
class Wish:
    """The options, as they were given; None where the default depends on others."""

    trace: Path | None
    prometheus: str | None
    deployment: str | None
    range: float
    step: float
    save_demand: Path | None
    slice: Windows
    requests: bool
    outside_first_token: float
    outside_speed: float
    outside_slots: float
    fleet: float | None
    seed: int
    policy: str
    prices: str
    price_replica: float | None
    price_in: float | None
    price_out: float | None
    value: float | None
    prefill: float | None
    decode: float | None
    delay: float | None
    min_billing: float | None
    drain: float | None
    slo_queue: float | None
    tick: float
    metrics_window: float
    delay_cv: float
    start_failures: float
    stock_out: Windows
    outage: Windows
    quota: float
    capacity_error: float
    metrics_delay: float
    metrics_lost: Windows
    compare: bool | None
    json_out: Path | None
    report: Path | None


def option(text: str, group: str, *names: str, **more: object) -> typer.models.OptionInfo:
    made: typer.models.OptionInfo = typer.Option(*names, help=text, rich_help_panel=group, **more)  # type: ignore[arg-type]
    return made


DEMAND, PRICES, PHYSICS, TROUBLE, OUTPUT = "Demand", "Prices", "Replicas", "What goes wrong", "Output"
SINGLE = "Single requests"
CLUSTER, SCENARIO = "Demand of a running cluster", "Several deployments, pools, providers and budgets"
WITH_SCENARIO = ("scenario", "policy", "compare", "json_out", "requests")  # the rest is said in the Simulation
WITH_PROMETHEUS = ("deployment", "range", "step", "save_demand")
WITH_REQUESTS = ("outside_first_token", "outside_speed")


def given(context: typer.Context, names: Collection[str] | None = None) -> list[str]:
    """The options on the command line, as they are written: of these names, or all."""
    return [
        parameter.opts[0]
        for parameter in context.command.params
        if (names is None or parameter.name in names)
        and getattr(context.get_parameter_source(parameter.name or ""), "name", "") == "COMMANDLINE"
    ]


def check_together(
    context: typer.Context, scenario: bool, trace: bool, prometheus: bool, deployment: bool, requests: bool
) -> None:
    """Options that exclude or need each other."""
    if scenario:
        if given(context, ("report",)):
            raise typer.BadParameter("--report is of one deployment: with --scenario there is --json")
        allowed = given(context, WITH_SCENARIO)
        if others := [name for name in given(context) if name not in allowed]:
            raise typer.BadParameter(f"--scenario does not go with {', '.join(others)}: say it in its Simulation")
    if trace and prometheus:
        raise typer.BadParameter("--trace and --prometheus are both given: demand comes from one of them")
    if prometheus and not deployment:
        raise typer.BadParameter("--prometheus needs --deployment NAMESPACE/NAME")
    if not prometheus and (others := given(context, WITH_PROMETHEUS)):
        raise typer.BadParameter(f"{', '.join(others)}: of what --prometheus has, which is not given")
    if not requests and (others := given(context, WITH_REQUESTS)):
        raise typer.BadParameter(f"{', '.join(others)}: of single requests: add --requests")


def simulate(
    context: typer.Context,
    trace: Annotated[
        Path | None,
        option(
            "Requests: 10 s bins (t,n,tin,tout), Azure 2023 or 2024, BurstGPT (CSV) or Mooncake (JSON lines), plain or "
            "gzipped. Default: a synthetic week of chat.",
            DEMAND,
        ),
    ] = None,
    fleet: Annotated[
        float | None,
        option("Scale the demand to so many replicas on average. Default: as it is.", DEMAND, min=1e-3, max=1e4),
    ] = None,
    seed: Annotated[int, option("Of all randomness; equal seeds give equal runs.", DEMAND, min=0)] = 0,
    slice: Annotated[
        Windows,
        option(
            "Only this part of the demand, such as 12h-13h. Default: its first week.",
            DEMAND,
            parser=one_window,
            metavar="FROM-TO",
            show_default=False,
        ),
    ] = Windows(),
    requests: Annotated[
        bool,
        option(
            "Play every request by itself, and tell latencies; at most 5 million in 24 hours.",
            SINGLE,
            "--requests",
        ),
    ] = False,
    outside_first_token: Annotated[
        float,
        option("Until the provider's first token.", SINGLE, parser=seconds, metavar="DURATION", show_default="1s"),
    ] = 1.0,
    outside_speed: Annotated[float, option("Tokens per second of the provider's answer.", SINGLE, min=1e-3)] = 25.0,
    outside_slots: Annotated[
        float, option("Requests in flight that the provider takes.", TROUBLE, min=0, show_default="no limit")
    ] = float("inf"),
    prometheus: Annotated[
        str | None, option("Address of the Prometheus that scrapes gateways and engines.", CLUSTER, metavar="URL")
    ] = None,
    deployment: Annotated[
        str | None, option("The MoEDeployment whose demand is replayed.", CLUSTER, metavar="NAMESPACE/NAME")
    ] = None,
    range: Annotated[
        float, option("How much of the past.", CLUSTER, parser=seconds, metavar="DURATION", show_default="7d")
    ] = 604_800.0,
    step: Annotated[
        float,
        option("Resolution; at least four scrapes.", CLUSTER, parser=seconds, metavar="DURATION", show_default="1m"),
    ] = 60.0,
    save_demand: Annotated[
        Path | None, option("Keep it as a trace, for --trace or a scenario.", CLUSTER, metavar="FILE.csv.gz")
    ] = None,
    scenario: Annotated[
        list[Path] | None,
        option(
            "YAML of MoEDeployments, GPUPools, ExternalProviders and CostPolicies with one Simulation "
            "(docs/simulate.md); a file or a directory, may be repeated.",
            SCENARIO,
            metavar="FILE",
        ),
    ] = None,
    policy: Annotated[str, option(f"Who decides: {POLICIES}.", DEMAND)] = "spillway",
    prices: Annotated[
        str, option(f"Prices and speeds to start from: {PRESETS}. What follows replaces parts.", PRICES)
    ] = "glm-5",
    price_replica: Annotated[float | None, option("$ per replica and hour.", PRICES, min=1e-6)] = None,
    price_in: Annotated[float | None, option("$ per million input tokens outside.", PRICES, min=0)] = None,
    price_out: Annotated[float | None, option("$ per million output tokens outside.", PRICES, min=0)] = None,
    value: Annotated[
        float | None,
        option("$ that serving a request is worth. Default: a hundred times what it costs outside.", PRICES, min=0),
    ] = None,
    prefill: Annotated[float | None, option("Input tokens per second of one replica.", PHYSICS, min=1e-3)] = None,
    decode: Annotated[float | None, option("Output tokens per second of one replica.", PHYSICS, min=1e-3)] = None,
    delay: Annotated[float | None, option("Cold start.", PHYSICS, parser=seconds, metavar="DURATION")] = None,
    min_billing: Annotated[
        float | None, option("Billed life of a replica, at least.", PHYSICS, parser=seconds, metavar="DURATION")
    ] = None,
    drain: Annotated[
        float | None, option("Billed after a replica is stopped.", PHYSICS, parser=seconds, metavar="DURATION")
    ] = None,
    slo_queue: Annotated[
        float | None,
        option("How long work may wait for a replica before it spills.", PHYSICS, parser=seconds, metavar="DURATION"),
    ] = None,
    tick: Annotated[float, option("Between two decisions.", PHYSICS, parser=seconds, metavar="DURATION")] = 10.0,
    metrics_window: Annotated[
        float, option("Demand is seen as its mean over so long.", PHYSICS, parser=seconds, metavar="DURATION")
    ] = 30.0,
    delay_cv: Annotated[
        float, option("Coefficient of variation of cold starts (lognormal).", TROUBLE, min=0, max=10)
    ] = 0.0,
    start_failures: Annotated[
        float, option("Share of starts that fail and begin again.", TROUBLE, min=0, max=0.95)
    ] = 0.0,
    stock_out: Annotated[
        Windows,
        option("When the pool gives no GPU: FROM-TO,… such as 30h-33h.", TROUBLE, parser=windows, metavar="FROM-TO,…"),
    ] = Windows(),
    outage: Annotated[
        Windows,
        option("When the provider answers nothing.", TROUBLE, parser=windows, metavar="FROM-TO,…"),
    ] = Windows(),
    quota: Annotated[
        float, option("Requests per minute that the provider takes.", TROUBLE, min=0, show_default="no limit")
    ] = float("inf"),
    capacity_error: Annotated[
        float,
        option("Share of its work that a replica does not do, though Spillway believes so.", TROUBLE, min=-3, max=0.9),
    ] = 0.0,
    metrics_delay: Annotated[
        float, option("Age of the newest metrics.", TROUBLE, parser=seconds, metavar="DURATION")
    ] = 0.0,
    metrics_lost: Annotated[
        Windows,
        option("When no metrics come.", TROUBLE, parser=windows, metavar="FROM-TO,…"),
    ] = Windows(),
    compare: Annotated[
        bool | None,
        option(
            "Play other scalers' rules and hindsight on the same demand, too. Default: yes, but not with --json.",
            OUTPUT,
        ),
    ] = None,
    json_out: Annotated[
        Path | None, option("Write the run bin by bin as JSON; - is standard output.", OUTPUT, "--json", metavar="FILE")
    ] = None,
    report: Annotated[Path | None, option("Write a page with plots.", OUTPUT, metavar="FILE.html")] = None,
) -> None:
    """Tell what traffic would cost with Spillway, beside what it would cost otherwise.

    A virtual cluster is steered by the code that the operator runs. Without options: a synthetic week of chat with
    GLM-5 on B200, in about two minutes.

    Examples: `spillway simulate` · `spillway simulate --trace requests.csv.gz --fleet 8 --prices C --delay 10m` ·
    `spillway simulate --delay 5m --outage 60h-62h --report week.html` ·
    `spillway simulate --requests --slice 12h-13h` ·
    `spillway simulate --prometheus http://localhost:9090 --deployment chat/glm-5 --price-replica 20` ·
    `spillway simulate --scenario docs/simulate/two-models.yaml`
    """
    check_together(context, bool(scenario), trace is not None, prometheus is not None, deployment is not None, requests)
    if scenario:
        from spillway.cli.scenario import main as play_scenario

        raise typer.Exit(play_scenario(scenario, policy, compare, json_out, requests))
    from spillway.cli.simulation import main

    wish = Wish(**{name: given for name, given in locals().items() if name in Wish.__dataclass_fields__})
    raise typer.Exit(main(wish))
