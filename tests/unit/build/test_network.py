"""Who reaches the replicas, and what is scraped of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from e2e.cluster.prometheus import configuration
from spillway.build import BuildSettings, Object, group_network_policy, network_policy, pod_monitor, workload
from tests.unit.build.test_groups import TENSOR, owner, variant
from tests.unit.build.test_objects import built, container, moe, pool

ROOT = Path(__file__).parents[3]
SETTINGS = BuildSettings(gateway_namespace="front", scraper_namespace="metrics")


def pods() -> list[Object]:
    """Labels of the pods of both kinds of replicas."""
    group = workload(owner(), variant(TENSOR), pool("H200"), 1, SETTINGS)["spec"]["leaderWorkerTemplate"]
    return [
        built(owner())["spec"]["template"]["metadata"]["labels"],
        *(group[f"{role}Template"]["metadata"]["labels"] for role in ("leader", "worker")),
    ]


def test_the_gateway_and_the_scraper_reach_the_serving_port_alone() -> None:
    policy = network_policy(moe(), SETTINGS)
    kubernetes_validate.validate(policy, "1.34", strict=True)
    (rule,) = policy["spec"]["ingress"]
    assert rule["ports"] == [{"port": container(built())["ports"][0]["name"], "protocol": "TCP"}]
    gateway, scraper = rule["from"]
    assert gateway["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "front"}
    assert scraper == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "metrics"}}}
    for labels in pods():
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()


def test_the_gateways_pods_are_those_of_the_manifests() -> None:
    objects = yaml.safe_load_all((ROOT / "manifests" / "base" / "gateway.yaml").read_text())
    (gateway,) = [obj for obj in objects if obj["kind"] == "Deployment"]
    wanted = network_policy(moe(), SETTINGS)["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert wanted.items() <= gateway["spec"]["template"]["metadata"]["labels"].items()


def test_pods_of_groups_reach_each_other_on_every_port() -> None:
    policy = group_network_policy(moe())
    kubernetes_validate.validate(policy, "1.34", strict=True)
    (rule,) = policy["spec"]["ingress"]
    assert "ports" not in rule
    (peer,) = rule["from"]
    assert peer == {"podSelector": policy["spec"]["podSelector"]}, "and no other namespace"
    assert peer["podSelector"]["matchExpressions"][0]["key"] == "leaderworkerset.sigs.k8s.io/group-key"
    names = {policy["metadata"]["name"], network_policy(moe(), SETTINGS)["metadata"]["name"]}
    assert len(names) == 2


def test_pod_monitors_give_the_labels_that_plain_scraping_gives() -> None:
    (endpoint,) = pod_monitor(moe(), SETTINGS)["spec"]["podMetricsEndpoints"]
    given = {
        (relabeling["sourceLabels"][0], relabeling["targetLabel"])
        for relabeling in endpoint["relabelings"]
        if "targetLabel" in relabeling
    }
    scraped: Any = configuration({}, 15.0)
    (job,) = scraped["scrape_configs"]
    plain = {(c["source_labels"][0], c["target_label"]) for c in job["relabel_configs"] if "target_label" in c}
    # Prometheus Operator adds namespace and pod itself.
    assert given == {(source, target) for source, target in plain if target not in ("namespace", "pod")}
    assert endpoint["port"] == container(built())["ports"][0]["name"]


def test_pod_monitors_carry_the_labels_that_a_prometheus_selects_by() -> None:
    labels = pod_monitor(moe(), BuildSettings(pod_monitor_labels=(("release", "prometheus"),)))["metadata"]["labels"]
    assert labels.items() >= {"release": "prometheus", **pod_monitor(moe(), SETTINGS)["metadata"]["labels"]}.items()
