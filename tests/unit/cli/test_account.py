"""`explain` from the operator's account or from recordings: what is said, and what is said not to be known."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from e2e.cluster.processes import free_port
from spillway.act.kube import KubeError
from spillway.api import MoEDeployment, parse
from spillway.cli import account
from spillway.cli.account import LEADER, Unknown, from_operator, from_recordings, moment
from spillway.cli.explain import Question, answer
from spillway.cli.main import app
from spillway.controller.chronicle import Chronicle
from spillway.controller.health import HealthServer
from spillway.controller.metrics import Metrics
from spillway.controller.process import LEADER_LABEL
from spillway.decide import plan
from tests.unit.api.examples import example
from tests.unit.cli.test_explain import STATUS
from tests.unit.controller.test_recording import START, recorded, ticks

KEY = "chat/glm-5"
NOW = datetime.fromtimestamp(START + 600, UTC)


class Cluster:
    """An API server with one leading operator, or one that refuses."""

    def __init__(self, refusal: KubeError | None = None, pods: int = 1) -> None:
        self.status: dict[str, str] = {}
        self.port = 8081
        self.chronicle = Chronicle()
        for step in ticks(60):
            self.chronicle.take(*step)
        self.chronicle.misfits({KEY: [{"pool": "old", "precision": "", "reason": "141 GB are less than 400"}]})
        self.refusal, self.pods = refusal, pods
        self.asked: list[str] = []

    async def request(self, method: str, where: str, params: dict[str, str] | None = None) -> dict[str, Any]:
        self.asked.append(where)
        if where.endswith("/pods"):
            assert params == {"labelSelector": LEADER}
            ports = [{"name": "ads", "containerPort": 1}, {"name": "metrics", "containerPort": self.port}]
            spec = {"containers": [{"ports": ports}]}
            pod = {"metadata": {"name": "op-1"}, "spec": spec, "status": self.status}
            return {"items": [pod] * self.pods}
        if self.refusal:
            raise self.refusal
        found = self.chronicle.answer(where.partition("/proxy/explain/")[2], float(params["at"]) if params else None)
        if found is None:
            raise KubeError(404, "", "")
        answered: dict[str, Any] = json.loads(json.dumps(found))
        return answered


def moe() -> MoEDeployment:
    obj = example("MoEDeployment", "glm-5")
    obj["metadata"] |= {"namespace": "chat", "generation": 3}
    found = parse(MoEDeployment, obj)
    assert isinstance(found, MoEDeployment)
    return found.model_copy(update={"status": STATUS})


async def said(cluster: Cluster, at: datetime | None = None, **question: Any) -> tuple[int, str]:
    page = io.StringIO()
    console = Console(file=page, width=160, highlight=False)
    asked = Question("glm-5", "chat", **question)
    return await answer(asked, moe(), cluster, at, NOW, console), page.getvalue()  # type: ignore[arg-type]


def test_the_leader_is_found_by_its_label() -> None:
    assert f"{LEADER_LABEL}=true" in LEADER


async def test_the_whole_story_ends_with_what_each_option_would_cost() -> None:
    cluster = Cluster()
    status, text = await said(cluster)
    assert status == 0
    assert cluster.asked[-1] == "/api/v1/namespaces/spillway-system/pods/op-1:8081/proxy/explain/chat/glm-5"
    assert "1/2 replicas ready at" in text
    assert "requests/s are asked for, each 1,155 tokens in and 211 out" in text
    assert "Wanted: " in text
    (row,) = [line for line in text.splitlines() if line.startswith("zai/glm-5")]
    assert float(row.split()[1].replace(",", "")) > 0
    assert "Why not another: --why-not " in text


@pytest.mark.parametrize("leads", [True, False])
async def test_a_pod_with_a_loopback_address_is_asked_without_the_api_server(leads: bool) -> None:
    cluster = Cluster()

    def explain(key: str, at: float | None) -> dict[str, Any] | None:
        return cluster.chronicle.answer(key, at)

    port = free_port()
    health = HealthServer("127.0.0.1", port, Metrics(), str, str, lambda: explain if leads else None)
    await health.start()
    try:
        cluster.status, cluster.port = {"podIP": "127.0.0.1"}, port
        text = (await said(cluster))[1]
    finally:
        await health.stop()
    assert [where for where in cluster.asked if "proxy" in where] == []
    assert ("requests/s are asked for" in text) is leads
    assert ("it has made no plan yet" in text) is not leads


async def test_one_variant_and_what_fits_nowhere() -> None:
    status, text = await said(Cluster(), why_not="h200")
    assert status == 0
    assert "h200-fp8-vllm  It is dearer" in text
    assert "replicas ready" not in text
    assert "old  It is not feasible: old: 141 GB are less than 400." in (await said(Cluster(), why_not="old"))[1]
    status, text = await said(Cluster(), why_not="gb300")
    assert status == 1
    assert "leaves it out. The variants are: b200-nvfp4-vllm, h200-fp8-vllm." in text


async def test_as_it_was_then() -> None:
    status, text = await said(Cluster(), datetime.fromtimestamp(START + 100, UTC))
    assert status == 0
    assert "chat/glm-5 as of 2025-11-24 16:0" in text
    assert "from the operator (op-1)" in text
    status, text = await said(Cluster(), datetime.fromtimestamp(START - 100, UTC))
    assert status == 1
    assert "the operator keeps accounts of this leader's last day, the first of 2025-11-24 16:00:00Z" in text


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (KubeError(403, "Forbidden", "no"), "your account may not get pods/proxy in spillway-system"),
        (KubeError(503, "ServiceUnavailable", "dial"), "does not reach its port 8081 (a NetworkPolicy?)"),
        (KubeError(503, "", ""), "has made no plan yet"),
        (KubeError(404, "", ""), "makes no decision for chat/glm-5"),
        (KubeError(500, "InternalError", "broken"), "broken"),
    ],
)
async def test_without_the_operator_the_status_speaks_and_says_what_it_does_not_know(
    refusal: KubeError, words: str
) -> None:
    status, text = await said(Cluster(refusal))
    assert status == 0
    assert "Last decisions" in text
    assert "What each option would cost is not known here" in " ".join(text.split())
    assert words in " ".join(text.split())
    status, text = await said(Cluster(refusal), why_not="blackwell-b200")
    assert status == 1
    assert words in " ".join(text.split())
    assert "It is used: 2 wanted, 1 ready, $33.60/h. The last decision on it: DemandRose" in " ".join(text.split())
    assert "does not know what it would cost" in " ".join(text.split())


async def test_the_status_remembers_some_decisions() -> None:
    cluster = Cluster(pods=0)
    late = datetime(2026, 11, 23, 12, tzinfo=UTC)
    text = (await said(cluster, late))[1]
    assert "no operator leads in namespace spillway-system" in text
    assert "DemandRose" in text
    assert "  none" in (await said(cluster, late - timedelta(days=1)))[1]
    assert "does not name it" not in (await said(cluster, why_not="blackwell-b200"))[1]
    assert "The status does not name it" in (await said(cluster, why_not="gb300"))[1]


async def test_a_key_that_the_operator_does_not_know() -> None:
    with pytest.raises(Unknown, match="makes no decision for chat/other"):
        await from_operator(Cluster(), "spillway-system", "chat/other", None)  # type: ignore[arg-type]


def test_recordings_know_each_tick(tmp_path: Path) -> None:
    recorded(tmp_path, ticks(400))
    at = datetime.fromtimestamp(START + 1234, UTC)
    assert from_recordings(tmp_path, KEY, at).account.time == START + 1230
    assert from_recordings(tmp_path, KEY, None).account.time == START + 3990
    for trouble, words in (
        ((tmp_path, "chat/x", None), "has no decision for chat/x"),
        ((tmp_path, KEY, datetime.fromtimestamp(START - 1, UTC)), "at or before 2025-11-24 15:59:59Z"),
        ((tmp_path / "none", KEY, None), "cannot be read"),
    ):
        with pytest.raises(Unknown, match=words):
            from_recordings(*trouble)
    snapshot, before, planned = ticks(1)[0]
    assert plan(snapshot, before)[0] == planned


def test_the_command_reads_recordings_without_a_cluster(tmp_path: Path) -> None:
    recorded(tmp_path, ticks(60))
    runner = CliRunner(env={"KUBECONFIG": "/nonexistent", "NO_COLOR": "1"})
    result = runner.invoke(app, ["explain", "glm-5", "-n", "chat", "--record", str(tmp_path)])
    assert result.exit_code == 0, result.stderr
    assert "as of 2025-11-24 16:09:50Z" in result.stdout
    assert "ALL OF IT ON" in result.stdout
    result = runner.invoke(app, ["explain", "glm-5", "-n", "chat", "--record", str(tmp_path), "--why-not", "gb300"])
    assert result.exit_code == 1
    assert "only the live explain knows which" in result.stdout
    result = runner.invoke(app, ["explain", "glm-5", "--record", str(tmp_path), "--at", "soon"])
    assert result.exit_code == 2
    assert "--at is 'soon': give a time such as" in result.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-26T19:00Z", datetime(2026, 11, 26, 19, tzinfo=UTC)),
        ("2026-11-26 19:00", datetime(2026, 11, 26, 19, tzinfo=UTC)),
        ("2026-11-26T19:00+01:00", datetime(2026, 11, 26, 18, tzinfo=UTC)),
        ("11:30", datetime(2026, 11, 23, 11, 30, tzinfo=UTC)),
        ("13:00:05", datetime(2026, 11, 22, 13, 0, 5, tzinfo=UTC)),
        ("20m", datetime(2026, 11, 23, 11, 40, tzinfo=UTC)),
        ("2h ago", datetime(2026, 11, 23, 10, tzinfo=UTC)),
    ],
)
def test_times(text: str, expected: datetime) -> None:
    assert moment(text, datetime(2026, 11, 23, 12, tzinfo=UTC)) == expected


@pytest.mark.parametrize("text", ["noon", "25:00", "", "3x"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="--at is"):
        moment(text, NOW)


def test_the_module_tells_an_account_of_days_ago() -> None:
    assert account._ago(86_400 * 10) == "10 days ago"
