"""Where weights come from and where they are kept."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest

from spillway.build import Object, caution
from spillway.build.weights import Source, source
from tests.unit.build.test_objects import built, container, first, flag, moe, pod, pool

CLAIM, NODE = {"persistentVolumeClaim": "weights"}, {"node": True}
NODE_CACHE = {"hostPath": "/mnt/nvme/spillway", "maxGB": 2000}
IMAGE = "registry.example/glm-5@sha256:" + "0" * 64
STREAMED = {"NVFP4": {"uri": "s3://bucket/glm-5"}}


@pytest.mark.parametrize(
    ("uri", "expected", "fetched"),
    [
        ("hf://a/b", Source("a/b"), True),
        ("hf://a/b@v1.2", Source("a/b", ("--revision", "v1.2")), True),
        (
            "pvc://c/x/y",
            Source("/models/x/y", volume={"persistentVolumeClaim": {"claimName": "c", "readOnly": True}}),
            False,
        ),
        ("pvc://c", Source("/models", volume={"persistentVolumeClaim": {"claimName": "c", "readOnly": True}}), False),
        (
            f"oci://{IMAGE}",
            Source("/models", volume={"image": {"reference": IMAGE, "pullPolicy": "IfNotPresent"}}),
            False,
        ),
        ("s3://b/x", Source("s3://b/x", ("--load-format", "runai_streamer")), False),
        ("gs://b/x", Source("gs://b/x", ("--load-format", "runai_streamer")), False),
    ],
)
def test_source(uri: str, expected: Source, fetched: bool) -> None:
    assert source(uri) == expected
    assert source(uri).is_fetched is fetched


def test_an_unknown_scheme_is_an_error() -> None:
    with pytest.raises(ValueError, match="ftp://x/y"):
        source("ftp://x/y")


def kept(obj: Object) -> dict[str, Any]:
    """Volume sources by mount path, of those that hold weights."""
    volumes = {volume["name"]: {k: v for k, v in volume.items() if k != "name"} for volume in pod(obj)["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container(obj)["volumeMounts"]}
    assert len(mounts) == len(volumes)
    return {path: volume for path, volume in mounts.items() if path not in ("/dev/shm", "/cache")}


@pytest.mark.parametrize("engine", ["vLLM", "SGLang"])
@pytest.mark.parametrize(
    ("changes", "node_cache", "expected"),
    [
        ({}, NODE_CACHE, {}),
        ({"model__cache": CLAIM}, None, {"/cache/huggingface": {"persistentVolumeClaim": {"claimName": "weights"}}}),
        (
            {"model__cache": NODE},
            NODE_CACHE,
            {"/cache/huggingface": {"hostPath": {"path": "/mnt/nvme/spillway/default", "type": "DirectoryOrCreate"}}},
        ),
        ({"model__cache": NODE}, None, {}),
        ({"model__cache": CLAIM, "model__sources": STREAMED}, None, {}),
        (
            {"model__cache": CLAIM, "model__sources": {"NVFP4": {"uri": f"oci://{IMAGE}"}}},
            None,
            {"/models": {"image": {"reference": IMAGE, "pullPolicy": "IfNotPresent"}}},
        ),
    ],
)
def test_what_is_mounted(engine: str, changes: Object, node_cache: Object | None, expected: Object) -> None:
    target = pool(nodeCache=node_cache) if node_cache else pool()
    obj = built(moe(engine__name=engine, **changes), target)
    kubernetes_validate.validate(obj, "1.34", strict=True)
    assert kept(obj) == expected
    read_only = {mount["mountPath"] for mount in container(obj)["volumeMounts"] if mount.get("readOnly")}
    assert read_only == expected.keys() & {"/models"}
    env = {entry["name"]: entry.get("value") for entry in container(obj)["env"]}
    assert env["HF_HOME"] == "/cache/huggingface"


def test_each_engine_is_told_of_revision_and_streaming() -> None:
    pinned = moe(model__sources={"NVFP4": {"uri": "hf://me/own@v2"}})
    assert container(built(pinned))["args"][:3] == ["me/own", "--revision", "v2"]
    streamed = moe(engine__name="SGLang", model__sources=STREAMED)
    assert flag(built(streamed), "--model-path") == "s3://bucket/glm-5"
    assert flag(built(streamed), "--load-format") == "runai_streamer"


@pytest.mark.parametrize(
    ("changes", "node_cache", "words"),
    [
        ({}, None, "fetches hf://nvidia/GLM-5-NVFP4 anew"),
        ({}, NODE_CACHE, "set spec.model.cache.node"),
        ({"model__cache": NODE}, None, "GPUPool pool has no spec.nodeCache"),
        ({"model__cache": CLAIM, "model__sources": STREAMED}, None, "does not hold s3://bucket/glm-5"),
        ({"model__sources": STREAMED}, None, None),
        ({"model__cache": NODE}, NODE_CACHE, None),
        ({"model__cache": CLAIM}, None, None),
        ({"model__sources": {"NVFP4": {"uri": "pvc://weights/glm"}}}, None, None),
        ({"model__sources": {"NVFP4": {"uri": f"oci://{IMAGE}"}}}, None, None),
    ],
)
def test_what_makes_starts_slow_is_said(changes: Object, node_cache: Object | None, words: str | None) -> None:
    owner, target = moe(**changes), pool(nodeCache=node_cache) if node_cache else pool()
    said = caution(owner, first(owner, target), target)
    assert (words in said) if words else said == ""
