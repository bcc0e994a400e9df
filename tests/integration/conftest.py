"""A real API server for the whole session."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.cluster import ControlPlane


@dataclass(frozen=True)
class Kube:
    """etcd and kube-apiserver; no controllers run and no CRDs are installed until a test applies them."""

    kubeconfig: Path
    plane: ControlPlane

    def kubectl(self, *arguments: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run kubectl as administrator; the caller looks at the return code."""
        return self.plane.kubectl(*arguments, input=input, check=False)


@pytest.fixture(scope="session")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kube]:
    with ControlPlane(tmp_path_factory.mktemp("kube"), controllers=False) as plane:
        yield Kube(plane.kubeconfig, plane)
