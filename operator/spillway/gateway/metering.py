"""Token counting and the counters that the ledger and the demand estimate read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spillway.gateway import names
from spillway.gateway.desired import Egress, GatewayNode
from spillway.gateway.entries import MOST_TOKENS
from spillway.gateway.messages import Fields, typed, typed_struct

_NAMESPACE = "spillway"
_LARGEST_EVENT_BYTES = 1 << 20

# OpenAI: chat, completions and embeddings say prompt/completion, responses say input/output (streamed: in `response`).
_USAGE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("prompt", ("usage", "prompt_tokens")),
    ("prompt", ("usage", "input_tokens")),
    ("prompt", ("response", "usage", "input_tokens")),
    ("completion", ("usage", "completion_tokens")),
    ("completion", ("usage", "output_tokens")),
    ("completion", ("response", "usage", "output_tokens")),
    ("cached", ("usage", "prompt_tokens_details", "cached_tokens")),
    ("cached", ("usage", "input_tokens_details", "cached_tokens")),
    ("cached", ("response", "usage", "input_tokens_details", "cached_tokens")),
    ("cached", ("usage", "prompt_cache_hit_tokens")),
    ("cache_write", ("usage", "prompt_tokens_details", "cache_write_tokens")),
    ("cache_write", ("usage", "prompt_tokens_details", "cache_creation_input_tokens")),
    ("cache_write", ("usage", "cache_creation_input_tokens")),
)
_TOKENS = ("prompt", "completion", "cached", "cache_write")


def usage_filters() -> list[Fields]:
    """Filters that put `usage` of a JSON or streamed answer into dynamic metadata (last value wins)."""
    rules = [_rule(path, {"key": key, "type": "NUMBER"}) for key, path in _USAGE]
    seen = {"key": "outcome", "type": "STRING", "value": "metered"}
    rules += [_rule(path, seen) for key, path in _USAGE if key == "prompt"]
    sse = typed_struct(
        "envoy.filters.http.sse_to_metadata",
        "extensions.filters.http.sse_to_metadata.v3.SseToMetadata",
        response_rules={
            "max_event_size": _LARGEST_EVENT_BYTES,
            "content_parser": typed_struct(
                "envoy.content_parsers.json",
                "extensions.content_parsers.json.v3.JsonContentParser",
                rules=[{"rule": rule} for rule in rules],
            ),
        },
    )
    json = typed(
        "envoy.filters.http.json_to_metadata",
        "extensions.filters.http.json_to_metadata.v3.JsonToMetadata",
        response_rules={"rules": rules, "allow_content_types": ["application/json"]},
    )
    return [sse, json]


def _rule(path: tuple[str, ...], target: Mapping[str, str]) -> Fields:
    return {"selectors": [{"key": key} for key in path], "on_present": {"metadata_namespace": _NAMESPACE, **target}}


def egress_log(egress: Egress, node: GatewayNode) -> list[Fields]:
    """Counters per (deployment, provider, model, outcome), and an entry of the log by the same conditions, at the end
    of each attempt that was sent out. Usage counts by the kind of answer and the price tier that its prompt falls in;
    what has none by how it ended and, where there are tiers, by how large the request was."""
    pair = {
        "deployment": "%METADATA(ROUTE:spillway:deployment)%",
        "provider": _plain(egress.provider),
        "model": _plain(egress.model),
        "process": _plain(node.process),
    }

    def log(outcome: str, when: str, counted: Sequence[str] = ()) -> list[Fields]:
        tags = {**pair, "outcome": outcome}  # outcomes.py reads it
        counters = [
            _counter("egress_requests", tags),
            *(_counter(f"egress_{key}_tokens", tags, f"%DYNAMIC_METADATA({_NAMESPACE}:{key})%") for key in counted),
            _counter("egress_request_bytes", tags, "%BYTES_RECEIVED%"),
            _counter("egress_response_bytes", tags, "%BYTES_SENT%"),
        ]
        return [{**one, "filter": _expression(when)} for one in (_stats(counters), _detail(tags))]

    # Lua has set every count to a number, and so these comparisons cannot fail; nor does one without "spillway" match.
    possible = _all(
        f"{_of('prompt')} >= 1.0", *(f"{_of(key)} >= 0.0 && {_of(key)} < {MOST_TOKENS}.0" for key in _TOKENS)
    )
    believed = _all(
        "response.flags == 0",
        f"{_of('prompt')} <= {egress.context_length}.0",
        f"{_of('completion')} <= {egress.max_output_tokens * egress.max_choices}.0",
        f"{_of('cached')} + {_of('cache_write')} <= {_of('prompt')}",
    )
    seen = f"{_of('outcome')} == 'metered'"
    answer = f"%DYNAMIC_METADATA({_NAMESPACE}:answer)%"
    size = f"%DYNAMIC_METADATA({_NAMESPACE}:size)%" if egress.tiers else ""
    logs = []
    for above, below in zip((0, *egress.tiers), (*egress.tiers, MOST_TOKENS), strict=True):
        within = f"{_of('prompt')} > {above}.0 && {_of('prompt')} <= {below}.0"
        tier = f":{above}" if above else ""
        logs += log(f"metered/{answer}{tier}", _all(seen, possible, within, believed), _TOKENS)
        logs += log(f"doubtful/{answer}{tier}", _all(seen, possible, within, f"!({believed})"), _TOKENS)
    missing = f"{_of('outcome')} == 'unmetered' || ({seen} && !({possible}))"
    logs += log(f"unmetered/{answer}/%DYNAMIC_METADATA({_NAMESPACE}:outcome)%/%RESPONSE_FLAGS%{size}", missing)
    logs += log(f"unanswered/{answer}{size}", f"{_of('outcome')} == 'unanswered'")
    logs += log("refused", f"{_of('outcome')} == 'refused'")
    return logs


def _detail(tags: Mapping[str, str]) -> Fields:
    """One entry of the attempt for the leader, by the connection of ADS: with these attributes and nothing else. What
    cannot be sent is dropped: it waits for nobody, and no request for it."""
    attributes = {
        **tags,
        **{key: f"%DYNAMIC_METADATA({_NAMESPACE}:{key})%" for key in _TOKENS},
        "request_bytes": "%BYTES_RECEIVED%",
        "response_bytes": "%BYTES_SENT%",
        "duration_ms": "%DURATION%",
        "first_byte_ms": "%COMMON_DURATION(DS_RX_END:US_RX_BODY_BEG:ms)%",
    }
    return typed(
        "envoy.access_loggers.open_telemetry",
        "extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
        common_config={
            "log_name": "spillway",
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": "ads"}, "timeout": "2s"},
            "buffer_flush_interval": "1s",
            "buffer_size_bytes": 16384,
        },
        disable_builtin_labels=True,
        attributes={"values": [{"key": key, "value": {"string_value": value}} for key, value in attributes.items()]},
    )


def _of(key: str) -> str:
    return f"metadata.filter_metadata['{_NAMESPACE}']['{key}']"


def _all(*conditions: str) -> str:
    return " && ".join(conditions)


def _expression(text: str) -> Fields:
    kind = "extensions.access_loggers.filters.cel.v3.ExpressionFilter"
    return {"extension_filter": typed("envoy.access_loggers.extension_filters.cel", kind, expression=text)}


def main_log(node: GatewayNode) -> list[Fields]:
    """Arrivals when a request starts (demand, served or not); answers by code class when it ends."""
    deployment = "%METADATA(ROUTE:spillway:deployment)%"
    process = _plain(node.process)
    route = "%METADATA(ROUTE:spillway:route)%"  # of spec.routes; by model it is known only at the end
    arrivals = _counter("arrivals", {"deployment": deployment, "route": route, "process": process})
    logs = [{**_stats([arrivals]), "filter": _log_type("DownstreamStart")}]
    for digit in "245":
        tags = {
            "deployment": deployment,
            "code_class": f"{digit}xx",
            "served_by": f"%RESP({names.SERVED_BY_HEADER})%",
            "route": route,
            "process": process,
        }
        within = [_status("GE", int(digit) * 100), _status("LE", int(digit) * 100 + 99)]
        ended = {"and_filter": {"filters": [_log_type("DownstreamEnd"), *within]}}
        logs.append({**_stats([_counter("answers", tags)]), "filter": ended})
    return logs


def health_logs(egress: Egress, node: GatewayNode) -> list[Fields]:
    """What tells how a provider does: its errors by class (failures.lua; `held`: it was not asked, as it had asked for
    a pause), and of its streams the time from the request to the first byte of the answer's body, in milliseconds."""
    tags = {"provider": _plain(egress.provider), "model": _plain(egress.model), "process": _plain(node.process)}
    errors = _counter("egress_errors", {**tags, "why": f"%DYNAMIC_METADATA({_NAMESPACE}:why)%"})
    first_byte = {
        "stat": _stat("egress_first_byte", tags),
        "unit": "Milliseconds",
        "value_format": "%COMMON_DURATION(DS_RX_END:US_RX_BODY_BEG:ms)%",
    }
    return [
        {**_stats([errors]), "filter": _has("why")},
        {**_stats([], histograms=[first_byte]), "filter": _has("streamed")},
    ]


def _has(key: str, regex: str = ".+") -> Fields:
    value = {"string_match": {"safe_regex": {"regex": regex}}}
    matcher = {"filter": _NAMESPACE, "path": [{"key": key}], "value": value}
    return {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": False}}


def _counter(name: str, tags: Mapping[str, str], value_format: str | None = None) -> Fields:
    value = {"value_format": value_format} if value_format else {"value_fixed": "1"}
    return {"stat": _stat(name, tags), **value}


def _stat(name: str, tags: Mapping[str, str]) -> Fields:
    return {"name": name, "tags": [{"name": tag, "value_format": value} for tag, value in tags.items()]}


def _stats(counters: list[Fields], **others: list[Fields]) -> Fields:
    kind = "extensions.access_loggers.stats.v3.Config"
    return typed("envoy.access_loggers.stats", kind, stat_prefix="spillway", counters=counters, **others)


def _log_type(kind: str) -> Fields:
    return {"log_type_filter": {"types": [kind]}}


def _status(operator: str, status: int) -> Fields:
    # Envoy wants a runtime key for every threshold; nobody sets this one.
    value = {"default_value": status, "runtime_key": f"spillway.status.{operator}.{status}"}
    return {"status_code_filter": {"comparison": {"op": operator, "value": value}}}


def _plain(text: str) -> str:
    """A constant inside an access log format."""
    return text.replace("%", "%%")
