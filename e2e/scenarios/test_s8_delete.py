"""S8: delete a deployment, then Spillway itself: nothing is left, nothing gets stuck, and it can be installed again."""

from __future__ import annotations

from e2e.stage import NAMESPACE, Stage

KINDS = "deployments,replicasets,pods,services,serviceaccounts,poddisruptionbudgets,networkpolicies"


def test_s8_nothing_is_left(play: Stage) -> None:
    spec = {"model": {"name": "glm-5"}, "spill": {"providers": [{"name": "zai", "model": "glm-5"}]}}
    play.apply(play.moe("glm-5", spec))
    play.wait_ready("glm-5")
    assert children(play)

    play.delete("moedeployment", "glm-5", NAMESPACE)
    play.wait("all children gone", lambda: not children(play), 60)

    play.apply(play.moe("glm-5", spec))
    play.wait_ready("glm-5")
    assert play.refused() == []
    play.cluster.delete_operator()
    crds = play.objects("crd")
    assert not [c for c in crds if c["spec"]["group"] == "spillway.dev"], "the kinds went with their objects"
    play.wait("children gone with the kinds", lambda: not children(play), 60)
    assert play.get("namespace", "spillway-system") is None

    play.cluster.deploy_operator()
    play.wait_for_gateways()
    play.platform()
    play.apply(play.moe("glm-5", spec))
    play.wait_ready("glm-5")
    play.refused()  # the roles went before the last pod: its complaints in between are none


def children(play: Stage) -> list[str]:
    """Objects in the namespace that belong to a MoEDeployment."""
    found = play.objects(KINDS, NAMESPACE)
    return [f"{o['kind']}/{o['metadata']['name']}" for o in found if "glm-5" in o["metadata"]["name"]]
