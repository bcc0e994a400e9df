"""What a MoEDeployment's spec comes to: its variants on today's pools, or why it cannot be served."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import TypeVar

from spillway.api import (
    GPUPool,
    InvalidSpec,
    Metadata,
    MoEDeployment,
    Reason,
    Resource,
    parse,
)
from spillway.build import BuildSettings, revision
from spillway.catalog import Catalog, Misfit, ResolvedVariant, variants
from spillway.observe.objects import Object, Objects

NO_DOMAINS = (
    "{} is a group of pods with NVLink across nodes, and the cluster has no ComputeDomain: install NVIDIA's DRA driver "
    "(computedomains.resource.nvidia.com), or set the pool's spec.topology.computeDomain to false"
)
NO_GROUPS = (
    "{} is a group of pods, and the cluster has no LeaderWorkerSet: install LeaderWorkerSet "
    "(leaderworkersets.leaderworkerset.x-k8s.io), or set the pool's spec.topology.multiNode to None"
)
ResourceT = TypeVar("ResourceT", bound=Resource)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a MoEDeployment cannot be served: the reason and message of its Ready condition."""

    metadata: Metadata
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """A MoEDeployment that can be served."""

    moe: MoEDeployment
    variants: tuple[ResolvedVariant, ...]
    misfits: tuple[Misfit, ...]
    revisions: Mapping[str, str]  # by variant
    pools: Mapping[str, GPUPool] = field(default_factory=dict)


def resolve(
    obj: Object, pools: Mapping[str, GPUPool], objects: Objects, catalog: Catalog, settings: BuildSettings
) -> Resolved | Problem:
    """Parse, look up, fit. Each failure says which field, which value, what to do."""
    moe = parse(MoEDeployment, obj)
    if isinstance(moe, InvalidSpec):
        return Problem(moe.metadata, Reason.INVALID_SPEC, moe.message)
    model = catalog.model(moe)
    if isinstance(model, InvalidSpec):
        return Problem(moe.metadata, Reason.UNKNOWN_MODEL, model.message)
    if taken := taken_name(moe, objects):
        return Problem(moe.metadata, Reason.NAME_TAKEN, taken)
    found, misfits = runnable(*variants(moe, model, pools.values(), catalog), pools, objects)
    if not found:
        why = (
            "; ".join(f"{m.pool}: {m.reason}" for m in misfits) or "there is no GPUPool: ask the platform team for one"
        )
        return Problem(moe.metadata, Reason.NO_POOL_FITS, f"No GPU pool can run {moe.spec.model.name}. {why}")
    return Resolved(
        moe, found, misfits, {v.name: revision(moe, v, pools[v.pool], settings) for v in found}, dict(pools)
    )


def runnable(
    found: tuple[ResolvedVariant, ...],
    misfits: tuple[Misfit, ...],
    pools: Mapping[str, GPUPool],
    objects: Objects,
) -> tuple[tuple[ResolvedVariant, ...], tuple[Misfit, ...]]:
    """Without those that need a kind of object that the cluster does not have."""
    missing = [(v, _missing(v, pools[v.pool], objects.extensions)) for v in found]
    refused = tuple(Misfit(v.pool, v.precision, words.format(v.parallelism)) for v, words in missing if words)
    return tuple(v for v, words in missing if not words), (*misfits, *refused)


def _missing(variant: ResolvedVariant, pool: GPUPool, extensions: Set[str]) -> str:
    """Words with a place for the parallelism, if the cluster lacks what the variant needs."""
    if variant.parallelism.nodes == 1:
        return ""
    if "leaderworkersets" not in extensions:
        return NO_GROUPS
    return NO_DOMAINS if pool.spec.topology.compute_domain and "computedomains" not in extensions else ""


def taken_name(moe: MoEDeployment, objects: Objects) -> str:
    """Words, if a Service of the deployment's name belongs to somebody else."""
    service = objects.services.get(moe.key)
    if service is None:
        return ""
    owners = service["metadata"].get("ownerReferences") or []
    if any(owner.get("uid") == moe.metadata.uid for owner in owners):
        return ""
    return (
        f"Service {moe.key} exists and is not Spillway's, so http://{moe.metadata.name}.{moe.metadata.namespace}/v1 "
        "would not reach this model: delete that Service or name the MoEDeployment otherwise"
    )


def valid(kind: type[ResourceT], store: Mapping[str, Object]) -> dict[str, ResourceT]:
    """The objects of a kind that validate, by key."""
    parsed = {key: parse(kind, obj) for key, obj in sorted(store.items())}
    return {key: obj for key, obj in parsed.items() if not isinstance(obj, InvalidSpec)}
