"""Prometheus' Kubernetes service discovery, role pod, for builds that were compiled without it (Debian's is).

The node agent knows every pod; it writes the targets with the very meta labels that Prometheus' own discovery gives,
so that the scrape configuration's relabelling is the same either way. In a cluster without the node agent a side-car of
Prometheus does it: `python -m e2e.cluster.discovery FILE`, with a service account that may list and watch pods.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from e2e.cluster.kubeapi import Client, Informer, Obj

_META = "__meta_kubernetes_pod"
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def supports_kubernetes(program: Path) -> bool:
    """Whether this Prometheus was built with Kubernetes service discovery."""
    return b"prometheus/discovery/kubernetes" in program.read_bytes()


def targets(pods: Iterable[Obj]) -> list[dict[str, Any]]:
    """One target group per declared container port of every pod that has an address."""
    groups = []
    for pod in sorted(pods, key=lambda item: str(item["metadata"]["uid"])):
        address = pod.get("status", {}).get("podIP")
        if not address:
            continue
        labels = _pod_labels(pod)
        for container in pod["spec"]["containers"]:
            for port in container.get("ports", []):
                number = str(port["containerPort"])
                own = {
                    f"{_META}_container_name": container["name"],
                    f"{_META}_container_port_name": port.get("name", ""),
                    f"{_META}_container_port_number": number,
                }
                groups.append({"targets": [f"{address}:{number}"], "labels": {**labels, **own}})
    return groups


def write_targets(pods: Iterable[Obj], path: Path) -> None:
    """Replace the file if the targets changed; Prometheus watches it."""
    text = json.dumps(targets(pods), indent=1)
    if not path.exists() or path.read_text() != text:
        fresh = path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(path)


def _pod_labels(pod: Obj) -> dict[str, str]:
    meta, status = pod["metadata"], pod["status"]
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions", [])}
    labels = {
        "__meta_kubernetes_namespace": meta["namespace"],
        f"{_META}_name": meta["name"],
        f"{_META}_ip": status["podIP"],
        f"{_META}_phase": status.get("phase", ""),
        f"{_META}_ready": conditions.get("Ready", "unknown").lower(),
        f"{_META}_uid": meta["uid"],
        f"{_META}_node_name": pod["spec"].get("nodeName", ""),
    }
    for kind in ("label", "annotation"):
        for key, value in meta.get(f"{kind}s", {}).items():
            labels[f"{_META}_{kind}_{re.sub('[^A-Za-z0-9_]', '_', key)}"] = value
    return labels


async def _follow(path: Path) -> None:
    """Keep the file up to date with Spillway's pods, from inside the cluster, until cancelled."""
    server = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT_HTTPS']}"
    token = (_ACCOUNT / "token").read_text()
    async with Client(server, token, str(_ACCOUNT / "ca.crt")) as client:
        changed = asyncio.Event()
        selector = {"labelSelector": "app.kubernetes.io/part-of=spillway"}
        pods = Informer(client, "/api/v1/pods", lambda old, new: changed.set(), selector)
        watching = asyncio.create_task(pods.run())
        await pods.synced.wait()
        while not watching.done():
            changed.clear()
            write_targets(pods.objects.values(), path)
            await changed.wait()
        await watching


if __name__ == "__main__":
    asyncio.run(_follow(Path(sys.argv[1])))
