"""Names, labels and owners of the objects that a MoEDeployment has."""

from __future__ import annotations

import hashlib
from typing import Any

from spillway.api import API_VERSION, GROUP, MoEDeployment

Object = dict[str, Any]

DEPLOYMENT_LABEL = f"{GROUP}/deployment"
VARIANT_LABEL = f"{GROUP}/variant"
REVISION_LABEL = f"{GROUP}/revision"
GROUP_KEY_LABEL = "leaderworkerset.sigs.k8s.io/group-key"
"""Same on all pods of one group of a LeaderWorkerSet and on no others; LeaderWorkerSet sets it."""
PREFETCH_LABEL = f"{GROUP}/prefetch"
"""On the pods that hold a variant's image and weights on a node, ``<moe>-<variant>``: replicas prefer such nodes."""
CONTENT_LABEL = f"{GROUP}/content"
"""Digest of what such a pod holds."""
ENGINE_CONTAINER = "engine"
ENGINE_PORT = 8000
ENGINE_PORT_NAME = "http"
MAX_LABEL_LENGTH = 63


def workload_name(moe_name: str, variant_name: str, revision: str, longest: int = MAX_LABEL_LENGTH) -> str:
    """``<moe>-<variant>-<revision>``, the first two shortened where the whole is longer than ``longest``."""
    return f"{shortened(f'{moe_name}-{variant_name}', longest - len(revision) - 1)}-{revision}"


def mark_of(moe_name: str, variant_name: str) -> str:
    """What a variant of a MoEDeployment is called in a label's value."""
    return shortened(f"{moe_name}-{variant_name}")


def shortened(name: str, longest: int = MAX_LABEL_LENGTH) -> str:
    """The name; where that is longer than ``longest``, its end gives way to a digest of the whole."""
    if len(name) <= longest:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: longest - len(digest) - 1].rstrip('-')}-{digest}"


def object_labels(moe: MoEDeployment) -> dict[str, str]:
    """Labels of an object that belongs to the whole MoEDeployment."""
    return {
        "app.kubernetes.io/name": moe.spec.engine.name.lower(),
        "app.kubernetes.io/instance": moe.metadata.name,
        "app.kubernetes.io/component": "engine",
        "app.kubernetes.io/part-of": "spillway",
        "app.kubernetes.io/managed-by": "spillway",
        DEPLOYMENT_LABEL: moe.metadata.name,
    }


def replica_labels(moe: MoEDeployment, variant_name: str) -> dict[str, str]:
    """Labels of a variant's workload and pods, without the revision."""
    return {**object_labels(moe), VARIANT_LABEL: variant_name}


def pod_selector(moe_name: str) -> dict[str, str]:
    """Labels that select all replicas of a MoEDeployment."""
    return {DEPLOYMENT_LABEL: moe_name}


def selector_text(moe_name: str) -> str:
    """`pod_selector` as the scale subresource's string."""
    return ",".join(f"{key}={value}" for key, value in pod_selector(moe_name).items())


def metadata(moe: MoEDeployment, name: str, labels: dict[str, str]) -> Object:
    """ObjectMeta of an object that goes when its MoEDeployment goes."""
    return {
        "name": name,
        "namespace": moe.metadata.namespace,
        "labels": labels,
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": moe.definition.kind,
                "name": moe.metadata.name,
                "uid": moe.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
