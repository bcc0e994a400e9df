from __future__ import annotations

import json
from decimal import Decimal

import pytest

from e2e.simulators.provider.bill import Bill
from e2e.simulators.provider.config import ModelPrice, ProviderConfig
from e2e.simulators.provider.errors import STYLES
from e2e.simulators.provider.faults import SITUATIONS, Faults

GLM5 = ModelPrice(Decimal("1"), Decimal("0.2"), Decimal("3.2"))


def test_bill_is_exact_and_adds_up() -> None:
    bill = Bill({"glm-5": GLM5})
    for number in range(1000):
        bill.charge("glm-5", 1, 1, at=60.0 * (number // 500), aborted=number % 10 == 0)
    assert bill.total_usd == Decimal("0.0042")
    shown = bill.as_json()
    assert shown["total_usd"] == "0.0042000"
    assert shown["models"] == {"glm-5": shown["total"]}
    minutes = shown["by_minute"]
    assert isinstance(minutes, dict)
    assert {minute: line["requests"] for minute, line in minutes.items()} == {
        "1970-01-01T00:00Z": 500,
        "1970-01-01T00:01Z": 500,
    }
    assert sum(Decimal(line["usd"]) for line in minutes.values()) == bill.total_usd
    assert sum(line["aborted"] for line in minutes.values()) == 100


def test_a_long_prompt_costs_what_its_tier_says() -> None:
    prices = {"input": "1", "output": "3", "tiers": [
        {"aboveInputTokens": 200, "input": "4", "output": "8"},
        {"aboveInputTokens": 100, "input": "2", "output": "6"},
    ]}  # fmt: skip
    price = ProviderConfig.read({"keys": ["k"], "models": {"m": prices}}).models["m"]
    costs = [price.cost_usd(prompt, 10) * 10**6 for prompt in (100, 101, 200, 201)]
    assert costs == [130, 262, 460, 884]


def test_every_style_answers_every_situation_as_json() -> None:
    situations = set(STYLES["openai"])
    for style, answers in STYLES.items():
        assert set(answers) == situations, style
        for answer in answers.values():
            assert 400 <= answer.status < 600
            json.dumps(answer.body)
    assert set(SITUATIONS.values()) <= situations


@pytest.mark.parametrize(
    ("style", "situation", "status", "fragment"),
    [
        ("zai", "rate_limited", 429, '"1302"'),
        ("zai", "no_balance", 429, '"1113"'),
        ("openai", "no_balance", 429, "insufficient_quota"),
        ("anthropic", "overloaded", 529, "overloaded_error"),
        ("anthropic", "no_balance", 402, "billing_error"),
        ("deepseek", "no_balance", 402, "Insufficient Balance"),
        ("google", "rate_limited", 429, "RESOURCE_EXHAUSTED"),
        ("ark", "no_balance", 403, "AccountOverdueError"),
        ("ark", "rate_limited", 429, "RateLimitExceeded.EndpointRPMExceeded"),
        ("dashscope", "rate_limited", 429, "Throttling.RateQuota"),
    ],
)
def test_styles_say_it_as_the_vendor_does(style: str, situation: str, status: int, fragment: str) -> None:
    answer = next(answer for name, answer in STYLES[style].items() if name == situation)
    assert answer.status == status
    assert fragment in json.dumps(answer.body)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": []}, "keys"),
        ({"models": {}}, "models"),
        ({"models": {"m": {"input": "1"}}}, "models.m"),
        ({"models": {"m": {"input": "1", "output": "2", "tiers": [{"input": "1"}]}}}, "models.m.tiers"),
        ({"style": "acme"}, "style"),
        ({"tokensPerSecond": 0}, "tokensPerSecond"),
        ({"maxConcurrency": "9"}, "maxConcurrency"),
        ({"latency": 1}, "unknown fields"),
    ],
)
def test_wrong_configuration_names_the_field(change: dict[str, object], message: str) -> None:
    right: dict[str, object] = {"keys": ["k"], "models": {"m": {"input": "1", "output": "2"}}}
    assert ProviderConfig.read(right).models["m"].cached_input_usd == 1
    with pytest.raises(ValueError, match=message):
        ProviderConfig.read({**right, **change})


def test_faults_are_drawn_from_the_seed() -> None:
    def drawn(seed: int) -> list[str]:
        faults = Faults()
        faults.switch({"mode": "500", "probability": 0.3, "seed": seed})
        return [faults.draw() for _ in range(1000)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert 250 < drawn(1).count("500") < 350


@pytest.mark.parametrize(
    "raw",
    [
        {},
        [],
        {"mode": "flood"},
        {"mode": "ok", "probability": 2},
        {"mode": "ok", "x": 1},
        {"mode": "429", "retry_after": [1]},
    ],
)
def test_wrong_fault_changes_nothing(raw: object) -> None:
    faults = Faults()
    faults.switch({"mode": "hang"})
    with pytest.raises(ValueError, match=r"mode|probability|unknown|retry_after"):
        faults.switch(raw)
    assert faults.draw() == "hang"
