"""Adjustments: only estimates are lowered, nothing metered ever changes, and each is applied once, whatever happens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spillway.ledger import Amount, Book, Budget, Key, Policy, decode, encode, fold, statement, total
from spillway.ledger.adjustment import Adjustment
from spillway.ledger.book import Entry, add
from spillway.ledger.settle import MOST_SETTLED, Refused, apply, settle

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
ZAI = Key("chat", "glm-5", "external", "zai", "glm-5")
DEEPINFRA = Key("chat", "glm-5", "external", "deepinfra", "glm-5")
POOL = Key("chat", "glm-5", "gpu", "b200", "")


def book(*entries: tuple[datetime, Key, str, str]) -> Book:
    found = [
        Entry(int(at.timestamp()), key, Amount(Decimal(usd), 10, Decimal(guess))) for at, key, usd, guess in entries
    ]
    return add(Book(), found, int(NOON.timestamp()))


def asked(day: str = "2026-11-26", key: Key = ZAI, zone: str = "UTC", **amount: str) -> Adjustment:
    usd, to = (Decimal(amount[name]) if name in amount else None for name in ("usd", "to"))
    names = (key.namespace, key.deployment, key.supplier, key.model)
    return Adjustment(day, *names, "invoice 4711", "ada", usd=usd, to=to, time_zone=zone)


def metered(one: Book) -> dict[Key, Decimal]:
    """By what was charged."""
    sums: dict[Key, Decimal] = {}
    for key, amount in total(one).items():
        sums[key.charged] = sums.get(key.charged, Decimal(0)) + amount.usd - amount.estimated_usd
    return sums


def spent(one: Book, key: Key = ZAI) -> Decimal:
    return sum((amount.usd for k, amount in total(one).items() if k.charged == key), Decimal(0))


VANISHED = book((NOON - timedelta(hours=2), ZAI, "1.25", "0"), (NOON - timedelta(hours=1), ZAI, "3.20", "3.20"))


@pytest.mark.parametrize(
    ("request_", "left"),
    [
        (asked(usd="-1.77"), "2.68"),
        (asked(usd="-3.20"), "1.25"),
        (asked(usd="0.5"), "4.95"),
        (asked(to="2"), "2"),
        (asked(to="1.25"), "1.25"),
        (asked(to="4.45"), "4.45"),
        (asked(to="100"), "100"),
        (asked("2026-11", usd="-1"), "3.45"),
    ],
)
def test_an_estimate_is_brought_to_what_it_was(request_: Adjustment, left: str) -> None:
    done = settle(VANISHED, {"inv": request_}, NOON)
    assert spent(done.book) == Decimal(left)
    assert metered(done.book) == metered(VANISHED)
    assert done.settled["inv"].usd == Decimal(left) - Decimal("4.45")
    assert total(done.book)[ZAI] == total(VANISHED)[ZAI], "what was charged stays as it was"
    assert settle(done.book, {"inv": request_}, NOON + timedelta(days=1)).book is done.book
    assert done.book.minutes == VANISHED.minutes, "a correction is no spending of now"


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (
            asked(usd="-3.21"),
            "usd is -3.21: chat/glm-5 at zai (glm-5) spent 4.45 USD on 2026-11-26 (UTC), of which only 3.20 are "
            "estimated, and what was metered is not lowered: give usd -3.20 or more",
        ),
        (asked(to="1.24"), "give to 1.25 or more"),
        (asked(to="0"), "give to 1.25 or more"),
        (asked("2026-11-27", usd="-1"), "day is 2026-11-27, which has not begun in UTC: today is 2026-11-26"),
        (asked("2026-12", usd="1"), "day is 2026-12, which has not begun in UTC: today is 2026-11"),
        (asked("2025-10-20", usd="1"), "day is 2025-10-20: the ledger keeps 13 months"),
        (asked("2026-11-25", usd="-1"), "spent 0 USD on 2026-11-25 (UTC), all of it metered"),
        (
            asked(key=ZAI._replace(model="glm-6"), usd="1"),
            "chat/glm-5 never used zai (glm-6): provider and model are some of zai (glm-5)",
        ),
        (
            asked(key=ZAI._replace(deployment="glm"), usd="1"),
            "chat/glm never spent anything at a provider: namespace and deployment are some of chat/glm-5",
        ),
    ],
)
def test_what_is_refused_is_told_and_kept(request_: Adjustment, words: str) -> None:
    done = settle(VANISHED, {"inv": request_}, NOON)
    assert words in done.settled["inv"].refusal
    assert done.book.spans == VANISHED.spans
    assert done.book.adjustments == done.settled
    again = settle(done.book, {"inv": request_}, NOON)
    assert (again.book, again.settled) == (done.book, {})


def test_what_was_metered_alone_is_not_lowered() -> None:
    one = settle(book((NOON, ZAI, "5", "0")), {"inv": asked(usd="-1")}, NOON)
    assert "all of it metered, and what was metered is not lowered" in one.settled["inv"].refusal
    gpus = settle(book((NOON, POOL, "5", "0")), {"inv": asked(key=POOL, usd="1")}, NOON)
    assert "nobody did" in gpus.settled["inv"].refusal, "GPUs are charged by the clock"


def test_what_was_raised_by_mistake_is_lowered_again() -> None:
    one = settle(VANISHED, {"a": asked(usd="1000"), "b": asked(usd="-1000")}, NOON).book
    assert spent(one) == Decimal("4.45")
    assert settle(one, {"c": asked(usd="-3.21")}, NOON).settled["c"].refusal


def test_a_refused_one_may_be_corrected_under_its_id_and_an_applied_one_not() -> None:
    one = settle(VANISHED, {"inv": asked(usd="-32.0")}, NOON)
    assert one.settled["inv"].refusal
    two = settle(one.book, {"inv": asked(usd="-3.20")}, NOON)
    assert two.settled["inv"].usd == Decimal("-3.20")
    three = settle(two.book, {"inv": asked(usd="-1")}, NOON)
    assert three.book is two.book
    assert "was applied as -3.20 USD on 2026-11-26 with other content" in three.problems["inv"]


def test_the_ledger_keeps_so_many_and_no_more() -> None:
    [refused] = settle(VANISHED, {"x": asked(usd="-99")}, NOON).settled.values()
    full = replace(VANISHED, adjustments=dict.fromkeys(map(str, range(MOST_SETTLED)), refused))
    done = settle(full, {"inv": asked(usd="-1")}, NOON)
    assert done.book is full
    assert "the ledger keeps 1000 adjustments" in done.problems["inv"]
    later = fold(full, NOON + timedelta(days=463))
    assert not later.adjustments


def test_what_is_forgotten_cannot_be_applied_again() -> None:
    requests, now = {"inv": asked(usd="-3.20")}, NOON
    held = settle(VANISHED, requests, now).book
    for _ in range(50):
        now += timedelta(days=10)
        # Somebody goes on spending, so that the names are known.
        held = add(held, [Entry(int(now.timestamp()), ZAI, Amount(Decimal(9), 0, Decimal(9)))], int(now.timestamp()))
        done = settle(fold(held, now), requests, now)
        held = done.book
        assert "inv" not in {key.adjustment for bucket in held.spans.values() for key in bucket if bucket[key].usd > 0}
        assert all("the ledger keeps 13 months" in one.refusal for one in done.settled.values())
    assert held.adjustments["inv"].refusal


def test_days_are_those_of_the_zone_as_the_bill_has_them() -> None:
    late = datetime(2026, 11, 25, 23, 30, tzinfo=UTC)
    one = book((late, ZAI, "4", "4"))
    assert settle(one, {"x": asked(usd="-4")}, NOON).settled["x"].refusal
    done = settle(one, {"x": asked(usd="-4", zone="Europe/Berlin")}, NOON).book
    policy = Policy("p", frozenset({"chat"}), (Budget("day", "Day", Decimal(10)),), "Europe/Berlin")
    assert statement(one, policy, NOON)[0].remaining == 6
    [status] = statement(done, policy, NOON)
    assert (status.remaining, status.spent, status.estimated) == (Decimal(10), Decimal(0), Decimal(0))


def test_days_that_are_folded_are_months() -> None:
    old = fold(book((NOON - timedelta(days=100), ZAI, "4", "4")), NOON)
    words = settle(old, {"x": asked("2026-08-18", usd="-1")}, NOON).settled["x"].refusal
    assert words == "day is 2026-08-18: of 2026-08 the ledger has no days any more, give the day 2026-08"
    assert spent(settle(old, {"x": asked("2026-08", usd="-1")}, NOON).book) == 3


def test_a_raise_without_spending_lies_at_noon_of_its_day() -> None:
    one = book((NOON - timedelta(days=9), ZAI, "1", "0"))
    done = settle(one, {"x": asked("2026-11-25", usd="2", zone="America/Los_Angeles")}, NOON).book
    [span] = [s for s, bucket in done.spans.items() if any(k.adjustment for k in bucket)]
    assert span.begins == datetime(2026, 11, 25, 20, tzinfo=UTC)
    today = settle(one, {"x": asked(usd="2", zone="America/Los_Angeles")}, NOON).book
    [span] = [s for s, bucket in today.spans.items() if any(k.adjustment for k in bucket)]
    assert span.begins == NOON, "not ahead of now"


def test_the_largest_estimates_are_lowered_first_and_none_below_nothing() -> None:
    one = book(
        (NOON - timedelta(hours=3), ZAI, "1", "1"),
        (NOON - timedelta(hours=2), ZAI, "9", "8"),
        (NOON - timedelta(hours=1), ZAI, "2", "2"),
    )
    done, usd = apply(one, "x", asked(usd="-9"), NOON)
    assert usd == -9
    taken = {s.begins.hour: b[k].usd for s, b in done.spans.items() for k in b if k.adjustment}
    assert taken == {10: -8, 11: -1}
    with pytest.raises(Refused):
        apply(done, "y", asked(usd="-2.01"), NOON)


# ---- exactly once ----------------------------------------------------------------------------------------------------

AMOUNT = st.integers(-4000, 4000).filter(bool).map(lambda cents: Decimal(cents).scaleb(-2))
REQUESTS = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]),
    st.one_of(
        st.builds(
            lambda day, key, usd: replace(asked(day, key), usd=usd),
            st.sampled_from(["2026-11-26", "2026-11-20", "2026-11", "2026-09", "2026-09-03"]),
            st.sampled_from([ZAI, DEEPINFRA]),
            AMOUNT,
        ),
        st.builds(lambda key, to: replace(asked(key=key), to=abs(to)), st.sampled_from([ZAI, DEEPINFRA]), AMOUNT),
    ),
    min_size=1,
)
CHARGES = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 6, 80, 84]),
        st.sampled_from([ZAI, DEEPINFRA]),
        st.integers(0, 5000).map(lambda cents: Decimal(cents).scaleb(-2)),
        st.booleans(),
    ),
    max_size=6,
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("charge"), CHARGES),
        st.tuples(st.just("settle"), st.sets(st.sampled_from(["a", "b", "c", "d"]))),
        st.tuples(st.sampled_from(["store", "crash", "fold", "older", "later"]), st.none()),
    ),
    max_size=14,
)


def older(one: Book) -> Book:
    """What an operator that knows no adjustments makes of the ledger: it reads it and writes back what it knows."""
    document = json.loads(encode(one))
    del document["adjustments"], document["idle"]
    return decode(json.dumps(document))


@settings(max_examples=300, deadline=None)
@given(REQUESTS, CHARGES, STEPS)
def test_each_is_applied_once_in_any_interleaving(
    requests: Mapping[str, Adjustment], first: list[tuple[int, Key, Decimal, bool]], steps: list[tuple[str, object]]
) -> None:
    """Leaders that die between settling and storing, ledgers folded, stored and read again, or written by a version
    that knows no adjustments: the amounts are what each adjustment said when it was applied, once."""
    now = NOON

    def charged(one: Book, charges: object) -> Book:
        entries = [
            Entry(int((now - timedelta(days=ago)).timestamp()), key, Amount(usd, 1, usd if guess else Decimal(0)))
            for ago, key, usd, guess in charges  # type: ignore[attr-defined]
        ]
        return add(one, entries, int(now.timestamp()))

    held = stored = charged(Book(), first)
    expected, expected_stored = ({}, {})  # type: tuple[dict[str, Decimal], dict[str, Decimal]]
    for step, what in [*steps, ("settle", set(requests))]:
        before = metered(held)
        match step:
            case "charge":
                held = charged(held, what)
                before = metered(held)
            case "settle":
                done = settle(held, {ref: r for ref, r in requests.items() if ref in what}, now)  # type: ignore[operator]
                held = done.book
                for ref, one in done.settled.items():
                    if ref in expected:
                        assert one.usd == expected[ref], "what is known by its amount alone is the same"
                    elif not one.refusal:
                        expected[ref] = one.usd
            case "store":
                stored, expected_stored = decode(encode(held)), dict(expected)
                held = stored
            case "crash":
                held, expected = stored, dict(expected_stored)
                before = metered(held)
            case "fold":
                held = fold(held, now)
            case "older":
                held = stored = older(held)
                expected_stored = dict(expected)
            case "later":
                now += timedelta(days=20)
        corrections: dict[str, Decimal] = {}
        for key, amount in total(held).items():
            if key.adjustment:
                corrections[key.adjustment] = corrections.get(key.adjustment, Decimal(0)) + amount.usd
                assert amount.usd == amount.estimated_usd
        assert corrections == expected
        assert metered(held) == before
        for bucket in held.spans.values():
            for key in {k.charged for k in bucket}:
                assert sum((a.estimated_usd for k, a in bucket.items() if k.charged == key), Decimal(0)) >= 0


def test_whoever_writes_without_the_history_does_not_have_it_applied_twice() -> None:
    requests = {"inv": asked(to="2")}
    one = settle(VANISHED, requests, NOON).book
    lost = older(one)
    assert not lost.adjustments
    again = settle(lost, requests, NOON)
    assert again.book.spans == one.spans
    assert again.settled["inv"].usd == Decimal("-2.45"), "the history is known again"
