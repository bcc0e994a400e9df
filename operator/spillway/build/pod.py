"""The pod of a replica, or of one node of it."""

from __future__ import annotations

from spillway.api import GPUPool, MoEDeployment, dump
from spillway.build import sglang, vllm
from spillway.build.account import account_name
from spillway.build.command import MODELS_DIRECTORY, Command, Role, checkpoint_path
from spillway.build.labels import (
    ENGINE_CONTAINER,
    ENGINE_PORT,
    ENGINE_PORT_NAME,
    GROUP_KEY_LABEL,
    Object,
    pod_selector,
    replica_labels,
)
from spillway.build.settings import BuildSettings
from spillway.catalog import ResolvedVariant

LIVENESS_FAILURES = 6
_ENGINES = {"vLLM": vllm.command, "SGLang": sglang.command}


def pod_template(
    moe: MoEDeployment, variant: ResolvedVariant, pool: GPUPool, settings: BuildSettings, role: Role
) -> Object:
    """The pod template of a role, without the revision's label: the revision is a digest of it."""
    command = _ENGINES[variant.engine](moe, variant, settings, role)
    claim = checkpoint_path(variant.checkpoint_uri).claim
    spec: Object = {
        "serviceAccountName": account_name(moe.metadata.name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # a Service named vllm would set VLLM_PORT=tcp://… and break the start
        "terminationGracePeriodSeconds": settings.termination_grace_seconds,
        "nodeSelector": dict(pool.spec.node_selector),
        "tolerations": [
            {key: value for key, value in dump(toleration).items() if value} for toleration in pool.spec.tolerations
        ],
        # The engines' published images run as root; everything else of the restricted profile holds.
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(moe, variant, pool, command, claim, settings, role)],
        "volumes": _volumes(command, claim),
    }
    if role is not Role.WHOLE:
        spec["affinity"] = _together(moe)
    return {
        "metadata": {
            "labels": replica_labels(moe, variant.name),
            "annotations": {
                "karpenter.sh/do-not-disrupt": "true",  # a consolidated node would cost a cold start
                "kubectl.kubernetes.io/default-container": ENGINE_CONTAINER,
            },
        },
        "spec": spec,
    }


def _container(
    moe: MoEDeployment,
    variant: ResolvedVariant,
    pool: GPUPool,
    command: Command,
    claim: str | None,
    settings: BuildSettings,
    role: Role,
) -> Object:
    gpus = variant.parallelism.gpus_per_node
    mounts: list[Object] = [
        {"name": "shared-memory", "mountPath": "/dev/shm"},
        {"name": "cache", "mountPath": "/cache"},
    ]
    if claim:
        mounts.append({"name": "checkpoint", "mountPath": MODELS_DIRECTORY, "readOnly": True})
    return {
        "name": ENGINE_CONTAINER,
        "image": variant.image,
        "command": list(command.command),
        "args": list(command.args),
        "env": _environment(moe, command),
        "resources": {
            "requests": {**settings.requests(gpus), pool.spec.gpu.resource_name: str(gpus)},
            "limits": {pool.spec.gpu.resource_name: str(gpus)},
        },
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": mounts,
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


def _together(moe: MoEDeployment) -> Object:
    """Pods of one group near each other: networks between GPUs do not cross a zone, and often not a building.

    The group's key is a label that LeaderWorkerSet gives each pod; `matchLabelKeys` (Kubernetes 1.33) takes its value.
    The selector must not name the same label: the API server refuses such a pod, though not the LeaderWorkerSet.
    """
    return {
        "podAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {
                    "weight": 100,
                    "podAffinityTerm": {
                        "labelSelector": {"matchLabels": pod_selector(moe.metadata.name)},
                        "matchLabelKeys": [GROUP_KEY_LABEL],
                        "topologyKey": "topology.kubernetes.io/zone",
                    },
                }
            ]
        }
    }


def _environment(moe: MoEDeployment, command: Command) -> list[Object]:
    values = {"HF_HOME": "/cache/huggingface", **dict(command.env)}
    values |= {variable.name: variable.value for variable in moe.spec.engine.env}
    entries: list[Object] = [{"name": name, "value": value} for name, value in values.items()]
    if command.address_variable and command.address_variable not in values:
        entries.append({"name": command.address_variable, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
    if (token := moe.spec.model.token_secret_ref) and "HF_TOKEN" not in values:
        entries.append(
            {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": token.name, "key": token.key}}},
        )
    return entries


def _volumes(command: Command, claim: str | None) -> list[Object]:
    volumes: list[Object] = [
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": command.shared_memory}},
        {"name": "cache", "emptyDir": {}},
    ]
    if claim:
        volumes.append({"name": "checkpoint", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
    return volumes
