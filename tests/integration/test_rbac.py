"""What the roles of manifests/base allow, asked of a real API server: each verb that is needed, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from e2e.cluster import ControlPlane
from e2e.cluster.processes import wait_until
from e2e.packaging.render import BASE, dump_all, render
from spillway.controller.certificates import AUTHORITY
from spillway.controller.certificates import GATEWAY as CERTIFICATES
from spillway.controller.recollection import POOLS, SLOTS
from spillway.ledger.stored import NAME, PLACES

REPOSITORY = Path(__file__).resolve().parents[2]
SYSTEM, MODELS = "spillway-system", "chat"
OPERATOR = f"system:serviceaccount:{SYSTEM}:spillway-operator"
GATEWAY = f"system:serviceaccount:{SYSTEM}:spillway-gateway"
NOBODY = "system:serviceaccount:default:nobody"
GROUPS = ["system:serviceaccounts", "system:authenticated"]
LEADER_WORKER_SETS = "leaderworkersets.leaderworkerset.x-k8s.io"
OURS = ("moedeployments", "gpupools", "externalproviders", "costpolicies")


class Ask(NamedTuple):
    """One question; `resource` is `plural.group`, with `/subresource`. No namespace: in all, or of no namespace."""

    verb: str
    resource: str
    namespace: str = ""
    name: str = ""


NEEDED = [
    # informers: operator/spillway/controller/informer.py
    *(Ask(verb, f"{plural}.spillway.dev") for plural in OURS for verb in ("list", "watch")),
    *(
        Ask(verb, resource)
        for resource in (
            "deployments.apps",
            "daemonsets.apps",
            LEADER_WORKER_SETS,
            "poddisruptionbudgets.policy",
            "networkpolicies.networking.k8s.io",
            "podmonitors.monitoring.coreos.com",
            "computedomains.resource.nvidia.com",
            "horizontalpodautoscalers.autoscaling",
            "services",
            "serviceaccounts",
            "pods",
            "nodes",
            "namespaces",
        )
        for verb in ("list", "watch")
    ),
    # status: controller/reconciler.py
    *(Ask("patch", f"{plural}.spillway.dev/status", MODELS, "glm-5") for plural in OURS),
    # children, by server-side apply: act/children.py
    *(
        Ask(verb, resource, MODELS, "glm-5")
        for resource in (
            "deployments.apps",
            "daemonsets.apps",
            LEADER_WORKER_SETS,
            "poddisruptionbudgets.policy",
            "networkpolicies.networking.k8s.io",
            "podmonitors.monitoring.coreos.com",
            "computedomains.resource.nvidia.com",
            "services",
            "serviceaccounts",
        )
        for verb in ("create", "patch")
    ),
    Ask("update", "moedeployments.spillway.dev/finalizers", MODELS, "glm-5"),
    *(
        Ask("delete", resource, MODELS, "glm-5")
        for resource in ("deployments.apps", "daemonsets.apps", LEADER_WORKER_SETS)
    ),
    # which replica goes first: act/children.py; who leads: controller/process.py
    Ask("patch", "pods", MODELS, "glm-5-0"),
    Ask("patch", "pods", SYSTEM, "spillway-operator-0"),
    Ask("create", "events.events.k8s.io", MODELS),
    Ask("create", "events.events.k8s.io", "default"),
    # controller/lease.py
    Ask("create", "leases.coordination.k8s.io", SYSTEM),
    Ask("get", "leases.coordination.k8s.io", SYSTEM, "spillway-operator"),
    Ask("update", "leases.coordination.k8s.io", SYSTEM, "spillway-operator"),
    # ledger/store.py and controller/recollection.py
    Ask("create", "configmaps", SYSTEM),
    *(Ask(verb, "configmaps", SYSTEM, name) for name in (NAME, *PLACES) for verb in ("get", "update")),
    *(Ask(verb, "configmaps", SYSTEM, name) for name in (POOLS, *SLOTS) for verb in ("get", "patch")),
    # controller/certificates.py
    *(Ask(verb, "secrets", SYSTEM, name) for name in (AUTHORITY, CERTIFICATES) for verb in ("get", "update")),
    # controller/catalog_watch.py
    Ask("list", "configmaps", SYSTEM, "spillway-catalog"),
    Ask("watch", "configmaps", SYSTEM, "spillway-catalog"),
    # controller/adjustment_watch.py
    Ask("list", "configmaps", SYSTEM, "spillway-adjustments"),
    Ask("watch", "configmaps", SYSTEM, "spillway-adjustments"),
]

FORBIDDEN = [
    # Keys of providers, and everybody else's secrets: not even the names.
    *(
        Ask(verb, "secrets", namespace)
        for namespace in ("", SYSTEM, MODELS, "kube-system")
        for verb in ("get", "list", "watch", "create", "update", "patch", "delete")
    ),
    *(Ask(verb, "secrets", SYSTEM, "spillway-provider-keys") for verb in ("get", "update")),
    *(Ask(verb, "secrets", MODELS, name) for name in (AUTHORITY, CERTIFICATES) for verb in ("get", "update")),
    *(
        Ask(verb, "secrets", SYSTEM, name)
        for name in (AUTHORITY, CERTIFICATES)
        for verb in ("create", "delete", "list", "patch", "watch")
    ),
    # No way into pods, nor to become somebody else.
    *(Ask("create", f"pods/{sub}", MODELS) for sub in ("exec", "attach", "portforward", "ephemeralcontainers")),
    Ask("get", "pods/log", MODELS),
    Ask("create", "pods", MODELS),
    Ask("delete", "pods", MODELS),
    Ask("create", "serviceaccounts/token", SYSTEM, "spillway-operator"),
    *(Ask("impersonate", who) for who in ("users", "groups", "serviceaccounts")),
    *(
        Ask(verb, f"{role}.rbac.authorization.k8s.io")
        for role in ("clusterroles", "roles", "clusterrolebindings", "rolebindings")
        for verb in ("get", "create", "update", "patch", "escalate", "bind")
    ),
    # Its own records only.
    Ask("get", "configmaps", SYSTEM, "another"),
    Ask("list", "configmaps", SYSTEM),
    Ask("delete", "configmaps", SYSTEM, "spillway-ledger"),
    *(Ask(verb, "configmaps", SYSTEM, "spillway-catalog") for verb in ("update", "patch", "delete")),
    *(Ask(verb, "configmaps", SYSTEM, "spillway-adjustments") for verb in ("get", "update", "patch", "delete")),
    *(Ask(verb, "configmaps", MODELS, "spillway-ledger") for verb in ("get", "create", "update", "patch")),
    Ask("update", "leases.coordination.k8s.io", SYSTEM, "another"),
    Ask("get", "leases.coordination.k8s.io", "kube-system", "kube-scheduler"),
    # What users say is theirs: the operator writes status alone.
    *(Ask(verb, f"{plural}.spillway.dev") for plural in OURS for verb in ("create", "update", "patch", "delete")),
    # The rest of the cluster.
    *(Ask(verb, resource) for resource in ("nodes", "namespaces") for verb in ("create", "update", "patch", "delete")),
    *(Ask(verb, resource) for resource in ("services", "serviceaccounts") for verb in ("update", "delete")),
    *(Ask(verb, "horizontalpodautoscalers.autoscaling") for verb in ("create", "update", "patch", "delete")),
    *(Ask(verb, "customresourcedefinitions.apiextensions.k8s.io") for verb in ("get", "create", "patch", "delete")),
    Ask("create", "mutatingwebhookconfigurations.admissionregistration.k8s.io"),
    *(Ask(verb, "*.*") for verb in ("get", "create", "*")),
]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A cluster with manifests/base, and with the controller that aggregates roles."""
    with ControlPlane(tmp_path_factory.mktemp("rbac"), controllers=True) as found:
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": MODELS}}
        found.kubectl("apply", "--server-side", "-f", "-", input=dump_all([*render(BASE), namespace]))
        yield found


def answers(plane: ControlPlane, user: str, asks: Sequence[Ask]) -> dict[Ask, bool]:
    """Whether the user may, by SubjectAccessReview."""
    reviews = []
    for ask in asks:
        resource, _, subresource = ask.resource.partition("/")
        plural, _, group = resource.partition(".")
        attributes = {
            "verb": ask.verb,
            "group": group,
            "resource": plural,
            "subresource": subresource,
            "namespace": ask.namespace,
            "name": ask.name,
        }
        groups = [*GROUPS, f"system:serviceaccounts:{SYSTEM}"] if user.startswith("system:") else GROUPS[1:]
        spec = {"user": user, "groups": groups, "resourceAttributes": attributes}
        reviews.append({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec})
    done = plane.kubectl("create", "-f", "-", "-o", "json", input=dump_all(reviews))
    found = [status["allowed"] for status in _statuses(done.stdout)]
    assert len(found) == len(asks)
    return dict(zip(asks, found, strict=True))


def _statuses(text: str) -> Iterator[dict[str, Any]]:
    decoder, at = json.JSONDecoder(), 0
    while at < len(text.rstrip()):
        obj, at = decoder.raw_decode(text, at)
        at += len(text[at:]) - len(text[at:].lstrip())
        for item in obj.get("items", [obj]):
            yield item["status"]


def listed(plane: ControlPlane, user: str) -> list[str]:
    """The lines of `kubectl auth can-i --list` in spillway-system, without those that every account has."""

    def lines(who: str) -> list[str]:
        done = plane.kubectl("auth", "can-i", "--list", f"--as={who}", "-n", SYSTEM)
        return [" ".join(line.split()) for line in done.stdout.splitlines()]  # columns are as wide as their content

    header, *own = lines(user)
    everybodys = set(lines(NOBODY))
    return [header, *(line for line in own if line not in everybodys)]


def test_the_operator_may_do_what_it_does(plane: ControlPlane) -> None:
    refused = [ask for ask, allowed in answers(plane, OPERATOR, NEEDED).items() if not allowed]
    assert refused == []


def test_the_operator_may_do_nothing_else(plane: ControlPlane) -> None:
    granted = [ask for ask, allowed in answers(plane, OPERATOR, FORBIDDEN).items() if allowed]
    assert granted == []


def test_every_rule_of_the_operator_is_needed() -> None:
    needed = {(verb, resource.partition("/")) for verb, resource, *_ in NEEDED}
    rules = []
    for obj in render(BASE):
        if obj["kind"] in ("Role", "ClusterRole") and obj["metadata"]["name"] in (
            "spillway-operator",
            "spillway-leader-election",
            "spillway-records",
        ):
            rules += obj["rules"]
    unused = [
        (verb, group, resource)
        for rule in rules
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        if (verb, _named(group, resource)) not in needed
    ]
    assert len(rules) > 8
    assert unused == []


def _named(group: str, resource: str) -> tuple[str, str, str]:
    plural, slash, subresource = resource.partition("/")
    return (f"{plural}.{group}" if group else plural, slash, subresource)


def test_a_record_that_is_not_there_yet_is_created_by_apply(plane: ControlPlane) -> None:
    memory = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "spillway-memory-0", "namespace": SYSTEM}}
    apply = ["apply", "--server-side", "--field-manager=spillway", f"--as={OPERATOR}", "-f", "-"]
    assert plane.kubectl(*apply, input=yaml.safe_dump(memory)).returncode == 0
    memory["metadata"] = {"name": "another", "namespace": SYSTEM}
    refused = plane.kubectl(*apply, input=yaml.safe_dump(memory), check=False)
    assert refused.returncode != 0
    assert "forbidden" in refused.stderr


def test_the_gateways_account_may_nothing(plane: ControlPlane) -> None:
    assert len(listed(plane, OPERATOR)) > 5
    assert listed(plane, GATEWAY)[1:] == []


def test_the_page_shows_what_kubectl_lists(plane: ControlPlane) -> None:
    page = (REPOSITORY / "docs" / "platform.md").read_text()
    shown = re.search(r"<!-- can-i -->\n```\n(.*?)```", page, re.DOTALL)
    assert shown, "docs/platform.md has no block after <!-- can-i -->"
    assert [" ".join(line.split()) for line in shown[1].splitlines()] == listed(plane, OPERATOR)


@pytest.mark.parametrize(
    ("role", "may", "may_not"),
    [
        ("view", [("list", "moedeployments")], [("create", "moedeployments"), ("patch", "moedeployments/scale")]),
        (
            "edit",
            [(verb, "moedeployments") for verb in ("get", "create", "patch", "delete")]
            + [("patch", "moedeployments/scale")],
            [("patch", "moedeployments/status"), ("create", "costpolicies")],
        ),
        ("admin", [("delete", "moedeployments")], [("patch", "gpupools"), ("delete", "externalproviders")]),
    ],
)
def test_the_built_in_roles_include_ours(
    plane: ControlPlane, role: str, may: list[tuple[str, str]], may_not: list[tuple[str, str]]
) -> None:
    user = f"{role}er"
    plane.kubectl("create", "rolebinding", f"our-{role}", f"--clusterrole={role}", f"--user={user}", "-n", MODELS)

    def asks(pairs: list[tuple[str, str]]) -> list[Ask]:
        named = ((verb, *resource.partition("/")) for verb, resource in pairs)
        return [Ask(verb, f"{plural}.spillway.dev{slash}{sub}", MODELS) for verb, plural, slash, sub in named]

    wait_until("aggregation", lambda: all(answers(plane, user, asks(may)).values()), 30)
    assert not any(answers(plane, user, asks(may_not)).values())
    elsewhere = [ask._replace(namespace="default") for ask in asks(may)]
    assert not any(answers(plane, user, elsewhere).values())


def test_the_platform_teams_role_is_nobodys_by_default(plane: ControlPlane) -> None:
    kinds = [Ask("create", f"{plural}.spillway.dev") for plural in OURS[1:]]
    assert not any(answers(plane, "platform", kinds).values())
    plane.kubectl(
        "create", "clusterrolebinding", "platform", "--clusterrole=spillway-platform-editor", "--user=platform"
    )
    assert all(answers(plane, "platform", kinds).values())


def test_whoever_checks_invoices_may_ask_and_cannot_write_the_ledger(plane: ControlPlane) -> None:
    may = [
        *(Ask("get", "configmaps", SYSTEM, name) for name in (NAME, *PLACES)),
        *(Ask(verb, "configmaps", SYSTEM, "spillway-adjustments") for verb in ("get", "patch")),
    ]
    may_not = [
        *(Ask(v, "configmaps", SYSTEM, name) for name in (NAME, PLACES[0]) for v in ("update", "patch", "delete")),
        *(Ask(verb, "configmaps", SYSTEM, "spillway-adjustments") for verb in ("create", "delete")),
        *(Ask(verb, "configmaps", SYSTEM) for verb in ("get", "list", "create")),
        Ask("get", "configmaps", SYSTEM, "spillway-memory"),
        Ask("patch", "costpolicies.spillway.dev"),
    ]
    assert not any(answers(plane, "clerk", [*may, *may_not]).values()), "nobody may before it is bound"
    plane.kubectl("create", "rolebinding", "clerk", "--role=spillway-bill-adjuster", "--user=clerk", "-n", SYSTEM)
    assert all(answers(plane, "clerk", may).values())
    assert not any(answers(plane, "clerk", may_not).values())
