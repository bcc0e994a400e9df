"""Clusters: a deployment's replicas, its provider pairs, and the chains that join them."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from spillway.gateway import names
from spillway.gateway.desired import Deployment, Provider
from spillway.gateway.messages import Fields, http_options, seconds, typed

# The limits that mean something are set by name below; these only must never be the narrow place.
_UNLIMITED = 1_000_000
# A peer that is gone without a word: found after 60 s of silence on its connection, however long its answer may take.
_KEEPALIVE = {"tcp_keepalive": {"keepalive_time": 30, "keepalive_interval": 10, "keepalive_probes": 3}}
# Keepalive waits while something that was sent is not acknowledged, and the kernel would try that again for a quarter
# of an hour: TCP_USER_TIMEOUT (18, of IPPROTO_TCP 6), in milliseconds, ends this after the same time.
_UNACKNOWLEDGED = {"socket_options": [{"description": "TCP_USER_TIMEOUT", "level": 6, "name": 18, "int_value": 60_000}]}


# With 1,024 points the parts of ten replicas differ by some per cent; what is left bounded loads take care of.
_AFFINITY: Fields = {"lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": 1024}}


def _thresholds(max_requests: int) -> Fields:
    return {
        "thresholds": [
            {
                "max_requests": max_requests,
                "max_connections": _UNLIMITED,
                "max_pending_requests": _UNLIMITED,
                "max_retries": _UNLIMITED,
                "track_remaining": True,
            }
        ]
    }


def local(deployment: Deployment) -> Fields:
    """The replicas (endpoints come by EDS). The in-flight limit is the gate, overridden by the `gate` runtime layer."""
    name = names.local_cluster(deployment.id)
    return {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"service_name": name, "eds_config": {"resource_api_version": "V3", "ads": {}}},
        "connect_timeout": "1s",
        **(_AFFINITY if deployment.affinity else {"lb_policy": "LEAST_REQUEST"}),
        "circuit_breakers": _thresholds(deployment.gate_fallback),
        # Without the zero window a replica that became healthy gets its first request up to a second later.
        "common_lb_config": {
            "healthy_panic_threshold": {"value": 0},
            "update_merge_window": "0s",
            # Bounded loads: a replica with 1.25 times the mean of requests in flight is passed over.
            **({"consistent_hashing_lb_config": {"hash_balance_factor": 125}} if deployment.affinity else {}),
        },
        "health_checks": [
            {
                "timeout": "2s",
                "interval": "2s",
                "no_traffic_interval": "2s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "http_health_check": {"path": deployment.health_path},
            }
        ],
        # A replica that leaves the endpoints finishes what it has: connections are not closed, nothing new goes there.
        "ignore_health_on_host_removal": True,
        # Only what never reached the replica counts: its 503 at its admission limit is no fault.
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "enforcing_consecutive_5xx": 0,
            "enforcing_consecutive_gateway_failure": 0,
            "enforcing_success_rate": 0,
            "enforcing_local_origin_success_rate": 0,
            "consecutive_local_origin_failure": 3,
            "enforcing_consecutive_local_origin_failure": 100,
            "interval": "2s",
            "base_ejection_time": "5s",
            "max_ejection_percent": 100,
        },
        "upstream_connection_options": _KEEPALIVE,
        # uvicorn closes an idle connection after 5 s: be first, so that no request meets a closing one.
        "typed_extension_protocol_options": http_options(idle_timeout="4s"),
    }


def external(pair: names.Pair, provider: Provider, deployment: str) -> Fields:
    """One deployment's way to one (provider, model). The in-flight limit is the money cap; without runtime it is 0."""
    name = names.external_cluster(pair, deployment)
    endpoint = {
        "address": {"socket_address": {"address": provider.hostname, "port_value": provider.port}},
        "hostname": provider.hostname,
    }
    cluster: Fields = {
        "name": name,
        "type": "STATIC" if _is_address(provider.hostname) else "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": seconds(provider.connect_seconds),
        "circuit_breakers": _thresholds(0),
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
        "upstream_connection_options": _KEEPALIVE,
        "upstream_bind_config": _UNACKNOWLEDGED,
        "typed_extension_protocol_options": http_options(idle_timeout="50s"),
    }
    if provider.tls:
        cluster["transport_socket"] = _tls(provider)
    return cluster


def _tls(provider: Provider) -> Fields:
    server_name = provider.server_name or provider.hostname
    kind = "IP_ADDRESS" if _is_address(server_name) else "DNS"
    names_it = {"match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": server_name}}]}
    authority = names.authority_secret(provider.ca_key or "")
    return typed(
        "envoy.transport_sockets.tls",
        "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        **({} if kind == "IP_ADDRESS" else {"sni": server_name}),
        common_tls_context={
            "combined_validation_context": {
                "default_validation_context": names_it,
                "validation_context_sds_secret_config": {
                    "name": authority,
                    "sds_config": {"resource_api_version": "V3", "ads": {}},
                },
            }
        },
    )


def internal(name: str, listener: str) -> Fields:
    """To an internal listener of the same process.

    One request per (cheap) connection: so a changed listener serves the next request and cuts no running stream.
    """
    endpoint = {"address": {"envoy_internal_address": {"server_listener_name": listener}}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": _thresholds(_UNLIMITED),
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
        "typed_extension_protocol_options": http_options(max_requests_per_connection=1),
    }


def chain(members: Sequence[str]) -> Fields:
    """Attempt n of a request goes to member n."""
    return {
        "name": names.chain_cluster(members),
        "connect_timeout": "1s",
        "lb_policy": "CLUSTER_PROVIDED",
        "circuit_breakers": _thresholds(_UNLIMITED),
        "cluster_type": typed(
            "envoy.clusters.composite",
            "extensions.clusters.composite.v3.ClusterConfig",
            clusters=[{"name": member} for member in members],
        ),
    }


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
