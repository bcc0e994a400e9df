"""The kind command, and the node image that it starts."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from e2e.cluster.kind.docker import Docker, DockerError
from e2e.cluster.kind.node_image import kind_program, node_image
from e2e.cluster.kubeapi import Obj
from e2e.cluster.processes import Say, StartError

_NODE_IMAGE = "SPILLWAY_KIND_NODE_IMAGE"


class Kind:
    """The kind command for one cluster."""

    def __init__(self, name: str, docker: Docker, say: Say) -> None:
        self.name, self._docker = name, docker
        self._program = kind_program(say)

    def run(self, *arguments: str) -> str:
        """One command; a failure raises StartError with kind's words."""
        named = [] if arguments[0] == "get" else ["--name", self.name]
        done = subprocess.run(
            [str(self._program), *arguments, *named],
            env=self._docker.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise StartError(f"kind {' '.join(arguments[:2])} failed:\n{done.stderr.strip()[-3000:]}")
        return done.stdout

    def node_names(self, nodes: Sequence[Obj]) -> list[str]:
        """As kind names them: control-plane, worker, worker2, …"""
        workers = [f"{self.name}-worker{number if number > 1 else ''}" for number in range(1, len(nodes))]
        return [f"{self.name}-control-plane", *workers]


def choose_node_image(docker: Docker, say: Say) -> tuple[str, bool]:
    """The node image and whether it is one of kind's: named by SPILLWAY_KIND_NODE_IMAGE, pulled, or built here."""
    named = os.environ.get(_NODE_IMAGE)
    if named:
        if not docker.has_image(named):
            docker.run("pull", "--quiet", named)
        return named, True
    usual = _usual_image(kind_program(say))
    if docker.has_image(usual):
        return usual, True
    try:
        say(f"pulling {usual}")
        docker.run("pull", "--quiet", usual, timeout=600)
        return usual, True
    except (DockerError, subprocess.TimeoutExpired):
        say("no node image can be pulled here")
    return node_image(docker, say), False


def _usual_image(kind: Path) -> str:
    """The node image that this kind takes by default, with its digest; only its program knows."""
    found = re.search(rb"kindest/node:v[0-9.]+@sha256:[0-9a-f]{64}", kind.read_bytes())
    if not found:
        raise StartError(f"{kind} names no default node image")
    return found[0].decode()
