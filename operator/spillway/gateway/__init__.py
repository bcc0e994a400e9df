"""The gateway room: what deployments, providers and spill numbers mean for Envoy, and the server that tells it so.

The pure half turns `Desired` into Envoy resources (routes, clusters, endpoints, listeners, credentials, runtime, lua,
metering; gathered by resources) and the `/counters` page into a `GatewayReading`. The shell is in `ads` (the leader's
xDS server), `reader` (reads a gateway) and `process` (`spillway gateway` and its drain); import those by module, so
that the pure half needs no network library.
"""

from spillway.gateway.desired import (
    Deployment,
    Desired,
    Egress,
    Endpoint,
    GatewayNode,
    Provider,
    Refusal,
    SpillState,
)
from spillway.gateway.readings import EgressSample, GatewayReading, parse_counters
from spillway.gateway.share import share

__all__ = [
    "Deployment",
    "Desired",
    "Egress",
    "EgressSample",
    "Endpoint",
    "GatewayNode",
    "GatewayReading",
    "Provider",
    "Refusal",
    "SpillState",
    "parse_counters",
    "share",
]
