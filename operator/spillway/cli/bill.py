"""`kubectl spillway bill`: where the money went, from the ledger's own book."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, TextIO, get_args
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.table import Table
from rich.text import Text

from spillway.act.kube import Kube, KubeError, path
from spillway.cli.connection import NoCluster, cluster
from spillway.ledger import Book, CorruptLedger, UnknownTimeZone, stored
from spillway.ledger.bill import COLUMNS, Column, Row, months_cut, rows, total
from spillway.ledger.stored import Stored
from spillway.ledger.zones import zone_of

Format = Literal["table", "csv", "json", "focus"]
FORMATS: tuple[str, ...] = get_args(Format)
BY = "team,deployment,supplier,model"
MICRO = Decimal("1e-6")

# The FinOps Open Cost and Usage Specification 1.2, of the columns those that a ledger of one cluster can fill.
FOCUS_BY: tuple[Column, ...] = ("day", "team", "deployment", "source", "supplier", "model", "charge")
FOCUS_COLUMNS = (
    "BilledCost",
    "EffectiveCost",
    "ListCost",
    "ContractedCost",
    "BillingCurrency",
    "BillingPeriodStart",
    "BillingPeriodEnd",
    "ChargePeriodStart",
    "ChargePeriodEnd",
    "ChargeCategory",
    "ChargeDescription",
    "CapacityReservationId",
    "CapacityReservationStatus",
    "ConsumedQuantity",
    "ConsumedUnit",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "ServiceCategory",
    "ServiceName",
    "ResourceId",
    "ResourceType",
    "SubAccountId",
    "x_EstimatedCost",
)


class BadRequest(ValueError):
    """What was asked for cannot be told; names the option, its value and what to give."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the ledger. Dates are days of the time zone; `until` is the first that does not count."""

    by: str = BY
    month: str | None = None
    since: str | None = None
    until: str | None = None
    namespace: str | None = None
    time_zone: str = "UTC"
    format: str = "table"
    context: str | None = None
    operator_namespace: str = "spillway-system"


async def show(question: Question, out: TextIO | None = None) -> int:
    """Print the bill; returns the exit status."""
    errors = Console(stderr=True, highlight=False, markup=False)
    out = out or sys.stdout
    try:
        columns = columns_of(question.by)
        if question.format not in FORMATS:
            raise BadRequest(f"--format is {question.format!r}: give one of {', '.join(FORMATS)}")
        start, end = span_of(question, datetime.now(UTC))
        async with cluster(question.context) as kube:
            book = await read(kube, question.operator_namespace)
    except (BadRequest, UnknownTimeZone) as error:
        errors.print(f"spillway: {error}", soft_wrap=True)
        return 2
    except NoCluster as error:
        errors.print(f"spillway: {error}", soft_wrap=True)
        return error.status
    except (Unreadable, CorruptLedger) as error:
        errors.print(f"spillway: {error}", soft_wrap=True)
        return 1
    if cut := months_cut(book, start, end):
        errors.print(
            f"spillway: of {', '.join(cut)} the ledger has no days any more: take whole months with --month, --from or "
            "--to",
            soft_wrap=True,
        )
        return 2
    if question.format == "focus":
        columns = FOCUS_BY
    found = rows(book, columns, question.time_zone, start, end, question.namespace)
    write(found, columns, question, start, end, out)
    return 0


class Unreadable(Exception):
    """The ledger cannot be read, in words for the user."""


async def read(kube: Kube, namespace: str) -> Book:
    """The stored book: at most ten seconds old while API money flows, a minute otherwise. Raises Unreadable,
    CorruptLedger, OSError."""

    async def get(name: str) -> Stored | None:
        try:
            found = await kube.request("GET", path("v1", "ConfigMap", namespace, name))
        except KubeError as error:
            if error.status == 404:
                return None
            if error.status == 403:
                raise Unreadable(
                    f"your account may not read ConfigMap {namespace}/{name}: ask for the Role that docs/platform.md "
                    "has under 'Who may read the bill'"
                ) from error
            raise Unreadable(error.message or str(error)) from error
        return Stored.of(found)

    found = await stored.read(get, namespace)
    if found is None:
        raise Unreadable(
            f"there is no ledger in namespace {namespace}: nothing was spent, or --operator-namespace is another"
        )
    return found.book


def columns_of(text: str) -> tuple[Column, ...]:
    """Raises BadRequest."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in COLUMNS]
    if unknown or not names:
        raise BadRequest(f"--by is {text!r}: give some of {', '.join(COLUMNS)}, separated by commas")
    known: tuple[Column, ...] = COLUMNS
    return tuple(next(c for c in known if c == name) for name in dict.fromkeys(names))


def span_of(question: Question, now: datetime) -> tuple[datetime, datetime]:
    """[start, end) in UTC: the days asked for, else the month, by default this one. Raises BadRequest,
    UnknownTimeZone."""
    zone = zone_of(question.time_zone)
    if question.since or question.until:
        if question.month:
            raise BadRequest("--month does not go with --from and --to")
        today = now.astimezone(zone).date()
        first = _day("--from", question.since) if question.since else today.replace(day=1)
        last = _day("--to", question.until) if question.until else today + timedelta(days=1)
        if last <= first:
            raise BadRequest(f"--to is {last}, which does not come after --from {first}; --to itself does not count")
        return _midnight(first, zone), _midnight(last, zone)
    if question.month:
        try:
            first = datetime.strptime(question.month, "%Y-%m").replace(tzinfo=UTC).date()
        except ValueError:
            raise BadRequest(f"--month is {question.month!r}: give a month such as 2026-11") from None
    else:
        first = now.astimezone(zone).date().replace(day=1)
    return _midnight(first, zone), _midnight((first + timedelta(days=32)).replace(day=1), zone)


def _day(option: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadRequest(f"{option} is {text!r}: give a day such as 2026-11-26") from None


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    try:
        return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
    except OverflowError:
        raise BadRequest(f"the day {day} is out of range") from None


def write(
    found: Sequence[Row], columns: Sequence[Column], question: Question, start: datetime, end: datetime, out: TextIO
) -> None:
    match question.format:
        case "csv":
            csv.writer(out).writerows(
                [
                    [*columns, "usd", "estimated_usd", "adjusted_usd", "tokens", "gpu_hours"],
                    *([*r.values, *_exact(r)] for r in found),
                ]
            )
        case "json":
            json.dump(document(found, columns, start, end), out, indent=1)
            out.write("\n")
        case "focus":
            writer = csv.DictWriter(out, FOCUS_COLUMNS)
            writer.writeheader()
            writer.writerows(focus(found))
        case _:
            _tell(found, columns, question, start, end, out)


def _exact(row: Row) -> tuple[str, str, str, str, str]:
    """USD, of them estimated, of them by correction; tokens; GPU-hours, to a thousandth of a second."""
    amount = row.amount
    hours = (Decimal(amount.gpu_seconds) / 3600).quantize(MICRO).normalize()
    return (
        f"{amount.usd:f}",
        f"{amount.estimated_usd:f}",
        f"{row.adjusted_usd:f}",
        str(amount.tokens),
        f"{hours:f}",
    )


def document(found: Sequence[Row], columns: Sequence[Column], start: datetime, end: datetime) -> dict[str, Any]:
    """Dollars are strings: floats are no money."""
    names = ("usd", "estimatedUsd", "adjustedUsd", "tokens", "gpuHours")
    whole = total(found)
    return {
        "from": start.isoformat(),
        "to": end.isoformat(),
        "rows": [dict(zip((*columns, *names), (*r.values, *_exact(r)), strict=True)) for r in found],
        "total": dict(zip(names, _exact(whole), strict=True)),
    }


def focus(found: Sequence[Row]) -> Iterator[dict[str, str]]:
    """One line for each day, deployment, supplier and model; corrections, and reserved GPUs that nobody used, have
    lines of their own. What is older than forty days is one charge a month."""
    for row in found:
        day, team, deployment, source, supplier, model, charge = row.values
        monthly = len(day) == len("2026-11")
        begin = date.fromisoformat(f"{day}-01" if monthly else day)
        following = (begin.replace(day=1) + timedelta(days=32)).replace(day=1)
        external = source == "external"
        cost, estimated, _, tokens, hours = _exact(row)
        quantity, unit = (tokens, "Tokens") if external else (hours, "GPU-Hours")
        # GPU-hours were not counted before this version, and a correction has no quantity.
        known = charge != "adjustment" and (external or row.amount.gpu_seconds > 0)
        idle = charge == "idle"
        what = f"{deployment} on {supplier}" + (f" ({model})" if external else "")
        what += ", corrected" if charge == "adjustment" else ""
        yield {
            **dict.fromkeys(("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"), cost),
            "BillingCurrency": "USD",
            "BillingPeriodStart": f"{begin.replace(day=1)}T00:00:00Z",
            "BillingPeriodEnd": f"{following}T00:00:00Z",
            "ChargePeriodStart": f"{begin}T00:00:00Z",
            "ChargePeriodEnd": f"{following if monthly else begin + timedelta(days=1)}T00:00:00Z",
            "ChargeCategory": "Adjustment" if charge == "adjustment" else "Usage",
            "ChargeDescription": f"reserved GPUs of {supplier} that nobody used" if idle else what,
            "CapacityReservationId": supplier if idle else "",
            "CapacityReservationStatus": "Unused" if idle else "",
            "ConsumedQuantity": quantity if known and not idle else "",
            "ConsumedUnit": unit if known and not idle else "",
            "PricingQuantity": quantity if known else "",
            "PricingUnit": unit if known else "",
            "ProviderName": supplier,
            "ServiceCategory": "AI and Machine Learning" if external else "Compute",
            "ServiceName": model if external else f"GPU pool {supplier}",
            "ResourceId": supplier if idle else deployment,
            "ResourceType": "GPUPool" if idle else "MoEDeployment",
            "SubAccountId": "" if idle else team,
            "x_EstimatedCost": estimated,
        }


def _tell(
    found: Sequence[Row], columns: Sequence[Column], question: Question, start: datetime, end: datetime, out: TextIO
) -> None:
    console = Console(file=out, highlight=False, width=None if out.isatty() else 200)
    zone = zone_of(question.time_zone)
    first, last = (f"{moment.astimezone(zone):%Y-%m-%d}" for moment in (start, end))
    where = f" of namespace {question.namespace}" if question.namespace else ""
    if not found:
        console.print(f"Nothing was spent{where} from {first} to before {last} ({question.time_zone}).", soft_wrap=True)
        return
    whole = total(found)
    amount = whole.amount
    places = 2 if amount.usd >= 10 else 4
    table = Table(box=None, pad_edge=False, show_footer=len(found) > 1)
    for number, column in enumerate(columns):
        table.add_column(column.upper(), footer="total" if number == 0 else "", no_wrap=True)
    estimated, adjusted = amount.estimated_usd > 0, any(row.adjusted_usd for row in found)
    table.add_column("USD", justify="right", footer=_usd(amount.usd, places))
    if estimated:
        table.add_column("ESTIMATED", justify="right", footer=_usd(amount.estimated_usd, places))
    if adjusted:
        table.add_column("ADJUSTED", justify="right", footer=_usd(whole.adjusted_usd, places))
    table.add_column("SHARE", justify="right")
    table.add_column("TOKENS", justify="right", footer=f"{amount.tokens:,}")
    if amount.gpu_seconds:
        table.add_column("GPU HOURS", justify="right", footer=_hours(amount.gpu_seconds))
    for row in found:
        cells = [Text(value) for value in row.values] + [Text(_usd(row.amount.usd, places))]
        if estimated:
            cells.append(Text(_usd(row.amount.estimated_usd, places) if row.amount.estimated_usd else ""))
        if adjusted:
            cells.append(Text(_usd(row.adjusted_usd, places) if row.adjusted_usd else ""))
        share = row.amount.usd / amount.usd if amount.usd else Decimal(0)
        cells += [Text(f"{share:.1%}"), Text(f"{row.amount.tokens:,}" if row.amount.tokens else "")]
        if amount.gpu_seconds:
            cells.append(Text(_hours(row.amount.gpu_seconds) if row.amount.gpu_seconds else ""))
        table.add_row(*cells)
    console.print(
        f"What was spent{where} from {first} to before {last} ({question.time_zone}), in USD:", soft_wrap=True
    )
    console.print(table)


def _hours(gpu_seconds: int) -> str:
    return f"{gpu_seconds / 3600:,.2f}"


def _usd(amount: Decimal, places: int) -> str:
    return f"{amount:,.{places}f}"
