"""Desired -> parts: the smallest pieces of Envoy configuration that can be right or wrong by themselves.

A cluster, an endpoint assignment, a listener or a secret is one part; a route configuration is made of its virtual
hosts, each a part. So one bad deployment can be left at its last good version while the others go on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from google.protobuf import json_format
from google.protobuf.message import Message

from spillway.gateway import clusters, credentials, endpoints, listeners, names, routes
from spillway.gateway.desired import Deployment, Desired, GatewayNode
from spillway.gateway.messages import Fields, parse
from spillway.gateway.rates import Rates

_TYPE = "type.googleapis.com/"
CLUSTER = f"{_TYPE}envoy.config.cluster.v3.Cluster"
ENDPOINT = f"{_TYPE}envoy.config.endpoint.v3.ClusterLoadAssignment"
SECRET = f"{_TYPE}envoy.extensions.transport_sockets.tls.v3.Secret"
LISTENER = f"{_TYPE}envoy.config.listener.v3.Listener"
ROUTE = f"{_TYPE}envoy.config.route.v3.RouteConfiguration"

_KINDS: Mapping[str, type[Message]] = {
    CLUSTER: Cluster,
    ENDPOINT: ClusterLoadAssignment,
    SECRET: Secret,
    LISTENER: Listener,
    ROUTE: VirtualHost,
}

LARGEST_DIRECT_ANSWER_BYTES = 1 << 20
"""The list of all models: about 170 bytes each."""


@dataclass(frozen=True)
class PartId:
    """type_url, the resource's name, and within a route configuration whose virtual host it is."""

    type_url: str
    resource: str
    owner: str = ""


@dataclass(frozen=True)
class Part:
    id: PartId
    message: Message = field(compare=False, repr=False)
    digest: str
    deployment: str | None = None
    """The deployment it is about, if it is about one."""


Parts = dict[PartId, Part]
_NO_RATES: Rates = {}


@dataclass(frozen=True)
class Rendered:
    """Parts, and for what could not even be written down the reason."""

    parts: Parts
    failures: Mapping[PartId, str]
    deployments: Mapping[PartId, str]
    """Of each failure that is about a deployment: which."""


class Renderer:
    """Writes parts; a part whose inputs are as they were the last time is not written again."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Part] = {}
        self._former: dict[Hashable, Part] = {}

    def forget(self) -> None:
        """Drop what has not been used since the last time that this was called."""
        self._former, self._kept = self._kept, {}

    def render(self, desired: Desired, node: GatewayNode, rates: Rates = _NO_RATES) -> Rendered:
        """Everything but the runtime layers, for one gateway process; `rates` are its shares of providers' limits."""
        parts: Parts = {}
        failures: dict[PartId, str] = {}
        owners: dict[PartId, str] = {}
        for part_id, fields, deployment in _plan(desired, node, rates):
            inputs = (part_id, fields.func, fields.args)
            part = self._kept.get(inputs) or self._former.get(inputs)
            try:
                parts[part_id] = self._kept[inputs] = part or _write(part_id, fields, deployment)
            except (ValueError, json_format.Error) as error:
                failures[part_id] = str(error)
                if deployment is not None:
                    owners[part_id] = deployment
        return Rendered(parts, failures, owners)


def _write(part_id: PartId, fields: partial[Fields], deployment: str | None) -> Part:
    message = parse(_KINDS[part_id.type_url], fields())
    digest = hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest()
    return Part(part_id, message, digest, deployment)


Planned = tuple[PartId, "partial[Fields]", str | None]


def _plan(desired: Desired, node: GatewayNode, rates: Rates) -> Iterator[Planned]:
    """Every part, how to write it, and the deployment that it is about."""
    providers = {provider.name: provider for provider in desired.providers}
    egresses = {egress.pair: egress for egress in desired.egresses if egress.provider in providers}
    deployments = tuple(_known_pairs(deployment, egresses) for deployment in desired.deployments)
    ids = frozenset(deployment.id for deployment in deployments)

    def cluster(name: str, fields: partial[Fields], deployment: str | None = None) -> Planned:
        return PartId(CLUSTER, name), fields, deployment

    def hosts(resource: str, by_owner: routes.Hosts) -> Iterator[Planned]:
        for owner, fields in by_owner.items():
            yield PartId(ROUTE, resource, owner), fields, owner if owner in ids else None

    for name, listener in ((names.SHARED_CLUSTER, names.SHARED_LISTENER), (names.GATE_CLUSTER, names.GATE_LISTENER)):
        yield cluster(name, partial(clusters.internal, name, listener))
    for deployment in deployments:
        local = names.local_cluster(deployment.id)
        bare = replace(
            deployment, endpoints=(), chain=(), refusal=None, routes=()
        )  # what its cluster does not depend on
        yield cluster(local, partial(clusters.local, bare), deployment.id)
        yield PartId(ENDPOINT, local), partial(endpoints.assignment, local, deployment.endpoints), deployment.id
        for pair in deployment.pairs:
            external = partial(clusters.external, pair, providers[pair[0]], deployment.id)
            yield cluster(names.external_cluster(pair, deployment.id), external, deployment.id)
    for members in {m for d in deployments if d.chain for m in (routes.chain_members(d), routes.share_members(d))}:
        yield cluster(names.chain_cluster(members), partial(clusters.chain, members))

    yield PartId(LISTENER, "main"), partial(listeners.main, node), None
    yield PartId(LISTENER, names.SHARED_LISTENER), partial(listeners.shared, node), None
    if node.tls_secret:
        yield PartId(LISTENER, "main-tls"), partial(listeners.main_tls, node), None
    yield PartId(LISTENER, names.GATE_LISTENER), partial(listeners.gate), None
    yield from hosts(names.MAIN_ROUTES, routes.main_hosts(deployments))
    yield from hosts(names.GATE_ROUTES, routes.gate_hosts(deployments))
    for pair, egress in egresses.items():
        provider, listener = providers[pair[0]], names.egress_listener(pair)
        yield cluster(names.egress_cluster(pair), partial(clusters.internal, names.egress_cluster(pair), listener))
        yield PartId(LISTENER, listener), partial(listeners.egress, egress, provider, node), None
        yield from hosts(listener, routes.egress_hosts(egress, provider, deployments))
    for name in sorted({pair[0] for pair in egresses if providers[pair[0]].requests_per_minute is not None}):
        listener = names.rate_listener(name)
        yield cluster(names.rate_cluster(name), partial(clusters.internal, names.rate_cluster(name), listener))
        yield PartId(LISTENER, listener), partial(listeners.rate, name), None
        yield from hosts(listener, routes.rate_hosts(name, rates.get(name, 0)))
    for name, secret in credentials.secrets(desired.providers, node).items():
        yield PartId(SECRET, name), secret, None


def compose(parts: Iterable[Part]) -> dict[str, Message]:
    """Whole resources by name."""
    resources: dict[str, Message] = {}
    hosts: dict[str, list[Any]] = {}
    for part in parts:
        if part.id.type_url == ROUTE:
            hosts.setdefault(part.id.resource, []).append(part)
        else:
            resources[part.id.resource] = part.message
    for name, members in hosts.items():
        config = RouteConfiguration(name=name)
        config.max_direct_response_body_size_bytes.value = LARGEST_DIRECT_ANSWER_BYTES
        config.virtual_hosts.extend(part.message for part in sorted(members, key=lambda part: part.id.owner))
        resources[name] = config
    return resources


def _known_pairs(deployment: Deployment, known: Collection[names.Pair]) -> Deployment:
    """A chain may only name what is configured; an unknown pair is the operator's condition, not a broken route."""
    chain = tuple(pair for pair in deployment.chain if pair in known)
    routed = tuple(route if route.pair in known else replace(route, pair=None) for route in deployment.routes)
    return replace(deployment, chain=chain, routes=routed)
