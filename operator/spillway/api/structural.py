"""From pydantic's JSON Schema to the structural dialect of OpenAPI v3 that CustomResourceDefinitions take, and a check
of the result (https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema, to_jsonable_python

Schema = dict[str, Any]

ALLOWED_KEYWORDS = frozenset(
    {
        "additionalProperties",
        "default",
        "description",
        "enum",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "items",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "pattern",
        "properties",
        "required",
        "type",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-list-type",
        "x-kubernetes-validations",
    }
)
"""What Spillway's schemas use; unions (anyOf, oneOf), $ref and the like are left out on purpose."""


class KubernetesJsonSchema(GenerateJsonSchema):
    """Absent instead of null, ``enum`` instead of ``const``, defaults that the API server can apply."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        inner = self.generate_inner(schema["schema"])
        default = schema.get("default")
        if default is None or default in ((), {}):
            return inner
        if isinstance(default, BaseModel):
            return {**inner, "default": _dump(default)}
        if isinstance(default, tuple) and isinstance(default[0], BaseModel):
            return {**inner, "default": [_dump(item) for item in default]}
        return {**inner, "default": self._encoded(schema["schema"], default)}

    def literal_schema(self, schema: core_schema.LiteralSchema) -> JsonSchemaValue:
        result = super().literal_schema(schema)
        if "const" in result:
            result["enum"] = [result.pop("const")]
        return result

    def _encoded(self, schema: core_schema.CoreSchema, default: Any) -> Any:
        serialization: Any = schema.get("serialization")
        return serialization["function"](default) if serialization else to_jsonable_python(default)


def _dump(model: BaseModel) -> Any:
    """A default in full: the API server checks it against the CEL rules before the nested defaults apply."""
    return _without_empty_lists(model.model_dump(mode="json", by_alias=True, exclude_none=True))


def _without_empty_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_empty_lists(item) for key, item in value.items() if item != []}
    return value


def structural_schema(model: type[BaseModel], *, defaults: bool = True) -> Schema:
    """The schema of a model. ``defaults=False`` for a status: what was not observed must stay absent."""
    raw = model.model_json_schema(by_alias=True, mode="validation", schema_generator=KubernetesJsonSchema)
    schema: Schema = _normalised(_inlined(raw, raw.get("$defs", {}), ()))
    if not defaults:
        _drop_defaults(schema)
    return schema


def _inlined(node: Any, definitions: Mapping[str, Any], stack: tuple[str, ...]) -> Any:
    if isinstance(node, list):
        return [_inlined(item, definitions, stack) for item in node]
    if not isinstance(node, dict):
        return node
    rest = {key: _inlined(value, definitions, stack) for key, value in node.items() if key not in ("$ref", "$defs")}
    if "$ref" not in node:
        return rest
    name = node["$ref"].removeprefix("#/$defs/")
    if name in stack:
        raise ValueError(f"{name} contains itself: a structural schema cannot say that")
    return {**_inlined(definitions[name], definitions, (*stack, name)), **rest}


def _normalised(node: Schema) -> Schema:
    result: Schema = {}
    for key, value in node.items():
        match key:
            case "title" | "additionalProperties" if not isinstance(value, dict):
                continue
            case "properties":
                result[key] = {name: _normalised(child) for name, child in value.items()}
            case "items" | "additionalProperties":
                result[key] = _normalised(value)
            case "description":
                result[key] = re.sub(r"\s+", " ", value).strip()
            case "exclusiveMinimum" | "exclusiveMaximum":  # numbers in JSON Schema 2020, booleans in OpenAPI 3.0
                result["minimum" if key == "exclusiveMinimum" else "maximum"] = value
                result[key] = True
            case _:
                result[key] = value
    if result.get("type") == "object" and "additionalProperties" in result:
        for wrong, right in (("minLength", "minProperties"), ("maxLength", "maxProperties")):
            if wrong in result:
                result[right] = result.pop(wrong)
    return result


def _drop_defaults(schema: Schema) -> None:
    schema.pop("default", None)
    for child in schema.get("properties", {}).values():
        _drop_defaults(child)
    for key in ("items", "additionalProperties"):
        if key in schema:
            _drop_defaults(schema[key])


def problems(schema: Schema, path: str) -> Iterator[str]:
    """What the API server would refuse in a schema, and what this project does not want in one."""
    for key in schema.keys() - ALLOWED_KEYWORDS:
        yield f"{path}: keyword {key!r} is not allowed"
    if "type" not in schema:
        yield f"{path}: no type"
    yield from _list_problems(schema, path)
    yield from _bound_problems(schema, path)
    for name, child in schema.get("properties", {}).items():
        if "description" not in child:
            yield f"{path}.{name}: no description"
        yield from problems(child, f"{path}.{name}")
    for name in schema.get("required", []):
        if "default" in schema["properties"][name]:
            yield f"{path}.{name}: required and defaulted"
    for key, mark in (("items", "[]"), ("additionalProperties", ".*")):
        if key in schema:
            yield from problems(schema[key], path + mark)


def _list_problems(schema: Schema, path: str) -> Iterator[str]:
    if schema.get("type") != "array":
        return
    if "items" not in schema:
        yield f"{path}: list without items"
        return
    if "x-kubernetes-list-type" not in schema:
        yield f"{path}: list without x-kubernetes-list-type"
    items = schema["items"]
    for key in schema.get("x-kubernetes-list-map-keys", []):
        field = items.get("properties", {}).get(key)
        if field is None or (key not in items.get("required", []) and "default" not in field):
            yield f"{path}: list-map key {key} must be required or have a default"


def _bound_problems(schema: Schema, path: str) -> Iterator[str]:
    """Unbounded strings, lists and maps make CEL rules too expensive for the API server's cost budget."""
    kind = schema.get("type")
    if kind == "string" and not schema.keys() & {"maxLength", "enum"}:
        yield f"{path}: string without maxLength"
    if kind == "array" and "maxItems" not in schema:
        yield f"{path}: list without maxItems"
    if kind == "object" and "additionalProperties" in schema and "maxProperties" not in schema:
        yield f"{path}: map without maxProperties"
