"""Which model: its name, its checkpoints and where they are kept, and a profile of what the catalog does not know."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from spillway.api.markers import Keywords, cel, model_rules
from spillway.api.resource import KubeModel
from spillway.api.rules import SecretName
from spillway.api.scalars import Parameters

Precision = Literal["NVFP4", "FP8", "BF16"]
EngineVersion = Annotated[str, Field(max_length=64, pattern=r"^[0-9]+\.[0-9]+\.[0-9]+[-+.a-z0-9]*$")]

_SEGMENT = r"[A-Za-z0-9][-._A-Za-z0-9]*"
_URI_PATTERNS = (
    rf"hf://{_SEGMENT}/{_SEGMENT}(@[-._/A-Za-z0-9]+)?",
    r"(s3|gs)://[a-z0-9][-._a-z0-9]{1,61}[a-z0-9](/[^\s?#]*)?",
    r"pvc://[a-z0-9]([-.a-z0-9]*[a-z0-9])?(/[^\s?#]*)?",
    r"oci://[a-z0-9][-.a-z0-9]*(:[0-9]{1,5})?(/[a-z0-9][-._a-z0-9]*)+(:[A-Za-z0-9_][-._A-Za-z0-9]{0,127})?"
    r"(@sha256:[0-9a-f]{64})?",
)
_NO_WAY_UP = cel("!self.contains('/..')", "uri must not contain /..")


class Checkpoint(KubeModel):
    """Where a checkpoint lies."""

    uri: Annotated[
        str, Field(max_length=512, pattern=f"^({'|'.join(_URI_PATTERNS)})$"), Keywords(**model_rules(_NO_WAY_UP))
    ]
    """hf://ORGANISATION/NAME, with @REVISION for a branch, tag or commit; s3://BUCKET/PREFIX; gs://BUCKET/PREFIX;
    pvc://CLAIM/PATH for a PersistentVolumeClaim in the deployment's namespace; oci://REGISTRY/REPOSITORY:TAG."""

    @model_validator(mode="after")
    def _stays_below(self) -> Checkpoint:
        if "/.." in self.uri:
            raise ValueError(f"uri is {self.uri!r}: write the path without ..")
        return self


class Sources(KubeModel):
    """Checkpoints to use in place of the catalog's, by precision."""

    nvfp4: Annotated[Checkpoint | None, Field(alias="NVFP4")] = None
    """Checkpoint in NVFP4. Default: from the catalog."""
    fp8: Annotated[Checkpoint | None, Field(alias="FP8")] = None
    """Checkpoint in FP8. Default: from the catalog."""
    bf16: Annotated[Checkpoint | None, Field(alias="BF16")] = None
    """Checkpoint in BF16. Default: from the catalog."""

    def uri(self, precision: Precision) -> str | None:
        """The URI given for a precision, or None where the catalog's holds."""
        checkpoint = {"NVFP4": self.nvfp4, "FP8": self.fp8, "BF16": self.bf16}[precision]
        return checkpoint.uri if checkpoint else None


class SecretKey(KubeModel):
    """A key of a Secret in the deployment's namespace."""

    name: SecretName
    """Name of the Secret."""
    key: Annotated[str, Field(min_length=1, max_length=253)] = "token"
    """Key in the Secret. Default: token."""


class Cache(KubeModel):
    """Where checkpoints are kept between the starts of replicas."""

    model_config = ConfigDict(
        json_schema_extra=model_rules(
            cel(
                "!(has(self.persistentVolumeClaim) && self.node)",
                "give persistentVolumeClaim or node, not both",
            ),
            cel("!self.prefetch || self.node", "prefetch needs node: true", field=".prefetch"),
        )
    )

    persistent_volume_claim: (
        Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")] | None
    ) = None
    """A PersistentVolumeClaim in the deployment's namespace that all replicas can mount. Default: none."""
    node: bool = False
    """True: the cache of the pool's nodes (GPUPool.nodeCache). Default: false; with no cache at all, every replica
    fetches its checkpoint anew."""
    prefetch: bool = False
    """True: image and checkpoint come to the pools' nodes before a replica needs them. Default: false."""

    @model_validator(mode="after")
    def _one_place(self) -> Cache:
        if self.persistent_volume_claim and self.node:
            raise ValueError("persistentVolumeClaim and node are both given: keep one")
        if self.prefetch and not self.node:
            raise ValueError("prefetch is true and node is false: set node to true or prefetch to false")
        return self


class ProfiledCheckpoint(KubeModel):
    """Size of a checkpoint."""

    model_config = ConfigDict(
        json_schema_extra=model_rules(
            cel("!has(self.denseGB) || self.denseGB <= self.sizeGB", "denseGB must not be more than sizeGB")
        )
    )

    size_gb: Annotated[int, Field(ge=1, le=100_000), Keywords(format="int32")]
    """Size of the checkpoint's files, in GB (10^9 bytes), rounded up."""
    dense_gb: Annotated[int, Field(ge=0, le=100_000), Keywords(format="int32")] | None = None
    """Part of it outside the routed experts (attention, embeddings, dense layers, shared experts), which every
    data-parallel rank holds whole, in GB. Default: sizeGB × activeParameters / totalParameters, which is no less."""

    @model_validator(mode="after")
    def _part_of_the_whole(self) -> ProfiledCheckpoint:
        if self.dense_gb is not None and self.dense_gb > self.size_gb:
            raise ValueError(f"denseGB is {self.dense_gb} and sizeGB is {self.size_gb}: lower denseGB")
        return self


class ProfiledCheckpoints(KubeModel):
    """Sizes of the checkpoints, by precision."""

    model_config = ConfigDict(
        json_schema_extra=model_rules(
            cel("has(self.NVFP4) || has(self.FP8) || has(self.BF16)", "give the size of at least one checkpoint")
        )
    )

    nvfp4: Annotated[ProfiledCheckpoint | None, Field(alias="NVFP4")] = None
    """Checkpoint in NVFP4. Default: there is none."""
    fp8: Annotated[ProfiledCheckpoint | None, Field(alias="FP8")] = None
    """Checkpoint in FP8. Default: there is none."""
    bf16: Annotated[ProfiledCheckpoint | None, Field(alias="BF16")] = None
    """Checkpoint in BF16. Default: there is none."""

    @model_validator(mode="after")
    def _at_least_one(self) -> ProfiledCheckpoints:
        if not self.by_precision():
            raise ValueError("names no precision: give the size of at least one checkpoint")
        return self

    def by_precision(self) -> dict[Precision, ProfiledCheckpoint]:
        """The checkpoints that there are."""
        every: dict[Precision, ProfiledCheckpoint | None] = {"NVFP4": self.nvfp4, "FP8": self.fp8, "BF16": self.bf16}
        return {precision: checkpoint for precision, checkpoint in every.items() if checkpoint}


class MinimumVersions(KubeModel):
    """Least versions of the engines that can run the model."""

    vllm: Annotated[EngineVersion | None, Field(alias="vLLM")] = None
    """Least version of vLLM. Default: every version runs it."""
    sglang: Annotated[EngineVersion | None, Field(alias="SGLang")] = None
    """Least version of SGLang. Default: every version runs it."""


_PRECISIONS_WITHOUT_SOURCE = " && ".join(
    f"(!has(self.profile.checkpoints.{precision}) || has(self.sources.{precision}))"
    for precision in ("NVFP4", "FP8", "BF16")
)


class Profile(KubeModel):
    """A model that the catalog does not know."""

    model_config = ConfigDict(
        json_schema_extra=model_rules(
            cel(
                "double(self.activeParameters.replace('B', '')) <= double(self.totalParameters.replace('B', ''))",
                "activeParameters must not be more than totalParameters",
                field=".activeParameters",
            )
        )
    )

    total_parameters: Parameters
    """All parameters, in billions, for example 744B."""
    active_parameters: Parameters
    """Parameters that one token passes through, in billions, for example 40B."""
    checkpoints: ProfiledCheckpoints
    """Sizes of the checkpoints, by precision; model.sources says where each lies."""
    kv_bytes_per_token: Annotated[int, Field(ge=1, le=100_000_000), Keywords(format="int32")]
    """Key-value cache that one token takes in one replica, all layers, in bytes at 16 bits per value."""
    context_length: Annotated[int, Field(ge=1, le=100_000_000), Keywords(format="int32")]
    """Longest context that the model supports, in tokens."""
    max_expert_parallel: Annotated[int, Field(ge=1, le=1024), Keywords(format="int32")] = 256
    """Most GPUs that its experts can be spread over; at most the number of routed experts. Default: 256."""
    minimum_versions: MinimumVersions = MinimumVersions()
    """Least versions of the engines that can run the model. Default: every version runs it."""

    @model_validator(mode="after")
    def _active_are_part_of_all(self) -> Profile:
        if self.active_parameters > self.total_parameters:
            raise ValueError("activeParameters is more than totalParameters: correct one of them")
        return self


class Model(KubeModel):
    """Which model to serve."""

    model_config = ConfigDict(
        json_schema_extra=model_rules(
            cel(
                f"!has(self.profile) || ({_PRECISIONS_WITHOUT_SOURCE})",
                "each precision of profile.checkpoints needs its uri in sources",
                field=".sources",
            )
        )
    )

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Entry of Spillway's catalog, for example glm-5, or a name of your own together with a profile."""
    served_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """What clients send as "model". Default: model.name."""
    sources: Sources = Sources()
    """Checkpoints to use in place of the catalog's, by precision."""
    token_secret_ref: SecretKey | None = None
    """Hugging Face token for gated checkpoints, given to the engine as HF_TOKEN. Default: none."""
    cache: Cache = Cache()
    """Where checkpoints are kept between the starts of replicas. Default: nowhere."""
    profile: Profile | None = None
    """Sizes of a model that the catalog does not know; needed exactly then. Default: from the catalog."""

    @model_validator(mode="after")
    def _profiled_checkpoints_have_sources(self) -> Model:
        wanted = self.profile.checkpoints.by_precision() if self.profile else {}
        if missing := [precision for precision in wanted if self.sources.uri(precision) is None]:
            raise ValueError(f"profile.checkpoints has {', '.join(missing)}: say in sources where it lies")
        return self
