"""`bill adjust`: what is asked for, what is said instead, and what came of it."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from typer.testing import CliRunner

from spillway.act.kube import KubeError
from spillway.cli import adjust
from spillway.cli.main import app
from spillway.ledger import Amount, Book, Key, settle
from spillway.ledger.adjustment import BadAdjustment, parse
from spillway.ledger.book import Entry, add
from spillway.ledger.stored import pack

NOW = datetime.now(UTC)
DAY = f"{NOW - timedelta(days=1):%Y-%m-%d}"
ZAI = Key("chat", "glm-5", "external", "zai", "glm-5")
ASKED = ("glm-5", "-n", "chat", "--provider", "zai", "--day", DAY, "--reason", "invoice 4711")


class Cluster:
    """An API server with a ledger, the requests, and a leader who settles them whenever the ledger is read."""

    def __init__(self) -> None:
        noon = datetime.fromisoformat(f"{DAY}T12:00:00+00:00")
        entries = [
            Entry(int(noon.timestamp()), ZAI, Amount(Decimal("1.25"), 1000)),
            Entry(int(noon.timestamp()), ZAI, Amount(Decimal("3.20"), 0, Decimal("3.20"))),
        ]
        self.book = add(Book(), entries, int(NOW.timestamp()))
        self.requests: dict[str, str] = {}
        self.refuse: dict[str, KubeError] = {}
        self.leads = True

    async def request(self, method: str, where: str, body: Any = None) -> dict[str, Any]:
        name = where.rpartition("/")[2]
        if f"{method} {name}" in self.refuse:
            raise self.refuse[f"{method} {name}"]
        if name == "selfsubjectreviews":
            return {"status": {"userInfo": {"username": "ada@example.com"}}}
        if name == "spillway-adjustments":
            return {"data": self.requests}
        assert name == "spillway-ledger"
        if self.leads:
            readable = {}
            for ref, text in self.requests.items():
                try:
                    readable[ref] = parse(ref, text)
                except BadAdjustment:
                    continue
            self.book = settle(self.book, readable, NOW).book
        data = pack(self.book)
        assert isinstance(data, dict)
        return {"data": data}

    async def merge(self, where: str, patch: dict[str, Any]) -> None:
        assert where == "/api/v1/namespaces/spillway-system/configmaps/spillway-adjustments"
        if "PATCH spillway-adjustments" in self.refuse:
            raise self.refuse["PATCH spillway-adjustments"]
        self.requests |= patch["data"]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = Cluster()

    @asynccontextmanager
    async def connected(_: str | None) -> Any:
        yield found

    monkeypatch.setattr(adjust, "cluster", connected)
    monkeypatch.setattr(adjust, "POLL_SECONDS", 0.0)
    return found


def told(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner(env={"COLUMNS": "300", "NO_COLOR": "1"}).invoke(app, ["bill", "adjust", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.stdout.split()), " ".join(result.stderr.split())


def test_an_estimate_is_brought_to_what_the_invoice_says(cluster: Cluster) -> None:
    status, text, _ = told(*ASKED, "--to", "2.68")
    [(ref, entry)] = cluster.requests.items()
    assert (status, text) == (0, f"adjusted by -1.77 USD: chat/glm-5 at zai (glm-5) on {DAY} (UTC) ({ref})")
    assert ref.startswith(f"{DAY}-zai-")
    assert json.loads(entry) == {
        "day": DAY,
        "timeZone": "UTC",
        "namespace": "chat",
        "deployment": "glm-5",
        "provider": "zai",
        "model": "glm-5",
        "to": "2.68",
        "reason": "invoice 4711",
        "by": "ada@example.com",
    }


def test_the_same_id_is_applied_once_and_told_again(cluster: Cluster) -> None:
    for _ in range(2):
        status, text, _ = told(*ASKED, "--usd", "-1", "--id", "inv-4711")
        assert (status, text.partition(":")[0]) == (0, "adjusted by -1 USD")
    status, _, errors = told(*ASKED, "--usd", "-2", "--id", "inv-4711")
    assert status == 1
    assert "inv-4711 was applied as -1 USD on" in errors
    assert [json.loads(entry)["usd"] for entry in cluster.requests.values()] == ["-1"]


def test_what_would_be_refused_is_not_asked_for(cluster: Cluster) -> None:
    status, _, errors = told(*ASKED, "--usd", "-4")
    assert status == 1
    assert "not asked for: usd is -4:" in errors
    assert "only 3.20 are estimated" in errors
    assert cluster.requests == {}
    assert told(*ASKED, "--usd", "-3", "--dry-run")[1].startswith("would be adjusted by -3 USD: chat/glm-5 at zai")
    assert cluster.requests == {}


def test_a_refused_one_is_corrected_under_its_id(cluster: Cluster) -> None:
    assert told(*ASKED, "--usd", "-1", "--id", "inv")[0] == 0
    entry = json.loads(cluster.requests["inv"]) | {"usd": "-99"}
    cluster.requests["late"] = json.dumps(entry)
    _, text, _ = told("--list")
    assert "refused: usd is -99" in text
    assert told(*ASKED, "--usd", "-2", "--id", "late")[0] == 0
    assert json.loads(cluster.requests["late"])["usd"] == "-2"


def test_without_a_leader_it_stays_asked_for(cluster: Cluster) -> None:
    cluster.leads = False
    status, _, errors = told(*ASKED, "--usd", "-1", "--id", "inv", "--wait", "0")
    assert status == 1
    assert "asked for (inv), and not settled within 0 s: does an operator lead" in errors
    assert set(cluster.requests) == {"inv"}
    assert "inv" in told("--list")[1]
    assert "waiting: invoice 4711" in told("--list")[1]
    cluster.requests["inv"] = json.dumps(json.loads(cluster.requests["inv"]) | {"usd": "-3"})
    assert "--id is 'inv', which another request has" in told(*ASKED, "--usd", "-1", "--id", "inv", "--wait", "0")[2]


def test_the_history(cluster: Cluster) -> None:
    assert told("--list") == (0, "Nothing was adjusted.", "")
    told(*ASKED, "--usd", "-1.5", "--id", "a")
    told(*ASKED, "--usd", "0.25", "--id", "b")
    cluster.requests["broken"] = "?"
    _, text, _ = told("--list")
    assert "SETTLED ID DAY DEPLOYMENT PROVIDER MODEL USD BY OUTCOME" in text
    assert f"a {DAY} chat/glm-5 zai glm-5 -1.5 ada@example.com applied: invoice 4711" in text
    _, text, _ = told("--list", "--format", "json")
    first, second = json.loads(text)
    assert (first["id"], first["usd"], first["askedUsd"], first["outcome"]) == ("a", "-1.5", "-1.5", "applied")
    assert (second["id"], second["by"], second["reason"]) == ("b", "ada@example.com", "invoice 4711")
    assert json.loads(told("--list", "--format", "json", "-n", "search")[1]) == []
    assert "--format is 'csv': give one of table, json" in told("--list", "--format", "csv")[2]
    cluster.refuse["GET spillway-adjustments"] = KubeError(403, "Forbidden", "")
    assert told("--list")[0] == 0, "who may read the ledger sees the history"


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name the deployment: kubectl spillway bill adjust NAME -n NAMESPACE, or --list"),
        (["glm-5"], "--day is missing"),
        ([*ASKED[:3], *ASKED[5:], "--usd", "1"], "--provider is missing: give a text"),
        ([*ASKED[:-2], "--usd", "1"], "--reason is missing: give a text"),
        ([*ASKED], "give one of --usd (what to add, such as -1.77) and --to (what the sum really is)"),
        ([*ASKED, "--usd", "1", "--to", "2"], "give one of --usd"),
        ([*ASKED, "--usd", "lots"], "--usd is 'lots': give an amount in USD such as -1.77"),
        ([*ASKED, "--to", "-2"], "--to is '-2': nobody spends less than 0"),
        ([*ASKED, "--usd", "1", "--day", "monday"], "--day is 'monday': give a day such as 2026-11-26"),
        ([*ASKED, "--usd", "1", "--time-zone", "Mars/Base"], "time zone 'Mars/Base' is not in the tz database"),
        ([*ASKED, "--usd", "1", "--id", "a/b"], "--id is 'a/b': give up to 63 letters"),
        ([*ASKED, "--usd", "1", "--provider", "zia"], "chat/glm-5 at zia used no model, as far as the ledger knows"),
    ],
)
def test_what_cannot_be_asked_names_its_option(arguments: list[str], words: str) -> None:
    status, _, errors = told(*arguments)
    assert status == 2
    assert words in errors


def test_of_several_models_one_is_named(cluster: Cluster) -> None:
    other = Entry(int(NOW.timestamp()), ZAI._replace(model="glm-6"), Amount(Decimal(1)))
    cluster.book = add(cluster.book, [other], int(NOW.timestamp()))
    status, _, errors = told(*ASKED, "--usd", "-1")
    assert (status, errors) == (2, "spillway: chat/glm-5 at zai used glm-5, glm-6: give one with --model")
    assert told(*ASKED, "--usd", "-1", "--model", "glm-5")[0] == 0


@pytest.mark.parametrize(
    ("request_", "refusal", "words"),
    [
        ("GET spillway-ledger", KubeError(403, "Forbidden", ""), "your account may not read ConfigMap"),
        ("GET spillway-adjustments", KubeError(404, "NotFound", ""), "spillway-adjustments, which the manifests bring"),
        ("PATCH spillway-adjustments", KubeError(403, "Forbidden", ""), "ask for the Role spillway-bill-adjuster"),
        ("PATCH spillway-adjustments", KubeError(500, "", "etcd is full"), "etcd is full"),
        ("POST selfsubjectreviews", KubeError(403, "Forbidden", "no"), "the API server does not say who you are: no"),
    ],
)
def test_what_the_server_refuses_is_told(cluster: Cluster, request_: str, refusal: KubeError, words: str) -> None:
    cluster.refuse[request_] = refusal
    status, _, errors = told(*ASKED, "--usd", "-1")
    assert status == 1
    assert words in errors


def test_help_says_what_it_may_do() -> None:
    _, text, _ = told("--help")
    for words in ("Only estimates are lowered", "--to 2.68", "--list", "--dry-run"):
        assert words in text
