"""The catalog's overlay on a real API server: taken, refused with words, given up; and what it does for a deployment
that waits for its model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.aio import client

from spillway.act.events import EventRecorder
from spillway.catalog import load
from spillway.controller.catalog_watch import CatalogWatch
from spillway.controller.metrics import Metrics
from tests.integration.conftest import Kube as Server
from tests.unit.api.examples import example

from .conftest import Place
from .test_process import line, operator

ROOT = Path(__file__).parents[3]
NAME = "spillway-catalog"
MODEL = """
kimi-k3:
  parameters_billion: {total: 1000, active: 32}
  context_length: 262144
  kv_bytes_per_token: {BF16: 70272}
  checkpoints:
    NVFP4: {uri: "hf://moonshotai/Kimi-K3-NVFP4", gigabytes: 590, dense_gigabytes: 24}
  engines: {vLLM: {}}
"""


@pytest.fixture(scope="module", autouse=True)
def kinds(kube: Server) -> None:
    """The four kinds on the API server."""
    applied = kube.kubectl("apply", "--server-side", "-k", str(ROOT / "crds"))
    assert applied.returncode == 0, applied.stderr
    found = [f"--filename={p}" for p in sorted((ROOT / "crds").glob("*.spillway.dev.yaml"))]
    assert kube.kubectl("wait", "--for=condition=Established", "--timeout=60s", *found).returncode == 0


def apply(place: Place, obj: dict[str, Any]) -> None:
    done = place.server.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump(obj))
    assert done.returncode == 0, done.stderr


def overlay(place: Place, **files: str) -> dict[str, Any]:
    data = {f"{name}.yaml": text for name, text in files.items()}
    metadata = {"name": NAME, "namespace": place.namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


@asynccontextmanager
async def watching(place: Place) -> AsyncIterator[tuple[CatalogWatch, Metrics, asyncio.Event]]:
    """A watch under way on the namespace, and what it tells."""
    changed, metrics = asyncio.Event(), Metrics()
    found = CatalogWatch(
        client.CoreV1Api(place.kube.api),
        place.namespace,
        NAME,
        EventRecorder(place.kube, "test"),
        metrics,
        changed.set,
    )
    task = asyncio.create_task(found.run())
    try:
        yield found, metrics, changed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for what has no event of its own; a minute at most."""
    for _ in range(600):
        if condition():
            return
        await asyncio.sleep(0.1)
    raise AssertionError(what)


async def test_an_overlay_is_followed_and_a_mistake_leaves_the_last_good_one(place: Place) -> None:
    async with watching(place) as (found, metrics, changed):

        def problems() -> float:
            return metrics.registry.get_sample_value("spillway_catalog_problems") or 0.0

        assert found.catalog is load()
        apply(place, overlay(place, models=MODEL))
        await asyncio.wait_for(changed.wait(), 60)
        assert found.catalog.models["kimi-k3"].checkpoints["NVFP4"].gigabytes == 590
        good = found.catalog

        apply(place, overlay(place, models=MODEL.replace("590", "big")))
        await until(lambda: problems() == 1, "the mistake is counted")
        assert found.catalog is good
        events = await events_of(place)
        assert [event["type"] for event in events] == ["Warning"]
        assert events[0]["reason"] == "InvalidCatalog"
        assert f"ConfigMap {place.namespace}/{NAME}" in events[0]["note"]
        assert "models.yaml: kimi-k3.checkpoints.NVFP4.gigabytes is 'big': " in events[0]["note"]
        assert events[0]["regarding"]["name"] == NAME

        changed.clear()
        apply(place, overlay(place, models=MODEL.replace("590", "600")))
        await asyncio.wait_for(changed.wait(), 60)
        assert found.catalog.models["kimi-k3"].checkpoints["NVFP4"].gigabytes == 600
        assert problems() == 0

        changed.clear()
        assert place.server.kubectl("delete", "configmap", NAME, "-n", place.namespace).returncode == 0
        await asyncio.wait_for(changed.wait(), 60)
        assert found.catalog == load()


async def events_of(place: Place) -> list[dict[str, Any]]:
    answer = await place.other.request("GET", f"/apis/events.k8s.io/v1/namespaces/{place.namespace}/events")
    found: list[dict[str, Any]] = answer["items"]
    return found


async def test_a_new_model_makes_a_waiting_deployment_servable(place: Place) -> None:
    pool = example("GPUPool", name=f"pool-{place.namespace[-8:]}", gpu__product="B200", capacity__maxGPUs=8)
    moe = example("MoEDeployment", name="kimi", model__name="kimi-k3")
    moe["metadata"]["namespace"] = place.namespace

    def ready() -> dict[str, Any]:
        done = place.server.kubectl("get", "moe", "kimi", "-n", place.namespace, "-o", "json")
        conditions = (json.loads(done.stdout).get("status") or {}).get("conditions") or []
        found: dict[str, Any] = next((c for c in conditions if c["type"] == "Ready"), {})
        return found

    apply(place, pool)
    try:
        apply(place, moe)
        async with operator(place, "first") as process:
            await asyncio.wait_for(line(process, "leading"), 60)
            await until(lambda: ready().get("reason") == "UnknownModel", "the model is not known")
            assert "'kimi-k3', which is not in the catalog" in ready()["message"]
            apply(place, overlay(place, models=MODEL))
            await asyncio.wait_for(line(process, "the catalog has changed"), 60)
            await until(lambda: ready().get("reason") not in ("UnknownModel", None), "the model is known")
            assert ready()["reason"] != "NoPoolFits", ready()["message"]
    finally:
        place.server.kubectl("delete", "gpool", pool["metadata"]["name"], "--wait=false")
