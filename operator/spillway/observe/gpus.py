"""GPUs as the ledger charges them: who holds them since when, at what price, and which are paid anyway. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from spillway.api import GPUPool
from spillway.build import DEPLOYMENT_LABEL
from spillway.ledger import PodUsage, PoolPrice, Reserved
from spillway.observe.cluster import FINISHED, is_ours, of_pool, requested
from spillway.observe.objects import Objects, condition, seconds
from spillway.observe.pools import unclaimed
from spillway.observe.resolve import valid


def held(objects: Objects, now: datetime) -> list[PodUsage]:
    """Replicas' pods from when they were scheduled; one that has finished ends when that is seen."""
    pools = valid(GPUPool, objects.gpupools)
    usages = []
    for pod in objects.pods.values():
        scheduled = condition(pod, "PodScheduled")
        if not is_ours(pod) or scheduled is None or scheduled.get("status") != "True":
            continue
        pool = next((p for p in pools.values() if of_pool(pod, p)), None)
        since = seconds(scheduled.get("lastTransitionTime"))
        if pool is None or since is None:
            continue
        meta = pod["metadata"]
        name = meta["labels"][DEPLOYMENT_LABEL]
        moe = objects.moedeployments.get(f"{meta['namespace']}/{name}")
        model = (((moe or {}).get("spec") or {}).get("model") or {}).get("name", "")
        finished = (pod.get("status") or {}).get("phase") in FINISHED
        usages.append(
            PodUsage(
                uid=meta["uid"],
                namespace=meta["namespace"],
                deployment=name,
                pool=pool.metadata.name,
                model=model,
                gpus=requested(pod, pool.spec.gpu.resource_name),
                scheduled=datetime.fromtimestamp(since, UTC),
                ended=now if finished else None,
            )
        )
    return usages


def prices(objects: Objects) -> dict[str, PoolPrice]:
    """By pool."""
    return {
        name: PoolPrice(pool.spec.price.usd_per_gpu_hour, round(pool.spec.price.minimum_billing_seconds))
        for name, pool in valid(GPUPool, objects.gpupools).items()
    }


def reserved(objects: Objects) -> dict[str, Reserved]:
    """By pool with reserved GPUs."""
    return {
        name: Reserved(unclaimed(pool, objects), pool.spec.price.usd_per_gpu_hour)
        for name, pool in valid(GPUPool, objects.gpupools).items()
        if pool.spec.price.billing == "Reserved"
    }
