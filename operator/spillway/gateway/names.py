"""Names that the generated resources, the counters and the readers of both agree on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

Pair = tuple[str, str]
"""(provider, model as that provider calls it)"""

GATE_LISTENER = "gate"
GATE_CLUSTER = "to|gate"
SHARED_LISTENER = "shared"
SHARED_CLUSTER = "to|shared"
MAIN_ROUTES = "main"
GATE_ROUTES = "gate"
MAIN_CERTIFICATE = "main-certificate"

OPERATOR_NAME = "operator.spillway.internal"
GATEWAY_NAME = "gateway.spillway.internal"
"""Whom the certificates of the ADS connection are for: names that no DNS has."""

NEXT_HEADER = "x-spillway-next"
UNANSWERED_HEADER = "x-spillway-unanswered"
DEPLOYMENT_HEADER = "x-spillway-deployment"
SERVED_BY_HEADER = "x-spillway-served-by"
REASON_HEADER = "x-spillway-reason"
ROUTE_HEADER = "x-spillway-route"
MODEL_HEADER = "x-spillway-model"
ADDRESSED_HEADER = "x-spillway-addressed"
PREFIX_HEADER = "x-spillway-prefix"
PREFIX_STATE = "spillway.prefix"
"""Filter state of the gate: a header that the route removes is gone before the balancer could look at it."""
PROVIDER_STATUS_HEADER = "x-spillway-provider-status"

ANSWER_HEADERS = (NEXT_HEADER, UNANSWERED_HEADER, SERVED_BY_HEADER, REASON_HEADER, PROVIDER_STATUS_HEADER)
"""What the gateway says of an answer: no client, replica or provider says it in its place."""


ROUTED_LATE = "model|"
"""Before the name of a route by model, in the label `route`: its requests had no such label when they came in."""


_LIMIT_PREFIX, _LIMIT_SUFFIX = "circuit_breakers.", ".default.max_requests"


def deployment_id(namespace: str, name: str) -> str:
    return f"{namespace}/{name}"


def local_cluster(deployment: str) -> str:
    return f"local|{deployment}"


def external_cluster(pair: Pair, deployment: str) -> str:
    return f"ext|{pair[0]}|{pair[1]}|{deployment}"


def provider_of(cluster: str) -> str | None:
    """Whose an `external_cluster` is; None of another one."""
    kind, _, rest = cluster.partition("|")
    return rest.partition("|")[0] if kind == "ext" else None


def egress_listener(pair: Pair) -> str:
    return f"egress|{pair[0]}|{pair[1]}"


def egress_cluster(pair: Pair) -> str:
    return f"to|{egress_listener(pair)}"


def rate_listener(provider: str) -> str:
    """Where a gateway process counts its requests to a provider that takes only so many a minute."""
    return f"rate|{provider}"


def rate_cluster(provider: str) -> str:
    return f"to|{rate_listener(provider)}"


def chain_cluster(members: Sequence[str]) -> str:
    """One composite cluster per distinct order of members; the name is short however long the chain is."""
    return f"chain|{hashlib.sha256(chr(10).join(members).encode()).hexdigest()[:12]}"


def credential_secret(key: str) -> str:
    return f"credential|{key}"


def authority_secret(key: str) -> str:
    return f"authority|{key}"


def share_key(deployment: str) -> str:
    return f"spill.{deployment}.share"


def allowed_key(deployment: str) -> str:
    return f"spill.{deployment}.allowed"


def full_key(deployment: str) -> str:
    """As allowed_key, only for what finds the replicas full."""
    return f"spill.{deployment}.full"


def empty_key(deployment: str) -> str:
    """As allowed_key, only for what finds no replica."""
    return f"spill.{deployment}.empty"


def hold_key(deployment: str) -> str:
    return f"hold.{deployment}"


def permitted_key(deployment: str, pair: Pair) -> str:
    return f"spill.{deployment}.{pair[0]}|{pair[1]}"


def routed_key(deployment: str, pair: Pair) -> str:
    """As permitted_key, for what a route sends there."""
    return f"route.{deployment}.{pair[0]}|{pair[1]}"


def limit_key(cluster: str) -> str:
    """Runtime key of a cluster's in-flight limit (Envoy's circuit breaker)."""
    return f"{_LIMIT_PREFIX}{cluster}{_LIMIT_SUFFIX}"


def limited_cluster(key: str) -> str | None:
    """The cluster whose `limit_key` this is; None of another key."""
    if not key.startswith(_LIMIT_PREFIX):
        return None
    return key.removeprefix(_LIMIT_PREFIX).removesuffix(_LIMIT_SUFFIX)
