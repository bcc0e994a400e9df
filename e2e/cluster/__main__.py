"""`python -m e2e.cluster up|down|status|logs|binaries`: a local cluster for hands-on use."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from pydantic import ValidationError

from e2e.cluster import binaries, leaderworkersets
from e2e.cluster.cluster import Cluster, run_directory, take_down
from e2e.cluster.prometheus import find_prometheus
from e2e.cluster.settings import SYSTEM_NAMESPACE, ClusterConfig, load_config


def main() -> int:
    options = _arguments()
    directory = run_directory(options.name)
    try:
        return int(options.command(options, directory))
    except (RuntimeError, OSError, ValidationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _arguments() -> argparse.Namespace:
    line = argparse.ArgumentParser(prog="python -m e2e.cluster", description=__doc__)
    line.add_argument("--name", default="local", help="several clusters can exist; default: local")
    commands = line.add_subparsers(required=True, metavar="up|down|status|logs|binaries")
    up = commands.add_parser("up", help="start a cluster with Spillway and leave it running")
    up.add_argument("--config", type=Path, help="YAML with pools, providers, … (e2e/cluster/settings.py)")
    up.add_argument("--bare", action="store_true", help="without Spillway itself (manifests/overlays/local)")
    up.set_defaults(command=_up)
    commands.add_parser("down", help="end it and remove its files").set_defaults(command=_down)
    commands.add_parser("status", help="nodes, pods, addresses").set_defaults(command=_status)
    logs = commands.add_parser("logs", help="print the logs of a pod, also of one that is gone")
    logs.add_argument("pod")
    logs.add_argument("-n", "--namespace", default=SYSTEM_NAMESPACE)
    logs.add_argument("-f", "--follow", action="store_true")
    logs.set_defaults(command=_logs)
    commands.add_parser("binaries", help="find or build the programs and say where").set_defaults(command=_binaries)
    return line.parse_args()


def _up(options: argparse.Namespace, directory: Path) -> int:
    cluster = Cluster.attach(directory)
    if cluster:
        print(f"cluster {options.name} is already up")
    else:
        config = load_config(options.config) if options.config else ClusterConfig()
        cluster = Cluster.start_detached(directory, config)
    if not options.bare:
        print("applying manifests/overlays/local")
        cluster.deploy_operator()
        cluster.wait_for_operator()
    print(f"\nexport KUBECONFIG={cluster.kubeconfig}\nPrometheus: {cluster.prometheus_url}")
    for name, provider in cluster.providers.items():
        print(f"provider {name}: {provider['base_url']} (bill: {provider['control_url']}/bill)")
    return 0


def _down(options: argparse.Namespace, directory: Path) -> int:
    print("down" if take_down(directory) else f"no cluster {options.name} was running")
    return 0


def _status(options: argparse.Namespace, directory: Path) -> int:
    cluster = Cluster.attach(directory)
    if cluster is None:
        print(f"no cluster {options.name} is running")
        return 1
    status = cluster.status()
    print(f"kubeconfig  {cluster.kubeconfig}")
    print(f"prometheus  {cluster.prometheus_url} ({'running' if status['prometheus_running'] else 'stopped'})")
    for name, address in sorted(status["services"].items()):
        print(f"service     {name} at {address}")
    for name, node in sorted(status["nodes"].items()):
        print(f"node        {name}{' (lost)' if node['lost'] else ''}")
    for name, pod in sorted(status["pods"].items()):
        pids = ", ".join(f"{container} pid {pid or '-'}" for container, pid in pod["containers"].items())
        print(f"pod         {name} at {pod['address']} on {pod['node']}: {pids}")
    return 0


def _logs(options: argparse.Namespace, directory: Path) -> int:
    folder = directory / "logs" / "pods" / options.namespace / options.pod
    files = sorted(folder.glob("*.log"))
    if not files:
        known = sorted(path.name for path in folder.parent.glob("*"))
        print(f"no logs of {options.namespace}/{options.pod}; pods with logs: {', '.join(known) or 'none'}")
        return 1
    follow = ["-n", "+1", "-F"] if options.follow else ["-n", "+1"]
    sys.stdout.flush()
    return subprocess.call(["tail", *follow, *map(os.fspath, files)])


def _binaries(options: argparse.Namespace, directory: Path) -> int:
    found = binaries.find_or_build()
    print(f"etcd        {found.etcd}\nkubernetes  {found.kubernetes} ({found.source})")
    print(f"kubectl     {binaries.kubectl()}\nprometheus  {find_prometheus()}")
    print(f"lws         {leaderworkersets.find_or_build().controller}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
