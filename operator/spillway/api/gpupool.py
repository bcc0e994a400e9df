"""GPUPool: nodes of one GPU product that the platform team offers, and what they cost (cluster-scoped, ``gpool``)."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from spillway.api.conditions import Conditions
from spillway.api.markers import Keywords, ListType, Rules, cel, model_rules
from spillway.api.model import Precision
from spillway.api.resource import Column, Definition, KubeModel, Resource
from spillway.api.rules import NAME_RULE, Namespaces
from spillway.api.scalars import Count, Money, PositiveMoney, Seconds, Timestamp

Interconnect = Literal["NVLink", "NVL72", "PCIe"]
Billing = Literal["OnDemand", "Spot", "Reserved"]
MultiNode = Literal["LeaderWorkerSet", "None"]

SYSTEM_DIRECTORY_PATTERN = (
    r"^/((bin|boot|dev|etc|home|lib|lib32|lib64|libx32|proc|root|run|sbin|sys|usr)(/.*)?|var|opt|mnt|tmp|srv"
    r"|var/(run|log|spool)(/.*)?|var/lib|var/lib/(kubelet|containerd|docker|etcd|rancher|cni|crio)(/.*)?)$"
)
"""Directories whose files are not a cache's: the system's, the kubelet's, and whole mount roots."""


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
    interconnect: Interconnect | None = None
    """How the GPUs of one node reach each other: NVLink, NVL72 (NVLink across the nodes of a rack) or PCIe. Default:
    from the catalog."""
    rdma_resource: Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$")] | None = None
    """Extended resource that counts the node's RDMA network cards, for example rdma/ib; a replica on several nodes asks
    for one per GPU. Default: none, so nodes reach each other over TCP."""


class GpuPrice(KubeModel):
    """What the GPUs cost."""

    model_config = ConfigDict(
        json_schema_extra=model_rules(
            cel(
                "!has(self.reservedGPUs) || self.billing == 'Reserved'",
                "reservedGPUs needs billing Reserved",
                field=".reservedGPUs",
            )
        )
    )

    usd_per_gpu_hour: Annotated[PositiveMoney, Field(alias="perGPUHour")]
    """Price of one GPU, in US dollars per hour."""
    billing: Billing = "OnDemand"
    """OnDemand: paid while used. Spot: the same, and nodes may be taken away. Reserved: reservedGPUs are paid whether
    used or not, and preferred. Default: OnDemand."""
    reserved_gpus: Annotated[int, Field(ge=1, le=100_000), Keywords(format="int32")] | None = None
    """GPUs that are paid whether used or not, with billing Reserved; those beyond them cost perGPUHour while used.
    Default: every GPU of the pool with billing Reserved, else none."""
    minimum_billing_seconds: Annotated[Seconds, Field(alias="minimumBilling")] = 60.0
    """Shortest time that is billed for a replica, as a duration such as 1m. Default: 1m."""

    @model_validator(mode="after")
    def _reserved_is_reserved(self) -> GpuPrice:
        if self.reserved_gpus is not None and self.billing != "Reserved":
            raise ValueError(
                f"reservedGPUs is {self.reserved_gpus} and billing is {self.billing}: set billing to Reserved"
            )
        return self


class Capacity(KubeModel):
    """How many GPUs there are, or can be had."""

    max_gpus: Annotated[int, Field(ge=0, le=100_000), Keywords(format="int32")] | None = None
    """Most GPUs that Spillway may use in this pool. Default: what the nodes allocate."""
    provisioning_timeout_seconds: Annotated[Seconds, Field(alias="provisioningTimeout")] = 900.0
    """How long a replica may wait for GPUs before the pool counts as out of capacity, as a duration. Default: 15m."""


class Topology(KubeModel):
    """How a replica may span nodes."""

    model_config = ConfigDict(
        json_schema_extra=model_rules(
            cel(
                "!self.computeDomain || self.multiNode != 'None'",
                "computeDomain needs multiNode LeaderWorkerSet",
                field=".computeDomain",
            )
        )
    )

    multi_node: MultiNode = "None"
    """LeaderWorkerSet: replicas may span nodes, as groups of a LeaderWorkerSet, whose controller the cluster must have.
    None: every replica stays on one node. Default: None."""
    compute_domain: bool = False
    """True: replicas that span nodes ask for a ComputeDomain of NVIDIA's DRA driver, so that they use NVLink across the
    rack (NVL72). Default: false."""

    @model_validator(mode="after")
    def _domain_spans_nodes(self) -> Topology:
        if self.compute_domain and self.multi_node == "None":
            raise ValueError("computeDomain is true and multiNode is None: set multiNode to LeaderWorkerSet")
        return self


class NodeCache(KubeModel):
    """A directory of each node that keeps images' and models' files for replicas."""

    host_path: Annotated[
        str,
        Field(max_length=253, pattern=r"^(/[A-Za-z0-9_][-._A-Za-z0-9]*)+$"),
        Rules(
            cel(
                f"!self.matches('{SYSTEM_DIRECTORY_PATTERN}')",
                "hostPath must not be a directory of the system or of the kubelet",
            )
        ),
    ]
    """Directory on the nodes, such as /mnt/nvme/spillway; created where it is missing."""
    max_gb: Annotated[int, Field(ge=1, le=1_000_000), Keywords(format="int32")]
    """Most that the cache may hold on a node, in GB (10^9 bytes)."""

    @field_validator("host_path")
    @classmethod
    def _own_directory(cls, path: str) -> str:
        if re.search(SYSTEM_DIRECTORY_PATTERN, path):
            raise ValueError("a directory of the system or of the kubelet: use one for this alone, such as /mnt/models")
        return path


class GPUPoolSpec(KubeModel):
    """Which nodes, which GPUs, what price."""

    model_config = ConfigDict(
        json_schema_extra=model_rules(
            cel(
                "!has(self.price.reservedGPUs) || !has(self.capacity.maxGPUs) || "
                "self.price.reservedGPUs <= self.capacity.maxGPUs",
                "price.reservedGPUs must not be more than capacity.maxGPUs",
                field=".price.reservedGPUs",
            ),
            cel(
                "!self.topology.computeDomain || !has(self.gpu.interconnect) || self.gpu.interconnect == 'NVL72'",
                "topology.computeDomain needs gpu.interconnect NVL72",
                field=".topology.computeDomain",
            ),
        )
    )

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
    topology: Topology = Topology()
    """How a replica may span nodes. Default: not at all."""
    node_cache: NodeCache | None = None
    """A directory of each node that keeps models for the deployments that ask for it (model.cache.node). Default:
    none."""
    allowed_namespaces: Namespaces | None = None
    """Namespaces whose MoEDeployments may use the pool. Default: all."""
    max_gpus_per_namespace: Annotated[int, Field(ge=1, le=100_000), Keywords(format="int32")] | None = None
    """Most GPUs of the pool that the MoEDeployments of one namespace may hold together. Default: no limit."""
    priority_class_name: Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")] | None = (
        None
    )
    """PriorityClass of the replicas. Default: the cluster's own default."""

    @model_validator(mode="after")
    def _parts_agree(self) -> GPUPoolSpec:
        reserved, most = self.price.reserved_gpus, self.capacity.max_gpus
        if reserved is not None and most is not None and reserved > most:
            raise ValueError(f"price.reservedGPUs is {reserved} and capacity.maxGPUs is {most}: raise maxGPUs")
        if self.topology.compute_domain and self.gpu.interconnect not in (None, "NVL72"):
            raise ValueError(
                f"topology.computeDomain is true and gpu.interconnect is {self.gpu.interconnect}: "
                "a ComputeDomain needs NVL72"
            )
        return self

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
    """Ready, OutOfCapacity, NotActedOn."""


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
