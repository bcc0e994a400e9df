"""The leader's loop: observe, decide, tell the gateways, queue what changed. Every tick, and when something did."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from spillway.api import CostPolicy, ExternalProvider, GPUPool, Reason
from spillway.catalog import Catalog
from spillway.controller.chronicle import Chronicle
from spillway.controller.metrics import Metrics
from spillway.controller.publish import desired
from spillway.controller.settings import OperatorSettings
from spillway.controller.treasury import Treasury
from spillway.decide import Memory, Plan, Snapshot, plan
from spillway.gateway.ads import AdsServer
from spillway.observe import Objects, Problem, Resolved, resolve, take
from spillway.observe.prefetch import Prefetched, prefetched
from spillway.observe.prometheus import MetricsUnavailable, Prometheus
from spillway.observe.resolve import valid
from spillway.observe.snapshot import ProviderHealth
from spillway.observe.traffic import Traffic, look

log = logging.getLogger(__name__)

SOONEST_SECONDS = 0.5  # between two plans, however much happens


@dataclass(frozen=True, slots=True)
class Picture:
    """One plan with all that it was made from."""

    snapshot: Snapshot
    plan: Plan
    resolved: dict[str, Resolved] = field(default_factory=dict)
    problems: dict[str, Problem] = field(default_factory=dict)
    pools: dict[str, GPUPool] = field(default_factory=dict)
    providers: dict[str, ExternalProvider] = field(default_factory=dict)
    policies: dict[str, CostPolicy] = field(default_factory=dict)
    health: ProviderHealth = field(default_factory=ProviderHealth)
    prefetched: dict[str, tuple[Prefetched, ...]] = field(default_factory=dict)


class Brain:
    """Owns the memory of decisions. `on_plan` hears of every new picture."""

    def __init__(
        self,
        objects: Objects,
        catalog: Callable[[], Catalog],
        prometheus: Prometheus,
        treasury: Treasury,
        ads: AdsServer,
        settings: OperatorSettings,
        metrics: Metrics,
        memory: Memory,
        on_plan: Callable[[Picture], None],
        on_dropped: Callable[[str], Awaitable[None]],
        chronicle: Chronicle,
        record: Callable[[Snapshot, Memory, Plan], None] | None = None,
    ) -> None:
        self._objects = objects
        self._catalog = catalog
        self._prometheus = prometheus
        self._treasury = treasury
        self._ads = ads
        self._settings = settings
        self._metrics = metrics
        self._on_plan = on_plan
        self._wake = asyncio.Event()
        self._traffic: Traffic | None = None
        self._traffic_at = float("-inf")
        self._metrics_lost = False
        self._on_dropped = on_dropped
        self._chronicle = chronicle
        self._record = record
        self._untried = memory != Memory()  # loaded, and no plan was made with it yet
        self.memory = memory
        self.picture: Picture | None = None
        self.planned_at = time.monotonic()

    def wake(self) -> None:
        """Plan at once (but for `SOONEST_SECONDS`)."""
        self._wake.set()

    async def run(self, stopped: asyncio.Event) -> None:
        """Until stopped. The first plan waits for the treasury's first look: without it nothing could be afforded."""
        await self._treasury.read_once.wait()
        while not stopped.is_set():
            started = time.monotonic()
            self._wake.clear()
            await self.tick()
            await self._pause(SOONEST_SECONDS - (time.monotonic() - started), stopped, wakes=False)
            await self._pause(self._settings.tick_seconds - (time.monotonic() - started), stopped, wakes=True)

    async def tick(self) -> None:
        """One round. What goes wrong outside is part of the picture; what goes wrong here is a bug and ends us."""
        await self._look_at_traffic()
        picture = await self._picture()
        self._publish(picture)
        self.picture = picture
        self.planned_at = time.monotonic()
        self._metrics.planned(picture.snapshot, picture.plan)
        self._metrics.disabled({name: reason for name, (reason, _, _) in picture.health.disabled.items()})
        for deployment in picture.plan.deployments:
            for decision in deployment.decisions:
                if decision.changes:
                    log.info(
                        "decision",
                        extra={
                            "deployment": deployment.key,
                            "reason": str(decision.code),
                            "words": decision.message,
                            "usd_per_hour": decision.usd_per_hour,
                        },
                    )
        self._on_plan(picture)

    async def _picture(self) -> Picture:
        pools = valid(GPUPool, self._objects.gpupools)
        providers = valid(ExternalProvider, self._objects.externalproviders)
        policies = valid(CostPolicy, self._objects.costpolicies)
        build, catalog = self._settings.build(), self._catalog()
        found = {
            key: resolve(obj, pools, self._objects, catalog, build)
            for key, obj in sorted(self._objects.moedeployments.items())
            if not obj["metadata"].get("deletionTimestamp")
        }
        resolved = {key: one for key, one in found.items() if isinstance(one, Resolved)}
        health = self._health(providers)
        snapshot = take(
            time.time(),
            list(resolved.values()),
            self._objects,
            pools,
            providers,
            policies,
            self._traffic_now(),
            self._treasury.view,
            health,
            self._settings.decide(),
            self._treasury.arrivals.last,
        )
        started = time.perf_counter()
        planned = await self._plan(snapshot)
        self._metrics.plan_seconds.observe(time.perf_counter() - started)
        self._chronicle.misfits(
            {
                key: [{"pool": m.pool, "precision": m.precision or "", "reason": m.reason} for m in one.misfits]
                for key, one in resolved.items()
            }
        )
        problems = {key: one for key, one in found.items() if isinstance(one, Problem)}
        fetched = prefetched(resolved.values(), self._objects)
        return Picture(snapshot, planned, resolved, problems, pools, providers, policies, health, fetched)

    async def _plan(self, snapshot: Snapshot) -> Plan:
        """The plan; the memory is then that for the next one. A loaded memory that no plan can be made with, though it
        could be read, must not end one leader after the other: it is dropped. Anything later is a bug."""
        before = self.memory
        try:
            planned, self.memory = await asyncio.to_thread(plan, snapshot, before)
        except Exception as error:
            if not self._untried:
                raise
            log.exception("no plan can be made with the loaded memory")
            await self._on_dropped(f"no plan can be made with it: {type(error).__name__}: {error}"[:300])
            before = Memory()
            planned, self.memory = await asyncio.to_thread(plan, snapshot, before)
        self._untried = False
        if self._record is not None:
            self._record(snapshot, before, planned)
        await asyncio.to_thread(self._chronicle.take, snapshot, before, planned)
        return planned

    def _publish(self, picture: Picture) -> None:
        gateways = max(1, len(self._treasury.in_flight))
        wanted = desired(
            picture.plan, picture.snapshot, list(picture.resolved.values()), picture.providers, self._objects, gateways
        )
        self._ads.publish(wanted, self._treasury.in_flight)

    def _health(self, providers: dict[str, ExternalProvider]) -> ProviderHealth:
        missing = self._treasury.missing_keys | set(self._ads.missing_keys())
        blocked = {
            name: (
                Reason.MISSING_KEY,
                f"the gateways cannot read key {provider.spec.credentials.key!r}: add it to Secret "
                f"{self._settings.namespace}/spillway-provider-keys, or correct spec.credentials.key",
            )
            for name, provider in providers.items()
            if provider.spec.credentials.key in missing
        }
        watch, held = self._treasury.providers.watch, self._treasury.providers.guard.disabled
        shut = {name: (one.reason, one.message) for name, one in held.items() if not one.on_trial}
        return ProviderHealth(
            blocked={**shut, **blocked},
            # One that is disabled is not asked at all, and on trial it is not to be asked last.
            failing={name: words for name, words in watch.failing().items() if name not in held},
            error_rates=watch.error_rates(),
            disabled={name: (one.reason, one.message, one.on_trial) for name, one in held.items()},
            unwell=watch.unwell(),
            first_token_seconds=self._treasury.providers.first_tokens.medians(),
        )

    async def _look_at_traffic(self) -> None:
        if time.monotonic() - self._traffic_at < self._settings.tick_seconds * 0.9:
            return
        self._traffic_at = time.monotonic()
        try:
            self._traffic = await look(self._prometheus, self._settings.windows())
        except MetricsUnavailable as error:
            if not self._metrics_lost:
                log.warning("no metrics: replicas are held", extra={"error": str(error)})
            self._metrics_lost = True
            return
        if self._metrics_lost:
            log.info("metrics are back")
        self._metrics_lost = False

    def _traffic_now(self) -> Traffic | None:
        """The last traffic; None while Prometheus does not answer: its last words have no age that can be trusted."""
        return None if self._metrics_lost else self._traffic

    async def _pause(self, seconds: float, stopped: asyncio.Event, *, wakes: bool) -> None:
        """Wait that long, until stopped, or (if it `wakes`) until woken."""
        if seconds <= 0:
            return
        waiting = [asyncio.ensure_future(stopped.wait())]
        if wakes:
            waiting.append(asyncio.ensure_future(self._wake.wait()))
        try:
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
