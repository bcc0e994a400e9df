"""S7: whatever a user gets wrong gives a condition that says what to do, and harms nobody else."""

from __future__ import annotations

import json

import pytest

from e2e.stage import NAMESPACE, Object, Stage


@pytest.fixture
def neighbour(play: Stage) -> Stage:
    """A deployment that is fine, and stays so."""
    play.apply(play.moe("fine", {"model": {"name": "glm-5"}}))
    play.wait_ready("fine")
    return play


def says(play: Stage, kind: str, name: str, type: str, reason: str, *words: str, namespace: str | None = None) -> None:
    condition = play.wait(
        f"{kind} {name}: {type} with reason {reason}",
        lambda: c if (c := play.condition(kind, name, type, namespace)).get("reason") == reason else None,
        40,
    )
    assert condition["status"] == "False"
    for word in words:
        assert word in condition["message"], condition["message"]


def test_s7_each_mistake_is_told_and_the_neighbour_serves(neighbour: Stage) -> None:
    play = neighbour
    mistakes: dict[str, Object] = {
        "unknown-model": {"model": {"name": "glm-500"}},
        "too-large": {
            "model": {"name": "deepseek-v4-pro"},
            "placement": {"variants": [{"pool": "hopper-h200", "precision": "NVFP4"}]},
        },
        "lost-provider": {"model": {"name": "glm-5"}, "spill": {"providers": [{"name": "nobody", "model": "glm-5"}]}},
        "no-key": {"model": {"name": "glm-5"}, "spill": {"providers": [{"name": "keyless", "model": "glm-5"}]}},
    }
    play.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "taken", "namespace": NAMESPACE},
                "spec": {"ports": [{"port": 80}]}})  # fmt: skip
    play.apply(
        play.provider("zai"), {**play.provider("zai", credentials={"key": "missing"}), "metadata": {"name": "keyless"}}
    )
    for name, spec in mistakes.items():
        play.apply(play.moe(name, spec))
    play.apply(play.moe("taken", {"model": {"name": "glm-5"}}))

    ready = ("moedeployment", "Ready")
    says(play, ready[0], "unknown-model", ready[1], "UnknownModel", "glm-500", "glm-5", namespace=NAMESPACE)
    says(play, ready[0], "too-large", ready[1], "NoPoolFits", "hopper-h200", namespace=NAMESPACE)
    says(play, ready[0], "taken", ready[1], "NameTaken", "taken", "delete that Service", namespace=NAMESPACE)
    says(play, ready[0], "lost-provider", "SpillAvailable", "UnknownProvider", "nobody", "zai", namespace=NAMESPACE)
    says(
        play,
        ready[0],
        "no-key",
        "SpillAvailable",
        "MissingKey",
        "missing",
        "spillway-provider-keys",
        namespace=NAMESPACE,
    )
    says(play, "externalprovider", "keyless", "Credentials", "MissingKey", "missing", "spillway-provider-keys")

    refused = play.cluster.kubectl(
        "apply",
        "-f",
        "-",
        check=False,
        input=json.dumps(play.moe("backwards", {"model": {"name": "glm-5"}, "minReplicas": 3, "maxReplicas": 2})),
    )
    assert refused.returncode != 0
    assert "minReplicas must not be more than maxReplicas" in refused.stderr

    assert play.condition("moedeployment", "fine", "Ready", NAMESPACE)["status"] == "True"
    play.delete("service", "taken", NAMESPACE)
    play.wait_ready("taken", 60)


def test_s7_an_object_of_an_older_schema_is_told_of(neighbour: Stage) -> None:
    """Stored when the schema was laxer: relax the CRD, store, restore the CRD. Where a value's type breaks a CEL
    rule, the API server lets nobody write a status at all, and the event alone tells."""
    play = neighbour
    crd = play.get("crd", "moedeployments.spillway.dev")
    assert crd is not None
    lax = json.loads(json.dumps(crd))
    schema = lax["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["spec"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    for one in (lax, crd):
        one["metadata"] = {"name": one["metadata"]["name"], "labels": one["metadata"].get("labels", {})}
        one.pop("status", None)
    try:
        play.cluster.kubectl("replace", "-f", "-", input=json.dumps(with_version(play, lax)))
        old = play.moe("old", {"model": {"name": "glm-5"}, "minReplicas": -3, "engine": {"name": "TGI"}})
        play.wait("the lax schema in force", lambda: stored(play, old), 30)
    finally:
        play.cluster.kubectl("replace", "-f", "-", input=json.dumps(with_version(play, crd)))
    says(play, "moedeployment", "old", "Ready", "InvalidSpec", "minReplicas", "-3", "TGI", namespace=NAMESPACE)
    assert play.condition("moedeployment", "fine", "Ready", NAMESPACE)["status"] == "True"
    assert play.leader()


def with_version(play: Stage, crd: Object) -> Object:
    current = play.get("crd", crd["metadata"]["name"])
    assert current is not None
    crd["metadata"]["resourceVersion"] = current["metadata"]["resourceVersion"]
    return crd


def stored(play: Stage, obj: Object) -> bool:
    return play.cluster.kubectl("apply", "-f", "-", input=json.dumps(obj), check=False).returncode == 0
