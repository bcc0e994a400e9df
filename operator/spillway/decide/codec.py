"""Snapshot, plan and memory as JSON and back, so that a recorded snapshot replays to the same plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from spillway.decide.memory import MEMORY_VERSION, Memory

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Header:
    version: int


class UnreadableMemory(ValueError):
    """The stored memory is corrupt or of another version: start afresh, and say so."""


_ADAPTERS: dict[object, TypeAdapter[Any]] = {}


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def encode(value: object) -> str:
    """JSON text of a snapshot, plan or memory."""
    return _adapter(type(value)).dump_json(value).decode()


def decode(kind: type[T], text: str | bytes) -> T:
    """The value that `encode` wrote. Raises pydantic.ValidationError where the text is something else."""
    value: T = _adapter(kind).validate_json(text)
    return value


def decode_memory(text: str | bytes) -> Memory:
    """The memory that `encode` wrote; UnreadableMemory where it cannot be used."""
    try:
        version = _adapter(_Header).validate_json(text).version  # first: other versions have other fields
        if version != MEMORY_VERSION:
            raise UnreadableMemory(f"memory of version {version}, this operator reads {MEMORY_VERSION}")
        memory = decode(Memory, text)
    except ValidationError as error:
        raise UnreadableMemory(
            f"not a memory: {error.error_count()} faults, first: {error.errors()[0]['msg']}"
        ) from error
    if not _finite(asdict(memory)):
        raise UnreadableMemory("not a memory: it has numbers that are not finite")
    return memory


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    return not isinstance(value, list | tuple) or all(map(_finite, value))
