from __future__ import annotations

import base64

import pytest

from e2e.cluster.environment import NotYet, expand, resolve, translate
from e2e.cluster.kubeapi import Obj

POD: Obj = {"metadata": {"name": "p", "namespace": "n", "labels": {"app": "a"}}, "spec": {"nodeName": "node-0"}}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [("$(A)-$(B)", "1-$(B)"), ("$$(A)", "$(A)"), ("$A", "$A"), ("$(A)$(A)", "11"), ("", "")],
)
def test_expand_follows_kubernetes(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1"}) == expanded


@pytest.mark.parametrize(
    ("text", "translated"),
    [
        ("/etc/keys", "/host/keys"),
        ("--dir=/etc/keys/zai", "--dir=/host/keys/zai"),
        ("/etc/keys-old", "/etc/keys-old"),
        ("/etc/keysmith", "/etc/keysmith"),
        ("http://x/etc/keys", "http://x/etc/keys"),
        ("/etc/keys/deep/x", "/host/deep/x"),
    ],
)
def test_translate_replaces_whole_paths_longest_first(text: str, translated: str) -> None:
    assert translate(text, {"/etc/keys": "/host/keys", "/etc/keys/deep/": "/host/deep"}) == translated


def test_resolve_reads_every_kind_of_source_in_order() -> None:
    container: Obj = {
        "envFrom": [{"prefix": "C_", "configMapRef": {"name": "config"}}],
        "env": [
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "zai"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "GPUS", "valueFrom": {"resourceFieldRef": {"resource": "limits.nvidia.com/gpu"}}},
            {"name": "ALL", "value": "$(KEY) $(C_x) $(LATER)"},
            {"name": "LATER", "value": "z"},
            {"name": "MAYBE", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k", "optional": True}}},
        ],
        "resources": {"limits": {"nvidia.com/gpu": "4"}},
    }
    objects: dict[tuple[str, str], Obj] = {
        ("configmaps", "config"): {"data": {"x": "y"}},
        ("secrets", "keys"): {"data": {"zai": base64.b64encode(b"sk").decode()}},
    }
    found = resolve(container, POD, "127.1.1.1", lambda kind, name: objects.get((kind, name)))
    expected = {"C_x": "y", "KEY": "sk", "APP": "a", "IP": "127.1.1.1", "GPUS": "4", "ALL": "sk y $(LATER)"}
    assert found == {**expected, "LATER": "z"}


def test_resolve_waits_for_what_is_missing() -> None:
    container: Obj = {"env": [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k"}}}]}
    with pytest.raises(NotYet, match="secret none not found"):
        resolve(container, POD, "127.1.1.1", lambda kind, name: None)
