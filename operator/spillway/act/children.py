"""The objects of one MoEDeployment: applied where they differ, deleted where they are no longer wanted."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence

from spillway.act.compare import says
from spillway.act.kube import Kube, Object, path_of
from spillway.api import MoEDeployment
from spillway.build import (
    DEPLOYMENT_LABEL,
    REVISION_LABEL,
    VARIANT_LABEL,
    BuildSettings,
    account,
    compute_domain,
    disruption_budget,
    group_network_policy,
    network_policy,
    pod_monitor,
    service,
    workload,
)
from spillway.decide.outcome import DeploymentPlan, WorkloadPlan
from spillway.observe.cluster import DELETION_COST, GROUP_INDEX_LABEL
from spillway.observe.objects import Objects, key_of
from spillway.observe.prefetch import Prefetched
from spillway.observe.resolve import Resolved

log = logging.getLogger(__name__)

VICTIM_COST, USUAL_COST = "-1000", "0"
STORES = {
    "DaemonSet": "daemonsets",
    "Deployment": "deployments",
    "LeaderWorkerSet": "leaderworkersets",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "NetworkPolicy": "networkpolicies",
    "PodMonitor": "podmonitors",
    "ComputeDomain": "computedomains",
}


class Children:
    """Brings the children of a MoEDeployment to what the plan says. Each write goes through to the cache, so that the
    next plan sees it even before the watch tells."""

    def __init__(self, kube: Kube, objects: Objects, settings: BuildSettings) -> None:
        self._kube = kube
        self._objects = objects
        self._settings = settings

    async def bring(self, resolved: Resolved, plan: DeploymentPlan, prefetched: Sequence[Prefetched] = ()) -> None:
        """Apply what differs. Raises KubeError and OSError: the caller tries again."""
        moe = resolved.moe
        await self._mark_victims(resolved, plan)
        for obj in (
            account(moe),
            service(moe, self._settings.gateway_host),
            disruption_budget(moe),
            network_policy(moe, self._settings),
            *self._extensions(resolved),
            *(one.daemonset for one in prefetched if one.daemonset),
            *self._wanted_workloads(resolved, plan),
        ):
            await self._apply(obj)
        await self._stop_fetching(moe, {key_of(one.daemonset) for one in prefetched if one.daemonset})
        for planned in plan.workloads:
            live = self._live(resolved, planned)
            if live is None:
                continue
            if planned.replicas == 0 and not planned.kept and not self._has_pods(live):
                await self._kube.delete(live)
                self._store(live).pop(key_of(live), None)
            elif live["spec"].get("replicas") != planned.replicas and not self._is_current(resolved, planned):
                # An older revision's template is not known any more: only its size changes.
                patched = await self._kube.merge(path_of(live), {"spec": {"replicas": planned.replicas}})
                self._store(live)[key_of(live)] = patched

    async def _stop_fetching(self, moe: MoEDeployment, wanted: Collection[str]) -> None:
        """DaemonSets of the deployment for what is no longer to come to nodes; what they fetched stays there."""
        for key, live in list(self._objects.daemonsets.items()):
            owners = live["metadata"].get("ownerReferences") or ()
            if key not in wanted and any(owner.get("uid") == moe.metadata.uid for owner in owners):
                await self._kube.delete(live)
                self._objects.daemonsets.pop(key, None)

    def _extensions(self, resolved: Resolved) -> Iterator[Object]:
        """What only some clusters, or only replicas across nodes, need."""
        across = [v for v in resolved.variants if v.parallelism.nodes > 1]
        if across:
            yield group_network_policy(resolved.moe)
        for variant in across:
            if resolved.pools[variant.pool].spec.topology.compute_domain:
                yield compute_domain(resolved.moe, variant.name)
        if "podmonitors" in self._objects.extensions:
            yield pod_monitor(resolved.moe, self._settings)

    def _wanted_workloads(self, resolved: Resolved, plan: DeploymentPlan) -> Iterator[Object]:
        by_name = {v.name: v for v in resolved.variants}
        for planned in plan.workloads:
            if not self._is_current(resolved, planned):
                continue
            if planned.replicas == 0 and self._live(resolved, planned) is None:
                continue
            variant = by_name[planned.variant]
            yield workload(resolved.moe, variant, resolved.pools[variant.pool], planned.replicas, self._settings)

    def _is_current(self, resolved: Resolved, planned: WorkloadPlan) -> bool:
        return resolved.revisions.get(planned.variant) == planned.revision

    def _live(self, resolved: Resolved, planned: WorkloadPlan) -> Object | None:
        for obj in self._objects.workloads():
            labels = obj["metadata"].get("labels") or {}
            if (
                obj["metadata"]["namespace"] == resolved.moe.metadata.namespace
                and labels.get("spillway.dev/deployment") == resolved.moe.metadata.name
                and labels.get(VARIANT_LABEL) == planned.variant
                and labels.get(REVISION_LABEL) == planned.revision
            ):
                return obj
        return None

    def _has_pods(self, live: Object) -> bool:
        labels = live["metadata"]["labels"]
        wanted = {key: labels[key] for key in (DEPLOYMENT_LABEL, VARIANT_LABEL, REVISION_LABEL)}
        return any(
            pod["metadata"].get("namespace") == live["metadata"]["namespace"]
            and all((pod["metadata"].get("labels") or {}).get(k) == v for k, v in wanted.items())
            for pod in self._objects.pods.values()
        )

    def _store(self, obj: Object) -> dict[str, Object]:
        return self._objects.store(STORES[obj["kind"]])

    async def _apply(self, obj: Object) -> None:
        store = self._store(obj)
        live = store.get(key_of(obj))
        if live is not None and says(live, obj):
            return
        store[key_of(obj)] = await self._kube.apply(obj)
        log.info("applied", extra={"object": f"{obj['kind']} {key_of(obj)}"})

    async def _mark_victims(self, resolved: Resolved, plan: DeploymentPlan) -> None:
        """Give draining pods the lowest deletion cost, so that the ReplicaSet takes them, and take it back from those
        that may stay."""
        draining = {name for w in plan.workloads for name in w.draining}
        namespace = resolved.moe.metadata.namespace
        for key, pod in list(self._objects.pods.items()):
            meta = pod["metadata"]
            labels = meta.get("labels") or {}
            if (
                meta.get("namespace") != namespace
                or labels.get("spillway.dev/deployment") != resolved.moe.metadata.name
            ):
                continue
            if VARIANT_LABEL not in labels or meta.get("deletionTimestamp") or GROUP_INDEX_LABEL in labels:
                continue  # of groups the highest goes, whatever its pods cost
            cost = (meta.get("annotations") or {}).get(DELETION_COST, USUAL_COST)
            wanted = VICTIM_COST if meta["name"] in draining else USUAL_COST
            if cost != wanted:
                patch: Object = {"metadata": {"annotations": {DELETION_COST: wanted}}}
                self._objects.pods[key] = await self._kube.merge(
                    f"/api/v1/namespaces/{namespace}/pods/{meta['name']}", patch
                )
