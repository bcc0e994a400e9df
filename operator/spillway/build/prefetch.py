"""The DaemonSet that brings a variant's image and weights to its pool's nodes before a replica needs them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence

from spillway.api import GPUPool, MoEDeployment
from spillway.build.account import account_name
from spillway.build.labels import (
    CONTENT_LABEL,
    PREFETCH_LABEL,
    Object,
    mark_of,
    metadata,
    object_labels,
    shortened,
)
from spillway.build.pod import tolerations
from spillway.build.weights import HUB_DIRECTORY, MODELS_DIRECTORY, source, storage
from spillway.catalog import ResolvedVariant

FETCHES_AT_ONCE = 4
"""Nodes of a pool that fetch a variant at the same time: each reads hundreds of gigabytes from one hub."""
FETCH_CONTAINER, KEEP_CONTAINER = "fetch", "keep"


def prefetch(
    moe: MoEDeployment, variant: ResolvedVariant, pool: GPUPool, nodes: Collection[str], *, weights: bool = True
) -> Object:
    """The DaemonSet for these nodes. Its pods fetch once (``hf download`` takes up what it left off, and checks what it
    has), then do nothing: while one is ready, its node has the image, which the kubelet keeps for it, and the weights.

    ``weights``: whether the node's cache has room for them; without, only the image comes. Other content is another
    DaemonSet, by name; of one DaemonSet only the nodes change, which touches no pod that is there (OnDelete).
    """
    spec = _pod(moe, variant, pool, weights)
    mark = mark_of(moe.metadata.name, variant.name)
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:8]
    labels = prefetch_labels(moe, variant.name)
    spec["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": _these(nodes)}}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": metadata(moe, f"{shortened(mark, 63 - 18)}-prefetch-{digest}", labels),
        "spec": {
            "selector": {"matchLabels": {PREFETCH_LABEL: mark, CONTENT_LABEL: digest}},
            "updateStrategy": {"type": "OnDelete"},
            "revisionHistoryLimit": 0,
            "template": {"metadata": {"labels": {**labels, CONTENT_LABEL: digest}}, "spec": spec},
        },
    }


def prefetch_labels(moe: MoEDeployment, variant_name: str) -> dict[str, str]:
    """Without the labels of replicas: neither budget, policy nor gateway takes these pods for one."""
    replica = object_labels(moe)
    return {
        **{key: value for key, value in replica.items() if key.startswith("app.kubernetes.io/")},
        "app.kubernetes.io/component": "prefetch",
        PREFETCH_LABEL: mark_of(moe.metadata.name, variant_name),
    }


def keeps_weights(variant: ResolvedVariant) -> bool:
    """Whether the variant's checkpoint is fetched into the node's cache at all."""
    return source(variant.checkpoint_uri).is_fetched


def nodes_of(daemonset: Object) -> tuple[str, ...]:
    """The nodes that a prefetching DaemonSet is for."""
    node_affinity = daemonset["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    terms = node_affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return tuple(name for term in terms for field in term["matchFields"] for name in field["values"])


def next_nodes(
    nodes: Sequence[str], started: Collection[str], ready: Collection[str], stuck: Collection[str] = ()
) -> tuple[str, ...]:
    """The nodes that shall have it now: those that fetch or have it, and so many of the others, in their order, that
    no more than FETCHES_AT_ONCE fetch at once. Those that are ``stuck`` try on and keep nobody waiting."""
    on = [node for node in nodes if node in started]
    fetching = sum(node not in ready and node not in stuck for node in on)
    new = [node for node in nodes if node not in started][: max(0, FETCHES_AT_ONCE - fetching)]
    return tuple(sorted([*on, *new]))


def _pod(moe: MoEDeployment, variant: ResolvedVariant, pool: GPUPool, weights: bool) -> Object:
    found, kept = source(variant.checkpoint_uri), storage(moe, variant, pool)
    mounts = [m for m in kept.mounts if m["mountPath"] in (HUB_DIRECTORY, MODELS_DIRECTORY)]
    volumes = [v for v in kept.volumes if v["name"] in {m["name"] for m in mounts}]
    fetch: list[Object] = []
    if weights and found.is_fetched and mounts:
        # What an init container asks for the pod holds for good: little, and no limit, so that a fetch takes what is
        # free. The engines' images have huggingface_hub's command; it resumes, and compares sizes and digests.
        words = ["hf", "download", found.model, *found.args]
        fetch = [_container(FETCH_CONTAINER, variant.image, words, mounts, "100m", "256Mi") | {"env": list(kept.env)}]
    return {
        "serviceAccountName": account_name(moe.metadata.name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,  # nothing is lost: a fetch goes on where it was
        "nodeSelector": dict(pool.spec.node_selector),
        "tolerations": tolerations(pool),
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        **({"initContainers": fetch} if fetch else {}),
        # An oci:// checkpoint is a volume that the kubelet fetches for whoever mounts it.
        "containers": [_container(KEEP_CONTAINER, variant.image, ["sleep", "infinity"], mounts, "1m", "16Mi")],
        **({"volumes": volumes} if volumes else {}),
    }


def _container(name: str, image: str, command: list[str], mounts: list[Object], cpu: str, memory: str) -> Object:
    return {
        "name": name,
        "image": image,
        "command": command,
        "resources": {"requests": {"cpu": cpu, "memory": memory}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        **({"volumeMounts": mounts} if mounts else {}),
    }


def _these(nodes: Collection[str]) -> Object:
    # One term each: metadata.name takes a single value.
    names = sorted(nodes)
    return {
        "nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]} for name in names
        ]
    }
