from __future__ import annotations

from pathlib import Path

import pytest

from e2e.cluster.discovery import targets
from e2e.cluster.kubeapi import Obj
from e2e.cluster.podlogs import tail_offset
from e2e.cluster.probes import Threshold
from e2e.cluster.services import endpoints
from e2e.cluster.volumes import publish


def pod(name: str, address: str, *, ready: bool = True) -> Obj:
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {
        "metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"app.kubernetes.io/part-of": "spillway"}},
        "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8000}]}]},
        "status": {"podIP": address, "phase": "Running", "conditions": conditions},
    }


def test_endpoints_are_the_ready_pods_of_the_selector() -> None:
    selector = {"app.kubernetes.io/part-of": "spillway"}
    service: Obj = {"metadata": {"namespace": "n"}, "spec": {"selector": selector}}
    gone = pod("c", "127.1.1.3")
    gone["metadata"]["deletionTimestamp"] = "2026-11-23T00:00:00Z"
    other = pod("d", "127.1.1.4")
    other["metadata"]["namespace"] = "other"
    pods = [pod("a", "127.1.1.1"), pod("b", "127.1.1.2", ready=False), gone, other]
    assert endpoints(service, {"port": 80, "targetPort": "http"}, pods) == [("127.1.1.1", 8000)]
    assert endpoints(service, {"port": 80}, pods) == [("127.1.1.1", 80)]
    assert endpoints(service, {"port": 80, "targetPort": "no-such-port"}, pods) == []


def test_discovery_has_prometheus_meta_labels() -> None:
    (group,) = targets([pod("a", "127.1.1.1"), {"metadata": {"uid": "b"}, "spec": {}, "status": {}}])
    assert group["targets"] == ["127.1.1.1:8000"]
    assert group["labels"]["__meta_kubernetes_pod_label_app_kubernetes_io_part_of"] == "spillway"
    assert group["labels"]["__meta_kubernetes_pod_container_port_name"] == "http"


@pytest.mark.parametrize(
    ("results", "verdicts"),
    [([False, False, True, True], [True, False, False, True]), ([True, False, True, False], [True] * 4)],
)
def test_threshold_needs_results_in_a_row(results: list[bool], verdicts: list[bool]) -> None:
    threshold = Threshold({"failureThreshold": 2, "successThreshold": 2}, initial=True)
    seen = []
    for result in results:
        threshold.add(result)
        seen.append(threshold.healthy)
    assert seen == verdicts


def test_publish_swaps_all_files_at_once(tmp_path: Path) -> None:
    publish(tmp_path, {"a": b"1", "deep/b": b"2"})
    first = (tmp_path / "..data").resolve()
    publish(tmp_path, {"a": b"1", "deep/b": b"2"})
    assert (tmp_path / "..data").resolve() == first, "nothing changed, nothing is written"
    publish(tmp_path, {"a": b"3"})
    assert (tmp_path / "a").read_bytes() == b"3"
    assert not first.exists()
    assert not (tmp_path / "deep").is_symlink()


@pytest.mark.parametrize(("lines", "rest"), [(0, b""), (1, b"c\n"), (2, b"b\nc\n"), (9, b"a\nb\nc\n")])
def test_tail_starts_at_a_line(lines: int, rest: bytes) -> None:
    text = b"a\nb\nc\n"
    assert text[tail_offset(text, lines) :] == rest
