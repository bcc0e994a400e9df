"""What every entry of the catalog's files is: typed, frozen, without unknown fields; with errors that tell the way out.

The same reading serves the files that ship with Spillway and a user's overlay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

VersionText = Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+[-+.a-z0-9]*$")]
"""Version of an engine, such as 0.33.0."""


class Entry(BaseModel):
    """An entry, or a part of one."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CatalogError(ValueError):
    """Entries that cannot be read: each problem names file, entry, field, value and what to do."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


EntryT = TypeVar("EntryT", bound=Entry)


def read(kind: type[EntryT], file: str, entries: Any, problems: list[str], **extra: Any) -> dict[str, EntryT]:
    """The entries of one file by name; those that cannot be read are left out and told in `problems`."""
    found: dict[str, EntryT] = {}
    if not isinstance(entries, Mapping):
        problems.append(f"{file} is {_shown(entries)}: write a map of entries by name")
        return found
    for name, entry in entries.items():
        if not isinstance(entry, Mapping):
            problems.append(f"{file}: {name} is {_shown(entry)}: write a map of its fields")
            continue
        try:
            found[str(name)] = kind.model_validate({**entry, "name": str(name)})
        except ValidationError as error:
            problems += [_problem(file, str(name), kind, detail) for detail in error.errors(include_url=False)]
    return found


def _problem(file: str, name: str, kind: type[Entry], detail: Any) -> str:
    steps = [str(step) for step in detail["loc"] if step != "[key]"]
    field = ".".join([name, *steps])
    if detail["type"] == "missing":
        return f"{file}: {field} is missing: set it"
    if detail["type"] == "extra_forbidden":
        known = ", ".join(sorted(set(kind.model_fields) - {"name"})) if len(steps) == 1 else ""
        return f"{file}: {field} is not a field: " + (f"use one of {known}" if known else "remove it")
    words = detail["msg"].removeprefix("Value error, ")
    return f"{file}: {field} is {_shown(detail['input'])}: {words[0].lower()}{words[1:]}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
