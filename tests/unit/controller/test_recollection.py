"""The memory's parts and objects: nothing lost, little written, and nothing that is found there ends the operator."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.act.kube import KubeError
from spillway.controller.recollection import (
    HASHED_KEY,
    OLD_KEY,
    POOLS,
    POOLS_KEY,
    SLOT_BYTES,
    SLOTS,
    Recollection,
    pack,
    parts,
    place,
    unpack,
)
from spillway.decide import Memory, UnreadableMemory, encode
from spillway.decide.memory import DeploymentMemory, PoolMemory
from spillway.observe import Objects
from tests.unit.decide.world import World


class Server:
    """Keeps ConfigMaps as an API server would, and counts what is written."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.writes: list[str] = []
        self.away = False

    async def request(self, method: str, where: str) -> dict[str, Any]:
        assert method == "GET"
        name = where.rpartition("/")[2]
        if name not in self.objects:
            raise KubeError(404, "NotFound", name)
        return self.objects[name]

    async def apply(self, obj: dict[str, Any]) -> dict[str, Any]:
        if self.away:
            raise OSError("away")
        name = obj["metadata"]["name"]
        assert sum(len(base64.b64decode(text)) for text in obj["binaryData"].values()) <= SLOT_BYTES
        self.writes.append(name)
        self.objects[name] = obj
        return obj


class Events:
    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    async def record(self, regarding: dict[str, Any], reason: str, message: str, kind: str) -> None:
        assert (reason, kind) == ("MemoryDropped", "Warning")
        self.told.append((regarding["metadata"]["name"], message))


def objects(*keys: str) -> Objects:
    found = Objects()
    for key in keys:
        namespace, _, name = key.partition("/")
        found.moedeployments[key] = {"metadata": {"namespace": namespace, "name": name, "uid": key}}
    found.gpupools["b200"] = {"metadata": {"name": "b200", "uid": "b200"}}
    return found


def recollection(server: Server, events: Events | None = None, *keys: str) -> Recollection:
    now = iter(range(0, 10**9, 61))  # each look comes a minute after the last
    return Recollection(server, "spillway-system", objects(*keys), events, lambda: float(next(now)))  # type: ignore[arg-type]


def learned(desired: int = 1, kilobytes: float = 0.0) -> DeploymentMemory:
    names = tuple(f"pod-{n * 7919 % 99991}" for n in range(int(kilobytes * 100)))
    return DeploymentMemory(reference="b200", desired={"b200": desired}, counted_starts=names)


def memory(*keys: str, time: float = 1000.0, **deployments: DeploymentMemory) -> Memory:
    return Memory(time=time, deployments={key: learned() for key in keys}, pools={"b200": PoolMemory(failures=2)})


async def test_what_is_kept_is_loaded() -> None:
    server = Server()
    world = World()
    world.run(3600.0)  # a real memory, with all that the rule learned
    real = replace(world.memory, deployments={**world.memory.deployments, "search/a": learned()})
    await recollection(server).keep(real)
    assert await recollection(server).load() == real
    assert len(server.writes) == len(set(server.writes)) <= 3


async def test_a_thousand_deployments_fit_in_one_namespace_or_in_many() -> None:
    for namespaces in (1, 40, 1000):
        server = Server()
        keys = [f"team-{n % namespaces}/model-{n}" for n in range(1000)]
        whole = Memory(time=5.0, deployments={key: learned(n, 3.0) for n, key in enumerate(keys)})
        assert len(encode(whole)) > 3_000_000
        await recollection(server).keep(whole)
        assert (await recollection(server).load()).deployments == whole.deployments
        assert len(server.writes) <= len(SLOTS)


async def test_only_what_changed_is_written_and_what_fades_is_no_change() -> None:
    server = Server()
    keeper = recollection(server)
    first = memory("a/x", "b/x", "c/x", "d/x")
    await keeper.keep(first)
    server.writes.clear()
    await keeper.keep(replace(first, time=2000.0))
    assert server.writes == []
    changed = {**first.deployments, "b/x": learned(2)}
    await keeper.keep(replace(first, deployments=changed))
    assert len(server.writes) == 1
    assert await recollection(server).load() == replace(first, deployments=changed)


async def test_a_namespace_that_is_gone_leaves() -> None:
    server = Server()
    keeper = recollection(server)
    await keeper.keep(memory("a/x", "b/x"))
    await keeper.keep(memory("a/x"))
    assert (await recollection(server).load()).deployments.keys() == {"a/x"}
    await recollection(server).keep(Memory())
    stays = Server()
    stays.objects = dict(server.objects)
    emptied = recollection(stays)
    await emptied.load()
    await emptied.keep(Memory(time=1.0))
    assert all(not obj["binaryData"] for obj in stays.objects.values())


async def test_it_is_looked_at_once_a_minute_and_at_the_end() -> None:
    server, now = Server(), [0.0]
    keeper = Recollection(server, "s", clock=lambda: now[0])  # type: ignore[arg-type]
    await keeper.keep(memory("a/x"))
    now[0] = 59.0
    await keeper.keep(memory("a/x", "b/x"))
    assert (await recollection(server).load()).deployments.keys() == {"a/x"}
    await keeper.keep(memory("a/x", "b/x"), force=True)
    assert (await recollection(server).load()).deployments.keys() == {"a/x", "b/x"}


async def test_an_api_server_that_is_away_is_asked_again() -> None:
    server = Server()
    keeper = recollection(server)
    server.away = True
    await keeper.keep(memory("a/x"))
    server.away = False
    await keeper.keep(memory("a/x"))
    assert (await recollection(server).load()).deployments.keys() == {"a/x"}


def other_version(version: object) -> str:
    text = json.dumps({**json.loads(encode(memory("a/x"))), "version": version, "more": 1})
    return base64.b64encode(gzip.compress(text.encode())).decode()


def cut(text: str) -> str:
    return base64.b64encode(base64.b64decode(text)[:-12]).decode()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("%%%", "cannot be unpacked"),
        ("", "cut off"),
        (cut(pack(memory("a/x"))), "cut off"),
        (base64.b64encode(gzip.compress(b'{"version": 2, "deployments": 3}')).decode(), "not a memory"),
        (base64.b64encode(gzip.compress(b"[" * 100_000)).decode(), "not a memory"),
        (base64.b64encode(gzip.compress(bytes(65 * 2**20))).decode(), "too large"),
        (pack(memory("b/x")), "speaks of others: b/x"),
        (pack(Memory(time=float("nan"))), "not a memory"),
        (other_version(1), "memory of version 1, this operator reads"),
        (other_version(99), "memory of version 99, this operator reads"),
        (other_version("x"), "not a memory"),
    ],
)
async def test_what_cannot_be_read_is_dropped_alone_and_told(damage: str, words: str) -> None:
    server, events = Server(), Events()
    await recollection(server).keep(memory("a/x", "b/x"))
    slot = next(name for name, obj in server.objects.items() if "a.0.gz" in obj["binaryData"])
    server.objects[slot]["binaryData"]["a.0.gz"] = damage
    keeper = recollection(server, events, "a/x", "a/y", "b/x")
    loaded = await keeper.load()
    assert loaded == memory("b/x")
    assert [name for name, _ in events.told] == ["x", "y"]
    assert all(words in message and f"{slot}, a.0.gz" in message for _, message in events.told)
    await keeper.keep(memory("a/x", "b/x"))  # learned anew, it takes the place of the damaged one
    assert await recollection(server).load() == memory("a/x", "b/x")


async def test_the_pools_part_is_dropped_alone() -> None:
    server, events = Server(), Events()
    await recollection(server).keep(memory("a/x"))
    server.objects[POOLS]["binaryData"][POOLS_KEY] = "x"
    loaded = await recollection(server, events, "a/x").load()
    assert loaded == replace(memory("a/x"), pools={})
    assert [name for name, _ in events.told] == ["b200"]


async def test_events_of_one_restart_are_bounded() -> None:
    server, events = Server(), Events()
    keys = [f"a/{n}" for n in range(80)]
    await recollection(server).keep(memory(*keys))
    for obj in server.objects.values():
        obj["binaryData"] = dict.fromkeys(obj["binaryData"], "x")
    assert await recollection(server, events, *keys).load() == Memory()
    assert len(events.told) == 50


async def test_the_one_object_of_before_is_split_once() -> None:
    server = Server()
    server.objects[POOLS] = {"metadata": {"name": POOLS}, "data": {OLD_KEY: encode(memory("a/x"))}}
    keeper = recollection(server)
    loaded = await keeper.load()
    assert loaded == memory("a/x")
    await keeper.keep(loaded)
    assert "data" not in server.objects[POOLS]
    assert await recollection(server).load() == memory("a/x")


async def test_the_eighths_of_before_are_split_once() -> None:
    server, events = Server(), Events()
    own = Memory(time=1.0, deployments={"a/x": learned(), "b/y": learned(2)}, pools={"b200": PoolMemory(failures=2)})
    server.objects["spillway-memory-0"] = {"metadata": {}, "binaryData": {HASHED_KEY: pack(own)}}
    server.objects["spillway-memory-5"] = {"metadata": {}, "binaryData": {HASHED_KEY: "nonsense"}}
    keeper = recollection(server, events, "c/z")
    loaded = await keeper.load()
    assert loaded == own
    assert sorted(name for name, _ in events.told) == ["b200", "z"]
    await keeper.keep(loaded)
    assert all(HASHED_KEY not in obj["binaryData"] for obj in server.objects.values())
    assert await recollection(server).load() == own


async def test_the_one_object_of_before_that_cannot_be_read_is_told_to_all() -> None:
    server, events = Server(), Events()
    server.objects[POOLS] = {"metadata": {"name": POOLS}, "data": {OLD_KEY: '{"version": 1}'}}
    keeper = recollection(server, events, "a/x", "b/x")
    assert await keeper.load() == Memory()
    assert sorted(name for name, _ in events.told) == ["b200", "x", "x"]
    await keeper.keep(Memory(time=1.0))
    assert "data" not in server.objects[POOLS]


async def test_a_part_that_was_on_its_way_between_two_objects_counts_once_and_the_later_one() -> None:
    server = Server()
    await recollection(server).keep(memory("a/x"))
    home = next(name for name, obj in server.objects.items() if "a.0.gz" in obj["binaryData"])
    late = replace(memory("a/x", time=2000.0), deployments={"a/x": learned(7)}, pools={})
    for name, text in (("spillway-memory-0", pack(late)), ("spillway-memory-1", pack(late))):
        if name != home:
            server.objects[name] = {"metadata": {"name": name}, "binaryData": {"a.0.gz": text}}
    keeper = recollection(server)
    loaded = await keeper.load()
    assert loaded.deployments == {"a/x": learned(7)}
    await keeper.keep(loaded)
    assert sum("a.0.gz" in obj["binaryData"] for obj in server.objects.values()) == 1
    assert await recollection(server).load() == loaded


@given(st.dictionaries(st.text("abc", min_size=1, max_size=4), st.integers(1, SLOT_BYTES), max_size=30), st.data())
def test_parts_are_placed_within_the_limit_and_stay(sizes: dict[str, int], data: st.DataObject) -> None:
    before = data.draw(st.dictionaries(st.sampled_from(sorted(sizes) or ["a"]), st.sampled_from(SLOTS)))
    found, homeless = place(sizes, before)
    assert found.keys() | set(homeless) == sizes.keys()
    for slot in SLOTS:
        assert sum(sizes[part] for part, where in found.items() if where == slot) <= SLOT_BYTES
    assert place(sizes, found)[0] == found
    if sum(sizes.values()) <= SLOT_BYTES:
        assert not homeless


@given(st.one_of(st.text(), st.binary().map(lambda b: base64.b64encode(gzip.compress(b)).decode())))
def test_nothing_that_lies_there_crashes(text: str) -> None:
    with pytest.raises(UnreadableMemory):
        unpack(text)


GOOD = encode(Memory(time=1.0, deployments={"a/x": learned()}, pools={"b200": PoolMemory()}))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=6), JSON)
def test_one_wrong_value_is_read_or_refused(steps: list[int], value: object) -> None:
    whole = json.loads(GOOD)
    node: Any = whole
    for step in steps:
        keys: list[Any] = sorted(node) if isinstance(node, dict) else list(range(len(node)))
        key = keys[step % len(keys)]
        if not isinstance(node[key], dict | list) or not node[key] or step is steps[-1]:
            node[key] = value
            break
        node = node[key]
    try:
        found = unpack(base64.b64encode(gzip.compress(json.dumps(whole).encode())).decode())
    except UnreadableMemory:
        return
    assert isinstance(found, Memory)
    assert unpack(pack(found)) == found


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40)), max_size=40), st.floats(0, 30))
def test_parts_hold_everything_once(names: list[tuple[str, int]], kilobytes: float) -> None:
    whole = Memory(time=3.0, deployments={f"{ns}/m{n}": learned(n, kilobytes) for ns, n in names})
    found = parts(whole)
    assert sum(len(part.deployments) for part in found.values()) == len(whole.deployments)
    for name, part in found.items():
        assert {key.partition("/")[0] for key in part.deployments} == {name.partition(".")[0]}
