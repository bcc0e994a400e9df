"""The treasury: reads the gateways, keeps the book, says what the money allows. One task of the leader's."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import cast, get_args

import aiohttp
from kubernetes.aio.client import ApiException, CoreV1Api

from spillway.api import CostPolicy, ExternalProvider, MoEDeployment
from spillway.controller.adjustment_watch import AdjustmentWatch
from spillway.controller.arrivals import Arrivals
from spillway.controller.lending import Leases, allows_more, cluster_of, leased, lent, no_more_than
from spillway.controller.provider_record import ProviderRecord
from spillway.controller.provider_tokens import limited
from spillway.controller.settings import OperatorSettings
from spillway.gateway.entries import Attempt
from spillway.gateway.reader import fetch
from spillway.gateway.readings import GatewayReading
from spillway.gateway.share import share
from spillway.ledger import (
    Amount,
    Book,
    Charged,
    EgressSample,
    Key,
    Pair,
    Process,
    Sums,
    allow,
    charge_idle,
    charge_pods,
    charge_reading,
    charge_vanished,
    retire,
    settle,
    unread_usd,
    vanished,
    vanished_limits,
)
from spillway.ledger.detail import Detail, Metered, requests_charged
from spillway.ledger.external import Outcome
from spillway.ledger.reader import READ_SECONDS, GatewayPod, Page, Reader, ReadingFailed, Round
from spillway.ledger.store import LedgerConflict, LedgerGone, LedgerStore, due
from spillway.ledger.stored import LedgerTooLarge
from spillway.observe import gpus, money
from spillway.observe.money import Money
from spillway.observe.objects import Objects
from spillway.observe.resolve import valid

log = logging.getLogger(__name__)

ZERO = Decimal(0)
FRESH_SECONDS = 5.0
WRITES = 3  # tries at once where somebody deletes the ledger's objects meanwhile
FULL_SECONDS = 60.0
ROUNDS_IN_FORCE = 2  # readings until a cap has surely been replaced at every gateway (Timing.apply_seconds)


def outcome(text: str) -> Outcome:
    """A counter's outcome label. Raises ReadingFailed for one that this ledger does not know."""
    if text in get_args(Outcome):
        return cast(Outcome, text)
    raise ReadingFailed(f"unknown outcome {text!r}: the gateway is of another version")


@dataclass(frozen=True, slots=True)
class _Life:
    """A gateway process as it was last read."""

    process: str
    in_flight: Mapping[str, int]  # by cluster
    spilling: int  # requests at providers
    terminating: bool


class Treasury:
    """Holds the book and the view of it that decisions use."""

    def __init__(
        self,
        core: CoreV1Api,
        objects: Objects,
        settings: OperatorSettings,
        on_threshold: Callable[[], None],
        adjustments: AdjustmentWatch | None = None,
        leases: Callable[[], Leases] = dict,
    ) -> None:
        """`leases`: what gateway processes are known to have been lent, by process and external cluster."""
        self._adjustments = adjustments
        self._store = LedgerStore(core, settings.namespace)
        self._objects = objects
        self._settings = settings
        self._on_threshold = on_threshold
        self._leases = leases
        self._session: aiohttp.ClientSession | None = None
        self._written_at: datetime | None = None
        self._written: Book | None = None
        self._last_external = ZERO
        self._lives: dict[str, _Life] = {}  # of each gateway pod, at its last reading
        self._missing: dict[str, frozenset[str]] = {}
        self._arrived: dict[str, Mapping[str, int]] = {}  # by gateway process, of the round that is being read
        self.book = Book()
        self._sums = Sums()
        self.view = Money()
        self.providers = ProviderRecord()
        self.detail = Detail()
        self._told: dict[str, GatewayReading] = {}  # by gateway pod, of the round that is being read
        self.arrivals = Arrivals()
        self.read_once = asyncio.Event()  # before the first round nothing is known of what may be spent
        self.in_flight: dict[str, dict[str, int]] = {}  # by gateway process and cluster, for sharing out limits
        self._recent_caps: list[Mapping[Pair, int]] = []  # of the rounds whose caps may still be in force somewhere
        self._read_at = float("-inf")
        self._full_until = float("-inf")

    async def load(self) -> None:
        """The stored book. Raises CorruptLedger: nobody may go on spending on a ledger that cannot be read."""
        stored = await self._store.load()
        if stored is None:
            log.warning("there is no ledger object yet: it starts empty", extra={"namespace": self._settings.namespace})
        else:
            self.book = self._written = stored
        # What a leader before us let out is not known: until the first round, nothing new is allowed.
        self._written_at = datetime.now(UTC) if stored is not None else None

    async def run(self, stopped: asyncio.Event, interval_seconds: float = READ_SECONDS) -> None:
        """Read each interval until stopped, then write the last state."""
        async with aiohttp.ClientSession() as session:
            self._session = session
            reader = Reader(self._fetch, self._gateways, self._round, lambda: datetime.now(UTC), interval_seconds)
            await reader.run(stopped)
        await self.save(force=True)

    async def write(self, force: bool = False) -> None:
        """Store the book if it changed and a write is due."""
        now = datetime.now(UTC)
        flowing = self._external_usd() != self._last_external
        if self.book == self._written or not (force or due(now, self._written_at, flowing)):
            return
        for _ in range(WRITES):
            try:
                self.book = self._written = await self._store.write(self.book, now)
                break
            except LedgerGone as error:
                log.error("the ledger was deleted, or a part of it; it is written again", extra={"error": str(error)})
            except LedgerConflict as error:
                # Take what is stored; the watermarks in it make the next reading charge the rest.
                log.error("the ledger was changed by somebody else; reading it again", extra={"error": str(error)})
                if (stored := await self._store.load()) is not None:
                    self.book = self._written = stored
                    break
        else:
            return  # another time
        self._written_at, self._last_external = now, self._external_usd()

    def _external_usd(self) -> Decimal:
        return sum((a.usd for k, a in self.totals().items() if k.source == "external"), ZERO)

    def totals(self, start: datetime | None = None) -> dict[Key, Amount]:
        """All that was spent, or since `start`, by key."""
        return {k: a for own in self._sums.of(self.book, start).values() for k, a in own.items()}

    @property
    def flowing(self) -> bool:
        """Whether external money was spent in the last minutes."""
        return any(k.source == "external" and usd for m in self.book.minutes.values() for k, usd in m.items())

    def _gateways(self) -> list[GatewayPod]:
        port = self._settings.gateway_metrics_port
        return [GatewayPod(p["metadata"]["name"], f"{p['status']['podIP']}:{port}") for p in self._objects.gateways()]

    async def _fetch(self, pod: GatewayPod) -> Page:
        assert self._session is not None, "fetch runs inside run()"
        try:
            reading = await fetch(self._session, pod.address)
        except (aiohttp.ClientError, ValueError) as error:
            raise ReadingFailed(f"{pod.address}: {error}") from error
        process = reading.process or ""
        spilling = sum(n for name, n in reading.in_flight.items() if name.startswith("ext|"))
        self._lives[pod.pod] = _Life(process, dict(reading.in_flight), spilling, self._terminating(pod.pod))
        self._arrived[process] = reading.arrivals
        self._told[pod.pod] = reading
        self._missing[pod.pod] = frozenset(reading.missing_credential_keys)
        samples = (
            EgressSample(
                s.namespace,
                s.deployment,
                s.provider,
                s.model,
                outcome(s.outcome),
                s.requests,
                s.prompt_tokens,
                s.completion_tokens,
                s.cached_tokens,
                s.request_bytes,
                s.response_bytes,
                s.cache_write_tokens,
                s.tier,
                s.answer,
                s.most_bytes,
            )
            for s in reading.samples
        )
        return Page(process, tuple(samples))

    def _terminating(self, pod: str) -> bool:
        key = f"{self._settings.namespace}/{pod}"
        return bool((self._objects.pods.get(key) or {"metadata": {}})["metadata"].get("deletionTimestamp"))

    @property
    def fresh(self) -> bool:
        """Whether the gateways were read lately: only then may a spill lease be renewed."""
        return time.monotonic() - self._read_at < FRESH_SECONDS

    def _caps_in_force(self, coming: Money | None = None) -> dict[Pair, int]:
        """The largest cap of each pair that a gateway may still have, or will with the view that comes."""
        recent = [*self._recent_caps, *([coming.caps] if coming else [])]
        pairs = {pair for given in recent for pair in given}
        return {pair: max(given.get(pair, 0) for given in recent) for pair in pairs}

    @property
    def missing_keys(self) -> frozenset[str]:
        """Provider keys that some gateway could not read."""
        return frozenset().union(*self._missing.values()) if self._missing else frozenset()

    def provider_usd_today(self, provider: str) -> Decimal:
        """Spent at a provider since midnight UTC."""
        start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        sums = self.totals(start)
        return sum((a.usd for k, a in sums.items() if k.source == "external" and k.supplier == provider), ZERO)

    async def _round(self, found: Round) -> None:
        """One reading of all gateways: charge, look at the budgets, tell if a limit moved, write if it is time. What
        people ask to be adjusted goes first: where that finds that somebody else wrote, what was read is charged to
        theirs."""
        now, before = datetime.now(UTC), self.view
        await self._adjust(now)
        providers = valid(ExternalProvider, self._objects.externalproviders)
        prices = money.prices(providers)
        unread, charged = self.book, self._by_provider()
        for reading in found.readings:
            if reading.page.process:
                page = reading.page
                self._take(charge_reading(self.book, reading.pod, page.process, page.samples, prices, reading.at))
        by_provider = self._by_provider()
        self._compare_with_detail(unread, charged, by_provider, now)
        tokens = {provider: amount.tokens for provider, amount in by_provider.items()}
        self.providers.note(found.readings, self._told, tokens, providers, now)
        self._told = {}
        self._take(charge_pods(self.book, gpus.held(self._objects, now), gpus.prices(self._objects), now))
        self.book = charge_idle(self.book, gpus.reserved(self._objects), now)
        view = self._assess(found, now, before)
        # In a leader's first round only its own view tells what those who do not answer may have spent.
        unheard = bool(found.failures) and not before.needs
        if self._close_vanished(found, view, now) or unheard:
            view = self._assess(found, now, view)
        self.view = await self._vouched(found, view)
        self.in_flight = {life.process: dict(life.in_flight) for life in self._lives.values() if life.process}
        requested = self.arrivals.note(self._arrived, now.timestamp())
        self._arrived = {}
        self._recent_caps = [*self._recent_caps, self.view.caps][-ROUNDS_IN_FORCE:]
        self._read_at = time.monotonic()  # a gateway that does not answer is in `unread`
        if requested or (before.caps, before.stops, before.lease_seconds) != (
            self.view.caps,
            self.view.stops,
            self.view.lease_seconds,
        ):
            self._on_threshold()
        self.read_once.set()
        await self.save()

    async def _adjust(self, now: datetime) -> None:
        """Settle what people ask to be adjusted. It counts once it is stored: else a credit could be spent that a later
        leader knows nothing of."""
        if self._adjustments is None:
            return
        before = self.book
        done = settle(self.book, self._adjustments.requests, now)
        if done.settled:
            self.book = done.book
            await self.save(force=True)
            if self.book is not self._written:
                self.book = before
                return
            if any(self.book.adjustments.get(ref) != one for ref, one in done.settled.items()):
                return  # somebody else wrote: what is stored counts, and the next round settles by it
        await self._adjustments.tell(done)

    def take_attempts(self, told: Sequence[Attempt]) -> None:
        """What the gateways' log tells of single requests; never what is charged."""
        self.detail.note(
            Metered(
                a.provider,
                a.model,
                a.tier,
                a.prompt_tokens,
                a.completion_tokens,
                a.cached_tokens,
                a.cache_write_tokens,
            )
            for a in told
            if a.outcome == "metered"
        )

    def _compare_with_detail(
        self, unread: Book, before: Mapping[str, Amount], after: Mapping[str, Amount], now: datetime
    ) -> None:
        """What this round charged by meter, for the check against the gateways' log."""
        new = {provider: amount - before.get(provider, Amount()) for provider, amount in after.items()}
        metered = {provider: amount.usd - amount.estimated_usd for provider, amount in new.items()}
        self.detail.round(requests_charged(unread, self.book), metered, self.book.prices, int(now.timestamp()))

    def _by_provider(self) -> dict[str, Amount]:
        """What was charged for requests to each provider, of all time: without corrections."""
        found: dict[str, Amount] = {}
        for key, amount in self.totals().items():
            if key.source == "external" and not key.adjustment:
                found[key.supplier] = found.get(key.supplier, Amount()) + amount
        return found

    async def _vouched(self, found: Round, view: Money) -> Money:
        """The view, once the stored ledger knows all that its caps may let a gateway process have in flight: whoever
        leads after us charges one that dies by that. Where it cannot be stored, no cap grows."""
        caps = self._caps_in_force(view)
        read = {Process(r.pod, r.page.process) for r in found.readings}
        for owner in self.book.gateways:
            self.book = allow(self.book, owner, self._share_of(owner.pod, caps), read=owner in read)
        self.book = lent(self.book, self._leases(), view)
        if allows_more(self.book, self._written):
            await self.save(force=True)
        if allows_more(self.book, self._written):
            return no_more_than(view, self.view)
        return view

    def _assess(self, found: Round, now: datetime, known: Money) -> Money:
        """The view of this round; `known` is the latest one that there is."""
        moes = list(valid(MoEDeployment, self._objects.moedeployments).values())
        providers, in_flight = valid(ExternalProvider, self._objects.externalproviders), self._in_flight_by_pair(moes)
        return money.assess(
            self.book,
            valid(CostPolicy, self._objects.costpolicies),
            moes,
            providers,
            self._objects,
            in_flight,
            self._caps_in_force(),
            self._unread(found, known, now),
            now,
            self._settings.timing(),
            self.providers.disabled,
            self._sums,
            leased(self.book, self._leases(), _pairs(moes)),
            limited(providers, in_flight, self.providers.tokens, self.book.learned),
        )

    async def save(self, force: bool = False) -> None:
        """As `write`. Spending is known here even while the API server is away: what fails is tried again next round,
        and what does not fit, which costs seconds to find out, after a minute."""
        if time.monotonic() < self._full_until:
            return
        try:
            await self.write(force)
        except (ApiException, aiohttp.ClientError, OSError, TimeoutError) as error:
            log.warning("the ledger could not be written yet", extra={"error": str(error)[:200]})
        except LedgerTooLarge as error:
            log.error("the ledger cannot be written", extra={"error": str(error)})
            self._full_until = time.monotonic() + FULL_SECONDS

    def _take(self, charged: Charged) -> None:
        self.book = charged.book
        for problem in charged.problems:
            log.error("not charged", extra={"problem": problem})

    def _close_vanished(self, found: Round, view: Money, now: datetime) -> bool:
        """Processes that are no more: retired if they were read after their last request, else charged their limit.
        Returns whether anything was charged."""
        charged = False
        listed = {p["metadata"]["name"] for p in self._objects.gateways()}
        alive = {Process(r.pod, r.page.process) for r in found.readings}
        unread = {owner for owner in self.book.gateways if owner.pod in found.failures and owner.pod in listed}
        for owner in vanished(self.book, alive | unread):
            life = self._lives.get(owner.pod)
            clean = life is not None and life.process == owner.process and life.terminating and life.spilling == 0
            if clean:
                self.book = retire(self.book, *owner)
                log.info("a gateway ended cleanly", extra={"pod": owner.pod})
            else:
                limits = vanished_limits(view.needs, self._caps_of(owner, view))
                self._take(charge_vanished(self.book, *owner, *limits, now))
                charged = True
                log.warning("a gateway vanished unread: charged its limit", extra={"pod": owner.pod})
        for pod in self._lives.keys() - listed:
            del self._lives[pod]
            self._missing.pop(pod, None)
        return charged

    def _unread(self, found: Round, known: Money, now: datetime) -> Decimal:
        """What gateways that exist but do not answer may have spent since they were last read."""
        unread = ZERO
        for owner in self.book.gateways:
            if owner.pod in found.failures:
                limits = vanished_limits(known.needs, self._caps_of(owner, known))
                unread += sum(unread_usd(self.book, owner, *limits, now).values(), ZERO)
        return unread

    def _caps_of(self, owner: Process, view: Money) -> Mapping[Pair, int]:
        """What the process was allowed at its time, as the book knows it; from a ledger of before, all of today's."""
        found = self.book.caps.get(owner)
        return self._caps_in_force(view) if found is None else found

    def _share_of(self, pod: str, caps: Mapping[Pair, int]) -> dict[Pair, int]:
        """Of each cap what that gateway pod has; all of it where it was never read."""
        if pod not in self._lives:
            return dict(caps)
        found = {}
        for pair, cap in caps.items():
            cluster_name = cluster_of(pair)
            load = {name: life.in_flight.get(cluster_name, 0) for name, life in self._lives.items()}
            found[pair] = share(cap, load).get(pod, 0)
        return found

    def _in_flight_by_pair(self, moes: list[MoEDeployment]) -> dict[Pair, int]:
        found: dict[Pair, int] = {}
        for pair in _pairs(moes):
            name = cluster_of(pair)
            found[pair] = sum(life.in_flight.get(name, 0) for life in self._lives.values())
        return found


def _pairs(moes: list[MoEDeployment]) -> Iterator[Pair]:
    for moe in moes:
        for provider, model in moe.spec.pairs:
            yield Pair(moe.metadata.namespace, moe.metadata.name, provider, model)
