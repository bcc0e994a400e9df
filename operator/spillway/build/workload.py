"""What runs a variant in its current revision, and the revision itself."""

from __future__ import annotations

import hashlib
import json

from spillway.api import GPUPool, MoEDeployment
from spillway.build.command import Role
from spillway.build.deployment import deployment
from spillway.build.labels import REVISION_LABEL, Object
from spillway.build.leaderworkerset import leader_worker_set
from spillway.build.pod import pod_template
from spillway.build.settings import BuildSettings
from spillway.catalog import ResolvedVariant


def workload(
    moe: MoEDeployment, variant: ResolvedVariant, pool: GPUPool, replicas: int, settings: BuildSettings
) -> Object:
    """The Deployment of a variant, or its LeaderWorkerSet where a replica takes several nodes."""
    templates = _templates(moe, variant, pool, settings)
    digest = _digest(templates)
    for template in templates:
        template["metadata"]["labels"][REVISION_LABEL] = digest
    if variant.parallelism.nodes == 1:
        return deployment(moe, variant, templates[0], digest, replicas, settings)
    leader, worker = templates
    return leader_worker_set(moe, variant, leader, worker, digest, replicas)


def revision(moe: MoEDeployment, variant: ResolvedVariant, pool: GPUPool, settings: BuildSettings) -> str:
    """8 hex digits over the pod templates: a change means that running replicas must be replaced."""
    return _digest(_templates(moe, variant, pool, settings))


def _templates(moe: MoEDeployment, variant: ResolvedVariant, pool: GPUPool, settings: BuildSettings) -> list[Object]:
    roles = [Role.WHOLE] if variant.parallelism.nodes == 1 else [Role.LEADER, Role.WORKER]
    return [pod_template(moe, variant, pool, settings, role) for role in roles]


def _digest(templates: list[Object]) -> str:
    return hashlib.sha256(json.dumps(templates, sort_keys=True).encode()).hexdigest()[:8]
