"""A pod's volumes as host directories: secrets, config maps, tokens, empty directories, claims, host paths."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from e2e.cluster.environment import Lookup, NotYet, data_of, field
from e2e.cluster.kubeapi import Client, Obj

TOKEN_MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_SECONDS = 30 * 24 * 3600  # outlives any local cluster, so that nothing needs to rotate it


class Volumes:
    """The volumes of one pod under one directory; refresh() again when a Secret or ConfigMap changed."""

    def __init__(self, pod: Obj, directory: Path, claims: Path, disk: Path, client: Client) -> None:
        """`claims` are of the whole cluster; host paths lie below `disk`, the node's."""
        self._disk = disk
        self._pod, self.directory, self._claims, self._client = pod, directory, claims, client
        self._namespace: str = pod["metadata"]["namespace"]
        self._tokens: dict[str, str] = {}

    async def refresh(self, lookup: Lookup, pod_ip: str) -> None:
        """Bring every volume up to date; raises NotYet for a missing, not optional Secret or ConfigMap."""
        for volume in self._pod["spec"].get("volumes", []):
            path = self.path(volume["name"])
            if "secret" in volume or "configMap" in volume:
                path.mkdir(parents=True, exist_ok=True)
                publish(path, _from_source(volume, lookup))
            elif "projected" in volume:
                path.mkdir(parents=True, exist_ok=True)
                publish(path, await self._projected(volume["projected"], lookup, pod_ip))
            elif "downwardAPI" in volume:
                path.mkdir(parents=True, exist_ok=True)
                publish(path, _downward(volume["downwardAPI"], self._pod, pod_ip))
            elif "emptyDir" in volume:
                path.mkdir(parents=True, exist_ok=True)
            elif "persistentVolumeClaim" in volume:
                claim = self._claims / self._namespace / volume["persistentVolumeClaim"]["claimName"]
                claim.mkdir(parents=True, exist_ok=True)
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.is_symlink():
                    path.symlink_to(claim)
            elif "hostPath" in volume:
                kept = self._disk / volume["hostPath"]["path"].lstrip("/")
                kept.mkdir(parents=True, exist_ok=True)
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.is_symlink():
                    path.symlink_to(kept)
            else:
                kind = next(key for key in volume if key != "name")
                raise NotYet(f"the node agent cannot mount a {kind} volume ({volume['name']})")

    def path(self, name: str) -> Path:
        return self.directory / "volumes" / name

    def mounts(self, container: Obj) -> dict[str, str]:
        """Container path -> host path for one container."""
        return {
            mount["mountPath"]: str(self.path(mount["name"]) / mount.get("subPath", "")).rstrip("/")
            for mount in container.get("volumeMounts", [])
        }

    def token(self, container: Obj) -> str | None:
        """The ServiceAccount token that the container would find at its usual place."""
        for mount in container.get("volumeMounts", []):
            if mount["mountPath"] == TOKEN_MOUNT:
                return self._tokens.get("")
        return None

    def remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    async def _projected(self, projected: Obj, lookup: Lookup, pod_ip: str) -> dict[str, bytes]:
        files: dict[str, bytes] = {}
        for source in projected.get("sources", []):
            if "serviceAccountToken" in source:
                request = source["serviceAccountToken"]
                files[request["path"]] = (await self._request_token(request.get("audience", ""))).encode()
            elif "downwardAPI" in source:
                files |= _downward(source["downwardAPI"], self._pod, pod_ip)
            else:
                files |= _from_source(source, lookup)
        return files

    async def _request_token(self, audience: str) -> str:
        """A token bound to this pod, as the kubelet asks for; the real RBAC of its ServiceAccount applies."""
        if audience not in self._tokens:
            meta, account = self._pod["metadata"], self._pod["spec"].get("serviceAccountName", "default")
            bound = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
            spec: Obj = {"expirationSeconds": TOKEN_SECONDS, "boundObjectRef": bound}
            if audience:
                spec["audiences"] = [audience]
            answer = await self._client.create(
                f"/api/v1/namespaces/{self._namespace}/serviceaccounts/{account}/token",
                {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec},
            )
            self._tokens[audience] = answer["status"]["token"]
        return self._tokens[audience]


def publish(directory: Path, files: dict[str, bytes]) -> None:
    """Replace the directory's files at once, the kubelet's way: ..data is a symlink that is swapped atomically."""
    data = directory / "..data"
    if (
        data.is_symlink()
        and {
            str(path.relative_to(data.resolve())): path.read_bytes()
            for path in data.resolve().rglob("*")
            if path.is_file()
        }
        == files
    ):
        return
    fresh = directory / f"..{uuid.uuid4().hex[:12]}"
    fresh.mkdir()
    for name, content in files.items():
        target = fresh / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(0o600)
    stale = data.resolve() if data.is_symlink() else None
    swap = directory / "..data_tmp"
    swap.symlink_to(fresh.name)
    os.replace(swap, data)
    for name in {Path(name).parts[0] for name in files}:
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(Path("..data", name))
    for entry in directory.iterdir():
        if entry.is_symlink() and not entry.exists():
            entry.unlink()
    if stale:
        shutil.rmtree(stale)


def _from_source(source: Obj, lookup: Lookup) -> dict[str, bytes]:
    kind = "secrets" if "secret" in source else "configmaps"
    reference: Obj = source.get("secret") or source["configMap"]
    name = reference.get("secretName") or reference["name"]
    obj = lookup(kind, name)
    if obj is None:
        if reference.get("optional"):
            return {}
        raise NotYet(f"{kind[:-1]} {name} not found")
    data = data_of(kind, obj)
    if not reference.get("items"):
        return data
    missing = [item["key"] for item in reference["items"] if item["key"] not in data]
    if missing and not reference.get("optional"):
        raise NotYet(f"{kind[:-1]} {name} has no key {missing[0]}")
    return {item["path"]: data[item["key"]] for item in reference["items"] if item["key"] in data}


def _downward(source: Obj, pod: Obj, pod_ip: str) -> dict[str, bytes]:
    return {item["path"]: field(pod, item["fieldRef"]["fieldPath"], pod_ip).encode() for item in source["items"]}
