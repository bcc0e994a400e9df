"""`kubectl spillway bill adjust`: ask the operator to bring an estimate to what the invoice says, and tell what came of
it. The leader alone writes the ledger; this writes an entry of the ConfigMap that it follows."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from spillway.act.kube import Kube, KubeError, path
from spillway.cli import bill
from spillway.cli.connection import NoCluster, cluster
from spillway.ledger import Adjustment, BadAdjustment, Book, CorruptLedger, Settled, settle
from spillway.ledger.adjustment import CONFIG_MAP, ID, made, parse

POLL_SECONDS = 1.0
FORMATS = ("table", "json")
WHOM = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
ROLE = "ask for the Role spillway-bill-adjuster (docs/platform.md, 'Who may adjust the bill')"


class Refused(Exception):
    """It cannot be asked for, or was not applied; in words for the user."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for, as typed."""

    deployment: str | None
    namespace: str | None
    provider: str | None
    model: str | None
    day: str | None
    usd: str | None
    to: str | None
    reason: str | None
    id: str | None = None
    time_zone: str = "UTC"
    dry_run: bool = False
    wait_seconds: float = 60.0
    context: str | None = None
    operator_namespace: str = "spillway-system"


async def adjust(request: Request) -> int:
    """Ask, wait and tell; returns the exit status: 2 for what cannot be asked, 1 for what was not applied."""
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 200)
    errors = Console(stderr=True, highlight=False, markup=False)
    try:
        _complete(request)
        async with cluster(request.context) as kube:
            console.print(await _asked(kube, request), soft_wrap=True)
    except BadAdjustment as error:
        errors.print(f"spillway: {error}", soft_wrap=True)
        return 2
    except NoCluster as error:
        errors.print(f"spillway: {error}", soft_wrap=True)
        return error.status
    except (Refused, bill.Unreadable, CorruptLedger) as error:
        errors.print(f"spillway: {error}", soft_wrap=True)
        return 1
    return 0


def _complete(request: Request) -> None:
    """What can be said without a cluster. Raises BadAdjustment."""
    if not request.deployment:
        raise BadAdjustment("name the deployment: kubectl spillway bill adjust NAME -n NAMESPACE, or --list")
    _made(request, request.model or "any", "somebody")
    if request.id is not None and not ID.fullmatch(request.id):
        raise BadAdjustment(f"--id is {request.id!r}: give up to 63 letters, digits, dots, dashes and underscores")


def _made(request: Request, model: str, by: str) -> Adjustment:
    fields = {name: getattr(request, name) for name in ("deployment", "namespace", "provider", "day", "reason")}
    return made(
        {**fields, "model": model, "by": by, "usd": request.usd, "to": request.to, "timeZone": request.time_zone}, "--"
    )


async def _asked(kube: Kube, request: Request) -> str:
    """What came of it, in words. Raises Refused, BadAdjustment, Unreadable, CorruptLedger."""
    book = await bill.read(kube, request.operator_namespace)
    adjustment = _made(request, request.model or _model(book, request), await _user(kube))
    ref = request.id or f"{adjustment.day}-{adjustment.provider}"[:56] + f"-{secrets.token_hex(3)}"
    foreseen = settle(book, {ref: adjustment}, datetime.now(UTC))
    if ref in foreseen.problems:
        raise Refused(f"{ref} {foreseen.problems[ref]}")
    one = foreseen.settled.get(ref) or book.adjustments[ref]
    if one.refusal:
        raise Refused(f"not asked for: {one.refusal}")
    if request.dry_run:
        return f"would be {_words(one)}; nothing was asked for"
    before = book.adjustments.get(ref)
    if before is None or before.adjustment != adjustment:
        await _write(kube, request.operator_namespace, ref, adjustment, again=before is not None)
    settled = await _settled(kube, request, ref, adjustment)
    if settled.refusal:
        raise Refused(f"refused ({ref}): {settled.refusal}")
    return f"{_words(settled)} ({ref})"


def _words(one: Settled) -> str:
    return f"adjusted by {one.usd:+f} USD: {one.adjustment.whose} on {one.adjustment.day} ({one.adjustment.time_zone})"


def _model(book: Book, request: Request) -> str:
    """The only model that the deployment used at the provider. Raises BadAdjustment where there are others, or none."""
    whose = (request.namespace, request.deployment, "external", request.provider)
    models = sorted({key.model for bucket in book.spans.values() for key in bucket if key[:4] == whose})
    if len(models) == 1:
        return models[0]
    used = f"used {', '.join(models)}: give one with --model" if models else "used no model, as far as the ledger knows"
    raise BadAdjustment(f"{request.namespace}/{request.deployment} at {request.provider} {used}")


async def _user(kube: Kube) -> str:
    """Whom the API server takes us for."""
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    try:
        found = await kube.request("POST", WHOM, review)
    except KubeError as error:
        raise Refused(f"the API server does not say who you are: {error.message or error}") from error
    return str(found["status"]["userInfo"]["username"])


async def _write(kube: Kube, namespace: str, ref: str, adjustment: Adjustment, *, again: bool) -> None:
    """Put it among the requests; `again`: in place of one that was refused."""
    where = path("v1", "ConfigMap", namespace, CONFIG_MAP)
    try:
        taken = ((await kube.request("GET", where)).get("data") or {}).get(ref)
        if taken is not None and not again and not _same(ref, taken, adjustment):
            raise Refused(f"--id is {ref!r}, which another request has: give one of its own, or none")
        await kube.merge(where, {"data": {ref: json.dumps(adjustment.document())}})
    except KubeError as error:
        if error.status == 404:
            raise Refused(
                f"there is no ConfigMap {namespace}/{CONFIG_MAP}, which the manifests bring: apply them again, or "
                "--operator-namespace is another"
            ) from error
        if error.status == 403:
            raise Refused(f"your account may not change ConfigMap {namespace}/{CONFIG_MAP}: {ROLE}") from error
        raise Refused(error.message or str(error)) from error


def _same(ref: str, text: str, adjustment: Adjustment) -> bool:
    try:
        return parse(ref, text) == adjustment
    except BadAdjustment:
        return False


async def _settled(kube: Kube, request: Request, ref: str, adjustment: Adjustment) -> Settled:
    """What the ledger says of it, once it does."""
    until = time.monotonic() + request.wait_seconds
    while True:
        found = (await bill.read(kube, request.operator_namespace)).adjustments.get(ref)
        if found is not None and found.adjustment == adjustment:
            return found
        if time.monotonic() >= until:
            raise Refused(
                f"asked for ({ref}), and not settled within {request.wait_seconds:g} s: does an operator lead "
                f"(kubectl -n {request.operator_namespace} get lease)? It stays asked for; "
                "`kubectl spillway bill adjust --list` tells what came of it"
            )
        await asyncio.sleep(POLL_SECONDS)


async def history(
    namespace: str | None, format: str, context: str | None, operator_namespace: str, out: TextIO | None = None
) -> int:
    """Print all adjustments, of one namespace or of all; returns the exit status."""
    errors = Console(stderr=True, highlight=False, markup=False)
    out = out or sys.stdout
    if format not in FORMATS:
        errors.print(f"spillway: --format is {format!r}: give one of {', '.join(FORMATS)}")
        return 2
    try:
        async with cluster(context) as kube:
            book = await bill.read(kube, operator_namespace)
            waiting = await _waiting(kube, operator_namespace, book.adjustments)
    except NoCluster as error:
        errors.print(f"spillway: {error}", soft_wrap=True)
        return error.status
    except (Refused, bill.Unreadable, CorruptLedger) as error:
        errors.print(f"spillway: {error}", soft_wrap=True)
        return 1
    lines = [_line(ref, one.adjustment, one) for ref, one in sorted(book.adjustments.items(), key=lambda i: i[1].at)]
    lines += [_line(ref, asked, None) for ref, asked in waiting.items()]
    lines = [line for line in lines if namespace in (None, line["namespace"])]
    if format == "json":
        json.dump(lines, out, indent=1)
        out.write("\n")
        return 0
    _tell(lines, out)
    return 0


async def _waiting(kube: Kube, namespace: str, settled: Mapping[str, Settled]) -> dict[str, Adjustment]:
    """Requests that the ledger says nothing of yet. Who may only read the ledger sees none."""
    try:
        found = await kube.request("GET", path("v1", "ConfigMap", namespace, CONFIG_MAP))
    except KubeError as error:
        if error.status in (403, 404):
            return {}
        raise Refused(error.message or str(error)) from error
    waiting = {}
    for ref, text in sorted((found.get("data") or {}).items()):
        try:
            asked = parse(ref, text)
        except BadAdjustment:
            continue  # told as an event
        if ref not in settled:
            waiting[ref] = asked
    return waiting


def _line(ref: str, asked: Adjustment, settled: Settled | None) -> dict[str, Any]:
    return {
        "id": ref,
        **{
            "asked" + name.title() if name in ("usd", "to") else name: value for name, value in asked.document().items()
        },
        "outcome": "waiting" if settled is None else "refused" if settled.refusal else "applied",
        "usd": f"{settled.usd:f}" if settled is not None and not settled.refusal else "0",
        "settled": settled.at.isoformat() if settled is not None else "",
        "refusal": settled.refusal if settled is not None else "",
    }


def _tell(lines: list[dict[str, Any]], out: TextIO) -> None:
    console = Console(file=out, highlight=False, width=None if out.isatty() else 200)
    if not lines:
        console.print("Nothing was adjusted.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("SETTLED", "ID", "DAY", "DEPLOYMENT", "PROVIDER", "MODEL", "USD", "BY", "OUTCOME"):
        table.add_column(heading, justify="right" if heading == "USD" else "left", no_wrap=heading != "OUTCOME")
    for line in lines:
        cells = (
            line["settled"][:16].replace("T", " "),
            line["id"],
            line["day"],
            f"{line['namespace']}/{line['deployment']}",
            line["provider"],
            line["model"],
            line["usd"] if line["outcome"] == "applied" else "",
            line["by"],
            f"{line['outcome']}: {line['refusal'] or line['reason']}",
        )
        table.add_row(*map(Text, cells))
    console.print(table)
