"""Endpoints: the ready replicas of a deployment."""

from __future__ import annotations

from spillway.gateway import names
from spillway.gateway.desired import Deployment
from spillway.gateway.messages import Fields


def assignment(deployment: Deployment) -> Fields:
    endpoints = [
        {"endpoint": {"address": {"socket_address": {"address": endpoint.address, "port_value": endpoint.port}}}}
        for endpoint in sorted(deployment.endpoints, key=lambda e: (e.address, e.port))
    ]
    return {
        "cluster_name": names.local_cluster(deployment.id),
        "endpoints": [{"lb_endpoints": endpoints}] if endpoints else [],
    }
