"""`kubectl spillway explain`: what the status holds and what the operator accounts for, as a person would tell it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from spillway.act.kube import Kube, KubeError, path
from spillway.api import API_VERSION, DecisionStatus, InvalidSpec, MoEDeployment, MoEDeploymentStatus, parse
from spillway.cli import account
from spillway.cli.account import Unknown, age
from spillway.cli.connection import NoCluster, cluster

GOOD = {
    "Ready": "True",
    "MetricsAvailable": "True",
    "SpillAvailable": "True",
    "RoutesAvailable": "True",
    "WithinBudget": "True",
}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of one MoEDeployment. `at`: of a time before now; `why_not`: of one variant or pool; `record`: of
    recordings, not of a cluster."""

    name: str
    namespace: str = "default"
    context: str | None = None
    at: str | None = None
    why_not: str | None = None
    record: Path | None = None
    operator_namespace: str = "spillway-system"

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


async def show(question: Question, console: Console | None = None) -> int:
    """Print the explanation; returns the exit status."""
    if console is None:
        # A file or a pipe has no width: nothing is to be cut there.
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    errors = Console(stderr=True, highlight=False, markup=False)
    now = datetime.now(UTC)
    try:
        at = account.moment(question.at, now) if question.at else None
    except ValueError as error:
        errors.print(f"spillway: {error}", soft_wrap=True)
        return 2
    if question.record is not None:
        try:
            found = account.from_recordings(question.record, question.key, at)
        except Unknown as error:
            errors.print(f"spillway: {error}", soft_wrap=True)
            return 1
        return 0 if account.tell(found, console, now, question.why_not) else 1
    try:
        async with cluster(question.context) as kube:
            try:
                moe = await _deployment(kube, question)
            except Unknown as error:
                errors.print(f"spillway: {error}", soft_wrap=True)
                return 1
            return await answer(question, moe, kube, at, now, console)
    except NoCluster as error:
        errors.print(f"spillway: {error}", soft_wrap=True)
        return error.status


async def _deployment(kube: Kube, question: Question) -> MoEDeployment:
    name, namespace = question.name, question.namespace
    try:
        obj = await kube.request("GET", path(API_VERSION, "MoEDeployment", namespace, name))
    except KubeError as error:
        if error.status == 404:
            raise Unknown(f"no MoEDeployment {name!r} in namespace {namespace!r}: see `kubectl get moe -A`") from error
        raise Unknown(error.message) from error
    moe = parse(MoEDeployment, obj)
    if isinstance(moe, InvalidSpec):
        raise Unknown(f"{namespace}/{name} cannot be served: {moe.message}")
    return moe


async def answer(
    question: Question, moe: MoEDeployment, kube: Kube, at: datetime | None, now: datetime, console: Console
) -> int:
    """From the operator where it can be asked, else from the status as far as that goes."""
    whole = at is None and question.why_not is None
    if whole:
        tell(moe, console, now)
        console.print()
    try:
        found = await account.from_operator(kube, question.operator_namespace, question.key, at)
    except Unknown as error:
        if whole:
            console.print(f"What each option would cost is not known here: {error}.", style="dim", soft_wrap=True)
            return 0
        console.print(f"From the status alone: {error}.\n", style="yellow", soft_wrap=True)
        if at is not None:
            before = [d for d in moe.status.decisions if d.time <= at]
            console.print(f"The last decision before {at:%Y-%m-%d %H:%M:%SZ} that the status remembers:")
            decisions(before[:1], console, now)
        if question.why_not is not None:
            account.from_status(moe, question.why_not, console)
        return 1
    return 0 if account.tell(found, console, now, question.why_not, dated=not whole) else 1


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
    decisions(status.decisions, console, now)


def decisions(found: Sequence[DecisionStatus], console: Console, now: datetime) -> None:
    for decision in found:
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
    if not found:
        console.print("  none")


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
