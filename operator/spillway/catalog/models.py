"""What is known of a model: sizes, checkpoints, parallelism, engine arguments, published throughput."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from spillway.api import EngineName, Precision
from spillway.api.model import Model
from spillway.catalog.entry import Entry, VersionText
from spillway.catalog.parallelism import Parallelism
from spillway.catalog.rules import Rule

PRECISIONS: tuple[Precision, ...] = ("NVFP4", "FP8", "BF16")
KvDtype = Literal["BF16", "FP8"]
Mark = Literal["V", "D", "U"]
"""V: read in a source, D: derived by arithmetic, U: rounded or unconfirmed."""

UNSPLIT = 1 << 20
"""KV heads of a cache that is spread over whatever number of GPUs without copies."""
_KV_FLAG = "--kv-cache-dtype"


def _parallelism(value: Any) -> Any:
    return Parallelism.parse(value) if isinstance(value, str) else value


Spread = Annotated[Parallelism, BeforeValidator(_parallelism), PlainSerializer(str, return_type=str)]
"""A parallelism, written as TP8+EP."""
Positive = Annotated[int, Field(gt=0)]


class Parameters(Entry):
    """Parameters in billions (10^9): all of them, and those that one token passes through."""

    total: Annotated[float, Field(gt=0)]
    active: Annotated[float, Field(gt=0)]


class Experts(Entry):
    """Experts of a layer (routed, chosen per token, shared by all tokens), and in how many layers there are any."""

    routed: Positive
    active: Positive
    shared: Annotated[int, Field(ge=0)] = 0
    layers: Positive | None = None


class CheckpointFacts(Entry):
    """A checkpoint: where it lies, and its size in 10^9 bytes.

    ``dense_gigabytes`` is the part outside the routed experts (attention, embeddings, dense layers, shared experts),
    of which each data-parallel rank holds a copy.
    """

    uri: Annotated[str, Field(pattern=r"^(hf|s3|gs|pvc|oci)://\S+$")]
    gigabytes: Annotated[float, Field(gt=0)]
    dense_gigabytes: Annotated[float, Field(ge=0)]
    files: Positive | None = None
    mark: Mark = "U"
    source: str = ""

    @model_validator(mode="after")
    def _part_of_the_whole(self) -> CheckpointFacts:
        if self.dense_gigabytes > self.gigabytes:
            raise ValueError(
                f"dense_gigabytes is {self.dense_gigabytes:g} and gigabytes is {self.gigabytes:g}: "
                "it is a part of them, lower it"
            )
        return self


class Throughput(Entry):
    """A published measurement: tokens in plus out, per second and GPU, of requests of ``input`` + ``output`` tokens."""

    precision: Precision
    gpu: str
    tokens_per_second_per_gpu: Annotated[float, Field(gt=0)]
    per_user: Annotated[float, Field(gt=0)]
    input: Positive
    output: Positive


class ModelEngineFacts(Entry):
    """What one engine needs for one model. ``minimum_version`` absent: unknown, every version is tried."""

    minimum_version: VersionText | None = None
    minimum_versions: dict[Precision, VersionText] = Field(default_factory=dict)
    """Where a checkpoint needs a newer engine than the model itself."""
    mtp_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens that multi-token prediction drafts at a time under these rules; 0: it is off."""
    rules: tuple[Rule, ...] = ()

    def minimum(self, precision: Precision) -> str | None:
        """Least engine version for a precision; None where it is not known."""
        return self.minimum_versions.get(precision, self.minimum_version)


class ModelFacts(Entry):
    """A model. Parallelism: what is recommended for one replica, by precision and GPU."""

    name: str
    title: str = ""
    note: str = ""
    parameters_billion: Parameters
    experts: Experts | None = None
    max_expert_parallel: Positive | None = None
    """Most GPUs that its experts can be spread over. Default: the number of routed experts."""
    attention_heads: Positive | None = None
    kv_heads: Positive = 1
    """Parts that the KV cache of a token can be split into. 1 for latent attention (MLA): each GPU of a tensor-parallel
    group then holds a full copy."""
    context_length: Positive
    kv_bytes_per_token: dict[KvDtype, Positive]
    """Of all layers, without copies, by the cache's type."""
    checkpoints: dict[Precision, CheckpointFacts]
    parallelism: dict[Precision, dict[str, Spread]] = Field(default_factory=dict)
    engines: dict[EngineName, ModelEngineFacts]
    throughput: tuple[Throughput, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> ModelFacts:
        if self.parameters_billion.active > self.parameters_billion.total:
            raise ValueError("parameters_billion.active is more than total: correct one of them")
        if "BF16" not in self.kv_bytes_per_token:
            raise ValueError("kv_bytes_per_token has no BF16, the engines' default cache type: add it")
        if not self.checkpoints:
            raise ValueError("checkpoints is empty: add at least one precision")
        if not self.engines:
            raise ValueError("engines is empty: add vLLM or SGLang, {} where nothing is special")
        return self

    @property
    def total_parameters(self) -> float:
        """All parameters."""
        return self.parameters_billion.total * 1e9

    @property
    def active_parameters(self) -> float:
        """Parameters that one token passes through: the compute per token follows them (2 FLOP each)."""
        return self.parameters_billion.active * 1e9

    @property
    def routed_experts(self) -> int | None:
        """Routed experts of a layer; None where they are not known."""
        return self.experts.routed if self.experts else None

    @property
    def expert_parallel_limit(self) -> int | None:
        """Most GPUs that its experts can be spread over; None where it is not known."""
        return self.max_expert_parallel or self.routed_experts

    def kv_bytes(self, args: tuple[str, ...]) -> tuple[KvDtype, int]:
        """Cache type that engine arguments ask for, and its bytes per token, without copies.

        A type of 8 bits or fewer counts as FP8: a smaller one is not known for any model, so that this errs towards
        too much. Where the catalog has no FP8 figure, half of BF16.
        """
        asked = "auto"
        for position, arg in enumerate(args):
            if arg == _KV_FLAG and position + 1 < len(args):
                asked = args[position + 1]
            elif arg.startswith(f"{_KV_FLAG}="):
                asked = arg.partition("=")[2]
        if asked in ("auto", "bfloat16", "bf16", "float16"):
            return "BF16", self.kv_bytes_per_token["BF16"]
        return "FP8", self.kv_bytes_per_token.get("FP8") or math.ceil(self.kv_bytes_per_token["BF16"] / 2)


def profiled(model: Model) -> ModelFacts:
    """The facts that spec.model.profile of a MoEDeployment gives, for a model outside the catalog.

    Its KV bytes are those of the whole replica, so that no copies are added. Weights outside the experts, where they
    are not given: the checkpoint × active ÷ total parameters, which is no less. Raises ValueError without a profile.
    """
    profile = model.profile
    if profile is None:
        raise ValueError(f"spec.model {model.name!r} has no profile")
    active_share = profile.active_parameters / profile.total_parameters
    least = {"vLLM": profile.minimum_versions.vllm, "SGLang": profile.minimum_versions.sglang}
    return ModelFacts.model_validate(
        {
            "name": model.name,
            "parameters_billion": {
                "total": profile.total_parameters / 1e9,
                "active": profile.active_parameters / 1e9,
            },
            "max_expert_parallel": profile.max_expert_parallel,
            "kv_heads": UNSPLIT,
            "context_length": profile.context_length,
            "kv_bytes_per_token": {"BF16": profile.kv_bytes_per_token},
            "checkpoints": {
                precision: {
                    "uri": model.sources.uri(precision),
                    "gigabytes": given.size_gb,
                    "dense_gigabytes": given.size_gb * active_share if given.dense_gb is None else given.dense_gb,
                    "source": "spec.model.profile",
                }
                for precision, given in profile.checkpoints.by_precision().items()
            },
            "engines": {engine: {"minimum_version": version} for engine, version in least.items()},
        }
    )
