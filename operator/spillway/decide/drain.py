"""From wanted replicas to what the workloads ask for: victims, and their drain.

A replica that is to go first leaves the gateway's endpoints, then finishes what it has, and only then does its
workload ask for one less. The victim is the pod that the ReplicaSet would take: not ready first, then the lowest
deletion cost, which `act` sets from this plan. Of groups (LeaderWorkerSet) the highest index goes first, whatever it
does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from spillway.decide.memory import DrainingReplica
from spillway.decide.outcome import WorkloadPlan
from spillway.decide.snapshot import Deployment, Phase, Replica, Settings


def victims(replicas: Sequence[Replica], number: int, draining: Mapping[str, float]) -> list[Replica]:
    """The replicas to stop: those not ready, then those already draining, then the emptiest, the youngest first."""

    def order(replica: Replica) -> tuple[bool, bool, int, float, str]:
        in_flight = replica.in_flight if replica.in_flight is not None else 1_000_000
        return (replica.phase is Phase.READY, replica.name not in draining, in_flight, -replica.asked_at, replica.name)

    return sorted(replicas, key=order)[:number]


def workload(
    deployment: Deployment,
    variant: str,
    revision: str,
    wanted: int,
    draining: Mapping[str, float],
    now: float,
    settings: Settings,
) -> tuple[WorkloadPlan, tuple[DrainingReplica, ...]]:
    """What the workload of one variant and revision asks for now, and the drains to remember.

    Pods beyond what it asks for already are on their way out, though Kubernetes has not marked them yet: they are
    neither given up a second time nor taken back among the endpoints.
    """
    asked = sum(a.replicas for a in deployment.asked if (a.variant, a.revision) == (variant, revision))
    alive = [
        r
        for r in deployment.replicas
        if (r.variant, r.revision) == (variant, revision) and r.phase is not Phase.STOPPING
    ]

    def drained(victim: Replica) -> bool:
        lasted = now - draining.get(victim.name, now)
        return lasted >= settings.drain_seconds or (victim.in_flight == 0 and lasted >= settings.deregister_seconds)

    if any(r.group is not None for r in alive):
        gone, stopping = groups_to_stop(alive, asked, wanted, drained)
    else:
        gone, stopping = pods_to_stop(victims(alive, len(alive), draining), asked, wanted, drained)
    drains = tuple(DrainingReplica(r.name, draining.get(r.name, now)) for r in stopping if r.phase is Phase.READY)
    plan = WorkloadPlan(variant, revision, max(wanted, asked) - gone, tuple(d.name for d in drains))
    return plan, drains


def pods_to_stop(
    by_turn: Sequence[Replica], asked: int, wanted: int, drained: Callable[[Replica], bool]
) -> tuple[int, list[Replica]]:
    """How many fewer to ask for now, and who is on the way out, of replicas in the order in which they shall go."""
    leaving, staying = by_turn[: max(0, len(by_turn) - asked)], by_turn[max(0, len(by_turn) - asked) :]
    surplus = max(0, asked - wanted)
    # Replicas that Kubernetes has not created (or that died) cost nothing to give up.
    gone = min(surplus, asked - len(staying))
    chosen = staying[: surplus - gone]
    # Of all that drain Kubernetes takes any: while one of those on their way out is not done, asking for fewer could
    # cut it in the place of one that is.
    settled = all(victim.phase is not Phase.READY or drained(victim) for victim in leaving)
    gone += sum(1 for victim in chosen if victim.phase is not Phase.READY or (settled and drained(victim)))
    return gone, [*leaving, *chosen]


def groups_to_stop(
    alive: Sequence[Replica], asked: int, wanted: int, drained: Callable[[Replica], bool]
) -> tuple[int, list[Replica]]:
    """The same for groups, of which Kubernetes takes the highest: one that still answers keeps those below it."""
    by_index = {r.group: r for r in alive if r.group is not None}
    gone = 0
    for index in range(asked - 1, wanted - 1, -1):
        victim = by_index.get(index)
        if victim is not None and victim.phase is Phase.READY and not drained(victim):
            break
        gone += 1
    return gone, [by_index[index] for index in sorted(by_index, reverse=True) if index >= min(asked, wanted)]
