"""Who has a pool's GPUs, in words: for the deployment that wanted them and did not get them."""

from __future__ import annotations

from collections.abc import Mapping

from spillway.decide.snapshot import Deployment, Phase, Pool, Snapshot, Variant
from spillway.decide.target import Target


def usd_per_gpu_hour(target: Target | None, variant: str, pool: str = "") -> float | None:
    """What an hour of one GPU is worth to a deployment: what the work costs elsewhere that it does there. Of its
    variant of that name, or of its best one in `pool`; None while nobody knows (no metrics)."""
    if target is None or target.need is None:
        return None
    return max(
        (
            target.need.usd_per_unit_hour * c.units_per_replica / c.gpus_per_replica
            for c in target.need.choices
            if c.variant == variant or (not variant and c.pool == pool)
        ),
        default=None,
    )


def gpus(deployment: Deployment, pool: str) -> int:
    """GPUs of the pool that the deployment's replicas hold or wait for."""
    return sum(
        variant.gpus_per_replica
        for replica in deployment.replicas
        if replica.phase is not Phase.STOPPING
        and (variant := deployment.variant(replica.variant)) is not None
        and variant.pool == pool
    )


def holders(snapshot: Snapshot, deployment: Deployment, variant: Variant, targets: Mapping[str, Target]) -> str:
    """`blackwell-b200: 16 GPUs are chat/b's, to whom one is worth $31.20/h (here $12.00/h); 8 other pods hold`."""
    pool = snapshot.pool(variant.pool)
    if pool is None:
        return f"{variant.pool}: there is no such pool"
    here = usd_per_gpu_hour(targets.get(deployment.key), variant.name)
    parts = []
    for other in snapshot.deployments:
        number = gpus(other, pool.name) if other.key != deployment.key else 0
        if not number:
            continue
        there = usd_per_gpu_hour(targets.get(other.key), "", pool.name)
        worth = (
            f", to whom one is worth ${there:.2f}/h (here ${here:.2f}/h)"
            if there is not None and here is not None
            else ""
        )
        parts.append(f"{number} GPUs are {other.key}'s{worth}")
    if pool.foreign_gpus:
        parts.append(f"{pool.foreign_gpus} GPUs are held by pods that are not Spillway's")
    parts += _limits(pool, deployment, variant)
    return f"{pool.name}: {'; '.join(parts) or 'its nodes have no room for a replica'}"


def _limits(pool: Pool, deployment: Deployment, variant: Variant) -> list[str]:
    left = pool.namespace_gpus(deployment.namespace)
    if left is not None and left < variant.gpus_per_replica:
        used = pool.used_by_namespace.get(deployment.namespace, 0)
        return [
            f"namespace {deployment.namespace} holds {used} of the {pool.max_gpus_per_namespace} GPUs that "
            "spec.maxGPUsPerNamespace gives it"
        ]
    free = sum(pool.free_gpus_by_node)
    if pool.max_gpus is not None and pool.max_gpus - pool.used_gpus < variant.gpus_per_replica:
        return [f"Spillway uses {pool.used_gpus} of the {pool.max_gpus} GPUs that spec.capacity.maxGPUs gives it"]
    if free and pool.free_slots(variant.gpus_per_replica, variant.nodes_per_replica) == 0:
        return [f"{free} GPUs are free, but not {variant.gpus_per_replica} together"]
    return []
