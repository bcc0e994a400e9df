"""What the cluster's DNS answers for pods with a host name below a headless Service, as a file of hosts.

Pods here are processes that share one machine's resolver, so a program that asks for such a name reads it there.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from e2e.cluster.kubeapi import Obj, key_of
from e2e.cluster.services import is_ready, selects


def records(services: Iterable[Obj], pods: Iterable[Obj]) -> dict[str, str]:
    """Address by name: `host.service.namespace` and its longer forms."""
    headless = {key_of(s): s for s in services if s["spec"].get("clusterIP") == "None"}
    found: dict[str, str] = {}
    for pod in pods:
        spec, namespace, address = pod["spec"], pod["metadata"]["namespace"], pod.get("status", {}).get("podIP")
        service = headless.get(f"{namespace}/{spec.get('subdomain')}")
        if not address or not spec.get("hostname") or service is None or not selects(service, pod):
            continue
        if service["spec"].get("publishNotReadyAddresses") or is_ready(pod):
            name = f"{spec['hostname']}.{spec['subdomain']}.{namespace}"
            found |= {name + suffix: address for suffix in ("", ".svc", ".svc.cluster.local")}
    return found


def write(path: Path, names: dict[str, str]) -> None:
    """Replace the file if the names changed; readers never see half of it."""
    text = "".join(f"{address} {name}\n" for name, address in sorted(names.items()))
    if not path.exists() or path.read_text() != text:
        fresh = path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(path)
