"""An adversary against leases: two gateways, of which one may stop hearing, a leader who dies at any moment, and
clients who take every slot and every request that a provider's limit lets through."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from spillway.gateway.share import growing, share
from spillway.ledger.book import Pair
from spillway.ledger.caps import Limit, caps, greatest_cost, lease_seconds, slot
from spillway.ledger.exposure import LEASES_SECONDS, Exposure, Need, Timing
from spillway.ledger.price import Price

TIMING = Timing()
SHORTEST = LEASES_SECONDS[0]
GLM = Price(Decimal("1.00"), Decimal("0.20"), Decimal("3.20"))
TICK = 0.5
ACKNOWLEDGE_SECONDS = 5.0


@dataclass(frozen=True)
class Told:
    """What a gateway was told once: its shares of the caps, by how long a lease, and when."""

    caps: dict[Pair, int]
    lease: int
    at: float

    def may_be_in_force(self, now: float) -> bool:
        return now < self.at + self.lease + ACKNOWLEDGE_SECONDS


@dataclass
class Gateway:
    """`heard`: in force until its lease ends. `pending`: sent, and not acknowledged. `minute`: requests that it may
    still begin, of a share of the provider's limit: at worst a whole minute's worth is saved up."""

    hears_until: float
    per_minute: float | None
    minute: float = 0.0
    heard: Told = Told({}, SHORTEST, float("-inf"))
    ends_at: float = float("-inf")
    pending: list[Told] = field(default_factory=list)
    running: list[tuple[float, Pair, Decimal]] = field(default_factory=list)

    def in_flight(self) -> Counter[Pair]:
        return Counter(pair for _, pair, _ in self.running)

    def possible(self, now: float) -> list[Told]:
        """What it may have as far as the leader knows."""
        return [told for told in (self.heard, *self.pending) if told.may_be_in_force(now)]

    def hear(self, now: float, apply: float) -> None:
        self.pending = [told for told in self.pending if told.may_be_in_force(now)]
        for told in [told for told in self.pending if told.at + apply <= now < self.hears_until]:
            self.pending.remove(told)
            self.heard, self.ends_at = told, now + told.lease


@dataclass
class World:
    prompt_tokens: int
    output_tokens: int
    draw: random.Random
    patience: list[int]
    gateways: list[Gateway]
    billed: Decimal

    def step(self, now: float) -> None:
        for gateway in self.gateways:
            for done in [request for request in gateway.running if request[0] <= now]:
                gateway.running.remove(done)
                self.billed += done[2]
            if gateway.per_minute is not None:
                gateway.minute = min(gateway.per_minute, gateway.minute + gateway.per_minute * TICK / 60)
            if now < gateway.ends_at:
                self._fill(gateway, now)

    def _fill(self, gateway: Gateway, now: float) -> None:
        has = gateway.in_flight()
        for pair, cap in gateway.heard.caps.items():
            for _ in range(cap - has[pair]):
                if gateway.per_minute is not None and gateway.minute < 1:
                    return
                gateway.minute -= 1
                seconds = self.draw.choice(self.patience)
                tokens = min(self.output_tokens, seconds * int(TIMING.output_tokens_per_second))
                gateway.running.append((now + seconds, pair, greatest_cost(GLM, self.prompt_tokens, tokens)))

    @property
    def in_flight(self) -> Counter[Pair]:
        return sum((gateway.in_flight() for gateway in self.gateways), Counter())


class Leader:
    """Decides on readings alone, and counts what gateways have not given up."""

    def __init__(self, needs: list[Need], budget: Decimal) -> None:
        self._needs = needs
        self._budget = budget
        self._recent: list[dict[Pair, int]] = []
        self.leases: list[int] = []

    def decide(self, world: World, now: float) -> None:
        left = max(Decimal(0), self._budget - world.billed)
        limit = Limit("team", "day", frozenset({"chat"}), self._budget, left)
        flying = world.in_flight
        needs = [self._need(need, world, flying, now) for need in self._needs]
        given = caps(needs, [limit], TIMING)
        lease = lease_seconds(needs, given, limit, TIMING)
        self.leases.append(lease)
        self._recent = [*self._recent, given][-2:]
        shares: list[dict[Pair, int]] = [{} for _ in world.gateways]
        for pair, cap in given.items():
            loads = {str(n): gateway.in_flight()[pair] for n, gateway in enumerate(world.gateways)}
            held = {
                str(n): max((told.caps.get(pair, 0) for told in gateway.possible(now)), default=0)
                for n, gateway in enumerate(world.gateways)
            }
            for n, part in growing(cap, share(cap, loads), held).items():
                shares[int(n)][pair] = part
        for gateway, its in zip(world.gateways, shares, strict=True):
            gateway.pending.append(Told(its, lease, now))

    def grow(self, factor: int) -> None:
        self._needs = [replace(need, most=need.most * factor, wanted=need.wanted * factor) for need in self._needs]

    def _need(self, need: Need, world: World, flying: Counter[Pair], now: float) -> Need:
        leased, longest = 0, 0
        for gateway in world.gateways:
            held = [t for t in gateway.possible(now) if t.lease > SHORTEST and t.caps.get(need.pair, 0)]
            leased += max((told.caps[need.pair] for told in held), default=0)
            longest = max([longest, *(told.lease for told in held)])
        previous = max((given[need.pair] for given in self._recent), default=0)
        return replace(
            need, in_flight=flying[need.pair], previous_cap=previous, leased_cap=leased, leased_seconds=longest
        )


@dataclass(frozen=True)
class Played:
    """`used`: what was spent, as a share of what the lease that the budget just bears may cost."""

    budget: Decimal
    billed: Decimal
    used: Decimal
    leases: list[int]

    def within_bound(self) -> bool:
        return self.billed <= self.budget * Decimal("1.01")


def play(
    lease: int,
    per_minute: int | None,
    slots: list[int],
    prompt_tokens: int = 500,
    output_tokens: int = 256,
    patience: list[int] | None = None,
    spare: float = 1.0,
    dies_at: float = 0.0,
    deaf_at: float = float("inf"),
    apply: float = 1.0,
    seed: int = 0,
    grows: tuple[float, int] = (float("inf"), 1),
) -> Played:
    """At first there is `spare` times what just bears the lease for the
    slots that are asked for; later (`grows`) so many times as many are."""
    own = slot(GLM, prompt_tokens, output_tokens, 1, TIMING)
    pairs = [Pair("chat", f"m{n}", "zai", "glm-5") for n in range(len(slots))]
    needs = [Need(p, own, 1, most=most, per_minute=per_minute) for p, most in zip(pairs, slots, strict=True)]
    most = dict(zip(pairs, slots, strict=True))
    soon, in_all = (Exposure(needs, most, TIMING, s).usd for s in (SHORTEST, lease))
    standing = sum(slots) * own.greatest_usd
    just_enough = in_all + (soon if lease > SHORTEST else 0)
    budget = max(just_enough, 100 * standing * grows[1])
    left = just_enough * Decimal(spare) - budget / 100
    each = None if per_minute is None else per_minute / 2
    gateways = [Gateway(float("inf"), each, each or 0.0), Gateway(deaf_at, each, each or 0.0)]
    world = World(prompt_tokens, output_tokens, random.Random(seed), patience or [1], gateways, budget - left)
    leader = Leader(needs, budget)
    now = 0.0
    while now <= dies_at + apply or any(gateway.running or now < gateway.ends_at for gateway in gateways):
        for gateway in gateways:
            gateway.hear(now, apply)
        world.step(now)
        if now == grows[0]:
            leader.grow(grows[1])
        if now <= dies_at and now % float(TIMING.read_seconds) == 0:
            leader.decide(world, now)
        if now == dies_at and seed % 2:
            for gateway in gateways:
                gateway.pending = []  # what was on its way is lost with its sender
        now += TICK
    return Played(budget, world.billed, (world.billed - budget + left) / in_all, leader.leases)


@pytest.mark.parametrize("lease", LEASES_SECONDS)
@pytest.mark.parametrize("per_minute", [None, 120])
@pytest.mark.parametrize("slots", [[2], [3, 1, 2]])
@pytest.mark.parametrize("deaf_at", [float("inf"), 7.0])
def test_every_lease_is_used_and_none_passes_the_budget(
    lease: int, per_minute: int | None, slots: list[int], deaf_at: float
) -> None:
    """The leader dies while the lease is in force; a deaf gateway keeps what it had."""
    played = play(lease, per_minute, slots, dies_at=9.0, spare=1.05, deaf_at=deaf_at)
    assert lease in played.leases
    assert played.within_bound()


@settings(max_examples=100, deadline=None)
@given(
    lease=st.sampled_from(LEASES_SECONDS),
    per_minute=st.none() | st.integers(1, 300),
    slots=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    prompt_tokens=st.sampled_from([0, 500, 8_000]),
    output_tokens=st.sampled_from([1, 256, 4096]),
    patience=st.sampled_from([[1], [1, 1, 2, 13], [14]]),
    spare=st.floats(0.3, 1.2),
    dies_at=st.integers(0, 100).map(lambda half: half / 2),
    deaf_at=st.just(float("inf")) | st.integers(0, 40).map(lambda half: half / 2),
    apply=st.sampled_from([0.0, 1.0, 3.0]),
    seed=st.integers(0, 2**32),
    grows=st.tuples(st.integers(0, 40).map(lambda half: half / 2), st.integers(1, 5)),
)
def test_no_adversary_passes_a_budget_by_more_than_its_bound_whatever_the_lease(
    lease: int,
    per_minute: int | None,
    slots: list[int],
    prompt_tokens: int,
    output_tokens: int,
    patience: list[int],
    spare: float,
    dies_at: float,
    deaf_at: float,
    apply: float,
    seed: int,
    grows: tuple[float, int],
) -> None:
    played = play(
        lease, per_minute, slots, prompt_tokens, output_tokens, patience, spare, dies_at, deaf_at, apply, seed, grows
    )
    shorter = any(after < before for before, after in pairwise(played.leases))
    event(f"the longest lease is {max(played.leases)} s, {'then a shorter one' if shorter else 'to the end'}")
    assert played.within_bound()


@pytest.mark.parametrize("lease", LEASES_SECONDS)
@pytest.mark.parametrize(("per_minute", "slots"), [(None, [4]), (40, [4]), (40, [4, 2])])
def test_the_bound_is_used_up_to_the_last_request(lease: int, per_minute: int | None, slots: list[int]) -> None:
    """Just enough money, one decision, and the leader is dead: what counts less than this would be passed."""
    played = play(lease, per_minute, slots, spare=1.0, apply=3.0)
    assert played.leases == [lease]
    assert played.within_bound()
    assert played.used > Decimal("0.5")


@pytest.mark.parametrize("per_minute", [None, 20])
def test_a_gateway_that_hears_nothing_of_the_end_of_its_hour_is_counted(per_minute: int | None) -> None:
    """More is asked for, so the leader gives shorter leases, and spends what is left through the other gateway: but for
    what the deaf one may spend in its hour."""
    played = play(3600, per_minute, [2], spare=1.02, dies_at=4000.0, deaf_at=3.0, grows=(4.0, 20))
    assert played.leases[0] == 3600
    assert played.within_bound()
