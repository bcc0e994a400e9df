"""A local Kubernetes cluster without containers: real etcd, API server, controllers, scheduler and Prometheus.

A node agent in the place of the kubelets runs, for each pod, the program that its image stands for, at a loopback
address of the pod's own. Use `Cluster` for scenarios and by hand (`python -m e2e.cluster up`), `ControlPlane`
where an API server is enough.
"""

from __future__ import annotations

from e2e.cluster.cluster import Cluster, run_directory, take_down
from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.settings import ClusterConfig, Image, Pool, Provider, Speed

__all__ = [
    "Cluster",
    "ClusterConfig",
    "ControlPlane",
    "Image",
    "Pool",
    "Provider",
    "Speed",
    "run_directory",
    "take_down",
]
