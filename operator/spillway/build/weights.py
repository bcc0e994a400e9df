"""Where a replica's weights come from, and where they are kept between starts."""

from __future__ import annotations

from dataclasses import dataclass

from spillway.api import GPUPool, MoEDeployment
from spillway.build.labels import Object
from spillway.catalog import ResolvedVariant

MODELS_DIRECTORY = "/models"
"""Where a volume that holds the checkpoint itself is mounted, read-only."""
HUB_DIRECTORY = "/cache/huggingface"
"""Where the engine keeps what it fetches from the Hugging Face hub (HF_HOME)."""


@dataclass(frozen=True, slots=True)
class Source:
    """What the engine is told to load: its model argument, what that takes beside it, and the source of the volume
    that holds the checkpoint, if one does."""

    model: str
    args: tuple[str, ...] = ()
    volume: Object | None = None

    @property
    def is_fetched(self) -> bool:
        """Whether the engine brings the checkpoint to its own disk before it loads it."""
        return self.volume is None and "://" not in self.model


@dataclass(frozen=True, slots=True)
class Storage:
    """Volumes, mounts and environment that the weights take."""

    volumes: tuple[Object, ...]
    mounts: tuple[Object, ...]
    env: tuple[Object, ...]


def source(uri: str) -> Source:
    """What a checkpoint's URI means to both engines.

    ``hf://a/b@rev`` is fetched from the hub; of ``pvc://claim/path`` and ``oci://image`` a volume is mounted (image
    volumes: Kubernetes 1.33 with the feature ImageVolume); ``s3://`` and ``gs://`` are streamed into GPU memory at each
    start (Run:ai streamer, part of vllm-openai's image; SGLang needs its extra ``runai``), with the credentials of the
    engine's ServiceAccount.
    """
    scheme, _, rest = uri.partition("://")
    if scheme == "hf":
        model, _, revision = rest.partition("@")
        return Source(model, ("--revision", revision) if revision else ())
    if scheme == "pvc":
        claim, _, path = rest.partition("/")
        volume = {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
        return Source(f"{MODELS_DIRECTORY}/{path}".rstrip("/"), volume=volume)
    if scheme == "oci":
        return Source(MODELS_DIRECTORY, volume={"image": {"reference": rest, "pullPolicy": "IfNotPresent"}})
    if scheme in ("s3", "gs"):
        return Source(uri, ("--load-format", "runai_streamer"))
    raise ValueError(f"{uri!r}: a checkpoint is hf://…, s3://…, gs://…, pvc://… or oci://…")


def storage(moe: MoEDeployment, variant: ResolvedVariant, pool: GPUPool) -> Storage:
    """What a pod of the variant needs for its weights."""
    found = source(variant.checkpoint_uri)
    volumes: list[Object] = [{"name": "cache", "emptyDir": {}}]
    mounts: list[Object] = [{"name": "cache", "mountPath": "/cache"}]
    if found.volume:
        volumes.append({"name": "checkpoint", **found.volume})
        mounts.append({"name": "checkpoint", "mountPath": MODELS_DIRECTORY, "readOnly": True})
    elif found.is_fetched and (kept := _cache(moe, pool)):
        volumes.append({"name": "weights", **kept})
        mounts.append({"name": "weights", "mountPath": HUB_DIRECTORY})
    env: list[Object] = [{"name": "HF_HOME", "value": HUB_DIRECTORY}]
    if token := moe.spec.model.token_secret_ref:
        env.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": token.name, "key": token.key}}})
    return Storage(tuple(volumes), tuple(mounts), tuple(env))


def caution(moe: MoEDeployment, variant: ResolvedVariant, pool: GPUPool) -> str:
    """What makes the variant's starts slower than they need be, and the fix; empty if nothing does."""
    found, cache = source(variant.checkpoint_uri), moe.spec.model.cache
    name, uri = variant.name, variant.checkpoint_uri
    if found.volume or (found.is_fetched and _cache(moe, pool)):
        return ""
    if not found.is_fetched:
        if not cache.node and cache.persistent_volume_claim is None:
            return ""  # streamed, as asked for
        return (
            f"{name}: spec.model.cache does not hold {uri}, which is streamed into GPU memory at each start: remove "
            "spec.model.cache, or give hf://… or pvc://… in spec.model.sources"
        )
    again = f"each replica of {name} fetches {uri} anew, before it loads it"
    if cache.node:
        return f"{again}: spec.model.cache.node is true, but GPUPool {pool.metadata.name} has no spec.nodeCache"
    return f"{again}: set spec.model.cache.node where the pool has a nodeCache, or .persistentVolumeClaim, to keep it"


def _cache(moe: MoEDeployment, pool: GPUPool) -> Object | None:
    """Source of the volume that keeps fetched weights; None: they go with the pod.

    On a node each namespace has a directory of its own: no team can put weights into another's replicas.
    """
    cache = moe.spec.model.cache
    if cache.persistent_volume_claim:
        return {"persistentVolumeClaim": {"claimName": cache.persistent_volume_claim}}
    if cache.node and pool.spec.node_cache:
        path = f"{pool.spec.node_cache.host_path}/{moe.metadata.namespace}"
        return {"hostPath": {"path": path, "type": "DirectoryOrCreate"}}
    return None
