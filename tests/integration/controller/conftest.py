"""The operator's own clients on the real API server, an empty namespace for each test, and a gateway's counters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from kubernetes.aio import config
from kubernetes.aio.client import CoreV1Api, V1ConfigMap, V1Namespace, V1ObjectMeta

from spillway.act.kube import Kube
from tests.integration.conftest import Kube as Server
from tests.integration.controller.treasuries import FakeGateway, listening

Object = dict[str, Any]


class Counting(Kube):
    """Counts what is written."""

    writes: list[str]

    async def request(self, method: str, where: str, *arguments: Any, **options: Any) -> Object:
        if method != "GET":
            self.writes.append(f"{method} {where}")
        return await super().request(method, where, *arguments, **options)


@dataclass(frozen=True)
class Place:
    """Two clients, as two processes would have them, and a namespace."""

    kube: Counting
    other: Counting
    server: Server
    namespace: str
    created: list[str] = field(default_factory=list)

    def writes(self) -> list[str]:
        """What was written since one last asked."""
        found = list(self.kube.writes)
        self.kube.writes.clear()
        return found


@pytest.fixture
async def place(kube: Server) -> AsyncIterator[Place]:
    mine = await config.new_client_from_config(str(kube.kubeconfig))  # type: ignore[no-untyped-call]
    theirs = await config.new_client_from_config(str(kube.kubeconfig))  # type: ignore[no-untyped-call]
    namespace = f"control-{uuid4().hex[:8]}"
    assert kube.kubectl("create", "namespace", namespace).returncode == 0
    async with mine, theirs:
        found = Place(Counting(mine), Counting(theirs), kube, namespace)
        found.kube.writes, found.other.writes = [], []
        yield found


@pytest.fixture
async def gateway() -> AsyncIterator[FakeGateway]:
    async with listening("127.0.0.1") as fake:
        yield fake


@pytest.fixture
async def core(kube: Server) -> AsyncIterator[CoreV1Api]:
    client = await config.new_client_from_config(str(kube.kubeconfig))  # type: ignore[no-untyped-call]
    async with client:
        yield CoreV1Api(client)


@pytest.fixture
async def namespace(core: CoreV1Api) -> str:
    name = f"treasury-{uuid4().hex[:8]}"
    await core.create_namespace(V1Namespace(metadata=V1ObjectMeta(name=name)))
    return name


@pytest.fixture
async def requests(core: CoreV1Api, namespace: str) -> None:
    """The ConfigMap of requests to adjust that the manifests bring."""
    await core.create_namespaced_config_map(
        namespace, V1ConfigMap(metadata=V1ObjectMeta(name="spillway-adjustments", namespace=namespace))
    )
