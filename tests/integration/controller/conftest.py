"""The operator's own client on the real API server, and an empty namespace for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from kubernetes.aio import config

from spillway.act.kube import Kube
from tests.integration.conftest import Kube as Server

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
