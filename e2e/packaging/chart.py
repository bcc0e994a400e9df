"""The Helm chart, written from the rendered base and components."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from e2e.packaging import values
from e2e.packaging.holes import INDENT, NESTED, Holes
from e2e.packaging.render import MANIFESTS, Object, dump, version

CHART = MANIFESTS / "helm" / "spillway"
NAMESPACE = "spillway-system"
COMPONENTS = {
    "network-policies": "networkPolicies",
    "pod-monitors": "podMonitors",
    "prometheus-rules": "prometheusRules",
}
"""Directory in manifests/components by the value that turns it on."""

_STATIC = Path(__file__).parent / "chart"
_PLACES = {"spillway-system": ".Release.Namespace", "cluster.local": ".Values.clusterDomain"}


def files(base: Sequence[Object], components: Mapping[str, Sequence[Object]]) -> dict[str, str]:
    """The chart's files by path inside the chart.

    The Namespace is left out: Helm cannot own the namespace of its release.
    """
    deployments = {
        obj["spec"]["template"]["spec"]["containers"][0]["name"]: obj for obj in base if obj["kind"] == "Deployment"
    }
    table = values.table(deployments)
    found = {
        "Chart.yaml": _chart_yaml(),
        ".helmignore": "*.orig\n*.bak\n.git/\n",
        "README.md": (_STATIC / "README.md").read_text() + values.markdown(table),
        "values.yaml": values.values_yaml(table),
        "values.schema.json": values.schema(table),
        "templates/_helpers.tpl": (_STATIC / "_helpers.tpl").read_text(),
        "templates/NOTES.txt": (_STATIC / "NOTES.txt").read_text(),
        "templates/crds.yaml": _crds([o for o in base if o["kind"] == "CustomResourceDefinition"]),
    }
    for name, objects in _grouped(base):
        found[f"templates/{name}.yaml"] = _template(objects)
    found["templates/network-policies.yaml"] = _network_policies(components["network-policies"])
    found["templates/pod-monitors.yaml"] = _labelled(components["pod-monitors"], "podMonitors")
    found["templates/prometheus-rules.yaml"] = _labelled(components["prometheus-rules"], "prometheusRules")
    return found


def _grouped(base: Sequence[Object]) -> Iterator[tuple[str, list[Object]]]:
    rbac = [o for o in base if o["apiVersion"].startswith("rbac.")]
    yield "rbac", rbac
    rest = [o for o in base if o not in rbac and o["kind"] not in ("Namespace", "CustomResourceDefinition")]
    parts = {
        "operator": (
            "spillway-operator",
            "spillway-ads",
            "spillway-ads-authority",
            "spillway-ads-gateway",
            "spillway-adjustments",
        ),
        "gateway": ("spillway-gateway",),
    }
    for name, names in parts.items():
        yield name, [o for o in rest if o["metadata"]["name"] in names]
    homeless = [o["metadata"]["name"] for o in rest if not any(o["metadata"]["name"] in n for n in parts.values())]
    if homeless:
        raise ValueError(f"the base has {', '.join(homeless)}: say in {__name__} which template it belongs to")


def _template(objects: Iterable[Object]) -> str:
    holes = Holes(list(objects))
    for obj in holes.objects:
        _label(holes, obj)
        name = obj["metadata"]["name"].removeprefix("spillway-")
        if obj["kind"] == "Deployment":
            _deployment(holes, obj, f".Values.{name}")
        elif (obj["kind"], name) == ("Service", "gateway"):
            _gateway_service(holes, obj)
    holes.everywhere(_PLACES)
    return holes.text()


def _label(holes: Holes, obj: Object, further: str = "") -> None:
    lines = f'{{{{- include "spillway.labels" . | nindent {INDENT} }}}}'
    if further:
        lines += f"\n{{{{- with {further} }}}}\n{{{{- toYaml . | nindent {INDENT} }}}}\n{{{{- end }}}}"
    holes.block(obj, ["metadata", "labels", ""], lines)


def _deployment(holes: Holes, obj: Object, mine: str) -> None:
    pod: list[str | int] = ["spec", "template", "spec"]
    container = [*pod, "containers", 0]
    holes.value(obj, ["spec", "replicas"], f"{{{{ {mine}.replicas }}}}")
    image = f'(dict "image" {mine}.image "version" .Chart.AppVersion)'
    holes.value(obj, [*container, "image"], f'{{{{ include "spillway.image" {image} | quote }}}}')
    holes.value(obj, [*container, "imagePullPolicy"], f"{{{{ {mine}.image.pullPolicy }}}}")
    for path, value in (
        ([*pod, "topologySpreadConstraints"], f"{mine}.topologySpreadConstraints"),
        ([*pod, "nodeSelector"], f"{mine}.nodeSelector"),
        ([*pod, "tolerations"], f"{mine}.tolerations"),
        ([*pod, "affinity"], f"{mine}.affinity"),
        ([*pod, "priorityClassName"], f"{mine}.priorityClassName"),
        ([*pod, "imagePullSecrets"], ".Values.imagePullSecrets"),
        ([*container, "resources"], f"{mine}.resources"),
        (["spec", "template", "metadata", "annotations"], f"{mine}.podAnnotations"),
    ):
        _optional(holes, obj, path, value)
    if mine.endswith("operator"):
        environment = obj["spec"]["template"]["spec"]["containers"][0]["env"]
        names = [variable["name"] for variable in environment]
        at = names.index("SPILLWAY_PROMETHEUS_URL")
        holes.value(obj, [*container, "env", at, "value"], "{{ .Values.prometheusUrl | quote }}")
        setting = '{{ printf "SPILLWAY_%s" (snakecase $name | upper) }}'
        holes.item(
            obj,
            [*container, "env"],
            f"{{{{- range $name, $value := {mine}.settings }}}}\n- name: {setting}\n"
            '  value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}\n{{- end }}',
        )
    else:
        grace = f"{{{{ {mine}.terminationGracePeriodSeconds }}}}"
        holes.value(obj, [*pod, "terminationGracePeriodSeconds"], grace)
        volumes = obj["spec"]["template"]["spec"]["volumes"]
        keys = next(n for n, volume in enumerate(volumes) if volume["name"] == "keys")
        secret = f"{{{{ {mine}.providerKeysSecret }}}}"
        holes.value(obj, [*pod, "volumes", keys, "secret", "secretName"], secret)
        for path, lines in (
            ([*container, "env"], "- name: SPILLWAY_TLS_DIRECTORY\n  value: /etc/spillway/tls"),
            ([*container, "volumeMounts"], "- mountPath: /etc/spillway/tls\n  name: tls\n  readOnly: true"),
            ([*pod, "volumes"], _TLS_VOLUME),
        ):
            holes.item(obj, path, _with_tls(lines))
    holes.item(
        obj,
        [*container, "env"],
        f"{{{{- with {mine}.extraEnv }}}}\n{{{{- toYaml . | nindent {INDENT} }}}}\n{{{{- end }}}}",
    )


_TLS_VOLUME = """\
- name: tls
  secret:
    defaultMode: 288
    items:
    - key: tls.crt
      path: tls.crt
    - key: tls.key
      path: tls.key
    secretName: {{ .Values.gateway.tlsSecret }}"""


def _with_tls(lines: str) -> str:
    return f"{{{{- if .Values.gateway.tlsSecret }}}}\n{lines}\n{{{{- end }}}}"


def _optional(holes: Holes, obj: Object, path: Sequence[str | int], value: str) -> None:
    """The entry is there only where the value is not empty."""
    body = f"{path[-1]}:\n{{{{- toYaml . | nindent {NESTED} }}}}"
    holes.block(obj, path, f"{{{{- with {value} }}}}\n{body}\n{{{{- end }}}}")


def _gateway_service(holes: Holes, obj: Object) -> None:
    mine = ".Values.gateway.service"
    holes.value(obj, ["spec", "type"], f"{{{{ {mine}.type }}}}")
    port = f'{{{{- if and {mine}.nodePort (ne {mine}.type "ClusterIP") }}}}\nnodePort: {{{{ {mine}.nodePort }}}}\n'
    holes.block(obj, ["spec", "ports", 0, "nodePort"], port + "{{- end }}")
    https = "- appProtocol: https\n  name: https\n  port: 443\n  targetPort: https"
    holes.item(obj, ["spec", "ports"], _with_tls(https))
    _optional(holes, obj, ["metadata", "annotations"], f"{mine}.annotations")


def _crds(objects: Sequence[Object]) -> str:
    holes = Holes(objects)
    for obj in holes.objects:
        _label(holes, obj)
        keep = "{{- if .Values.crds.keep }}\nannotations:\n  helm.sh/resource-policy: keep\n{{- end }}"
        holes.block(obj, ["metadata", "annotations"], keep)
    return holes.text(".Values.crds.enabled")


def _network_policies(objects: Sequence[Object]) -> str:
    holes = Holes(objects)
    for obj in holes.objects:
        _label(holes, obj)
        for rule in [*obj["spec"].get("ingress", []), *obj["spec"].get("egress", [])]:
            if rule == {"ports": [{"port": 8080}, {"port": 8443}]}:  # clients, from anywhere
                clients = ".Values.networkPolicies.clients"
                _optional(holes, rule, ["from"], clients)
            for port in rule.get("ports", []):
                if isinstance(port, dict) and port["port"] == 9090:
                    holes.value(port, ["port"], "{{ .Values.networkPolicies.prometheusPort }}")
    holes.everywhere(_PLACES | {"monitoring": ".Values.networkPolicies.monitoringNamespace"})
    return holes.text(".Values.networkPolicies.enabled")


def _labelled(objects: Sequence[Object], value: str) -> str:
    """Objects that a Prometheus selects by labels of its own choice."""
    holes = Holes(objects)
    for obj in holes.objects:
        _label(holes, obj, f".Values.{value}.labels")
        holes.value(obj, ["metadata", "namespace"], "{{ .Release.Namespace }}")
    return holes.text(f".Values.{value}.enabled")


def _chart_yaml() -> str:
    return dump(
        {
            "apiVersion": "v2",
            "name": "spillway",
            "type": "application",
            "version": version(),
            "appVersion": version(),
            "kubeVersion": ">=1.34.0-0",
            "description": "Serves Mixture-of-Experts models on your GPUs and spills the rest to external APIs, "
            "within budgets",
            "keywords": ["llm", "moe", "vllm", "sglang", "autoscaling", "cost"],
            "annotations": {"artifacthub.io/category": "ai-machine-learning"},
        }
    )
