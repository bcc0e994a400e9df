"""A deployment served request by request, under the same pilots, faults and accounts as the fluid.

The gateway takes a request while fewer are in flight on its open replicas than the gate allows, and sends it to the
emptier of two of them, as Envoy does; what finds the gate shut goes to the first provider that takes it, or is refused.
A replica that is stopped takes nothing new and finishes what it has: it holds its GPUs, and is paid, until then.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from spillway.decide import spill
from spillway.decide.snapshot import Demand, Deployment, EngineRates, Replica, Variant
from spillway.observe.demand import PRIOR_INPUT_TOKENS, PRIOR_OUTPUT_TOKENS
from spillway.simulate.accounts import Account
from spillway.simulate.economics import BIN_SECONDS
from spillway.simulate.fleet import Fleet, Leaving, Outlet, Served, VirtualReplica, usd_per_bin
from spillway.simulate.requests.outside import Outside
from spillway.simulate.requests.records import LOCAL, REFUSED, Journal, Records, records
from spillway.simulate.requests.sharing import Engine, Progress
from spillway.simulate.traces import Arrivals
from spillway.simulate.world import VirtualDeployment, World

TOKEN_WINDOW_BINS = 30  # over which tokens per request are means, as the operator's five minutes


@dataclass(slots=True, eq=False)
class Server:
    """A ready replica: its engine, and whether the gateway sends it requests."""

    variant: Variant
    engine: Engine
    open: bool = True
    stamp: int = -1  # of its next event: older ones do not count
    counted: tuple[float, float] = (0.0, 0.0)  # input and output tokens of the bins before


class RequestFleet(Fleet):
    """A deployment whose requests are played one by one. The traffic of `spec` must be their sums by bin."""

    def __init__(
        self,
        spec: VirtualDeployment,
        world: World,
        rng: np.random.Generator,
        paying: tuple[Account, ...],
        arrivals: Arrivals,
    ) -> None:
        super().__init__(spec, world, rng, paying)
        if spec.deferrable_share:
            raise ValueError(f"{spec.key}: deferrable_share {spec.deferrable_share}: only a fluid can wait; make it 0")
        first = spec.variants[0]
        self.journal = Journal(arrivals)
        self._numbers = np.searchsorted(arrivals.seconds, np.arange(world.bins + 1) * BIN_SECONDS).tolist()
        seconds = arrivals.input_tokens / first.prefill_tokens_per_second
        self._work = (seconds + arrivals.output_tokens / first.decode_tokens_per_second) / BIN_SECONDS
        self._random = random.Random(f"{world.seed}/{spec.key}")  # the cold starts' own stream stays as in the fluid
        self._outside = Outside(paying)
        self._providers = {p.name: n for n, p in enumerate(world.providers)}
        self._servers: dict[str, Server] = {}  # by replica; those that are open
        self._open: list[Server] = []
        self._draining: list[tuple[VirtualReplica, Server]] = []
        self._events: list[tuple[float, int, Server]] = []  # when an engine has news; stamp
        self._stamps = itertools.count()
        self._in_flight = 0  # on open replicas
        self._queued_work = 0.0
        self._bin = Served()
        self._finished: list[tuple[float, int, float, float]] = []  # a heap of answers: end, number, tokens
        self._answers = [(0, 0.0, 0.0)]  # finished requests and their tokens, cumulative, by bin
        self._by_variant = {v.name: [(0.0, 0.0)] for v in spec.variants}  # tokens that open replicas did, cumulative

    @property
    def in_flight(self) -> int:
        """On replicas that take requests."""
        return self._in_flight

    def records(self) -> Records:
        """What became of each request."""
        return records(self.journal, tuple(self._providers))

    # ---- one bin -----------------------------------------------------------------------------------------------------

    def _serve(self, now: int, outside: Sequence[Outlet], share: float, gate: int | None) -> Served:
        done = self._bin = Served()
        begin, end = now * BIN_SECONDS, (now + 1) * BIN_SECONDS
        self._admit_replicas(now, begin)
        self._outside.open(outside, begin)
        limit = self._own_gate(now) if gate is None else gate
        numbers = slice(self._numbers[now], self._numbers[now + 1])
        arrivals = self.journal.arrivals
        for number, at, tokens_in, tokens_out, work in zip(
            range(numbers.start, numbers.stop),
            arrivals.seconds[numbers].tolist(),
            arrivals.input_tokens[numbers].tolist(),
            arrivals.output_tokens[numbers].tolist(),
            self._work[numbers].tolist(),
            strict=True,
        ):
            self._play_until(at)
            self._arrive(number, at, tokens_in, tokens_out, work, limit, share)
        self._play_until(end)
        self._count(end)
        self._keep_draining(now)
        self.queued = max(self._queued_work, 0.0)
        return done

    def _arrive(
        self, number: int, at: float, tokens_in: float, tokens_out: float, work: float, gate: int, share: float
    ) -> None:
        """Where one request goes."""
        if share > 0 and self._random.random() < share and self._send_out(number, at, tokens_in, tokens_out, work):
            return
        if self._open and self._in_flight < gate:
            server = self._emptier()
            self.journal.destination[number] = LOCAL
            self._in_flight += 1
            if server.engine.submit(at, number, tokens_in, tokens_out):
                self.journal.begun[number] = at
            else:
                self._queued_work += work
            self._expect(server)
        elif not self._send_out(number, at, tokens_in, tokens_out, work):
            self.journal.destination[number] = REFUSED
            self._bin.refused += work
            self._bin.refused_requests += 1

    def _emptier(self) -> Server:
        """Of two that are drawn (Envoy's LEAST_REQUEST)."""
        if len(self._open) == 1:
            return self._open[0]
        one, other = self._random.choices(self._open, k=2)
        return one if one.engine.in_flight <= other.engine.in_flight else other

    def _send_out(self, number: int, at: float, tokens_in: float, tokens_out: float, work: float) -> bool:
        taken = self._outside.take(at, tokens_in, tokens_out)
        if taken is None:
            return False
        journal = self.journal
        journal.destination[number] = self._providers[taken.provider.name]
        journal.first[number], journal.ended[number] = taken.first, taken.ended
        self._bin.spilled += work
        self._bin.spilled_requests += 1
        self._bin.external_usd += taken.usd
        heapq.heappush(self._finished, (taken.ended, number, tokens_in, tokens_out))
        return True

    # ---- replicas ----------------------------------------------------------------------------------------------------

    def _admit_replicas(self, now: int, at: float) -> None:
        """Those that have become ready take requests."""
        for one in self.replicas:
            if one.ready <= now and one.name not in self._servers:
                variant, factor = one.variant, 1 - self.spec.capacity_error
                engine = Engine(
                    variant.prefill_tokens_per_second * factor,
                    variant.decode_tokens_per_second * factor,
                    variant.concurrency,
                    variant.decode_tokens_per_second * factor / variant.concurrency,
                    now=at,
                )
                self._servers[one.name] = server = Server(variant, engine)
                self._open.append(server)

    def _stop(self, victim: VirtualReplica, now: int) -> None:
        super()._stop(victim, now)
        server = self._servers.pop(victim.name, None)
        if server is None:
            return
        server.open = False
        self._open.remove(server)
        if server.engine.in_flight:
            self._in_flight -= server.engine.in_flight
            self._draining.append((victim, server))
            self._hold(victim, now + 1)

    def _keep_draining(self, now: int) -> None:
        """Who still answers keeps its GPUs for another bin, if it had none left."""
        self._draining = [(victim, server) for victim, server in self._draining if server.engine.in_flight]
        for victim, _ in self._draining:
            self._hold(victim, now + 2)

    def _hold(self, victim: VirtualReplica, until: int) -> None:
        """Keep its GPUs before that bin; beyond the drain that is paid already each bin costs its rent."""
        kept = next((one for one in self._leaving if one.replica is victim), None)
        if kept is None:
            self._leaving.append(Leaving(victim, until))
        elif kept.until < until:
            kept.until = until
        else:
            return
        self._stop_usd += usd_per_bin(victim.variant)

    def _expect(self, server: Server) -> None:
        """Note when its engine has news."""
        server.stamp = next(self._stamps)
        heapq.heappush(self._events, (server.engine.next_at(), server.stamp, server))

    def _play_until(self, limit: float) -> None:
        """What engines do up to then."""
        events = self._events
        while events and events[0][0] <= limit:
            at, stamp, server = heapq.heappop(events)
            if server.stamp == stamp:
                self._note(at, server, server.engine.turn(at))
                if server.engine.running:
                    self._expect(server)

    def _note(self, at: float, server: Server, progress: Progress) -> None:
        journal, arrivals = self.journal, self.journal.arrivals
        for number in progress.begun:
            journal.begun[number] = at
            work = float(self._work[number])
            self._queued_work -= work
            if at - arrivals.seconds[number] > self.spec.queue_seconds:
                self._bin.late += work
        for number in progress.first:
            journal.first[number] = at
        for number in progress.ended:
            journal.ended[number] = at
            tokens = float(arrivals.input_tokens[number]), float(arrivals.output_tokens[number])
            heapq.heappush(self._finished, (at, number, *tokens))
        if server.open:
            self._in_flight -= len(progress.ended)

    def finish(self) -> None:
        """After the last bin: who is in flight gets an answer."""
        self._play_until(float("inf"))

    # ---- what is seen ------------------------------------------------------------------------------------------------

    def _count(self, end: float) -> None:
        """Sums at the end of the bin."""
        done, first = self._bin, self.spec.variants[0]
        by_variant = {name: list(sums[-1]) for name, sums in self._by_variant.items()}
        for server in (*self._open, *(server for _, server in self._draining)):
            engine = server.engine
            engine.advance(end)
            last_in, last_out = server.counted
            server.counted = engine.input_tokens, engine.output_tokens
            tokens_in, tokens_out = server.counted[0] - last_in, server.counted[1] - last_out
            done.input_tokens += tokens_in
            done.output_tokens += tokens_out
            if server.open:
                by_variant[server.variant.name][0] += tokens_in
                by_variant[server.variant.name][1] += tokens_out
        seconds = done.input_tokens / first.prefill_tokens_per_second
        done.work = (seconds + done.output_tokens / first.decode_tokens_per_second) / BIN_SECONDS
        for name, (tokens_in, tokens_out) in by_variant.items():
            self._by_variant[name].append((tokens_in, tokens_out))
        number, sum_in, sum_out = self._answers[-1]
        while self._finished and self._finished[0][0] <= end:
            _, _, tokens_in, tokens_out = heapq.heappop(self._finished)
            number, sum_in, sum_out = number + 1, sum_in + tokens_in, sum_out + tokens_out
        self._answers.append((number, sum_in, sum_out))

    def came(self, begin: int, until: int) -> Sequence[float]:
        """Requests are counted as they come; how many tokens one has is known of those that ended within the last
        minutes, or not at all."""
        requests = super().came(begin, until)[0]
        tokens_in, tokens_out = self._tokens(until)
        return requests, requests * tokens_in, requests * tokens_out

    def _tokens(self, until: int) -> tuple[float, float]:
        """Means per request that are known before that bin; as `observe` has it, those of chat where nothing is."""
        last = min(until, len(self._answers) - 1)
        number, tokens_in, tokens_out = (
            now - then
            for now, then in zip(self._answers[last], self._answers[max(0, last - TOKEN_WINDOW_BINS)], strict=True)
        )
        if number <= 0 or tokens_in <= 0 or tokens_out <= 0:
            return PRIOR_INPUT_TOKENS, PRIOR_OUTPUT_TOKENS
        return max(1.0, tokens_in / number), max(1.0, tokens_out / number)

    def _own_gate(self, now: int) -> int:
        """For who steers without one: as `decide` has it."""
        tokens_in, tokens_out = self._tokens(now)
        spec = self.spec
        seen = Deployment(
            spec.namespace,
            spec.name,
            spec.min_replicas,
            spec.max_replicas,
            spec.pinned_replicas,
            spec.queue_seconds,
            spec.variants,
            replicas=self.shown(now),
            demand=Demand(1.0, tokens_in, tokens_out),
        )
        return spill.gate(seen, frozenset())

    def _with_load(self, replica: VirtualReplica, idle: Replica, busy: Replica) -> Replica:
        server = self._servers.get(replica.name)
        if server is None:
            return idle
        return replace(idle, in_flight=server.engine.in_flight, waiting=server.engine.waiting)

    def rates(self, now: int, begin: int, until: int) -> tuple[EngineRates, ...]:
        seconds = max(until - begin, 1) * BIN_SECONDS
        found = []
        for variant in self.spec.variants:
            if any(server.variant.name == variant.name for server in self._open):
                sums = self._by_variant[variant.name]
                (in_0, out_0), (in_1, out_1) = sums[begin], sums[until]
                found.append(EngineRates(variant.name, (in_1 - in_0) / seconds, (out_1 - out_0) / seconds))
        return tuple(found)
