"""The memory of decisions on a real API server: it survives a restart, and what is corrupt is dropped alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spillway.act.events import EventRecorder
from spillway.act.kube import path
from spillway.controller.recollection import KEY, NAMES, Recollection, shard
from spillway.decide import Memory, decode, encode, plan
from tests.unit.decide.world import World

from .conftest import Place


def recollection(place: Place) -> Recollection:
    return Recollection(place.kube, place.namespace, EventRecorder(place.kube, "test"))


def lived(hours: float = 2.0) -> World:
    """A deployment that has decided for a while: rises, a cold start measured, layers in the balance."""
    world = World(work=lambda t: 0.4 if t < 4000 else 2.6)
    world.run(hours * 3600)
    return world


async def test_a_restart_goes_on_as_if_there_had_been_none(place: Place) -> None:
    world = lived()
    await recollection(place).keep(world.memory)
    found = await recollection(place).load()
    assert found == world.memory
    # From here on a process that remembers and one that was restarted decide the same, bit by bit.
    snapshot, other = world.snapshot(), found
    for _ in range(60):
        snapshot = replace(snapshot, time=snapshot.time + 10)
        one, world.memory = plan(snapshot, world.memory)
        two, other = plan(snapshot, other)
        assert encode(one) == encode(two)
    assert decode(Memory, encode(other)) == world.memory


async def test_nothing_is_written_while_nothing_happens(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    world, mine = lived(), recollection(place)
    await mine.keep(world.memory)
    assert len(place.writes()) >= 1
    monkeypatch.setattr("spillway.controller.recollection.INTERVAL_SECONDS", 0.0)
    await mine.keep(replace(world.memory, time=world.memory.time + 60))
    assert place.writes() == []
    [key] = world.memory.deployments
    moved = replace(world.memory.deployments[key], desired={"b200-nvfp4-vllm": 7})
    await mine.keep(replace(world.memory, deployments={key: moved}))
    assert len(place.writes()) == 1


async def test_a_corrupt_part_is_dropped_alone_with_an_event_and_replaced(place: Place) -> None:
    world = lived(1.0)
    [(key, one)] = world.memory.deployments.items()
    other = next(f"chat/m{n}" for n in range(99) if shard(f"chat/m{n}") != shard(key))
    memory = replace(world.memory, deployments={key: one, other: one})
    await recollection(place).keep(memory)
    spoiled = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": shard(key), "namespace": place.namespace},
        "binaryData": {KEY: "bm90IGEgbWVtb3J5"},
    }
    await place.other.apply(spoiled)
    mine = recollection(place)
    found = await mine.load()
    assert set(found.deployments) == {other}
    events = await place.kube.request("GET", path("events.k8s.io/v1", "Event", place.namespace))
    [told] = events["items"]
    assert (told["reason"], told["type"]) == ("MemoryDropped", "Warning")
    assert told["regarding"]["name"] == shard(key)
    assert "what runs counts" in told["note"]
    await mine.keep(memory, force=True)
    assert set((await recollection(place).load()).deployments) == {key, other}


async def test_before_there_is_any_it_is_empty(place: Place) -> None:
    assert await recollection(place).load() == Memory()
    assert len(NAMES) == 8
