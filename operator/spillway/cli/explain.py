"""`kubectl spillway explain`: what the status holds, as a person would tell it."""

from __future__ import annotations

import sys
import warnings
from datetime import UTC, datetime

from kubernetes.aio import client, config
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spillway.act.kube import Kube, KubeError, path
from spillway.api import API_VERSION, InvalidSpec, MoEDeployment, MoEDeploymentStatus, parse

GOOD = {"Ready": "True", "MetricsAvailable": "True", "SpillAvailable": "True", "WithinBudget": "True"}


async def show(name: str, namespace: str, context: str | None, console: Console | None = None) -> int:
    """Print the explanation; returns the exit status."""
    if console is None:
        # A file or a pipe has no width: nothing is to be cut there.
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    errors = Console(stderr=True, highlight=False, markup=False)
    try:
        configuration = client.Configuration()
        chosen = {"context": context} if context else {}  # in a pod there is none, and the client takes none
        with warnings.catch_warnings(action="ignore"):  # its warning says less than we do
            await config.load_config(client_configuration=configuration, **chosen)  # type: ignore[no-untyped-call]
    except (config.ConfigException, TypeError) as error:
        errors.print(f"spillway: no cluster to ask: {str(error).rstrip('.')}. Set KUBECONFIG or --context.")
        return 2
    async with client.ApiClient(configuration) as api:
        try:
            obj = await Kube(api).request("GET", path(API_VERSION, "MoEDeployment", namespace, name))
        except KubeError as error:
            if error.status == 404:
                errors.print(
                    f"spillway: no MoEDeployment {name!r} in namespace {namespace!r}: see `kubectl get moe -A`"
                )
            else:
                errors.print(f"spillway: {error.message}")
            return 1
        except OSError as error:
            errors.print(f"spillway: {configuration.host} does not answer: {error}")
            return 1
    moe = parse(MoEDeployment, obj)
    if isinstance(moe, InvalidSpec):
        errors.print(f"spillway: {namespace}/{name} cannot be served: {moe.message}")
        return 1
    tell(moe, console, datetime.now(UTC))
    return 0


def tell(moe: MoEDeployment, console: Console, now: datetime) -> None:
    """The whole explanation of one deployment."""
    status = moe.status
    console.print(Text.assemble((f"{moe.key}", "bold"), f"  {moe.spec.model.name} with {moe.spec.engine.name}"))
    if status.observed_generation is None:
        console.print("The operator has not seen it yet: is it running? `kubectl -n spillway-system get pods`")
        return
    if status.observed_generation < moe.metadata.generation:
        console.print("The operator has not seen the last change of its spec yet.")
    console.print(f"{status.summary or '0/0'} replicas ready at {status.endpoint or 'no address yet'}\n")
    for condition in status.conditions:
        fine = condition.status == GOOD.get(condition.type, "False")
        style = "green" if fine else "yellow"
        said = Text.assemble(
            (f"{condition.type}={condition.status}", style), f"  {condition.reason}: {condition.message}"
        )
        if not fine or condition.type == "Ready":
            console.print(said, soft_wrap=True)
    console.print()
    console.print(variants(status))
    if status.load:
        console.print(load(status))
    if status.cost is not None and status.spill is not None:
        console.print(
            f"GPUs ${status.cost.gpu_per_hour}/h, providers ${status.cost.external_per_hour}/h; "
            f"spill is {'allowed' if status.spill.active else 'off'} ({status.spill.reason}), "
            f"{status.spill.share:.0%} of requests spill now\n"
        )
    if not status.decisions:
        console.print("No decision has changed anything yet.")
        return
    console.print("Last decisions, newest first:")
    for decision in status.decisions:
        ago = max(0, int((now - decision.time).total_seconds()))
        dollars = f"{'+' if decision.dollars_per_hour >= 0 else '-'}${abs(decision.dollars_per_hour)}/h"
        console.print(
            Text.assemble(
                (f"  {age(ago):>7} ago  ", "dim"),
                (f"{decision.reason:18}", "bold"),
                f" {decision.message}  ({dollars})",
            ),
            soft_wrap=True,
        )


def variants(status: MoEDeploymentStatus) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("VARIANT", "WANTED", "READY", "STARTING", "PENDING", "GPUS EACH", "$/H", "COLD START"):
        table.add_column(heading, justify="left" if heading == "VARIANT" else "right", no_wrap=True)
    for variant in status.variants:
        table.add_row(
            variant.name,
            str(variant.desired),
            str(variant.ready),
            str(variant.starting),
            str(variant.pending),
            str(variant.gpus_per_replica),
            str(variant.cost_per_hour),
            "-" if variant.cold_start_seconds is None else age(round(variant.cold_start_seconds)),
        )
    return table


def load(status: MoEDeploymentStatus) -> Table:
    table = Table(box=None, pad_edge=False)
    headings = ("VARIANT", "RUNNING", "WAITING", "KV CACHE", "AT LIMIT", "TOKENS/S IN", "OUT", "FIRST TOKEN", "NEXT")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "VARIANT" else "right", no_wrap=True)
    for one in status.load:
        table.add_row(
            one.variant,
            str(one.running),
            str(one.waiting),
            f"{one.kv_use:.0%}",
            str(one.saturated),
            str(one.input_tokens_per_second),
            str(one.output_tokens_per_second),
            latency(one.time_to_first_token_seconds),
            latency(one.inter_token_latency_seconds),
        )
    return table


def latency(seconds: float | None) -> str:
    """In milliseconds where that is short."""
    if seconds is None:
        return "-"
    return f"{seconds:.1f}s" if seconds >= 1 else f"{seconds * 1000:.0f}ms"


def age(seconds: int) -> str:
    """As kubectl writes it: 45s, 3m20s, 2h5m."""
    if seconds < 120:
        return f"{seconds}s"
    if seconds < 7200:
        return f"{seconds // 60}m{seconds % 60}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60}m"
