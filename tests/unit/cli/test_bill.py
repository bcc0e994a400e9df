"""`bill`, `budget` and `stop-spill`: what a platform team reads, and what it is told instead."""

from __future__ import annotations

import csv
import io
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from spillway.act.kube import KubeError
from spillway.cli import bill, budget
from spillway.cli.bill import BadRequest, Question, columns_of, span_of
from spillway.cli.main import app
from spillway.ledger import IDLE, Amount, Book, Key
from spillway.ledger.bill import rows
from spillway.ledger.book import Entry, add
from spillway.ledger.stored import pack
from tests.unit.api.examples import example

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
START, END = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)


def book() -> Book:
    seconds = int(NOW.timestamp())
    zai, b200 = Key("chat", "glm-5", "external", "zai", "glm-5"), Key("chat", "glm-5", "gpu", "b200", "")
    return add(
        Book(),
        [
            Entry(seconds, zai, Amount(Decimal("12.3456789"), 4_000_000, Decimal("0.5"))),
            Entry(seconds, b200, Amount(Decimal("403.2"), gpu_seconds=96 * 3600)),
            Entry(seconds, Key("search", "r1", "gpu", "h200", ""), Amount(Decimal("84.4543211"), gpu_seconds=72_000)),
        ],
        seconds,
    )


class Cluster:
    """An API server with a ledger and policies, or one that refuses."""

    def __init__(self, refusal: KubeError | None = None) -> None:
        self.refusal = refusal
        self.patched: list[tuple[str, Any]] = []
        self.providers = [example("ExternalProvider", "zai"), example("ExternalProvider", "deepinfra")]

    async def request(self, method: str, where: str) -> dict[str, Any]:
        if self.refusal:
            raise self.refusal
        if where.endswith("/configmaps/spillway-ledger"):
            data = pack(book())
            assert isinstance(data, dict)
            return {"data": data}
        if where.endswith("/externalproviders"):
            return {"items": self.providers}
        assert where.endswith("/costpolicies")
        return {"items": []}

    async def merge(self, where: str, patch: dict[str, Any]) -> None:
        if where.endswith("/nobody"):
            raise KubeError(404, "NotFound", "")
        self.patched.append((where.rpartition("/")[2], patch))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = Cluster()

    @asynccontextmanager
    async def connected(_: str | None) -> Any:
        yield found

    monkeypatch.setattr(bill, "cluster", connected)
    monkeypatch.setattr(budget, "cluster", connected)
    return found


def told(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.usefixtures("cluster")
def test_the_table_of_a_month() -> None:
    status, text, _ = told("bill", "--month", "2026-11")
    assert status == 0
    assert [" ".join(line.split()) for line in text.splitlines()] == [
        "What was spent from 2026-11-01 to before 2026-12-01 (UTC), in USD:",
        "TEAM DEPLOYMENT SUPPLIER MODEL USD ESTIMATED SHARE TOKENS GPU HOURS",
        "chat chat/glm-5 b200 - 403.20 80.6% 96.00",
        "search search/r1 h200 - 84.45 16.9% 20.00",
        "chat chat/glm-5 zai glm-5 12.35 0.50 2.5% 4,000,000",
        "total 500.00 0.50 4,000,000 116.00",
    ]


@pytest.mark.usefixtures("cluster")
def test_nothing_spent_is_said() -> None:
    status, text, _ = told("bill", "--month", "2026-10", "-n", "chat")
    assert (status, text) == (
        0,
        "Nothing was spent of namespace chat from 2026-10-01 to before 2026-11-01 (UTC).\n",
    )


@pytest.mark.usefixtures("cluster")
def test_csv_and_json_are_exact() -> None:
    _, text, _ = told("bill", "--month", "2026-11", "--by", "source", "--format", "csv")
    assert list(csv.reader(io.StringIO(text))) == [
        ["source", "usd", "estimated_usd", "adjusted_usd", "tokens", "gpu_hours"],
        ["gpu", "487.6543211", "0", "0", "0", "116"],
        ["external", "12.3456789", "0.5", "0", "4000000", "0"],
    ]
    _, text, _ = told("bill", "--month", "2026-11", "--by", "team", "--format", "json")
    document = json.loads(text)
    assert document["from"] == "2026-11-01T00:00:00+00:00"
    assert document["total"] == {
        "usd": "500.0000000",
        "estimatedUsd": "0.5",
        "adjustedUsd": "0",
        "tokens": "4000000",
        "gpuHours": "116",
    }
    assert document["rows"][1] == {
        "team": "search",
        "usd": "84.4543211",
        "estimatedUsd": "0",
        "adjustedUsd": "0",
        "tokens": "0",
        "gpuHours": "20",
    }


@pytest.mark.usefixtures("cluster")
def test_focus_has_a_charge_for_each_day_and_supplier() -> None:
    _, text, _ = told("bill", "--month", "2026-11", "--format", "focus", "--by", "team")
    lines = list(csv.DictReader(io.StringIO(text)))
    assert tuple(lines[0]) == bill.FOCUS_COLUMNS
    assert sum(Decimal(line["BilledCost"]) for line in lines) == 500
    [external] = [line for line in lines if line["ConsumedUnit"] == "Tokens"]
    assert external["ChargePeriodStart"] == "2026-11-26T00:00:00Z"
    assert external["ChargePeriodEnd"] == "2026-11-27T00:00:00Z"
    assert (external["BillingPeriodStart"], external["BillingPeriodEnd"]) == (
        "2026-11-01T00:00:00Z",
        "2026-12-01T00:00:00Z",
    )
    assert (external["ProviderName"], external["ServiceName"], external["SubAccountId"]) == ("zai", "glm-5", "chat")
    assert (external["ConsumedQuantity"], external["x_EstimatedCost"]) == ("4000000", "0.5")
    [pool] = [line for line in lines if line["ProviderName"] == "b200"]
    quantities = ("ConsumedQuantity", "ConsumedUnit", "PricingQuantity", "PricingUnit")
    assert [pool[name] for name in quantities] == ["96", "GPU-Hours", "96", "GPU-Hours"]
    assert {line["ChargeCategory"] for line in lines} == {"Usage"}


def test_focus_tells_corrections_and_idle_gpus_apart() -> None:
    seconds, zai = int(NOW.timestamp()), Key("chat", "glm-5", "external", "zai", "glm-5")
    one = add(
        Book(),
        [
            Entry(seconds, zai, Amount(Decimal(5), 7, Decimal(4))),
            Entry(seconds, zai._replace(adjustment="inv-1"), Amount(Decimal(-3), 0, Decimal(-3))),
            Entry(seconds, Key(IDLE, IDLE, "gpu", "h200", ""), Amount(Decimal(9), gpu_seconds=5400)),
        ],
        seconds,
    )
    idle, used, corrected = bill.focus(rows(one, bill.FOCUS_BY))
    assert (used["ChargeCategory"], used["BilledCost"], used["PricingQuantity"]) == ("Usage", "5", "7")
    assert (corrected["ChargeCategory"], corrected["BilledCost"]) == ("Adjustment", "-3")
    assert (corrected["ResourceId"], corrected["x_EstimatedCost"]) == ("chat/glm-5", "-3")
    assert {corrected[name] for name in ("ConsumedQuantity", "PricingQuantity", "PricingUnit")} == {""}
    assert (idle["ChargeCategory"], idle["CapacityReservationId"], idle["CapacityReservationStatus"]) == (
        "Usage",
        "h200",
        "Unused",
    )
    assert (idle["PricingQuantity"], idle["PricingUnit"], idle["ConsumedQuantity"]) == ("1.5", "GPU-Hours", "")
    assert (idle["SubAccountId"], idle["ResourceId"], idle["ResourceType"]) == ("", "h200", "GPUPool")


def test_gpu_hours_that_were_not_counted_yet_are_left_out() -> None:
    seconds = int(NOW.timestamp())
    old = add(Book(), [Entry(seconds, Key("chat", "glm-5", "gpu", "b200", ""), Amount(Decimal(7)))], seconds)
    [line] = bill.focus(rows(old, bill.FOCUS_BY))
    assert (line["PricingQuantity"], line["PricingUnit"]) == ("", "")


def test_a_month_that_has_no_days_any_more_is_one_charge() -> None:
    seconds = int(datetime(2026, 7, 14, tzinfo=UTC).timestamp())
    key = Key("chat", "glm-5", "gpu", "b200", "")
    from spillway.ledger import fold

    old = fold(add(Book(), [Entry(seconds, key, Amount(Decimal(7)))], int(NOW.timestamp())), NOW)
    [line] = bill.focus(rows(old, bill.FOCUS_BY))
    assert (line["ChargePeriodStart"], line["ChargePeriodEnd"]) == ("2026-07-01T00:00:00Z", "2026-08-01T00:00:00Z")


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--by", "colour"], "--by is 'colour': give some of day, month, team, deployment"),
        (["--by", ""], "--by is ''"),
        (["--format", "xml"], "--format is 'xml': give one of table, csv, json, focus"),
        (["--month", "November"], "--month is 'November': give a month such as 2026-11"),
        (["--from", "yesterday"], "--from is 'yesterday': give a day such as 2026-11-26"),
        (["--from", "2026-11-02", "--to", "2026-11-02"], "does not come after --from 2026-11-02"),
        (["--month", "2026-11", "--to", "2026-11-02"], "--month does not go with --from and --to"),
        (["--time-zone", "Mars/Base"], "time zone 'Mars/Base'"),
        (["--from", "0001-01-01", "--time-zone", "Asia/Tokyo"], "is out of range"),
    ],
)
def test_what_cannot_be_told_names_its_option(arguments: list[str], words: str) -> None:
    status, _, errors = told("bill", *arguments)
    assert status == 2
    assert words in " ".join(errors.split())


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (KubeError(403, "Forbidden", "no"), "ask for the Role that docs/platform.md has"),
        (KubeError(404, "NotFound", "no"), "there is no ledger in namespace spillway-system"),
        (KubeError(500, "Internal", "broken"), "broken"),
    ],
)
def test_without_the_ledger_it_says_why(cluster: Cluster, refusal: KubeError, words: str) -> None:
    cluster.refusal = refusal
    status, _, errors = told("bill")
    assert status == 1
    assert words in " ".join(errors.split())


def test_the_default_is_this_month_of_the_zone() -> None:
    late = datetime(2026, 11, 30, 23, 30, tzinfo=UTC)
    assert span_of(Question(), late) == (START, END)
    begin, _ = span_of(Question(time_zone="Europe/Berlin"), late)
    assert begin == datetime(2026, 11, 30, 23, tzinfo=UTC)
    assert span_of(Question(since="2026-11-20"), NOW) == (
        datetime(2026, 11, 20, tzinfo=UTC),
        datetime(2026, 11, 27, tzinfo=UTC),
    )
    assert columns_of(" team , day,team") == ("team", "day")
    with pytest.raises(BadRequest):
        columns_of(",")


# ---- budgets ---------------------------------------------------------------------------------------------------------


def policy(**status: Any) -> dict[str, Any]:
    found = example("CostPolicy", "assist")
    one = {
        "name": found["spec"]["budgets"][0]["name"],
        "period": "Month",
        "periodStart": "2026-11-01T00:00:00Z",
        "amount": "1000",
        "spent": "990.5",
        "gpu": "0",
        "external": "990.5",
        "reserved": "1.25",
        "bound": "10",
        "remaining": "9.5",
        "burnPerHour": "2",
        "exhaustedAt": "2026-11-26T16:45:00Z",
        "byDeployment": [
            {"namespace": "chat", "name": "glm-5", "spent": "90.5"},
            {"namespace": "search", "name": "r1", "spent": "900"},
        ],
    }
    found["status"] = {"budgets": [one | status], "conditions": []}
    return found


def page(*objects: dict[str, Any], details: bool = False) -> str:
    out = io.StringIO()
    budget.tell(objects, Console(file=out, width=200, highlight=False), NOW, details=details)
    return out.getvalue()


def test_a_budget_in_a_line() -> None:
    row = page(policy()).splitlines()[1].split()
    assert row[0] == "assist"
    assert " ".join(row[3:]) == "2026-11-01 00:00Z 990.50 1,000.00 99.0% 9.50 1.25 2.00 4h45m at this burn"


def test_the_last_hour_has_a_line_of_its_own() -> None:
    limited = policy()
    hour = {"amount": "60", "spent": "15", "remaining": "45", "bound": "3"}
    limited["status"]["lastHour"] = hour
    row = " ".join(page(limited).splitlines()[2].split()[1:])
    assert row == "maxPerHour External 60 minutes ago 15.00 60.00 25.0% 45.00 - 15.00 to its end"
    limited["status"]["lastHour"] = hour | {"opensAt": "2026-11-26T12:28:00Z"}
    assert page(limited).splitlines()[2].endswith("spent, again 12:28Z")


def test_one_policy_shows_who_spent_it_the_dearest_first() -> None:
    lines = page(policy(), details=True).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("DEPLOYMENT"))
    assert [line.split() for line in lines[at + 1 : at + 3]] == [["search/r1", "900.00"], ["chat/glm-5", "90.50"]]


def test_what_a_person_should_know_stands_below() -> None:
    spent = policy(spent="1000.1", remaining="-0.1", exhaustedAt=None)
    spent["spec"]["suspend"] = True
    spent["status"]["conditions"] = [
        {
            "type": "WithinBudget",
            "status": "False",
            "reason": "BudgetSpent",
            "message": "gone",
            "lastTransitionTime": "2026-11-26T10:00:00Z",
        }
    ]
    text = page(spent)
    assert "assist is suspended: nothing is spilled (`kubectl spillway stop-spill assist --undo`)" in text
    assert "assist: BudgetSpent: gone" in text
    assert text.splitlines()[1].rstrip().endswith("spent")
    wrong = policy()
    wrong["spec"]["budgets"] = "none"
    assert "assist cannot be used: " in page(wrong)
    assert "There is no CostPolicy: nothing is spilled" in page()


@pytest.mark.parametrize(
    ("arguments", "patched"),
    [
        (["assist", "search"], [("assist", True), ("search", True)]),
        (["assist", "--undo"], [("assist", False)]),
        (["--all"], [("deepinfra", True), ("zai", True)]),
    ],
)
def test_stop_spill_suspends(cluster: Cluster, arguments: list[str], patched: list[tuple[str, bool]]) -> None:
    status, text, _ = told("stop-spill", *arguments)
    assert status == 0
    assert [(name, patch["spec"]["suspend"]) for name, patch in cluster.patched] == patched
    for name, suspend in patched:
        assert f"{name}: {'takes no new request within seconds' if suspend else 'may be used again'}" in text


def test_what_somebody_else_suspended_stays_so(cluster: Cluster) -> None:
    zai, deepinfra = cluster.providers
    zai["spec"]["suspend"] = True  # by hand
    assert told("stop-spill", "--all")[0] == 0
    [(name, patch)] = cluster.patched
    assert (name, patch["metadata"]["annotations"]) == ("deepinfra", {"spillway.dev/stopped-by": "stop-spill"})
    deepinfra["metadata"]["annotations"], deepinfra["spec"]["suspend"] = patch["metadata"]["annotations"], True
    cluster.patched.clear()
    assert told("stop-spill", "--all")[1] == "All are suspended.\n"
    assert told("stop-spill", "--all", "--undo")[0] == 0
    assert cluster.patched == [
        ("deepinfra", {"metadata": {"annotations": {"spillway.dev/stopped-by": None}}, "spec": {"suspend": False}})
    ]
    deepinfra["metadata"]["annotations"] = {}
    assert told("stop-spill", "--all", "--undo")[1] == "None of the providers was stopped by this command.\n"


def test_stop_spill_goes_on_after_a_name_that_is_wrong(cluster: Cluster) -> None:
    status, text, errors = told("stop-spill", "nobody", "assist")
    assert status == 1
    assert "there is no CostPolicy 'nobody'" in errors
    assert "policy assist: takes" in text
    assert [name for name, _ in cluster.patched] == ["assist"]
    for arguments in ([], ["assist", "--all"]):
        assert told("stop-spill", *arguments)[0] == 2
