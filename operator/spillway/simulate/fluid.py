"""Work as a fluid: what the ready replicas cannot take of a bin waits, and what would wait longer than `queue_seconds`
goes to the first provider that takes it; what none takes is refused."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from spillway.simulate.accounts import Account
from spillway.simulate.economics import BIN_SECONDS
from spillway.simulate.fleet import Fleet, Outlet, Served
from spillway.simulate.load import SECONDS_PER_OUTPUT_TOKEN
from spillway.simulate.world import VirtualDeployment, World


class Deferred:
    """Work that may wait: it fills what the replicas have left, the oldest first, and is work like any other once its
    deadline has come. Until then it never goes outside, and it is no reason to start a replica."""

    def __init__(self, share: float, deadline_seconds: float) -> None:
        self._share, self._bins = share, round(deadline_seconds / BIN_SECONDS)
        self._waiting: deque[tuple[int, float]] = deque()  # deadline (bin) and work
        self.seen = [0.0]  # work that could not wait (any longer) or was done early, cumulative, by bin

    def due(self, now: int, work: float) -> float:
        """The work of this bin that cannot wait, deadlines that have come included."""
        waits = work * self._share
        work -= waits
        self._waiting.append((now + self._bins, waits))
        while self._waiting and self._waiting[0][0] <= now:
            work += self._waiting.popleft()[1]
        self.seen.append(self.seen[-1] + work)
        return work

    def fill(self, room: float) -> float:
        """Waiting work for which there is room now."""
        taken = 0.0
        while self._waiting and taken < room:
            deadline, work = self._waiting.popleft()
            part = min(work, room - taken)
            taken += part
            if part < work:
                self._waiting.appendleft((deadline, work - part))
        self.seen[-1] += taken
        return taken


class FluidFleet(Fleet):
    """A deployment whose work is a fluid."""

    def __init__(
        self, spec: VirtualDeployment, world: World, rng: np.random.Generator, paying: tuple[Account, ...] = ()
    ) -> None:
        super().__init__(spec, world, rng, paying)
        self._deferred = Deferred(spec.deferrable_share, spec.deadline_seconds) if spec.deferrable_share else None
        traffic = spec.traffic
        total = max(float(self.work.sum()), 1e-12)
        self._mean_per_unit = (
            float(traffic.requests.sum()) / total,
            float(traffic.input_tokens.sum()) / total,
            float(traffic.output_tokens.sum()) / total,
        )

    def _serve(self, now: int, outside: Sequence[Outlet], share: float, gate: int | None) -> Served:
        """A fluid needs no gate: what waits longer than `queue_seconds` is known."""
        work = float(self.work[now]) if now < len(self.work) else 0.0
        if self._deferred is not None:
            work = self._deferred.due(now, work)
        out = work * share
        self.queued += work - out
        served = min(self.queued, self.ready_units)
        self.queued -= served
        if self._deferred is not None and self.queued <= 0:
            served += self._deferred.fill(self.ready_units - served)
        excess = self.queued - self.ready_units * self.spec.queue_seconds / BIN_SECONDS
        if excess > 0:
            self.queued -= excess
            out += excess
        spilled = external = 0.0
        requests, tokens_in, tokens_out = self._per_unit(now)
        if out > 0:
            spilled, external = self._outside(now, out, requests, tokens_in, tokens_out, outside)
        return Served(
            work=served,
            spilled=spilled,
            refused=out - spilled,
            external_usd=external,
            spilled_requests=spilled * requests,
            refused_requests=(out - spilled) * requests,
            input_tokens=served * tokens_in,
            output_tokens=served * tokens_out,
        )

    def pressing(self, begin: int, until: int) -> float:
        """Work that could not wait (any longer) or was done early, over what came."""
        if self._deferred is None:
            return 1.0
        came = float(self.work[begin:until].sum())
        return (self._deferred.seen[until] - self._deferred.seen[begin]) / came if came > 0 else 0.0

    def _per_unit(self, now: int) -> tuple[float, float, float]:
        """Requests, input and output tokens in a replica-bin of work of this bin. What is served or overflows in an
        empty one came before: it is of the mean mix."""
        work = float(self.work[now]) if now < len(self.work) else 0.0
        if work <= 0:
            return self._mean_per_unit
        traffic = self.spec.traffic
        return (
            float(traffic.requests[now]) / work,
            float(traffic.input_tokens[now]) / work,
            float(traffic.output_tokens[now]) / work,
        )

    def _outside(
        self,
        now: int,
        out: float,
        requests: float,
        tokens_in: float,
        tokens_out: float,
        outside: Sequence[Outlet],
    ) -> tuple[float, float]:
        """Work that providers take, and its dollars. Requests and tokens are those in a replica-bin of work."""
        spilled = usd = 0.0
        paying = [account for account in self.paying if account.external]
        for outlet in outside:
            provider = outlet.provider
            price_in, price_out = provider.prices(now * BIN_SECONDS)
            per_unit = (tokens_in * price_in + tokens_out * provider.verbosity * price_out) / 1e6
            left = min((account.left_usd for account in paying), default=math.inf)
            streamed = tokens_out * provider.verbosity * SECONDS_PER_OUTPUT_TOKEN  # seconds in flight, over the unit
            take = min(
                out - spilled,
                outlet.quota.requests / requests if requests > 0 else out,
                max(0.0, left) / per_unit if per_unit > 0 else out,
                provider.concurrent * BIN_SECONDS / streamed if streamed > 0 else out,
            )
            if take <= 0:
                continue
            outlet.quota.requests -= take * requests
            for account in paying:
                account.spent_usd += take * per_unit
            usd += take * per_unit
            spilled += take
        return spilled, usd
