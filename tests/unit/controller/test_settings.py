"""Settings of the operator: what is refused, and where they go."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from spillway.controller.settings import OperatorSettings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tick_seconds", 0),
        ("tick_seconds", 301),
        ("ads_port", 70000),
        ("health_port", -1),
        ("workers", 0),
        ("drain_seconds", -1),
        ("metrics_stale_seconds", 0),
        ("shortest_answer_seconds", 0),
        ("lease_duration_seconds", 0.5),
        ("lease_deadline_seconds", 15),
        ("lease_deadline_seconds", 20),
        ("lease_retry_seconds", 10),
        ("tick_seconds", "soon"),
    ],
)
def test_nonsense_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        OperatorSettings.model_validate({field: value})
    assert [problem["loc"] for problem in caught.value.errors()] == [(field,)]


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="tick_second"):
        OperatorSettings.model_validate({"tick_second": 5})


def test_they_reach_the_rooms_that_use_them() -> None:
    settings = OperatorSettings.model_validate(
        {
            "metrics_stale_seconds": 7,
            "drain_seconds": 8,
            "deregister_seconds": 9,
            "prestop_seconds": 3,
            "engine_drain_seconds": 4,
            "probe_period_seconds": 5,
            "gateway_host": "gateway.example",
            "shortest_answer_seconds": 0.5,
            "fastest_stream_tokens_per_second": 150,
        }
    )
    decide = settings.decide()
    assert (decide.metrics_stale_seconds, decide.drain_seconds, decide.deregister_seconds) == (7, 8, 9)
    build = settings.build()
    assert (build.prestop_seconds, build.drain_seconds, build.probe_period_seconds) == (3, 4, 5)
    assert build.gateway_host == "gateway.example"
    timing = settings.timing()
    assert (timing.shortest_seconds, timing.output_tokens_per_second) == (Decimal("0.5"), Decimal("150"))
