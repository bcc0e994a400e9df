"""`kubectl spillway explain` asks the leader by the API server's proxy; without it, it says what it lacks."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from asyncio import subprocess
from pathlib import Path

import pytest
import yaml

from e2e.cluster.processes import free_port
from tests.integration.conftest import Kube as Server
from tests.integration.gateway.rig import eventually
from tests.unit.api.examples import example

from .conftest import Place
from .test_process import ROOT, line, operator


@pytest.fixture(scope="module", autouse=True)
def kinds(kube: Server) -> None:
    """The four kinds on the API server."""
    applied = kube.kubectl("apply", "--server-side", "-k", str(ROOT / "crds"))
    assert applied.returncode == 0, applied.stderr
    found = [f"--filename={p}" for p in sorted((ROOT / "crds").glob("*.spillway.dev.yaml"))]
    assert kube.kubectl("wait", "--for=condition=Established", "--timeout=60s", *found).returncode == 0


def own_address() -> str:
    """An address of this machine that a pod may have: the API server proxies to no loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return str(probe.getsockname()[0])


async def explained(place: Place, kubeconfig: Path, *more: str) -> tuple[int | None, str]:
    process = await subprocess.create_subprocess_exec(
        str(Path(sys.prefix, "bin", "spillway")),
        *("explain", "glm-5", "-n", place.namespace, "--operator-namespace", place.namespace, *more),
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode, " ".join(said.decode().split())


async def test_the_leader_is_asked_through_the_api_server(place: Place, tmp_path: Path) -> None:
    port, kubeconfig = free_port(), place.server.kubeconfig
    pool = f"b200-{place.namespace[-8:]}"
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "first",
            "namespace": place.namespace,
            "labels": {"app.kubernetes.io/name": "spillway-operator"},
        },
        "spec": {
            "automountServiceAccountToken": False,
            "containers": [
                {"name": "operator", "image": "operator", "ports": [{"name": "metrics", "containerPort": port}]}
            ],
        },
    }
    account = {"apiVersion": "v1", "kind": "ServiceAccount"}
    await place.kube.apply({**account, "metadata": {"name": "default", "namespace": place.namespace}})
    await place.kube.apply(body)
    address = own_address()
    status = {"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}}
    await place.kube.merge(f"/api/v1/namespaces/{place.namespace}/pods/first/status", status)
    await place.kube.apply(example("GPUPool", pool, gpu__product="B200", capacity__maxGPUs=16))
    moe = example("MoEDeployment", "glm-5", minReplicas=1)
    moe["metadata"]["namespace"] = place.namespace
    await place.kube.apply(moe)
    flags = ["--health-port", str(port), "--bind-address", "0.0.0.0", "--tick-seconds", "1"]
    try:
        async with operator(place, "first", *flags) as process:
            await asyncio.wait_for(line(process, "leading"), 60)
            said = ""

            async def told() -> bool:
                nonlocal said
                _, said = await explained(place, kubeconfig)
                return "ALL OF IT ON" in said

            await eventually(told, "the leader explains", 60, lambda: said)
            assert "How much is asked for is not known" in said
            assert f"{pool}-nvfp4-vllm" in said
            code, said = await explained(place, kubeconfig, "--why-not", pool)
            assert (code, "It is used: 1 replica is wanted of it" in said) == (0, True), said
            code, said = await explained(place, kubeconfig, "--why-not", "nonsense")
            assert (code, "The variants are: " in said) == (1, True), said
            code, said = await explained(place, kubeconfig, "--at", "2d")
            assert (code, "recordings (--record) go back further" in said) == (1, True), said
            code, said = await explained(place, nobody(place, tmp_path), "--why-not", pool)
            assert code == 1
            assert "your account may not list pods in" in said, said
            assert "The status alone does not know what it would cost" in said, said
    finally:
        place.server.kubectl("delete", "gpool", pool, "--wait=false")


def nobody(place: Place, tmp_path: Path) -> Path:
    """A kubeconfig of an account that may see MoEDeployments there, and nothing else."""
    where = ("-n", place.namespace)
    assert place.server.kubectl("create", "serviceaccount", "team", *where).returncode == 0
    role = ["create", "role", "team", "--verb=get", "--resource=moedeployments.spillway.dev", *where]
    assert place.server.kubectl(*role).returncode == 0
    bound = f"--serviceaccount={place.namespace}:team"
    assert place.server.kubectl("create", "rolebinding", "team", "--role=team", bound, *where).returncode == 0
    token = place.server.kubectl("create", "token", "team", *where)
    assert token.returncode == 0, token.stderr
    config = yaml.safe_load(place.server.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token.stdout.strip()}
    found = tmp_path / "team.kubeconfig"
    found.write_text(yaml.safe_dump(config))
    return found
