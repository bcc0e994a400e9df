"""GPUPool: nodes of one GPU product that the platform team offers, and what they cost (cluster-scoped, ``gpool``)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from spillway.api.conditions import Conditions
from spillway.api.markers import Keywords, ListType, Rules, cel, model_rules
from spillway.api.moedeployment import Count, Precision
from spillway.api.resource import Column, Definition, KubeModel, Resource
from spillway.api.rules import NAME_RULE, Namespaces
from spillway.api.scalars import Money, PositiveMoney, Seconds, Timestamp


class Toleration(KubeModel):
    """A taint that replicas tolerate."""

    model_config = ConfigDict(
        json_schema_extra=model_rules(
            cel(
                "self.operator == 'Exists' ? !has(self.value) || self.value == '' : has(self.key) && self.key != ''",
                "operator Exists takes no value, operator Equal needs a key",
            )
        )
    )

    key: Annotated[str, Field(max_length=253)] = ""
    """Key of the taint; empty with operator Exists matches every taint. Default: empty."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Exists or Equal. Default: Equal."""
    value: Annotated[str, Field(max_length=63)] = ""
    """Value of the taint, for Equal. Default: empty."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint. Default: every effect."""

    @model_validator(mode="after")
    def _as_kubernetes_takes_it(self) -> Toleration:
        if self.value if self.operator == "Exists" else not self.key:
            raise ValueError("operator Exists takes no value, operator Equal needs a key: correct the toleration")
        return self


class Gpu(KubeModel):
    """The GPUs of one node."""

    product: Annotated[str, Field(min_length=1, max_length=63)]
    """Product of Spillway's catalog (B200) or its nvidia.com/gpu.product label (NVIDIA-B200)."""
    memory_gb: Annotated[int, Field(ge=1, le=4096), Keywords(format="int32")] | None = None
    """Memory of one GPU, in GB (10^9 bytes). Default: from the catalog."""
    compute_capability: Annotated[str, Field(max_length=8, pattern=r"^[0-9]{1,2}\.[0-9]$")] | None = None
    """CUDA compute capability, for example 10.0; NVFP4 needs 10.0, FP8 needs 8.9. Default: from the catalog."""
    per_node: Annotated[int, Field(ge=1, le=72), Keywords(format="int32")] = 8
    """GPUs of one node. Default: 8."""
    resource_name: Annotated[
        str,
        Field(max_length=253, pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$"),
        Rules(cel("self == oldSelf", "resourceName cannot be changed: create another GPUPool")),
    ] = "nvidia.com/gpu"
    """Extended resource that counts the GPUs; cannot be changed later. Default: nvidia.com/gpu."""


class GpuPrice(KubeModel):
    """What the GPUs cost."""

    usd_per_gpu_hour: Annotated[PositiveMoney, Field(alias="perGPUHour")]
    """Price of one GPU, in US dollars per hour."""
    minimum_billing_seconds: Annotated[Seconds, Field(alias="minimumBilling")] = 60.0
    """Shortest time that is billed for a replica. Default: 1m."""


class Capacity(KubeModel):
    """How many GPUs there are, or can be had."""

    max_gpus: Annotated[int, Field(ge=0, le=100_000), Keywords(format="int32")] | None = None
    """Most GPUs that Spillway may use in this pool. Default: what the nodes allocate."""
    provisioning_timeout_seconds: Annotated[Seconds, Field(alias="provisioningTimeout")] = 900.0
    """How long a replica may wait for GPUs before the pool counts as out of capacity. Default: 15m."""


class GPUPoolSpec(KubeModel):
    """Which nodes, which GPUs, what price."""

    node_selector: Annotated[
        dict[str, Annotated[str, Field(max_length=63)]], Field(min_length=1, max_length=16), Keywords(maxProperties=16)
    ]
    """Labels of the pool's nodes."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16), ListType("atomic")] = (
        Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule"),
    )
    """Taints that replicas tolerate. Default: nvidia.com/gpu:NoSchedule."""
    gpu: Gpu
    """The GPUs of one node."""
    price: GpuPrice
    """What the GPUs cost."""
    capacity: Capacity = Capacity()
    """How many GPUs there are, or can be had."""
    allowed_namespaces: Namespaces | None = None
    """Namespaces whose MoEDeployments may use the pool. Default: all."""

    def allows(self, namespace: str) -> bool:
        """Whether MoEDeployments of a namespace may use the pool."""
        return self.allowed_namespaces is None or namespace in self.allowed_namespaces


class GPUPoolStatus(KubeModel):
    """What the pool holds now."""

    observed_generation: Annotated[int, Keywords(format="int64")] | None = None
    """The metadata.generation that this status speaks of."""
    precisions: Annotated[tuple[Precision, ...], Field(max_length=3), ListType("atomic")] = ()
    """Precisions that the GPUs run natively."""
    allocatable_gpus: Count | None = None
    """GPUs of the ready nodes."""
    used_gpus: Count | None = None
    """GPUs that any pod holds."""
    spillway_gpus: Count | None = None
    """GPUs that Spillway's replicas hold."""
    pending_gpus: Count | None = None
    """GPUs that Spillway's unscheduled replicas wait for."""
    out_of_capacity_since: Timestamp | None = None
    """Since when the pool gives no GPUs."""
    cost_per_hour: Money | None = None
    """What Spillway's replicas cost now, in US dollars per hour."""
    conditions: Conditions = ()
    """Ready, OutOfCapacity."""


class GPUPool(Resource):
    """Nodes of one GPU product, with their price and capacity."""

    definition: ClassVar[Definition] = Definition(
        kind="GPUPool",
        plural="gpupools",
        short_names=("gpool",),
        namespaced=False,
        rules=(NAME_RULE,),
        columns=(
            Column("GPU", ".spec.gpu.product", "GPU product."),
            Column("Ready", '.status.conditions[?(@.type=="Ready")].status', "Whether the pool can be used."),
            Column("Spillway", ".status.spillwayGPUs", "GPUs that Spillway's replicas hold.", type="integer"),
            Column("Pending", ".status.pendingGPUs", "GPUs that replicas wait for.", type="integer"),
            Column("Allocatable", ".status.allocatableGPUs", "GPUs of the ready nodes.", type="integer"),
            Column("$/GPU-h", ".spec.price.perGPUHour", "Price of one GPU per hour."),
            Column("Cost($/h)", ".status.costPerHour", "What Spillway's replicas cost now."),
            Column("Age", ".metadata.creationTimestamp", "Time since creation.", type="date"),
            Column("Used", ".status.usedGPUs", "GPUs that any pod holds.", type="integer", wide=True),
            Column("Max", ".spec.capacity.maxGPUs", "Most GPUs that Spillway may use.", type="integer", wide=True),
            Column("Precisions", ".status.precisions", "Precisions that the GPUs run.", wide=True),
            Column("OutOfCapacity", ".status.outOfCapacitySince", "Since when.", type="date", wide=True),
        ),
    )
    status_model: ClassVar[type[KubeModel]] = GPUPoolStatus

    spec: GPUPoolSpec
    """Which nodes, which GPUs, what price."""
    status: GPUPoolStatus = GPUPoolStatus()
    """What the pool holds now."""
