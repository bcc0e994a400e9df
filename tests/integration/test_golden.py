"""The golden manifests on a real API server: every object, and every pod that their controllers would make of them.

LeaderWorkerSet is the published CRD. ComputeDomain and PodMonitor have no kind here: nothing checks these two but their
own tests (docs/workloads.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster.leaderworkersets import find_or_build
from e2e.cluster.processes import wait_until
from spillway.build.labels import GROUP_KEY_LABEL
from tests.golden.__main__ import DIRECTORY
from tests.integration.conftest import Kube

Object = dict[str, Any]

UNKNOWN_HERE = {"ComputeDomain", "PodMonitor"}
NAMESPACE = "chat"


@pytest.fixture(scope="module")
def api(kube: Kube) -> Iterator[Kube]:
    """With what the manifests refer to: their kinds, the namespace, accounts and classes."""
    published = json.loads(find_or_build().manifests.read_text())
    (crd,) = [obj for obj in published if obj["metadata"]["name"].startswith("leaderworkersets.")]
    del crd["spec"]["conversion"]  # there is one version, and no webhook here
    accounts = {pod["spec"]["serviceAccountName"] for path in FILES for pod in pods(path)}
    classes = {pod["spec"].get("priorityClassName") for path in FILES for pod in pods(path)} - {None}
    apply(
        kube,
        [
            crd,
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
            *(
                {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": NAMESPACE}}
                for name in sorted(accounts)
            ),
            *(
                {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": 1}
                for name in sorted(classes)
            ),
        ],
        "--validate=false",
    )
    name = f"crd/{crd['metadata']['name']}"
    # kubectl gives up where there are no conditions yet.
    established = ("wait", "--for=condition=Established", "--timeout=5s", name)
    wait_until(name, lambda: kube.kubectl(*established).returncode == 0, 60)
    yield kube
    assert kube.kubectl("delete", name).returncode == 0  # the API server is that of all tests


def objects(path: Path) -> list[Object]:
    return [obj for obj in yaml.load_all(path.read_text(), yaml.CSafeLoader) if obj["kind"] not in UNKNOWN_HERE]


def pods(path: Path) -> list[Object]:
    """A pod of each template, with the label that LeaderWorkerSet gives those of a group."""
    found = []
    for obj in objects(path):
        group = obj.get("spec", {}).get("leaderWorkerTemplate")
        parts = {"": obj["spec"]["template"]} if obj["kind"] in ("Deployment", "DaemonSet") else {}
        parts |= {role: group[f"{role}Template"] for role in ("leader", "worker")} if group else {}
        for role, template in parts.items():
            labels = template["metadata"]["labels"] | ({GROUP_KEY_LABEL: "g"} if group else {})
            name = f"{obj['metadata']['name']}{role and '-'}{role}"
            meta = {**template["metadata"], "labels": labels, "name": name, "namespace": NAMESPACE}
            found.append({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]})
    return found


FILES = sorted(DIRECTORY.glob("*.yaml"))


def apply(kube: Kube, items: list[Object], *flags: str) -> None:
    """All of them at once, by server-side apply; each refusal is told."""
    bundle = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    done = kube.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", *flags, input=bundle)
    assert done.returncode == 0, done.stderr


def test_the_api_server_takes_every_object_and_every_pod(api: Kube) -> None:
    everything = [obj for path in FILES for obj in objects(path)]
    assert {"Deployment", "DaemonSet", "LeaderWorkerSet", "NetworkPolicy"} <= {obj["kind"] for obj in everything}
    apply(api, everything, "--dry-run=server", "--validate=strict")
    apply(api, [pod for path in FILES for pod in pods(path)], "--dry-run=server", "--validate=strict")


def test_the_api_server_would_refuse_an_unknown_field(api: Kube) -> None:
    (pod, *_) = pods(FILES[-1])
    pod["spec"]["containers"][0]["imagePullpolicy"] = "Always"
    with pytest.raises(AssertionError, match="imagePullpolicy"):
        apply(api, [pod], "--dry-run=server", "--validate=strict")
