"""The static part of a gateway's Envoy: who it is, where the leader is, the runtime layers, the metrics listener."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format

from spillway.gateway import runtime
from spillway.gateway.desired import GatewayNode
from spillway.gateway.messages import Fields, typed
from spillway.gateway.names import OPERATOR_NAME

COUNTERS_FILTER = r"^(spillway\.|cluster\.(local|ext)\|.*\.upstream_rq_active$|sds\.credential\|.*\.update_success$)"
"""What `/counters` shows: the ledger's counters, in-flight by cluster, whether keys could be read."""

# What is kept at all: with 1,000 deployments Envoy's full set is 15 MB of text.
_KEPT_STATS = (
    r"^spillway\..*",
    r"^cluster\.(local|ext)\|.*\.(upstream_rq_(active|total|time|active_overflow|xx|[245]xx|retry)|"
    r"membership_(healthy|total)|upstream_cx_connect_fail|upstream_cx_active|circuit_breakers\.default\.remaining_rq)$",
    r"^http\.main\.downstream_(rq|cx)_(active|total|rx_reset|tx_reset|[245]xx)$",
    r"^sds\..*\.update_success$",
    r"^(control_plane|runtime|server|listener_manager|cluster_manager)\..*",
    r"^vhost\.metrics\..*",
)

# Envoy's own bounds are two or three to a factor of ten, too coarse for a median.
_FIRST_BYTE_MILLISECONDS = [
    *(50, 100, 150, 200, 300, 400, 500, 700, 1000, 1500, 2000, 3000, 4000, 5000, 7000, 10_000, 15_000, 20_000),
    *(30_000, 45_000, 60_000, 120_000, 300_000, 600_000),
]

# Envoy's own back-off between attempts grows to 30 s: so long a new leader could not lower a cap. Leaders are few, and
# answer a gateway at once.
_RECONNECT: Fields = {"retry_back_off": {"base_interval": "0.25s", "max_interval": "2s"}}
_GRPC: Fields = {
    "api_type": "GRPC",
    "transport_api_version": "V3",
    "grpc_services": [{"envoy_grpc": {"cluster_name": "ads", "retry_policy": _RECONNECT}}],
    "set_node_on_first_message_only": True,
}


def node_metadata(node: GatewayNode) -> Fields:
    return {
        "process": node.process,
        "address": node.address,
        "bind_address": node.bind_address,
        "traffic_port": node.traffic_port,
        "metrics_port": node.metrics_port,
        "keys_directory": node.keys_directory,
        "ca_file": node.ca_file,
        "tls_port": node.tls_port,
        "tls_secret": node.tls_secret,
    }


def node_from_metadata(node: Any) -> GatewayNode:
    """The other way: from the `Node` message that Envoy sends. Raises KeyError when it is not one of ours."""
    metadata = json_format.MessageToDict(node.metadata)
    return GatewayNode(
        name=node.id,
        process=metadata["process"],
        address=metadata["address"],
        bind_address=metadata["bind_address"],
        traffic_port=int(metadata["traffic_port"]),
        metrics_port=int(metadata["metrics_port"]),
        keys_directory=metadata["keys_directory"],
        ca_file=metadata["ca_file"],
        tls_port=int(metadata["tls_port"]),
        tls_secret=metadata["tls_secret"],
    )


def bootstrap(node: GatewayNode, ads_host: str, ads_port: int, admin_socket: str, secrets: Mapping[str, str]) -> Fields:
    """The bootstrap as JSON data. The admin interface is a unix socket: whoever can run in the pod, nobody else.
    `secrets` are the paths of the files that `ads_secrets` gives the content of, by name."""
    ads = {"resource_api_version": "V3", "ads": {}}
    return {
        "node": {"id": node.name, "cluster": "spillway", "metadata": node_metadata(node)},
        "admin": {"address": {"pipe": {"path": admin_socket, "mode": 0o600}}},
        "bootstrap_extensions": [
            typed("envoy.bootstrap.internal_listener", "extensions.bootstrap.internal_listener.v3.InternalListener")
        ],
        "layered_runtime": {
            "layers": [
                # Fail closed: without a leader's word nothing is spilled.
                {"name": "static", "static_layer": {}},
                *(_runtime_layer(name) for name in runtime.LAYERS),
            ]
        },
        "dynamic_resources": {
            "ads_config": _GRPC,
            # No time limit: a gateway that never had a configuration is not ready, and says so.
            "lds_config": {**ads, "initial_fetch_timeout": "0s"},
            "cds_config": {**ads, "initial_fetch_timeout": "0s"},
        },
        "static_resources": {
            "clusters": [_ads_cluster(ads_host, ads_port, secrets), _admin_cluster(admin_socket)],
            "listeners": [_metrics_listener(node)],
        },
        "stats_config": {
            "use_all_default_tags": False,
            "stats_tags": [
                # Envoy's own pattern ends a cluster's name at its first dot, which model names have.
                {
                    "tag_name": "envoy.cluster_name",
                    "regex": r"^cluster\.(((?:ext\|[^|]+\|[^|]+\||local\|)[^.]+|[^.]+)\.)",
                },
                {"tag_name": "spillway.secret", "regex": r"^sds\.((.*)\.)update_success$"},
                {"tag_name": "envoy.response_code_class"},
                {"tag_name": "envoy.http_conn_manager_prefix"},
            ],
            "histogram_bucket_settings": [
                {"match": {"prefix": "spillway.egress_first_byte"}, "buckets": _FIRST_BYTE_MILLISECONDS}
            ],
            "stats_matcher": {
                "inclusion_list": {"patterns": [{"safe_regex": {"regex": pattern}} for pattern in _KEPT_STATS]}
            },
        },
    }


def _runtime_layer(name: str) -> Fields:
    # Each on a stream of its own: runtime_stream.py says why.
    source = {"resource_api_version": "V3", "api_config_source": _GRPC, "initial_fetch_timeout": "2s"}
    return {"name": name, "rtds_layer": {"name": name, "rtds_config": source}}


def ads_secrets(directory: str) -> dict[str, Fields]:
    """The gateway's side of the ADS connection by name: its own certificate, and whom it believes to be the operator.
    Each is to lie in a file of its own."""
    operator = {
        "trusted_ca": {"filename": f"{directory}/ca.crt"},
        "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": OPERATOR_NAME}}],
        **_watched(directory),
    }
    return {
        "ads-certificate": certificate_secret("ads-certificate", directory),
        "ads-authority": _secret("ads-authority", validation_context=operator),
    }


def certificate_secret(name: str, directory: str) -> Fields:
    """Content of a file by which Envoy has the certificate of a mounted Secret of type kubernetes.io/tls, and has it
    anew when it changes: it reads only those again that come by SDS."""
    certificate = {
        "certificate_chain": {"filename": f"{directory}/tls.crt"},
        "private_key": {"filename": f"{directory}/tls.key"},
        **_watched(directory),
    }
    return _secret(name, tls_certificate=certificate)


def _secret(name: str, **content: Fields) -> Fields:
    kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
    return {"resources": [{"@type": kind, "name": name, **content}]}


def _watched(directory: str) -> Fields:
    # A Secret volume is replaced as a whole by renaming a symlink in its directory: that move is what is watched.
    return {"watched_directory": {"path": directory}}


def _ads_cluster(host: str, port: int, secrets: Mapping[str, str]) -> Fields:
    kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    http2 = {"connection_keepalive": {"interval": "10s", "timeout": "5s"}}
    return {
        "name": "ads",
        "type": "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": "2s",
        "load_assignment": _one_endpoint("ads", {"socket_address": {"address": host, "port_value": port}}),
        "transport_socket": typed(
            "envoy.transport_sockets.tls",
            "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            sni=OPERATOR_NAME,
            max_session_keys=0,  # each connection shows its certificate
            common_tls_context={
                "tls_params": {
                    "tls_minimum_protocol_version": "TLSv1_3",
                    "tls_maximum_protocol_version": "TLSv1_3",  # as a client Envoy stops at 1.2 by default
                },
                "alpn_protocols": ["h2"],
                "tls_certificate_sds_secret_configs": [_from_file("ads-certificate", secrets)],
                "validation_context_sds_secret_config": _from_file("ads-authority", secrets),
            },
        ),
        "typed_extension_protocol_options": {
            kind: {
                "@type": f"type.googleapis.com/{kind}",
                "explicit_http_config": {"http2_protocol_options": http2},
            }
        },
    }


def _from_file(name: str, files: Mapping[str, str]) -> Fields:
    source = {"resource_api_version": "V3", "path_config_source": {"path": files[name]}}
    return {"name": name, "sds_config": source}


def _admin_cluster(admin_socket: str) -> Fields:
    address = {"pipe": {"path": admin_socket}}
    return {
        "name": "admin",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": _one_endpoint("admin", address),
    }


def _metrics_listener(node: GatewayNode) -> Fields:
    """Three pages of the admin interface, read-only."""
    pages = {
        "/metrics": "/stats/prometheus?usedonly",
        "/counters": f"/stats/prometheus?filter={COUNTERS_FILTER}",
        "/ready": "/ready",
    }
    routes = [
        {
            "match": {"path": path, "headers": [{"name": ":method", "string_match": {"exact": "GET"}}]},
            "route": {"cluster": "admin", "prefix_rewrite": target, "timeout": "10s"},
            "stat_prefix": path.removeprefix("/"),
        }
        for path, target in pages.items()
    ]
    connection = typed(
        "envoy.filters.network.http_connection_manager",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="metrics",
        route_config={
            "name": "metrics",
            "virtual_hosts": [{"name": "metrics", "domains": ["*"], "routes": routes}],
        },
        http_filters=[typed("envoy.filters.http.router", "extensions.filters.http.router.v3.Router")],
    )
    address = {"socket_address": {"address": node.bind_address, "port_value": node.metrics_port}}
    return {"name": "metrics", "address": address, "filter_chains": [{"filters": [connection]}]}


def _one_endpoint(cluster: str, address: Fields) -> Fields:
    return {"cluster_name": cluster, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}
