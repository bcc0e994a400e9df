"""The catalog: the files that ship with Spillway, and what a user lays over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, cast, get_args

import yaml

from spillway.api import EngineName, InvalidSpec, MoEDeployment
from spillway.catalog.engines import EngineFacts
from spillway.catalog.entry import CatalogError, read
from spillway.catalog.gpus import GpuFacts
from spillway.catalog.models import ModelFacts, profiled
from spillway.catalog.providers import ProviderFacts

FILES = ("models.yaml", "gpus.yaml", "providers.yaml", "engines.yaml")


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything that Spillway knows beforehand."""

    models: Mapping[str, ModelFacts]
    gpus: Mapping[str, GpuFacts]
    engines: Mapping[EngineName, EngineFacts]
    providers: Mapping[str, ProviderFacts]

    def model(self, moe: MoEDeployment) -> ModelFacts | InvalidSpec:
        """The model of a MoEDeployment, or what to tell its owner."""
        model = moe.spec.model
        known = self.models.get(model.name)
        if known is not None and model.profile is None:
            return known
        if known is None and model.profile is not None:
            return profiled(model)
        if known is not None:
            message = (
                f"spec.model.profile is set and spec.model.name is {model.name!r}, which the catalog knows: remove "
                "profile, or give the model a name of its own and that one as servedName"
            )
        else:
            message = (
                f"spec.model.name is {model.name!r}, which is not in the catalog: use one of "
                f"{', '.join(sorted(self.models))}, or describe it in spec.model.profile"
            )
        return InvalidSpec(moe.definition.kind, moe.metadata, (message,))

    def gpu(self, product: str) -> GpuFacts | None:
        """A GPU by its catalog name (B200) or its nvidia.com/gpu.product label (NVIDIA-B200)."""
        product = product.removesuffix("-SHARED")
        return self.gpus.get(product) or next((gpu for gpu in self.gpus.values() if product in gpu.products), None)


@cache
def load() -> Catalog:
    """The catalog that ships with Spillway."""
    return _catalog(_shipped())


def overlaid(data: Mapping[str, str]) -> Catalog:
    """The shipped catalog with a user's files laid over it, by file name (`FILES`).

    Maps are merged, at every depth; anything else replaces what was there; null removes it. Raises CatalogError with
    every problem that there is: a catalog with a mistake is not used at all.
    """
    problems: list[str] = []
    merged = dict(_shipped())
    for name in sorted(data):
        if name not in FILES:
            problems.append(f"{name} is not a file of the catalog: name the key one of {', '.join(FILES)}")
            continue
        try:
            given = yaml.safe_load(data[name])
        except yaml.YAMLError as error:
            problems.append(f"{name} is not YAML: {' '.join(str(error).split())}")
            continue
        if given is not None and not isinstance(given, Mapping):
            problems.append(f"{name} is {given!r:.80}: write a map of entries by name")
            continue
        merged[name] = _merged(merged[name], given or {})
    if problems:
        raise CatalogError(tuple(problems))
    return _catalog(merged)


@cache
def _shipped() -> Mapping[str, Any]:
    package = files(__package__)
    return {name: yaml.safe_load(package.joinpath(name).read_text(encoding="utf-8")) for name in FILES}


def _merged(base: Any, over: Any) -> Any:
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return over
    merged = {**base, **{key: _merged(base.get(key), value) for key, value in over.items()}}
    return {key: value for key, value in merged.items() if value is not None}


def _catalog(data: Mapping[str, Any]) -> Catalog:
    problems: list[str] = []
    catalog = Catalog(
        models=read(ModelFacts, "models.yaml", data["models.yaml"], problems),
        gpus=read(GpuFacts, "gpus.yaml", data["gpus.yaml"], problems),
        engines=cast(
            Mapping[EngineName, EngineFacts], read(EngineFacts, "engines.yaml", data["engines.yaml"], problems)
        ),
        providers=read(ProviderFacts, "providers.yaml", data["providers.yaml"], problems),
    )
    if not problems:  # else an entry with a mistake would seem to be missing, too
        problems += _dangling(catalog)
    if problems:
        raise CatalogError(tuple(problems))
    return catalog


def _dangling(catalog: Catalog) -> list[str]:
    """Names in one file that another does not have."""
    problems: list[str] = []
    gpus, models = ", ".join(catalog.gpus), ", ".join(catalog.models)
    for name in catalog.engines:
        if name not in get_args(EngineName):
            problems.append(f"engines.yaml: {name} is not an engine: use one of {', '.join(get_args(EngineName))}")
    for engine in get_args(EngineName):
        if engine not in catalog.engines:
            problems.append(f"engines.yaml: {engine} is missing: both engines must have an entry")
    for model in catalog.models.values():
        where = f"models.yaml: {model.name}"
        for precision, by_gpu in model.parallelism.items():
            if precision not in model.checkpoints:
                problems.append(
                    f"{where}.parallelism.{precision} has no checkpoint: add checkpoints.{precision} or remove it"
                )
            problems += [
                f"{where}.parallelism.{precision}.{gpu} is a GPU that gpus.yaml does not have: use one of {gpus}"
                for gpu in by_gpu
                if gpu not in catalog.gpus
            ]
        problems += [
            f"{where}.throughput[{number}].gpu is {measured.gpu!r}, which gpus.yaml does not have: use one of {gpus}"
            for number, measured in enumerate(model.throughput)
            if measured.gpu not in catalog.gpus
        ]
        problems += [
            f"{where}.engines.{engine}.rules[{number}].gpus has {gpu!r}, which gpus.yaml does not have: "
            f"use one of {gpus}"
            for engine, facts in model.engines.items()
            for number, rule in enumerate(facts.rules)
            for gpu in rule.gpus
            if gpu not in catalog.gpus
        ]
    for provider in catalog.providers.values():
        problems += [
            f"providers.yaml: {provider.name}.models.{name}.catalog_model is {offered.catalog_model!r}, which "
            f"models.yaml does not have: use one of {models}"
            for name, offered in provider.models.items()
            if offered.catalog_model is not None and offered.catalog_model not in catalog.models
        ]
    return problems
