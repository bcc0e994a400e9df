"""The only module that knows kopf: it lists and watches, we cache. No handler of kopf's own state is used, so that
nothing is written on the objects and no finalizer can get stuck."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import kopf
from kubernetes.aio import client

from spillway.api import GROUP, VERSION
from spillway.observe.autoscalers import targets_moedeployment
from spillway.observe.objects import Objects, key_of

log = logging.getLogger(__name__)

OnChange = Callable[[str, str], None]
"""Called with the kind's plural and the object's key."""

Kind = tuple[str, str, str]
"""Group, version, plural."""

OURS = "app.kubernetes.io/managed-by=spillway"
WATCHED: tuple[Kind, ...] = (
    (GROUP, VERSION, "moedeployments"),
    (GROUP, VERSION, "gpupools"),
    (GROUP, VERSION, "externalproviders"),
    (GROUP, VERSION, "costpolicies"),
    ("apps", "v1", "deployments"),
    ("apps", "v1", "daemonsets"),
    ("policy", "v1", "poddisruptionbudgets"),
    ("networking.k8s.io", "v1", "networkpolicies"),
    ("autoscaling", "v2", "horizontalpodautoscalers"),
    ("", "v1", "services"),
    ("", "v1", "serviceaccounts"),
    ("", "v1", "pods"),
    ("", "v1", "nodes"),
    ("", "v1", "namespaces"),
)
EXTENSIONS: tuple[Kind, ...] = (
    ("leaderworkerset.x-k8s.io", "v1", "leaderworkersets"),
    ("monitoring.coreos.com", "v1", "podmonitors"),
    ("resource.nvidia.com", "v1beta1", "computedomains"),
)
"""Not every cluster has them: each is watched from when it is there."""
KEPT: dict[str, Callable[[dict[str, Any]], bool]] = {"horizontalpodautoscalers": targets_moedeployment}
"""Kinds of which only some objects concern us, by what no selector can ask for. The others are not cached."""
FILTERED = (
    "computedomains",
    "daemonsets",
    "deployments",
    "leaderworkersets",
    "networkpolicies",
    "poddisruptionbudgets",
    "podmonitors",
    "serviceaccounts",
)


def settings() -> kopf.OperatorSettings:
    chosen = kopf.OperatorSettings()
    chosen.peering.standalone = True
    chosen.scanning.disabled = True
    chosen.posting.enabled = False
    chosen.networking.request_timeout = 30
    chosen.networking.connect_timeout = 5
    chosen.watching.connect_timeout = 10
    chosen.watching.chunk_size = 500
    for group, version, plural in (*WATCHED, *EXTENSIONS):
        if plural in FILTERED:
            chosen.watching.label_selectors[f"{group or ''}/{version}/{plural}".lstrip("/")] = OURS
    chosen.queueing.idle_timeout = 5
    return chosen


def registry(
    objects: Objects, on_change: OnChange, configuration: client.Configuration, kinds: Iterable[Kind] = WATCHED
) -> kopf.OperatorRegistry:
    """Handlers that keep `objects` like the API server's and tell of each change."""
    found = kopf.OperatorRegistry()

    def watch(group: str, version: str, plural: str) -> None:
        store, kept = objects.store(plural), KEPT.get(plural)

        async def changed(*, event: Any, **_: Any) -> None:
            obj = copy.deepcopy(dict(event["object"]))
            obj["metadata"].pop("managedFields", None)
            key = key_of(obj)
            if kept is not None and key not in store and not kept(obj):
                return
            if event["type"] == "DELETED" or (kept is not None and not kept(obj)):
                store.pop(key, None)
            else:
                held = store.get(key)
                if held is not None and _older(obj, held):
                    return  # our own write is newer than what the watch brings
                store[key] = obj
            on_change(plural, key)

        changed.__name__ = f"cache_{plural}"
        kopf.on.event(group, version, plural, registry=found)(changed)

    for kind in kinds:
        watch(*kind)

    @kopf.on.login(registry=found)
    async def login(**kwargs: Any) -> kopf.ConnectionInfo:
        bearer: Any = (await configuration.auth_settings()).get("BearerToken") or {}
        scheme, _, value = str(bearer.get("value") or "").partition(" ")
        return kopf.ConnectionInfo(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            insecure=not configuration.verify_ssl,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
            scheme=scheme if value else None,
            token=value or None,
        )

    return found


def _older(new: dict[str, Any], held: dict[str, Any]) -> bool:
    """Resource versions of one object are ordered numbers since Kubernetes 1.35; where they are not, the watch wins."""
    mine, theirs = held["metadata"].get("resourceVersion", ""), new["metadata"].get("resourceVersion", "")
    same = held["metadata"].get("uid") == new["metadata"].get("uid")
    return same and mine.isdigit() and theirs.isdigit() and int(theirs) < int(mine)


async def listed(
    objects: Objects,
    get: Callable[[str, dict[str, str]], Awaitable[dict[str, Any]]],
    kinds: Iterable[Kind] = WATCHED,
) -> None:
    """Fill the caches once before the first plan, so that nothing is decided on half a picture."""

    async def fill(group: str, version: str, plural: str) -> None:
        root = f"/apis/{group}/{version}" if group else f"/api/{version}"
        params = {"labelSelector": OURS} if plural in FILTERED else {}
        answer = await get(f"{root}/{plural}", params)
        store = objects.store(plural)
        kind, api_version = answer["kind"].removesuffix("List"), answer["apiVersion"]
        for obj in answer["items"]:
            obj["metadata"].pop("managedFields", None)
            obj.setdefault("kind", kind)
            obj.setdefault("apiVersion", api_version)
            if plural in KEPT and not KEPT[plural](obj):
                continue
            store.setdefault(key_of(obj), obj)

    await asyncio.gather(*(fill(*kind) for kind in kinds))


async def run(
    objects: Objects,
    on_change: OnChange,
    configuration: client.Configuration,
    stop: asyncio.Event,
    take_signals: Callable[[], None],
    kinds: Iterable[Kind] = WATCHED,
) -> None:
    """Watch until `stop` is set. A watch that cannot go on raises: the process exits and starts again.

    kopf sets signal handlers that end the watches and nothing else; `take_signals` is called right after, to set ours.
    """
    others = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=registry(objects, on_change, configuration, kinds),
        settings=settings(),
        clusterwide=True,
        stop_flag=stop,
    )
    take_signals()
    await kopf.run_tasks(tasks, ignored=others)
