"""Runtime layers: what changes fast. A TTL belongs to a whole layer, so each lease length has a layer of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from spillway.gateway import names
from spillway.gateway.desired import Deployment, Desired, SpillState

GATE_LAYER = "gate"
LEASES: Mapping[str, int] = {"spill-15s": 15, "spill-1m": 60, "spill-5m": 300, "spill-1h": 3600}
"""Seconds after which a layer that is not renewed is void: its deployments' spill is off again."""
LAYERS = (GATE_LAYER, *LEASES)

Shares = Mapping[str, int]
"""In-flight limit of one gateway process by cluster name."""


def lease_layer(lease_seconds: float) -> str | None:
    """The longest layer within the lease; None when even the shortest is too long to promise."""
    fitting = [name for name, seconds in LEASES.items() if seconds <= lease_seconds]
    return fitting[-1] if fitting else None


def limits(desired: Desired) -> tuple[dict[str, int], dict[str, int]]:
    """Totals for all gateway processes together, by cluster: (gates, money caps)."""
    gates, caps = {}, {}
    for deployment in desired.deployments:
        state = desired.spill.get(deployment.id)
        if state is None:
            continue
        gates[names.local_cluster(deployment.id)] = state.gate
        for pair in deployment.pairs:
            if state.permitted.get(pair, False) or pair in state.routed:
                caps[names.external_cluster(pair, deployment.id)] = state.caps.get(pair, 0)
    return gates, caps


def layers(desired: Desired, shares: Shares) -> dict[str, dict[str, int]]:
    """Keys and values of every layer for one process. What is not in a lease layer is off."""
    content: dict[str, dict[str, int]] = {name: {} for name in LAYERS}
    for deployment in desired.deployments:
        state = desired.spill.get(deployment.id)
        if state is None:
            continue
        gate = names.local_cluster(deployment.id)
        content[GATE_LAYER][names.limit_key(gate)] = shares.get(gate, 0)
        if state.hold:
            content[GATE_LAYER][names.hold_key(deployment.id)] = 100
        lease = lease_layer(state.lease_seconds)
        if lease is None:
            continue
        content[lease].update(_leased(deployment, state, shares))
    return content


def _door(deployment: str, state: SpillState) -> str | None:
    """The key that lets out what may go out now."""
    match state.when_full, state.when_empty:
        case True, True:
            return names.allowed_key(deployment)
        case True, False:
            return names.full_key(deployment)
        case False, True:
            return names.empty_key(deployment)
    return None


def _leased(deployment: Deployment, state: SpillState, shares: Shares) -> dict[str, int]:
    keys: dict[str, int] = {}
    for pair in deployment.pairs:
        cluster = names.external_cluster(pair, deployment.id)
        spills = state.allowed and pair in deployment.chain and state.permitted.get(pair, False)
        if shares.get(cluster, 0) <= 0 or not (spills or pair in state.routed):
            continue
        keys[names.limit_key(cluster)] = shares[cluster]
        if pair in state.routed:
            keys[names.routed_key(deployment.id, pair)] = 100
        if spills:
            keys[names.permitted_key(deployment.id, pair)] = 100
            if (door := _door(deployment.id, state)) is not None:
                keys[door] = 100
    if state.share_percent > 0 and names.allowed_key(deployment.id) in keys:
        # One draw decides of a request: the routes by percentage have what is below their sum.
        routed = sum(route.percent for route in deployment.routes)
        keys[names.share_key(deployment.id)] = routed + min(state.share_percent, 100) * (100 - routed) // 100
    return keys


class Leased(NamedTuple):
    """Requests in flight that a gateway process may have at a provider's cluster, and by how long a lease at most."""

    cap: int
    seconds: int


Layers = Mapping[str, Mapping[str, int]]


def handover(layer: str, wanted: Layers, acknowledged: Layers) -> dict[str, int]:
    """What `layer` says while a gateway learns `wanted`, layer by layer: a key that moves to another layer stays here
    until it is in force there, so that a longer lease never begins with a gap."""
    content = dict(wanted[layer])
    for key, value in acknowledged.get(layer, {}).items():
        for other, keys in wanted.items():
            if other != layer and key in keys and key not in acknowledged.get(other, {}):
                content.setdefault(key, value)
    return content


def leased(possible: Iterable[tuple[str, Mapping[str, int]]]) -> dict[str, Leased]:
    """By external cluster, what one process may have in force: of every content that a layer of it may have now."""
    found: dict[str, Leased] = {}
    for layer, content in possible:
        for key, cap in content.items():
            cluster = names.limited_cluster(key)
            if cluster is not None and layer in LEASES:
                known = found.get(cluster, Leased(0, 0))
                found[cluster] = Leased(max(known.cap, cap), max(known.seconds, LEASES[layer]))
    return found
