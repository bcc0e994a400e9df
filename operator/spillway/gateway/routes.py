"""Virtual hosts. Main: by the client's Host. Gate and egress: by the canonical host that main rewrites it to.

A request to any other Host comes to the shared address: main.lua reads its model, `<namespace>/<name>`, makes the
deployment's host of it, and the request comes in once more, through the listener `shared`. So it is counted, matched
and answered as if its client had used the deployment's own address.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from functools import partial

from spillway.gateway import names
from spillway.gateway.desired import Deployment, Egress, Provider, Route
from spillway.gateway.errors import (
    ambiguous_host,
    direct,
    error_body,
    model_list,
    refusals,
    refused,
    route_refusals,
    unknown_model,
    unknown_path,
)
from spillway.gateway.lua import FILTER_NAME
from spillway.gateway.messages import Fields, header, seconds

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
    """Virtual hosts of the main listener: of each deployment, of each ambiguous short name, and the shared address."""
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
    hosts["shared"] = partial(_shared_host, tuple(sorted(deployment.id for deployment in deployments)))
    return hosts


def _refusing_host(domain: str, body: str) -> Fields:
    return _virtual_host(f"refused|{domain}", [domain], [{"match": {"prefix": "/"}, **direct(404, body)}])


def _shared_host(ids: tuple[str, ...]) -> Fields:
    again = {"name": names.ADDRESSED_HEADER, "present_match": True}
    unknown = direct(404, unknown_model(ids))
    named = {
        "name": "shared",
        "match": _inference_match(),
        "route": {"cluster": names.SHARED_CLUSTER, "timeout": "0s", "idle_timeout": IDLE_TIMEOUT},
        "request_body_buffer_limit": RETRY_BODY_BYTES,
        "metadata": {"filter_metadata": {FILTER_NAME: {"by_model": True}}},
        "request_headers_to_add": [header(names.ADDRESSED_HEADER, "model")],
    }
    routes = [
        {"match": {"prefix": "/", "headers": [again]}, **unknown},
        named,
        {"match": {"path": "/v1/models", "headers": [_method("GET")]}, **direct(200, model_list(ids))},
        {"match": {"prefix": "/"}, **direct(404, unknown_path())},
    ]
    return _virtual_host("shared", ["*"], routes)


def chain_members(deployment: Deployment) -> tuple[str, ...]:
    """Clusters that an overflowing request tries, in order."""
    return (names.GATE_CLUSTER, *(names.egress_cluster(pair) for pair in deployment.chain))


def share_members(deployment: Deployment) -> tuple[str, ...]:
    """Clusters that a request of the shared-out percentage tries: providers first, the replicas last."""
    overflow = chain_members(deployment)
    return (*overflow[1:], overflow[0])


def _main_host(deployment: Deployment, domains: Sequence[str]) -> Fields:
    named = (route.model for route in deployment.routes if route.model)
    routes = _routed(deployment)
    if deployment.chain:
        routes += [
            _inference(deployment, "share", share_members(deployment), names.share_key(deployment.id)),
            _inference(deployment, "overflow", chain_members(deployment), names.allowed_key(deployment.id)),
        ]
    if deployment.hold_seconds:
        # Ahead of half-open spill. What waits is not refused because others were faster: it waits on when full, too.
        hold = _inference(deployment, "hold", (names.GATE_CLUSTER,), names.hold_key(deployment.id))
        hold["route"]["retry_policy"] = _patience(deployment, "no-replica|saturated")
        routes.append(hold)
    if deployment.chain and deployment.some_occasions:
        for key, found in (
            (names.full_key(deployment.id), "saturated"),
            (names.empty_key(deployment.id), "no-replica"),
        ):
            half = _inference(deployment, "overflow", chain_members(deployment), key)
            half["route"]["retry_policy"]["retriable_headers"] = [_next_is(f"{found}|capped|not-permitted|provider")]
            routes.append(half)
    local = _inference(deployment, "local", (names.GATE_CLUSTER,), None)
    if deployment.hold_seconds:
        local["route"]["retry_policy"] = _patience(deployment, "no-replica")
    routes += [
        local,
        {
            "match": {"path": "/v1/models", "headers": [_method("GET")]},
            **direct(200, model_list(dict.fromkeys((deployment.served_name, *named)))),
        },
        {"match": {"prefix": "/"}, **direct(404, unknown_path())},
    ]
    return {
        **_virtual_host(deployment.id, domains, routes),
        "request_headers_to_add": [header(names.DEPLOYMENT_HEADER, deployment.id)],
        "request_headers_to_remove": [*names.ANSWER_HEADERS, names.ADDRESSED_HEADER, names.MODEL_HEADER],
    }


def _patience(deployment: Deployment, why: str) -> Fields:
    """Ask the gate again and again: after 1 s in the mean, at random within 2 s, so that those who wait do not come all
    at once when the first replica is ready. Envoy's own limit of a request's time would cut answers, too."""
    return {
        "retry_on": "retriable-headers",
        "retriable_headers": [_next_is(why)],
        "num_retries": deployment.hold_seconds,
        "retry_back_off": {"base_interval": "0.5s", "max_interval": "2s"},
    }


def _next_is(why: str) -> Fields:
    return {"name": names.NEXT_HEADER, "string_match": {"safe_regex": {"regex": why}}}


def _routed(deployment: Deployment) -> list[Fields]:
    """What spec.routes takes, before anything else does: by header and model in order, then by percentage.

    One draw decides of a request, so each percentage matches what is below its sum with those before it.
    """
    routes, below = [], 0
    for route in sorted(deployment.routes, key=lambda route: route.percent > 0):  # stable
        match = _inference_match()
        if route.percent:
            below += route.percent
            match["runtime_fraction"] = {"default_value": {"numerator": below}}
        else:
            name, value = route.header or (names.MODEL_HEADER, route.model)
            match["headers"].append({"name": name, "string_match": {"exact": value}})
        routes.append(_to_pair(deployment, route, match))
    return routes


def _to_pair(deployment: Deployment, route: Route, match: Fields) -> Fields:
    # By model it is known only after the start was logged: that is counted apart.
    told = f"{names.ROUTED_LATE}{route.name}" if route.model else route.name
    fields = {
        "name": f"route|{route.name}",
        "match": match,
        "metadata": _metadata(deployment, route_refusals(deployment, route), route=told),
    }
    if route.pair is None:
        return {**fields, **refused(route.refusal)}
    return {
        **fields,
        "route": {
            "cluster": names.egress_cluster(route.pair),
            "host_rewrite_literal": deployment.host,
            "timeout": "0s",
            "idle_timeout": IDLE_TIMEOUT,
        },
        "request_body_buffer_limit": RETRY_BODY_BYTES,
        "request_headers_to_add": [header(names.ROUTE_HEADER, route.name)],
        "response_headers_to_add": [header(names.REASON_HEADER, "route")],
    }


def _metadata(deployment: Deployment, texts: Fields, **tags: str) -> Fields:
    """For the access log, and for main.lua."""
    wants: Fields = {"id": deployment.id, "served_name": json.dumps(deployment.served_name)}
    if any(route.model for route in deployment.routes):
        wants["reads_model"] = True
    if deployment.affinity:
        wants["affinity"] = True
    return {"filter_metadata": {"spillway": {"deployment": deployment.id, **tags}, FILTER_NAME: {**texts, **wants}}}


def _inference_match() -> Fields:
    return {"safe_regex": {"regex": _PATHS}, "headers": [_method("POST")]}


def _inference(deployment: Deployment, name: str, members: Sequence[str], runtime_key: str | None) -> Fields:
    match = _inference_match()
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
        "metadata": _metadata(deployment, refusals(deployment)),
        "request_headers_to_remove": [names.ROUTE_HEADER],
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
            # Without a prefix, or where the cluster balances by load, it is ignored.
            "hash_policy": [{"filter_state": {"key": names.PREFIX_STATE}}],
        },
        "request_body_buffer_limit": RETRY_BODY_BYTES,
        "request_headers_to_remove": [names.PREFIX_HEADER],
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
        deployment.id: partial(
            _egress_host,
            egress.pair,
            provider,
            deployment.id,
            deployment.host,
            any(route.pair == egress.pair for route in deployment.routes),
        )
        for deployment in deployments
        if egress.pair in deployment.pairs
    }
    hosts["unknown"] = partial(_passing_host, "not-permitted")
    return hosts


def rate_hosts(provider: str, per_minute: int) -> Hosts:
    """What one gateway process may begin at a provider in a minute; rate.lua answers in place of the route."""
    return {"rate": partial(_rate_host, provider, per_minute)}


def _rate_host(provider: str, per_minute: int) -> Fields:
    told = {"filter_metadata": {FILTER_NAME: {"per_minute": per_minute}}}
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 503}, "metadata": told}
    return _virtual_host(names.rate_listener(provider), ["*"], [route])


def _egress_host(pair: names.Pair, provider: Provider, deployment: str, host: str, routed: bool) -> Fields:
    routes = [_provider(pair, provider, deployment, names.permitted_key(deployment, pair)), _next("not-permitted")]
    if routed:
        by_route = [{"name": names.ROUTE_HEADER, "present_match": True}]
        allowed, shut = (
            _provider(pair, provider, deployment, names.routed_key(deployment, pair)),
            _next("not-permitted"),
        )
        for route in (allowed, shut):
            route["match"]["headers"] = by_route
        routes = [allowed, shut, *routes]
    return _virtual_host(deployment, [host], routes)


def _passing_host(why: str) -> Fields:
    return _virtual_host("unknown", ["*"], [_next(why)])


def _provider(pair: names.Pair, provider: Provider, deployment: str, key: str) -> Fields:
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
            "retry_policy": {
                "retry_on": _NOT_PROCESSED,
                "num_retries": 1,
                "retry_back_off": _BACK_OFF,
                **_limits(provider),
            },
        },
        "request_body_buffer_limit": RETRY_BODY_BYTES,
        "metadata": {"filter_metadata": {"spillway": {"deployment": deployment}, FILTER_NAME: {"permitted": True}}},
        "request_headers_to_remove": [names.DEPLOYMENT_HEADER],
        # Else a provider could have an answer that it is paid for sent on to the next one.
        "response_headers_to_remove": list(names.ANSWER_HEADERS),
        "response_headers_to_add": [header(names.SERVED_BY_HEADER, provider.name)],
    }


def _limits(provider: Provider) -> Fields:
    """Time limits of an attempt; it is not tried again after one, for it may have cost money."""
    limits = {"per_try_timeout": provider.first_byte_seconds, "per_try_idle_timeout": provider.idle_seconds}
    return {name: seconds(limit) for name, limit in limits.items() if limit is not None}


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
