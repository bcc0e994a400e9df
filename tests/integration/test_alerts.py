"""The alerts, checked and driven by Prometheus' own promtool."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from e2e.cluster import debian
from e2e.packaging.render import COMPONENTS, render

RULES = render(COMPONENTS / "prometheus-rules")[0]["spec"]
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
LEADER = 'spillway_leader{pod="spillway-operator-0"}'
STANDBY = 'spillway_leader{pod="spillway-operator-1"}'
LIVE = 'envoy_server_live{pod="spillway-gateway-0"}'
LIVE_TOO = 'envoy_server_live{pod="spillway-gateway-1"}'
CONNECTED = 'spillway_gateways_connected{pod="spillway-operator-0"}'
MODEL = 'exported_namespace="chat",namespace="spillway-system",deployment="glm-5"'
WELL = {
    LEADER: "1x200",
    STANDBY: "0x200",
    LIVE: "1x200",
    LIVE_TOO: "1x200",
    CONNECTED: "2x200",
    'spillway_reconcile_total{result="success"}': "0+60x200",
    'spillway_reconcile_total{result="error"}': "0x200",
    "spillway_workqueue_depth": "0 40 0 40 0 40 0x200",  # bursts that are worked off
    'spillway_plan_duration_seconds_bucket{le="0.1"}': "0+6x200",
    'spillway_plan_duration_seconds_bucket{le="10"}': "0+6x200",
    'spillway_plan_duration_seconds_bucket{le="+Inf"}': "0+6x200",
    "spillway_catalog_problems": "0x200",
    "spillway_gateway_rejected_resources": "0x200",
    'spillway_ads_certificate_expiry_timestamp_seconds{certificate="gateway"}': "2592000x200",
    'envoy_spillway_arrivals{deployment="chat/glm-5",pod="spillway-gateway-0"}': "0+600x200",
    'envoy_spillway_answers{deployment="chat/glm-5",served_by="local",code_class="2xx"}': "0+590x200",
    'envoy_spillway_answers{deployment="chat/glm-5",served_by="none",code_class="4xx"}': "0+10x200",
    f'spillway_desired_replicas{{{MODEL},variant="b200-nvfp4"}}': "2x200",
    'up{namespace="chat",deployment="glm-5",pod="glm-5-0"}': "1x200",
    'up{namespace="chat",deployment="glm-5",pod="glm-5-1"}': "0x200",
    'spillway_budget_remaining_usd{policy="assist",budget="api-day"}': "400-1x200",
    'envoy_spillway_egress_requests{provider="zai",outcome="metered"}': "0+60x200",
    'envoy_spillway_egress_requests{provider="zai",outcome="refused"}': "0+600x200",
    'envoy_spillway_egress_errors{provider="zai",model="glm-5",why="rejected"}': "0+590x200",  # its clients' own faults
    'envoy_spillway_egress_errors{provider="zai",model="glm-5",why="held"}': "0+900x200",
    'envoy_spillway_egress_errors{provider="zai",model="glm-5",why="throttled"}': "0+10x200",
}
"""Series by name, a sample a minute, of a cluster that is well."""

ILLS: dict[str, dict[str, str | None]] = {
    "SpillwayNoLeader": {LEADER: "1x30 0x170"},
    "SpillwayTwoLeaders": {STANDBY: "0x30 1x170"},
    "SpillwayReconcileErrors": {'spillway_reconcile_total{result="error"}': "0+20x200"},
    "SpillwayQueueStuck": {"spillway_workqueue_depth": "0x30 12x170"},
    "SpillwaySlowDecisions": {'spillway_plan_duration_seconds_bucket{le="0.1"}': "0x200"},
    "SpillwayCatalogProblems": {"spillway_catalog_problems": "0x30 2x170"},
    "SpillwayCertificateEnds": {
        'spillway_ads_certificate_expiry_timestamp_seconds{certificate="gateway"}': "2592000x30 400000x170"
    },
    "SpillwayNoGateway": {LIVE: "1x30 0x170", LIVE_TOO: "1x30 _x170", CONNECTED: "2x30 0x170"},
    "SpillwayGatewayDisconnected": {CONNECTED: "2x30 1x170"},
    "SpillwayConfigurationRejected": {"spillway_gateway_rejected_resources": "0x30 1x170"},
    "SpillwayRequestsRefused": {
        'envoy_spillway_answers{deployment="chat/glm-5",served_by="none",code_class="4xx"}': "0+60x200"
    },
    "SpillwayNoReplicaAnswers": {'up{namespace="chat",deployment="glm-5",pod="glm-5-0"}': "1x30 0x170"},
    "SpillwayBudgetSpent": {'spillway_budget_remaining_usd{policy="assist",budget="api-day"}': "40-1x200"},
    "SpillwayProviderDisabled": {'spillway_provider_disabled{provider="zai",reason="QuotaSpent"}': "_x30 1x170"},
    "SpillwayProviderFails": {
        'envoy_spillway_egress_errors{provider="zai",model="glm-5",why="throttled"}': "0+300x200",
        'envoy_spillway_egress_errors{provider="zai",model="glm-5",why="unavailable"}': "0+60x200",
    },
}
"""What is different when an alert must fire, and no other one may."""


@pytest.fixture(scope="module")
def promtool() -> str:
    return debian.provide("promtool", ["prometheus"])


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """A rule file as Prometheus reads it: the `spec` of the PrometheusRule."""
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(RULES))
    return path


def fired(promtool: str, rules: Path, changes: dict[str, str | None], minute: int = 150) -> dict[str, str]:
    """What promtool prints of the alerts that fire at that minute, by name."""
    series = [{"series": name, "values": values} for name, values in (WELL | changes).items() if values is not None]
    expected = [{"eval_time": f"{minute}m", "alertname": name, "exp_alerts": []} for name in ALERTS]
    test = {
        "rule_files": [str(rules)],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": expected}],
    }
    path = rules.with_name("test.yaml")
    path.write_text(yaml.safe_dump(test, width=10_000))
    done = subprocess.run([promtool, "test", "rules", str(path)], capture_output=True, text=True, check=False)
    printed = done.stdout + done.stderr
    assert (done.returncode == 0) == ("alertname" not in printed), printed
    # What it did not expect it prints: one paragraph for each alert, with labels and annotations in Go's notation.
    return {
        name: paragraph
        for paragraph in printed.split("alertname:")[1:]
        for name in re.findall(r"^\s*(\w+)", paragraph)
        if "Labels:" in paragraph
    }


def test_the_rules_are_well_formed(promtool: str, rules: Path) -> None:
    command = [promtool, "check", "rules", "--lint=all", "--lint-fatal", str(rules)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


def test_nothing_fires_while_all_is_well(promtool: str, rules: Path) -> None:
    assert fired(promtool, rules, {}) == {}


def test_every_alert_has_a_case() -> None:
    assert ILLS.keys() == ALERTS.keys()


@pytest.mark.parametrize("alert", ILLS)
def test_an_alert_fires_alone_and_not_before_its_time(promtool: str, rules: Path, alert: str) -> None:
    found = fired(promtool, rules, ILLS[alert])
    assert found.keys() == {alert}
    assert "<no value>" not in found[alert]
    assert "error expanding template" not in found[alert]
    if "x30 " in str(ILLS[alert]):
        assert fired(promtool, rules, ILLS[alert], minute=30) == {}


def test_no_metrics_at_all_is_told(promtool: str, rules: Path) -> None:
    found = fired(promtool, rules, dict.fromkeys(WELL))
    assert found.keys() == {"SpillwayNoLeader", "SpillwayNoGateway"}
