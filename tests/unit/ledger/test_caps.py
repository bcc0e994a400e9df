"""Caps: tables, properties, and an adversary who tries to pass a budget by more than its bound."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spillway.ledger.book import Book, Pair
from spillway.ledger.budgets import Budget, Policy, statement
from spillway.ledger.caps import (
    Limit,
    caps,
    grant,
    greatest_cost,
    lease_seconds,
    limits,
    max_input_tokens,
    slot,
    vanished_limits,
    why_none,
)
from spillway.ledger.exposure import LEASES_SECONDS, Exposure, Need, Slot, Timing
from spillway.ledger.price import Price, Rates, Tier

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
TIMING = Timing()
GLM = Price(Decimal("1.00"), Decimal("0.20"), Decimal("3.20"))
CENT = Slot(Decimal("0.01"), Decimal("0.002"))  # holds 0.02 + 20 s x 0.002 = 0.06 while it stands


def pair(name: str = "glm-5", namespace: str = "chat", provider: str = "zai") -> Pair:
    return Pair(namespace, name, provider, name)


def limit(amount: str, remaining: str | None = None, **changes: object) -> Limit:
    whole = Limit("assist", "day", frozenset({"chat"}), Decimal(amount), Decimal(remaining or amount))
    return replace(whole, **changes)  # type: ignore[arg-type]


def test_the_greatest_cost_of_a_request() -> None:
    assert greatest_cost(GLM, 200_000, 4096) == Decimal("0.2131072")
    assert greatest_cost(GLM, 200_000, 4096, choices=4) == Decimal("0.2524288")
    odd = Price(Decimal("1.00"), Decimal("2.00"), Decimal(0))
    assert greatest_cost(odd, 10**6, 0) == Decimal(2), "a cached token that costs more is what it may cost"
    written = replace(GLM, cache_write=Decimal("1.25"))
    assert greatest_cost(written, 200_000, 0) == Decimal("0.25")


@pytest.mark.parametrize(
    ("longest", "usd"),
    [
        (100_000, "0.1"),
        (200_000, "0.2"),
        (200_001, "0.400002"),
        (300_000, "0.6"),  # the tier above is cheaper, but nobody can tell that the request was of it
    ],
)
def test_the_greatest_cost_is_of_the_dearest_tier_that_a_prompt_can_reach(longest: int, usd: str) -> None:
    tiers = (Tier(200_000, Rates(*map(Decimal, "2225"))), Tier(250_000, Rates(*map(Decimal, "1113"))))
    price = replace(GLM, tiers=tiers)
    assert greatest_cost(price, longest, 0) == Decimal(usd)
    reached = slot(price, longest, 10**6, 1, TIMING)
    assert reached.greatest_usd == Decimal(usd) + (5 if longest > 200_000 else Decimal("3.2"))


@pytest.mark.parametrize(
    ("context", "body", "per_byte", "tokens"),
    [(200_000, 16 << 20, "1", 200_000), (200_000, 32_768, "1", 32_768), (200_000, 10_001, "0.5", 5_001)],
)
def test_the_longest_prompt_of_a_body(context: int, body: int, per_byte: str, tokens: int) -> None:
    assert max_input_tokens(context, body, Decimal(per_byte)) == tokens


def test_a_slot_burns_its_input_each_second_and_its_output_at_the_speed_of_a_stream() -> None:
    long = slot(GLM, 10_000, 4096, 1, TIMING)
    assert long.greatest_usd == Decimal("0.0231072")
    assert long.burn_usd_per_second == Decimal("0.01") + 300 * Decimal("3.2e-6")
    short = slot(GLM, 10_000, 64, 1, TIMING)
    assert short.burn_usd_per_second == short.greatest_usd, "no more than one answer each shortest_seconds"


@pytest.mark.parametrize(
    ("needs", "given_limits", "expected"),
    [
        # Much money: the ceiling.
        ([Need(pair(), CENT, 1, most=8)], [limit("1000")], [8]),
        # One per cent in flight: $10 of $1000 at a cent each.
        ([Need(pair(), CENT, 1, most=5000)], [limit("1000")], [1000]),
        # Near the end what is left decides: 17 s x 0.002 + 0.02 + 0.006 = 0.06 each, of 0.50 + 0.10.
        ([Need(pair(), CENT, 1)], [limit("10", "0.50")], [10]),
        ([Need(pair(), CENT, 1)], [limit("10", "0.02")], [2]),
        ([Need(pair(), CENT, 1)], [limit("10", "0")], [0]),
        # Small against one request: one at a time while all of it fits, although 0.01 is more than 1 % of the budget.
        ([Need(pair(), CENT, 9)], [limit("0.50")], [1]),
        ([Need(pair(), CENT, 9)], [limit("0.50", "0.05")], [0]),
        # What is in flight already counts, here 0.10 + 10 x 0.016.
        ([Need(pair(), CENT, 1, in_flight=10, previous_cap=10)], [limit("10", "0.50")], [10]),
        ([Need(pair(), CENT, 1, in_flight=10, previous_cap=10)], [limit("10", "0.33")], [5]),
        ([Need(pair(), CENT, 1, in_flight=10, previous_cap=10)], [limit("10", "0.15")], [0]),
        # By need; an idle fallback gets its one slot early.
        ([Need(pair(), CENT, 30), Need(pair("r1"), CENT, 10)], [limit("40")], [30, 10]),
        ([Need(pair(), CENT, 30), Need(pair("r1"), CENT, 1)], [limit("5", "1000")], [4, 1]),
        # A stopped provider: nothing new, but what it has in flight takes room.
        ([Need(pair(), CENT, 1), Need(pair("r1"), CENT, 0, in_flight=20)], [limit("10", "0.50")], [6, 0]),
        # Several policies: each must allow.
        ([Need(pair(), CENT, 1)], [limit("1000"), limit("10", "0.02", policy="other")], [2]),
        ([Need(pair(), CENT, 1)], [limit("1000"), limit("1000", policy="other", suspended=True)], [0]),
        ([Need(pair(), CENT, 1)], [limit("1000"), limit("1", namespaces=frozenset({"search"}))], [256]),
        # A gateway that does not answer may have spent what is left.
        ([Need(pair(), CENT, 1)], [limit("10", "0.50", unread_usd=Decimal("0.48"))], [2]),
        ([Need(pair(), CENT, 1)], [limit("10", "0.50", unread_usd=Decimal("0.50"))], [0]),
        # No policy: nothing.
        ([Need(pair(), CENT, 1)], [], [0]),
        ([Need(pair(namespace="batch"), CENT, 1)], [limit("1000")], [0]),
    ],
)
def test_caps(needs: list[Need], given_limits: list[Limit], expected: list[int]) -> None:
    assert [caps(needs, given_limits, TIMING)[need.pair] for need in needs] == expected


@pytest.mark.parametrize(
    ("given_limits", "code", "word"),
    [
        ([], "NoBudget", "namespace chat"),
        ([limit("1000", suspended=True)], "Suspended", "assist"),
        ([limit("1000", "0")], "BudgetSpent", "day"),
        ([limit("10", "0.50", unread_usd=Decimal("0.60"))], "GatewayUnread", "$0.6000"),
        ([limit("0.04")], "RequestTooDear", "$0.0600"),
    ],
)
def test_why_there_is_no_slot(given_limits: list[Limit], code: str, word: str) -> None:
    need = Need(pair(), CENT, 1)
    assert caps([need], given_limits, TIMING)[need.pair] == 0
    assert why_none(need, given_limits, TIMING)[0] == code
    assert word in why_none(need, given_limits, TIMING)[1]


def test_a_grant_says_what_the_caps_mean() -> None:
    need = Need(pair(), CENT, 1, in_flight=4, previous_cap=4, most=10)
    meant = grant([need], {need.pair: 10}, limit("100", "5"), TIMING)
    assert meant.bound_usd == Decimal(1)
    assert meant.reserved_usd == Decimal("0.10")
    assert meant.outstanding_usd == Decimal("0.60")
    assert meant.spare_usd == Decimal("5.40")
    assert meant.max_burn_usd_per_hour == Decimal(72)
    in_flight, burn = vanished_limits([need], {need.pair: 5})
    assert (in_flight, burn) == ({need.pair: Decimal("0.05")}, {need.pair: Decimal(36)})


TEN = Need(pair(), CENT, 1, in_flight=10, previous_cap=10)
"""With ten slots: 0.60 for 15 s, and 0.20 + 10 x 0.002 a second more of lease."""
LIMITED = replace(TEN, per_minute=6)
"""In 20 s at most 6 x 20/60 + 6 = 8 requests begin, in 65 s 12.5, in 305 s 36.5 and in 3605 s 366.5, at a cent each."""


@pytest.mark.parametrize(
    ("need", "cap", "room", "lease"),
    [
        (replace(TEN, in_flight=0, previous_cap=0), 0, "0", 3600),  # nothing can be burnt
        (TEN, 10, "72.90", 3600),  # 0.20 + 3605 s x 0.02 + 0.60, less what rounds up
        (TEN, 10, "72.80", 300),
        (TEN, 10, "6.90", 300),
        (TEN, 10, "6.80", 60),
        (TEN, 10, "2.09", 15),
        (TEN, 10, "0", 15),  # what (1) has counted already
        (LIMITED, 10, "3.945", 3600),  # 0.10 in flight and 3.665, and 0.18 again for the time until it is shorter
        (LIMITED, 10, "3.944", 300),
        (LIMITED, 10, "0.645", 300),
        (LIMITED, 10, "0.405", 60),
        (LIMITED, 10, "0.404", 15),
    ],
)
def test_the_lease_is_the_longest_that_cannot_burn_what_remains(need: Need, cap: int, room: str, lease: int) -> None:
    budget = limit("1000", room, share=Decimal(0))
    assert lease_seconds([need], {need.pair: cap}, budget, TIMING) == lease
    assert grant([need], {need.pair: cap}, budget, TIMING).lease_seconds == lease


def test_a_limit_of_requests_is_one_for_all_pairs_of_a_provider() -> None:
    needs = [replace(LIMITED, pair=pair(f"m{n}"), in_flight=0, previous_cap=0) for n in range(20)]
    elsewhere = replace(LIMITED, pair=pair(provider="deepinfra"), in_flight=0, previous_cap=0)
    tens = {need.pair: 10 for need in (*needs, elsewhere)}
    assert Exposure(needs[:1], tens, TIMING).usd == Decimal("0.10") + 8 * Decimal("0.01")
    assert Exposure(needs, tens, TIMING).usd == 20 * Decimal("0.10") + 8 * Decimal("0.01")
    assert Exposure([*needs, elsewhere], tens, TIMING).usd == 21 * Decimal("0.10") + 16 * Decimal("0.01")


def test_a_limit_of_requests_lets_slots_stand_almost_to_the_end() -> None:
    plain, limited = replace(TEN, in_flight=0, previous_cap=0), replace(LIMITED, in_flight=0, previous_cap=0)
    budget = limit("10", "0.10")
    assert caps([plain], [budget], TIMING)[plain.pair] == 3
    assert caps([limited], [budget], TIMING)[limited.pair] == 10, "0.08 begins, whatever the slots; rule 2 says ten"


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        (replace(TEN, in_flight=0, previous_cap=0), 100),
        # 10 slots x (3605 s x 0.002 + 0.01) = 72.20 may go by an hour's lease that nobody has given up yet.
        (replace(TEN, in_flight=0, previous_cap=0, leased_cap=10, leased_seconds=3600), 10),
        (replace(TEN, in_flight=0, previous_cap=0, leased_cap=10, leased_seconds=300), 100),
        # That only counts what begins, of which a limit lets no more through.
        (replace(LIMITED, in_flight=0, previous_cap=0, leased_cap=10, leased_seconds=3600), 100),
        (replace(TEN, in_flight=0, previous_cap=0, leased_cap=20, leased_seconds=3600), 0),
    ],
)
def test_a_longer_lease_counts_until_it_is_given_up(held: Need, expected: int) -> None:
    budget = limit("100", "71.30", policy="team")
    assert caps([held], [budget], TIMING)[held.pair] == expected


@pytest.mark.parametrize("lease", LEASES_SECONDS[1:])
@pytest.mark.parametrize("per_minute", [None, 6])
def test_caps_stay_while_a_shorter_lease_is_on_its_way(per_minute: int | None, lease: int) -> None:
    """A longer lease is only given while what may be spent until it is shortened leaves room for the caps."""
    need = replace(TEN, per_minute=per_minute, most=10)
    ten = {need.pair: 10}
    soon, in_all = (Exposure([need], ten, TIMING, seconds).usd for seconds in (TIMING.lease_seconds, lease))
    just_enough = limit("10", str(in_all + soon - Decimal("0.10")))
    assert lease_seconds([need], ten, just_enough, TIMING) == lease
    held = replace(need, leased_cap=10, leased_seconds=lease)
    later = replace(just_enough, remaining=just_enough.remaining - soon)
    assert caps([held], [later], TIMING)[need.pair] == 10
    assert lease_seconds([held], ten, later, TIMING) < lease
    much_later = replace(later, remaining=later.remaining - Decimal("0.001"))
    assert caps([held], [much_later], TIMING)[need.pair] == 0, "what gateways hold might use up the rest"


@pytest.mark.parametrize(
    ("body_bytes", "max_tokens", "remaining", "cap"),
    [
        (32 << 10, 1024, "400", 110),
        (32 << 10, 1024, "40", 58),
        (32 << 10, 1024, "8", 16),
        (32 << 10, 1024, "0.01", 5),
        (32 << 10, 1024, "0", 0),
        (16 << 20, 4096, "400", 18),
        (16 << 20, 4096, "0.46", 1),
        (16 << 20, 4096, "0.44", 0),
    ],
)
def test_the_worked_example_of_the_documentation(body_bytes: int, max_tokens: int, remaining: str, cap: int) -> None:
    """docs/money.md: glm-5 against $400 a day; here the slots already stand, so that all of u counts."""
    one = slot(GLM, max_input_tokens(200_000, body_bytes), max_tokens, 1, TIMING)
    need = Need(pair(), one, 1, in_flight=cap, previous_cap=cap)
    assert caps([need], [limit("400", remaining)], TIMING)[need.pair] == cap


@pytest.mark.parametrize(
    ("per_minute", "left", "cap", "lease"),
    [
        (None, "400", 110, 15),
        (None, "40", 16, 15),
        (60, "139", 110, 3600),
        (60, "138", 110, 300),
        (60, "19", 110, 60),
        (60, "11", 110, 15),
        (60, "8", 110, 15),
        (60, "0.0001", 30, 15),
        (600, "165", 110, 300),
        (600, "100", 110, 60),
        (600, "40", 110, 15),
        (600, "8", 4, 15),
        (600, "0.0001", 1, 15),
    ],
)
def test_limits_of_requests_in_the_documentation(per_minute: int | None, left: str, cap: int, lease: int) -> None:
    """docs/money.md, with a contextLength of 32,768 and answers of at least 0.25 s."""
    timing = Timing(shortest_seconds=Decimal("0.25"))
    one = slot(GLM, 32_768, 1024, 1, timing)
    budget = limit("400", left)
    standing = [Need(pair(), one, 1, cap, cap, per_minute=per_minute) for cap in range(257)]
    most = max(need.in_flight for need in standing if caps([need], [budget], timing)[need.pair] == need.in_flight)
    assert most == cap
    assert lease_seconds([standing[most]], {pair(): most}, budget, timing) == lease


def test_limits_of_a_policy() -> None:
    budgets = (
        Budget("day", "Day", Decimal(10)),
        Budget("gpus", "Month", Decimal(10), "GPU"),
        Budget("all", "Month", Decimal(20), "Total"),
    )
    policy = Policy("assist", frozenset({"chat"}), budgets)
    assert [(found.budget, found.remaining) for found in limits(policy, statement(Book(), policy, NOW))] == [
        ("day", Decimal(10)),
        ("all", Decimal(20)),
    ]
    only_gpus = replace(policy, budgets=budgets[1:2])
    assert limits(only_gpus, statement(Book(), only_gpus, NOW)) == (), "a GPU budget permits no spill"
    stopped = replace(only_gpus, suspended=True)
    assert [found.suspended for found in limits(stopped, statement(Book(), stopped, NOW))] == [True]


usd = st.integers(0, 10**6).map(lambda milli: Decimal(milli).scaleb(-3))
slots = st.builds(Slot, usd.map(lambda x: x / 1000), usd.map(lambda x: x / 10_000))
needs_ = st.lists(
    st.builds(
        Need,
        st.builds(
            Pair,
            st.sampled_from(["chat", "search"]),
            st.sampled_from(["a", "b", "c"]),
            st.sampled_from(["zai", "deepinfra"]),
            st.just("m"),
        ),
        slots,
        st.integers(0, 50),
        st.integers(0, 50),
        st.integers(0, 50),
        st.integers(0, 64),
        st.none() | st.integers(1, 600),
        st.integers(0, 50),
        st.sampled_from(LEASES_SECONDS),
    ),
    max_size=6,
    unique_by=lambda need: need.pair,
)
limits_ = st.lists(
    st.builds(
        Limit,
        st.sampled_from(["p", "q"]),
        st.sampled_from(["day", "month"]),
        st.sampled_from([frozenset({"chat"}), frozenset({"chat", "search"})]),
        usd,
        usd,
    ),
    max_size=3,
)


@settings(max_examples=300, deadline=None)
@given(needs_, limits_)
def test_every_budget_keeps_both_rules(needs: list[Need], limits: list[Limit]) -> None:
    given_caps = caps(needs, limits, TIMING)
    for one in limits:
        own = [need for need in needs if need.pair.namespace in one.namespaces and given_caps[need.pair]]
        if not own:
            continue
        meant = grant(needs, given_caps, one, TIMING)
        assert meant.outstanding_usd <= one.remaining + meant.bound_usd
        in_flight = sum((given_caps[need.pair] * need.slot.greatest_usd for need in own), Decimal(0))
        assert in_flight <= meant.bound_usd or sum(given_caps[need.pair] for need in own) == 1
    selected = frozenset().union(*(one.namespaces for one in limits))
    assert all(0 <= given_caps[need.pair] <= need.most for need in needs)
    assert all(given_caps[need.pair] == 0 for need in needs if need.wanted == 0 or need.pair.namespace not in selected)


@settings(max_examples=300, deadline=None)
@given(needs_, limits_, st.integers(0, 2), usd)
def test_more_money_never_lowers_a_cap(needs: list[Need], limits: list[Limit], index: int, more: Decimal) -> None:
    richer = [replace(one, remaining=one.remaining + more) if i == index else one for i, one in enumerate(limits)]
    before, after = caps(needs, limits, TIMING), caps(needs, richer, TIMING)
    assert all(after[key] >= before[key] for key in before)


@given(needs_, limits_, st.randoms(use_true_random=False))
def test_the_order_of_needs_and_limits_does_not_matter(
    needs: list[Need], limits: list[Limit], order: random.Random
) -> None:
    shuffled_needs, shuffled_limits = needs[:], limits[:]
    order.shuffle(shuffled_needs)
    order.shuffle(shuffled_limits)
    assert caps(shuffled_needs, shuffled_limits, TIMING) == caps(needs, limits, TIMING)


def test_pairs_of_one_provider_that_disagree_on_its_limit_have_the_loosest_in_any_order() -> None:
    strict, loose = (
        Need(pair(name), CENT, 9, most=9, previous_cap=9, per_minute=limit_) for name, limit_ in (("a", 1), ("b", None))
    )
    tight = limit("0.20")
    assert caps([strict, loose], [tight], TIMING) == caps([loose, strict], [tight], TIMING)
    free = [replace(one, per_minute=None) for one in (strict, loose)]
    assert caps([strict, loose], [tight], TIMING) == caps(free, [tight], TIMING)


@given(needs_, limits_)
def test_suspension_stops_everything(needs: list[Need], limits: list[Limit]) -> None:
    stop = Limit("stop", "", frozenset({"chat", "search"}), Decimal(0), Decimal(0), suspended=True)
    assert not any(caps(needs, [*limits, stop], TIMING).values())


@settings(max_examples=300, deadline=None)
@given(needs_, limits_, usd)
def test_a_lease_is_affordable_and_grows_with_the_money(needs: list[Need], limits: list[Limit], more: Decimal) -> None:
    given_caps = caps(needs, limits, TIMING)
    for one in limits:
        own = [need for need in needs if need.pair.namespace in one.namespaces]
        lease = lease_seconds(own, given_caps, one, TIMING)
        room = one.remaining + one.bound_usd
        assert lease == LEASES_SECONDS[0] or Exposure(own, given_caps, TIMING, lease).usd <= room
        assert lease_seconds(own, given_caps, replace(one, remaining=one.remaining + more), TIMING) >= lease


@settings(max_examples=300, deadline=None)
@given(needs_, limits_)
def test_a_limit_of_requests_never_takes_slots(needs: list[Need], limits: list[Limit]) -> None:
    plain = caps([replace(need, per_minute=None) for need in needs], limits, TIMING)
    assert sum(caps(needs, limits, TIMING).values()) >= sum(plain.values()) or len(limits) > 1


TICK = Decimal("0.5")
"""The adversary's world moves in half seconds."""


@dataclass
class World:
    """Gateways whose clients take every slot at once and make each request as dear as its duration allows."""

    prompt_tokens: int
    output_tokens: int
    whims: random.Random
    patience: list[int]
    in_force: dict[Pair, int]
    running: list[tuple[Pair, Decimal, Decimal]] = field(default_factory=list)
    billed: Decimal = Decimal(0)

    def step(self, now: Decimal) -> None:
        for ended in [request for request in self.running if request[1] <= now]:
            self.running.remove(ended)
            self.billed += ended[2]
        for one, cap in self.in_force.items():
            for _ in range(cap - self.in_flight(one)):
                seconds = TIMING.shortest_seconds * self.whims.choice(self.patience)
                tokens = min(self.output_tokens, int(seconds * TIMING.output_tokens_per_second))
                self.running.append((one, now + seconds, greatest_cost(GLM, self.prompt_tokens, tokens)))

    def in_flight(self, one: Pair) -> int:
        return sum(1 for request in self.running if request[0] == one)


@settings(max_examples=60, deadline=None)
@given(
    requests=st.integers(5, 2000),
    prompt_tokens=st.sampled_from([0, 500, 8_000]),
    output_tokens=st.sampled_from([1, 256, 4096]),
    patience=st.sampled_from([[1], [1, 1, 2, 13], [14]]),
    apply_ticks=st.integers(0, 6),
    wants=st.lists(st.integers(1, 12), min_size=1, max_size=2),
    dies_at=st.one_of(st.none(), st.integers(0, 200)),
    seed=st.integers(0, 2**32),
)
def test_no_adversary_passes_a_budget_by_more_than_its_bound(
    requests: int,
    prompt_tokens: int,
    output_tokens: int,
    patience: list[int],
    apply_ticks: int,
    wants: list[int],
    dies_at: int | None,
    seed: int,
) -> None:
    """All that the controller knows are readings, its caps arrive late, and its leader dies at the worst moment: when
    `dies_at` thousandths of the budget are left. Then nothing stops the clients but the end of the lease.
    """
    own = slot(GLM, prompt_tokens, output_tokens, 1, TIMING)
    budget = own.greatest_usd * requests
    pairs = [pair(f"m{index}") for index in range(len(wants))]
    world = World(prompt_tokens, output_tokens, random.Random(seed), patience, dict.fromkeys(pairs, 0))
    # The last tenth of the budget is where it matters.
    world.billed = budget * Decimal("0.9")
    published: list[tuple[Decimal, dict[Pair, int]]] = []
    lease_ends: Decimal | None = None
    for tick in range(1200):
        now = tick * TICK
        arrived = [decided for at, decided in published if at + apply_ticks * TICK <= now]
        world.in_force = arrived[-1] if arrived else world.in_force
        if lease_ends is not None and now >= lease_ends:
            published, world.in_force = [], dict.fromkeys(pairs, 0)
        world.step(now)
        left = budget - world.billed
        if lease_ends is None and dies_at is not None and left * 1000 <= budget * dies_at:
            lease_ends = now + TIMING.lease_seconds
        if lease_ends is None and now % TIMING.read_seconds == 0:
            in_doubt = [decided for at, decided in published if at >= now - TIMING.apply_seconds]
            in_doubt += [published[-1][1]] if published else []
            needs = [
                Need(one, own, want, world.in_flight(one), max((decided[one] for decided in in_doubt), default=0))
                for one, want in zip(pairs, wants, strict=True)
            ]
            published.append((now, caps(needs, [limit(str(budget), str(max(Decimal(0), left)))], TIMING)))
            published = published[-4:]
        if not world.running and not any(any(decided.values()) for _, decided in published):
            break
    ends = lease_ends is not None or left <= 0
    outstanding = sum((request[2] for request in world.running), Decimal(0)) if ends else Decimal(0)
    assert world.billed + outstanding <= budget * Decimal("1.01")
