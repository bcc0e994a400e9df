"""The Service that gives a MoEDeployment its address: an alias of the gateway."""

from __future__ import annotations

from spillway.api import MoEDeployment
from spillway.build.labels import Object, metadata, object_labels


def service(moe: MoEDeployment, gateway_host: str) -> Object:
    """An ExternalName Service named like the MoEDeployment; the gateway tells deployments apart by the Host header."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(moe, moe.metadata.name, object_labels(moe)),
        "spec": {"type": "ExternalName", "externalName": gateway_host},
    }


def endpoint(moe: MoEDeployment) -> str:
    """The OpenAI-compatible base URL inside the cluster."""
    return f"http://{moe.metadata.name}.{moe.metadata.namespace}.svc/v1"
