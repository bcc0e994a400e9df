"""Pods as replicas, workloads as what is asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from kubernetes.utils.quantity import parse_quantity

from spillway.api import GPUPool, MoEDeployment
from spillway.build import DEPLOYMENT_LABEL, REVISION_LABEL, VARIANT_LABEL
from spillway.decide.snapshot import Asked, Phase, Replica, Retired
from spillway.observe.load import PodLoad, together
from spillway.observe.objects import Object, Objects, condition, key_of, seconds

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
FINISHED = ("Succeeded", "Failed")
_LWS = "leaderworkerset.sigs.k8s.io"
SET_NAME_LABEL, GROUP_INDEX_LABEL, WORKER_INDEX_LABEL = f"{_LWS}/name", f"{_LWS}/group-index", f"{_LWS}/worker-index"
SIZE_ANNOTATION = f"{_LWS}/size"


def phase(pod: Object) -> Phase:
    status = pod.get("status") or {}
    if pod["metadata"].get("deletionTimestamp") or status.get("phase") in FINISHED:
        return Phase.STOPPING
    if not (pod.get("spec") or {}).get("nodeName"):
        return Phase.PENDING
    ready = condition(pod, "Ready")
    return Phase.READY if ready and ready.get("status") == "True" else Phase.STARTING


def replicas(moe: MoEDeployment, objects: Objects, load: Mapping[str, PodLoad]) -> tuple[Replica, ...]:
    """The deployment's pods, and its groups of pods. `load`: of the engines, by namespace/pod."""
    own = [pod for _, pod in sorted(objects.pods.items()) if _is_of(moe, pod)]
    workers: dict[str, list[Object]] = {}
    for pod in own:
        if is_worker(pod):
            workers.setdefault(_group(pod), []).append(pod)
    found = []
    for pod in own:
        if is_worker(pod):  # its leader stands for the group
            continue
        meta, labels = pod["metadata"], _labels(pod)
        index = labels.get(GROUP_INDEX_LABEL)
        group = [pod] if index is None else [pod, *workers.get(_group(pod), ())]
        where = _phase_of_all(group)
        scheduled, ready = [_since(one, "PodScheduled") for one in group], _since(pod, "Ready")
        engine = together(load[key_of(one)] for one in group if key_of(one) in load)
        found.append(
            Replica(
                name=meta["name"],
                variant=labels[VARIANT_LABEL],
                revision=labels.get(REVISION_LABEL, ""),
                phase=where,
                asked_at=seconds(meta.get("creationTimestamp")) or 0.0,
                scheduled_at=None if where is Phase.PENDING or None in scheduled else max(filter(None, scheduled)),
                ready_at=ready if where is Phase.READY else None,
                in_flight=engine.running + engine.waiting if engine else None,
                waiting=engine.waiting if engine else None,
                kv_use=engine.kv_use if engine else None,
                group=None if index is None else int(index),
                failure=next(filter(None, map(failure, group)), ""),
            )
        )
    return (*found, *_missing_groups(moe, objects))


def _missing_groups(moe: MoEDeployment, objects: Objects) -> Iterator[Replica]:
    """Groups that have been asked for and have no leader, not even one that waits for a node: a quota or an admission
    rule may forbid it. No condition of the LeaderWorkerSet has the reason, but one has since when it has been trying.
    """
    for workload in objects.leaderworkersets.values():
        meta, labels = workload["metadata"], _labels(workload)
        if not _is_of(moe, workload) or meta.get("deletionTimestamp"):
            continue
        since, progressing = _since(workload, "Progressing"), condition(workload, "Progressing") or {}
        if since is None or progressing.get("observedGeneration") != meta.get("generation"):
            continue
        for index in range(workload["spec"].get("replicas", 1)):
            name = f"{meta['name']}-{index}"
            if f"{meta['namespace']}/{name}" not in objects.pods:
                revision = labels.get(REVISION_LABEL, "")
                yield Replica(name, labels[VARIANT_LABEL], revision, Phase.PENDING, since, group=index)


STUCK = ("CrashLoopBackOff", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError")
CRASHES = 2  # restarts before a crash loop is a failure: one crash may be the machine's


def failure(pod: Object) -> str:
    """Why the kubelet cannot get a container of the pod to run, in words; empty while it has not given up."""
    status = pod.get("status") or {}
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason, restarts = waiting.get("reason"), container.get("restartCount", 0)
        if reason not in STUCK or (reason == "CrashLoopBackOff" and restarts < CRASHES):
            continue
        last = ((container.get("lastState") or {}).get("terminated") or {}).get("exitCode")
        ended = f" after exit code {last}" if last is not None else ""
        words = waiting.get("message") or ""
        return f"{pod['metadata']['name']}: {reason}{ended}{f' ({words})' if words else ''}"
    return ""


def is_worker(pod: Object) -> bool:
    """Whether it is a pod of a group that does not answer for it."""
    return _labels(pod).get(WORKER_INDEX_LABEL, "0") != "0"


def of_waiting_groups(objects: Objects) -> frozenset[str]:
    """Keys of the pods of groups that lack a pod, or a node for one. A replica that waits takes no GPUs yet, so that
    those which a part of it holds already are room for the whole of it."""
    groups: dict[str, list[Object]] = {}
    for pod in objects.pods.values():
        if is_ours(pod) and GROUP_INDEX_LABEL in _labels(pod):
            groups.setdefault(f"{pod['metadata']['namespace']}/{_group(pod)}", []).append(pod)
    waiting = (group for group in groups.values() if _phase_of_all(group) is Phase.PENDING)
    return frozenset(key_of(pod) for group in waiting for pod in group)


def _is_of(moe: MoEDeployment, obj: Object) -> bool:
    """Whether it is one of the deployment's pods or workloads."""
    labels = _labels(obj)
    same_place = obj["metadata"].get("namespace") == moe.metadata.namespace
    return same_place and labels.get(DEPLOYMENT_LABEL) == moe.metadata.name and VARIANT_LABEL in labels


def _labels(obj: Object) -> dict[str, str]:
    return obj["metadata"].get("labels") or {}


def _group(pod: Object) -> str:
    """What tells the pods of one group from all others in their namespace."""
    return f"{_labels(pod).get(SET_NAME_LABEL)}/{_labels(pod).get(GROUP_INDEX_LABEL)}"


def _phase_of_all(group: Sequence[Object]) -> Phase:
    """A group is as far as its last pod, and at its end with its first. A pod that is not there yet has no node."""
    phases = [phase(pod) for pod in group]
    if Phase.STOPPING in phases:
        return Phase.STOPPING
    size = int((group[0]["metadata"].get("annotations") or {}).get(SIZE_ANNOTATION, 1))
    if len(group) < size or Phase.PENDING in phases:
        return Phase.PENDING
    return Phase.READY if set(phases) == {Phase.READY} else Phase.STARTING


def _since(pod: Object, kind: str) -> float | None:
    """Since when a condition has been true."""
    found = condition(pod, kind)
    return seconds(found.get("lastTransitionTime")) if found and found.get("status") == "True" else None


def asked(moe: MoEDeployment, objects: Objects) -> tuple[Asked, ...]:
    """What the deployment's workloads ask for now."""
    found = []
    for workload in objects.workloads():
        meta, labels = workload["metadata"], _labels(workload)
        if not _is_of(moe, workload) or meta.get("deletionTimestamp"):
            continue
        failure = condition(workload, "ReplicaFailure")
        refused = failure.get("message", "") if failure and failure.get("status") == "True" else ""
        found.append(
            Asked(labels[VARIANT_LABEL], labels.get(REVISION_LABEL, ""), workload["spec"].get("replicas", 1), refused)
        )
    return tuple(sorted(found, key=lambda a: (a.variant, a.revision)))


def retired(
    moe: MoEDeployment, current: Collection[str], objects: Objects, pools: Mapping[str, GPUPool]
) -> tuple[Retired, ...]:
    """Variants other than the `current` ones that the deployment's workloads still run, by what their pods ask for."""
    found: dict[str, Retired] = {}
    for workload in objects.workloads():
        name = _labels(workload).get(VARIANT_LABEL, "")
        if not _is_of(moe, workload) or name in current or name in found:
            continue
        pods = _templates(workload)
        pool = next((p for _, p in sorted(pools.items()) if all(_is_in(pod, p) for pod in pods)), None)
        gpus = sum(requested(pod, pool.spec.gpu.resource_name) for pod in pods) if pool else 0
        usd = float(pool.spec.price.usd_per_gpu_hour) * gpus if pool else 0.0
        found[name] = Retired(name, pool.metadata.name if pool else "", gpus, usd)
    return tuple(found[name] for name in sorted(found))


def _templates(workload: Object) -> list[Object]:
    """The pods of one replica as its workload has them."""
    spec = workload["spec"]
    group = spec.get("leaderWorkerTemplate")
    if group is None:
        return [spec["template"]]
    worker = group["workerTemplate"]
    return [group.get("leaderTemplate") or worker, *[worker] * (group.get("size", 1) - 1)]


def _is_in(pod: Object, pool: GPUPool) -> bool:
    """Whether a pod asks for the pool's nodes: builders copy the pool's selector into it."""
    selector = (pod.get("spec") or {}).get("nodeSelector") or {}
    return all(selector.get(k) == v for k, v in pool.spec.node_selector.items())


def requested(pod: Object, resource: str) -> int:
    """Units of an extended resource that a pod holds."""
    containers = (pod.get("spec") or {}).get("containers") or []
    return sum(whole(((c.get("resources") or {}).get("requests") or {}).get(resource)) for c in containers)


def whole(quantity: str | int | None) -> int:
    """A Kubernetes quantity of something that comes in whole units; extended resources do."""
    return int(parse_quantity(quantity)) if quantity is not None else 0  # type: ignore[no-untyped-call]


def of_pool(pod: Object, pool: GPUPool) -> bool:
    """Whether a replica was asked for in that pool."""
    return is_ours(pod) and _is_in(pod, pool)


def is_ours(pod: Object) -> bool:
    return VARIANT_LABEL in (pod["metadata"].get("labels") or {})
