"""docs/install.md to the letter, each way from nothing to a ready Spillway and back to nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster.processes import python_environment
from e2e.cluster.settings import REPOSITORY
from e2e.packaging.guide import blocks
from e2e.packaging.helm import find_helm
from e2e.stage import Stage

PAGE = REPOSITORY / "docs" / "install.md"


@pytest.fixture
def bare(play: Stage) -> Iterator[Stage]:
    """A cluster without Spillway, which gets it back afterwards."""
    play.clear()
    play.cluster.delete_operator()
    yield play
    play.cluster.deploy_operator()
    play.cluster.wait_for_operator()
    play.refused()  # roles went before the last pod: its complaints in between are none


@pytest.mark.only("kind")
@pytest.mark.parametrize("way", ["kustomize", "helm"])
def test_the_guide_installs_upgrades_and_removes(bare: Stage, way: str) -> None:
    for guide in (way, "keys", "model", f"upgrade-{way}"):
        follow(bare, guide)
    assert len(bare.gateways()) == 2
    assert bare.leader()
    answer = bare.ask("glm-5", "hello [[out=5]]")
    assert answer.status == 200
    assert answer.body["usage"]["completion_tokens"] == 5

    printed = follow(bare, f"remove-{way}")
    assert printed.count("No resources found") == 2, printed
    crds = bare.objects("crd")
    assert not [crd for crd in crds if crd["spec"]["group"] == "spillway.dev"]
    assert bare.get("namespace", "spillway-system") is None
    for kind in ("clusterroles", "clusterrolebindings"):
        assert not [role for role in bare.objects(kind) if role["metadata"]["name"].startswith("spillway")]


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
