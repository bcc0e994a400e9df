"""The frame that the four kinds share: metadata, aliases, what a CRD says beside its schema, and parsing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from spillway.api.markers import Rule
from spillway.api.scalars import Timestamp

GROUP = "spillway.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
MAX_NAME_LENGTH = 40
"""Names become parts of label values (63 characters) together with a pool, a precision and an engine."""
NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
"""A DNS label that may also name a Service (RFC 1035: it starts with a letter)."""

_ACRONYMS = {"gpu": "GPU", "gpus": "GPUs", "gb": "GB", "url": "URL"}


def camel_case(name: str) -> str:
    """``max_gpus`` -> ``maxGPUs``: Kubernetes' spelling of a field."""
    first, *rest = name.split("_")
    return first + "".join(_ACRONYMS.get(word, word.capitalize()) for word in rest)


class KubeModel(BaseModel):
    """Frozen, camelCase in YAML; unknown fields are ignored so that a newer CRD cannot crash an older operator."""

    model_config = ConfigDict(
        alias_generator=camel_case,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )


class Metadata(KubeModel):
    """The parts of ObjectMeta that Spillway reads."""

    name: str
    """Name of the object."""
    namespace: str = ""
    """Namespace; empty for a cluster-scoped kind."""
    uid: str = ""
    """Unique over time and space; empty before the API server stored the object."""
    generation: int = 0
    """Counts the changes of spec."""
    resource_version: str = ""
    """Version for optimistic locking."""
    creation_timestamp: Timestamp | None = None
    """When the API server stored the object."""
    deletion_timestamp: Timestamp | None = None
    """When deletion was asked for."""
    labels: dict[str, str] = {}
    """Labels."""
    annotations: dict[str, str] = {}
    """Annotations."""


@dataclass(frozen=True, slots=True)
class Column:
    """One ``additionalPrinterColumns`` entry; ``wide`` shows it only with ``-o wide``."""

    name: str
    path: str
    description: str
    type: Literal["string", "integer", "date"] = "string"
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Definition:
    """What a CRD says beside the schema of its spec and status."""

    kind: str
    plural: str
    short_names: tuple[str, ...]
    namespaced: bool
    columns: tuple[Column, ...]
    scalable: bool = False
    rules: tuple[Rule, ...] = ()

    @property
    def crd_name(self) -> str:
        """Name of the CustomResourceDefinition object."""
        return f"{self.plural}.{GROUP}"


class Resource(KubeModel):
    """An object of one of the four kinds; subclasses add ``spec`` and ``status``."""

    definition: ClassVar[Definition]
    status_model: ClassVar[type[KubeModel]]

    metadata: Metadata
    """Object metadata."""

    @property
    def key(self) -> str:
        """``namespace/name``, or ``name`` for a cluster-scoped kind."""
        return f"{self.metadata.namespace}/{self.metadata.name}" if self.metadata.namespace else self.metadata.name


@dataclass(frozen=True, slots=True)
class InvalidSpec:
    """A stored object that this operator cannot act on; each message names the field, its value and the way out."""

    kind: str
    metadata: Metadata
    messages: tuple[str, ...]

    @property
    def message(self) -> str:
        """All messages in one line, fit for a condition."""
        return "; ".join(self.messages)


ResourceT = TypeVar("ResourceT", bound=Resource)


def parse(kind: type[ResourceT], obj: Mapping[str, Any]) -> ResourceT | InvalidSpec:
    """Read an object of the API server.

    A spec that does not validate (stored under an older schema, or past the API server's rules) gives InvalidSpec,
    never an exception. A status that does not validate counts as empty: it is only an observation, and the next
    write replaces it.
    """
    metadata = Metadata.model_validate(obj["metadata"])
    try:
        parsed = kind.model_validate(
            {"metadata": metadata, "spec": obj.get("spec", {}), "status": stored_status(kind, obj)}
        )
    except ValidationError as error:
        messages = [_message(problem) for problem in error.errors(include_url=False)]
        return InvalidSpec(kind.definition.kind, metadata, tuple(_name_problems(metadata.name) + messages))
    if problems := _name_problems(metadata.name):
        return InvalidSpec(kind.definition.kind, metadata, tuple(problems))
    return parsed


def dump(model: KubeModel) -> dict[str, Any]:
    """The model as the API server takes it: camelCase, strings for money and durations, absent instead of null."""
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def stored_status(kind: type[Resource], obj: Mapping[str, Any]) -> KubeModel:
    """The status of a stored object; an empty one where another version wrote what this one cannot read."""
    try:
        return kind.status_model.model_validate(obj.get("status") or {})
    except ValidationError:
        return kind.status_model()


def _name_problems(name: str) -> list[str]:
    if len(name) <= MAX_NAME_LENGTH and re.fullmatch(NAME_PATTERN, name):
        return []
    return [
        f"metadata.name is {name!r}: use at most {MAX_NAME_LENGTH} lower-case letters, digits and '-', "
        "starting with a letter (create the object again under such a name)"
    ]


def _message(problem: Mapping[str, Any]) -> str:
    path = _path(problem["loc"])
    if problem["type"] == "missing":
        return f"{path} is missing: set it"
    text = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if isinstance(problem["input"], str | int | float | bool):
        return f"{path} is {problem['input']!r}: {text}"
    return f"{path}: {text}"


def _path(location: Sequence[str | int]) -> str:
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    return path.removeprefix(".")
