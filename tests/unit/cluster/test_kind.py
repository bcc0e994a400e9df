"""What a kind cluster is made from: its configuration, the objects around Spillway, and the bounded runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from e2e.cluster.kind import runtime, world
from e2e.cluster.kind.configuration import cluster_nodes, configuration, node_ports
from e2e.stage import kind_config

CONFIG = kind_config()
EVERYTHING = dict.fromkeys((item.name for item in CONFIG.providers), ("certificate", "key"))
OBJECTS = [
    *world.providers(CONFIG.providers, "spillway/simulators:0.1.0", EVERYTHING),
    *world.prometheus("spillway/prometheus:0.1.0", "spillway/simulators:0.1.0", 2),
    world.python_pod("chat", "spillway/simulators:0.1.0", "print(1)", ["argument"]),
]


@pytest.mark.parametrize("obj", OBJECTS, ids=lambda obj: f"{obj['kind']}-{obj['metadata']['name']}")
def test_objects_are_what_the_api_server_takes(obj: dict[str, Any]) -> None:
    kubernetes_validate.validate(obj, "1.34", strict=True)


def test_what_needs_a_loopback_address_has_one_and_nothing_else(tmp_path: Path) -> None:
    ports = {inside: 40000 + number for number, inside in enumerate(node_ports(CONFIG))}
    made = configuration(tmp_path, cluster_nodes(CONFIG), ports, own_network=True)
    mappings = [m for node in made["nodes"] for m in node.get("extraPortMappings", [])]
    assert {m["containerPort"]: m["hostPort"] for m in mappings} == ports
    assert {m["listenAddress"] for m in mappings} == {"127.0.0.1"}
    served = [
        port["nodePort"]
        for obj in OBJECTS
        if obj["kind"] == "Service"
        for port in obj["spec"]["ports"]
        if "nodePort" in port
    ]
    assert sorted([*served, world.GATEWAY_PORT]) == sorted(ports)


def test_gpu_nodes_have_the_labels_of_their_pool_and_one_node_can_be_drained(tmp_path: Path) -> None:
    made = configuration(tmp_path, cluster_nodes(CONFIG), {}, own_network=False)
    products = [node.get("labels", {}).get("nvidia.com/gpu.product") for node in made["nodes"]]
    assert products == [None, None, "NVIDIA-B200", "NVIDIA-B200", "NVIDIA-H200"]
    assert [node["role"] for node in made["nodes"]] == ["control-plane", *["worker"] * 4]
    assert not [
        label for node in made["nodes"] for label in node.get("labels", {}) if label.startswith("kubernetes.io/")
    ]


def test_audit_flags_are_given_in_both_of_kubeadms_formats(tmp_path: Path) -> None:
    made = configuration(tmp_path, cluster_nodes(CONFIG), {}, own_network=True)
    patches = [yaml.safe_load(patch) for patch in made["kubeadmConfigPatches"]]
    arguments = {p["apiVersion"]: p["apiServer"]["extraArgs"] for p in patches if p["kind"] == "ClusterConfiguration"}
    old, new = arguments["kubeadm.k8s.io/v1beta3"], arguments["kubeadm.k8s.io/v1beta4"]
    assert {item["name"]: item["value"] for item in new} == old
    mounts = {mount["containerPath"] for mount in made["nodes"][0]["extraMounts"]}
    assert {str(Path(path).parent) for path in old.values()} <= mounts


def status(tmp_path: Path, bounding: int) -> str:
    path = tmp_path / "status"
    path.write_text(f"Name:\tx\nCapEff:\t0000000000000000\nCapBnd:\t{bounding:016x}\n")
    return str(path)


def test_the_runtime_knows_what_the_bounding_set_lacks(tmp_path: Path) -> None:
    everything = (1 << len(runtime.NAMES)) - 1
    assert runtime.missing(status(tmp_path, everything)) == set()
    assert runtime.missing(status(tmp_path, everything & ~(1 << 24))) == {"CAP_SYS_RESOURCE"}
    assert runtime.missing(status(tmp_path, everything & ~1)) == {"CAP_CHOWN"}


@pytest.mark.parametrize(
    ("file", "arguments"),
    [
        ("config.json", ["--root", "/r", "create", "--bundle", "{}", "id"]),
        ("config.json", ["--log=/l", "run", "--bundle={}", "id"]),
        ("process.json", ["exec", "--process", "{}/process.json", "id"]),
        ("process.json", ["exec", "--process={}/process.json", "--detach", "id"]),
    ],
)
def test_containers_ask_for_nothing_that_cannot_be_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, arguments: list[str]
) -> None:
    monkeypatch.setattr(runtime, "missing", lambda: {"CAP_SYS_RESOURCE"})
    process = {"args": ["sh"], "capabilities": {"bounding": ["CAP_CHOWN", "CAP_SYS_RESOURCE"], "ambient": None}}
    spec = process if file == "process.json" else {"ociVersion": "1.0.2", "process": process}
    (tmp_path / file).write_text(json.dumps(spec))
    runtime.bound([word.format(tmp_path) for word in arguments])
    changed = json.loads((tmp_path / file).read_text())
    capabilities = changed if file == "process.json" else changed["process"]
    assert capabilities["capabilities"] == {"bounding": ["CAP_CHOWN"], "ambient": []}
    assert capabilities["args"] == ["sh"]


@pytest.mark.parametrize("arguments", [["state", "id"], ["kill", "id", "9"], ["--version"], ["exec", "id", "sh"]])
def test_other_calls_of_the_runtime_change_no_file(arguments: list[str]) -> None:
    runtime.bound(arguments)


def test_the_runtime_stands_alone() -> None:
    """dockerd runs the file itself, with a bare interpreter."""
    text = Path(runtime.__file__).read_text()
    imported = {line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith(("import ", "from "))}
    assert imported <= {"__future__", "collections", "json", "os", "pathlib", "sys", "typing"}
