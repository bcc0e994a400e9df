"""Virtual hosts. Main: by the client's Host. Gate and egress: by the canonical host that main rewrites it to."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from functools import partial

from spillway.gateway import names
from spillway.gateway.desired import Deployment, Egress, Provider
from spillway.gateway.errors import ambiguous_host, direct, error_body, refusals, unknown_host, unknown_path
from spillway.gateway.lua import FILTER_NAME
from spillway.gateway.messages import Fields, header

BODY_LIMIT_BYTES = 16 * 1024 * 1024
# What a retry may hold: the client's body and the few fields that a script adds.
RETRY_BODY_BYTES = BODY_LIMIT_BYTES + 64 * 1024
# A long answer without streaming sends no byte for minutes; a dead peer is found by TCP keepalive instead.
IDLE_TIMEOUT = "3600s"

# Before any byte of an answer: what was not processed may go to the next member of a chain.
_NOT_PROCESSED = "reset-before-request,connect-failure,refused-stream"
_BACK_OFF = {"base_interval": "0.005s", "max_interval": "0.02s"}
_PATHS = "/v1/(chat/completions|completions|responses|embeddings)"


Hosts = dict[str, "partial[Fields]"]
"""Virtual hosts by owner, each still to be written: equal calls give equal hosts, so that they can be kept."""


def main_hosts(deployments: Sequence[Deployment]) -> Hosts:
    """Virtual hosts of the main listener: of each deployment, of each ambiguous short name, of everything else."""
    by_name: dict[str, list[Deployment]] = defaultdict(list)
    for deployment in deployments:
        by_name[deployment.name].append(deployment)
    hosts: Hosts = {}
    for deployment in deployments:
        short = (deployment.name,) if len(by_name[deployment.name]) == 1 else ()
        hosts[deployment.id] = partial(_main_host, deployment, (*deployment.hosts, *short))
    for name, rivals in sorted(by_name.items()):
        if len(rivals) > 1:
            addresses = tuple(rival.host for rival in rivals)
            hosts[f"ambiguous|{name}"] = partial(_refusing_host, name, ambiguous_host(name, addresses))
    hosts["unknown"] = partial(_refusing_host, "*", unknown_host())
    return hosts


def _refusing_host(domain: str, body: str) -> Fields:
    return _virtual_host(f"refused|{domain}", [domain], [{"match": {"prefix": "/"}, **direct(404, body)}])


def chain_members(deployment: Deployment) -> tuple[str, ...]:
    """Clusters that an overflowing request tries, in order."""
    return (names.GATE_CLUSTER, *(names.egress_cluster(pair) for pair in deployment.chain))


def share_members(deployment: Deployment) -> tuple[str, ...]:
    """Clusters that a request of the shared-out percentage tries: providers first, the replicas last."""
    overflow = chain_members(deployment)
    return (*overflow[1:], overflow[0])


def _main_host(deployment: Deployment, domains: Sequence[str]) -> Fields:
    models = {
        "object": "list",
        "data": [{"id": deployment.served_name, "object": "model", "created": 0, "owned_by": "spillway"}],
    }
    routes = [_inference(deployment, "local", (names.GATE_CLUSTER,), None)]
    if deployment.chain:
        routes.insert(
            0, _inference(deployment, "overflow", chain_members(deployment), names.allowed_key(deployment.id))
        )
        routes.insert(0, _inference(deployment, "share", share_members(deployment), names.share_key(deployment.id)))
    routes += [
        {"match": {"path": "/v1/models", "headers": [_method("GET")]}, **direct(200, json.dumps(models))},
        {"match": {"prefix": "/"}, **direct(404, unknown_path())},
    ]
    return {
        **_virtual_host(deployment.id, domains, routes),
        "request_headers_to_add": [header(names.DEPLOYMENT_HEADER, deployment.id)],
        "request_headers_to_remove": list(names.ANSWER_HEADERS),
    }


def _inference(deployment: Deployment, name: str, members: Sequence[str], runtime_key: str | None) -> Fields:
    match: Fields = {"safe_regex": {"regex": _PATHS}, "headers": [_method("POST")]}
    if runtime_key:
        match["runtime_fraction"] = {"default_value": {"numerator": 0}, "runtime_key": runtime_key}
    action: Fields = {
        "cluster": members[0] if len(members) == 1 else names.chain_cluster(members),
        "host_rewrite_literal": deployment.host,
        "timeout": "0s",
        "idle_timeout": IDLE_TIMEOUT,
    }
    if len(members) > 1:
        # One attempt more would end in the composite cluster's own "no healthy upstream".
        action["retry_policy"] = {
            "retry_on": f"retriable-headers,{_NOT_PROCESSED}",
            "retriable_headers": [{"name": names.NEXT_HEADER, "present_match": True}],
            "num_retries": len(members) - 1,
            "retry_back_off": _BACK_OFF,
        }
    return {
        "name": name,
        "match": match,
        "route": action,
        "request_body_buffer_limit": RETRY_BODY_BYTES,
        "metadata": {"filter_metadata": {"spillway": {"deployment": deployment.id}, FILTER_NAME: refusals(deployment)}},
        "response_headers_to_add": [header(names.REASON_HEADER, name)],
    }


def gate_hosts(deployments: Sequence[Deployment]) -> Hosts:
    """Virtual hosts of the gate: each deployment's replicas, with another try on another replica."""
    hosts: Hosts = {deployment.id: partial(_gate_host, deployment.id, deployment.host) for deployment in deployments}
    hosts["unknown"] = partial(_passing_host, "no-replica")
    return hosts


def _gate_host(deployment: str, host: str) -> Fields:
    return _virtual_host(deployment, [host], [_replicas(deployment)])


def _replicas(deployment: str) -> Fields:
    return {
        "match": {"prefix": "/"},
        "route": {
            "cluster": names.local_cluster(deployment),
            "timeout": "0s",
            "idle_timeout": IDLE_TIMEOUT,
            "retry_policy": {
                # `reset`: the replica died before its first byte; computing again costs no money here.
                "retry_on": f"reset,retriable-status-codes,{_NOT_PROCESSED}",
                "retriable_status_codes": [503],
                "num_retries": 3,
                "retry_back_off": _BACK_OFF,
                "retry_host_predicate": [_PREVIOUS_HOSTS],
                "host_selection_retry_max_attempts": 5,
            },
        },
        "request_body_buffer_limit": RETRY_BODY_BYTES,
        "response_headers_to_remove": list(names.ANSWER_HEADERS),
        "response_headers_to_add": [header(names.SERVED_BY_HEADER, "local")],
    }


_PREVIOUS_HOSTS = {
    "name": "envoy.retry_host_predicates.previous_hosts",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    },
}


def egress_hosts(egress: Egress, provider: Provider, deployments: Sequence[Deployment]) -> Hosts:
    """Virtual hosts of one egress listener; every attempt asks the runtime again whether it may go out."""
    hosts: Hosts = {
        deployment.id: partial(_egress_host, egress.pair, provider, deployment.id, deployment.host)
        for deployment in deployments
        if egress.pair in deployment.chain
    }
    hosts["unknown"] = partial(_passing_host, "not-permitted")
    return hosts


def _egress_host(pair: names.Pair, provider: Provider, deployment: str, host: str) -> Fields:
    return _virtual_host(deployment, [host], [_provider(pair, provider, deployment), _next("not-permitted")])


def _passing_host(why: str) -> Fields:
    return _virtual_host("unknown", ["*"], [_next(why)])


def _provider(pair: names.Pair, provider: Provider, deployment: str) -> Fields:
    key = names.permitted_key(deployment, pair)
    return {
        "match": {
            "prefix": "/v1/",
            "runtime_fraction": {"default_value": {"numerator": 0}, "runtime_key": key},
        },
        "route": {
            "cluster": names.external_cluster(pair, deployment),
            "timeout": "0s",
            "idle_timeout": IDLE_TIMEOUT,
            "host_rewrite_literal": provider.authority,
            "prefix_rewrite": provider.path + "/",
            "retry_policy": {"retry_on": _NOT_PROCESSED, "num_retries": 1, "retry_back_off": _BACK_OFF},
        },
        "request_body_buffer_limit": RETRY_BODY_BYTES,
        "metadata": {"filter_metadata": {"spillway": {"deployment": deployment}, FILTER_NAME: {"permitted": True}}},
        "request_headers_to_remove": [names.DEPLOYMENT_HEADER],
        # Else a provider could have an answer that it is paid for sent on to the next one.
        "response_headers_to_remove": list(names.ANSWER_HEADERS),
        "response_headers_to_add": [header(names.SERVED_BY_HEADER, provider.name)],
    }


def _next(why: str) -> Fields:
    body = error_body(503, "no_capacity", "This member of the chain does not serve the request.")
    return {
        "match": {"prefix": "/"},
        "direct_response": {"status": 503, "body": {"inline_string": body}},
        "response_headers_to_add": [header(names.NEXT_HEADER, why)],
    }


def _virtual_host(name: str, domains: Sequence[str], routes: Sequence[Fields]) -> Fields:
    return {"name": name, "domains": list(domains), "routes": list(routes)}


def _method(method: str) -> Fields:
    return {"name": ":method", "string_match": {"exact": method}}
