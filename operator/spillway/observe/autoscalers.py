"""HorizontalPodAutoscalers that target a MoEDeployment: nothing is decided by them, but their owner must hear of it."""

from __future__ import annotations

from dataclasses import dataclass

from spillway.api import GROUP, MoEDeployment
from spillway.observe.objects import Object, Objects


@dataclass(frozen=True, slots=True)
class Autoscaler:
    """One HorizontalPodAutoscaler. `maker`: kind/name of what made it (KEDA's ScaledObject) and would make it again."""

    name: str
    min_replicas: int
    max_replicas: int
    maker: str = ""


def targets_moedeployment(hpa: Object) -> bool:
    """Whether the HorizontalPodAutoscaler scales a MoEDeployment of ours, whatever the version."""
    target = hpa["spec"]["scaleTargetRef"]
    return target["kind"] == "MoEDeployment" and str(target.get("apiVersion", "")).partition("/")[0] == GROUP


def autoscalers(moe: MoEDeployment, objects: Objects) -> tuple[Autoscaler, ...]:
    """Those that target this deployment, by name."""
    return tuple(
        _autoscaler(hpa)
        for _, hpa in sorted(objects.horizontalpodautoscalers.items())
        if targets_moedeployment(hpa)
        and hpa["metadata"]["namespace"] == moe.metadata.namespace
        and hpa["spec"]["scaleTargetRef"]["name"] == moe.metadata.name
        and not hpa["metadata"].get("deletionTimestamp")
    )


def _autoscaler(hpa: Object) -> Autoscaler:
    owners = hpa["metadata"].get("ownerReferences") or ()
    maker = next((f"{o['kind']}/{o['name']}" for o in owners if o.get("controller")), "")
    spec = hpa["spec"]
    return Autoscaler(hpa["metadata"]["name"], int(spec.get("minReplicas", 1)), int(spec["maxReplicas"]), maker)
