"""`kubectl spillway explain` beyond the status: the account of a decision, from the operator or from its recordings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientTimeout
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spillway.act.kube import Kube, KubeError, path
from spillway.api import MoEDeployment
from spillway.controller.recording import Record, Trouble, files, read_file
from spillway.decide import Account, account, decode
from spillway.decide.outcome import Decision

LEADER = "app.kubernetes.io/name=spillway-operator,spillway.dev/leader=true"
HEALTH_PORT = 8081
DIRECT_TIMEOUT_SECONDS = 30.0
AGO = re.compile(r"(\d+)\s*([smhd])(?:\s*ago)?")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Found:
    """An account with where it is from; `misfits` are words about pools that cannot run the model, by pool."""

    account: Account
    misfits: Mapping[str, str]
    source: str
    knows_misfits: bool = True


class Unknown(Exception):
    """There is no account, in words for the user."""


def moment(text: str, now: datetime) -> datetime:
    """`2026-11-26T19:00Z`, `2026-11-26 19:00`, `19:00` (the last time it was), `20m` or `2h ago`; UTC where no zone is
    given. Raises ValueError with words."""
    text = text.strip()
    if ago := AGO.fullmatch(text):
        return now - timedelta(seconds=int(ago[1]) * SECONDS[ago[2]])
    try:
        if re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?Z?", text):
            clock = datetime.strptime(text.rstrip("Z"), "%H:%M:%S" if text.count(":") == 2 else "%H:%M")  # noqa: DTZ007
            today = now.replace(hour=clock.hour, minute=clock.minute, second=clock.second, microsecond=0)
            return today if today <= now else today - timedelta(days=1)
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise ValueError(f"--at is {text!r}: give a time such as 2026-11-26T19:00Z, 19:00 (UTC) or 20m (ago)") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


async def from_operator(kube: Kube, operator_namespace: str, key: str, at: datetime | None) -> Found:
    """Ask the leader through the API server. Raises Unknown."""
    try:
        pods = await kube.request("GET", path("v1", "Pod", operator_namespace), params={"labelSelector": LEADER})
    except KubeError as error:
        raise Unknown(_refused(error, f"list pods in {operator_namespace}")) from error
    if not pods["items"]:
        raise Unknown(
            f"no operator leads in namespace {operator_namespace} (or --operator-namespace is another): "
            f"`kubectl -n {operator_namespace} get pods,lease`"
        )
    pod = pods["items"][0]
    ports = [p for c in pod["spec"].get("containers", ()) for p in c.get("ports") or () if p.get("name") == "metrics"]
    port = ports[0]["containerPort"] if ports else HEALTH_PORT
    at_seconds = {"at": f"{at.timestamp():.0f}"} if at else None
    try:
        if _is_this_machine(pod):
            answer = await _direct(f"http://{pod['status']['podIP']}:{port}/explain/{key}", at_seconds)
        else:
            proxied = f"{path('v1', 'Pod', operator_namespace, pod['metadata']['name'])}:{port}/proxy/explain/{key}"
            answer = await kube.request("GET", proxied, params=at_seconds)
    except KubeError as error:
        if error.status == 404 and not error.message:
            raise Unknown(f"the operator makes no decision for {key}: see its condition Ready") from error
        if error.status == 503:
            raise Unknown(
                f"pod {operator_namespace}/{pod['metadata']['name']} cannot be asked: it has made no plan yet, or the "
                f"API server does not reach its port {port} (a NetworkPolicy?)"
            ) from error
        raise Unknown(_refused(error, f"get pods/proxy in {operator_namespace}")) from error
    except (OSError, TimeoutError) as error:
        raise Unknown(f"the operator does not answer: {error}") from error
    if answer.get("account") is None:
        since = datetime.fromtimestamp(answer.get("since") or 0, UTC)
        raise Unknown(
            f"the operator keeps accounts of this leader's last day, the first of {since:%Y-%m-%d %H:%M:%SZ}, and none "
            f"of {key} from before that; recordings (--record) go back further"
        )
    misfits = {m["pool"]: m["reason"] for m in answer["misfits"]}
    return Found(
        decode(Account, json.dumps(answer["account"])), misfits, f"the operator ({pod['metadata']['name']})", at is None
    )


def _is_this_machine(pod: Mapping[str, Any]) -> bool:
    """Whether the pod has a loopback address, as on a local cluster of processes: API servers proxy to none."""
    try:
        return ip_address(pod.get("status", {}).get("podIP", "")).is_loopback
    except ValueError:
        return False


async def _direct(url: str, params: Mapping[str, str] | None) -> dict[str, Any]:
    """The same without the API server. Raises KubeError, OSError, TimeoutError."""
    timeout = ClientTimeout(total=DIRECT_TIMEOUT_SECONDS)
    async with ClientSession(timeout=timeout) as session, session.get(url, params=params) as response:
        if response.status != 200:
            raise KubeError(response.status, "", "")
        found: dict[str, Any] = await response.json()
        return found


def _refused(error: KubeError, right: str) -> str:
    if error.status == 403:
        return (
            f"your account may not {right}, which the operator's account of a decision needs "
            "(docs/oncall.md has a Role); recordings (--record) need no right"
        )
    return error.message or str(error)


def from_recordings(directory: Path, key: str, at: datetime | None) -> Found:
    """Of the last record at or before `at`. Raises Unknown."""
    try:
        paths = files(directory)
    except OSError as error:
        raise Unknown(f"{directory} cannot be read: {error.strerror}") from error
    latest = at.timestamp() if at else float("inf")
    troubles: list[Trouble] = []
    # A file's records are later than its name says, and earlier than those of the next by more than an hour at most.
    for record_path in reversed(paths):
        begun = datetime.strptime(record_path.name[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if begun.timestamp() > latest:
            continue
        records = []
        for found in read_file(record_path):
            if isinstance(found, Trouble):
                troubles.append(found)
            elif found.snapshot.time <= latest:
                records.append(found)
        if one := _last_of(records, key):
            return Found(
                account(one.snapshot, one.memory, key, one.plan),
                {},
                f"recording {record_path.name}",
                knows_misfits=False,
            )
    words = "; ".join(f"{t.file}: {t.words}" for t in troubles if t.broken)
    when = f" at or before {at:%Y-%m-%d %H:%M:%SZ}" if at else ""
    raise Unknown(
        f"{directory} has no decision for {key}{when}" + (f" ({words})" if words else "")
        if paths
        else f"{directory} has no recordings: was the operator run with --record?"
    )


def _last_of(records: Iterable[Record], key: str) -> Record | None:
    named = [r for r in records if r.plan.deployment(key) is not None]
    return max(named, key=lambda r: r.snapshot.time, default=None)


def tell(found: Found, console: Console, now: datetime, why_not: str | None = None, dated: bool = True) -> bool:
    """Print the account, or only what is asked of a variant; whether the variant was known."""
    one = found.account
    if dated:
        then = datetime.fromtimestamp(one.time, UTC)
        ago = max(0, int((now - then).total_seconds()))
        console.print(
            Text.assemble((one.key, "bold"), f" as of {then:%Y-%m-%d %H:%M:%SZ} ({_ago(ago)}, from {found.source})"),
            soft_wrap=True,
        )
        console.print()
    if why_not is not None:
        return _why_not(found, console, why_not)
    console.print(one.demand, soft_wrap=True, markup=False)
    console.print(one.chosen, soft_wrap=True, markup=False)
    console.print()
    console.print(options(one))
    if one.limits:
        console.print("\nWhat stands in the way:")
        for limit in one.limits:
            console.print(f"  {limit}", soft_wrap=True, markup=False)
    if changes := [d for d in one.decisions if d.changes]:
        console.print("\nDecided then:")
        for decision in changes:
            console.print(_decision(decision), soft_wrap=True)
    unused = [name for name in one.why_not if not any(o.name == name and o.chosen for o in one.variants)]
    if unused:
        console.print(f"\nWhy not another: --why-not {unused[0]}", style="dim", soft_wrap=True)
    return True


def _decision(decision: Decision) -> Text:
    dollars = f"{'+' if decision.usd_per_hour >= 0 else '-'}${abs(decision.usd_per_hour):.2f}/h"
    return Text.assemble(f"  {decision.message} (", (str(decision.code), "bold"), f", {dollars})")


def _why_not(found: Found, console: Console, asked: str) -> bool:
    """Of the variant of that name, of all of a pool, or of what fits nowhere."""
    one = found.account
    named = [name for name in one.why_not if name == asked] or [n for n in one.why_not if n.startswith(f"{asked}-")]
    for name in named:
        console.print(Text.assemble((name, "bold"), f"  {one.why_not[name]}"), soft_wrap=True)
    if named:
        return True
    misfit = next((pool for pool in sorted(found.misfits) if asked == pool or asked.startswith(f"{pool}-")), None)
    if misfit is not None:
        console.print(
            Text.assemble((asked, "bold"), f"  It is not feasible: {misfit}: {found.misfits[misfit]}."), soft_wrap=True
        )
        return True
    known = ", ".join(one.why_not) or "none"
    if found.knows_misfits:
        why = "No pool of that name can be asked for, or spec.placement.variants leaves it out"
    else:
        why = "It was not feasible then, or there was none of that name: only the live explain knows which"
    console.print(Text.assemble((asked, "bold"), f"  {why}. The variants are: {known}."), soft_wrap=True)
    return False


def options(one: Account) -> Table:
    """What serving all of the demand of now would cost."""
    table = Table(box=None, pad_edge=False)
    for heading in ("ALL OF IT ON", "REPLICAS", "$/H", "κ", "WANTED", "READY", ""):
        table.add_column(heading, justify="left" if heading in ("ALL OF IT ON", "") else "right", no_wrap=True)
    for option in one.variants:
        table.add_row(
            option.name,
            f"{option.replicas} ({option.work:.1f})",
            _usd(option.usd_per_hour),
            "-" if option.spill_cost_ratio is None else f"{option.spill_cost_ratio:.2f}",
            str(option.chosen),
            str(option.ready),
            Text(option.note),
        )
    for option in one.providers:
        table.add_row(Text(option.name), "", _usd(option.usd_per_hour), "", "", "", Text(option.note))
    return table


def _usd(amount: float | None) -> str:
    return "-" if amount is None else f"{amount:,.2f}"


def _ago(seconds: int) -> str:
    if seconds >= 3 * 86_400:
        return f"{seconds // 86_400} days ago"
    return f"{age(seconds)} ago" if seconds >= 2 else "now"


def from_status(moe: MoEDeployment, asked: str, console: Console) -> bool:
    """What the status alone can say of a variant; whether it knows it. It does not know prices of what does not run."""
    named = [v for v in moe.status.variants if v.name == asked or v.name.startswith(f"{asked}-")]
    for variant in named:
        if variant.desired:
            words = f"It is used: {variant.desired} wanted, {variant.ready} ready, ${variant.cost_per_hour}/h."
        else:
            words = "It is not wanted now."
        told = [d for d in moe.status.decisions if d.variant == variant.name][:1]
        last = f" The last decision on it: {told[0].reason}, {told[0].message}." if told else ""
        console.print(Text.assemble((variant.name, "bold"), f"  {words}{last}"), soft_wrap=True)
    limited = next((c for c in moe.status.conditions if c.type == "ScalingLimited" and c.status == "True"), None)
    if limited is not None:
        console.print(f"ScalingLimited: {limited.message}", soft_wrap=True, markup=False)
    if not named:
        console.print(
            Text.assemble((asked, "bold"), "  The status does not name it: it runs nowhere, or no pool can run it."),
            soft_wrap=True,
        )
    console.print(
        "The status alone does not know what it would cost, which pools are closed and who has their GPUs.",
        style="dim",
        soft_wrap=True,
    )
    return bool(named)


def age(seconds: int) -> str:
    """As kubectl writes it: 45s, 3m20s, 2h5m."""
    if seconds < 120:
        return f"{seconds}s"
    if seconds < 7200:
        return f"{seconds // 60}m{seconds % 60}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60}m"
