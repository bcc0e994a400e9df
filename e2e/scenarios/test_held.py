"""A team holds its deployment: `kubectl scale` pins and gives back, an HPA is named and does nothing, a pause holds, a
dry run only tells."""

from __future__ import annotations

import pytest

from e2e.stage import API, NAMESPACE, Object, Stage

HPA = {
    "apiVersion": "autoscaling/v2",
    "kind": "HorizontalPodAutoscaler",
    "metadata": {"name": "cpu", "namespace": NAMESPACE},
    "spec": {
        "scaleTargetRef": {"apiVersion": API, "kind": "MoEDeployment", "name": "glm-5"},
        "minReplicas": 1,
        "maxReplicas": 4,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {
            "type": "Utilization", "averageUtilization": 70}}}],
    },
}  # fmt: skip
SPEC = {
    "model": {"name": "glm-5"},
    "maxReplicas": 3,
    "placement": {"variants": [{"pool": "blackwell-b200", "precision": "NVFP4"}]},
    "spill": {"providers": [{"name": "zai", "model": "glm-5"}]},
}
PAUSED, DRY_RUN = "spillway.dev/paused", "spillway.dev/dry-run"


@pytest.mark.only("local")
def test_pin_pause_and_dry_run(play: Stage) -> None:
    trial = play.moe("trial", SPEC)
    trial["metadata"]["annotations"] = {DRY_RUN: "true"}
    play.apply(play.moe("glm-5", SPEC), HPA, trial)

    would = play.wait("a dry run that tells", lambda: dry_words(play, "trial"), 20)
    assert would.startswith("would change 0→1 blackwell-b200-nvfp4-vllm (FloorRaised, +$16.80/h of GPUs)")
    assert len(says(play, "ForeignAutoscaler", "AutoscalerInactive")["message"]) > 40
    play.wait_ready("glm-5", 60)
    assert "ForeignAutoscaler" in {e["reason"] for e in play.events("glm-5")}
    assert play.wait("the HPA's own word", lambda: inactive(play), 30) == "ScalingDisabled"
    assert (play.get("moe", "glm-5", NAMESPACE) or {})["spec"].get("replicas", 0) == 0
    assert not children(play, "trial"), "a dry run creates nothing"
    assert play.ask("trial", "hello").status == 404

    scale(play, 2)
    assert "spec.replicas is 2" in says(play, "ForeignAutoscaler", "AutoscalerPins")["message"]
    play.delete("hpa", "cpu", NAMESPACE)
    says(play, "ForeignAutoscaler", "NoAutoscaler")
    says(play, "Pinned", "PinnedByReplicas")
    play.wait("two replicas", lambda: play.status("glm-5")["readyReplicas"] == 2, 60)

    annotate(play, f"{PAUSED}=true")
    says(play, "Paused", "PausedByAnnotation")
    scale(play, 0)
    says(play, "Pinned", "NotPinned")
    assert wanted(play) == (2, 2), "given back, but paused"
    annotate(play, f"{PAUSED}-")
    play.wait("one replica", lambda: wanted(play) == (1, 1), 60)
    assert play.ask("glm-5", "hello [[out=3]]").headers["x-spillway-served-by"] == "local"

    annotate(play, f"{DRY_RUN}=true")
    scale(play, 3)
    play.wait("what a pin would do", lambda: "change 1→3" in dry_words(play, "glm-5"), 20)
    assert wanted(play) == (1, 1)


def scale(play: Stage, replicas: int) -> None:
    play.cluster.kubectl("scale", "moe/glm-5", "-n", NAMESPACE, f"--replicas={replicas}")


def annotate(play: Stage, change: str) -> None:
    play.cluster.kubectl("annotate", "moe/glm-5", "-n", NAMESPACE, change)


def says(play: Stage, kind: str, reason: str) -> Object:
    """The condition, once it has that reason."""

    def look() -> Object | None:
        found = play.condition("moe", "glm-5", kind, NAMESPACE)
        return found if found.get("reason") == reason else None

    return play.wait(f"{kind} to say {reason}", look, 25)


def dry_words(play: Stage, name: str) -> str:
    found = play.condition("moe", name, "Paused", NAMESPACE)
    return str(found["message"]) if found.get("reason") == "DryRun" else ""


def inactive(play: Stage) -> str:
    """Why the HPA does not scale, in its own words."""
    found = play.condition("hpa", "cpu", "ScalingActive", NAMESPACE)
    return str(found["reason"]) if found.get("status") == "False" else ""


def wanted(play: Stage) -> tuple[int, int]:
    """Replicas that the status and the Deployments of glm-5 ask for."""
    owned = play.objects("deployments", NAMESPACE, "spillway.dev/deployment=glm-5")
    return play.status("glm-5")["desiredReplicas"], sum(o["spec"]["replicas"] for o in owned)


def children(play: Stage, name: str) -> list[str]:
    kinds = "deployments,pods,services,serviceaccounts,poddisruptionbudgets,networkpolicies"
    return [o["metadata"]["name"] for o in play.objects(kinds, NAMESPACE) if name in o["metadata"]["name"]]
