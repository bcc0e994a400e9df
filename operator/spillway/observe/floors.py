"""What CostPolicies let the floors of their namespaces hold: `minReplicas` is an app team's, its GPUs are not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Floor:
    """What one deployment asks for. `gpus_per_replica`: of the largest way to run it, so that the limit holds whichever
    is chosen. `since`: when it was created (Unix seconds)."""

    key: str
    replicas: int
    gpus_per_replica: int
    policies: tuple[str, ...]
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Allowed:
    """Replicas that the floor may hold, and in words why no more."""

    replicas: int
    words: str


def limited(floors: Iterable[Floor], most_gpus: Mapping[str, int]) -> dict[str, Allowed]:
    """Those floors, by key, that are above what is left of `most_gpus` (by policy): the oldest deployment comes first,
    so that a new one takes nobody's floor. Where several policies select a deployment, each must allow."""
    left = dict(most_gpus)
    found: dict[str, Allowed] = {}
    for floor in sorted(floors, key=lambda f: (f.since, f.key)):
        own = [name for name in floor.policies if name in left]
        if not own or floor.gpus_per_replica <= 0:
            continue
        tightest = min(own, key=lambda name: (left[name], name))
        allowed = min(floor.replicas, left[tightest] // floor.gpus_per_replica)
        if allowed < floor.replicas:
            found[floor.key] = Allowed(
                allowed,
                f"minReplicas {floor.replicas} holds {allowed} at most: maxFloorGPUs of CostPolicy '{tightest}' is "
                f"{most_gpus[tightest]}, {most_gpus[tightest] - left[tightest]} of them are floors of older "
                f"deployments, and a replica takes {floor.gpus_per_replica}",
            )
        for name in own:
            left[name] -= allowed * floor.gpus_per_replica
    return found
