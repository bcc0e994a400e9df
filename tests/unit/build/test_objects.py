from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest

from spillway.api import GPUPool, InvalidSpec, MoEDeployment, parse
from spillway.build import (
    BuildSettings,
    Object,
    account,
    disruption_budget,
    endpoint,
    revision,
    selector_text,
    service,
    workload,
    workload_name,
)
from spillway.catalog import ResolvedVariant, load, variants
from tests.unit.api.examples import example

CATALOG = load()
SETTINGS = BuildSettings()


def moe(name: str = "chat-model", **changes: Any) -> MoEDeployment:
    obj = example("MoEDeployment", name, **changes)
    obj["metadata"]["uid"] = "0b5c"
    outcome = parse(MoEDeployment, obj)
    assert isinstance(outcome, MoEDeployment), outcome
    return outcome


def pool(product: str = "B200", **changes: Any) -> GPUPool:
    outcome = parse(GPUPool, example("GPUPool", "pool", gpu__product=product, **changes))
    assert isinstance(outcome, GPUPool), outcome
    return outcome


def first(owner: MoEDeployment, target: GPUPool) -> ResolvedVariant:
    model = CATALOG.model(owner)
    assert not isinstance(model, InvalidSpec)
    return variants(owner, model, [target], CATALOG)[0][0]


def built(
    owner: MoEDeployment | None = None, target: GPUPool | None = None, settings: BuildSettings = SETTINGS
) -> Object:
    owner, target = owner or moe(), target or pool()
    return workload(owner, first(owner, target), target, 2, settings)


def pod(obj: Object) -> Object:
    spec: Object = obj["spec"]["template"]["spec"]
    return spec


def container(obj: Object) -> Object:
    engine: Object = pod(obj)["containers"][0]
    return engine


def flag(obj: Object, name: str) -> str:
    args = container(obj)["args"]
    return str(args[args.index(name) + 1])


SGLANG = moe(engine__name="SGLang")
WEIGHTS = moe(model__sources={"NVFP4": {"uri": "pvc://weights/glm/nvfp4"}})


@pytest.mark.parametrize(
    "obj",
    [
        built(),
        built(SGLANG),
        built(WEIGHTS),
        built(moe(model__name="deepseek-r1", model__tokenSecretRef={"name": "hf"}), pool("H200")),
        service(moe(), "gateway.example"),
        account(moe()),
        disruption_budget(moe()),
    ],
    ids=["vllm", "sglang", "pvc", "token", "service", "account", "pdb"],
)
def test_objects_are_valid_and_owned(obj: Object) -> None:
    kubernetes_validate.validate(obj, "1.34", strict=True)
    (owner,) = obj["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == ("0b5c", True, True)
    assert obj["metadata"]["labels"]["app.kubernetes.io/part-of"] == "spillway"
    assert obj["metadata"]["labels"]["spillway.dev/deployment"] == "chat-model"


def test_vllm_command_line() -> None:
    obj = built(moe(engine__overrides={"maxModelLen": 65536}, engine__extraArgs=["--max-num-seqs=7"]))
    assert container(obj)["command"] == ["vllm", "serve"]
    assert container(obj)["args"][0] == "nvidia/GLM-5-NVFP4"
    assert flag(obj, "--host") == "0.0.0.0" and flag(obj, "--port") == "8000"
    assert flag(obj, "--served-model-name") == "glm-5"
    assert flag(obj, "--tensor-parallel-size") == "4"
    assert "--enable-expert-parallel" not in container(obj)["args"]
    assert "--enable-expert-parallel" in container(built(moe(model__name="deepseek-r1")))["args"]
    assert flag(obj, "--shutdown-timeout") == "60"
    assert flag(obj, "--max-model-len") == "65536"
    assert flag(obj, "--max-num-seqs") == "68"
    assert flag(obj, "--max-num-queued-reqs") == str(68 + 3 * 68), "running ones count too"
    assert container(obj)["args"][-1] == "--max-num-seqs=7", "the user's arguments come last"


def test_sglang_command_line() -> None:
    obj = built(moe(engine__name="SGLang", model__servedName="chat", slo__queueSeconds=0), pool("H200"))
    assert container(obj)["command"] == ["python3", "-m", "sglang.launch_server"]
    assert flag(obj, "--model-path") == "zai-org/GLM-5-FP8"
    assert flag(obj, "--served-model-name") == "chat"
    assert flag(obj, "--host") == "0.0.0.0"
    assert "--enable-metrics" in container(obj)["args"]
    assert flag(obj, "--tp-size") == "8" and "--ep-size" not in container(obj)["args"]
    experts = built(moe(engine__name="SGLang", model__name="deepseek-r1"), pool("H200"))
    assert flag(experts, "--tp-size") == flag(experts, "--ep-size") == "8"
    assert flag(obj, "--max-running-requests") == flag(obj, "--max-queued-requests") == "39"
    assert flag(obj, "--quantization") == "fp8"


@pytest.mark.parametrize(("owner", "ready"), [(moe(), "/health"), (SGLANG, "/ready")])
def test_probes(owner: MoEDeployment, ready: str) -> None:
    engine = container(built(owner))
    startup = engine["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 3600, "400 GB take their time"
    assert engine["readinessProbe"]["httpGet"] == {"path": ready, "port": "http"}
    assert engine["livenessProbe"]["httpGet"]["path"] == "/health"


def test_stopping_leaves_time_for_deregistering_and_draining() -> None:
    settings = BuildSettings(drain_seconds=30, prestop_seconds=5)
    obj = built(settings=settings)
    assert container(obj)["lifecycle"]["preStop"]["sleep"]["seconds"] == 5
    assert flag(obj, "--shutdown-timeout") == "30"
    assert pod(obj)["terminationGracePeriodSeconds"] > 5 + 30


def test_the_pod_sits_on_the_pool_and_holds_its_gpus() -> None:
    obj = built(target=pool(gpu__resourceName="nvidia.com/mig-7g.80gb"))
    assert pod(obj)["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-B200"}
    assert pod(obj)["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert container(obj)["resources"]["limits"] == {"nvidia.com/mig-7g.80gb": "4"}


def test_the_pod_is_shut_as_far_as_engines_allow() -> None:
    obj = built()
    assert pod(obj)["automountServiceAccountToken"] is False
    assert pod(obj)["enableServiceLinks"] is False
    assert pod(obj)["serviceAccountName"] == account(moe())["metadata"]["name"]
    assert container(obj)["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert obj["spec"]["template"]["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "true"


def test_a_claim_is_mounted_read_only() -> None:
    obj = built(WEIGHTS)
    assert container(obj)["args"][0] == "/models/glm/nvfp4"
    assert {"name": "checkpoint", "mountPath": "/models", "readOnly": True} in container(obj)["volumeMounts"]
    assert pod(obj)["volumes"][-1]["persistentVolumeClaim"] == {"claimName": "weights", "readOnly": True}


def test_environment_of_user_and_token() -> None:
    owner = moe(model__tokenSecretRef={"name": "hf", "key": "t"}, engine__env=[{"name": "HF_HOME", "value": "/x"}])
    env = {entry["name"]: entry for entry in container(built(owner))["env"]}
    assert env["HF_HOME"]["value"] == "/x", "the user's value wins"
    assert env["HF_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "hf", "key": "t"}}


def test_the_revision_follows_the_pod_and_nothing_else() -> None:
    owner, target = moe(), pool()
    variant = first(owner, target)
    before = revision(owner, variant, target, SETTINGS)
    assert len(before) == 8 and int(before, 16) >= 0
    assert built()["metadata"]["labels"]["spillway.dev/revision"] == before
    for same in (moe(replicas=3), moe(maxReplicas=2), moe(spill__providers=[{"name": "zai", "model": "glm-5"}])):
        assert revision(same, first(same, target), target, SETTINGS) == before
    dearer = pool(price__perGPUHour="5", allowedNamespaces=["default"])
    assert revision(owner, first(owner, dearer), dearer, SETTINGS) == before
    for other in (moe(engine__version="0.34.0"), moe(engine__env=[{"name": "A", "value": "1"}]), SGLANG, WEIGHTS):
        assert revision(other, first(other, target), target, SETTINGS) != before


def test_the_restart_annotation_makes_a_revision() -> None:
    owner, target = moe(), pool()
    variant = first(owner, target)
    found = set()
    for asked in ({}, {"spillway.dev/restart": "1"}, {"spillway.dev/restart": "2"}, {"other": "1"}):
        metadata = owner.metadata.model_copy(update={"annotations": asked})
        found.add(revision(owner.model_copy(update={"metadata": metadata}), variant, target, SETTINGS))
    assert len(found) == 3


def test_selectors_name_variant_and_revision_and_match_the_pods() -> None:
    obj = built()
    selector = obj["spec"]["selector"]["matchLabels"]
    assert set(selector) == {"spillway.dev/deployment", "spillway.dev/variant", "spillway.dev/revision"}
    assert selector.items() <= obj["spec"]["template"]["metadata"]["labels"].items()
    assert disruption_budget(moe())["spec"]["selector"]["matchLabels"].items() <= selector.items()
    assert selector_text("chat-model") == "spillway.dev/deployment=chat-model"


def test_names_stay_labels_and_stay_apart() -> None:
    assert workload_name("glm-5", "b200-nvfp4-vllm", "0123abcd") == "glm-5-b200-nvfp4-vllm-0123abcd"
    long = [workload_name("m" * 40, f"{'p' * 39}{end}-nvfp4-sglang", "0123abcd") for end in "ab"]
    assert all(len(name) <= 63 and name.endswith("-0123abcd") for name in long)
    assert long[0] != long[1]


def test_service_and_endpoint() -> None:
    assert service(moe(), "gateway.example")["spec"] == {"type": "ExternalName", "externalName": "gateway.example"}
    assert endpoint(moe()) == "http://chat-model.default.svc/v1"
    assert disruption_budget(moe())["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@pytest.mark.parametrize(
    ("millis", "mebibytes", "requests"),
    [(4000, 32768, {"cpu": "32", "memory": "256Gi"}), (5, 16, {"cpu": "40m", "memory": "128Mi"})],
)
def test_a_pod_asks_for_cpu_and_memory_by_its_gpus(millis: int, mebibytes: int, requests: dict[str, str]) -> None:
    assert BuildSettings(cpu_millis_per_gpu=millis, memory_mib_per_gpu=mebibytes).requests(8) == requests
