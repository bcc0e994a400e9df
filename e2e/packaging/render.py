"""Kubernetes objects from the kustomize source, and install.yaml."""

from __future__ import annotations

import copy
import subprocess
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster import binaries
from e2e.cluster.settings import REPOSITORY

Object = dict[str, Any]
Key = tuple[str, str, str, str]
"""apiVersion, kind, namespace, name."""

MANIFESTS = REPOSITORY / "manifests"
BASE = MANIFESTS / "base"
COMPONENTS = MANIFESTS / "components"
INSTALL = MANIFESTS / "install.yaml"
_HEADER = """\
# Spillway {version}, complete: kubectl apply --server-side -f install.yaml
# Written by `python -m e2e.packaging generate` from manifests/base; not to be edited.
"""


class RenderError(RuntimeError):
    """kustomize refused the source; the message has its words."""


def version() -> str:
    """The project's version, which is also the images' tag."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def render(directory: Path) -> list[Object]:
    """The objects of a kustomization or component, in the order in which they are to be applied."""
    done = subprocess.run(
        [binaries.kubectl(), "kustomize", str(directory)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RenderError(f"kubectl kustomize {directory}: {done.stderr.strip()}")
    return load(done.stdout)


def load(text: str) -> list[Object]:
    """The objects of a YAML stream; empty documents are left out."""
    return [found for found in yaml.safe_load_all(text) if found]


def key_of(obj: Object) -> Key:
    """What tells an object from all others of a cluster."""
    meta = obj["metadata"]
    return obj["apiVersion"], obj["kind"], meta.get("namespace", ""), meta["name"]


def with_images(objects: Iterable[Object], images: Mapping[str, str]) -> list[Object]:
    """Copies of the objects whose containers run `images[name]`, by container name; others keep theirs."""
    found = copy.deepcopy(list(objects))
    for obj in found:
        if obj["kind"] == "Deployment":
            for container in obj["spec"]["template"]["spec"]["containers"]:
                container["image"] = images.get(container["name"], container["image"])
    return found


def install_yaml(objects: Iterable[Object]) -> str:
    """One file for `kubectl apply --server-side -f`."""
    return _HEADER.format(version=version()) + dump_all(objects)


def dump_all(objects: Iterable[Object]) -> str:
    """A YAML stream, in the objects' own order of keys."""
    return "---\n".join(dump(obj) for obj in objects)


def dump(obj: object) -> str:
    """YAML without anchors and without folded lines."""
    return yaml.dump(obj, Dumper=_Plain, sort_keys=False, width=10_000, allow_unicode=True)


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True
