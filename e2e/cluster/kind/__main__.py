"""`python -m e2e.cluster.kind up|down|prepare`: a kind cluster for hands-on use."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from e2e.cluster.debian import PackageError
from e2e.cluster.golang import BuildError
from e2e.cluster.kind.cluster import NAME, KindCluster, create, prepare, take_down
from e2e.cluster.kind.docker import DockerError
from e2e.cluster.processes import Say
from e2e.cluster.settings import ClusterConfig
from e2e.images.debian import ImageError


def main() -> int:
    line = argparse.ArgumentParser(prog="python -m e2e.cluster.kind", description=__doc__)
    line.add_argument("--name", default=NAME, help=f"several clusters can exist; default: {NAME}")
    commands = line.add_subparsers(required=True, metavar="up|down|prepare")
    up = commands.add_parser("up", help="start a cluster, or bring a running one up to date, and leave it running")
    up.add_argument("--bare", action="store_true", help="without Spillway itself (manifests/overlays/kind)")
    up.set_defaults(command=_up)
    commands.add_parser("down", help="remove it, and dockerd if it was started for it").set_defaults(command=_down)
    ready = commands.add_parser("prepare", help="Docker and all images, found or built once; no cluster")
    ready.set_defaults(command=_prepare)
    options = line.parse_args()
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {text}", flush=True)

    try:
        options.command(options, say)
    except (BuildError, DockerError, ImageError, PackageError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _up(options: argparse.Namespace, say: Say) -> None:
    cluster = KindCluster.attach(options.name)
    if cluster:
        say(f"the kind cluster {options.name} is up: bringing it up to date")
        cluster.update(say)
    else:
        cluster = create(ClusterConfig(), options.name, say)
    if not options.bare:
        say("applying manifests/overlays/kind")
        cluster.deploy_operator()
        cluster.wait_for_operator()
        say("Spillway is ready")
    programs = Path(sys.executable).parent  # kubectl and kubectl spillway
    print(f"\nexport KUBECONFIG={cluster.kubeconfig} PATH={programs}:$PATH")
    print(f"gateway: {cluster.gateway_url} (Host: NAME.NAMESPACE)\nPrometheus: {cluster.prometheus_url}")
    for name, provider in cluster.providers.items():
        print(f"provider {name}: {provider['base_url']} (bill: {provider['control_url']}/bill)")


def _prepare(options: argparse.Namespace, say: Say) -> None:
    found = prepare(say)
    print(f"docker      {found.docker.program} at {found.docker.address or 'its usual address'}")
    print(f"node image  {found.node_image} ({'public' if found.pulled else 'built here'})")
    for name, tag in found.contents.items():
        print(f"{name:<12}{tag}")


def _down(options: argparse.Namespace, say: Say) -> None:
    say("removed" if take_down(options.name, say) else f"no kind cluster {options.name} was running")


if __name__ == "__main__":
    sys.exit(main())
