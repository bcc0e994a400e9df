"""Hypothesis strategies for objects of the kinds, made from the models: each part draws until its own rules hold."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import Any, get_args

from hypothesis import strategies as st
from pydantic import ValidationError

from spillway.api import Resource
from spillway.api.resource import KubeModel
from spillway.api.scalars import format_timestamp
from spillway.api.structural import Schema, structural_schema
from tests.unit.api.examples import Object, example

DURATIONS = st.from_regex(r"([0-9]{1,3}(\.[0-9]{1,2})?(ms|s|m|h)){1,3}", fullmatch=True)
DURATIONS_WITH_DAYS = st.from_regex(r"([0-9]{1,3}(\.[0-9]{1,2})?(ms|s|m|h|d)){1,3}", fullmatch=True)
LATENCIES = st.sampled_from(["1ms", "60ms", "0.5s", "15s", "1m30s", "10m"])
TEXT = st.characters(min_codepoint=33, max_codepoint=126)
MOMENTS = st.integers(0, 4 * 10**9).map(lambda second: format_timestamp(datetime.fromtimestamp(second, UTC)))
SMALL = st.integers(1, 8)

# Fields whose values must fit something that no schema says, and those that rarely fit each other by chance.
SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "Hint.schedule": st.sampled_from(["0 8 * * 1-5", "*/15 0,12 1 1-6/2 0"]),
    "Hint.duration": st.sampled_from(["2h", "1h30m", "168h"]),
    "Hint.timeZone": st.sampled_from(["UTC", "Europe/Berlin"]),
    "Hint.minReplicas": st.just(1),
    "CostPolicySpec.timeZone": st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]),
    "ExternalProviderSpec.baseURL": st.sampled_from(["https://api.z.ai/api/paas/v4", "https://127.0.0.9:8443"]),
    "WantedParallelism.tensor": SMALL,
    "WantedParallelism.data": SMALL,
    "WantedParallelism.nodes": st.integers(1, 2),
    "RouteMatch.percent": st.integers(1, 33),
    "ProviderModel.contextLength": st.integers(8192, 10**7),
    "PriceTier.aboveInputTokens": st.integers(1, 8191),
    "MoEDeploymentSpec.maxReplicas": st.integers(1, 1000),
    **{f"Slo.{name}": LATENCIES for name in ("timeToFirstToken", "interTokenLatency")},
    **{f"ProviderTimeouts.{name}": LATENCIES for name in ("connect", "firstByte", "idle")},
}


def objects(kind: type[Resource]) -> st.SearchStrategy[Object]:
    """Whole objects with a spec and, sometimes, a status."""
    spec: Any = kind.model_fields["spec"].annotation
    parts = st.fixed_dictionaries({"spec": model(spec)}, optional={"status": model(kind.status_model)})
    return parts.map(lambda drawn: {**example(kind.definition.kind), **drawn})


@cache
def model(kind: type[KubeModel]) -> st.SearchStrategy[Object]:
    """What the API server may hold where the models have `kind`."""
    schema = structural_schema(kind)
    fields = {
        field.alias or name: _field(kind, field.alias or name, field.annotation, schema["properties"])
        for name, field in kind.model_fields.items()
    }
    required = set(schema.get("required", ()))
    drawn = st.fixed_dictionaries(
        {name: fields[name] for name in fields if name in required},
        optional={name: fields[name] for name in fields if name not in required},
    )
    return drawn.filter(lambda value: _valid(kind, value))


def _valid(kind: type[KubeModel], value: Object) -> bool:
    try:
        kind.model_validate(value)
    except ValidationError:
        return False
    return True


def _field(kind: type[KubeModel], alias: str, annotation: Any, properties: dict[str, Schema]) -> st.SearchStrategy[Any]:
    if (special := SPECIAL.get(f"{kind.__name__}.{alias}")) is not None:
        return special
    schema, part = properties[alias], nested(annotation)
    if schema["type"] == "array":
        return _list(schema, model(part) if part else _leaf(schema["items"]))
    return model(part) if part else _leaf(schema)


def nested(annotation: Any) -> type[KubeModel] | None:
    """The model that a field holds, alone or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, KubeModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := nested(part))), None)


def _list(schema: Schema, item: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    keys, unique = schema.get("x-kubernetes-list-map-keys"), schema["x-kubernetes-list-type"] == "set"
    by: Any = (lambda entry: tuple(entry[key] for key in keys)) if keys else (lambda entry: entry) if unique else None
    return st.lists(item, min_size=schema.get("minItems", 0), max_size=min(3, schema["maxItems"]), unique_by=by)


def _leaf(schema: Schema) -> st.SearchStrategy[Any]:
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema.get("minimum", 0), schema.get("maximum", 10**6))
        case "object":
            return st.dictionaries(
                st.text(TEXT, min_size=1, max_size=9), _leaf(schema["additionalProperties"]), min_size=1, max_size=3
            )
    if schema.get("format") == "date-time":
        return MOMENTS
    pattern, longest = schema.get("pattern"), schema["maxLength"]
    if pattern is None:
        return st.text(TEXT, min_size=schema.get("minLength", 0), max_size=min(20, longest))
    if "(ms|s" in pattern:
        return DURATIONS_WITH_DAYS if "|d)" in pattern else DURATIONS
    plain = pattern.removeprefix("^").removesuffix("$")
    return st.from_regex(plain, fullmatch=True, alphabet=TEXT).filter(lambda text: len(text) <= longest)
