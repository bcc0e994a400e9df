"""docs/install.md to the letter, each way from nothing to a ready Spillway and back to nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.cluster.binaries import kubectl
from e2e.cluster.processes import free_port, python_environment
from e2e.cluster.settings import REPOSITORY
from e2e.packaging.guide import blocks
from e2e.packaging.helm import find_helm
from e2e.stage import NAMESPACE, Stage

PAGE = REPOSITORY / "docs" / "install.md"


@pytest.fixture
def bare(play: Stage) -> Iterator[Stage]:
    """A cluster without Spillway and its users, which gets it back afterwards."""
    play.clear()
    play.delete("namespace", NAMESPACE)
    play.cluster.delete_operator()
    yield play
    play.cluster.deploy_operator()
    play.cluster.wait_for_operator()
    play.refused()  # roles went before the last pod: its complaints in between are none


@pytest.mark.only("kind")
def test_the_guide_installs_upgrades_and_removes(bare: Stage) -> None:
    for way in ("kustomize", "helm"):
        for guide in (way, "keys", "model", f"upgrade-{way}"):
            follow(bare, guide)
        assert len(bare.gateways()) == 2
        assert bare.leader()
        with port_forward(bare) as url:
            answer = bare.ask("glm-5", "hello [[out=5]]", url=url)
        assert answer.status == 200
        assert answer.body["usage"]["completion_tokens"] == 5

        printed = follow(bare, f"remove-{way}")
        assert printed.count("No resources found") == 2, printed
        crds = bare.objects("crd")
        assert not [crd for crd in crds if crd["spec"]["group"] == "spillway.dev"]
        assert bare.get("namespace", "spillway-system") is None
        for kind in ("clusterroles", "clusterrolebindings"):
            assert not [role for role in bare.objects(kind) if role["metadata"]["name"].startswith("spillway")]
        bare.delete("namespace", NAMESPACE)


@contextmanager
def port_forward(play: Stage) -> Iterator[str]:
    """The gateway's Service at a loopback address: Helm's default is no NodePort."""
    port = free_port()
    command = [kubectl(), f"--kubeconfig={play.cluster.kubeconfig}", "port-forward", "-n", "spillway-system"]
    with subprocess.Popen(
        [*command, "service/spillway-gateway", f"{port}:80", "--address=127.0.0.1"], stdout=subprocess.PIPE
    ) as forwarding:
        assert forwarding.stdout is not None
        assert forwarding.stdout.readline().startswith(b"Forwarding from")
        yield f"http://127.0.0.1:{port}"
        forwarding.terminate()


def follow(play: Stage, guide: str) -> str:
    """Run the guide's blocks as a reader would, in a checkout; returns what they printed."""
    helm = Path(find_helm()).parent
    environment = python_environment(KUBECONFIG=str(play.cluster.kubeconfig), ZAI_API_KEY="sk-zai")
    environment["PATH"] = f"{helm}{os.pathsep}{environment['PATH']}"
    printed = ""
    for script in blocks(PAGE, guide):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{PAGE.name}, guide {guide}:\n{script}\n{done.stdout}"
        printed += done.stdout
    return printed
