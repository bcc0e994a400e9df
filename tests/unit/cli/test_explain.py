"""What `spillway explain` prints, from the status alone."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from rich.console import Console

from spillway.api import (
    Condition,
    CostStatus,
    DecisionStatus,
    LoadStatus,
    MoEDeployment,
    MoEDeploymentStatus,
    SpillStatus,
    VariantStatus,
    parse,
)
from spillway.cli.account import age
from spillway.cli.explain import tell
from tests.unit.api.examples import example

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def condition(kind: str, status: str, reason: str, message: str) -> Condition:
    return Condition.model_validate(
        {"type": kind, "status": status, "reason": reason, "message": message, "last_transition_time": NOW}
    )


STATUS = MoEDeploymentStatus(
    observed_generation=3,
    summary="1/2",
    endpoint="http://glm-5.chat.svc/v1",
    variants=(
        VariantStatus(
            name="blackwell-b200-nvfp4-vllm",
            desired=2,
            ready=1,
            starting=1,
            pending=0,
            gpus_per_replica=4,
            cost_per_hour=Decimal("33.60"),
            cold_start_seconds=372.0,
        ),
    ),
    load=(
        LoadStatus(
            variant="blackwell-b200-nvfp4-vllm",
            running=28,
            waiting=4,
            kv_use=0.72,
            saturated=1,
            input_tokens_per_second=4000,
            output_tokens_per_second=900,
            preemptions_per_minute=0,
            rejections_per_minute=2,
            time_to_first_token_seconds=1.24,
            inter_token_latency_seconds=0.031,
        ),
    ),
    spill=SpillStatus(active=True, reason="ColdStartCover", share=0.25, cost_per_hour=Decimal("1.20")),
    cost=CostStatus(gpu_per_hour=Decimal("33.60"), external_per_hour=Decimal("1.20")),
    decisions=(
        DecisionStatus(
            time=NOW - timedelta(seconds=200),
            replicas_before=1,
            replicas_after=2,
            variant="blackwell-b200-nvfp4-vllm",
            reason="DemandRose",
            message="1→2 blackwell-b200-nvfp4-vllm: 1.9 replicas of work",
            dollars_per_hour=Decimal("-12.30"),
        ),
    ),
    conditions=(
        condition("Ready", "True", "FewerReplicasThanWanted", "1 of 2 replicas answer"),
        condition("MetricsAvailable", "True", "AsExpected", "fresh"),
        condition("WithinBudget", "False", "BudgetSpent", "budget [/day] is spent"),
    ),
)


def told(status: MoEDeploymentStatus = STATUS, generation: int = 3) -> str:
    obj = example("MoEDeployment", "glm-5")
    obj["metadata"] |= {"namespace": "chat", "generation": generation}
    moe = parse(MoEDeployment, obj)
    assert isinstance(moe, MoEDeployment)
    page = io.StringIO()
    tell(moe.model_copy(update={"status": status}), Console(file=page, width=160, highlight=False), NOW)
    return page.getvalue()


def test_the_whole_story() -> None:
    text = told()
    for words in (
        "chat/glm-5  glm-5 with vLLM",
        "1/2 replicas ready at http://glm-5.chat.svc/v1",
        "Ready=True  FewerReplicasThanWanted: 1 of 2 replicas answer",
        "GPUs $33.60/h, providers $1.20/h; spill is allowed (ColdStartCover), 25% of requests spill now",
        "3m20s ago",
        "DemandRose",
        "1→2 blackwell-b200-nvfp4-vllm: 1.9 replicas of work  (-$12.30/h)",
        "6m12s",
    ):
        assert words in text
    row, load = [line for line in text.splitlines() if line.startswith("blackwell-b200-nvfp4-vllm")]
    assert row.split() == ["blackwell-b200-nvfp4-vllm", "2", "1", "1", "0", "4", "33.60", "6m12s"]
    assert load.split() == ["blackwell-b200-nvfp4-vllm", "28", "4", "72%", "1", "4000", "900", "1.2s", "31ms"]


def test_conditions_that_are_fine_are_left_out_and_brackets_are_text() -> None:
    text = told()
    assert "MetricsAvailable" not in text
    assert "WithinBudget=False  BudgetSpent: budget [/day] is spent" in text


@pytest.mark.parametrize(
    ("status", "generation", "words"),
    [
        (MoEDeploymentStatus(), 1, "The operator has not seen it yet"),
        (STATUS, 4, "has not seen the last change of its spec"),
        (STATUS.model_copy(update={"decisions": ()}), 3, "No decision has changed anything yet."),
        (STATUS.model_copy(update={"endpoint": None, "summary": None}), 3, "0/0 replicas ready at no address yet"),
    ],
)
def test_what_is_not_there_yet_is_said(status: MoEDeploymentStatus, generation: int, words: str) -> None:
    assert words in told(status, generation)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, "0s"), (119, "119s"), (120, "2m0s"), (3599, "59m59s"), (7500, "2h5m")]
)
def test_age(seconds: int, expected: str) -> None:
    assert age(seconds) == expected
