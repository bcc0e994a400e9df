"""Listeners: main (clients), and inside the process shared, gate and one egress per (provider, model)."""

from __future__ import annotations

from collections.abc import Sequence

from spillway.gateway import metering, names
from spillway.gateway.desired import Egress, GatewayNode, Provider
from spillway.gateway.errors import error_body
from spillway.gateway.lua import egress_filter, gate_filter, limited_filter, main_filter, rate_filter
from spillway.gateway.messages import Fields, header, typed, typed_struct
from spillway.gateway.routes import BODY_LIMIT_BYTES, IDLE_TIMEOUT

_BUFFER_BYTES = 1 << 20
_UNREACHED = ["UF", "UC", "UR", "UT", "SI", "URX", "LR", "UPE", "DPE"]
_UNANSWERED = ["UC", "UR", "UT", "SI", "LR", "UPE"]  # the request was on its way: a provider may bill what it did
_ROUTER = typed("envoy.filters.http.router", "extensions.filters.http.router.v3.Router", suppress_envoy_headers=True)


def main_tls(node: GatewayNode) -> Fields:
    """Where clients come in with TLS: HTTP/2 or HTTP/1.1, as they ask for. The certificate lies in the pod's files."""
    certificate = {
        "name": names.MAIN_CERTIFICATE,
        "sds_config": {"resource_api_version": "V3", "path_config_source": {"path": node.tls_secret}},
    }
    socket = typed(
        "envoy.transport_sockets.tls",
        "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        common_tls_context={
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificate_sds_secret_configs": [certificate],
        },
    )
    plain = main(node)
    return {
        **plain,
        "name": "main-tls",
        "address": {"socket_address": {"address": node.bind_address, "port_value": node.tls_port}},
        "filter_chains": [{**chain, "transport_socket": socket} for chain in plain["filter_chains"]],
    }


def main(node: GatewayNode) -> Fields:
    """Where clients come in."""
    health_check = typed(
        "envoy.filters.http.health_check",
        "extensions.filters.http.health_check.v3.HealthCheck",
        pass_through_mode=False,
        headers=[{"name": ":path", "string_match": {"exact": "/healthz"}}],
    )
    buffer = typed(
        "envoy.filters.http.buffer", "extensions.filters.http.buffer.v3.Buffer", max_request_bytes=BODY_LIMIT_BYTES
    )
    connection = _http(
        "main",
        names.MAIN_ROUTES,
        [health_check, buffer, main_filter()],
        access_log=metering.main_log(node),
        access_log_options={"flush_access_log_on_new_request": True},
        local_reply_config=_client_errors(),
        use_remote_address=True,
        # No client is "internal": nobody may steer retries with x-envoy-* headers. (TEST-NET-1 is nobody's address.)
        internal_address_config={"cidr_ranges": [{"address_prefix": "192.0.2.255", "prefix_len": 32}]},
        strip_any_host_port=True,
        strip_trailing_host_dot=True,
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        request_headers_timeout="10s",
        common_http_protocol_options={"headers_with_underscores_action": "DROP_HEADER"},
    )
    address = {"socket_address": {"address": node.bind_address, "port_value": node.traffic_port}}
    return {
        "name": "main",
        "address": address,
        # `drain_listeners?inboundonly` closes this door and leaves the ones inside open for what is in flight.
        "traffic_direction": "INBOUND",
        "per_connection_buffer_limit_bytes": _BUFFER_BYTES,
        "filter_chains": [{"filters": [connection]}],
    }


def shared(node: GatewayNode) -> Fields:
    """Where requests to the shared address come in again, under the host of the deployment that their model names."""
    connection = _http(
        "shared",
        names.MAIN_ROUTES,
        [main_filter()],
        access_log=metering.main_log(node),
        access_log_options={"flush_access_log_on_new_request": True},
        local_reply_config=_client_errors(),
    )
    return _internal(names.SHARED_LISTENER, connection)


def gate() -> Fields:
    """In front of the replicas: turns a full circuit breaker or an empty cluster into an answer that may go on."""
    marks = {
        "mappers": [_mark(["UO"], "saturated"), _mark(["UH", "NC", *_UNREACHED], "no-replica")],
    }
    return _internal(
        names.GATE_LISTENER, _http("gate", names.GATE_ROUTES, [_prefix(), gate_filter()], local_reply_config=marks)
    )


def _prefix() -> Fields:
    prefix = {
        "object_key": names.PREFIX_STATE,
        "factory_key": "envoy.hashable_string",
        "format_string": {
            "text_format_source": {"inline_string": f"%REQ({names.PREFIX_HEADER})%"},
            "omit_empty_values": True,
        },
        "skip_if_empty": True,
    }
    return typed(
        "envoy.filters.http.set_filter_state",
        "extensions.filters.http.set_filter_state.v3.Config",
        on_request_headers=[prefix],
    )


def egress(pair: Egress, provider: Provider, node: GatewayNode) -> Fields:
    """In front of one (provider, model): meters, bounds and rewrites the request, and puts the key in."""
    credential = typed_struct(
        "envoy.http.injected_credentials.generic",
        "extensions.http.injected_credentials.generic.v3.Generic",
        header=provider.credential_header,
        header_value_prefix=provider.credential_prefix,
        credential={
            "name": names.credential_secret(provider.credential_key),
            "sds_config": {"resource_api_version": "V3", "ads": {}},
        },
    )
    injector = typed(
        "envoy.filters.http.credential_injector",
        "extensions.filters.http.credential_injector.v3.CredentialInjector",
        overwrite=True,
        credential=credential,
    )
    limited = [limited_filter(provider.name)] if provider.requests_per_minute is not None else []
    name = names.egress_listener(pair.pair)
    broken = _mark(_UNANSWERED, "provider")
    broken["headers_to_add"].append(header(names.UNANSWERED_HEADER, "true"))
    marks = {
        "mappers": [_mark(["UO"], "capped"), broken, _mark(["UH", "NC", *_UNREACHED], "provider"), _error_too_large()]
    }
    connection = _http(
        "egress",
        name,
        [*metering.usage_filters(), egress_filter(pair), *limited, injector],
        access_log=[*metering.egress_log(pair, node), *metering.health_logs(pair, node)],
        local_reply_config=marks,
    )
    return _internal(name, connection)


def rate(provider: str) -> Fields:
    """Where the egress listeners of a provider ask whether one request more may begin: there is one count for all."""
    name = names.rate_listener(provider)
    return _internal(name, _http("rate", name, [rate_filter()]))


def _internal(name: str, connection: Fields) -> Fields:
    return {
        "name": name,
        "internal_listener": {},
        "per_connection_buffer_limit_bytes": _BUFFER_BYTES,
        "filter_chains": [{"filters": [connection]}],
    }


def _http(stat_prefix: str, routes: str, filters: Sequence[Fields], **options: object) -> Fields:
    inner = {"generate_request_id": False, "preserve_external_request_id": True}
    return typed(
        "envoy.filters.network.http_connection_manager",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=stat_prefix,
        rds={"route_config_name": routes, "config_source": {"resource_api_version": "V3", "ads": {}}},
        http_filters=[*filters, _ROUTER],
        stream_idle_timeout=IDLE_TIMEOUT,
        server_header_transformation="PASS_THROUGH",
        **({} if stat_prefix == "main" else inner),
        **options,
    )


def _mark(flags: Sequence[str], why: str) -> Fields:
    return {
        "filter": {"response_flag_filter": {"flags": list(flags)}},
        "headers_to_add": [header(names.NEXT_HEADER, why)],
    }


def _error_too_large() -> Fields:
    """An error's body is held back until it was read, up to the limit of requests: above it Envoy answers 500."""
    value = {"default_value": 500, "runtime_key": "spillway.status.EQ.500"}
    return {
        "filter": {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}},
        "status_code": 503,
        "headers_to_add": [header(names.NEXT_HEADER, "provider")],
    }


def _client_errors() -> Fields:
    """The main listener's own answers; those of the chain are put into words by answer.lua."""
    status = {"default_value": 413, "runtime_key": "spillway.status.EQ.413"}
    limit = f"The request body is larger than {BODY_LIMIT_BYTES >> 20} MiB."
    empty = "The gateway cannot reach this deployment. Retry later."
    return {
        "mappers": [
            {
                "filter": {"status_code_filter": {"comparison": {"op": "EQ", "value": status}}},
                "body_format_override": _json(error_body(413, "payload_too_large", limit)),
            },
            {
                "filter": {"response_flag_filter": {"flags": ["UO", "UH", "NC", *_UNREACHED]}},
                "status_code": 503,
                "body_format_override": _json(error_body(503, "no_capacity", empty)),
                "headers_to_add": [header("retry-after", "10"), header(names.REASON_HEADER, "no_capacity")],
            },
        ]
    }


def _json(body: str) -> Fields:
    return {"text_format_source": {"inline_string": body}, "content_type": "application/json"}
