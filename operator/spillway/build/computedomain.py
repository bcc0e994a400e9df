"""The ComputeDomain of a variant whose replicas use NVLink across nodes (NVIDIA's DRA driver for GB200 and GB300)."""

from __future__ import annotations

from spillway.api import MoEDeployment
from spillway.build.labels import Object, metadata, replica_labels, shortened

CLAIM = "compute-domain-channel"


def compute_domain_name(moe_name: str, variant_name: str) -> str:
    """Name of the ComputeDomain, and of the ResourceClaimTemplate that the driver makes for it."""
    return shortened(f"{moe_name}-{variant_name}")


def compute_domain(moe: MoEDeployment, variant_name: str) -> Object:
    """One for all revisions of a variant: it follows the pods that claim a channel, and holds nothing without any.

    ``numNodes`` 0: pods do not wait until a certain number of nodes has joined.
    """
    name = compute_domain_name(moe.metadata.name, variant_name)
    return {
        "apiVersion": "resource.nvidia.com/v1beta1",
        "kind": "ComputeDomain",
        "metadata": metadata(moe, name, replica_labels(moe, variant_name)),
        "spec": {"numNodes": 0, "channel": {"resourceClaimTemplate": {"name": name}, "allocationMode": "Single"}},
    }
