"""The configuration file that kind makes a cluster from. Pure, but for the directories that nodes mount."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from e2e.cluster import audit
from e2e.cluster.kind import world
from e2e.cluster.kind.docker import missing_capabilities
from e2e.cluster.kubeapi import Obj
from e2e.cluster.settings import ClusterConfig

ARCHIVES = "/spillway-images"  # in every node: images on their way into containerd
_AUDIT = "/var/log/spillway-audit"  # in the control-plane node and in the API server's container


def node_ports(config: ClusterConfig) -> list[int]:
    return [world.GATEWAY_PORT, world.PROMETHEUS_PORT, *(world.control_port(item) for item in config.providers)]


def cluster_nodes(config: ClusterConfig) -> list[Obj]:
    """Two nodes for Spillway, one of which can be drained, then the GPU pools' nodes."""
    nodes: list[Obj] = [{"role": "control-plane"}, {"role": "worker"}]
    for pool in config.pools:
        nodes += [{"role": "worker", "labels": world.gpu_node_labels(pool)}] * pool.nodes
    return nodes


def _audit_directory(directory: Path) -> Path:
    """The API server's container finds its audit policy there and leaves its log."""
    audited = directory / "audit"
    audited.mkdir()
    (audited / "policy.yaml").write_text(audit.POLICY)
    return audited


def _audit_patches() -> list[str]:
    """The API server's audit flags, for both of kubeadm's formats; the one of another version is passed over."""
    flags = {"audit-policy-file": f"{_AUDIT}/policy.yaml", "audit-log-path": f"{_AUDIT}/audit.log"}
    volume = {"name": "audit", "hostPath": _AUDIT, "mountPath": _AUDIT, "pathType": "Directory"}
    formats: dict[str, object] = {
        "kubeadm.k8s.io/v1beta3": flags,
        "kubeadm.k8s.io/v1beta4": [{"name": name, "value": value} for name, value in flags.items()],
    }
    return [
        yaml.safe_dump(
            {
                "apiVersion": version,
                "kind": "ClusterConfiguration",
                "apiServer": {"extraArgs": arguments, "extraVolumes": [volume]},
            }
        )
        for version, arguments in formats.items()
    ]


def configuration(directory: Path, nodes: Sequence[Obj], ports: Mapping[int, int], *, own_network: bool) -> Obj:
    """kind's configuration file. A node image of ours brings a pod network of its own."""
    patches = [yaml.safe_dump({"kind": "KubeletConfiguration", "failCgroupV1": False}), *_audit_patches()]
    schedulable = yaml.safe_dump({"kind": "InitConfiguration", "nodeRegistration": {"taints": []}})
    archives = directory / "images"
    archives.mkdir()
    images = {"hostPath": str(archives), "containerPath": ARCHIVES, "readOnly": True}
    mounted = [{**node, "extraMounts": [images]} for node in nodes]
    first = {
        **mounted[0],
        "kubeadmConfigPatches": [schedulable],
        "extraMounts": [images, {"hostPath": str(_audit_directory(directory)), "containerPath": _AUDIT}],
        "extraPortMappings": [
            {"containerPort": inside, "hostPort": outside, "listenAddress": "127.0.0.1"}
            for inside, outside in ports.items()
        ],
    }
    found: Obj = {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "networking": {"disableDefaultCNI": own_network, "podSubnet": "10.244.0.0/16"},
        "kubeadmConfigPatches": patches,
        "nodes": [first, *mounted[1:]],
    }
    if missing_capabilities():
        # Without CAP_SYS_RESOURCE nothing can be made less likely to be killed than its parent.
        patch = '[plugins."io.containerd.grpc.v1.cri"]\n  restrict_oom_score_adj = true\n'
        found["containerdConfigPatches"] = [patch]
    return found
