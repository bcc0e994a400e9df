"""Protobuf messages of Envoy's API, written as the dictionaries of its documentation.

xds-protos lacks a few messages of the pinned Envoy: `clusters.composite.v3.ClusterConfig` is declared here by hand
(Envoy does not accept that one as TypedStruct); filters that it lacks are sent as `xds.type.v3.TypedStruct`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf import descriptor_pb2, descriptor_pool, json_format
from google.protobuf.message import Message

Fields = dict[str, Any]
M = TypeVar("M", bound=Message)

# Imported for their side effect: a message inside an Any is found by its name once its module is loaded.
for _module in (
    "xds.type.v3.typed_struct",
    "envoy.extensions.access_loggers.filters.cel.v3.cel",
    "envoy.extensions.access_loggers.open_telemetry.v3.logs_service",
    "envoy.extensions.access_loggers.stats.v3.stats",
    "envoy.extensions.bootstrap.internal_listener.v3.internal_listener",
    "envoy.extensions.filters.http.buffer.v3.buffer",
    "envoy.extensions.filters.http.credential_injector.v3.credential_injector",
    "envoy.extensions.filters.http.health_check.v3.health_check",
    "envoy.extensions.filters.http.json_to_metadata.v3.json_to_metadata",
    "envoy.extensions.filters.http.lua.v3.lua",
    "envoy.extensions.filters.http.router.v3.router",
    "envoy.extensions.filters.http.set_filter_state.v3.set_filter_state",
    "envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager",
    "envoy.extensions.retry.host.previous_hosts.v3.previous_hosts",
    "envoy.extensions.transport_sockets.tls.v3.tls",
    "envoy.extensions.upstreams.http.v3.http_protocol_options",
):
    importlib.import_module(f"{_module}_pb2")

_TYPE = "type.googleapis.com/"


def _declare_composite() -> None:
    """envoy/extensions/clusters/composite/v3/cluster.proto: `clusters` = 1, each with `name` = 1."""
    file = descriptor_pb2.FileDescriptorProto(
        name="envoy/extensions/clusters/composite/v3/cluster.proto",
        package="envoy.extensions.clusters.composite.v3",
        syntax="proto3",
    )
    config = file.message_type.add(name="ClusterConfig")
    entry = config.nested_type.add(name="ClusterEntry")
    entry.field.add(name="name", number=1, type=9, label=1)
    entry_type = ".envoy.extensions.clusters.composite.v3.ClusterConfig.ClusterEntry"
    config.field.add(name="clusters", number=1, type=11, label=3, type_name=entry_type)
    descriptor_pool.Default().Add(file)


_declare_composite()


def parse(kind: type[M], fields: Mapping[str, Any]) -> M:
    """A message of `kind`; raises json_format.ParseError for a field or value that the API does not know."""
    message: M = kind()
    json_format.ParseDict(fields, message)
    return message


def typed(name: str, kind: str, **fields: Any) -> Fields:
    """An extension: its name and its configuration; `kind` is the message below `envoy.`."""
    return {"name": name, "typed_config": {"@type": f"{_TYPE}envoy.{kind}", **fields}}


def typed_struct(name: str, kind: str, **fields: Any) -> Fields:
    """An extension whose message xds-protos does not have."""
    struct = {"@type": f"{_TYPE}xds.type.v3.TypedStruct", "type_url": f"{_TYPE}envoy.{kind}", "value": fields}
    return {"name": name, "typed_config": struct}


def seconds(duration: float) -> str:
    """A duration as JSON has it."""
    return f"{duration:.3f}s"


def header(key: str, value: str) -> Fields:
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def http_options(*, idle_timeout: str | None = None, max_requests_per_connection: int | None = None) -> Fields:
    """`typed_extension_protocol_options` of an HTTP/1.1 upstream cluster."""
    common: Fields = {}
    if idle_timeout:
        common["idle_timeout"] = idle_timeout
    if max_requests_per_connection:
        common["max_requests_per_connection"] = max_requests_per_connection
    kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    options = {"common_http_protocol_options": common, "explicit_http_config": {"http_protocol_options": {}}}
    return {kind: {"@type": _TYPE + kind, **options}}
