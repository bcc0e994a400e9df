"""MoEDeployment: a Mixture-of-Experts model that an app team wants served (namespaced, ``moe``)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from spillway.api.conditions import Conditions
from spillway.api.markers import Keywords, ListType, Rules, cel, model_rules
from spillway.api.resource import Column, Definition, KubeModel, Resource
from spillway.api.rules import NAME_RULE, RESERVED_FLAGS, ObjectName, reserved_flags
from spillway.api.scalars import Money, Seconds, SignedMoney, Timestamp

PAUSED_ANNOTATION = "spillway.dev/paused"
"""``"true"`` freezes replicas and spill settings as they are; a budget still stops spill."""
DRY_RUN_ANNOTATION = "spillway.dev/dry-run"
"""``"true"``: decide and report, change nothing."""
MAX_DECISIONS = 10
"""How many of the last decisions the status keeps."""

Precision = Literal["NVFP4", "FP8", "BF16"]
EngineName = Literal["vLLM", "SGLang"]
Count = Annotated[int, Field(ge=0), Keywords(format="int32")]


class Checkpoint(KubeModel):
    """Where a checkpoint lies."""

    uri: Annotated[
        str, Field(max_length=512, pattern=r"^(hf://[^/\s]+/[^/\s]+|pvc://[a-z0-9]([-.a-z0-9]*[a-z0-9])?(/\S*)?)$")
    ]
    """hf://ORGANISATION/NAME, or pvc://CLAIM/PATH for a PersistentVolumeClaim in the deployment's namespace."""


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

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the Secret."""
    key: Annotated[str, Field(min_length=1, max_length=253)] = "token"
    """Key in the Secret. Default: token."""


class Model(KubeModel):
    """Which model to serve."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Entry of Spillway's catalog, for example glm-5."""
    served_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """What clients send as "model". Default: the catalog name."""
    sources: Sources = Sources()
    """Checkpoints to use in place of the catalog's, by precision."""
    token_secret_ref: SecretKey | None = None
    """Hugging Face token for gated checkpoints, given to the engine as HF_TOKEN. Default: none."""


class EnvironmentVariable(KubeModel):
    """An environment variable of the engine."""

    name: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Name of the variable."""
    value: Annotated[str, Field(max_length=4096)] = ""
    """Value of the variable. Default: empty."""


class Overrides(KubeModel):
    """Engine limits that the catalog would otherwise choose."""

    max_model_len: Annotated[int, Field(ge=1, le=10_485_760), Keywords(format="int32")] | None = None
    """Longest context, in tokens. Default: what the model supports."""
    max_num_seqs: Annotated[int, Field(ge=1, le=65536), Keywords(format="int32")] | None = None
    """Requests that one replica runs at once. Default: from the catalog's decode rate."""


class Engine(KubeModel):
    """Which inference engine runs the model, and how."""

    name: EngineName = "vLLM"
    """vLLM or SGLang. Default: vLLM."""
    version: Annotated[str, Field(max_length=64, pattern=r"^[0-9]+\.[0-9]+\.[0-9]+[-+.a-z0-9]*$")] | None = None
    """Version of the engine, for example 0.33.0. Default: the catalog's."""
    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Container image; must hold the engine in that version. Default: the engine's own image of that version."""
    extra_args: Annotated[
        tuple[Annotated[str, Field(max_length=1024)], ...],
        Field(max_length=64),
        ListType("atomic"),
        Rules(
            cel(
                f"self.all(arg, !arg.matches('^({'|'.join(RESERVED_FLAGS)})(=.*)?$'))",
                f"Spillway sets {', '.join(RESERVED_FLAGS)} itself",
            )
        ),
    ] = ()
    """Arguments added to the engine's command line, last. Default: none."""
    env: Annotated[tuple[EnvironmentVariable, ...], Field(max_length=64), ListType("map", "name")] = ()
    """Environment variables of the engine. Default: none."""
    overrides: Overrides = Overrides()
    """Limits in place of the catalog's."""

    @model_validator(mode="after")
    def _extra_args_are_free(self) -> Engine:
        if taken := reserved_flags(self.extra_args):
            raise ValueError(f"extraArgs has {', '.join(taken)}, which Spillway sets itself: remove it")
        return self


class WantedVariant(KubeModel):
    """One way to run the model: a pool and a precision."""

    pool: ObjectName
    """Name of a GPUPool."""
    precision: Precision
    """NVFP4, FP8 or BF16."""


class Placement(KubeModel):
    """Where the model may run."""

    variants: Annotated[tuple[WantedVariant, ...], Field(max_length=16), ListType("map", "pool", "precision")] = ()
    """Pools and precisions to use. Default: every pool that the model fits on, cheapest per token first."""


class Slo(KubeModel):
    """What users are promised."""

    queue_seconds: Annotated[int, Field(ge=0, le=600), Keywords(format="int32")] = 10
    """How long a request may wait for a free replica before it spills, in seconds. Default: 10."""


class SpillTarget(KubeModel):
    """A model of an external provider that may answer in place of the replicas."""

    name: ObjectName
    """Name of an ExternalProvider."""
    model: Annotated[str, Field(min_length=1, max_length=128)]
    """Model of that provider, as listed there."""


class Spill(KubeModel):
    """Where requests go that the replicas cannot take."""

    providers: Annotated[tuple[SpillTarget, ...], Field(max_length=8), ListType("map", "name", "model")] = ()
    """Providers, tried in this order; each attempt needs budget from a CostPolicy. Default: none, so no spill."""


class MoEDeploymentSpec(KubeModel):
    """What to serve, with what, how large."""

    model_config = ConfigDict(
        json_schema_extra=model_rules(
            cel(
                "self.minReplicas <= self.maxReplicas",
                "minReplicas must not be more than maxReplicas",
                field=".minReplicas",
            )
        )
    )

    model: Model
    """Which model to serve."""
    engine: Engine = Engine()
    """Which inference engine runs the model, and how."""
    replicas: Annotated[int, Field(ge=0, le=1000), Keywords(format="int32")] = 0
    """0: Spillway decides. More: pins the number of replicas (kubectl scale); budgets still stop spill. Default: 0."""
    min_replicas: Annotated[int, Field(ge=0, le=1000), Keywords(format="int32")] = 1
    """Fewest replicas; 0 lets the model scale to zero. Default: 1."""
    max_replicas: Annotated[int, Field(ge=0, le=1000), Keywords(format="int32")] = 8
    """Most replicas; 0 stops serving on own GPUs. Default: 8."""
    placement: Placement = Placement()
    """Where the model may run."""
    slo: Slo = Slo()
    """What users are promised."""
    spill: Spill = Spill()
    """Where requests go that the replicas cannot take."""

    @model_validator(mode="after")
    def _floor_below_ceiling(self) -> MoEDeploymentSpec:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"minReplicas is {self.min_replicas} and maxReplicas is {self.max_replicas}: "
                "lower minReplicas or raise maxReplicas"
            )
        return self


class VariantStatus(KubeModel):
    """Replicas of one variant."""

    name: Annotated[str, Field(max_length=63)]
    """POOL-PRECISION-ENGINE."""
    desired: Count
    """Replicas that Spillway wants."""
    ready: Count
    """Replicas that answer."""
    starting: Count
    """Replicas that have their GPUs and load the model."""
    pending: Count
    """Replicas that wait for GPUs."""
    gpus_per_replica: Count
    """GPUs that one replica holds."""
    cost_per_hour: Money
    """What the replicas cost now, in US dollars per hour."""
    cold_start_seconds: Annotated[Seconds, Field(alias="coldStart")]
    """Time from asking for a replica to its first answer, as measured, or expected where nothing was measured yet."""


class SpillStatus(KubeModel):
    """What goes to external providers."""

    active: bool
    """Whether requests may spill now."""
    reason: Annotated[str, Field(max_length=128)]
    """Why, as a code."""
    share: Annotated[str, Field(max_length=8, pattern=r"^(0(\.[0-9]+)?|1(\.0+)?)$")] = "0"
    """Share of the requests that spilled lately, 0 to 1."""
    cost_per_hour: Money
    """What spilled requests cost now, in US dollars per hour."""


class CostStatus(KubeModel):
    """What the deployment costs now."""

    gpu_per_hour: Money
    """GPUs, in US dollars per hour."""
    external_per_hour: Money
    """External providers, in US dollars per hour."""


class DecisionStatus(KubeModel):
    """A decision that changed something."""

    model_config = ConfigDict(populate_by_name=True)

    time: Timestamp
    """When it was taken."""
    replicas_before: Annotated[Count, Field(alias="from")]
    """Replicas before."""
    replicas_after: Annotated[Count, Field(alias="to")]
    """Replicas after."""
    variant: Annotated[str, Field(max_length=63)] = ""
    """Variant that it concerns."""
    reason: Annotated[str, Field(max_length=128)]
    """Why, as a code."""
    message: Annotated[str, Field(max_length=1024)]
    """Why, in words and dollars."""
    dollars_per_hour: SignedMoney
    """Change of the cost, in US dollars per hour."""


class MoEDeploymentStatus(KubeModel):
    """What Spillway saw and did."""

    observed_generation: Annotated[int, Keywords(format="int64")] | None = None
    """The metadata.generation that this status speaks of."""
    replicas: Count | None = None
    """Replicas that exist."""
    desired_replicas: Count | None = None
    """Replicas that Spillway wants."""
    ready_replicas: Count | None = None
    """Replicas that answer."""
    selector: Annotated[str, Field(max_length=512)] | None = None
    """Label selector of the pods, for the scale subresource."""
    endpoint: Annotated[str, Field(max_length=512)] | None = None
    """OpenAI-compatible address inside the cluster."""
    summary: Annotated[str, Field(max_length=64)] | None = None
    """Ready of wanted replicas, for example 2/3."""
    revision: Annotated[str, Field(max_length=64)] | None = None
    """Revision of the pods that Spillway brings up now."""
    variants: Annotated[tuple[VariantStatus, ...], Field(max_length=64), ListType("map", "name")] = ()
    """Replicas by variant."""
    spill: SpillStatus | None = None
    """What goes to external providers."""
    cost: CostStatus | None = None
    """What the deployment costs now."""
    decisions: Annotated[tuple[DecisionStatus, ...], Field(max_length=MAX_DECISIONS), ListType("atomic")] = ()
    """The last decisions, newest first."""
    conditions: Conditions = ()
    """Ready, Progressing, Degraded, MetricsAvailable, SpillAvailable, ScalingLimited, WithinBudget, Pinned, Paused."""


class MoEDeployment(Resource):
    """A Mixture-of-Experts model, served on GPU pools at the lowest cost, spilling to external APIs within a budget."""

    definition: ClassVar[Definition] = Definition(
        kind="MoEDeployment",
        plural="moedeployments",
        short_names=("moe",),
        namespaced=True,
        scalable=True,
        rules=(NAME_RULE,),
        columns=(
            Column("Model", ".spec.model.name", "Model of the catalog."),
            Column("Ready", ".status.summary", "Ready of wanted replicas."),
            Column("Spill($/h)", ".status.spill.costPerHour", "What spilled requests cost now."),
            Column("Cost($/h)", ".status.cost.gpuPerHour", "What the GPUs cost now."),
            Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', "Why it is ready or not."),
            Column("Age", ".metadata.creationTimestamp", "Time since creation.", type="date"),
            Column("Endpoint", ".status.endpoint", "OpenAI-compatible address.", wide=True),
            Column("Variants", ".status.variants[*].name", "Pools, precisions and engines.", wide=True),
            Column("Message", '.status.conditions[?(@.type=="Ready")].message', "Ready, in words.", wide=True),
        ),
    )
    status_model: ClassVar[type[KubeModel]] = MoEDeploymentStatus

    spec: MoEDeploymentSpec
    """What to serve, with what, how large."""
    status: MoEDeploymentStatus = MoEDeploymentStatus()
    """What Spillway saw and did."""

    @property
    def served_name(self) -> str:
        """What clients send as "model"."""
        return self.spec.model.served_name or self.spec.model.name

    @property
    def paused(self) -> bool:
        """Whether the pause annotation is set."""
        return self.metadata.annotations.get(PAUSED_ANNOTATION) == "true"

    @property
    def dry_run(self) -> bool:
        """Whether the dry-run annotation is set."""
        return self.metadata.annotations.get(DRY_RUN_ANNOTATION) == "true"
