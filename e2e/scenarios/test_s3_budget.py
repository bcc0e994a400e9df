"""S3: a budget runs out under load: honest 429s, a bill within the printed bound; and the kill switch."""

from __future__ import annotations

import time
from decimal import Decimal

from e2e.load.schedule import Schedule
from e2e.load.summary import Record
from e2e.stage import NAMESPACE, PROVIDER_MODELS, Answer, Object, Stage

# One replica takes about eight of these a second; the rest must go out.
LOAD = Schedule.steady(24.0, 240, prompt_tokens=1100, output_tokens=210)
LEFT_USD = Decimal("0.30")


def test_s3_a_budget_runs_out_under_load(play: Stage) -> None:
    # 2048 tokens of context and answers of 256: a request costs at most $0.0029, about 1.5 times the mean.
    model = {"name": "glm-5", "price": PROVIDER_MODELS["glm-5"], "contextLength": 2048, "maxOutputTokens": 256}
    play.apply(play.provider("zai", models=[model]))
    spec = {
        "model": {"name": "glm-5"},
        "maxReplicas": 1,
        "spill": {"providers": [{"name": "zai", "model": "glm-5"}]},
    }
    play.apply(play.moe("glm-5", spec))
    play.wait_ready("glm-5")
    earlier = play.billed() - ledger_spent(play)  # by scenarios before this one, under other budgets

    with play.load("glm-5", LOAD) as sending:
        play.wait("a good dollar spent outside", lambda: ledger_spent(play) > Decimal("1.2"), 120)
        # From the bill, not from the status: that is up to ten seconds old, and a budget below what is spent already
        # promises nothing.
        amount = (play.billed() - earlier + LEFT_USD).quantize(Decimal("0.01"))
        play.apply(play.policy("assist", str(amount)))
        lowered = sending.elapsed()
        refused = play.wait("a client that is refused", lambda: play_refused(sending.since(lowered)), 120)
        assert {r.status for r in refused} == {429}
        play.wait("that spill has ended", lambda: not spilling(play), 150)

        answer = play.wait("a refusal in words", lambda: refusal(play), 30)
        error = answer.body["error"]
        assert error["code"] == "budget_exhausted"
        assert "CostPolicy 'assist'" in error["message"]
        assert 1 <= int(answer.headers["retry-after"]) <= 3600
        available = play.condition("moedeployment", "glm-5", "SpillAvailable", NAMESPACE)
        assert (available["status"], available["reason"]) == ("False", "BudgetSpent")
        sending.stop()
        summary = sending.join()

    bill = play.billed() - earlier
    rounding = Decimal("0.0001")
    budget = play.wait(
        "a ledger that knows it all", lambda: b if spent_of(b := play.budget()) >= bill - rounding else None, 30
    )
    bound = Decimal(budget["bound"])
    print(
        f"\nS3: {summary.line()}\nS3: budget ${amount}, bill ${bill}, ledger ${budget['spent']}, bound ${bound}, "
        f"overspent ${max(Decimal(0), bill - amount)}"
    )
    assert bound <= amount / 100
    assert bill <= amount + bound
    assert bill >= amount * Decimal("0.9"), "the budget was hardly used"
    assert set(summary.by_error) <= {"http_429"}


def test_s3_suspend_stops_spill_within_seconds(play: Stage) -> None:
    spec = {
        "model": {"name": "glm-5"},
        "maxReplicas": 0,
        "minReplicas": 0,
        "spill": {"providers": [{"name": "zai", "model": "glm-5"}]},
    }
    play.apply(play.moe("glm-5", spec))
    with play.load("glm-5", Schedule.steady(5.0, 120)) as sending:
        play.wait("requests at the provider", lambda: len([r for r in sending.records if r.spilled]) > 5, 60)
        play.patch("costpolicy", "assist", {"spec": {"suspend": True}})
        suspended = sending.elapsed()
        play.wait("five refusals after another", lambda: last_refused(sending.records, 5), 30)
        took = min(r.start for r in sending.records if r.start > suspended and r.failed) - suspended
        print(f"\nS3: the first request was refused {took:.1f} s after suspend: true")
        play.patch("costpolicy", "assist", {"spec": {"suspend": False}})
        play.wait("spill again", lambda: not last_refused(sending.records, 1), 30)


def ledger_spent(play: Stage) -> Decimal:
    return spent_of(play.budget())


def spent_of(budget: Object) -> Decimal:
    return Decimal(budget.get("spent", "0"))


def play_refused(records: list[Record]) -> list[Record]:
    return [r for r in records if r.error_code == "budget_exhausted"]


def last_refused(records: list[Record], count: int) -> bool:
    latest = sorted(records, key=lambda r: r.start)[-count:]
    return len(latest) == count and all(r.error_code == "budget_exhausted" for r in latest)


def spilling(play: Stage) -> bool:
    """Whether any provider's bill still grows."""
    before = play.billed()
    time.sleep(3)  # two readings of a meter need time between them
    return play.billed() > before


def refusal(play: Stage) -> Answer | None:
    """An answer that says no, if the one replica is full just now."""
    answer = play.ask("glm-5", "hello [[out=5]]")
    return answer if answer.status == 429 else None
