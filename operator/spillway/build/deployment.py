"""The Deployment of one variant and revision, and the revision itself."""

from __future__ import annotations

import hashlib
import json

from spillway.api import GPUPool, MoEDeployment, dump
from spillway.build import sglang, vllm
from spillway.build.account import account_name
from spillway.build.command import MODELS_DIRECTORY, Command, checkpoint_path
from spillway.build.labels import (
    DEPLOYMENT_LABEL,
    ENGINE_CONTAINER,
    ENGINE_PORT,
    ENGINE_PORT_NAME,
    REVISION_LABEL,
    VARIANT_LABEL,
    Object,
    metadata,
    replica_labels,
    workload_name,
)
from spillway.build.settings import BuildSettings
from spillway.catalog import ResolvedVariant

SHARED_MEMORY = "16Gi"
"""/dev/shm for NCCL and the engine's own processes: 2–256 GiB in published manifests, 15 in LeaderWorkerSet's."""
LIVENESS_FAILURES = 6
_ENGINES = {"vLLM": vllm.command, "SGLang": sglang.command}


def deployment(
    moe: MoEDeployment, variant: ResolvedVariant, pool: GPUPool, replicas: int, settings: BuildSettings
) -> Object:
    """The Deployment that runs ``replicas`` copies of a variant in its current revision.

    A new revision is another Deployment: Spillway itself moves replicas between them, so the Deployment's own rolling
    update never runs.
    """
    template = _pod_template(moe, variant, pool, settings)
    revision = _digest(template)
    labels = {**template["metadata"]["labels"], REVISION_LABEL: revision}
    template["metadata"]["labels"] = labels
    selector = {key: labels[key] for key in (DEPLOYMENT_LABEL, VARIANT_LABEL, REVISION_LABEL)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(moe, workload_name(moe.metadata.name, variant.name, revision), labels),
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 0,
            "progressDeadlineSeconds": settings.startup_seconds + 600,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": selector},
            "template": template,
        },
    }


def revision(moe: MoEDeployment, variant: ResolvedVariant, pool: GPUPool, settings: BuildSettings) -> str:
    """8 hex digits over the pod template: a change means that running replicas must be replaced."""
    return _digest(_pod_template(moe, variant, pool, settings))


def _digest(template: Object) -> str:
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:8]


def _pod_template(moe: MoEDeployment, variant: ResolvedVariant, pool: GPUPool, settings: BuildSettings) -> Object:
    command = _ENGINES[variant.engine](moe, variant, settings)
    claim = checkpoint_path(variant.checkpoint_uri).claim
    return {
        "metadata": {
            "labels": replica_labels(moe, variant.name),
            "annotations": {
                "karpenter.sh/do-not-disrupt": "true",  # a consolidated node would cost a cold start
                "kubectl.kubernetes.io/default-container": ENGINE_CONTAINER,
            },
        },
        "spec": {
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
            "containers": [_container(moe, variant, pool, command, claim, settings)],
            "volumes": _volumes(claim),
        },
    }


def _container(
    moe: MoEDeployment,
    variant: ResolvedVariant,
    pool: GPUPool,
    command: Command,
    claim: str | None,
    settings: BuildSettings,
) -> Object:
    gpus = variant.gpus_per_replica
    period = settings.probe_period_seconds
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
        "ports": [{"name": ENGINE_PORT_NAME, "containerPort": ENGINE_PORT, "protocol": "TCP"}],
        "resources": {
            "requests": {**settings.requests(gpus), pool.spec.gpu.resource_name: str(gpus)},
            "limits": {pool.spec.gpu.resource_name: str(gpus)},
        },
        "startupProbe": _probe("/health", period, max(1, settings.startup_seconds // period)),
        "readinessProbe": _probe(command.readiness_path, period, 2),
        "livenessProbe": _probe("/health", 3 * period, LIVENESS_FAILURES),
        "lifecycle": {"preStop": {"sleep": {"seconds": settings.prestop_seconds}}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": mounts,
    }


def _probe(path: str, period_seconds: int, failures: int) -> Object:
    # SGLang's /health generates a token, behind whatever is queued: a short timeout would kill a busy replica.
    return {
        "httpGet": {"path": path, "port": ENGINE_PORT_NAME},
        "periodSeconds": period_seconds,
        "timeoutSeconds": 20 if path == "/health" else 5,
        "failureThreshold": failures,
    }


def _environment(moe: MoEDeployment, command: Command) -> list[Object]:
    values = {"HF_HOME": "/cache/huggingface", **dict(command.env)}
    values |= {variable.name: variable.value for variable in moe.spec.engine.env}
    entries: list[Object] = [{"name": name, "value": value} for name, value in values.items()]
    if (token := moe.spec.model.token_secret_ref) and "HF_TOKEN" not in values:
        entries.append(
            {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": token.name, "key": token.key}}},
        )
    return entries


def _volumes(claim: str | None) -> list[Object]:
    volumes: list[Object] = [
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": SHARED_MEMORY}},
        {"name": "cache", "emptyDir": {}},
    ]
    if claim:
        volumes.append({"name": "checkpoint", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
    return volumes
