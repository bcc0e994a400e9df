"""The commands. Each has a help text with an example; a mistake ends with one line that says what to do.

A command imports what it needs when it runs: the gateway's image has no Kubernetes client and no solver.
"""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from spillway.cli import catalog
from spillway.cli.simulate import simulate

app = typer.Typer(
    name="spillway",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Serves Mixture-of-Experts models on Kubernetes at the lowest cost that keeps the promise to users. "
    "Also installed as `kubectl spillway`.",
)
app.add_typer(catalog.app, name="catalog")
app.command()(simulate)
bills = typer.Typer(invoke_without_command=True, rich_markup_mode="markdown")
app.add_typer(bills, name="bill")

ENV = "SPILLWAY_"
LOG_LEVELS = ("debug", "info", "warning", "error")


def setting(text: str, name: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(help=text, envvar=f"{ENV}{name}", show_default=True)
    return option


def this_process() -> str:
    """A name that no other process has: two operators outside a cluster must not take each other for themselves."""
    return f"{socket.gethostname()}-{os.getpid()}"


@app.command()
def operator(
    pod_name: Annotated[
        str,
        typer.Option(
            help="Name of this pod, by which it holds the Lease. Default: host name and process id.",
            envvar="POD_NAME",
            default_factory=this_process,
            show_default=False,
        ),
    ],
    namespace: Annotated[str, setting("Namespace of Spillway's own objects.", "NAMESPACE")] = "spillway-system",
    prometheus_url: Annotated[
        str, setting("Prometheus that scrapes engines and gateways.", "PROMETHEUS_URL")
    ] = "http://prometheus-operated.monitoring.svc:9090",
    bind_address: Annotated[str, setting("Address of the ADS and health ports.", "BIND_ADDRESS")] = "0.0.0.0",
    ads_port: Annotated[int, setting("Port that the gateways connect to (leader only).", "ADS_PORT")] = 18000,
    health_port: Annotated[int, setting("Port of /livez, /readyz and /metrics.", "HEALTH_PORT")] = 8081,
    gateway_host: Annotated[
        str, setting("DNS name of the gateway's Service.", "GATEWAY_HOST")
    ] = "spillway-gateway.spillway-system.svc.cluster.local",
    gateway_metrics_port: Annotated[int, setting("Metrics port of the gateways.", "GATEWAY_METRICS_PORT")] = 9902,
    catalog_config_map: Annotated[
        str, setting("ConfigMap beside the operator that is laid over the catalog.", "CATALOG_CONFIG_MAP")
    ] = "spillway-catalog",
    scraper_namespace: Annotated[
        str, setting("Namespace of the Prometheus that may scrape engines.", "SCRAPER_NAMESPACE")
    ] = "monitoring",
    pod_monitor_labels: Annotated[
        str, setting("Labels of the PodMonitors of engines: key=value,key=value.", "POD_MONITOR_LABELS")
    ] = "",
    tick_seconds: Annotated[float, setting("Time between two plans.", "TICK_SECONDS")] = 10.0,
    rate_window_seconds: Annotated[
        float, setting("Window of arrival rates; at least four scrape intervals.", "RATE_WINDOW_SECONDS")
    ] = 60.0,
    token_window_seconds: Annotated[
        float, setting("Window of the mean tokens per request.", "TOKEN_WINDOW_SECONDS")
    ] = 300.0,
    metrics_stale_seconds: Annotated[
        float, setting("Older metrics hold the replicas.", "METRICS_STALE_SECONDS")
    ] = 60.0,
    drain_seconds: Annotated[
        float, setting("Longest wait for a replica's last request before it is stopped.", "DRAIN_SECONDS")
    ] = 300.0,
    deregister_seconds: Annotated[
        float, setting("From leaving the gateways to being stopped, at least.", "DEREGISTER_SECONDS")
    ] = 5.0,
    prestop_seconds: Annotated[int, setting("preStop sleep of engine pods.", "PRESTOP_SECONDS")] = 10,
    engine_drain_seconds: Annotated[int, setting("Drain time of engines after SIGTERM.", "ENGINE_DRAIN_SECONDS")] = 60,
    probe_period_seconds: Annotated[int, setting("Period of the engines' probes.", "PROBE_PERIOD_SECONDS")] = 10,
    engine_cpu_millis_per_gpu: Annotated[
        int, setting("CPU that an engine's pod requests for each GPU, in thousandths.", "ENGINE_CPU_MILLIS_PER_GPU")
    ] = 4000,
    engine_memory_mib_per_gpu: Annotated[
        int, setting("Memory that an engine's pod requests for each GPU, in MiB.", "ENGINE_MEMORY_MIB_PER_GPU")
    ] = 32768,
    shortest_answer_seconds: Annotated[
        float,
        setting("No billed answer of a provider is faster; the budgets' bound rests on it.", "SHORTEST_ANSWER_SECONDS"),
    ] = 0.25,
    fastest_stream_tokens_per_second: Annotated[
        float,
        setting("No provider streams faster; the budgets' bound rests on it.", "FASTEST_STREAM_TOKENS_PER_SECOND"),
    ] = 300.0,
    lease_duration_seconds: Annotated[float, setting("Leader lease.", "LEASE_DURATION_SECONDS")] = 15.0,
    lease_deadline_seconds: Annotated[
        float, setting("Renewal deadline of the leader.", "LEASE_DEADLINE_SECONDS")
    ] = 10.0,
    lease_retry_seconds: Annotated[float, setting("Time between renewals.", "LEASE_RETRY_SECONDS")] = 2.0,
    workers: Annotated[int, setting("Parallel reconciles.", "WORKERS")] = 4,
    record: Annotated[
        str, setting("Directory in which each decision is recorded, for `spillway replay`; empty: none is.", "RECORD")
    ] = "",
    record_megabytes: Annotated[
        int, setting("Most that the recordings take; the oldest are deleted first.", "RECORD_MEGABYTES")
    ] = 1024,
    log_level: Annotated[str, setting("debug, info, warning or error.", "LOG_LEVEL")] = "info",
) -> None:
    """Run the operator: watches the four kinds, decides, writes, and tells the gateways. One leads, others stand by.

    Uses the kubeconfig (KUBECONFIG) or the pod's service account.
    """
    from spillway.controller import logs
    from spillway.controller.process import run
    from spillway.controller.settings import OperatorSettings

    options = {name: value for name, value in locals().items() if name in OperatorSettings.model_fields}
    if log_level.lower() not in LOG_LEVELS:
        typer.echo(f"spillway operator: --log-level is {log_level!r}: use one of {', '.join(LOG_LEVELS)}", err=True)
        raise typer.Exit(2)
    try:
        settings = OperatorSettings.model_validate(options)
    except ValidationError as error:
        for problem in error.errors():
            flag = "--" + str(problem["loc"][0]).replace("_", "-")
            words = problem["msg"].removeprefix("Value error, ")
            typer.echo(f"spillway operator: {flag} is {problem['input']!r}: {words}", err=True)
        raise typer.Exit(2) from error
    logs.set_up(log_level)
    asyncio.run(run(settings))


@app.command()
def gateway() -> None:
    """Run a gateway: writes Envoy's bootstrap and becomes Envoy. Settings come from the pod's environment:
    POD_NAME, POD_IP, SPILLWAY_ADS_ADDRESS (host:port) and SPILLWAY_RUN_DIRECTORY, SPILLWAY_KEYS_DIRECTORY."""
    from spillway.gateway.process import run_gateway

    try:
        run_gateway(os.environ)
    except KeyError as error:
        typer.echo(f"spillway gateway: set {error.args[0]} in the environment", err=True)
    except (ValueError, OSError) as error:
        typer.echo(f"spillway gateway: {error}", err=True)
    raise typer.Exit(2)


@app.command("gateway-drain")
def gateway_drain() -> None:
    """Drain this pod's gateway before it stops (its preStop hook): takes nothing new, finishes what is open."""
    from spillway.gateway.process import drain_gateway

    drain_gateway(os.environ)


@app.command()
def explain(
    name: Annotated[str, typer.Argument(help="Name of the MoEDeployment.")],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Its namespace.")] = "default",
    context: Annotated[str | None, typer.Option(help="kubeconfig context.")] = None,
    at: Annotated[str | None, typer.Option(help="As it was then: 2026-11-26T19:00Z, 19:00 (UTC) or 20m (ago).")] = None,
    why_not: Annotated[
        str | None, typer.Option(help="Only why this variant, or this pool, is not used.", metavar="VARIANT")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="From what `spillway operator --record` wrote; asks no cluster.", metavar="DIR")
    ] = None,
    operator_namespace: Annotated[str, typer.Option(help="Namespace of the operator.")] = "spillway-system",
) -> None:
    """Tell why a model runs as it does: replicas, spill, money, what each option would cost, and the last decisions.

    Example: `kubectl spillway explain glm-5 -n chat`, `kubectl spillway explain glm-5 -n chat --why-not hopper-h200`
    """
    from spillway.cli.explain import Question, show

    question = Question(name, namespace, context, at, why_not, record, operator_namespace)
    raise typer.Exit(asyncio.run(show(question)))


@bills.callback()
def bill(
    context_of_command: typer.Context,
    by: Annotated[
        str,
        typer.Option(help="Columns: day, month, team, deployment, source, provider, pool, supplier, model, charge."),
    ] = "team,deployment,supplier,model",
    month: Annotated[str | None, typer.Option(help="A month such as 2026-11. Default: this one.")] = None,
    since: Annotated[str | None, typer.Option("--from", help="First day, such as 2026-11-01.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="First day that does not count.")] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Of one team. Default: all.")] = None,
    time_zone: Annotated[str, typer.Option(help="Whose days and months, such as Europe/Berlin.")] = "UTC",
    output: Annotated[
        str, typer.Option("--format", help="table, csv, json, or focus (CSV of the FinOps specification FOCUS).")
    ] = "table",
    context: Annotated[str | None, typer.Option(help="kubeconfig context.")] = None,
    operator_namespace: Annotated[str, typer.Option(help="Namespace of the operator.")] = "spillway-system",
) -> None:
    """Tell where the money went: API and GPU dollars by day, team, deployment, provider, pool or model.

    Example: `kubectl spillway bill --by team,supplier`, `kubectl spillway bill --month 2026-10 --format focus`
    """
    if context_of_command.invoked_subcommand is not None:
        return
    from spillway.cli.bill import Question, show

    asked = Question(by, month, since, until, namespace, time_zone, output, context, operator_namespace)
    raise typer.Exit(asyncio.run(show(asked)))


@bills.command()
def adjust(
    deployment: Annotated[str | None, typer.Argument(help="Name of the MoEDeployment.")] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Its namespace.")] = None,
    provider: Annotated[str | None, typer.Option(help="The ExternalProvider.")] = None,
    model: Annotated[str | None, typer.Option(help="Its model. Default: the only one that was used.")] = None,
    day: Annotated[
        str | None, typer.Option(help="Day such as 2026-11-26, or month such as 2026-11, as `bill --by day` has it.")
    ] = None,
    usd: Annotated[str | None, typer.Option(help="Dollars to add, such as -1.77.")] = None,
    to: Annotated[str | None, typer.Option(help="Or what was really spent that day, such as 2.68.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why, for those who read it later.")] = None,
    id: Annotated[str | None, typer.Option(help="Its id: what has one is applied once. Default: a new one.")] = None,
    time_zone: Annotated[str, typer.Option(help="Whose days, such as Europe/Berlin.")] = "UTC",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what it would do.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the operator.")] = 60.0,
    history: Annotated[bool, typer.Option("--list", help="Show what was adjusted, and what was refused.")] = False,
    output: Annotated[str, typer.Option("--format", help="Of --list: table or json.")] = "table",
    context: Annotated[str | None, typer.Option(help="kubeconfig context.")] = None,
    operator_namespace: Annotated[str, typer.Option(help="Namespace of the operator.")] = "spillway-system",
) -> None:
    """Bring what was estimated to what the provider's invoice says. Budgets and caps follow within seconds.

    Only estimates are lowered (`bill` shows them as ESTIMATED), never what a meter has confirmed; anything may be
    raised. What was charged stays as it is: the correction stands beside it, with who asked for it and why.

    Example: `kubectl spillway bill adjust glm-5 -n chat --provider zai --day 2026-11-26 --to 2.68 --reason "invoice
    4711"`, `kubectl spillway bill adjust --list`
    """
    from spillway.cli import adjust as asking

    if history:
        raise typer.Exit(asyncio.run(asking.history(namespace, output, context, operator_namespace)))
    asked = asking.Request(
        deployment,
        namespace,
        provider,
        model,
        day,
        usd,
        to,
        reason,
        id,
        time_zone,
        dry_run,
        wait,
        context,
        operator_namespace,
    )
    raise typer.Exit(asyncio.run(asking.adjust(asked)))


@app.command()
def budget(
    name: Annotated[str | None, typer.Argument(help="Name of the CostPolicy. Default: all.")] = None,
    context: Annotated[str | None, typer.Option(help="kubeconfig context.")] = None,
) -> None:
    """Tell where budgets stand: spent, left, in flight, and how long they last at the present burn.

    Example: `kubectl spillway budget`, `kubectl spillway budget assist`
    """
    from spillway.cli.budget import show

    raise typer.Exit(asyncio.run(show(name, context)))


@app.command()
def stop_spill(
    names: Annotated[list[str] | None, typer.Argument(help="CostPolicies to suspend.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Suspend every ExternalProvider instead.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Allow it again.")] = False,
    context: Annotated[str | None, typer.Option(help="kubeconfig context.")] = None,
) -> None:
    """Stop spending at external APIs within seconds; what is under way is finished and paid.

    Example: `kubectl spillway stop-spill assist`, `kubectl spillway stop-spill --all`
    """
    from spillway.cli.budget import switch

    raise typer.Exit(asyncio.run(switch(names or [], everything, undo, context)))


@app.command()
def replay(
    directory: Annotated[Path, typer.Argument(help="What `spillway operator --record` wrote.")],
    json: Annotated[bool, typer.Option("--json", help="The outcome as JSON.")] = False,
) -> None:
    """Make recorded decisions again with this version, and tell whether they are the same, bit by bit.

    Exit status 1 where a plan differs or a record cannot be read.

    Example: `spillway replay /var/lib/spillway/decisions`
    """
    from rich.console import Console

    from spillway.cli.replay import show

    raise typer.Exit(show(directory, json, Console(highlight=False), Console(stderr=True, highlight=False)))


def main() -> None:
    app()
