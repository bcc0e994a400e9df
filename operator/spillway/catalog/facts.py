"""The catalog's files as frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, cast

import yaml

from spillway.api import EngineName, InvalidSpec, MoEDeployment, Precision
from spillway.catalog.parallelism import Parallelism

PRECISIONS: tuple[Precision, ...] = ("NVFP4", "FP8", "BF16")


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """A checkpoint: where it lies, and its size in 10^9 bytes."""

    uri: str
    gigabytes: float


@dataclass(frozen=True, slots=True)
class Throughput:
    """A published measurement: tokens in plus out, per second and GPU, of requests of ``input`` + ``output`` tokens."""

    precision: Precision
    gpu: str
    tokens_per_second_per_gpu: float
    per_user: float
    input: int
    output: int


@dataclass(frozen=True, slots=True)
class ModelEngineFacts:
    """What one engine needs for one model: least version, flags, flags by precision."""

    minimum_version: str = "0.0.0"
    args: tuple[str, ...] = ()
    precision_args: Mapping[Precision, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model: sizes, checkpoints, recommended parallelism by precision and GPU, flags, published throughput."""

    name: str
    total_parameters: float
    active_parameters: float
    context_length: int
    kv_bytes_per_token: int
    checkpoints: Mapping[Precision, CheckpointFacts]
    parallelism: Mapping[Precision, Mapping[str, Parallelism]]
    engines: Mapping[EngineName, ModelEngineFacts]
    throughput: tuple[Throughput, ...]


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """A GPU: memory in 10^9 bytes, bandwidth in bytes/s, dense FLOP/s by precision."""

    name: str
    products: tuple[str, ...]
    memory_gb: float
    compute_capability: str
    bandwidth: float
    flops: Mapping[Precision, float]


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """An engine: default version, image with ``{version}``, flags by precision."""

    version: str
    image: str
    precision_args: Mapping[Precision, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything that Spillway knows beforehand."""

    models: Mapping[str, ModelFacts]
    gpus: Mapping[str, GpuFacts]
    engines: Mapping[EngineName, EngineFacts]

    def model(self, moe: MoEDeployment) -> ModelFacts | InvalidSpec:
        """The model of a MoEDeployment, or what to tell its owner."""
        if known := self.models.get(moe.spec.model.name):
            return known
        message = (
            f"spec.model.name is {moe.spec.model.name!r}, which is not in the catalog: "
            f"use one of {', '.join(sorted(self.models))}"
        )
        return InvalidSpec(moe.definition.kind, moe.metadata, (message,))

    def gpu(self, product: str) -> GpuFacts | None:
        """A GPU by its catalog name (B200) or its nvidia.com/gpu.product label (NVIDIA-B200)."""
        product = product.removesuffix("-SHARED")
        return self.gpus.get(product) or next((gpu for gpu in self.gpus.values() if product in gpu.products), None)


@cache
def load() -> Catalog:
    """The catalog that ships with Spillway."""
    return Catalog(
        models={name: _model(name, entry) for name, entry in _read("models.yaml").items()},
        gpus={name: _gpu(name, entry) for name, entry in _read("gpus.yaml").items()},
        engines={cast(EngineName, name): _engine(entry) for name, entry in _read("engines.yaml").items()},
    )


def _read(name: str) -> dict[str, Any]:
    return cast(dict[str, Any], yaml.safe_load(files(__package__).joinpath(name).read_text(encoding="utf-8")))


def _model(name: str, entry: Mapping[str, Any]) -> ModelFacts:
    return ModelFacts(
        name=name,
        total_parameters=entry["parameters_billion"]["total"] * 1e9,
        active_parameters=entry["parameters_billion"]["active"] * 1e9,
        context_length=entry["context_length"],
        kv_bytes_per_token=entry["kv_bytes_per_token"],
        checkpoints={precision: CheckpointFacts(**facts) for precision, facts in entry["checkpoints"].items()},
        parallelism={
            precision: {gpu: Parallelism.parse(text) for gpu, text in by_gpu.items()}
            for precision, by_gpu in entry["parallelism"].items()
        },
        engines={
            engine: ModelEngineFacts(
                minimum_version=facts.get("minimum_version", "0.0.0"),
                args=tuple(facts.get("args", ())),
                precision_args=_args_by_precision(facts),
            )
            for engine, facts in entry["engines"].items()
        },
        throughput=tuple(Throughput(**measured) for measured in entry.get("throughput", ())),
    )


def _gpu(name: str, entry: Mapping[str, Any]) -> GpuFacts:
    return GpuFacts(
        name=name,
        products=tuple(entry["products"]),
        memory_gb=entry["memory_gb"],
        compute_capability=entry["compute_capability"],
        bandwidth=entry["bandwidth_tb_per_second"] * 1e12,
        flops={precision: teraflops * 1e12 for precision, teraflops in entry["dense_teraflops"].items()},
    )


def _engine(entry: Mapping[str, Any]) -> EngineFacts:
    return EngineFacts(version=entry["version"], image=entry["image"], precision_args=_args_by_precision(entry))


def _args_by_precision(entry: Mapping[str, Any]) -> dict[Precision, tuple[str, ...]]:
    return {precision: tuple(args) for precision, args in entry.get("precision_args", {}).items()}
