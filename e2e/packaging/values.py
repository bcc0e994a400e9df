"""The chart's values: one table, from which values.yaml, values.schema.json and the README's table are written.

Defaults are read from the rendered base, and the operator's settings from its own model, so that neither is said twice.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from typer.main import get_command

from e2e.packaging.render import Object, dump, version
from spillway.cli.main import LOG_LEVELS, app
from spillway.controller.settings import OperatorSettings

# The manifests decide these themselves: namespace, addresses and ports fit together.
_FIXED = {"namespace", "pod_name", "bind_address", "ads_port", "health_port", "gateway_host", "gateway_metrics_port"}
_FIXED |= {"prometheus_url"}  # a value of its own: both sides need it
_QUANTITIES: Object = {"type": "object", "additionalProperties": {"type": ["string", "number"]}}
_TEXT: Object = {"type": "string"}
_NAME: Object = {"type": "string", "minLength": 1}
_FLAG: Object = {"type": "boolean"}
_TEXTS: Object = {"type": "object", "additionalProperties": {"type": "string"}}
_OBJECTS: Object = {"type": "array", "items": {"type": "object"}}


@dataclass(frozen=True)
class Value:
    """One value: its dotted path, its default, its JSON schema, and what it is for."""

    path: str
    default: Any
    schema: Object
    text: str


def table(deployments: dict[str, Object]) -> list[Value]:
    """All values, with the defaults that the Deployments (by container name) have in the base."""
    return [
        *_program("operator", deployments["operator"], "The operator: one replica leads, the others stand by."),
        Value("operator.settings", {}, _settings_schema(), "Settings of the operator, each as in docs/development.md."),
        *_program("gateway", deployments["gateway"], "The gateway (Envoy), which all requests go through."),
        Value(
            "gateway.terminationGracePeriodSeconds",
            deployments["gateway"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"],
            {"type": "integer", "minimum": 60},
            "How long a gateway that stops may go on with the answers that it has begun.",
        ),
        Value("gateway.providerKeysSecret", "spillway-provider-keys", _NAME, "Secret with the keys of the providers."),
        Value(
            "gateway.tlsSecret",
            "",
            _TEXT,
            "Secret of type kubernetes.io/tls, by which clients are served at port 443, too; empty: plain HTTP only.",
        ),
        Value(
            "gateway.service.type",
            "ClusterIP",
            {"type": "string", "enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
            "How the gateway is reached.",
        ),
        Value(
            "gateway.service.nodePort",
            0,
            {"type": "integer", "anyOf": [{"const": 0}, {"minimum": 1, "maximum": 65535}]},
            "Port of the nodes, for NodePort and LoadBalancer; 0: Kubernetes chooses.",
        ),
        Value("gateway.service.annotations", {}, _TEXTS, "Annotations of the gateway's Service."),
        Value("imagePullSecrets", [], _OBJECTS, "Names of Secrets for the image registry: `[{name: …}]`."),
        Value(
            "prometheusUrl",
            OperatorSettings.model_fields["prometheus_url"].default,
            {"type": "string", "pattern": "^https?://"},
            "Prometheus that scrapes engines and gateways.",
        ),
        Value("clusterDomain", "cluster.local", _NAME, "DNS domain of the cluster."),
        Value("crds.enabled", True, _FLAG, "Install and upgrade the four kinds with the release."),
        Value(
            "crds.keep", True, _FLAG, "Leave the kinds, and so all objects of them, when the release is uninstalled."
        ),
        Value(
            "networkPolicies.enabled", False, _FLAG, "Say who may talk to whom; needs a network plugin that enforces."
        ),
        Value("networkPolicies.monitoringNamespace", "monitoring", _NAME, "Namespace of Prometheus."),
        Value(
            "networkPolicies.prometheusPort",
            9090,
            {"type": "integer", "minimum": 1, "maximum": 65535},
            "Port at which Prometheus' pods answer.",
        ),
        Value(
            "networkPolicies.clients",
            [],
            _OBJECTS,
            "Who may send requests, as NetworkPolicyPeers; empty: everybody.",
        ),
        Value("podMonitors.enabled", False, _FLAG, "PodMonitors, for the Prometheus operator."),
        Value("podMonitors.labels", {}, _TEXTS, "Labels by which your Prometheus selects PodMonitors."),
        Value("prometheusRules.enabled", False, _FLAG, "Alerts, for the Prometheus operator."),
        Value("prometheusRules.labels", {}, _TEXTS, "Labels by which your Prometheus selects PrometheusRules."),
    ]


def image_of(reference: str) -> tuple[str, str, str]:
    """(repository, tag, digest) of an image reference; tag and digest are empty where it has none."""
    name, _, digest = reference.partition("@")
    head, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:  # what is behind a colon with a slash is a registry's port
        return name, "", digest
    return head, tag, digest


def _program(name: str, deployment: Object, text: str) -> list[Value]:
    pod = deployment["spec"]["template"]["spec"]
    container = pod["containers"][0]
    repository, tag, digest = image_of(container["image"])
    chart_tag = "" if tag == version() else tag
    return [
        Value(f"{name}.replicas", deployment["spec"]["replicas"], {"type": "integer", "minimum": 1}, text),
        Value(f"{name}.image.repository", repository, _NAME, "Image, with its registry."),
        Value(f"{name}.image.tag", chart_tag, _TEXT, "Tag; empty: the chart's appVersion."),
        Value(
            f"{name}.image.digest",
            digest,
            {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
            "Digest; wins over the tag.",
        ),
        Value(
            f"{name}.image.pullPolicy",
            container["imagePullPolicy"],
            {"type": "string", "enum": ["Always", "IfNotPresent", "Never"]},
            "When the kubelet pulls.",
        ),
        Value(
            f"{name}.resources",
            container["resources"],
            {
                "type": "object",
                "additionalProperties": False,
                "properties": {"requests": _QUANTITIES, "limits": _QUANTITIES},
            },
            "Requests and limits.",
        ),
        Value(f"{name}.priorityClassName", "", _TEXT, "PriorityClass of the pods."),
        Value(f"{name}.nodeSelector", {}, _TEXTS, "Nodes to run on."),
        Value(f"{name}.tolerations", [], _OBJECTS, "Taints to tolerate."),
        Value(f"{name}.affinity", {}, {"type": "object"}, "Affinity of the pods."),
        Value(
            f"{name}.topologySpreadConstraints",
            pod["topologySpreadConstraints"],
            _OBJECTS,
            "How the replicas spread over nodes and zones.",
        ),
        Value(f"{name}.podAnnotations", {}, _TEXTS, "Further annotations of the pods."),
        Value(f"{name}.extraEnv", [], _OBJECTS, "Further environment variables, as in a container."),
    ]


def _settings_schema() -> Object:
    """OperatorSettings in camelCase, with the texts of `spillway operator --help`."""
    command: Any = get_command(app)
    texts = {option.name: option.help for option in command.commands["operator"].params}
    properties: Object = {}
    for name, schema in OperatorSettings.model_json_schema()["properties"].items():
        if name not in _FIXED:
            kept = {key: value for key, value in schema.items() if key != "title"}
            properties[_camel(name)] = {"description": texts[name], **kept}
    properties["logLevel"] = {
        "description": texts["log_level"],
        "type": "string",
        "enum": list(LOG_LEVELS),
        "default": "info",
    }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.title() for word in rest)


def schema(values: Iterable[Value]) -> str:
    """values.schema.json: nothing is allowed that the table does not name."""
    root: Object = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the Spillway chart",
        "type": "object",
        "additionalProperties": False,
        "properties": {"global": {"type": "object", "description": "Helm's own, for charts that contain this one."}},
    }
    for value in values:
        node = root
        *parents, leaf = value.path.split(".")
        for parent in parents:
            closed = {"type": "object", "additionalProperties": False, "properties": {}}
            node = node["properties"].setdefault(parent, closed)
        node["properties"][leaf] = {"description": value.text, "default": value.default, **value.schema}
    return json.dumps(root, indent=2, ensure_ascii=False) + "\n"


def values_yaml(values: Sequence[Value]) -> str:
    """values.yaml: every value with its default and, above it, what it is for."""
    lines = ["# Written by `python -m e2e.packaging generate`; not to be edited. Schema: values.schema.json."]
    before: list[str] = []
    for value in values:
        *parents, leaf = value.path.split(".")
        for depth, parent in enumerate(parents):
            if before[: depth + 1] != parents[: depth + 1]:
                if depth == 0:
                    lines.append("")
                lines.append("  " * depth + f"{parent}:")
        if not parents:
            lines.append("")
        indent = "  " * len(parents)
        lines.append(f"{indent}# {value.text}")
        if value.path == "operator.settings":
            lines += _settings_comment(value, indent)
        lines.append(textwrap.indent(dump({leaf: value.default}).rstrip(), indent))
        before = parents
    return "\n".join(lines) + "\n"


def _settings_comment(value: Value, indent: str) -> list[str]:
    return [
        f"{indent}#   {name}: {json.dumps(found['default'])}  # {found['description']}"
        for name, found in value.schema["properties"].items()
    ]


def markdown(values: Iterable[Value]) -> str:
    """The README's table of values, with one row for each setting of the operator."""
    rows = ["| value | default | meaning |", "|---|---|---|"]
    for value in values:
        rows.append(f"| `{value.path}` | `{json.dumps(value.default, ensure_ascii=False)}` | {value.text} |")
        if value.path == "operator.settings":
            rows += [
                f"| `{value.path}.{name}` | `{json.dumps(found['default'])}` | {found['description']} |"
                for name, found in value.schema["properties"].items()
            ]
    return "\n".join(rows) + "\n"
