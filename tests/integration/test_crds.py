"""The CRDs on a real API server: what it accepts, refuses, fills in and prints."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
import yaml

from spillway.api import KINDS, InvalidSpec, MoEDeployment, MoEDeploymentStatus, VariantStatus, dump, parse
from spillway.api.examples import EXAMPLES
from tests.unit.api.examples import ONE_BUDGET, ONE_MODEL, SMALLEST, Object, example
from tests.unit.api.rules import EACH_RULE, RuleExample

ROOT = Path(__file__).parents[2]
CRDS = sorted((ROOT / "crds").glob("*.spillway.dev.yaml"))
SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))
BY_KIND = {kind.definition.kind: kind for kind in KINDS}


class Kube(Protocol):
    """What the tests need of a cluster."""

    def kubectl(self, *arguments: str, input: str | None = None) -> subprocess.CompletedProcess[str]: ...


def run(kube: Kube, *arguments: str) -> str:
    """Run kubectl, which must succeed; what it prints."""
    done = kube.kubectl(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def api(kube: Kube) -> Iterator[Kube]:
    run(kube, "apply", "--server-side", "-k", str(ROOT / "crds"))
    run(kube, "wait", "--for=condition=Established", "--timeout=60s", *(f"--filename={path}" for path in CRDS))
    kube.kubectl("create", "namespace", "chat")
    yield kube
    for kind in KINDS:
        kube.kubectl("delete", kind.definition.plural, "--all", "--all-namespaces")


def create(api: Kube, obj: Object, *arguments: str) -> subprocess.CompletedProcess[str]:
    return api.kubectl("create", "-f", "-", *arguments, input=json.dumps(obj))


def get(api: Kube, resource: str, name: str) -> Object:
    found: Object = json.loads(run(api, "get", resource, name, "-o", "json"))
    return found


PRICE = {"input": "1", "output": "1"}
TIER = {**PRICE, "aboveInputTokens": 1000}

# Bounds that the schema states without CEL: patterns, enums, unique names.
BOUNDS: list[tuple[str, dict[str, Any], str]] = [
    ("MoEDeployment", {"engine__name": "TGI"}, "Unsupported value"),
    ("MoEDeployment", {"model": {}}, "spec.model.name: Required value"),
    ("MoEDeployment", {"model__sources": {"FP8": {"uri": "ftp://x"}}}, "should match"),
    ("MoEDeployment", {"model__sources": {"FP8": {"uri": "hf://name-alone"}}}, "should match"),
    ("MoEDeployment", {"rollout__strategy": "RollingUpdate"}, "Unsupported value"),
    ("MoEDeployment", {"balancing": "RoundRobin"}, "Unsupported value"),
    ("MoEDeployment", {"spill__when": ["Saturated", "Saturated"]}, "Duplicate value"),
    ("MoEDeployment", {"spill__maxShare": "1.01"}, "should match"),
    ("MoEDeployment", {"hints": [{"schedule": "at eight", "duration": "1h", "minReplicas": 1}]}, "should match"),
    ("MoEDeployment", {"placement__variants": [{"pool": "p", "precision": "INT4"}]}, "Unsupported value"),
    ("MoEDeployment", {"placement__variants": [{"pool": "p", "precision": "FP8"}] * 2}, "Duplicate value"),
    ("MoEDeployment", {"spill__providers": [{"name": "zai", "model": "m"}] * 2}, "Duplicate value"),
    ("MoEDeployment", {"engine__env": [{"name": "A"}, {"name": "A"}]}, "Duplicate value"),
    ("GPUPool", {"nodeSelector": {}}, "should have at least 1 properties"),
    ("GPUPool", {"price__perGPUHour": "4,20"}, "should match"),
    ("GPUPool", {"price__perGPUHour": 4.2}, "must be of type string"),
    ("GPUPool", {"price__minimumBilling": "10"}, "should match"),
    ("GPUPool", {"gpu__computeCapability": "ten"}, "should match"),
    ("ExternalProvider", {"baseURL": "https://user:key@example.com"}, "should match"),
    ("ExternalProvider", {"models": [ONE_MODEL, ONE_MODEL]}, "Duplicate value"),
    ("ExternalProvider", {"models": [{**ONE_MODEL, "price": {**PRICE, "tiers": [TIER, TIER]}}]}, "Duplicate value"),
    ("ExternalProvider", {"models": []}, "should have at least 1 items"),
    ("ExternalProvider", {"credentials__key": "../other"}, "should match"),
    ("CostPolicy", {"budgets": [ONE_BUDGET, ONE_BUDGET]}, "Duplicate value"),
    ("CostPolicy", {"budgets": [{**ONE_BUDGET, "amount": "-1"}]}, "should match"),
    ("CostPolicy", {"pacing": "Odd"}, "Unsupported value"),
    ("CostPolicy", {"enforcement": "Audit"}, "Unsupported value"),
    ("CostPolicy", {"budgets": [{**ONE_BUDGET, "warnAt": [0]}]}, "should be greater than or equal to 1"),
]


@EACH_RULE
def test_each_rule_accepts_and_refuses(api: Kube, rule: RuleExample) -> None:
    good, bad = rule.objects
    assert create(api, good, "--dry-run=server").stderr == ""
    answer = create(api, bad, "--dry-run=server")
    assert answer.returncode != 0 and rule.message in answer.stderr


@pytest.mark.parametrize(("kind", "refused", "message"), BOUNDS)
def test_bounds_refuse(api: Kube, kind: str, refused: dict[str, Any], message: str) -> None:
    answer = create(api, example(kind, **refused), "--dry-run=server")
    assert answer.returncode != 0 and message in answer.stderr


def test_the_resource_name_of_a_pool_cannot_change(api: Kube) -> None:
    assert create(api, example("GPUPool", "fixed")).returncode == 0
    patch = ("patch", "gpool", "fixed", "--type=merge", "-p")
    run(api, *patch, '{"spec":{"gpu":{"perNode":4}}}')
    answer = api.kubectl(*patch, '{"spec":{"gpu":{"resourceName":"example.com/gpu"}}}')
    assert "resourceName cannot be changed" in answer.stderr
    removed = api.kubectl(*patch, '{"spec":{"gpu":{"resourceName":null}}}')
    assert removed.returncode == 0, "removing it brings the default back, which is what it was"
    assert get(api, "gpool", "fixed")["spec"]["gpu"]["resourceName"] == "nvidia.com/gpu"


@pytest.mark.parametrize("kind", SMALLEST)
def test_the_api_server_fills_in_what_the_models_assume(api: Kube, kind: str) -> None:
    answer = create(api, example(kind, "filled"), "--dry-run=server", "-o", "json")
    stored = json.loads(answer.stdout)
    model, bare = parse(BY_KIND[kind], stored), parse(BY_KIND[kind], example(kind, "filled"))
    assert not isinstance(model, InvalidSpec) and not isinstance(bare, InvalidSpec)
    assert dump(model)["spec"] == dump(bare)["spec"]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_samples_are_accepted_as_they_stand(api: Kube, path: Path) -> None:
    answer = api.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(path))
    assert answer.stderr == ""


def test_status_scale_columns_and_explain(api: Kube) -> None:
    assert create(api, example("MoEDeployment", "shown")).returncode == 0
    assert get(api, "moe", "shown").get("status") is None
    status = MoEDeploymentStatus(
        observed_generation=1,
        replicas=2,
        selector="spillway.dev/deployment=shown",
        summary="1/2",
        variants=(_variant_status(),),
    )
    body = json.dumps({"status": dump(status)})
    run(api, "patch", "moe", "shown", "--subresource=status", "--type=merge", "-p", body)
    stored = parse(MoEDeployment, get(api, "moe", "shown"))
    assert isinstance(stored, MoEDeployment) and stored.status == status, "the schema prunes nothing of the status"

    scale = json.loads(run(api, "get", "--raw", _path("shown") + "/scale"))
    assert (scale["spec"].get("replicas", 0), scale["status"]["replicas"]) == (0, 2)
    assert scale["status"]["selector"] == "spillway.dev/deployment=shown"
    run(api, "scale", "moe/shown", "--replicas=3")
    assert get(api, "moe", "shown")["spec"]["replicas"] == 3

    header, line = run(api, "get", "moe", "shown").splitlines()
    assert header.split() == ["NAME", "MODEL", "READY", "SPILL($/H)", "COST($/H)", "REASON", "AGE"]
    assert line.split()[:3] == ["shown", "glm-5", "1/2"]
    assert "shown" in run(api, "get", "spillway"), "all kinds share the category"
    explained = " ".join(run(api, "explain", "moe.spec.slo.queueSeconds").split())
    assert "in seconds. Default: 10." in explained


def _variant_status() -> VariantStatus:
    return VariantStatus.model_validate(
        {
            "name": "blackwell-b200-nvfp4-vllm",
            "desired": 2,
            "ready": 1,
            "starting": 1,
            "pending": 0,
            "gpusPerReplica": 4,
            "costPerHour": "33.60",
            "coldStart": "6m10s",
        }
    )


def _path(name: str) -> str:
    return f"/apis/spillway.dev/v1alpha1/namespaces/default/moedeployments/{name}"


@pytest.mark.parametrize("kind", BY_KIND)
def test_the_examples_of_the_reference_are_accepted(api: Kube, kind: str) -> None:
    answer = api.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", input=EXAMPLES[kind])
    assert answer.stderr == ""


def test_every_field_is_explained(api: Kube) -> None:
    """What `kubectl explain` reads; and that it reads it."""
    served = json.loads(run(api, "get", "--raw", "/openapi/v3/apis/spillway.dev/v1alpha1"))["components"]["schemas"]
    for kind in BY_KIND:
        (schema,) = [found for name, found in served.items() if name.endswith(f".{kind}")]
        for part in ("spec", "status"):
            assert [path for path, text in _descriptions(schema["properties"][part], part) if not text] == []
    recursive = run(api, "explain", "moe.spec", "--recursive")
    assert "redundantExperts" in recursive
    explained = " ".join(run(api, "explain", "moe.spec.placement.variants.parallelism").split())
    assert "DataExpert: attention is replicated over data ranks" in explained


def _descriptions(schema: Object, path: str) -> Iterator[tuple[str, str]]:
    yield path, schema.get("description", "")
    for name, child in schema.get("properties", {}).items():
        yield from _descriptions({**child.get("items", {}), **child}, f"{path}.{name}")


def test_committed_files_are_what_was_applied(api: Kube) -> None:
    for path in CRDS:
        wanted = yaml.safe_load(path.read_text(encoding="utf-8"))
        served = get(api, "crd", wanted["metadata"]["name"])
        conditions = {condition["type"]: condition["status"] for condition in served["status"]["conditions"]}
        assert conditions["Established"] == "True"
        assert "NonStructuralSchema" not in conditions
