"""Fields that are accepted and checked, but that this version does not act on yet: their owners are told.

Whoever makes one of them act deletes its line here; events, conditions and docs/api.md follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from spillway.api.resource import Resource

SPEC_NOT_YET: Mapping[str, Mapping[str, Any]] = {
    "MoEDeployment": {},
    "GPUPool": {},
    "ExternalProvider": {},
    "CostPolicy": {},
}
"""By kind: paths of the spec, each with the value that asks for nothing but what happens anyway."""

STATUS_NOT_YET: Mapping[str, frozenset[str]] = {
    "MoEDeployment": frozenset(),
    "GPUPool": frozenset(),
    "ExternalProvider": frozenset(),
    "CostPolicy": frozenset(),
}
"""By kind: paths of the status that this version leaves empty."""


def not_acted_on(obj: Resource) -> tuple[str, ...]:
    """Paths of the spec that ask for something that this version does not do."""
    asked = SPEC_NOT_YET[obj.definition.kind]
    return tuple(path for path, harmless in asked.items() if any(_asks(v, harmless) for v in _values(obj, path)))


def not_acted_on_words(paths: tuple[str, ...]) -> str:
    """What the owner reads."""
    verb, what = ("is", "it") if len(paths) == 1 else ("are", "them")
    return f"{', '.join(paths)} {verb} accepted, but this version of Spillway does not act on {what} yet"


def _asks(value: Any, harmless: Any) -> bool:
    return value is not None and value != harmless and not (isinstance(value, tuple) and _same_set(value, harmless))


def _same_set(value: tuple[Any, ...], harmless: Any) -> bool:
    return isinstance(harmless, tuple) and len(value) == len(harmless) and all(item in harmless for item in value)


def _values(node: Any, path: str) -> Iterator[Any]:
    """The values at a path such as ``spec.models[].verbosity``."""
    step, _, rest = path.partition(".")
    name, is_list = step.removesuffix("[]"), step.endswith("[]")
    value = _field(node, name)
    for item in value if is_list else (value,):
        if not rest:
            yield item
        elif item is not None:
            yield from _values(item, rest)


def _field(model: BaseModel, alias: str) -> Any:
    return getattr(model, attribute(type(model), alias))


def attribute(model: type[BaseModel], alias: str) -> str:
    """Python's name of a field."""
    return next(name for name, field in model.model_fields.items() if (field.alias or name) == alias)
