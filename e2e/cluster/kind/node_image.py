"""The kind node image, built once from Debian packages and Go modules for machines that can pull no image."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from e2e.cluster import binaries, golang
from e2e.cluster.golang import Go
from e2e.cluster.kind.docker import Docker
from e2e.cluster.processes import Say, lock, timed, wait_until
from e2e.cluster.settings import cache_directory
from e2e.images.debian import make_image, release

_SOURCES = Path(__file__).with_name("node")
_KIND = "sigs.k8s.io/kind"
_NODE_PACKAGES = [
    *("systemd", "dbus", "conntrack", "iptables", "nftables", "iproute2", "ethtool", "util-linux", "mount", "kmod"),
    *("procps", "jq", "ca-certificates", "containerd", "runc", "containernetworking-plugins", "curl"),
]
_PROXY_PACKAGES = ["iptables", "nftables", "conntrack", "kmod", "netbase"]
# kind's own files that make a container a node, below images/base/files of its Go module.
_KIND_FILES = (
    "usr/local/bin/entrypoint",
    "kind/bin/*",
    "etc/crictl.yaml",
    "etc/default/kubelet",
    "etc/sysctl.d/*",
    "etc/systemd/system/containerd.service",
    "etc/systemd/system/kubelet.service",
    "etc/systemd/system/kubelet.slice",
    "etc/systemd/system/kubelet.service.d/*",
    "etc/systemd/system/undo-mount-hacks.service",
)
_IMPORT_SECONDS = 60


def kind_program(say: Say = print) -> Path:
    """kind at the pinned version, built once into the cache."""
    return _program("kind", _KIND, say)


def node_image(docker: Docker, say: Say = print) -> str:
    """The tag of the node image at the pinned Kubernetes version; built if this daemon does not hold it.

    About 4 minutes with built programs, some 15 from nothing on two cores.
    """
    version = binaries.pinned_version("kubernetes")
    tag = f"spillway/kind-node:{version}-{_fingerprint()}"
    if docker.has_image(tag):
        return tag
    with lock(cache_directory() / "kind" / "node-image.lock", say):
        if docker.has_image(tag):
            return tag
        say(f"building the kind node image {tag} once")
        programs = binaries.build([*binaries.CONTROL_PLANE, *binaries.NODE], say)
        extra = {name: _program(name, ".", say) for name in ("coredns", "pause")}
        with timed(say, "images for the nodes", part=True):
            wanted = _wanted_images(programs, version)
            archive = _archive(docker, programs, extra, wanted, say)
        with timed(say, "node root file system", part=True):
            bare = _bare_node(docker, programs, next(ref for ref in wanted if "/pause:" in ref), say)
        with timed(say, "node image", part=True):
            _preload(docker, bare, archive, tag)
    return tag


def _fingerprint() -> str:
    """Changes with anything that the image is made of."""
    inputs = sorted(path for path in _SOURCES.rglob("*") if path.is_file())
    inputs += sorted(golang.MODULES.rglob("*.go")) + sorted(golang.MODULES.rglob("go.sum"))
    inputs += sorted(golang.MODULES.rglob("go.mod"))
    digest = hashlib.sha256(" ".join([release(), *_NODE_PACKAGES, *_PROXY_PACKAGES, *_KIND_FILES]).encode())
    for path in inputs:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _program(name: str, package: str, say: Say) -> Path:
    """A small program of its own go.mod, built once."""
    module = golang.MODULES / name
    content = b"".join(path.read_bytes() for path in sorted(module.iterdir()))
    destination = cache_directory() / "kind" / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"
    if not (destination / name).exists():
        with lock(destination.with_suffix(".lock"), say):
            if not (destination / name).exists():
                Go(say).build(name, [package], destination, name=name)
    return destination / name


def _wanted_images(programs: binaries.Binaries, version: str) -> list[str]:
    """References with the tags that this kubeadm will ask for."""
    listed = subprocess.run(
        [programs.kube("kubeadm"), "config", "images", "list", f"--kubernetes-version={version}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return listed.stdout.split()


def _archive(docker: Docker, programs: binaries.Binaries, extra: dict[str, Path], wanted: list[str], say: Say) -> Path:
    """All images of the control plane in one file that containerd can import."""
    base = _debian(docker, "kube-proxy", _PROXY_PACKAGES, say)
    archive = cache_directory() / "kind" / "node-images.tar"
    with _context() as context:
        for name in (*binaries.CONTROL_PLANE, *binaries.NODE):
            _link(programs.kubernetes / name, context / "bin" / name)
        _link(programs.etcd, context / "bin" / "etcd")
        for name, path in extra.items():
            _link(path, context / "bin" / name)
        for reference in wanted:
            target = reference.rpartition("/")[2].partition(":")[0]
            _build(docker, _SOURCES / "images.Dockerfile", context, reference, f"PROXY_BASE={base}", target=target)
    docker.run("save", "--output", str(archive), *wanted)
    return archive


def _bare_node(docker: Docker, programs: binaries.Binaries, pause: str, say: Say) -> str:
    """The node image without the control plane's images."""
    base = _debian(docker, "kind-node", _NODE_PACKAGES, say)
    tag = "spillway/kind-node:bare"
    kind = Go(say).source("kind", _KIND) / "images" / "base" / "files"
    with _context() as context:
        root = context / "root"
        for pattern in _KIND_FILES:
            for path in kind.glob(pattern):
                _copy(path, root / path.relative_to(kind))
        for path in (_SOURCES / "root").rglob("*"):
            if path.is_file():
                _copy(path, root / path.relative_to(_SOURCES / "root"))
        _replace(root / "etc/containerd/config.toml", "@PAUSE@", pause)
        _replace(root / "etc/systemd/system/containerd.service", "/usr/local/bin/containerd", "/usr/bin/containerd")
        (root / "kind" / "version").write_text(binaries.pinned_version("kubernetes"))
        for name in ("kubelet", "kubeadm", "kubectl"):
            _link(programs.kubernetes / name, root / "usr" / "bin" / name)
        _build(docker, _SOURCES / "Dockerfile", context, tag, f"BASE={base}")
    return tag


def _preload(docker: Docker, bare: str, archive: Path, tag: str) -> None:
    """As `kind build node-image` does: import into containerd inside a container, and keep that container."""
    name = f"spillway-node-image-{os.getpid()}"
    mount = f"{archive}:/images.tar:ro"
    docker.run("run", "-d", "--name", name, "--privileged", "--entrypoint", "sleep", "-v", mount, bare, "infinity")
    try:
        docker.run("exec", "-d", name, "sh", "-c", "exec containerd >/run/containerd.log 2>&1")
        wait_until(
            "containerd in the node image",
            lambda: docker.run("exec", name, "ctr", "version", check=False).returncode == 0,
            _IMPORT_SECONDS,
        )
        docker.run(
            *("exec", name, "ctr", "--namespace=k8s.io", "images", "import"),
            *("--all-platforms", "--no-unpack", "--digests", "/images.tar"),
        )
        docker.run("exec", name, "pkill", "--exact", "containerd")
        wait_until(
            "the end of containerd",
            lambda: docker.run("exec", name, "pgrep", "--exact", "containerd", check=False).returncode != 0,
            _IMPORT_SECONDS,
        )
        docker.run("exec", name, "rm", "-rf", "/run/containerd", "/run/containerd.log")
        entrypoint = 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]'
        docker.run("commit", "--change", entrypoint, "--change", "CMD []", name, tag)
    finally:
        docker.run("rm", "--force", "--volumes", name, check=False)


def _debian(docker: Docker, name: str, packages: list[str], say: Say) -> str:
    """A root file system of Debian packages as a docker image."""
    words = " ".join([release(), *packages])
    tag = f"spillway/debian-{name}:{hashlib.sha256(words.encode()).hexdigest()[:12]}"
    if not docker.has_image(tag):
        make_image(docker, tag, cache_directory() / "kind" / f"root-{name}", packages, say)
    return tag


def _build(docker: Docker, file: Path, context: Path, tag: str, argument: str, target: str = "") -> None:
    stage = ["--target", target] if target else []
    docker.with_buildkit().run(
        *("build", "--quiet", "--network", "none", "--file", str(file), "--build-arg", argument),
        *stage,
        *("--tag", tag, str(context)),
    )


@contextmanager
def _context() -> Iterator[Path]:
    """A build context beside the programs, so that they are linked and not copied."""
    parent = cache_directory() / "kind"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix="context-") as directory:
        yield Path(directory)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):
        os.link(source, target)
        return
    shutil.copy2(source, target)


def _copy(source: Path, target: Path) -> None:
    """With the modes that kind's Dockerfile gives: programs can be run, the rest is data."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755 if "bin" in target.parts else 0o644)


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    if old not in text:
        raise ValueError(f"{file.name} no longer has {old!r}: kind changed its node files")
    file.write_text(text.replace(old, new))
