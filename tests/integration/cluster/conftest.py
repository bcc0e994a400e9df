"""One small local cluster for the tests of the cluster itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster import Cluster, ClusterConfig, Image, Pool, Speed
from e2e.cluster.processes import wait_until
from e2e.cluster.settings import DEFAULT_IMAGES

SPEEDS = {"NVFP4": Speed(prefill_tokens_per_second_per_gpu=5500, decode_tokens_per_second_per_gpu=700)}


def _pool(name: str, product: str, **settings: Any) -> Pool:
    quick: dict[str, Any] = {"provisioning_seconds": 0.5, "image_pull_seconds": 0.1, "load_seconds": 0.5}
    return Pool(name=name, product=product, memory_mib=1, compute_capability="10.0", speeds=SPEEDS, **quick, **settings)


class Local:
    """The cluster and what its tests do all the time."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def apply(self, *objects: dict[str, Any]) -> None:
        self.cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(objects))

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        done = self.cluster.kubectl("get", kind, name, "-o", "json", "--ignore-not-found")
        found: dict[str, Any] | None = json.loads(done.stdout) if done.stdout else None
        return found

    def pod(self, name: str) -> dict[str, Any]:
        found = self.get("pod", name)
        assert found is not None
        return found

    def run(self, name: str, **settings: Any) -> str:
        """Create a pod of the tests' program, wait until it is Ready, and return its address."""
        self.apply(program_pod(name, **settings))
        self.cluster.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")
        return str(self.pod(name)["status"]["podIP"])

    def condition(self, name: str, kind: str, resource: str = "pod") -> str:
        found = self.get(resource, name)
        conditions = found["status"].get("conditions", []) if found else []
        return next((str(item["status"]) for item in conditions if item["type"] == kind), "absent")

    def reasons(self, name: str) -> set[str]:
        """Reasons of the events about an object."""
        done = self.cluster.kubectl("get", "events", "-o", "json", f"--field-selector=involvedObject.name={name}")
        return {item["reason"] for item in json.loads(done.stdout)["items"]}

    def wait_gone(self, name: str) -> None:
        wait_until(f"{name} is gone", lambda: self.get("pod", name) is None, 60)


def program_pod(
    name: str, *, container: dict[str, Any] | None = None, labels: dict[str, str] | None = None, **spec: Any
) -> dict[str, Any]:
    """A pod that runs program.py with a readiness probe."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": labels or {}},
        "spec": {
            "terminationGracePeriodSeconds": 5,
            "containers": [
                {
                    "name": "main",
                    "image": "test/program",
                    "ports": [{"name": "http", "containerPort": 8000}],
                    "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 1},
                    **(container or {}),
                }
            ],
            **spec,
        },
    }


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    program = str(Path(__file__).with_name("program.py"))
    config = ClusterConfig(
        pools=[
            _pool("busy", "NVIDIA-B200", nodes=1, max_nodes=2),
            _pool("sold-out", "NVIDIA-H200", nodes=0, max_nodes=1, stocked_out=True),
            _pool("fleeting", "NVIDIA-B300", nodes=0, max_nodes=1, remove_empty_after_seconds=0.5),
        ],
        images=[Image(prefix="test/program", entrypoint=["python", program]), *DEFAULT_IMAGES],
        loopback_prefix="auto",
    )
    with Cluster.up(tmp_path_factory.mktemp("cluster"), config) as cluster:
        yield Local(cluster)
