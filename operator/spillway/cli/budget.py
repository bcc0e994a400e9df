"""`kubectl spillway budget` and `stop-spill`: where budgets stand, and the kill switch."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from spillway.act.kube import Kube, KubeError, Object, path
from spillway.api import API_VERSION, CostPolicy, InvalidSpec, parse
from spillway.cli.account import age
from spillway.cli.connection import NoCluster, cluster
from spillway.ledger import MAX_PER_HOUR

HEADINGS = ("POLICY", "BUDGET", "SCOPE", "SINCE", "SPENT", "OF", "USED", "LEFT", "IN FLIGHT", "BURN/H", "LASTS")
STOPPED = "spillway.dev/stopped-by"  # annotation on what `stop-spill` suspended
RIGHT = {"SPENT", "OF", "USED", "LEFT", "IN FLIGHT", "BURN/H"}


async def show(name: str | None, context: str | None) -> int:
    """Print budgets, of one policy with what each deployment spent; returns the exit status."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    errors = Console(stderr=True, highlight=False, markup=False)
    try:
        async with cluster(context) as kube:
            found = await _policies(kube, name)
    except NoCluster as error:
        errors.print(f"spillway: {error}", soft_wrap=True)
        return error.status
    except KubeError as error:
        missing = error.status == 404 and name
        words = f"no CostPolicy {name!r}: see `kubectl get cpol`" if missing else error.message or str(error)
        errors.print(f"spillway: {words}", soft_wrap=True)
        return 1
    tell(found, console, datetime.now(UTC), details=name is not None)
    return 0


async def _policies(kube: Kube, name: str | None) -> list[Object]:
    where = path(API_VERSION, "CostPolicy", None, name or "")
    found = await kube.request("GET", where)
    return [found] if name else sorted(found["items"], key=lambda o: str(o["metadata"]["name"]))


def tell(objects: Iterable[Object], console: Console, now: datetime, *, details: bool) -> None:
    """A line for each budget, then what a person should know of each policy."""
    table = Table(box=None, pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading in RIGHT else "left", no_wrap=True)
    notes: list[str] = []
    shown: list[tuple[str, Table]] = []
    for obj in objects:
        policy = parse(CostPolicy, obj)
        name = obj["metadata"]["name"]
        if isinstance(policy, InvalidSpec):
            notes.append(f"{name} cannot be used: {policy.message}")
            continue
        if policy.spec.suspend:
            notes.append(f"{name} is suspended: nothing is spilled (`kubectl spillway stop-spill {name} --undo`)")
        if policy.spec.enforcement == "DryRun":
            notes.append(f"{name} is on trial (enforcement: DryRun): its budgets stop nothing")
        notes += [
            f"{name}: {c.reason}: {c.message}"
            for c in policy.status.conditions
            if c.type in ("Ready", "WithinBudget", "Forecast") and c.status != "True"
        ]
        if not policy.status.budgets:
            notes.append(f"{name} has not been accounted yet: is an operator running?")
        scopes = {b.name: b.scope for b in policy.spec.budgets}
        for one in policy.status.budgets:
            used = f"{one.spent / one.amount:.1%}" if one.amount else "-"
            cells = (name, one.name, scopes.get(one.name, "-"), f"{one.period_start:%Y-%m-%d %H:%MZ}")
            dollars = (one.remaining, one.reserved, one.burn_per_hour)
            lasts = _lasts(one.exhausted_at, one.remaining <= 0, now)
            table.add_row(
                *map(Text, (*cells, f"{one.spent:,.2f}", f"{one.amount:,.2f}", used)),
                *(Text(f"{usd:,.2f}") for usd in dollars),
                Text(lasts, style="red" if one.remaining <= 0 else ""),
            )
            if details and one.by_deployment:
                by = Table(box=None, pad_edge=False)
                by.add_column("DEPLOYMENT", no_wrap=True)
                by.add_column("SPENT", justify="right")
                for spend in sorted(one.by_deployment, key=lambda d: (-d.spent, d.namespace, d.name)):
                    by.add_row(Text(f"{spend.namespace}/{spend.name}"), f"{spend.spent:,.2f}")
                shown.append((one.name, by))
        if (hour := policy.status.last_hour) is not None:
            used = f"{hour.spent / hour.amount:.1%}" if hour.amount else "-"
            lasts = f"spent, again {hour.opens_at:%H:%MZ}" if hour.opens_at else "to its end"
            numbers = (f"{hour.spent:,.2f}", f"{hour.amount:,.2f}", used, f"{hour.remaining:,.2f}", "-")
            table.add_row(
                *map(Text, (name, MAX_PER_HOUR, "External", "60 minutes ago", *numbers, f"{hour.spent:,.2f}")),
                Text(lasts, style="red" if hour.opens_at else ""),
            )
    if table.row_count:
        console.print(table)
    elif not notes:
        console.print("There is no CostPolicy: nothing is spilled (docs/platform.md has one to begin with).")
    for heading, by in shown:
        console.print(f"\nOf {heading}:")
        console.print(by)
    if notes:
        console.print()
    for note in notes:
        console.print(Text(note), soft_wrap=True)


def _lasts(exhausted_at: datetime | None, spent: bool, now: datetime) -> str:
    if spent:
        return "spent" + (f" since {exhausted_at:%Y-%m-%d %H:%MZ}" if exhausted_at else "")
    if exhausted_at is None:
        return "to its end"
    return f"{age(max(0, int((exhausted_at - now).total_seconds())))} at this burn"


def _is_meant(provider: Object, undo: bool) -> bool:
    """Of all: what is not suspended yet, and back again only what this command stopped: not what somebody had suspended
    for a reason of their own."""
    annotations = provider["metadata"].get("annotations") or {}
    return STOPPED in annotations if undo else not (provider.get("spec") or {}).get("suspend")


async def switch(names: list[str], everything: bool, undo: bool, context: str | None) -> int:
    """Suspend CostPolicies, or all ExternalProviders, or end that; returns the exit status."""
    errors = Console(stderr=True, highlight=False, markup=False)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    if bool(names) is everything:
        errors.print("spillway: give the CostPolicies to suspend, or --all for every ExternalProvider")
        return 2
    kind = "ExternalProvider" if everything else "CostPolicy"
    try:
        async with cluster(context) as kube:
            if everything:
                found = (await kube.request("GET", path(API_VERSION, kind, None)))["items"]
                names = sorted(str(o["metadata"]["name"]) for o in found if _is_meant(o, undo))
                if not names:
                    console.print(_nothing_to_do(bool(found), undo))
                    return 0
            done = [await _suspend(kube, kind, name, undo, console, errors) for name in names]
    except KubeError as error:
        errors.print(f"spillway: {error.message or error}", soft_wrap=True)
        return 1
    except NoCluster as error:
        errors.print(f"spillway: {error}", soft_wrap=True)
        return error.status
    return 0 if all(done) else 1


def _nothing_to_do(there_are: bool, undo: bool) -> str:
    if not there_are:
        return "There is no ExternalProvider: nothing can spill."
    return "None of the providers was stopped by this command." if undo else "All are suspended."


async def _suspend(kube: Kube, kind: str, name: str, undo: bool, console: Console, errors: Console) -> bool:
    """One object, with a line that says what comes of it; whether it could be done."""
    patch: Object = {
        "metadata": {"annotations": {STOPPED: None if undo else "stop-spill"}},
        "spec": {"suspend": not undo},
    }
    try:
        await kube.merge(path(API_VERSION, kind, None, name), patch)
    except KubeError as error:
        words = f"there is no {kind} {name!r}" if error.status == 404 else error.message or str(error)
        errors.print(f"spillway: {words}", soft_wrap=True)
        return False
    effect = "may be used again" if undo else "takes no new request within seconds"
    console.print(f"{'policy' if kind == 'CostPolicy' else 'provider'} {name}: {effect}", soft_wrap=True)
    return True
