"""What a pydantic field cannot say by itself about its Kubernetes schema: CEL rules and list types."""

from __future__ import annotations

from typing import Any

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core.core_schema import CoreSchema

Rule = dict[str, Any]


def cel(rule: str, message: str, *, field: str = "") -> Rule:
    """One entry of ``x-kubernetes-validations``; ``field`` is the path below ``self`` that the error points at."""
    entry: Rule = {"rule": rule, "message": message}
    if field:
        entry["fieldPath"] = field
    return entry


def model_rules(*rules: Rule) -> dict[str, Any]:
    """``json_schema_extra`` of a model that carries CEL rules."""
    return {"x-kubernetes-validations": list(rules)}


class Rules:
    """``Annotated[T, Rules(cel(...))]``: CEL rules on a single field."""

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        return {**schema, "x-kubernetes-validations": [*schema.get("x-kubernetes-validations", []), *self.rules]}


class ListType:
    """``Annotated[tuple[T, ...], ListType("map", "name")]``: how server-side apply merges a list."""

    def __init__(self, kind: str, *keys: str) -> None:
        self.keywords: dict[str, Any] = {"x-kubernetes-list-type": kind}
        if keys:
            self.keywords["x-kubernetes-list-map-keys"] = list(keys)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(core), **self.keywords}


class Keywords:
    """``Annotated[T, Keywords(maxProperties=16)]``: plain OpenAPI keywords."""

    def __init__(self, **keywords: Any) -> None:
        self.keywords = keywords

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(core), **self.keywords}
