"""Which nodes have a variant's image and weights, and which shall have them next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from spillway.build import Object, keeps_weights, next_nodes, nodes_of, prefetch
from spillway.catalog import ResolvedVariant
from spillway.decide.snapshot import Phase
from spillway.observe.cluster import failure, phase
from spillway.observe.objects import Objects, has_labels, key_of
from spillway.observe.pools import pool_nodes
from spillway.observe.resolve import Resolved


@dataclass(frozen=True, slots=True)
class Prefetched:
    """One variant that is brought to its pool's nodes. `refused`: why its weights are not, in words."""

    variant: str
    pool: str
    nodes: tuple[str, ...]  # of the pool that take replicas
    ready: tuple[str, ...]  # of those, that have it
    daemonset: Object | None  # None: the pool has no nodes
    refused: str = ""


def prefetched(resolved: Iterable[Resolved], objects: Objects) -> dict[str, tuple[Prefetched, ...]]:
    """By namespace/name, of all deployments that ask for it.

    Weights that do not fit beside those of deployments before them (oldest first) into `nodeCache.maxGB` are not
    fetched: nothing that serves is ever thrown out for something new.
    """
    asking = [one for one in resolved if one.moe.spec.model.cache.prefetch]
    room = {name: p.spec.node_cache.max_gb for one in asking for name, p in one.pools.items() if p.spec.node_cache}
    held: dict[str, dict[tuple[str, str], float]] = {}  # by pool: size in GB by namespace and checkpoint
    found: dict[str, tuple[Prefetched, ...]] = {}
    for one in sorted(asking, key=lambda r: (str(r.moe.metadata.creation_timestamp or ""), r.moe.key)):
        found[one.moe.key] = tuple(
            _of_variant(one, variant, objects, held.setdefault(variant.pool, {}), room) for variant in one.variants
        )
    return found


def _of_variant(
    one: Resolved,
    variant: ResolvedVariant,
    objects: Objects,
    held: dict[tuple[str, str], float],
    room: Mapping[str, int],
) -> Prefetched:
    pool = one.pools[variant.pool]
    refused = ""
    if keeps_weights(variant):
        size, what = variant.memory.checkpoint_gb, (one.moe.metadata.namespace, variant.checkpoint_uri)
        total = sum(held.values()) + (0.0 if what in held else size)
        if variant.pool not in room:
            refused = f"GPUPool {variant.pool} has no spec.nodeCache: only the image comes to its nodes"
        elif total > room[variant.pool]:
            refused = (
                f"{variant.checkpoint_uri} ({size:.0f} GB) does not fit beside what is prefetched already "
                f"({sum(held.values()):.0f} GB) into nodeCache.maxGB {room[variant.pool]} of GPUPool {variant.pool}: "
                "only the image comes to its nodes; raise maxGB, or narrow spec.placement.variants"
            )
        else:
            held[what] = size
    nodes = tuple(node["metadata"]["name"] for node in pool_nodes(pool, objects))
    if not nodes:
        return Prefetched(variant.name, variant.pool, nodes, (), None, refused)
    every = prefetch(one.moe, variant, pool, nodes, weights=not refused)
    live = objects.daemonsets.get(key_of(every))
    namespace, selector = one.moe.metadata.namespace, every["spec"]["selector"]["matchLabels"]
    own = [p for p in objects.pods.values() if p["metadata"].get("namespace") == namespace and has_labels(p, selector)]
    ready = tuple(sorted({p["spec"]["nodeName"] for p in own if phase(p) is Phase.READY} & set(nodes)))
    stuck = {p["spec"].get("nodeName") for p in own if failure(p)}
    chosen = next_nodes(nodes, nodes_of(live) if live else (), ready, stuck - {None})
    daemonset = prefetch(one.moe, variant, pool, chosen, weights=not refused)
    return Prefetched(variant.name, variant.pool, nodes, ready, daemonset, refused)
