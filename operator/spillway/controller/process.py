"""The operator process: caches for all, decisions for the leader, a clean end on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Any

from kubernetes.aio import client, config

from spillway.act.children import Children
from spillway.act.events import EventRecorder
from spillway.act.kube import Kube, KubeError
from spillway.catalog import Catalog
from spillway.controller import informer
from spillway.controller.adjustment_watch import AdjustmentWatch
from spillway.controller.brain import Brain, Picture
from spillway.controller.catalog_watch import CatalogWatch
from spillway.controller.certificates import Certificates
from spillway.controller.chronicle import Chronicle
from spillway.controller.health import Explain, HealthServer
from spillway.controller.lease import LeaderLease
from spillway.controller.metrics import Metrics
from spillway.controller.recollection import Recollection
from spillway.controller.reconciler import Reconciler
from spillway.controller.recording import Recorder
from spillway.controller.settings import OperatorSettings
from spillway.controller.treasury import Treasury
from spillway.controller.workqueue import WorkQueue
from spillway.gateway.ads import AdsServer
from spillway.observe import Objects
from spillway.observe.prometheus import Prometheus

log = logging.getLogger(__name__)

RENEW_SECONDS = 5.0  # of the spill lease at the gateways
LOOK_FOR_KINDS_SECONDS = 5.0
STUCK_TICKS = 6  # without a plan for so many ticks (and at least a minute) the process is no longer alive
LEADER_LABEL = "spillway.dev/leader"


class LeadershipLost(Exception):
    """Another process leads now, or might: this one must end at once."""


class Operator:
    def __init__(self, settings: OperatorSettings, api: client.ApiClient) -> None:
        self._settings = settings
        self._api = api
        self._kube = Kube(api)
        self._objects = Objects()
        self._metrics = Metrics()
        self._lease = LeaderLease(
            self._kube,
            settings.namespace,
            settings.pod_name,
            settings.lease_duration_seconds,
            settings.lease_deadline_seconds,
            settings.lease_retry_seconds,
        )
        self._brain: Brain | None = None
        self._chronicle = Chronicle()
        self._synced = False
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises LeadershipLost, and whatever ends a task that must not end."""
        self._take_signals()
        health = HealthServer(
            self._settings.bind_address,
            self._settings.health_port,
            self._metrics,
            self._trouble,
            self._not_ready,
            self._explain,
        )
        await health.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                informing = tasks.create_task(self._inform(), name="informers")
                extensions = [
                    tasks.create_task(self._inform_of_extension(kind), name=f"informer of {kind[2]}")
                    for kind in informer.EXTENSIONS
                ]
                leading = tasks.create_task(self._lead(), name="leader")
                await self._stopped.wait()
                log.info("stopping")
                await leading
                informing.cancel()
                for informing_of_one in extensions:
                    informing_of_one.cancel()
        except* LeadershipLost as lost:
            log.error("leadership was lost: ending", extra={"error": str(lost.exceptions[0])})
            raise SystemExit(1) from None
        finally:
            await health.stop()

    def _take_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stopped.set)

    async def _inform(self, kinds: Sequence[informer.Kind] = informer.WATCHED) -> None:
        stop = asyncio.Event()
        try:
            await informer.run(self._objects, self._changed, self._api.configuration, stop, self._take_signals, kinds)
        finally:
            stop.set()
        if not self._stopped.is_set():
            raise RuntimeError("the watches ended by themselves")

    async def _inform_of_extension(self, kind: informer.Kind) -> None:
        """Objects of a kind that is not Kubernetes' own, from when the cluster has it. Where it is taken away again,
        the watch ends and the process with it, which starts anew without it."""
        while True:
            try:
                if await self._list_extension(kind):
                    break
            except (KubeError, OSError, TimeoutError) as error:
                log.warning("cannot ask for %s", kind[2], extra={"error": str(error)[:200]})
            await asyncio.sleep(LOOK_FOR_KINDS_SECONDS)
        self._wake()
        await self._inform((kind,))

    async def _list_extension(self, kind: informer.Kind) -> bool:
        """Fill the kind's cache; False if the cluster has no such kind."""
        group, version, plural = kind
        try:
            kinds = await self._kube.request("GET", f"/apis/{group}/{version}")
        except KubeError as error:
            if error.status == 404:
                return False
            raise
        if not any(found["name"] == plural for found in kinds["resources"]):
            return False
        await informer.listed(self._objects, self._get, (kind,))
        if plural not in self._objects.extensions:
            log.info("the cluster has %s", plural)
        self._objects.extensions.add(plural)
        return True

    async def _get(self, where: str, params: dict[str, str]) -> dict[str, Any]:
        return await self._kube.request("GET", where, params=params)

    def _changed(self, plural: str, key: str) -> None:
        if self._brain is not None and plural != "nodes":
            self._brain.wake()

    async def _lead(self) -> None:
        """Wait for the caches and the lease, then do the leader's work until stopped."""
        await self._list_all()
        self._synced = True
        await self._drop_own_label()  # a container that was restarted in its pod does not lead any more
        waiting = asyncio.create_task(self._lease.acquire())
        stopping = asyncio.create_task(self._stopped.wait())
        await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not waiting.done():
            waiting.cancel()
            return
        await waiting
        log.info("leading", extra={"identity": self._settings.pod_name})
        self._metrics.leader.set(1)
        try:
            await self._work()
        finally:
            self._metrics.leader.set(0)
            await self._lease.release()

    async def _list_all(self) -> None:
        """One list of every kind before the first plan; the API server may still be starting."""
        while True:
            try:
                await informer.listed(self._objects, self._get)
                for kind in informer.EXTENSIONS:
                    await self._list_extension(kind)
                return
            except (KubeError, OSError, TimeoutError) as error:
                log.warning("waiting for the API server", extra={"error": str(error)[:200]})
                await asyncio.sleep(1.0)

    async def _work(self) -> None:
        settings, queue = self._settings, WorkQueue()
        prometheus = Prometheus(settings.prometheus_url)
        core, events = client.CoreV1Api(self._api), EventRecorder(self._kube, settings.pod_name)
        adjustments = AdjustmentWatch(core, settings.namespace, events)
        treasury = Treasury(core, self._objects, settings, self._wake, adjustments, lambda: ads.leases())
        certificates = Certificates(self._kube, settings.namespace, self._metrics)
        # A leader that is not sure to lead, or does not see what is spent, renews nobody's permission to spend.
        ads = AdsServer(
            settings.bind_address,
            settings.ads_port,
            may_spill=lambda: self._lease.valid and treasury.fresh,
            identity=lambda: certificates.identity,
            on_attempts=treasury.take_attempts,
        )
        children = Children(self._kube, self._objects, settings.build())
        recollection = Recollection(self._kube, settings.namespace, self._objects, events)
        overlay = CatalogWatch(
            core,
            settings.namespace,
            settings.catalog_config_map,
            events,
            self._metrics,
            self._wake,
        )

        def catalog() -> Catalog:
            return overlay.catalog

        reconciler = Reconciler(self._kube, self._objects, children, events, treasury, catalog, queue, self._metrics)
        await certificates.load()
        await overlay.read()
        await adjustments.read()
        await treasury.load()
        self._metrics.spent_by(treasury.totals)
        self._metrics.detailed_by(treasury.detail)
        memory = await recollection.load()

        recorder = None
        if settings.record:
            recorder = Recorder(Path(settings.record), settings.pod_name, settings.record_megabytes * 10**6)
            recorder.start()

        def planned(picture: Picture) -> None:
            reconciler.take(picture)
            self._metrics.gateways.set(len(ads.nodes()))
            self._metrics.rejections.set(len(ads.rejections()))

        brain = Brain(
            self._objects,
            catalog,
            prometheus,
            treasury,
            ads,
            settings,
            self._metrics,
            memory,
            planned,
            recollection.dropped,
            self._chronicle,
            recorder.take if recorder else None,
        )
        await ads.start()
        await self._label_leader()
        try:
            async with running(
                treasury.run(self._stopped),
                brain.run(self._stopped),
                self._renew(ads),
                overlay.run(),
                adjustments.run(),
                certificates.run(),
                *(reconciler.work() for _ in range(settings.workers)),
            ) as failed:
                self._brain = brain
                await self._until_stopped(failed, recollection, brain)
        finally:
            self._brain = None
            queue.close()
            if self._lease.valid:  # else it is another leader's to write
                await recollection.keep(brain.memory, force=True)
                await treasury.save(force=True)
            await ads.stop()
            prometheus.close()
            if recorder is not None:
                await asyncio.to_thread(recorder.stop)

    async def _until_stopped(self, failed: asyncio.Future[None], recollection: Recollection, brain: Brain) -> None:
        holding = asyncio.create_task(self._lease.hold())
        stopping = asyncio.create_task(self._stopped.wait())
        ends: set[asyncio.Future[Any]] = {holding, stopping, failed}
        try:
            while True:
                done, _ = await asyncio.wait(ends, timeout=5.0, return_when=asyncio.FIRST_COMPLETED)
                if holding in done:
                    raise LeadershipLost("the lease is no longer ours")
                if failed in done:
                    failed.result()
                if stopping in done:
                    return
                await recollection.keep(brain.memory)
        finally:
            holding.cancel()
            stopping.cancel()

    async def _renew(self, ads: AdsServer) -> None:
        while True:
            await ads.renew()
            await asyncio.sleep(RENEW_SECONDS)

    def _wake(self) -> None:
        if self._brain is not None:
            self._brain.wake()

    async def _label_leader(self) -> None:
        """The ADS Service selects the leader's pod by this label; a process outside the cluster has no pod."""
        settings = self._settings
        for key, pod in list(self._objects.pods.items()):
            labels = pod["metadata"].get("labels") or {}
            if pod["metadata"].get("namespace") != settings.namespace or LEADER_LABEL not in labels:
                continue
            if pod["metadata"]["name"] != settings.pod_name:
                await self._set_label(key, None)
        await self._set_label(f"{settings.namespace}/{settings.pod_name}", "true")

    async def _drop_own_label(self) -> None:
        key = f"{self._settings.namespace}/{self._settings.pod_name}"
        labels = (self._objects.pods.get(key) or {"metadata": {}})["metadata"].get("labels") or {}
        if LEADER_LABEL in labels:
            await self._set_label(key, None)

    async def _set_label(self, key: str, value: str | None) -> None:
        namespace, _, name = key.partition("/")
        try:
            await self._kube.merge(
                f"/api/v1/namespaces/{namespace}/pods/{name}", {"metadata": {"labels": {LEADER_LABEL: value}}}
            )
        except KubeError as error:
            if error.status != 404:
                raise

    def _trouble(self) -> str:
        brain = self._brain
        if brain is None:
            return ""
        silent = time.monotonic() - brain.planned_at
        most = max(60.0, STUCK_TICKS * self._settings.tick_seconds)
        return f"no plan for {silent:.0f} s" if silent > most else ""

    def _explain(self) -> Explain | None:
        return self._chronicle.answer if self._brain is not None and self._brain.picture is not None else None

    def _not_ready(self) -> str:
        return "" if self._synced else "the caches are not filled yet"


@contextlib.asynccontextmanager
async def running(*work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Future[None]]:
    """Tasks that must not end by themselves; the future fails with the first that does. On exit the first two end by
    themselves, as they listen to the stop event, and the others are cancelled; after an error all are, at once."""
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    tasks = [asyncio.create_task(one) for one in work]

    def ended(task: asyncio.Task[None]) -> None:
        if not failed.done() and not task.cancelled() and (error := task.exception()):
            failed.set_exception(error)

    for task in tasks:
        task.add_done_callback(ended)
    try:
        yield failed
        await asyncio.wait(tasks[:2], timeout=10.0)  # the treasury's last reading and the tick under way
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if failed.done() and not failed.cancelled():
            failed.exception()


async def run(settings: OperatorSettings) -> None:
    """Connect as the kubeconfig or the service account says, and operate."""
    configuration = client.Configuration()
    await config.load_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    async with client.ApiClient(configuration) as api:
        await Operator(settings, api).run()
