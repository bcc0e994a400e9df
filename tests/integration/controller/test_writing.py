"""Children and status on a real API server: applied where they differ, untouched where they do not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from spillway.act.children import Children
from spillway.act.compare import merge_patch
from spillway.act.kube import KubeError, path
from spillway.act.status import of_deployment
from spillway.api import API_VERSION, GPUPool, MoEDeployment, MoEDeploymentStatus, Reason, dump, find_condition, parse
from spillway.build import BuildSettings
from spillway.catalog import load
from spillway.decide.outcome import Decision, DeploymentPlan, ProviderPlan, Refusal, SpillPlan, WorkloadPlan
from spillway.decide.reasons import Code
from spillway.decide.snapshot import Demand, Deployment
from spillway.observe import Objects, Resolved, resolve
from spillway.observe.resolve import valid
from tests.integration.conftest import Kube as Server
from tests.unit.api.examples import example

from .conftest import Place

Object = dict[str, Any]
ROOT = Path(__file__).parents[3]
VARIANT = "blackwell-b200-nvfp4-vllm"
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
SETTINGS = BuildSettings()


@pytest.fixture(scope="module", autouse=True)
def kinds(kube: Server) -> None:
    """The four kinds on the API server."""
    applied = kube.kubectl("apply", "--server-side", "-k", str(ROOT / "crds"))
    assert applied.returncode == 0, applied.stderr
    found = [f"--filename={p}" for p in sorted((ROOT / "crds").glob("*.spillway.dev.yaml"))]
    waited = kube.kubectl("wait", "--for=condition=Established", "--timeout=60s", *found)
    assert waited.returncode == 0, waited.stderr


@dataclass
class Scene:
    """A stored MoEDeployment and what it resolves to."""

    place: Place
    objects: Objects
    resolved: Resolved
    children: Children

    @property
    def revision(self) -> str:
        return self.resolved.revisions[VARIANT]

    def plan(self, *workloads: WorkloadPlan) -> DeploymentPlan:
        spill = SpillPlan(
            False, 15.0, (), Refusal(503, "no_capacity", "No replica is ready.", 30), "NoProvider", "none"
        )
        desired = {w.variant: w.replicas for w in workloads}
        return DeploymentPlan(self.resolved.moe.key, desired, workloads, 10, spill, reference=VARIANT)

    def current(self, replicas: int, *draining: str) -> DeploymentPlan:
        return self.plan(WorkloadPlan(VARIANT, self.revision, replicas, draining))

    def versions(self) -> dict[str, str]:
        """resourceVersion of every child, as the API server has it."""
        kinds = "deployment,service,serviceaccount,poddisruptionbudget,networkpolicy"
        done = self.place.server.kubectl(
            "get", kinds, "-n", self.place.namespace, "-l", "app.kubernetes.io/managed-by=spillway", "-o", "json"
        )
        assert done.returncode == 0, done.stderr
        items = json.loads(done.stdout)["items"]
        return {f"{i['kind']}/{i['metadata']['name']}": i["metadata"]["resourceVersion"] for i in items}


@pytest.fixture
async def scene(place: Place) -> Scene:
    body = example("MoEDeployment", "glm-5")
    body["metadata"]["namespace"] = place.namespace
    moe = await place.kube.apply(body)
    pools = valid(GPUPool, {"blackwell-b200": example("GPUPool", "blackwell-b200")})
    objects = Objects()
    resolved = resolve(moe, pools, objects, load(), SETTINGS)
    assert isinstance(resolved, Resolved)
    place.writes()
    return Scene(place, objects, resolved, Children(place.kube, objects, SETTINGS))


async def test_the_second_time_nothing_is_written(scene: Scene) -> None:
    await scene.children.bring(scene.resolved, scene.current(2))
    versions = scene.versions()
    assert {name.split("/")[0] for name in versions} == {
        "Deployment",
        "Service",
        "ServiceAccount",
        "PodDisruptionBudget",
        "NetworkPolicy",
    }
    assert len(scene.place.writes()) == 5
    await scene.children.bring(scene.resolved, scene.current(2))
    assert scene.place.writes() == []
    assert scene.versions() == versions


async def test_a_restarted_operator_that_lists_what_is_there_writes_nothing(scene: Scene) -> None:
    await scene.children.bring(scene.resolved, scene.current(2))
    scene.place.writes()
    listed = Objects()
    for plural in ("deployments", "services", "serviceaccounts", "poddisruptionbudgets", "networkpolicies"):
        done = scene.place.server.kubectl("get", plural, "-n", scene.place.namespace, "-o", "json")
        for obj in json.loads(done.stdout)["items"]:
            listed.store(plural)[f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"] = obj
    await Children(scene.place.kube, listed, SETTINGS).bring(scene.resolved, scene.current(2))
    assert scene.place.writes() == []


async def test_children_are_owned_so_that_they_go_with_the_deployment(scene: Scene) -> None:
    await scene.children.bring(scene.resolved, scene.current(1))
    for plural in ("deployments", "services", "serviceaccounts", "poddisruptionbudgets", "networkpolicies"):
        for obj in scene.objects.store(plural).values():
            [owner] = obj["metadata"]["ownerReferences"]
            assert (owner["kind"], owner["uid"]) == ("MoEDeployment", scene.resolved.moe.metadata.uid)


async def test_a_pod_monitor_comes_where_the_cluster_has_that_kind(scene: Scene) -> None:
    await scene.children.bring(scene.resolved, scene.current(1))
    scene.place.writes()
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "podmonitors.monitoring.coreos.com"},
        "spec": {
            "group": "monitoring.coreos.com",
            "scope": "Namespaced",
            "names": {"plural": "podmonitors", "singular": "podmonitor", "kind": "PodMonitor"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {
                        "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                    },
                }
            ],
        },
    }
    kubectl = scene.place.server.kubectl
    assert kubectl("apply", "-f", "-", input=json.dumps(crd)).returncode == 0
    name = f"crd/{crd['metadata']['name']}"  # type: ignore[index]
    try:
        assert kubectl("wait", "--for=condition=Established", "--timeout=60s", name).returncode == 0
        scene.objects.extensions.add("podmonitors")
        await scene.children.bring(scene.resolved, scene.current(1))
        [written] = scene.place.writes()
        assert "podmonitors" in written
        await scene.children.bring(scene.resolved, scene.current(1))
        assert scene.place.writes() == []
    finally:
        kubectl("delete", name)


async def test_only_what_differs_is_written(scene: Scene) -> None:
    await scene.children.bring(scene.resolved, scene.current(1))
    before = scene.versions()
    scene.place.writes()
    await scene.children.bring(scene.resolved, scene.current(3))
    [write] = scene.place.writes()
    assert "/deployments/" in write
    changed = {name for name, version in scene.versions().items() if before[name] != version}
    assert {name.split("/")[0] for name in changed} == {"Deployment"}


async def test_anothers_change_of_our_field_is_taken_back_and_of_its_own_is_not(scene: Scene) -> None:
    await scene.children.bring(scene.resolved, scene.current(1))
    [(key, live)] = scene.objects.deployments.items()
    name = live["metadata"]["name"]
    arguments = ["-n", scene.place.namespace, "deployment", name]
    scene.place.server.kubectl("scale", "--replicas=5", "-n", scene.place.namespace, f"deployment/{name}")
    scene.place.server.kubectl("annotate", *arguments, "team=blue")
    done = scene.place.server.kubectl("get", *arguments, "-o", "json")
    scene.objects.deployments[key] = json.loads(done.stdout)  # what the watch would bring
    await scene.children.bring(scene.resolved, scene.current(1))
    now = json.loads(scene.place.server.kubectl("get", *arguments, "-o", "json").stdout)
    assert now["spec"]["replicas"] == 1
    assert now["metadata"]["annotations"]["team"] == "blue"


async def test_an_older_revision_only_changes_its_size_and_goes_when_it_is_empty(scene: Scene) -> None:
    await scene.children.bring(scene.resolved, scene.current(2))
    [live] = scene.objects.deployments.values()
    old, name = scene.revision, live["metadata"]["name"]
    newer = Resolved(scene.resolved.moe, scene.resolved.variants, (), {VARIANT: "0123abcd"}, scene.resolved.pools)
    scene.place.writes()
    arguments = ["-n", scene.place.namespace, "deployment", name, "-o", "json"]
    await scene.children.bring(newer, scene.plan(WorkloadPlan(VARIANT, old, 1)))
    [write] = scene.place.writes()
    assert write.startswith("PATCH") and name in write
    shrunk = json.loads(scene.place.server.kubectl("get", *arguments).stdout)
    assert shrunk["spec"]["replicas"] == 1
    assert shrunk["spec"]["template"] == live["spec"]["template"]
    await scene.children.bring(newer, scene.plan(WorkloadPlan(VARIANT, old, 0)))
    assert scene.place.server.kubectl("get", *arguments).returncode != 0
    assert scene.objects.deployments == {}


async def test_a_workload_with_pods_is_not_deleted_and_victims_are_marked(scene: Scene) -> None:
    await scene.children.bring(scene.resolved, scene.current(1))
    [live] = scene.objects.deployments.values()
    template = live["spec"]["template"]
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "replica-1", "namespace": scene.place.namespace, "labels": template["metadata"]["labels"]},
        "spec": template["spec"],
    }
    key = f"{scene.place.namespace}/replica-1"
    scene.objects.pods[key] = await scene.place.kube.apply(body)
    await scene.children.bring(scene.resolved, scene.current(1, "replica-1"))
    marked = scene.objects.pods[key]["metadata"]["annotations"]
    assert marked["controller.kubernetes.io/pod-deletion-cost"] == "-1000"
    scene.place.writes()
    await scene.children.bring(scene.resolved, scene.current(1, "replica-1"))
    assert scene.place.writes() == []
    await scene.children.bring(scene.resolved, scene.current(1))
    assert scene.objects.pods[key]["metadata"]["annotations"]["controller.kubernetes.io/pod-deletion-cost"] == "0"
    await scene.children.bring(scene.resolved, scene.current(0))
    assert len(scene.objects.deployments) == 1, "its pod still ends"
    del scene.objects.pods[key]
    await scene.children.bring(scene.resolved, scene.current(0))
    assert scene.objects.deployments == {}


async def test_status_is_stored_as_it_was_written_and_then_needs_no_patch(scene: Scene) -> None:
    moe = scene.resolved.moe
    seen = Deployment(moe.metadata.namespace, moe.metadata.name, 1, 8, 0, 10.0, (), demand=Demand(4.0, 1000, 200, 1.0))
    changes = (Decision(Code.DEMAND_ROSE, "0→1: 0.9 replicas of work", VARIANT, 0, 1, -3.456),)
    plan = scene.current(1)
    plan = DeploymentPlan(
        plan.key,
        plan.desired,
        plan.workloads,
        plan.gate,
        SpillPlan(True, 60.0, (ProviderPlan("zai", "glm-5", True, 9),), plan.spill.refusal, "Saturated", "full"),
        changes,
        reference=VARIANT,
    )
    status = of_deployment(scene.resolved, seen, plan, MoEDeploymentStatus(), changes, 1.25, NOW)
    where = path(API_VERSION, "MoEDeployment", scene.place.namespace, "glm-5", "status")
    stored = await scene.place.kube.merge(where, {"status": merge_patch({}, dump(status))})
    assert merge_patch(stored["status"], dump(status)) == {}, "an idle tick writes nothing"
    read = parse(MoEDeployment, stored)
    assert isinstance(read, MoEDeployment)
    assert read.status == status
    assert read.status.decisions[0].dollars_per_hour == Decimal("-3.46")
    ready = find_condition(read.status.conditions, "Ready")
    assert ready is not None
    assert ready.reason == Reason.STARTING
    assert read.metadata.generation == moe.metadata.generation, "a status is no new generation"


async def test_errors_carry_what_the_api_server_said(scene: Scene) -> None:
    where = path(API_VERSION, "MoEDeployment", scene.place.namespace, "glm-5", "status")
    with pytest.raises(KubeError) as caught:
        await scene.place.kube.merge(where, {"status": {"summary": 5}})
    assert caught.value.status == 422
    assert "summary" in caught.value.message
    with pytest.raises(KubeError, match="404 NotFound"):
        await scene.place.kube.request("GET", path(API_VERSION, "MoEDeployment", scene.place.namespace, "no-such"))


async def test_delete_is_of_that_very_object_and_may_come_twice(scene: Scene) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one", "namespace": scene.place.namespace}}
    first = await scene.place.kube.apply(body)
    await scene.place.kube.delete(first)
    await scene.place.kube.delete(first)
    second = await scene.place.kube.apply(body)
    await scene.place.kube.delete(first)  # another object by the same name
    found = await scene.place.kube.request("GET", path("v1", "ConfigMap", scene.place.namespace, "one"))
    assert found["metadata"]["uid"] == second["metadata"]["uid"]
