"""The pod of a replica, or of one node of it."""

from __future__ import annotations

from spillway.api import RESTART_ANNOTATION, GPUPool, MoEDeployment, dump
from spillway.build import sglang, vllm
from spillway.build.account import account_name
from spillway.build.command import Command, Role
from spillway.build.computedomain import CLAIM, compute_domain_name
from spillway.build.fabric import Fabric, affinity, capabilities, devices, environment, fabric
from spillway.build.labels import (
    ENGINE_CONTAINER,
    ENGINE_PORT,
    ENGINE_PORT_NAME,
    PREFETCH_LABEL,
    Object,
    mark_of,
    replica_labels,
)
from spillway.build.settings import BuildSettings
from spillway.build.weights import Storage, storage
from spillway.catalog import ResolvedVariant

LIVENESS_FAILURES = 6
_ENGINES = {"vLLM": vllm.command, "SGLang": sglang.command}


def pod_template(
    moe: MoEDeployment, variant: ResolvedVariant, pool: GPUPool, settings: BuildSettings, role: Role
) -> Object:
    """The pod template of a role, without the revision's label: the revision is a digest of it."""
    between = fabric(variant, pool)
    command = _ENGINES[variant.engine](moe, variant, settings, role, between)
    kept = storage(moe, variant, pool)
    spec: Object = {
        "serviceAccountName": account_name(moe.metadata.name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # a Service named vllm would set VLLM_PORT=tcp://… and break the start
        "terminationGracePeriodSeconds": settings.termination_grace_seconds,
        "nodeSelector": dict(pool.spec.node_selector),
        "tolerations": tolerations(pool),
        # The engines' published images run as root; everything else of the restricted profile holds.
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(moe, variant, pool, command, kept, settings, role)],
        "volumes": [_shared_memory(command), *kept.volumes],
    }
    if near := affinity(between, moe.metadata.name):
        spec["affinity"] = near
    if moe.spec.model.cache.prefetch:
        wishes = spec.setdefault("affinity", {}).setdefault("podAffinity", {})
        wishes.setdefault("preferredDuringSchedulingIgnoredDuringExecution", []).append(_where_it_is(moe, variant))
    if pool.spec.priority_class_name:
        spec["priorityClassName"] = pool.spec.priority_class_name
    if between is Fabric.NVLINK:
        name = compute_domain_name(moe.metadata.name, variant.name)
        spec["resourceClaims"] = [{"name": CLAIM, "resourceClaimTemplateName": name}]
    annotations = {
        "karpenter.sh/do-not-disrupt": "true",  # a consolidated node would cost a cold start
        "kubectl.kubernetes.io/default-container": ENGINE_CONTAINER,
        **({RESTART_ANNOTATION: moe.restart} if moe.restart else {}),
    }
    return {"metadata": {"labels": replica_labels(moe, variant.name), "annotations": annotations}, "spec": spec}


def _where_it_is(moe: MoEDeployment, variant: ResolvedVariant) -> Object:
    """The wish for a node that has the image and the weights, or is fetching them."""
    mark = {PREFETCH_LABEL: mark_of(moe.metadata.name, variant.name)}
    term = {"labelSelector": {"matchLabels": mark}, "topologyKey": "kubernetes.io/hostname"}
    return {"weight": 50, "podAffinityTerm": term}


def tolerations(pool: GPUPool) -> list[Object]:
    """Those of the pool's pods."""
    found = [{key: value for key, value in dump(toleration).items() if value} for toleration in pool.spec.tolerations]
    if pool.spec.gpu.interconnect == "NVL72" or pool.spec.topology.compute_domain:
        # GB200 and GB300 sit on Arm; GKE taints such nodes.
        found.append({"key": "kubernetes.io/arch", "operator": "Equal", "value": "arm64", "effect": "NoSchedule"})
    return found


def _container(
    moe: MoEDeployment,
    variant: ResolvedVariant,
    pool: GPUPool,
    command: Command,
    kept: Storage,
    settings: BuildSettings,
    role: Role,
) -> Object:
    gpus, between = variant.parallelism.gpus_per_node, fabric(variant, pool)
    counted = {pool.spec.gpu.resource_name: str(gpus), **devices(between, variant, pool)}
    return {
        "name": ENGINE_CONTAINER,
        "image": variant.image,
        "command": list(command.command),
        "args": list(command.args),
        "env": _environment(moe, variant, command, between, kept),
        "resources": {
            "requests": {**settings.requests(gpus), **counted},
            "limits": counted,
            **({"claims": [{"name": CLAIM}]} if between is Fabric.NVLINK else {}),
        },
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": capabilities(between)},
        "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}, *kept.mounts],
        **({} if role is Role.WORKER else _serving(command, settings)),
    }


def _serving(command: Command, settings: BuildSettings) -> Object:
    """What a container has because it answers requests. A worker answers none: its engine exits when it cannot go on,
    and the whole group starts anew; it needs no drain, since it is stopped after its leader."""
    period = settings.probe_period_seconds
    return {
        "ports": [{"name": ENGINE_PORT_NAME, "containerPort": ENGINE_PORT, "protocol": "TCP"}],
        "startupProbe": _probe("/health", period, max(1, settings.startup_seconds // period)),
        "readinessProbe": _probe(command.readiness_path, period, 2),
        "livenessProbe": _probe("/health", 3 * period, LIVENESS_FAILURES),
        "lifecycle": {"preStop": {"sleep": {"seconds": settings.prestop_seconds}}},
    }


def _probe(path: str, period_seconds: int, failures: int) -> Object:
    # SGLang's /health generates a token, behind whatever is queued: a short timeout would kill a busy replica.
    return {
        "httpGet": {"path": path, "port": ENGINE_PORT_NAME},
        "periodSeconds": period_seconds,
        "timeoutSeconds": 20 if path == "/health" else 5,
        "failureThreshold": failures,
    }


def _environment(
    moe: MoEDeployment, variant: ResolvedVariant, command: Command, between: Fabric, kept: Storage
) -> list[Object]:
    """Spillway's variables under the user's, then those whose values are found in the cluster."""
    exchanged = variant.parallelism.strategy == "DataExpert"
    values = {
        "FLASHINFER_WORKSPACE_BASE": "/cache/flashinfer",
        "CUDA_CACHE_PATH": "/cache/cuda",
        **environment(between, experts_exchanged=exchanged),
        **command.env,
    }
    values |= {variable.name: variable.value for variable in moe.spec.engine.env}
    entries: list[Object] = [{"name": name, "value": value} for name, value in values.items()]
    if command.address_variable and command.address_variable not in values:
        entries.append({"name": command.address_variable, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
    return [entry for entry in kept.env if entry["name"] not in values] + entries


def _shared_memory(command: Command) -> Object:
    return {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": command.shared_memory}}
