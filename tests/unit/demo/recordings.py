"""A recording in which the story holds, made up second by second; tests break it in one place each."""

from __future__ import annotations

from e2e.demo.recording import Answer, Chapter, Moment, Outcome, Recording, Replicas, Sample

B200, H200 = "blackwell-b200-nvfp4-vllm", "hopper-h200-fp8-vllm"
STEP, LOWERED, SPENT, RAISED, SUSPENDED, RESUMED = 42.0, 165.0, 185.0, 195.0, 203.0, 217.0
STOCK_OUT, ROSE, CHOSEN, SERVING, END = 220.0, 228.0, 245.0, 259.0, 305.0


def holding() -> Recording:
    recording = Recording(began="2026-11-23 12:00:00 UTC", arrivals="made up for a test")
    recording.chapters = [
        Chapter("S1", "Apply", "an answer", 0.0, 24.0),
        Chapter("S2", "A step of five times", "spill and replicas", 24.0, 110.0),
        Chapter("S3", "Money runs out", "honest 429s", 110.0, 217.0),
        Chapter("S4", "No B200 to be had", "H200", 217.0, END),
    ]
    recording.facts = {
        "json_tokens": 25.0,
        "stream_chunks": 9.0,
        "provisioning_timeout_seconds": 15.0,
        "lowered_amount_usd": 5.4,
        "lowered_bound_usd": 0.054,
        "billed_at_end_usd": 5.41,
        "refusal_message": "budget 'api-day' of CostPolicy 'assist' is spent",
        "fallback_command": "vllm serve zai-org/GLM-5-FP8 --port 8000",
    }
    acts = {
        "applied": 2.0, "ready": 15.0, "answered": 17.0, "step": STEP, "step_ends": 87.0, "ceiling": 110.0,
        "lowered": LOWERED, "spent": SPENT, "raised": RAISED, "suspended": SUSPENDED, "resumed": RESUMED,
        "stock_out": STOCK_OUT, "rise": 225.0,
    }  # fmt: skip
    recording.moments = [Moment(at, "act", name, f"act: {name}") for name, at in acts.items()]
    words = "3.6 replicas of work; what a replica would take costs $31.00/h elsewhere, a replica $16.80/h"
    recording.moments += [
        Moment(4.0, "decision", "FloorRaised", "0→1: minReplicas is 1", B200, 0, 1),
        Moment(STEP + 5, "decision", "DemandRose", words, B200, 1, 3),
        Moment(STEP + 9, "decision", "DemandRose", words, B200, 3, 4),
        Moment(98.0, "decision", "DemandFell", words, B200, 4, 1),
        Moment(SPENT, "condition", "WithinBudget", "False BudgetSpent: budget api-day: $5.41 of $5.40 spent"),
        Moment(ROSE, "decision", "DemandRose", words, B200, 1, 4),
        Moment(CHOSEN, "decision", "PoolOutOfCapacity", "pool blackwell-b200 gives no GPUs", H200, 0, 3),
        Moment(CHOSEN, "condition", "OutOfCapacity", "True PoolOutOfCapacity: gave no GPUs within 15 s"),
    ]
    recording.samples = [sample(float(at)) for at in range(2, int(END))]
    for tenth in range(240, int(END) * 10, 2):
        at = tenth / 10
        outcome, server, code = fate(at, tenth // 2 % 4)
        recording.answers.append(Answer(at, at + 2.4, outcome, server, code, 210 if not code else 0))
    return recording


def fate(at: float, turn: int) -> tuple[Outcome, str, str]:
    local: tuple[Outcome, str, str] = ("local", "local", "")
    out: tuple[Outcome, str, str] = ("spilled", "zai", "")
    if turn == 0:
        return local
    if SPENT <= at < RAISED or SUSPENDED + 2 <= at < RESUMED:
        return ("refused", "none", "budget_exhausted")
    spilling = STEP <= at < STEP + 20 or 112 <= at < SUSPENDED + 2 or 226 <= at < SERVING + 8
    return out if spilling else local


def sample(at: float) -> Sample:
    first = 0 if at < 14 else 4 if STEP + 18 <= at < 98 else 2 if at > ROSE + 9 else 1
    starting = 3 if STEP + 6 <= at < STEP + 18 else 0
    pending = 2 if ROSE <= at < CHOSEN else 0
    second, second_starting = (3, 0) if at >= SERVING else (0, 3 if at >= CHOSEN + 2 else 0)
    spent = 0.0 if at < STEP else min(0.03 * (at - STEP), 0.6) + max(0.0, min(at, LOWERED) - 112) * 0.088
    spent += min(max(at - LOWERED, 0.0), SPENT - LOWERED) * 0.0075 + max(at - 228, 0.0) * 0.004
    heavy = 3.6 if STEP < at < 87 or at > 225 else 6.0 if 112 < at < LOWERED else 2.4 if LOWERED < at < 217 else 0.7
    return Sample(
        at=at,
        work=heavy if at > 24 else 0.0,
        in_flight=40,
        variants={
            B200: Replicas(first + starting + pending, first, starting, pending, 1.0, 900.0 * first),
            H200: Replicas(second + second_starting, second, second_starting, 0, 0.54, 400.0 * second),
        },
        gpu_usd_per_hour=16.8 * (first + starting) + 20.0 * (second + second_starting),
        external_usd_per_hour=120.0 if 112 < at < LOWERED else 20.0,
        spill_reason="AsExpected",
        spent_usd=round(spent, 4),
        billed_usd=round(spent * 1.001, 4),
        budget_usd=5.4 if LOWERED <= at < RAISED else 60.0 if RAISED <= at < RESUMED else 500.0,
        bound_usd=0.054 if LOWERED <= at < RAISED else 0.6 if RAISED <= at < RESUMED else 5.0,
    )
