"""Prometheus answers as demand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from spillway.observe.traffic import (
    PRIOR_INPUT_TOKENS,
    PRIOR_OUTPUT_TOKENS,
    UNKNOWN_AGE_SECONDS,
    Traffic,
    by_deployment,
    by_pod,
    demands,
    queries,
)

Sample = dict[str, Any]
NAMES = tuple(queries("60s", "300s"))


def sample(value: str | float, **labels: str) -> Sample:
    return {"metric": labels, "value": [1763899200.0, str(value)]}


def answers(**given: list[Sample]) -> dict[str, list[Sample]]:
    assert set(given) <= set(NAMES)
    return {name: given.get(name, []) for name in NAMES}


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([], {}),
        ([sample(2.5, deployment="chat/glm-5")], {"chat/glm-5": 2.5}),
        ([sample(2.5, namespace="chat", deployment="glm-5")], {"chat/glm-5": 2.5}),
        (
            [sample(1, deployment="chat/glm-5"), sample(2, namespace="chat", deployment="glm-5")],
            {"chat/glm-5": 3.0},
        ),
        ([sample("NaN", deployment="chat/glm-5")], {}),
        ([sample("+Inf", deployment="chat/glm-5")], {}),
        ([sample("NaN", deployment="chat/a"), sample(1, deployment="chat/a")], {"chat/a": 1.0}),
        ([sample(4)], {}),
    ],
)
def test_by_deployment(samples: list[Sample], expected: dict[str, float]) -> None:
    assert by_deployment(samples) == expected


def test_demand_joins_gateway_and_engine_series() -> None:
    who, engine = {"deployment": "chat/glm-5"}, {"namespace": "chat", "deployment": "glm-5"}
    found = demands(
        answers(
            arrivals=[sample(10, **who)],
            spilled=[sample(2, **who)],
            refused=[sample(1, **who)],
            local_answers=[sample(6, **who)],
            spilled_long=[sample(2, **who)],
            local_input=[sample(6000, **engine)],
            local_output=[sample(1200, **engine)],
            spilled_input=[sample(2000, **who)],
            spilled_output=[sample(800, **who)],
            in_flight_external=[
                sample(3, envoy_cluster_name="ext|zai|glm-5|chat/glm-5"),
                sample(4, envoy_cluster_name="ext|deepinfra|glm-5|chat/glm-5"),
                sample(9, envoy_cluster_name="ext|zai|glm-5|chat/other"),
            ],
        ),
        age_seconds=2.5,
    )
    assert set(found) == {"chat/glm-5"}
    demand = found["chat/glm-5"]
    assert (demand.requests_per_second, demand.spilled_per_second, demand.refused_per_second) == (10, 2, 1)
    assert (demand.input_tokens_per_request, demand.output_tokens_per_request) == (1000, 250)
    assert demand.in_flight_external == 7
    assert demand.age_seconds == 2.5


@pytest.mark.parametrize(
    "missing",
    [
        answers(arrivals=[sample(3, deployment="chat/glm-5")]),
        answers(arrivals=[sample(3, deployment="chat/glm-5")], local_answers=[sample(3, deployment="chat/glm-5")]),
        answers(
            arrivals=[sample(3, deployment="chat/glm-5")],
            local_answers=[sample("NaN", deployment="chat/glm-5")],
            local_input=[sample(100, namespace="chat", deployment="glm-5")],
            local_output=[sample("NaN", namespace="chat", deployment="glm-5")],
        ),
    ],
)
def test_unknown_sizes_are_the_priors_and_never_nan(missing: dict[str, list[Sample]]) -> None:
    demand = demands(missing, 0.0)["chat/glm-5"]
    assert demand.requests_per_second == 3
    assert demand.input_tokens_per_request == PRIOR_INPUT_TOKENS
    assert demand.output_tokens_per_request == PRIOR_OUTPUT_TOKENS
    assert not math.isnan(demand.spilled_per_second + demand.refused_per_second + demand.in_flight_external)


def test_external_in_flight_without_a_number_is_none() -> None:
    found = demands(
        answers(
            arrivals=[sample(3, deployment="chat/glm-5")],
            in_flight_external=[sample("NaN", envoy_cluster_name="ext|zai|glm-5|chat/glm-5")],
        ),
        0.0,
    )
    assert found["chat/glm-5"].in_flight_external == 0


def test_a_deployment_without_series_had_no_traffic_of_that_age() -> None:
    idle = Traffic(age_seconds=3.0).of("chat/new")
    assert (idle.requests_per_second, idle.age_seconds) == (0.0, 3.0)
    assert Traffic().of("chat/new").age_seconds == UNKNOWN_AGE_SECONDS


def test_queries_use_both_windows_and_never_the_engines_of_others() -> None:
    asked = queries("20s", "90s")
    assert "[20s]" in asked["arrivals"]
    assert "[90s]" in asked["local_input"]
    assert all('deployment!=""' in asked[name] for name in ("local_input", "local_output"))


def test_requests_in_an_engine_without_a_number_are_not_known() -> None:
    samples = [
        {"metric": {"namespace": "chat", "pod": "a"}, "value": [0, "7"]},
        {"metric": {"namespace": "chat", "pod": "b"}, "value": [0, "NaN"]},
    ]
    assert by_pod(samples) == {"chat/a": 7}
