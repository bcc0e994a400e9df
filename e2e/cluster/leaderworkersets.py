"""LeaderWorkerSet's real controller beside the control plane: its CRDs, its webhooks, and one process on loopback."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster import binaries, golang
from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.golang import BuildError, Go
from e2e.cluster.processes import Process, Say, free_port, lock, wait_until
from e2e.cluster.settings import cache_directory

Obj = dict[str, Any]

_MODULE, _PATH = "lws", "sigs.k8s.io/lws"
_CRD = "CustomResourceDefinition"
_WEBHOOKS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
_POD_WEBHOOK = "/mutate--v1-pod"


@dataclass(frozen=True)
class Release:
    """The controller and what its release installs for it: CRDs and webhook configurations, as a JSON list."""

    controller: Path
    manifests: Path


def find_or_build(say: Say = print) -> Release:
    """The pinned version from the cache, or built into it (about two minutes on two cores, once)."""
    cached = cache_directory() / f"bin-lws-{golang.pinned_version(_MODULE, _PATH)}"
    release = Release(cached / "controller", cached / "manifests.json")
    if release.controller.exists() and release.manifests.exists():
        return release
    with lock(cached.with_suffix(".lock"), say):
        if not (release.controller.exists() and release.manifests.exists()):
            say(f"building LeaderWorkerSet's controller once into {cached} (about two minutes on two cores)")
            go = Go(say)
            go.build(_MODULE, [f"{_PATH}/cmd"], cached, name=release.controller.name)
            fresh = release.manifests.with_suffix(".new")
            fresh.write_text(json.dumps(_published(go.source(_MODULE, _PATH))))
            os.replace(fresh, release.manifests)
    return release


def _published(source: Path) -> list[Obj]:
    """CRDs and webhook configurations of the release's own kustomization."""
    command = [binaries.kubectl(), "kustomize", str(source / "config" / "default")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")
    objects = yaml.load_all(done.stdout, Loader=yaml.CSafeLoader)  # its CRDs are 3 MB: pure Python takes half a minute
    return [obj for obj in objects if obj["kind"] in (_CRD, *_WEBHOOKS)]


def called_by_url(obj: Obj, url: str, authority: bytes) -> Obj:
    """The object with its webhooks at addresses in place of Services, which nobody routes here."""

    def changed(value: Any) -> Any:
        if isinstance(value, list):
            return [changed(item) for item in value]
        if not isinstance(value, Mapping):
            return value
        service = value.get("service")
        if isinstance(service, Mapping) and "path" in service:
            return {"url": url + service["path"], "caBundle": base64.b64encode(authority).decode()}
        return {key: changed(item) for key, item in value.items()}

    found: Obj = changed(obj)
    return found


class LeaderWorkerSets:
    """Installs the CRDs, runs the controller, and registers its webhooks once it answers them."""

    def __init__(self, plane: ControlPlane, directory: Path, say: Say = print) -> None:
        self._plane, self._directory, self._say = plane, directory, say
        self._process: Process | None = None

    @property
    def process(self) -> Process | None:
        return self._process

    def start(self) -> None:
        """Returns when LeaderWorkerSets work; the process dies with the calling thread."""
        release = find_or_build(self._say)
        objects: list[Obj] = json.loads(release.manifests.read_text())
        port = free_port()
        authority = self._plane.authority.certificate
        objects = [called_by_url(obj, f"https://127.0.0.1:{port}", authority.read_bytes()) for obj in objects]
        crds = [obj for obj in objects if obj["kind"] == _CRD]
        self._create(crds)
        names = [f"crd/{obj['metadata']['name']}" for obj in crds]
        self._plane.kubectl("wait", "--for=condition=Established", *names, "--timeout=30s")
        self._process = Process(
            "lws-controller",
            [
                str(release.controller),
                f"--kubeconfig={self._plane.kubeconfig}",
                f"--config={self._configuration(port)}",
                "--zap-log-level=info",
            ],
            self._directory.parent / "logs" / "lws-controller.log",
            {"GOMEMLIMIT": "64MiB", "PATH": os.environ.get("PATH", os.defpath)},
        ).start()
        trust = ssl.create_default_context(cafile=str(authority))
        url = f"https://127.0.0.1:{port}{_POD_WEBHOOK}"
        wait_until("the webhooks of LeaderWorkerSet", lambda: _is_served(url, trust), 60, self._process)
        self._create([obj for obj in objects if obj["kind"] in _WEBHOOKS])

    def stop(self) -> None:
        if self._process:
            self._process.stop()

    def _create(self, objects: list[Obj]) -> None:
        bundle = {"apiVersion": "v1", "kind": "List", "items": objects}
        self._plane.kubectl("create", "--validate=false", "-f", "-", input=json.dumps(bundle))

    def _configuration(self, port: int) -> Path:
        """The controller's own configuration file: everything on loopback, certificates from our authority."""
        self._directory.mkdir(parents=True, exist_ok=True)
        certificate, key = self._plane.authority.issue("lws-webhooks", ["127.0.0.1"])
        for source, name in ((certificate, "tls.crt"), (key, "tls.key")):
            (self._directory / name).write_bytes(source.read_bytes())
        path = self._directory / "configuration.yaml"
        configuration = {
            "apiVersion": "config.lws.x-k8s.io/v1alpha1",
            "kind": "Configuration",
            "webhook": {"host": "127.0.0.1", "port": port, "certDir": str(self._directory)},
            "health": {"healthProbeBindAddress": "0"},
            "metrics": {"bindAddress": "0"},
            "leaderElection": {"leaderElect": False},
            "internalCertManagement": {"enable": False},
        }
        path.write_text(yaml.safe_dump(configuration))
        return path


def _is_served(url: str, trust: ssl.SSLContext) -> bool:
    """Whether the webhook is there: the server itself answers 404 until the controller has added it."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, b"{}"), timeout=2, context=trust):
            return True
    except urllib.error.HTTPError as error:
        return error.code != 404
    except OSError:
        return False
