"""Pods on the node agent behave as they would under a kubelet."""

from __future__ import annotations

import concurrent.futures
import json
import subprocess
import urllib.error
import urllib.request

import pytest

from e2e.cluster.binaries import kubectl
from e2e.cluster.processes import wait_until
from tests.integration.cluster.conftest import Local, program_pod


def ask(address: str, path: str, port: int = 8000) -> str:
    with urllib.request.urlopen(f"http://{address}:{port}/{path}", timeout=30) as response:
        return str(response.read().decode())


def test_ready_pod_has_status_of_its_own(local: Local) -> None:
    address = local.run("plain")
    status = local.pod("plain")["status"]
    assert address.startswith("127.")
    assert status["phase"] == "Running"
    assert status["containerStatuses"][0]["ready"]
    assert status["containerStatuses"][0]["restartCount"] == 0
    assert local.condition("plain", "PodScheduled") == "True"
    assert "serving" in (local.cluster.pod_log("default", "plain") / "main.log").read_text()


def test_kubectl_logs(local: Local) -> None:
    local.run("talking")
    assert local.cluster.kubectl("logs", "talking", "--tail=1").stdout == "serving\n"


def test_pods_have_addresses_of_their_own(local: Local) -> None:
    assert local.run("first") != local.run("second")


def test_unready_pod_is_not_restarted_and_a_dead_one_is(local: Local) -> None:
    alive = {"httpGet": {"path": "/alive", "port": 8000}, "periodSeconds": 1, "failureThreshold": 1}
    starting = {**alive, "failureThreshold": 30}
    address = local.run("sick", container={"livenessProbe": alive, "startupProbe": starting})
    ask(address, "break/ready")
    with pytest.raises(urllib.error.HTTPError):
        ask(address, "ready")
    wait_until("not ready", lambda: local.condition("sick", "Ready") == "False", 30)
    assert local.pod("sick")["status"]["containerStatuses"][0]["restartCount"] == 0
    ask(address, "break/alive")
    wait_until(
        "restarted and ready again",
        lambda: (
            local.pod("sick")["status"]["containerStatuses"][0]["restartCount"] == 1
            and local.condition("sick", "Ready") == "True"
        ),
        30,
    )
    assert "Unhealthy" in local.reasons("sick")


def test_crash_is_restarted_with_growing_back_off(local: Local) -> None:
    local.run("crash")
    local.cluster.kill_pod("default", "crash")
    wait_until("restarted", lambda: local.pod("crash")["status"]["containerStatuses"][0]["restartCount"] == 1, 30)
    wait_until("ready again", lambda: local.condition("crash", "Ready") == "True", 30)
    local.cluster.kill_pod("default", "crash")

    def waiting() -> bool:
        state = local.pod("crash")["status"]["containerStatuses"][0]["state"]
        return bool(state.get("waiting", {}).get("reason") == "CrashLoopBackOff")

    wait_until("backing off", waiting, 30)


def test_deletion_runs_pre_stop_and_ends_the_requests_in_flight(local: Local) -> None:
    hook = {"preStop": {"exec": {"command": ["sh", "-c", "echo $POD_IP > $HOME/stopped && cat $HOME/stopped"]}}}
    address = local.run("drain", container={"lifecycle": hook})
    log = local.cluster.pod_log("default", "drain") / "main.log"
    with concurrent.futures.ThreadPoolExecutor() as pool:
        answer = pool.submit(ask, address, "slow")
        wait_until("the request arrived", lambda: "slow request began" in log.read_text(), 30)
        local.cluster.kubectl("delete", "pod", "drain", "--wait=false")
        assert answer.result(30) == ""
    local.wait_gone("drain")
    assert "drained" in log.read_text()
    assert "FailedPreStopHook" not in local.reasons("drain")


def test_failing_pre_stop_is_told(local: Local) -> None:
    local.run("bad-hook", container={"lifecycle": {"preStop": {"exec": {"command": ["false"]}}}})
    local.cluster.kubectl("delete", "pod", "bad-hook")
    assert "FailedPreStopHook" in local.reasons("bad-hook")


def test_forced_deletion_kills_at_once(local: Local) -> None:
    address = local.run("forced", terminationGracePeriodSeconds=300)
    local.cluster.kubectl("delete", "pod", "forced", "--grace-period=0", "--force")

    def gone() -> bool:
        try:
            ask(address, "ready")
        except OSError:
            return True
        return False

    wait_until("the process is gone", gone, 30)


def test_environment_arguments_and_mounted_files(local: Local) -> None:
    local.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"speed": "fast"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"zai": "one"}},
    )
    field = {"fieldRef": {"fieldPath": "spec.nodeName"}}
    container = {
        "args": ["/etc/keys/zai", "$(NODE)-$(SPEED)-$(UNKNOWN)"],
        "env": [
            {"name": "NODE", "valueFrom": field},
            {"name": "SPEED", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "speed"}}},
            {"name": "KEYS", "value": "/etc/keys"},
        ],
        "volumeMounts": [{"name": "keys", "mountPath": "/etc/keys"}],
    }
    volumes = [{"name": "keys", "secret": {"secretName": "keys"}}]
    address = local.run("files", container=container, volumes=volumes)
    seen = json.loads(ask(address, "environment"))
    assert seen["arguments"][1] == f"{local.pod('files')['spec']['nodeName']}-fast-$(UNKNOWN)"
    assert seen["arguments"][0] == f"{seen['environment']['KEYS']}/zai"
    assert seen["environment"]["POD_IP"] == address
    assert ask(address, "file") == "one"
    local.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"zai": "two"}})
    wait_until("the new key is mounted", lambda: ask(address, "file") == "two", 30)


def test_pod_waits_for_its_secret(local: Local) -> None:
    volumes = [{"name": "late", "secret": {"secretName": "late"}}]
    mounts = {"args": ["/late/key"], "volumeMounts": [{"name": "late", "mountPath": "/late"}]}
    local.apply(program_pod("patient", container=mounts, volumes=volumes))
    wait_until("the pod says so", lambda: "FailedMount" in local.reasons("patient"), 30)
    assert local.pod("patient")["status"]["phase"] == "Pending"
    local.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "late"}, "stringData": {"key": "here"}})
    wait_until("ready", lambda: local.condition("patient", "Ready") == "True", 30)
    assert ask(local.pod("patient")["status"]["podIP"], "file") == "here"


def test_service_account_has_its_own_rights_and_no_more(local: Local) -> None:
    local.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader", "namespace": "default"}})
    local.cluster.kubectl("create", "role", "reader", "--verb=get", "--resource=pods")
    local.cluster.kubectl("create", "rolebinding", "reader", "--role=reader", "--serviceaccount=default:reader")
    address = local.run("with-token", serviceAccountName="reader")
    config = json.loads(ask(address, "environment"))["environment"]["KUBECONFIG"]

    def allowed(*what: str) -> bool:
        done = subprocess.run([kubectl(), f"--kubeconfig={config}", "auth", "can-i", *what], check=False)
        return done.returncode == 0

    assert allowed("get", "pods")
    assert not allowed("get", "secrets")
    assert (
        "KUBECONFIG"
        not in json.loads(ask(local.run("bare", automountServiceAccountToken=False), "environment"))["environment"]
    )


def test_unknown_image_is_named(local: Local) -> None:
    local.apply(program_pod("unknown", container={"image": "docker.io/library/nginx"}))

    def refused() -> bool:
        statuses = local.pod("unknown")["status"].get("containerStatuses", [])
        return any("nginx" in item["state"].get("waiting", {}).get("message", "") for item in statuses)

    wait_until("the pod says so", refused, 30)


def test_service_reaches_ready_pods_only(local: Local) -> None:
    address = f"{local.cluster.prefix}.40"
    local.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", "annotations": {"e2e.spillway.dev/address": address}},
            "spec": {"selector": {"app": "web"}, "ports": [{"name": "web", "port": 8088, "targetPort": "http"}]},
        }
    )
    wait_until("it listens", lambda: "default/web:8088" in local.cluster.status()["services"], 30)
    with pytest.raises(OSError):
        ask(address, "ready", 8088)
    pods = {local.run(name, labels={"app": "web"}) for name in ("web-0", "web-1")}

    def served_by() -> str:
        return str(json.loads(ask(address, "environment", 8088))["environment"]["POD_IP"])

    assert {served_by() for _ in range(4)} == pods
    local.cluster.kubectl("delete", "pod", "web-0")
    assert served_by() == local.pod("web-1")["status"]["podIP"]
    assert served_by() == local.pod("web-1")["status"]["podIP"]


def test_a_host_path_keeps_weights_on_its_node(local: Local) -> None:
    """The second engine on a node finds what the first one fetched."""
    local.run("anchor")
    node = local.pod("anchor")["spec"]["nodeName"]
    engine = {
        "image": "docker.io/vllm/vllm-openai:v0.33.0",
        "command": ["vllm", "serve"],
        "args": ["nvidia/GLM-5-NVFP4", "--port", "8000"],
        "env": [{"name": "HF_HOME", "value": "/cache/huggingface"}, {"name": "SIM_FETCH_SECONDS", "value": "0.2"}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 1},
        "volumeMounts": [
            {"name": "scratch", "mountPath": "/cache"},
            {"name": "weights", "mountPath": "/cache/huggingface"},
        ],
    }
    kept = {"name": "weights", "hostPath": {"path": "/mnt/nvme/default", "type": "DirectoryOrCreate"}}
    other = {"name": "weights", "hostPath": {"path": "/mnt/nvme/search", "type": "DirectoryOrCreate"}}
    for name, volume, said in (("cold", kept, "fetching"), ("warm", kept, "found"), ("elsewhere", other, "fetching")):
        local.run(name, container=engine, volumes=[{"name": "scratch", "emptyDir": {}}, volume], nodeName=node)
        log = (local.cluster.pod_log("default", name) / "main.log").read_text()
        assert log.startswith(f"{said} nvidia/GLM-5-NVFP4"), log
