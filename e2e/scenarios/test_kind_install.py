"""docs/install.md to the letter, each way from nothing to a ready Spillway and back to nothing; then from the previous
commit's images and manifests to these, under streaming load."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.cluster.binaries import kubectl
from e2e.cluster.processes import free_port, python_environment
from e2e.cluster.settings import REPOSITORY, SYSTEM_NAMESPACE
from e2e.packaging.guide import blocks
from e2e.packaging.helm import find_helm
from e2e.scenarios.test_kind_disruptions import LOAD, SPEC, unbroken
from e2e.stage import NAMESPACE, Stage

PAGE = REPOSITORY / "docs" / "install.md"


@pytest.fixture(scope="module")
def bare(installed: Stage) -> Iterator[Stage]:
    """A cluster without Spillway and its users, which gets it back afterwards."""
    installed.delete("namespace", NAMESPACE)
    installed.cluster.delete_operator()
    yield installed
    installed.cluster.deploy_operator()
    installed.cluster.wait_for_operator()
    installed.wait_for_gateways()
    installed.clear()
    installed.refused()  # roles went before the last pod: its complaints in between are none


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


@pytest.fixture
def previous(tmp_path: Path) -> Path:
    """The files of the commit before this one."""
    archive, tree = tmp_path / "previous.tar", tmp_path / "previous"
    done = git("archive", f"--output={archive}", upgraded_from())
    assert done.returncode == 0, done.stderr
    with tarfile.open(archive) as files:
        files.extractall(tree, filter="data")
    return tree


def upgraded_from() -> str:
    """The newest earlier commit that can be installed on kind; this one itself where the clone holds none."""
    for commit in git("rev-list", "--first-parent", "--skip=1", "--max-count=20", "HEAD").stdout.split():
        if git("cat-file", "-e", f"{commit}:e2e/images/__main__.py").returncode == 0:
            return commit
    print("\nno earlier commit here has images: upgrading from this commit to itself")
    return "HEAD"


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.only("kind")
def test_an_upgrade_from_the_previous_commit_breaks_no_stream(bare: Stage, previous: Path) -> None:
    play, cluster = bare, bare.kind
    cluster.load_others(built_from(previous), "previous")
    manifests = cluster.kubectl("kustomize", str(previous / "manifests" / "overlays" / "kind")).stdout
    for image in ("operator", "gateway"):
        manifests = manifests.replace(cluster.images[image], f"spillway/{image}:previous")
    cluster.install(manifests)
    cluster.wait_for_operator()
    play.platform()
    play.apply(play.moe("glm-5", SPEC))
    play.wait_ready("glm-5")
    old = pods(play)

    with play.streams("glm-5", LOAD) as sending, unbroken(play, sending):
        cluster.deploy_operator()
        cluster.wait_for_operator()
        play.wait("the old pods gone", lambda: not old & pods(play), 120)


def pods(play: Stage) -> set[str]:
    return {pod["metadata"]["uid"] for pod in play.objects("pods", SYSTEM_NAMESPACE)}


def built_from(tree: Path) -> dict[str, str]:
    """Content tags of the images that the tree's own code makes, by name."""
    names = ["operator", "gateway"]
    done = subprocess.run(
        [sys.executable, "-m", "e2e.images", "build", *names],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": f"{tree}{os.pathsep}{tree / 'operator'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tags = [line.split()[-1] for line in done.stdout.splitlines()[-len(names) :]]
    return dict(zip(names, tags, strict=True))


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
        started = time.monotonic()
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
        print(f"{time.monotonic() - started:6.1f} s  {guide}: {script.splitlines()[0]} …")
    return printed
