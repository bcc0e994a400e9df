"""From the previous commit's images and manifests to these, under streaming load."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster.settings import REPOSITORY
from e2e.scenarios.test_kind_disruptions import SPEC, streaming
from e2e.stage import NAMESPACE, Stage


@pytest.fixture
def previous(tmp_path: Path) -> Iterator[Path]:
    """The tree of the commit before this one."""
    tree = tmp_path / "previous"
    added = git("worktree", "add", "--detach", str(tree), "HEAD~1")
    assert added.returncode == 0, f"the upgrade starts from the previous commit, so clone at least two: {added.stderr}"
    yield tree
    git("worktree", "remove", "--force", str(tree))


@pytest.mark.only("kind")
def test_an_upgrade_breaks_no_stream(play: Stage, previous: Path) -> None:
    cluster = play.kind
    cluster.delete_operator()
    play.refused()  # the roles went before the last pod: its complaints in between are none
    cluster.load_others(built_from(previous), "previous")
    manifests = cluster.kubectl("kustomize", str(previous / "manifests" / "overlays" / "kind")).stdout
    for image in ("operator", "gateway"):
        manifests = manifests.replace(cluster.images[image], f"spillway/{image}:previous")
    cluster.install(manifests)
    cluster.wait_for_operator()
    play.platform()
    play.apply(play.moe("glm-5", SPEC))
    play.wait_ready("glm-5")
    old = {pod["metadata"]["uid"] for pod in play.objects("pods", "spillway-system")}
    engines = {pod["metadata"]["uid"] for pod in play.objects("pods", NAMESPACE)}

    with streaming(play):
        cluster.deploy_operator()
        cluster.wait_for_operator()
        play.wait(
            "the old pods gone",
            lambda: not old & {pod["metadata"]["uid"] for pod in play.objects("pods", "spillway-system")},
            120,
        )
    assert {pod["metadata"]["uid"] for pod in play.objects("pods", NAMESPACE)} == engines, "models are not restarted"


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


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
