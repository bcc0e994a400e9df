"""The ServiceAccount of the replicas: an identity without a token."""

from __future__ import annotations

from spillway.api import MoEDeployment
from spillway.build.labels import Object, metadata, object_labels


def account_name(moe_name: str) -> str:
    """Name of the ServiceAccount."""
    return f"{moe_name}-engine"


def account(moe: MoEDeployment) -> Object:
    """The ServiceAccount that replicas run under; they have no business with the API server."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(moe, account_name(moe.metadata.name), object_labels(moe)),
        "automountServiceAccountToken": False,
    }
