"""The few verbs that the operator needs, on the official asynchronous client: credentials, TLS and pooling are its."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kubernetes.aio import client

Object = dict[str, Any]

FIELD_MANAGER = "spillway"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
REQUEST_TIMEOUT_SECONDS = 30

PLURALS = {
    "DaemonSet": "daemonsets",
    "Deployment": "deployments",
    "LeaderWorkerSet": "leaderworkersets",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "NetworkPolicy": "networkpolicies",
    "PodMonitor": "podmonitors",
    "ComputeDomain": "computedomains",
    "Pod": "pods",
    "Event": "events",
    "ConfigMap": "configmaps",
    "Secret": "secrets",
    "Lease": "leases",
    "MoEDeployment": "moedeployments",
    "GPUPool": "gpupools",
    "ExternalProvider": "externalproviders",
    "CostPolicy": "costpolicies",
}


class KubeError(Exception):
    """An answer of the API server that is not 2xx."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status, self.reason, self.message = status, reason, message


def path(api_version: str, kind: str, namespace: str | None, name: str = "", subresource: str = "") -> str:
    """URL path of an object or a collection."""
    root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    where = f"/namespaces/{namespace}" if namespace else ""
    parts = [root + where, PLURALS[kind], name, subresource]
    return "/".join(part for part in parts if part)


def path_of(obj: Object, subresource: str = "") -> str:
    meta = obj["metadata"]
    return path(obj["apiVersion"], obj["kind"], meta.get("namespace"), meta["name"], subresource)


class Kube:
    """One API server, as the operator's service account."""

    def __init__(self, api: client.ApiClient) -> None:
        self.api = api

    async def request(
        self,
        method: str,
        where: str,
        body: Object | None = None,
        *,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> Object:
        """One request. Raises KubeError unless the answer is 2xx, OSError or TimeoutError when there is none."""
        method, url, headers, _, _ = await self.api.param_serialize(
            method,
            where,
            query_params=list((params or {}).items()),
            header_params={"Content-Type": content_type, "Accept": "application/json"},
            auth_settings=["BearerToken"],
        )
        response = await self.api.call_api(method, url, headers, body, _request_timeout=REQUEST_TIMEOUT_SECONDS)
        text: bytes = await response.read()  # type: ignore[no-untyped-call]
        try:
            answer: Object = json.loads(text) if text else {}
        except ValueError:
            answer = {"message": text[:200].decode(errors="replace")}
        if response.status >= 300:
            raise KubeError(response.status, answer.get("reason", ""), answer.get("message", ""))
        return answer

    async def apply(self, obj: Object) -> Object:
        """Server-side apply as `spillway`; what another manager set on our fields is taken over."""
        params = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self.request("PATCH", path_of(obj), obj, content_type=APPLY, params=params)

    async def merge(self, where: str, patch: Object) -> Object:
        return await self.request("PATCH", where, patch, content_type=MERGE, params={"fieldManager": FIELD_MANAGER})

    async def delete(self, obj: Object) -> None:
        """Delete that very object if it is still there; what it owns goes with it."""
        options = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "propagationPolicy": "Background",
            "preconditions": {"uid": obj["metadata"]["uid"]},
        }
        try:
            await self.request("DELETE", path_of(obj), options)
        except KubeError as error:
            if error.status not in (404, 409):
                raise
