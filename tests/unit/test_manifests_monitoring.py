"""What is scraped, and what alerts ask: the same series whichever way Prometheus is set up."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from e2e.cluster.prometheus import configuration
from e2e.packaging.render import COMPONENTS, MANIFESTS, Object, render
from spillway.api import MoEDeployment, parse
from spillway.build import BuildSettings, pod_monitor
from spillway.controller.metrics import Metrics
from spillway.gateway import metering
from spillway.observe.traffic import Windows, queries
from tests.unit.api.examples import example

DOCS = MANIFESTS.parent / "docs"
RULES = next(iter(render(COMPONENTS / "prometheus-rules")))["spec"]
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
META = "__meta_kubernetes_"


def relabelled(steps: list[Object], target: Mapping[str, str]) -> dict[str, str] | None:
    """Labels of a target after Prometheus' steps `keep` and `replace`, or None when it is dropped.

    Reads both spellings: of Prometheus (source_labels) and of the Prometheus operator (sourceLabels).
    """
    labels = dict(target)
    for step in steps:
        sources = step.get("source_labels") or step.get("sourceLabels") or []
        name = str(step.get("target_label") or step.get("targetLabel"))
        match = re.fullmatch(step.get("regex", "(.*)"), ";".join(labels.get(source, "") for source in sources))
        action = step.get("action", "replace")
        if action == "keep":
            if not match:
                return None
        elif action == "replace":
            if match:
                labels[name] = match.expand(step.get("replacement", r"\1"))
        else:
            raise AssertionError(f"a step that this test does not know: {action}")
    return {name: value for name, value in labels.items() if not name.startswith("__") and value}


def target(namespace: str, name: str, port: str, phase: str = "Running", **labels: str) -> dict[str, str]:
    """A pod's container port, as service discovery tells it."""
    return {
        f"{META}namespace": namespace,
        f"{META}pod_name": name,
        f"{META}pod_container_port_name": port,
        f"{META}pod_phase": phase,
        **{f"{META}pod_label_{label}": value for label, value in labels.items()},
    }


OURS = {"app_kubernetes_io_part_of": "spillway"}
ENGINE = {
    **OURS,
    "app_kubernetes_io_component": "engine",
    "spillway_dev_deployment": "glm-5",
    "app_kubernetes_io_name": "vllm",
}
TARGETS = [
    target("chat", "glm-5-0", "http", spillway_dev_variant="b200-nvfp4", **ENGINE),
    target("chat", "glm-5-1", "http", phase="Pending", **ENGINE),
    target("chat", "glm-5-0", "other", **ENGINE),
    target("spillway-system", "spillway-operator-0", "metrics", app_kubernetes_io_component="operator",
           app_kubernetes_io_name="spillway-operator", **OURS),
    target("spillway-system", "spillway-operator-0", "ads", app_kubernetes_io_component="operator",
           app_kubernetes_io_name="spillway-operator", **OURS),
    target("spillway-system", "spillway-gateway-0", "metrics", app_kubernetes_io_component="gateway",
           app_kubernetes_io_name="spillway-gateway", **OURS),
    target("spillway-system", "spillway-gateway-0", "http", app_kubernetes_io_component="gateway",
           app_kubernetes_io_name="spillway-gateway", **OURS),
    target("chat", "a-stranger", "http"),
]  # fmt: skip


def scraped_by(monitor: Object, found: Mapping[str, str]) -> dict[str, str] | None:
    """Labels that the Prometheus operator's configuration gives the target; None when the monitor leaves it out."""
    spec = monitor["spec"]
    for label, value in spec["selector"]["matchLabels"].items():
        if found.get(f"{META}pod_label_{re.sub('[^a-zA-Z0-9_]', '_', label)}") != value:
            return None
    anywhere = spec.get("namespaceSelector", {}).get("any", False)
    if not anywhere and found[f"{META}namespace"] != monitor["metadata"]["namespace"]:
        return None
    (endpoint,) = spec["podMetricsEndpoints"]
    if found[f"{META}pod_container_port_name"] != endpoint["port"]:
        return None
    own = {"namespace": found[f"{META}namespace"], "pod": found[f"{META}pod_name"]}  # what it always adds
    return relabelled(endpoint["relabelings"], {**found, **own})


def scrape_job() -> Any:
    return configuration({}, 15)["scrape_configs"][0]  # type: ignore[index]


def all_monitors() -> list[Object]:
    """The component's, and the one that the operator brings with a MoEDeployment."""
    model = example("MoEDeployment", "glm-5")
    model["metadata"]["namespace"] = "chat"
    moe = parse(MoEDeployment, model)
    assert isinstance(moe, MoEDeployment)
    return [*render(COMPONENTS / "pod-monitors"), pod_monitor(moe, BuildSettings())]


@pytest.mark.parametrize(
    "found", TARGETS, ids=lambda t: f"{t[f'{META}pod_name']}:{t[f'{META}pod_container_port_name']}"
)
def test_pod_monitors_give_the_labels_of_our_own_configuration(found: dict[str, str]) -> None:
    monitors = all_monitors()
    seen = [labels for monitor in monitors if (labels := scraped_by(monitor, found)) is not None]
    wanted = relabelled(scrape_job()["relabel_configs"], found)
    assert seen == ([wanted] if wanted is not None else [])


def test_a_replica_has_the_labels_that_the_operator_asks_by() -> None:
    wanted = {"namespace": "chat", "pod": "glm-5-0", "deployment": "glm-5", "variant": "b200-nvfp4"}
    assert relabelled(scrape_job()["relabel_configs"], TARGETS[0]) == wanted


def test_four_scrapes_fit_into_the_rate_window() -> None:
    for monitor in all_monitors():
        assert [e["interval"] for e in monitor["spec"]["podMetricsEndpoints"]] == ["15s"]


def test_the_page_has_our_own_scrape_configuration() -> None:
    block = re.search(r"<!-- scrape-config -->\n```yaml\n(.*?)```", (DOCS / "install.md").read_text(), re.DOTALL)
    assert block
    (told,) = yaml.safe_load(block[1])["scrape_configs"]
    selector = {"role": "pod", "label": "app.kubernetes.io/part-of=spillway"}
    assert told.pop("kubernetes_sd_configs") == [{"role": "pod", "selectors": [selector]}]
    assert told.pop("scrape_interval") == "15s"
    assert told == scrape_job()


# ---- alerts ----------------------------------------------------------------------------------------------------------

FUNCTIONS = {"sum", "max", "min", "count", "rate", "absent", "vector", "or", "unless", "on", "by", "le"}
FUNCTIONS |= {"label_replace", "histogram_quantile", "min_over_time", "time"}


def existing() -> set[str]:
    """Every series that Spillway's own pods export, and Envoy's own that the operator itself relies on."""
    names = set()
    for family in Metrics().registry.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        names |= {family.name + suffix for suffix in suffixes}
    names |= {f"envoy_spillway_{name}" for name in re.findall(r'_counter\(f?"([a-z_{}]+)"', _source(metering))}
    names |= {name for query in queries(Windows()).values() for name in re.findall(r"\benvoy_[a-z_]+", query)}
    return names | {"up"}


def _source(module: Any) -> str:
    with open(module.__file__) as file:
        return file.read()


def metrics_of(expression: str) -> set[str]:
    """Names of series in PromQL: what is no function, label, string, duration or number."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\b(?:by|on)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    return set(re.findall(r"[a-zA-Z_:][\w:]*", bare)) - FUNCTIONS


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule["alert"])
def test_alerts_ask_for_series_that_exist(alert: Object) -> None:
    asked = metrics_of(alert["expr"])
    assert asked
    assert asked <= existing()


def test_the_check_knows_a_series_that_nothing_exports() -> None:
    assert metrics_of('sum by (pod) (rate(spillway_typo_total{a="b"}[5m])) > 0') - existing() == {"spillway_typo_total"}
    assert "envoy_spillway_egress_requests" in existing()
    assert "envoy_spillway_nothing" not in existing()


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule["alert"])
def test_alerts_say_what_to_do(alert: Object) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
    page, _, anchor = alert["annotations"]["runbook_url"].rpartition("/docs/")[2].partition("#")
    headings = re.findall(r"^#+ (.+)$", (DOCS / page).read_text(), re.MULTILINE)
    assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_alerts_have_names_of_their_own() -> None:
    names = [rule["alert"] for rule in ALERTS]
    assert len(set(names)) == len(names) >= 10
