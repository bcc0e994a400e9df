"""Pools that cannot give GPUs: noticed by replicas that wait too long for a node, closed, tried again later."""

from __future__ import annotations

from spillway.decide.memory import PoolMemory
from spillway.decide.outcome import PoolPlan
from spillway.decide.snapshot import Phase, Pool, Snapshot

LONGEST_CLOSURE_SECONDS = 3600.0


def waiting_since(snapshot: Snapshot, pool: Pool) -> float | None:
    """When the replica was asked for that has waited longest for a node of `pool`."""
    since = [
        replica.asked_at
        for deployment in snapshot.deployments
        for replica in deployment.replicas
        if replica.phase is Phase.PENDING and (v := deployment.variant(replica.variant)) and v.pool == pool.name
    ]
    return min(since, default=None)


def vacating(snapshot: Snapshot, pool: str, size: int) -> int:
    """Replicas of that many GPUs that wait for a node of the pool and will get GPUs which stopping ones still hold:
    these are neither free nor anybody's to give, and asking again each time would flap."""
    leaving = waiting = 0
    for deployment in snapshot.deployments:
        gpus = {r.name: r.gpus_per_replica for r in deployment.retired if r.pool == pool}
        gpus |= {v.name: v.gpus_per_replica for v in deployment.variants if v.pool == pool}
        for replica in deployment.replicas:
            held = gpus.get(replica.variant, 0)
            leaving += held if replica.phase is Phase.STOPPING else 0
            waiting += replica.phase is Phase.PENDING and held == size
    return min(waiting, leaving // size) if size else 0


def refused(snapshot: Snapshot, pool: Pool) -> str:
    """Why Kubernetes refuses to create pods for `pool` (quota, admission); empty if it does not."""
    for deployment in snapshot.deployments:
        for asked in deployment.asked:
            variant = deployment.variant(asked.variant)
            if asked.refused and variant and variant.pool == pool.name:
                return asked.refused
    return ""


def remember(snapshot: Snapshot, pool: Pool, memory: PoolMemory) -> PoolMemory:
    """Close a pool whose provisioning timeout has passed; reopen it after that timeout, doubled at each failure."""
    now, timeout = snapshot.time, pool.provisioning_timeout_seconds
    if now < memory.closed_until:
        return memory
    since = waiting_since(snapshot, pool)
    if refused(snapshot, pool) or (since is not None and now - since >= timeout):
        closure = min(timeout * 2**memory.failures, LONGEST_CLOSURE_SECONDS)
        closed_since = memory.closed_since or now
        return PoolMemory(closed_until=now + closure, closed_since=closed_since, failures=memory.failures + 1)
    given = any(
        replica.scheduled_at is not None and replica.asked_at >= memory.closed_until
        for deployment in snapshot.deployments
        for replica in deployment.replicas
        if (v := deployment.variant(replica.variant)) and v.pool == pool.name
    )
    return PoolMemory() if memory.failures and given else memory


def plan_of(pool: Pool, memory: PoolMemory, now: float) -> PoolPlan:
    """What is told of the pool. While it is asked again nobody knows better: it stays out of capacity so long."""
    if memory.failures == 0 or now >= memory.closed_until + pool.provisioning_timeout_seconds:
        return PoolPlan(pool.name, None, None)
    return PoolPlan(pool.name, out_of_capacity_since=memory.closed_since, retry_at=memory.closed_until)
