"""Brings one MoEDeployment, pool, provider or policy to the last plan: children, status, events. Level-triggered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

from spillway.act import platform_status, status
from spillway.act.children import Children
from spillway.act.compare import merge_patch
from spillway.act.events import EventRecorder
from spillway.act.kube import Kube, KubeError, path
from spillway.api import (
    API_VERSION,
    Condition,
    ConditionType,
    CostPolicy,
    ExternalProvider,
    GPUPool,
    InvalidSpec,
    MoEDeployment,
    MoEDeploymentStatus,
    Reason,
    dump,
    find_condition,
    parse,
)
from spillway.build import caution
from spillway.catalog import Catalog
from spillway.controller.brain import Picture
from spillway.controller.metrics import Metrics
from spillway.controller.treasury import Treasury
from spillway.controller.workqueue import WorkQueue
from spillway.decide.outcome import Decision, DeploymentPlan
from spillway.decide.reasons import Code
from spillway.observe import money
from spillway.observe.autoscalers import autoscalers
from spillway.observe.objects import Objects
from spillway.observe.resolve import Resolved

log = logging.getLogger(__name__)

MOE, POOL, PROVIDER, POLICY = "moedeployments", "gpupools", "externalproviders", "costpolicies"
KINDS: dict[str, type[GPUPool] | type[ExternalProvider] | type[CostPolicy]] = {
    POOL: GPUPool,
    PROVIDER: ExternalProvider,
    POLICY: CostPolicy,
}
VOLATILE_SECONDS = 10.0  # costs and shares that move all the time are written this often at most
IDLE_SECONDS = 60.0  # what budgets show, while only GPUs cost money: as often as the ledger itself is written
REFUSED = (400, 403, 422)  # answers that the same request gets again
WARNINGS = (
    Code.FLOOR_LIMITED,
    Code.NO_GPU,
    Code.POOL_OUT_OF_CAPACITY,
    Code.BUDGET_SPENT,
    Code.METRICS_STALE,
    Code.NO_VARIANT,
    Code.ROLLOUT_WAITING,
    Code.ROLLOUT_FAILED,
)
TOLD = (ConditionType.NOT_ACTED_ON, ConditionType.FOREIGN_AUTOSCALER)  # conditions that have an event, too


class Reconciler:
    """Workers take `plural:key` from the queue."""

    def __init__(
        self,
        kube: Kube,
        objects: Objects,
        children: Children,
        events: EventRecorder,
        treasury: Treasury,
        catalog: Callable[[], Catalog],
        queue: WorkQueue,
        metrics: Metrics,
    ) -> None:
        self._kube = kube
        self._objects = objects
        self._children = children
        self._events = events
        self._treasury = treasury
        self._catalog = catalog
        self._queue = queue
        self._metrics = metrics
        self._picture: Picture | None = None
        self._untold: dict[str, list[Decision]] = {}  # decisions that are not in the status yet
        self._last_limits: dict[str, frozenset[str]] = {}
        self._warned: dict[tuple[str, str, datetime], int] = {}  # highest threshold told, by budget and period
        self._written: dict[str, float] = {}
        self._cautioned: set[tuple[str, int, str]] = set()  # uid, generation and variant

    def take(self, picture: Picture) -> None:
        """A new plan: everything is looked at again; what already is as planned costs no write."""
        self._picture = picture
        for planned in picture.plan.deployments:
            changes = [d for d in planned.decisions if d.changes]
            if changes:
                self._untold.setdefault(planned.key, []).extend(changes)
        for plural in (MOE, POOL, PROVIDER, POLICY):
            for key in self._objects.store(plural):
                self._queue.add(f"{plural}:{key}")

    async def work(self) -> None:
        """One worker, until cancelled."""
        while True:
            item = await self._queue.get()
            try:
                await self._reconcile(item)
            except (KubeError, OSError, TimeoutError) as error:
                self._metrics.reconciles.labels("error").inc()
                wait = self._queue.retry(item)
                log.warning(
                    "will try again", extra={"item": item, "error": str(error)[:300], "seconds": round(wait, 1)}
                )
            else:
                self._metrics.reconciles.labels("success").inc()
                self._queue.forget(item)
            finally:
                self._queue.done(item)
                self._metrics.queue_depth.set(len(self._queue))

    async def _reconcile(self, item: str) -> None:
        plural, _, key = item.partition(":")
        obj, picture = self._objects.store(plural).get(key), self._picture
        if obj is None or picture is None or obj["metadata"].get("deletionTimestamp"):
            return
        now = status.stamp(picture.snapshot.time)
        if plural == MOE:
            await self._moe(key, obj, picture, now)
        elif isinstance(invalid := parse(KINDS[plural], obj), InvalidSpec):
            await self._events.record(obj, Reason.INVALID_SPEC, invalid.message, "Warning")
            await self._write(plural, obj, dump(platform_status.of_invalid(KINDS[plural], invalid, obj, now)))
        elif plural == POOL and (pool := picture.pools.get(key)):
            planned = next((p for p in picture.plan.pools if p.name == key), None)
            new = platform_status.of_pool(pool, self._objects, planned, self._catalog(), now)
            await self._tell_conditions(obj, pool.status.conditions, new.conditions)
            await self._write(plural, obj, dump(new))
        elif plural == PROVIDER and (provider := picture.providers.get(key)):
            spent = self._treasury.provider_usd_today(key)
            health = picture.health
            new_status = platform_status.of_provider(provider, health, spent, now)
            await self._tell_conditions(obj, provider.status.conditions, new_status.conditions)
            if key in health.unwell:
                await self._events.record(
                    obj, health.unwell[key][0], "it does not do well; see condition Healthy", "Warning"
                )
            if blocked := health.blocked.get(key):
                await self._events.record(obj, blocked[0], blocked[1], "Warning")
            volatile = ("spentToday", "errorRate", "timeToFirstToken")
            await self._write(plural, obj, dump(new_status), volatile=volatile)
        elif plural == POLICY:
            await self._policy(key, obj, picture, now)

    async def _moe(self, key: str, obj: dict[str, Any], picture: Picture, now: datetime) -> None:
        parsed = parse(MoEDeployment, obj)
        before = parsed.status if isinstance(parsed, MoEDeployment) else MoEDeploymentStatus()
        if problem := picture.problems.get(key):
            await self._events.record(obj, problem.reason, problem.message, "Warning")
            await self._write(MOE, obj, dump(status.of_problem(problem, before, now)))
            return
        resolved, planned = picture.resolved.get(key), picture.plan.deployment(key)
        seen = next((d for d in picture.snapshot.deployments if d.key == key), None)
        if resolved is None or planned is None or seen is None:
            return
        await self._caution(obj, resolved, planned)
        untold = self._untold.pop(key, [])
        fetched = picture.prefetched.get(key, ())
        try:
            if not seen.dry_run:
                await self._children.bring(resolved, planned, fetched)
            others = autoscalers(resolved.moe, self._objects)
            new = status.of_deployment(
                resolved, seen, planned, before, untold, status.spill_usd_per_hour(seen, planned), now, others, fetched
            )
            await self._tell_conditions(obj, before.conditions, new.conditions)
            volatile = () if untold else ("load", "spill", "cost")
            await self._write(MOE, obj, dump(new), volatile=volatile)
        except (KubeError, OSError, TimeoutError) as error:
            self._untold[key] = untold + self._untold.get(key, [])
            if isinstance(error, KubeError) and error.status in REFUSED:
                await self._refused(obj, before, error, now)
            raise
        await self._tell(key, obj, untold, planned.decisions)

    async def _tell_conditions(
        self, obj: dict[str, Any], before: tuple[Condition, ...], after: tuple[Condition, ...]
    ) -> None:
        """An event when one of the conditions in `TOLD` comes up, or says other words than before."""
        for kind in TOLD:
            old, new = (find_condition(conditions, kind) for conditions in (before, after))
            if new and new.status == "True" and (old is None or (old.status, old.message) != (new.status, new.message)):
                await self._events.record(obj, kind, new.message, "Warning")

    async def _caution(self, obj: dict[str, Any], resolved: Resolved, planned: DeploymentPlan) -> None:
        """What makes starts slow, once for each variant that runs, until the spec changes."""
        meta = obj["metadata"]
        for variant in resolved.variants:
            mark = (meta["uid"], meta["generation"], variant.name)
            if not planned.desired.get(variant.name) or mark in self._cautioned:
                continue
            self._cautioned.add(mark)
            if words := caution(resolved.moe, variant, resolved.pools[variant.pool]):
                await self._events.record(obj, Reason.WEIGHTS_NOT_KEPT, words, "Warning")

    async def _refused(self, obj: dict[str, Any], before: MoEDeploymentStatus, error: KubeError, now: datetime) -> None:
        """The API server does not take a child as it is: its words are for the user, and we try again."""
        words = f"the API server refuses what this deployment needs, tried again: {error.message}"
        await self._events.record(obj, Reason.APPLY_REFUSED, words, "Warning")
        await self._write(MOE, obj, dump(status.of_refusal(before, obj["metadata"]["generation"], words, now)))

    async def _tell(
        self, key: str, obj: dict[str, Any], changes: list[Decision], current: tuple[Decision, ...]
    ) -> None:
        """Events: each change once, each limit when it begins."""
        for decision in changes:
            await self._events.record(obj, decision.code, decision.message, _kind(decision))
        limits = frozenset(d.code for d in current if not d.changes)
        for decision in current:
            if not decision.changes and decision.code not in self._last_limits.get(key, frozenset()):
                await self._events.record(obj, decision.code, decision.message, _kind(decision))
        self._last_limits[key] = limits

    async def _policy(self, key: str, obj: dict[str, Any], picture: Picture, now: datetime) -> None:
        policy = parse(CostPolicy, obj)
        if isinstance(policy, InvalidSpec):
            return
        view = self._treasury.view
        statements = view.statements.get(key)
        amounts = [money.ledger_budget(b).amount_from for b in policy.spec.budgets]
        if statements is None or len(statements) != len(amounts):
            return
        if any(s.amount != amount(s.period_start) for s, amount in zip(statements, amounts, strict=True)):
            return  # the treasury has not seen the policy as it is now; its next look comes with the next plan
        by_name = {budget.name: budget for budget in policy.spec.budgets}
        for statement in statements:
            budget = by_name.get(statement.name)
            if budget is None:  # the treasury has not seen the change yet
                continue
            percent = int(statement.spent / statement.amount * 100)
            crossed = max((at for at in (*budget.warn_at, 100) if percent >= at), default=0)
            period = (key, statement.name, statement.period_start)
            if crossed > self._warned.get(period, 0):
                self._warned[period] = crossed
                words = (
                    f"budget {statement.name}: ${statement.spent:.2f} of ${statement.amount} spent ({percent} %), "
                    f"${statement.burn_per_hour:.2f}/h now"
                )
                if policy.spec.enforcement == "DryRun":
                    words += "; enforcement is DryRun: nothing is stopped"
                reason = "BudgetSpent" if crossed >= 100 else "BudgetThreshold"
                await self._events.record(obj, reason, words, "Warning")
        new = platform_status.of_policy(policy, statements, view.grants, now, view.hours.get(key))
        await self._tell_conditions(obj, policy.status.conditions, new.conditions)
        await self._write(POLICY, obj, dump(new), volatile=("budgets", "lastHour", "summary"))

    async def _write(
        self, plural: str, obj: dict[str, Any], new: dict[str, Any], volatile: tuple[str, ...] = ()
    ) -> None:
        """Patch the status if it differs; a change of volatile fields alone waits its time."""
        old = obj.get("status") or {}
        patch = merge_patch(old, new)
        if not patch:
            return
        meta = obj["metadata"]
        mark, moment = f"{plural}:{meta['uid']}", asyncio.get_running_loop().time()
        pause = VOLATILE_SECONDS if self._treasury.flowing or plural != POLICY else IDLE_SECONDS
        if set(patch) <= set(volatile) and moment - self._written.get(mark, -pause) < pause:
            return
        where = path(API_VERSION, obj["kind"], meta.get("namespace"), meta["name"], "status")
        try:
            answer = await self._kube.merge(where, {"status": patch})
        except KubeError as error:
            if error.status == 404:  # deleted meanwhile
                return
            raise
        self._written[mark] = moment
        answer["metadata"].pop("managedFields", None)
        key = f"{meta['namespace']}/{meta['name']}" if meta.get("namespace") else meta["name"]
        if key in self._objects.store(plural):
            self._objects.store(plural)[key] = answer


def _kind(decision: Decision) -> Any:
    return "Warning" if decision.code in WARNINGS else "Normal"
