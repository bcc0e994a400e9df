"""The Deployment of one variant and revision whose replicas are single pods."""

from __future__ import annotations

from spillway.api import MoEDeployment
from spillway.build.labels import DEPLOYMENT_LABEL, REVISION_LABEL, VARIANT_LABEL, Object, metadata, workload_name
from spillway.build.settings import BuildSettings
from spillway.catalog import ResolvedVariant


def deployment(
    moe: MoEDeployment,
    variant: ResolvedVariant,
    template: Object,
    revision: str,
    replicas: int,
    settings: BuildSettings,
) -> Object:
    """The Deployment that runs ``replicas`` pods of a template, which has the revision's label.

    A new revision is another Deployment: Spillway itself moves replicas between them, so the Deployment's own rolling
    update never runs.
    """
    labels = template["metadata"]["labels"]
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
