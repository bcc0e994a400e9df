"""Looks at the running story once a second: the API server's objects, the operator's metrics, Prometheus, the bills,
and what the clients of the load saw."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, cast

from kubernetes import client as kube
from kubernetes import config as kube_config
from prometheus_client.parser import text_string_to_metric_families
from urllib3.exceptions import HTTPError

from e2e.demo.recording import REFUSALS, Answer, Chapter, Kind, Moment, Outcome, Recording, Replicas, Sample
from e2e.demo.scene import BUDGET, DEPLOYMENT, FIRST_POOL, FIRST_VARIANT, POLICY, replica_seconds, units_of
from e2e.load.summary import Record
from e2e.stage import NAMESPACE, BackgroundLoad, Object, Stage

EVERY_SECONDS = 1.0
RATE_SECONDS = 5.0
GROUP, VERSION = "spillway.dev", "v1alpha1"
SPEED_QUERY = 'sum by (variant) (rate({__name__=~"vllm:generation_tokens_total",deployment!=""}[6s]))'
WATCHED = (
    ("moe", "SpillAvailable"),
    ("moe", "ScalingLimited"),
    ("moe", "MetricsAvailable"),
    ("policy", "WithinBudget"),
    ("pool", "OutOfCapacity"),
)
Unreachable = (kube.ApiException, HTTPError, urllib.error.URLError, TimeoutError, ConnectionError)


class Watcher:
    """A thread that fills a Recording. Usable as a context manager; `error` is what ended it early, if anything."""

    def __init__(self, stage: Stage, recording: Recording) -> None:
        self.recording = recording
        self.error: BaseException | None = None
        self.skipped = 0
        self._stage = stage
        connect = cast(Callable[[str], kube.ApiClient], kube_config.new_client_from_config)
        self._api = kube.CustomObjectsApi(connect(str(stage.cluster.kubeconfig)))
        self._zero = time.monotonic()
        self._ended = threading.Event()
        self._loads: list[tuple[BackgroundLoad, int]] = []  # with how many records were taken over
        self._decisions: set[tuple[Any, ...]] = set()
        self._conditions: dict[tuple[str, str], str] = {}
        self._leader = ""
        self._thread = threading.Thread(target=self._work, name="watcher", daemon=True)
        recording.began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(15)
        self._take_answers()
        self._close_chapter()

    def now(self) -> float:
        """Story seconds."""
        return time.monotonic() - self._zero

    # ---- what the director tells -------------------------------------------------------------------------------------

    def chapter(self, name: str, title: str, watch: str) -> None:
        self._close_chapter()
        self.recording.chapters.append(Chapter(name, title, watch, self.now()))

    def act(self, name: str, text: str) -> float:
        """Note what the people of the story did or saw."""
        return self._note("act", name, text)

    def follow(self, load: BackgroundLoad) -> None:
        """Take over what this load's requests saw."""
        self._loads.append((load, 0))

    def raise_error(self) -> None:
        """Raises RuntimeError when the thread has ended before its time."""
        if self.error is not None:
            raise RuntimeError(f"the watcher ended: {self.error!r}") from self.error

    @property
    def last(self) -> Sample | None:
        return self.recording.samples[-1] if self.recording.samples else None

    def recent(self, seconds: float = 5.0) -> list[Answer]:
        """Answers that ended in the last seconds."""
        since = self.now() - seconds
        found: deque[Answer] = deque()
        for answer in reversed(self.recording.answers):
            if answer.ended < since - 30:
                break
            if answer.ended >= since:
                found.appendleft(answer)
        return list(found)

    # ---- the thread --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        due = time.monotonic()
        while not self._ended.is_set():
            try:
                self._look()
            except Unreachable:
                self.skipped += 1
                self._leader = ""
            except BaseException as error:
                self.error = error
                raise
            due = max(due + EVERY_SECONDS, time.monotonic())
            self._ended.wait(due - time.monotonic())

    def _look(self) -> None:
        self._take_answers()
        moe = self._get("moedeployments", DEPLOYMENT, NAMESPACE)
        if moe is None:
            return
        policy, pool = self._get("costpolicies", POLICY), self._get("gpupools", FIRST_POOL)
        for kind, found in (("moe", moe), ("policy", policy), ("pool", pool)):
            self._note_conditions(kind, found or {})
        status = moe.get("status") or {}
        self._note_decisions(status)
        budget: Object = next(iter(((policy or {}).get("status") or {}).get("budgets") or []), {})
        cost = status.get("cost") or {}
        speeds, billed = self._speeds(), float(self._stage.billed())
        self.recording.samples.append(
            Sample(
                at=round(self.now(), 2),
                work=round(self._work_offered(), 2),
                in_flight=sum(load.run.in_flight for load, _ in self._loads),
                variants={v["name"]: _replicas(v, speeds) for v in status.get("variants") or []},
                gpu_usd_per_hour=float(cost.get("gpuPerHour", 0)),
                external_usd_per_hour=self._external_rate(billed),
                spill_reason=(status.get("spill") or {}).get("reason", ""),
                spent_usd=self._spent(budget, policy or {}, billed),
                billed_usd=billed,
                budget_usd=float((policy or {"spec": {"budgets": [{"amount": 0}]}})["spec"]["budgets"][0]["amount"]),
                bound_usd=float(budget.get("bound", 0)),
            )
        )

    def _get(self, plural: str, name: str, namespace: str | None = None) -> Object | None:
        try:
            found = (
                self._api.get_namespaced_custom_object(GROUP, VERSION, namespace, plural, name)
                if namespace
                else self._api.get_cluster_custom_object(GROUP, VERSION, plural, name)
            )
        except kube.ApiException as error:
            if error.status == 404:
                return None
            raise
        return cast(Object, found)

    def _work_offered(self) -> float:
        """Work of the requests that were sent in the last seconds, per second."""
        until = self.now()
        work = 0.0
        for load, _ in self._loads:
            zero = load.started - self._zero
            arrivals = load.run.schedule.arrivals[: load.run.sent]
            first = bisect_left(arrivals, until - RATE_SECONDS - zero, key=lambda a: a.at)
            work += sum(replica_seconds(FIRST_VARIANT, a.prompt_tokens, a.output_tokens) for a in arrivals[first:])
        return work / RATE_SECONDS

    def _external_rate(self, billed: float) -> float:
        """Dollars per hour as the providers' bills grow."""
        earlier = self.recording.samples[-round(RATE_SECONDS) :][:1]
        if not earlier:
            return 0.0
        return round((billed - earlier[0].billed_usd) / max(self.now() - earlier[0].at, 0.1) * 3600, 2)

    def _spent(self, budget: Object, policy: Object, billed: float) -> float:
        """The ledger's own figure from the leader's metrics: the status is written every ten seconds only.

        The metric tells what remains, of the amount in the status or of one that was patched a moment ago. It says 0
        as long as nothing more may be spent, whatever remains.
        """
        stated = float(budget.get("spent", 0))
        known = max(stated, self.last.spent_usd if self.last else 0.0)
        remaining = self._remaining()
        if not remaining or not budget:
            return known
        amounts = {float(budget["amount"]), float(policy["spec"]["budgets"][0]["amount"])}
        nearest = min((amount - remaining for amount in amounts), key=lambda spent: abs(spent - billed))
        return round(max(nearest, known), 6)

    def _remaining(self) -> float | None:
        if not self._leader:
            self._leader = self._stage.leader()["status"]["podIP"]
        with urllib.request.urlopen(f"http://{self._leader}:8081/metrics", timeout=5) as page:
            text = page.read().decode()
        wanted = {"policy": POLICY, "budget": BUDGET}
        for family in text_string_to_metric_families(text):
            if family.name == "spillway_budget_remaining_usd":
                return next((float(s.value) for s in family.samples if s.labels == wanted), None)
        self._leader = ""  # another one may lead now
        return None

    def _speeds(self) -> dict[str, float]:
        """Output tokens per second by variant, from the engines' own counters."""
        query = urllib.parse.urlencode({"query": SPEED_QUERY})
        with urllib.request.urlopen(f"{self._stage.cluster.prometheus_url}/api/v1/query?{query}", timeout=5) as page:
            found = json.load(page)["data"]["result"]
        return {f["metric"].get("variant", ""): float(f["value"][1]) for f in found}

    def _note_decisions(self, status: Object) -> None:
        for decision in reversed(status.get("decisions") or []):
            key = tuple(str(decision.get(k)) for k in ("time", "variant", "from", "to", "reason", "message"))
            if key not in self._decisions:
                self._decisions.add(key)
                self._note(
                    "decision",
                    decision["reason"],
                    decision["message"],
                    decision.get("variant", ""),
                    decision["from"],
                    decision["to"],
                )

    def _note_conditions(self, kind: str, found: Object) -> None:
        conditions = {c["type"]: c for c in (found.get("status") or {}).get("conditions") or []}
        for name in (t for k, t in WATCHED if k == kind and t in conditions):
            condition = conditions[name]
            before = self._conditions.get((kind, name))
            self._conditions[kind, name] = now = f"{condition['status']} {condition['reason']}"
            if before is not None and before != now:
                self._note("condition", name, f"{now}: {condition['message']}")

    def _take_answers(self) -> None:
        for index, (load, taken) in enumerate(self._loads):
            records = load.run.records
            count = len(records)
            zero = load.started - self._zero
            self.recording.answers += [answer(records[i], zero) for i in range(taken, count)]
            self._loads[index] = (load, count)

    def _note(self, kind: Kind, name: str, text: str, variant: str = "", before: int = 0, after: int = 0) -> float:
        at = round(self.now(), 2)
        self.recording.moments.append(Moment(at, kind, name, text, variant, before, after))
        return at

    def _close_chapter(self) -> None:
        chapters = self.recording.chapters
        if chapters and chapters[-1].ended is None:
            last = chapters.pop()
            chapters.append(Chapter(last.name, last.title, last.watch, last.began, self.now()))


def answer(record: Record, zero: float) -> Answer:
    """What a client saw, in the story's time."""
    outcome: Outcome = "spilled" if record.spilled else "local"
    if record.cut:
        outcome = "cut"
    elif record.failed:
        outcome = "refused" if record.error_code in REFUSALS else "failed"
    return Answer(
        at=round(zero + record.start, 2),
        ended=round(zero + record.end, 2),
        outcome=outcome,
        server=record.served_by or "none",
        code=record.error_code or record.error or "",
        output_tokens=record.completion_tokens or 0,
    )


def _replicas(variant: Mapping[str, Any], speeds: Mapping[str, float]) -> Replicas:
    name = variant["name"]
    return Replicas(
        wanted=variant["desired"],
        ready=variant["ready"],
        starting=variant["starting"],
        pending=variant["pending"],
        units=round(units_of(name), 3),
        output_tokens_per_second=round(speeds.get(name, 0.0), 1),
    )
