"""What joins the nodes of a replica: how its GPUs reach those of the other nodes, and what libraries are told of it."""

from __future__ import annotations

from enum import StrEnum

from spillway.api import GPUPool
from spillway.build.labels import GROUP_KEY_LABEL, Object, pod_selector
from spillway.catalog import ResolvedVariant

INTERFACE = "eth0"
"""The pod network's interface, over which ranks find each other."""
CLIQUE_LABEL = "nvidia.com/gpu.clique"
"""Same on all nodes whose GPUs reach each other by NVLink (GPU feature discovery)."""
ZONE_LABEL = "topology.kubernetes.io/zone"


class Fabric(StrEnum):
    """The fastest way between the nodes of a replica."""

    NONE = "none"
    """The replica has one node."""
    TCP = "tcp"
    EFA = "efa"
    """AWS's network cards: RDMA for NCCL, but not what DeepEP's kernels need (GPU-initiated InfiniBand or RoCE)."""
    RDMA = "rdma"
    NVLINK = "nvlink"
    """NVLink across the nodes of a rack (NVL72), through a ComputeDomain."""


def fabric(variant: ResolvedVariant, pool: GPUPool) -> Fabric:
    """What a replica of the variant has between its nodes in that pool."""
    if variant.parallelism.nodes == 1:
        return Fabric.NONE
    if pool.spec.topology.compute_domain:
        return Fabric.NVLINK
    resource = pool.spec.gpu.rdma_resource
    if resource is None:
        return Fabric.TCP
    return Fabric.EFA if resource.startswith("vpc.amazonaws.com/efa") else Fabric.RDMA


def environment(kind: Fabric, *, experts_exchanged: bool) -> dict[str, str]:
    """What NCCL, Gloo, NVSHMEM and UCX are told; ``experts_exchanged``: tokens go to experts on other nodes, by DeepEP
    where the fabric lets it. Sources: llm-d guides/wide-ep-lws, NVIDIA/k8s-dra-driver-gpu."""
    if kind is Fabric.NONE:
        return {}
    values = {"NCCL_SOCKET_IFNAME": INTERFACE, "GLOO_SOCKET_IFNAME": INTERFACE}
    if kind is Fabric.EFA:
        values["FI_PROVIDER"] = "efa"
    if kind is Fabric.RDMA and experts_exchanged:
        values |= {
            "NVSHMEM_REMOTE_TRANSPORT": "ibgda",
            "NVSHMEM_IB_ENABLE_IBGDA": "true",
            "NVSHMEM_BOOTSTRAP_UID_SOCK_IFNAME": INTERFACE,
            "NVIDIA_GDRCOPY": "enabled",
        }
    if kind is Fabric.NVLINK:
        values |= {
            "NCCL_MNNVL_ENABLE": "1",
            "NCCL_CUMEM_ENABLE": "1",
            "NCCL_NVLS_ENABLE": "1",
            "UCX_CUDA_IPC_ENABLE_MNNVL": "y",
        }
    return values


def devices(kind: Fabric, variant: ResolvedVariant, pool: GPUPool) -> dict[str, str]:
    """Network cards that a pod of the replica asks for: one per GPU."""
    resource = pool.spec.gpu.rdma_resource
    if kind not in (Fabric.EFA, Fabric.RDMA) or resource is None:
        return {}
    return {resource: str(variant.parallelism.gpus_per_node)}


def capabilities(kind: Fabric) -> Object:
    """RDMA pins memory beyond what an ordinary process may lock; nothing else needs a capability."""
    added = {"add": ["IPC_LOCK"]} if kind in (Fabric.EFA, Fabric.RDMA) else {}
    return {"drop": ["ALL"], **added}


def affinity(kind: Fabric, moe_name: str) -> Object | None:
    """Pods of one group near each other. NVLink ends with its clique, so that it must be one; networks do not cross a
    zone without loss, which is a wish: not every cluster labels zones.

    The group's key is a label that LeaderWorkerSet gives each pod; `matchLabelKeys` (Kubernetes 1.33) takes its value.
    The selector must not name the same label: the API server refuses such a pod, though not the LeaderWorkerSet.
    """
    if kind is Fabric.NONE:
        return None
    near: Object = {
        "labelSelector": {"matchLabels": pod_selector(moe_name)},
        "matchLabelKeys": [GROUP_KEY_LABEL],
        "topologyKey": CLIQUE_LABEL if kind is Fabric.NVLINK else ZONE_LABEL,
    }
    if kind is Fabric.NVLINK:
        return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [near]}}
    preferred = {"weight": 100, "podAffinityTerm": near}
    return {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preferred]}}
