"""A kind cluster with GPU nodes, Prometheus and providers that are simulated: bring it up, ask it, take it down."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster.certificates import Authority
from e2e.cluster.handle import ClusterHandle
from e2e.cluster.kind import world
from e2e.cluster.kind.command import Kind, choose_node_image
from e2e.cluster.kind.configuration import ARCHIVES, cluster_nodes, configuration, node_ports
from e2e.cluster.kind.docker import Docker, find_docker, running_docker, stop_docker
from e2e.cluster.kubeapi import Obj
from e2e.cluster.processes import Say, StartError, free_port, timed
from e2e.cluster.providers import write_keys
from e2e.cluster.settings import (
    GPU_RESOURCE,
    KEYS_FILE,
    REPOSITORY,
    STATE_FILE,
    ClusterConfig,
    Pool,
    cache_directory,
)
from e2e.images.builder import build
from spillway import catalog

NAME = "spillway"
IMAGES = ("operator", "gateway", "simulators", "prometheus")
_READY_SECONDS = 240
_SPECIFICATION = "/etc/containerd/cri-base.json"  # what containerd starts every container from


class KindCluster(ClusterHandle):
    """A running kind cluster."""

    overlay = REPOSITORY / "manifests" / "overlays" / "kind"

    def __init__(self, docker: Docker, directory: Path, state: dict[str, Any]) -> None:
        self.directory, self.docker = directory, docker
        self.audit_log = directory / "audit" / "audit.log"
        self.name: str = state["name"]
        self.kubeconfig = Path(state["kubeconfig"])
        self.providers: dict[str, dict[str, str]] = state["providers"]
        self.prometheus_url: str | None = state["prometheus"]
        self.gateway_url: str = state["gateway"]
        self.nodes: list[str] = state["nodes"]
        self.contents: dict[str, str] = state["contents"]  # tags that name the images' contents

    @classmethod
    def attach(cls, name: str = NAME) -> KindCluster | None:
        """The cluster of that name, or None."""
        record, docker = _directory(name) / STATE_FILE, running_docker()
        if docker is None or not record.exists():
            return None
        state = json.loads(record.read_text())
        alive = docker.run("container", "inspect", f"{name}-control-plane", check=False).returncode == 0
        return cls(docker, _directory(name), state) if alive else None

    @classmethod
    @contextlib.contextmanager
    def up(cls, config: ClusterConfig, name: str = NAME, say: Say = print) -> Iterator[KindCluster]:
        """A cluster for a `with` block; one that runs already (make kind-up) is taken, brought up to date, and left."""
        running = cls.attach(name)
        if running:
            say(f"taking the kind cluster {name} that runs already")
            running.update(say)
            yield running
            return
        cluster = create(config, name, say)
        try:
            yield cluster
        finally:
            take_down(name, say)

    def update(self, say: Say = print) -> None:
        """Load images whose content changed since they were loaded, and restart what runs of them."""
        contents = build(self.docker, IMAGES, say)
        if contents == self.contents:
            return
        say("loading changed images into the nodes")
        self._record(contents)
        self.load()
        for workload in json.loads(self.kubectl("get", "deployments", "-A", "-o", "json").stdout)["items"]:
            images = {container["image"] for container in workload["spec"]["template"]["spec"]["containers"]}
            if images & set(self.images.values()):
                meta = workload["metadata"]
                self.kubectl("rollout", "restart", f"deployment/{meta['name']}", "-n", meta["namespace"])

    @property
    def images(self) -> dict[str, str]:
        """References as manifests have them, by name."""
        return {name: tag.rpartition("-")[0] for name, tag in self.contents.items()}

    def operator_manifests(self) -> str:
        return self.kubectl("kustomize", str(self.overlay)).stdout

    def client_urls(self, gateways: Sequence[Obj]) -> list[str]:
        """The node port of the gateways' Service: kube-proxy spreads connections over them."""
        return [self.gateway_url] if gateways else []

    def heal(self) -> None:
        """The nodes of a kind cluster are always there."""

    def kill_pod(self, namespace: str, name: str) -> None:
        found = json.loads(self.kubectl("get", "pod", name, "-n", namespace, "-o", "json").stdout)
        for status in found["status"]["containerStatuses"]:
            identity = status["containerID"].partition("://")[2]
            node = found["spec"]["nodeName"]
            command = ["ctr", "--namespace=k8s.io", "tasks", "kill", "--all", "--signal=SIGKILL", identity]
            self.docker.run("exec", node, *command)

    def run_python(self, namespace: str, script: str, arguments: Sequence[str], seconds: int = 90) -> str:
        """What a script prints that runs in a pod of its own; RuntimeError with what it printed when it fails."""
        pod = world.python_pod(namespace, self.images["simulators"], script, arguments)
        name = pod["metadata"]["name"]
        self.apply(yaml.safe_dump(pod))
        try:
            ended = "--for=jsonpath={.status.containerStatuses[0].state.terminated}"
            self.kubectl("wait", f"pod/{name}", "-n", namespace, ended, f"--timeout={seconds}s")
            printed = self.kubectl("logs", name, "-n", namespace).stdout
            code = "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}"
            if self.kubectl("get", "pod", name, "-n", namespace, "-o", code).stdout != "0":
                raise RuntimeError(f"the script in {namespace}/{name} failed:\n{printed}")
            return printed
        finally:
            self.kubectl("delete", "pod", name, "-n", namespace, "--grace-period=1")

    def load(self) -> None:
        """Each node gets what can run on it; the engines' images are the simulators' under the engines' names."""
        engines = [item.image.format(version=item.version) for item in catalog.load().engines.values()]
        for reference in engines:
            self.docker.run("tag", self.images["simulators"], reference)
        control_plane, worker, *gpu_nodes = self.nodes
        # Prometheus and the providers stay on the control plane (world.py).
        self._import(
            ([control_plane], list(self.images.values())),
            ([worker], [self.images["operator"], self.images["gateway"]]),
            (gpu_nodes, engines),
        )

    def load_others(self, images: Mapping[str, str], tag: str) -> None:
        """Images that stand beside those of this commit, as spillway/<name>:<tag>, by name."""
        references = []
        for name, image in images.items():
            references.append(f"spillway/{name}:{tag}")
            self.docker.run("tag", image, references[-1])
        self._import((self.nodes[:2], references))

    def _import(self, *wanted: tuple[Sequence[str], Sequence[str]]) -> None:
        """Images onto nodes: as `kind load docker-image` does, but from files that the nodes see, all nodes at once."""
        command = ["ctr", "--namespace=k8s.io", "images", "import", "--all-platforms", "--digests"]
        command.append("--snapshotter=overlayfs")
        archives = [self.directory / "images" / f"{number}.tar" for number in range(len(wanted))]
        with ThreadPoolExecutor() as workers:
            importing = []
            for archive, (nodes, references) in zip(archives, wanted, strict=True):
                self.docker.run("save", "--output", str(archive), *references)
                for node in nodes:
                    arguments = ("exec", node, *command, f"{ARCHIVES}/{archive.name}")
                    importing.append(workers.submit(self.docker.run, *arguments))
            for imported in importing:
                imported.result()
        for archive in archives:
            archive.unlink()

    def _record(self, contents: dict[str, str]) -> None:
        self.contents = contents
        file = self.directory / STATE_FILE
        file.write_text(json.dumps({**json.loads(file.read_text()), "contents": contents}, indent=1))


@dataclass(frozen=True)
class Prepared:
    """Everything that takes long the first time: a daemon, kind, the node image, and Spillway's images."""

    docker: Docker
    node_image: str
    pulled: bool  # else it was built here
    contents: dict[str, str]


def prepare(say: Say = print) -> Prepared:
    """Find or build; with everything in place a matter of seconds.

    Raises BuildError, DockerError, ImageError or PackageError, whose message says what to do.
    """
    docker = find_docker(say)
    with timed(say, "node image"):
        image, pulled = choose_node_image(docker, say)
    with timed(say, "images of Spillway and the simulators"):
        contents = build(docker, IMAGES, say)
    return Prepared(docker, image, pulled, contents)


def create(config: ClusterConfig, name: str = NAME, say: Say = print) -> KindCluster:
    """Build what is missing, start the cluster, load the images, and set up what stands around Spillway.

    Raises what prepare() raises, and StartError.
    """
    directory = _directory(name)
    if KindCluster.attach(name):
        raise StartError(f"a kind cluster {name} already runs: `make kind-down` removes it")
    prepared = prepare(say)
    docker = prepared.docker
    kind = Kind(name, docker, say)
    kind.run("delete", "cluster")  # what a run that was killed left behind
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    ports = {port: free_port() for port in node_ports(config)}
    nodes = cluster_nodes(config)
    made = configuration(directory, nodes, ports, own_network=not prepared.pulled)
    (directory / "kind.yaml").write_text(yaml.safe_dump(made))
    kubeconfig = directory / "kubeconfig"
    with timed(say, f"kind cluster of {len(nodes)} nodes"):
        kind.run(
            *("create", "cluster", "--image", prepared.node_image, "--config", str(directory / "kind.yaml")),
            *("--kubeconfig", str(kubeconfig)),
        )
    state = {
        "name": name,
        "kubeconfig": str(kubeconfig),
        "gateway": f"http://127.0.0.1:{ports[world.GATEWAY_PORT]}",
        "prometheus": f"http://127.0.0.1:{ports[world.PROMETHEUS_PORT]}",
        "providers": {
            item.name: {
                "base_url": world.base_url(item),
                "server_name": item.server_name,
                "control_url": f"http://127.0.0.1:{ports[world.control_port(item)]}",
            }
            for item in config.providers
        },
        "nodes": kind.node_names(nodes),
        "contents": prepared.contents,
    }
    (directory / STATE_FILE).write_text(json.dumps(state, indent=1))
    cluster = KindCluster(docker, directory, state)
    try:
        with timed(say, "images into the nodes"):
            cluster.load()
        with timed(say, "GPU nodes, Prometheus and providers"):
            _furnish(cluster, config)
    except BaseException:
        take_down(name, say)
        raise
    return cluster


def take_down(name: str = NAME, say: Say = print) -> bool:
    """Remove the cluster, its network, and the daemon if it was started here; False if there was no cluster."""
    docker = running_docker()
    existed = False
    if docker is not None:
        kind = Kind(name, docker, say)
        existed = name in kind.run("get", "clusters").split()
        if existed:
            kind.run("delete", "cluster")
        if not kind.run("get", "clusters").split():
            docker.run("network", "rm", "kind", check=False)
            stop_docker(say)
    shutil.rmtree(_directory(name), ignore_errors=True)
    return existed


def _directory(name: str) -> Path:
    return cache_directory() / "run" / f"kind-{name}"


def _furnish(cluster: KindCluster, config: ClusterConfig) -> None:
    cluster.kubectl("wait", "node", "--all", "--for=condition=Ready", f"--timeout={_READY_SECONDS}s")
    gpu_nodes, images = iter(cluster.nodes[2:]), cluster.images
    pairs = [(next(gpu_nodes), pool) for pool in config.pools for _ in range(pool.nodes)]
    with ThreadPoolExecutor(2) as workers:
        list(workers.map(lambda pair: _make_gpu_node(cluster, *pair), pairs))
    authority = Authority(cluster.directory / "providers", "provider-ca")
    certificates = {}
    for item in config.providers:
        certificate, key = authority.issue(item.name, [item.server_name, world.service_name(item)])
        certificates[item.name] = (certificate.read_text(), key.read_text())
    write_keys(cluster.directory / KEYS_FILE, config.providers, authority)
    objects = world.providers(config.providers, images["simulators"], certificates)
    objects += world.prometheus(images["prometheus"], images["simulators"], config.scrape_seconds)
    cluster.apply(yaml.safe_dump_all(objects))
    for namespace in (world.PROVIDERS, world.MONITORING):
        cluster.kubectl(
            "wait", "deployment", "--all", "-n", namespace, "--for=condition=Available", f"--timeout={_READY_SECONDS}s"
        )
    cluster.kubectl("rollout", "status", "deployment/coredns", "-n", "kube-system", f"--timeout={_READY_SECONDS}s")


def _make_gpu_node(cluster: KindCluster, node: str, pool: Pool) -> None:
    """GPUs as the scheduler sees them, and what the engine simulator must know of them.

    The kubelet admits extended resources that somebody else wrote into the node's status. The NVIDIA runtime would
    show the hardware to containers; here every container of the node gets the simulator's environment.
    """
    if pool.taint:
        cluster.kubectl("taint", "node", node, f"{pool.taint}=present:NoSchedule", "--overwrite")
    gpus = {GPU_RESOURCE: str(pool.gpus_per_node)}
    status = json.dumps({"status": {"capacity": gpus, "allocatable": gpus}})
    cluster.kubectl("patch", "node", node, "--subresource=status", "--type=merge", "-p", status)
    specification = json.loads(cluster.docker.run("exec", node, "cat", _SPECIFICATION).stdout)
    environment = specification["process"].setdefault("env", [])
    environment += [f"{name}={value}" for name, value in pool.simulation().items()]
    replace = f"cat > {_SPECIFICATION} && systemctl restart containerd"
    cluster.docker.run("exec", "-i", node, "sh", "-c", replace, input=json.dumps(specification).encode())
