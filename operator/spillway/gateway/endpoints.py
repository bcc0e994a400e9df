"""Endpoints: the ready replicas of a deployment."""

from __future__ import annotations

from collections.abc import Sequence

from spillway.gateway.desired import Endpoint
from spillway.gateway.messages import Fields


def assignment(cluster: str, ready: Sequence[Endpoint]) -> Fields:
    endpoints = [
        {"endpoint": {"address": {"socket_address": {"address": endpoint.address, "port_value": endpoint.port}}}}
        for endpoint in sorted(ready, key=lambda e: (e.address, e.port))
    ]
    return {"cluster_name": cluster, "endpoints": [{"lb_endpoints": endpoints}] if endpoints else []}
