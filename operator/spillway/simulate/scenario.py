"""Reads scenarios: the objects that one would apply, and one Simulation beside them. Nothing is looked up yet."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from spillway.api import API_VERSION, GROUP, KINDS, InvalidSpec, Resource, parse
from spillway.observe.objects import Object, Objects
from spillway.simulate import scenario_spec
from spillway.simulate.scenario_spec import Simulation, SimulationSpec

SUFFIXES = (".yaml", ".yml")
MAXIMUM_BYTES = 10_000_000
_KINDS = {kind.definition.kind: kind for kind in KINDS}
# What PyYAML raises beside its own errors for tags and numbers that it cannot construct.
_UNREADABLE = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class BadScenario(ValueError):
    """A scenario that cannot be played. The message names the place, the value and the fix."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What the files say. `objects` has the four kinds and the labels of namespaces, each valid by itself."""

    name: str
    objects: Objects
    simulation: SimulationSpec
    directory: Path  # that paths in the Simulation are relative to
    ignored: tuple[str, ...] = ()  # objects that make no difference to a simulation


def read(paths: Sequence[Path]) -> Scenario:
    """Of files and directories of YAML. Raises BadScenario."""
    return assemble(
        (document, str(path), path.parent) for path in _files(paths) for document in _documents(_text(path), str(path))
    )


def parse_text(text: str, directory: Path = Path()) -> Scenario:
    """Of one text. Raises BadScenario."""
    return assemble((document, "scenario", directory) for document in _documents(text, "scenario"))


def assemble(documents: Iterable[tuple[object, str, Path]]) -> Scenario:
    """Of YAML documents, each with the name of its file and the directory of that. Raises BadScenario."""
    objects, ignored = Objects(extensions={"leaderworkersets", "computedomains"}), []
    found: tuple[Simulation, Path] | None = None
    for obj, where, directory in _unlisted(documents):
        kind, version = obj.get("kind"), obj.get("apiVersion")
        if version == scenario_spec.API_VERSION or kind == scenario_spec.KIND:
            if found is not None:
                raise BadScenario(f"{where}: a second Simulation: keep one")
            found = _simulation(obj, where), directory
        elif kind == "Namespace" and version == "v1":
            objects.namespaces[_name(obj, where)] = _namespace(obj, where)
        elif isinstance(version, str) and version.partition("/")[0] == GROUP:
            if version != API_VERSION or not isinstance(kind, str) or kind not in _KINDS:
                raise BadScenario(
                    f"{where}: {_short(version)} {_short(kind)} is not known: there are {', '.join(_KINDS)} of "
                    f"{API_VERSION} and {scenario_spec.KIND} of {scenario_spec.API_VERSION}"
                )
            _keep(_KINDS[kind], obj, where, objects)
        else:
            ignored.append(f"{_short(kind)} {_name(obj, where)}")
    if found is None:
        raise BadScenario(
            f"there is no Simulation: add a document with apiVersion: {scenario_spec.API_VERSION}, "
            f"kind: {scenario_spec.KIND} that says what arrives (docs/simulate.md has one)"
        )
    simulation, directory = found
    _check_names(simulation.spec, objects)
    return Scenario(simulation.metadata.name, objects, simulation.spec, directory, tuple(ignored))


class _Loader(yaml.SafeLoader):
    """Of two equal keys plain YAML keeps the last in silence; kubectl refuses them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        written = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := next((key for key in written if written.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"key {twice!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


# ---- files and documents ---------------------------------------------------------------------------------------------


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file())
            if not inside:
                raise BadScenario(f"{path}: no {' or '.join(SUFFIXES)} file in it")
            yield from inside
        else:
            yield path


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAXIMUM_BYTES:
            raise BadScenario(f"{path}: is larger than {MAXIMUM_BYTES:,} bytes; a trace is named, not written here")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadScenario(f"{path}: cannot be read: {error}") from error


def _documents(text: str, where: str) -> list[object]:
    try:
        return list(yaml.load_all(io.StringIO(text), _Loader))
    except _UNREADABLE as error:
        raise BadScenario(
            f"{where}: is no YAML: {' '.join(str(error).split())[:300] or type(error).__name__}"
        ) from None


def _unlisted(documents: Iterable[tuple[object, str, Path]]) -> Iterator[tuple[Object, str, Path]]:
    """Each object, those in a List one by one. Empty documents say nothing."""
    for document, where, directory in documents:
        if document is None:
            continue
        if not isinstance(document, dict):
            raise BadScenario(f"{where}: {_short(document)} is no object: write apiVersion, kind, metadata and spec")
        if document.get("kind") == "List" and isinstance(document.get("items"), list):
            for item in document["items"]:
                if not isinstance(item, dict):
                    raise BadScenario(f"{where}: {_short(item)} in a List is no object")
                yield item, where, directory
        else:
            yield document, where, directory


# ---- objects ---------------------------------------------------------------------------------------------------------


def _name(obj: Object, where: str) -> str:
    metadata = obj.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not name:
        raise BadScenario(f"{where}: {_short(obj.get('kind'))}: metadata.name is {_short(name)}: give it a name")
    return name


def _namespace(obj: Object, where: str) -> Object:
    labels = obj["metadata"].get("labels") or {}
    if not isinstance(labels, dict):
        raise BadScenario(
            f"{where}: Namespace {_name(obj, where)}: metadata.labels is {_short(labels)}: give a mapping"
        )
    return {"metadata": {"name": _name(obj, where), "labels": labels}}


def _keep(kind: type[Resource], obj: Object, where: str, objects: Objects) -> None:
    """Check the object and put it where the informers would."""
    definition, name = kind.definition, _name(obj, where)
    place = f"{where}: {definition.kind} {name}"
    metadata = {k: v for k, v in obj["metadata"].items() if k in ("name", "namespace", "labels", "annotations")}
    if not definition.namespaced:
        metadata.pop("namespace", None)
    elif not metadata.get("namespace"):
        metadata["namespace"] = "default"  # as kubectl has it
    stored = {"metadata": metadata, "spec": obj.get("spec", {})}
    try:
        parsed = parse(kind, stored)
    except ValidationError as error:
        raise BadScenario(f"{place}: {_problem(error, Simulation, 'metadata')}") from None
    if isinstance(parsed, InvalidSpec):
        raise BadScenario(f"{place}: {parsed.message}")
    written = parsed.model_dump(mode="json", by_alias=True)
    if unknown := next(_unknown(stored["spec"], written["spec"], "spec"), None):
        raise BadScenario(f"{place}: {unknown} is not known: kubectl explain has the fields, as docs/api.md does")
    store = objects.store(definition.plural)
    if parsed.key in store:
        raise BadScenario(f"{place}: {definition.kind} {parsed.key} is there twice: keep one")
    store[parsed.key] = stored


def _unknown(given: object, written: object, path: str) -> Iterator[str]:
    """Paths in `given` that a model which was read from it does not write: it does not know them."""
    if isinstance(given, dict) and isinstance(written, dict):
        for key, value in given.items():
            if key not in written:
                yield f"{path}.{key}"
            else:
                yield from _unknown(value, written[key], f"{path}.{key}")
    elif isinstance(given, list) and isinstance(written, list):
        for at, (value, back) in enumerate(zip(given, written, strict=False)):
            yield from _unknown(value, back, f"{path}[{at}]")


def _simulation(obj: Object, where: str) -> Simulation:
    try:
        return Simulation.model_validate(obj)
    except ValidationError as error:
        raise BadScenario(f"{where}: Simulation: {_problem(error, Simulation, '')}") from None


def _check_names(simulation: SimulationSpec, objects: Objects) -> None:
    """The Simulation speaks of what there is, and has demand for each deployment."""
    for field, named, store in (
        ("deployments", simulation.deployments, objects.moedeployments),
        ("pools", simulation.pools, objects.gpupools),
        ("providers", simulation.providers, objects.externalproviders),
    ):
        for name in named:
            if name not in store:
                known = ", ".join(sorted(store)) or "none"
                raise BadScenario(f"Simulation: spec.{field} names {_short(name)}: the files have {known}")
    for key in objects.moedeployments:
        if key not in simulation.deployments:
            raise BadScenario(f"MoEDeployment {key} has no demand: name it in spec.deployments of the Simulation")


# ---- words -----------------------------------------------------------------------------------------------------------


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _problem(error: ValidationError, model: type[BaseModel], root: str) -> str:
    """The first problem of a validation: field, value, fix."""
    problem = error.errors(include_url=False)[0]
    path = root
    for step in problem["loc"]:
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    path = path.removeprefix(".")
    if problem["type"] == "missing":
        return f"{path} is missing: set it"
    if problem["type"] == "extra_forbidden":
        return f"{path} is not known: use one of {', '.join(_fields(model, problem['loc'][:-1]))}"
    words = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return f"{path} is {_short(problem['input'])}: {words}"


def _fields(model: type[BaseModel], steps: Sequence[int | str]) -> list[str]:
    """How the fields of the model that lies there are written."""
    if not steps:
        return [field.alias or name for name, field in model.model_fields.items()]
    step, *rest = steps
    for name, field in model.model_fields.items():
        if step in (name, field.alias):
            inner = _model(field.annotation)
            # What is between is a place in a list, or a key.
            return _fields(inner, rest if isinstance(field.annotation, type) else rest[1:]) if inner else []
    return []


def _model(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation speaks of, in a container or not."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model(part))), None)
