"""Who sets a field that nothing acts on yet is told by an event and a condition, once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from uuid import uuid4

import pytest
from kubernetes.aio.client import CoreV1Api

from spillway.act.children import Children
from spillway.act.events import EventRecorder
from spillway.api import GPUPool, parse
from spillway.catalog import load
from spillway.controller.brain import Picture
from spillway.controller.metrics import Metrics
from spillway.controller.reconciler import POOL, Reconciler
from spillway.controller.settings import OperatorSettings
from spillway.controller.treasury import Treasury
from spillway.controller.workqueue import WorkQueue
from spillway.decide.outcome import Plan
from spillway.decide.snapshot import Snapshot
from spillway.observe import Objects
from tests.integration.conftest import Kube as Server
from tests.unit.api.examples import example

from .conftest import Object, Place
from .test_writing import SETTINGS

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True, scope="module")
def crds(kube: Server) -> None:
    assert kube.kubectl("apply", "--server-side", "-k", str(ROOT / "crds")).returncode == 0
    done = kube.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd/gpupools.spillway.dev")
    assert done.returncode == 0, done.stderr


def told(place: Place, name: str) -> list[Object]:
    done = place.server.kubectl("get", "events.events.k8s.io", "-n", "default", "-o", "json")
    return [event for event in json.loads(done.stdout)["items"] if event["regarding"]["name"] == name]


async def test_a_field_without_effect_is_told_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spillway.api.effect.SPEC_NOT_YET", {"GPUPool": {"spec.price.reservedGPUs": None}})
    name = f"pool-{uuid4().hex[:8]}"
    stored = await place.kube.apply(example("GPUPool", name, price__billing="Reserved", price__reservedGPUs=8))
    objects = Objects()
    for _ in range(2):  # the second time by an operator that has just started
        objects.store(POOL)[name] = stored
        pool = parse(GPUPool, stored)
        assert isinstance(pool, GPUPool)
        treasury = Treasury(CoreV1Api(), objects, OperatorSettings(namespace=place.namespace), lambda: None)
        reconciler = Reconciler(
            place.kube,
            objects,
            Children(place.kube, objects, SETTINGS),
            EventRecorder(place.kube, "operator-0"),
            treasury,
            load,
            WorkQueue(),
            Metrics(),
        )
        reconciler.take(Picture(Snapshot(1e9, (), ()), Plan(1e9, ()), pools={name: pool}))
        async with asyncio.timeout(20):
            await reconciler._reconcile(f"{POOL}:{name}")
        stored = objects.store(POOL)[name]
    [condition] = [found for found in stored["status"]["conditions"] if found["type"] == "NotActedOn"]
    assert condition["message"].startswith("spec.price.reservedGPUs is accepted, but this version")
    [event] = told(place, name)
    assert (event["reason"], event["type"], event["note"]) == ("NotActedOn", "Warning", condition["message"])
