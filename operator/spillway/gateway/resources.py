"""Desired -> parts: the smallest pieces of Envoy configuration that can be right or wrong by themselves.

A cluster, an endpoint assignment, a listener or a secret is one part; a route configuration is made of its virtual
hosts, each a part. So one bad deployment can be left at its last good version while the others go on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.runtime.v3.rtds_pb2 import Runtime
from spillway.gateway import clusters, credentials, endpoints, listeners, names, routes, runtime
from spillway.gateway.desired import Deployment, Desired, GatewayNode
from spillway.gateway.messages import Fields, parse

_TYPE = "type.googleapis.com/"
CLUSTER = f"{_TYPE}envoy.config.cluster.v3.Cluster"
ENDPOINT = f"{_TYPE}envoy.config.endpoint.v3.ClusterLoadAssignment"
SECRET = f"{_TYPE}envoy.extensions.transport_sockets.tls.v3.Secret"
LISTENER = f"{_TYPE}envoy.config.listener.v3.Listener"
ROUTE = f"{_TYPE}envoy.config.route.v3.RouteConfiguration"
RUNTIME = f"{_TYPE}envoy.service.runtime.v3.Runtime"

_KINDS: Mapping[str, type[Message]] = {
    CLUSTER: Cluster,
    ENDPOINT: ClusterLoadAssignment,
    SECRET: Secret,
    LISTENER: Listener,
    ROUTE: VirtualHost,
}

LARGEST_DIRECT_ANSWER_BYTES = 64 * 1024


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


@dataclass(frozen=True)
class Rendered:
    """Parts, and for what could not even be written down the reason."""

    parts: Parts
    failures: Mapping[PartId, str]
    deployments: Mapping[PartId, str]
    """Of each failure that is about a deployment: which."""


class _Renderer:
    def __init__(self) -> None:
        self.parts: Parts = {}
        self.failures: dict[PartId, str] = {}
        self.deployments: dict[PartId, str] = {}

    def add(self, part: PartId, fields: Callable[[], Fields], deployment: str | None = None) -> None:
        try:
            message = parse(_KINDS[part.type_url], fields())
        except (ValueError, json_format.Error) as error:
            self.failures[part] = str(error)
            if deployment is not None:
                self.deployments[part] = deployment
            return
        digest = hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest()
        self.parts[part] = Part(part, message, digest, deployment)

    def hosts(self, resource: str, hosts: Callable[[], dict[str, Fields]], known: Collection[str]) -> None:
        try:
            by_owner = hosts()
        except ValueError as error:
            self.failures[PartId(ROUTE, resource)] = str(error)
            return
        for owner, fields in by_owner.items():
            self.add(PartId(ROUTE, resource, owner), partial(dict, fields), owner if owner in known else None)


def render(desired: Desired, node: GatewayNode) -> Rendered:
    """Everything but the runtime layers, for one gateway process."""
    out = _Renderer()
    providers = {provider.name: provider for provider in desired.providers}
    egresses = {egress.pair: egress for egress in desired.egresses if egress.provider in providers}
    deployments = tuple(_known_pairs(deployment, egresses) for deployment in desired.deployments)
    ids = frozenset(deployment.id for deployment in deployments)

    def cluster(name: str, fields: Callable[[], Fields], deployment: str | None = None) -> None:
        out.add(PartId(CLUSTER, name), fields, deployment)

    cluster(names.GATE_CLUSTER, partial(clusters.internal, names.GATE_CLUSTER, names.GATE_LISTENER))
    for deployment in deployments:
        local = names.local_cluster(deployment.id)
        cluster(local, partial(clusters.local, deployment), deployment.id)
        out.add(PartId(ENDPOINT, local), partial(endpoints.assignment, deployment), deployment.id)
        for pair in deployment.chain:
            fields = partial(clusters.external, egresses[pair], providers[pair[0]], deployment.id)
            cluster(names.external_cluster(pair, deployment.id), fields, deployment.id)
    for members in {m for d in deployments if d.chain for m in (routes.chain_members(d), routes.share_members(d))}:
        cluster(names.chain_cluster(members), partial(clusters.chain, members))

    out.add(PartId(LISTENER, "main"), partial(listeners.main, node))
    out.add(PartId(LISTENER, names.GATE_LISTENER), listeners.gate)
    out.hosts(names.MAIN_ROUTES, partial(routes.main_hosts, deployments), ids)
    out.hosts(names.GATE_ROUTES, partial(routes.gate_hosts, deployments), ids)
    for pair, egress in egresses.items():
        provider, listener = providers[pair[0]], names.egress_listener(pair)
        cluster(names.egress_cluster(pair), partial(clusters.internal, names.egress_cluster(pair), listener))
        out.add(PartId(LISTENER, listener), partial(listeners.egress, egress, provider, node))
        out.hosts(listener, partial(routes.egress_hosts, egress, provider, deployments), ids)
    for name, secret in credentials.secrets(desired.providers, node).items():
        out.add(PartId(SECRET, name), partial(dict, secret))
    return Rendered(out.parts, out.failures, out.deployments)


def runtime_layers(desired: Desired, shares: runtime.Shares) -> dict[str, Message]:
    """RTDS resources by layer, for one gateway process."""
    content = runtime.layers(desired, shares)
    return {name: parse(Runtime, {"name": name, "layer": layer}) for name, layer in content.items()}


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
    return replace(deployment, chain=tuple(pair for pair in deployment.chain if pair in known))
