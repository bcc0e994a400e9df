"""The images: their Dockerfiles, what stands for their bases where no registry answers, and what they must be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.settings import REPOSITORY

VERSION = "0.1.0"
DOCKERFILES = REPOSITORY / "images"

# What python:…-slim has beyond the essential packages, as far as wheels and programs lean on it.
_PYTHON = ("python3", "ca-certificates", "libstdc++6", "netbase")


@dataclass(frozen=True)
class Recipe:
    """One image. `packages` make its base of Debian packages, with `installer` the base of the stages that build."""

    name: str
    title: str
    user: str
    limit_mb: int
    packages: Sequence[str] = _PYTHON
    installer: Sequence[str] = ("python3-pip", "python3-venv")

    @property
    def dockerfile(self) -> Path:
        return DOCKERFILES / f"{self.name}.Dockerfile"

    @property
    def repository(self) -> str:
        return f"spillway/{self.name}"

    def default_base(self) -> str:
        """The public image that the Dockerfile names."""
        found = re.search(r"^ARG BASE=(\S+)$", self.dockerfile.read_text(), re.M)
        if not found:
            raise ValueError(f"{self.dockerfile} has no ARG BASE with a default")
        return found[1]

    def sources(self) -> list[Path]:
        """Everything of the repository that the Dockerfile reads, by its COPY and bind mounts."""
        return sources(self.dockerfile.read_text())


def sources(dockerfile: str) -> list[Path]:
    """Paths, relative to the repository, that a Dockerfile copies or mounts from the build context."""
    found = set(re.findall(r"--mount=type=bind,source=([^,\s]+)", dockerfile))
    for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.M):
        found.update(line.split()[:-1])
    return sorted(Path(name) for name in found)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("operator", "Spillway operator", user="65532:65532", limit_mb=400),
        Recipe("gateway", "Spillway gateway", user="65532:65532", limit_mb=300),
        Recipe("simulators", "Spillway simulators", user="0:0", limit_mb=300),
        Recipe(
            "prometheus",
            "Prometheus for Spillway's tests",
            user="65532:65532",
            limit_mb=420,
            packages=("prometheus", "ca-certificates"),
            installer=(),
        ),
    )
}
