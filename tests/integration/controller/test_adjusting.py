"""Adjustments of the ledger, from the request to the budget, on a real API server."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from kubernetes.aio.client import CoreV1Api

from spillway.act.kube import Kube as Client
from spillway.controller.treasury import Treasury
from spillway.observe import Objects
from tests.integration.conftest import Kube
from tests.integration.controller.treasuries import (
    EACH,
    FakeGateway,
    estimated,
    objects,
    rounds,
    spent,
    treasury,
    until,
)


async def vanished(core: CoreV1Api, found: Objects, namespace: str, gateway: FakeGateway) -> Decimal:
    """A gateway that sent ten requests, was killed while nobody led, and was charged its limit: how much of it."""
    gateway.requests = 10
    async with treasury(core, found, namespace, gateway.port) as one:
        await until(lambda: spent(one) == 10 * EACH)
        await until(lambda: one.view.caps and min(one.view.caps.values()) > 0)
    gone = found.pods.pop(f"{namespace}/gw-0")
    async with treasury(core, found, namespace, gateway.port) as one:
        await until(lambda: not one.book.gateways)
        much = estimated(one)
    assert much > 1
    found.pods[f"{namespace}/gw-0"] = gone
    gateway.process, gateway.requests = "p2", 0
    return much


@asynccontextmanager
async def after_a_death(
    core: CoreV1Api, namespace: str, gateway: FakeGateway
) -> AsyncIterator[tuple[Treasury, Decimal, Objects]]:
    """The next leader, who has read once, how much was estimated, and the cluster."""
    found = objects(namespace)
    much = await vanished(core, found, namespace, gateway)
    async with treasury(core, found, namespace, gateway.port) as one:
        await rounds(one, 1)
        yield one, much, found


async def ask(core: CoreV1Api, namespace: str, ref: str, **changes: str) -> None:
    """What `kubectl spillway bill adjust` writes; yesterday is not midnight's problem: the month is named."""
    entry = {
        "day": f"{datetime.now(UTC):%Y-%m}",
        "namespace": "chat",
        "deployment": "glm-5",
        "provider": "zai",
        "model": "glm-5",
        "reason": "invoice 4711",
        "by": "ada",
        **changes,
    }
    await core.patch_namespaced_config_map("spillway-adjustments", namespace, {"data": {ref: json.dumps(entry)}})


@pytest.mark.usefixtures("requests")
async def test_an_estimate_is_adjusted_once_and_the_budget_has_it_back(
    core: CoreV1Api, namespace: str, gateway: FakeGateway
) -> None:
    found = objects(namespace)
    much = await vanished(core, found, namespace, gateway)
    async with treasury(core, found, namespace, gateway.port) as one:
        await until(lambda: one.view.statements)
        before = one.view.statements["team"][0].remaining
        await ask(core, namespace, "inv-1", to=str(10 * EACH + 1))
        await until(lambda: spent(one) == 10 * EACH + 1)
        await until(lambda: one.view.statements["team"][0].remaining == before + much - 1)
        assert estimated(one) == 1
        stored = await one._store.load()
        assert stored is not None
        assert stored.adjustments["inv-1"].usd == 1 - much
        await rounds(one, 2)
        assert spent(one) == 10 * EACH + 1
        await ask(core, namespace, "inv-2", usd="-5")
        await until(lambda: "inv-2" in one.book.adjustments)
        assert "only 1" in one.book.adjustments["inv-2"].refusal
        assert spent(one) == 10 * EACH + 1
    async with treasury(core, found, namespace, gateway.port) as two:
        await rounds(two, 2)
        assert spent(two) == 10 * EACH + 1
        assert set(two.book.adjustments) == {"inv-1", "inv-2"}
    reasons = await told(core, namespace)
    assert reasons.count("AdjustmentApplied") == 1
    assert reasons.count("AdjustmentRefused") >= 1


async def told(core: CoreV1Api, namespace: str) -> list[str]:
    found = await Client(core.api_client).request("GET", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events")
    return [str(event["reason"]) for event in found["items"] if event["regarding"]["name"] == "spillway-adjustments"]


@pytest.mark.usefixtures("requests")
async def test_a_credit_that_cannot_be_stored_is_not_in_force(
    core: CoreV1Api, namespace: str, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be spent, and a leader who knows nothing of it would find the budget overspent."""
    async with after_a_death(core, namespace, gateway) as (one, much, _):
        tried = asyncio.Event()

        async def unreachable(*_: object) -> Any:
            tried.set()
            raise OSError("no API server")

        monkeypatch.setattr(one._store, "write", unreachable)
        await ask(core, namespace, "inv-1", usd="-1")
        tried.clear()
        await asyncio.wait_for(tried.wait(), 20)
        await rounds(one, 1)
        assert estimated(one) == much
        assert await told(core, namespace) == []
        monkeypatch.undo()
        await until(lambda: estimated(one) == much - 1)
    assert await told(core, namespace) == ["AdjustmentApplied"]


@pytest.mark.usefixtures("requests")
async def test_a_leader_that_dies_after_storing_an_adjustment_has_it_applied_once(
    core: CoreV1Api, namespace: str, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API server took the write and its answer was lost; then somebody else wrote the ledger."""
    async with after_a_death(core, namespace, gateway) as (one, much, found):
        write = one._store.write

        async def lost(book: Any, now: datetime) -> Any:
            version = one._store._version
            await write(book, now)
            one._store._version = version
            monkeypatch.undo()
            raise TimeoutError("no answer")

        monkeypatch.setattr(one._store, "write", lost)
        await ask(core, namespace, "inv-1", usd="-1")
        await until(lambda: "inv-1" in one.book.adjustments)
        await rounds(one, 2)
        assert estimated(one) == much - 1
    async with treasury(core, found, namespace, gateway.port) as two:
        await rounds(two, 2)
        assert estimated(two) == much - 1


@pytest.mark.usefixtures("requests")
async def test_the_command_asks_and_tells_what_the_leader_made_of_it(
    core: CoreV1Api, kube: Kube, namespace: str, gateway: FakeGateway
) -> None:
    found = objects(namespace)
    much = await vanished(core, found, namespace, gateway)

    async def bill_adjust(*arguments: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from spillway.cli.main import main; main()",
            *("bill", "adjust", "--operator-namespace", namespace, *arguments),
            env={**os.environ, "KUBECONFIG": str(kube.kubeconfig)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        text, _ = await process.communicate()
        return process.returncode, " ".join(text.decode().split())

    month = f"{datetime.now(UTC):%Y-%m}"
    asked = ("glm-5", "-n", "chat", "--provider", "zai", "--day", month, "--reason", "invoice 4711", "--id", "inv-1")
    async with treasury(core, found, namespace, gateway.port) as one:
        await rounds(one, 1)
        status, text = await bill_adjust(*asked, "--to", f"{10 * EACH:f}")
        assert (status, text) == (0, f"adjusted by -{much:f} USD: chat/glm-5 at zai (glm-5) on {month} (UTC) (inv-1)")
        assert (spent(one), estimated(one)) == (10 * EACH, Decimal(0))
    status, text = await bill_adjust("--list", "--format", "json")
    [told_of_it] = json.loads(text)
    assert (told_of_it["outcome"], told_of_it["by"], Decimal(told_of_it["usd"])) == ("applied", "admin", -much)
