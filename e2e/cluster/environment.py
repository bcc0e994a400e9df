"""A container's environment and command line as the kubelet would resolve them. Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any

from e2e.cluster.kubeapi import Obj

_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")

Lookup = Callable[[str, str], Obj | None]  # (kind "secrets" | "configmaps", name) -> object in the pod's namespace


class NotYet(Exception):
    """Something the pod refers to does not exist (yet); the kubelet waits for it."""


def expand(text: str, variables: Mapping[str, str]) -> str:
    """$(VAR) as in Kubernetes: unknown names stay as they are, $$ is a dollar."""

    def replacement(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return variables.get(match[1], match[0])

    return _REFERENCE.sub(replacement, text)


def data_of(kind: str, obj: Obj) -> dict[str, bytes]:
    """The entries of a Secret or ConfigMap."""
    if kind == "secrets":
        return {key: base64.b64decode(value) for key, value in (obj.get("data") or {}).items()}
    binary = {key: base64.b64decode(value) for key, value in (obj.get("binaryData") or {}).items()}
    return binary | {key: value.encode() for key, value in (obj.get("data") or {}).items()}


def field(pod: Obj, path: str, pod_ip: str) -> str:
    """A downward-API field of the pod, such as metadata.labels['app'] or status.podIP."""
    entry = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
    if entry:
        return str(pod["metadata"].get(entry[1], {}).get(entry[2], ""))
    if path in ("metadata.labels", "metadata.annotations"):
        entries = pod["metadata"].get(path.partition(".")[2], {})
        return "".join(f'{key}="{value}"\n' for key, value in sorted(entries.items()))
    if path in ("status.podIP", "status.podIPs", "status.hostIP"):
        return pod_ip
    value: Any = pod
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            raise NotYet(f"fieldRef {path} is not known to the node agent")
        value = value[part]
    return str(value)


def resolve(container: Obj, pod: Obj, pod_ip: str, lookup: Lookup) -> dict[str, str]:
    """envFrom and env of a container, in order, with $(VAR) expanded; raises NotYet for a missing reference."""
    variables: dict[str, str] = {}
    for source in container.get("envFrom", []):
        kind, reference = _reference(source, "secretRef", "configMapRef")
        prefix = source.get("prefix", "")
        for key, value in _entries(kind, reference, lookup).items():
            variables[prefix + key] = value.decode()
    for entry in container.get("env", []):
        value_from = entry.get("valueFrom")
        if value_from is None:
            variables[entry["name"]] = expand(entry.get("value", ""), variables)
            continue
        if "fieldRef" in value_from:
            variables[entry["name"]] = field(pod, value_from["fieldRef"]["fieldPath"], pod_ip)
            continue
        if "resourceFieldRef" in value_from:
            variables[entry["name"]] = _resource(container, value_from["resourceFieldRef"]["resource"])
            continue
        kind, reference = _reference(value_from, "secretKeyRef", "configMapKeyRef")
        entries = _entries(kind, reference, lookup)
        if reference["key"] in entries:
            variables[entry["name"]] = entries[reference["key"]].decode()
        elif not reference.get("optional"):
            raise NotYet(f"{kind[:-1]} {reference['name']} has no key {reference['key']}")
    return variables


def _reference(source: Obj, secret: str, config_map: str) -> tuple[str, Obj]:
    if secret in source:
        return "secrets", source[secret]
    if config_map in source:
        return "configmaps", source[config_map]
    raise NotYet(f"the node agent does not know the env source {sorted(source)}")


def _entries(kind: str, reference: Obj, lookup: Lookup) -> dict[str, bytes]:
    obj = lookup(kind, reference["name"])
    if obj is None:
        if reference.get("optional"):
            return {}
        raise NotYet(f"{kind[:-1]} {reference['name']} not found")
    return data_of(kind, obj)


def _resource(container: Obj, name: str) -> str:
    group, _, resource = name.partition(".")
    return str(container.get("resources", {}).get(group, {}).get(resource, "0"))


def translate(text: str, mounts: Mapping[str, str]) -> str:
    """Replace container paths by host paths where a mount path stands as a whole path prefix."""
    for mount in sorted(mounts, key=len, reverse=True):
        path = re.escape(mount.rstrip("/"))
        host = mounts[mount].replace("\\", r"\\")
        text = re.sub(rf"(?<![\w./-]){path}(?=$|[^\w.-])", host, text)
    return text
