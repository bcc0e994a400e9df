"""The memory of decisions on a real API server: it survives a restart, and what is damaged is dropped with an event."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from spillway.act.events import EventRecorder
from spillway.cli.replay import replay
from spillway.controller.recollection import POOLS, SLOTS, Recollection, pack, unpack
from spillway.decide import Memory, plan
from spillway.decide.memory import DeploymentMemory, PoolMemory
from spillway.observe import Objects
from tests.integration.conftest import Kube as Server
from tests.unit.api.examples import example
from tests.unit.decide.world import World

from .conftest import Place
from .test_process import line, operator

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module", autouse=True)
def kinds(kube: Server) -> None:
    """The four kinds on the API server."""
    applied = kube.kubectl("apply", "--server-side", "-k", str(ROOT / "crds"))
    assert applied.returncode == 0, applied.stderr
    found = [f"--filename={p}" for p in sorted((ROOT / "crds").glob("*.spillway.dev.yaml"))]
    assert kube.kubectl("wait", "--for=condition=Established", "--timeout=60s", *found).returncode == 0


def apply(place: Place, obj: dict[str, Any]) -> None:
    done = place.server.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=yaml.safe_dump(obj))
    assert done.returncode == 0, done.stderr


def stored(place: Place) -> dict[str, dict[str, str]]:
    """binaryData of each object."""
    done = place.server.kubectl("get", "configmap", "-n", place.namespace, "-o", "json")
    items = json.loads(done.stdout)["items"]
    return {
        item["metadata"]["name"]: item.get("binaryData") or {}
        for item in items
        if item["metadata"]["name"] in (POOLS, *SLOTS)
    }


async def test_a_restart_goes_on_where_the_last_leader_was(place: Place) -> None:
    world = World(work=lambda t: 1.5 + (t > 4000) * 2.0)
    world.run(3600.0)
    keeper = Recollection(place.kube, place.namespace)
    await keeper.keep(world.memory, force=True)
    loaded = await Recollection(place.other, place.namespace).load()
    assert loaded == world.memory
    for _ in range(30):  # a step of the load comes on the way: the same decisions, tick by tick
        snapshot = world.snapshot()
        went_on, loaded = plan(snapshot, loaded)
        assert went_on == world_step(world)
    place.writes()
    await keeper.keep(world.memory, force=True)
    assert len(place.writes()) >= 1
    await keeper.keep(world.memory, force=True)
    assert place.writes() == []


def world_step(world: World) -> Any:
    outcome, world.memory = plan(world.snapshot(), world.memory)
    world.follow(outcome)
    world.now += world.tick
    return outcome


async def test_three_megabytes_fit_and_come_back(place: Place) -> None:
    noise = base64.b64encode(random.Random(7).randbytes(2_200_000)).decode()
    whole = Memory(
        time=1.0,
        deployments={
            f"team-{n % 30}/m{n}": DeploymentMemory(reference=noise[n * 2900 : (n + 1) * 2900]) for n in range(1000)
        },
        pools={"b200": PoolMemory(failures=1)},
    )
    await Recollection(place.kube, place.namespace).keep(whole, force=True)
    assert await Recollection(place.other, place.namespace).load() == whole


async def test_what_is_damaged_is_dropped_with_an_event_and_the_rest_stays(place: Place) -> None:
    other = DeploymentMemory(reference="other")
    whole = Memory(time=1.0, deployments={f"{place.namespace}/glm-5": DeploymentMemory(), "else/x": other})
    await Recollection(place.kube, place.namespace).keep(whole, force=True)
    name, part = next((n, p) for n, data in stored(place).items() for p in data if p.startswith(place.namespace))
    damaged = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": place.namespace}}
    apply(place, {**damaged, "binaryData": {part: base64.b64encode(b"nonsense").decode()}})
    moe = example("MoEDeployment", name="glm-5")
    moe["metadata"]["namespace"] = place.namespace
    apply(place, moe)
    objects = Objects()
    obj = await place.other.request(
        "GET", f"/apis/spillway.dev/v1alpha1/namespaces/{place.namespace}/moedeployments/glm-5"
    )
    objects.moedeployments[f"{place.namespace}/glm-5"] = obj
    keeper = Recollection(place.kube, place.namespace, objects, EventRecorder(place.kube, "test"))
    assert (await keeper.load()).deployments == {"else/x": other}
    events = await place.other.request("GET", f"/apis/events.k8s.io/v1/namespaces/{place.namespace}/events")
    (event,) = events["items"]
    assert (event["type"], event["reason"], event["regarding"]["name"]) == ("Warning", "MemoryDropped", "glm-5")
    assert f"{name}, {part}: cannot be unpacked" in event["note"]
    await keeper.keep(whole, force=True)
    assert await Recollection(place.other, place.namespace).load() == whole


async def test_the_process_leads_with_a_damaged_memory_and_heals_it(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPILLWAY_RECORD", str(tmp_path / "decisions"))
    moe = example("MoEDeployment", name="glm-5")
    moe["metadata"]["namespace"] = place.namespace
    apply(place, moe)
    part = f"{place.namespace}.0.gz"
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": SLOTS[3], "namespace": place.namespace}}
    apply(place, {**body, "binaryData": {part: base64.b64encode(b"nonsense").decode()}})
    old = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": POOLS, "namespace": place.namespace}}
    apply(place, {**old, "data": {"memory.json": '{"version": 1, "deployments": {}}'}})
    async with operator(place, "first") as process:
        dropped = await asyncio.wait_for(
            line(process, "a memory of earlier decisions is dropped: what runs now counts"), 60
        )
        assert dropped["reason"] == "MemoryDropped"
        again = await asyncio.wait_for(
            line(process, "a memory of earlier decisions is dropped: what runs now counts"), 60
        )
        assert {dropped["namespace"], again["namespace"]} == {"*", place.namespace}
        await asyncio.wait_for(line(process, "no metrics: replicas are held"), 60)  # it plans
        process.terminate()
        assert process.stderr is not None
        rest = (await asyncio.wait_for(process.stderr.read(), 60)).decode()
        assert await asyncio.wait_for(process.wait(), 60) == 0, rest
    data = stored(place)
    assert all(unpack(text) for parts in data.values() for text in parts.values()), rest
    assert part not in data[SLOTS[3]] or pack(unpack(data[SLOTS[3]][part])) == data[SLOTS[3]][part]
    replayed = replay(tmp_path / "decisions")  # what a real process decides replays, too
    assert replayed.good
    assert replayed.equal >= 1
