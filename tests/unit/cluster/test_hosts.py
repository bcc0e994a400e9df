"""Names of pods below headless Services."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.hosts import records, write

LABELS = {"set": "r1"}


def service(**spec: Any) -> dict[str, Any]:
    defaults = {"clusterIP": "None", "selector": LABELS, "publishNotReadyAddresses": True}
    return {"metadata": {"namespace": "chat", "name": "r1"}, "spec": {**defaults, **spec}}


def pod(*, ready: bool = False, address: str = "127.64.1.2", namespace: str = "chat", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": namespace, "name": "r1-0", "labels": LABELS},
        "spec": {"hostname": "r1-0", "subdomain": "r1", **spec},
        "status": {"podIP": address, "conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }


def test_a_pod_is_known_by_its_short_and_long_names() -> None:
    assert records([service()], [pod()]) == {
        "r1-0.r1.chat": "127.64.1.2",
        "r1-0.r1.chat.svc": "127.64.1.2",
        "r1-0.r1.chat.svc.cluster.local": "127.64.1.2",
    }


@pytest.mark.parametrize(
    ("services", "pods"),
    [
        ([], [pod()]),
        ([service(clusterIP="10.96.0.7")], [pod()]),
        ([service(selector={"set": "other"})], [pod()]),
        ([service()], [pod(namespace="search")]),
        ([service()], [pod(address="")]),
        ([service()], [pod(hostname="")]),
        ([service(publishNotReadyAddresses=False)], [pod()]),
    ],
)
def test_what_has_no_name(services: list[dict[str, Any]], pods: list[dict[str, Any]]) -> None:
    assert records(services, pods) == {}


def test_without_publishing_all_a_ready_pod_has_a_name() -> None:
    assert "r1-0.r1.chat" in records([service(publishNotReadyAddresses=False)], [pod(ready=True)])


def test_the_file_has_one_name_a_line(tmp_path: Path) -> None:
    write(tmp_path / "hosts", {"b": "127.0.0.2", "a": "127.0.0.1"})
    assert (tmp_path / "hosts").read_text() == "127.0.0.1 a\n127.0.0.2 b\n"
