"""Memory in parts: what is packed comes back, and whatever else a ConfigMap may hold is refused in words."""

from __future__ import annotations

import base64
import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.controller.recollection import NAMES, merged, packed, shard, shards, unpacked
from spillway.decide import Memory, UnreadableMemory, encode
from spillway.decide.memory import DeploymentMemory, PoolMemory
from spillway.decide.provisioning import Evidence, advance

EVIDENCE = Evidence(1e9, 10, 2.5, 0, 2, 2, 8, 0.02, 0.005, 300, 60, 0, 10, 1e3)


def memory(deployments: int = 40) -> Memory:
    state = advance("hex", advance("hex", None, EVIDENCE), EVIDENCE)
    return Memory(
        time=5.0,
        deployments={
            f"team-{n % 7}/m{n}": DeploymentMemory(reference="v", provisioning=state, desired={"v": n})
            for n in range(deployments)
        },
        pools={"b200": PoolMemory(9.0, 8.0, 2)},
    )


def test_what_is_packed_comes_back() -> None:
    whole = memory()
    assert unpacked(packed(whole)) == whole
    assert packed(whole) == packed(whole)


def test_the_parts_make_the_whole() -> None:
    whole = memory()
    parts = shards(whole)
    assert set(parts) == set(NAMES)
    assert merged(list(parts.values())) == whole
    assert all(shard(key) == name for name, part in parts.items() for key in part.deployments)
    assert sum(bool(part.deployments) for part in parts.values()) > 4, "they are spread"


def test_a_thousand_deployments_fit() -> None:
    assert all(len(packed(part)) < 500_000 for part in shards(memory(1000)).values())


def test_what_only_fades_is_no_reason_to_write() -> None:
    whole = memory(1)
    [key] = whole.deployments
    state = advance("hex", whole.deployments[key].provisioning, EVIDENCE)
    faded = Memory(time=15.0, deployments={key: DeploymentMemory(reference="v", provisioning=state, desired={"v": 0})})
    same = Memory(time=5.0, deployments=whole.deployments)
    assert faded != same
    assert faded.lasting() == same.lasting()


def zipped(text: bytes) -> str:
    return base64.b64encode(gzip.compress(text)).decode()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a packed memory"),
        ("{}", "not a packed memory"),
        (base64.b64encode(b"plain").decode(), "not a packed memory"),
        (zipped(b"{"), "not a memory"),
        (zipped(b"[1]"), "not a memory"),
        (zipped(encode(Memory(version=1)).encode()), "memory of version 1, this operator reads 2"),
        (zipped(encode(Memory(version=99)).encode()), "memory of version 99"),
        (zipped(b'{"version": 2, "deployments": {"a/b": {"provisioning": {"rule": "gone"}}}}'), "not a memory"),
        (packed(Memory())[:-12], "not a packed memory"),
        (zipped(b" " * (65 * 2**20)), "cut off, or larger"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(text: str, says: str) -> None:
    with pytest.raises(UnreadableMemory, match=says):
        unpacked(text)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_memory_or_refused(data: bytes) -> None:
    for text in (data.decode("latin1"), base64.b64encode(data).decode(), zipped(data)):
        try:
            unpacked(text)
        except UnreadableMemory:
            continue
