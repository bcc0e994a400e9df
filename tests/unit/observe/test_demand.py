"""Prometheus answers as demand."""

from __future__ import annotations

import pytest

from spillway.observe.demand import PRIOR_INPUT_TOKENS, PRIOR_OUTPUT_TOKENS, by_deployment, demands, queries
from spillway.observe.prometheus import Answers, Sample
from spillway.observe.traffic import UNKNOWN_AGE_SECONDS, Traffic, Windows, read
from tests.unit.observe.series import answers, sample

WHO, ENGINE = {"deployment": "chat/glm-5"}, {"namespace": "chat", "deployment": "glm-5"}


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([], {}),
        ([sample(2.5, **WHO)], {"chat/glm-5": 2.5}),
        ([sample(2.5, **ENGINE)], {"chat/glm-5": 2.5}),
        ([sample(1, **ENGINE, variant="a"), sample(2, **ENGINE, variant="b")], {"chat/glm-5": 3.0}),
        ([sample(1, **WHO), sample(2, **ENGINE)], {"chat/glm-5": 3.0}),
        ([sample(4)], {}),
        ([sample(4, namespace="chat")], {}),
    ],
)
def test_by_deployment(samples: list[Sample], expected: dict[str, float]) -> None:
    assert by_deployment(samples) == expected


def test_demand_joins_gateway_and_engine_series() -> None:
    found = read(
        answers(
            age=[sample(2.5)],
            arrivals=[sample(13, **WHO)],
            spilled=[sample(3, **WHO)],
            refused=[sample(1, **WHO)],
            routed_late=[sample(3, **WHO)],
            routed_out=[sample(1, **WHO)],
            local_answers=[sample(6, **WHO)],
            local_now=[sample(5, **WHO)],
            local_errors=[sample(0.5, **WHO)],
            spilled_long=[sample(2, **WHO)],
            input_tokens=[sample(4000, **ENGINE, variant="a"), sample(2000, **ENGINE, variant="b")],
            output_tokens=[sample(1200, **ENGINE, variant="a")],
            spilled_input=[sample(2000, **WHO)],
            spilled_output=[sample(800, **WHO)],
            in_flight_external=[
                sample(3, envoy_cluster_name="ext|zai|glm-5|chat/glm-5"),
                sample(4, envoy_cluster_name="ext|deepinfra|glm-5|chat/glm-5"),
                sample(9, envoy_cluster_name="ext|zai|glm-5|chat/other"),
            ],
        ),
        Windows(),
    )
    assert set(found.demand) == {"chat/glm-5"}
    demand = found.of("chat/glm-5")
    assert (demand.requests_per_second, demand.spilled_per_second, demand.refused_per_second) == (10, 2, 1)
    assert (demand.input_tokens_per_request, demand.output_tokens_per_request) == (1000, 250)
    assert demand.in_flight_external == 7
    assert (demand.local_answers_per_second, demand.local_errors_per_second) == (5, 0.5)
    assert demand.age_seconds == found.age_seconds == 2.5


@pytest.mark.parametrize(
    ("known", "tokens_in", "tokens_out"),
    [
        (answers(arrivals=[sample(3, **WHO)]), 0, 0),
        (answers(arrivals=[sample(3, **WHO)], local_answers=[sample(3, **WHO)]), 0, 0),
        (answers(arrivals=[sample(3, **WHO)], local_answers=[sample(3, **WHO)]), 100, 0),
        (answers(arrivals=[sample(3, **WHO)]), 100, 50),
    ],
)
def test_unknown_sizes_are_the_priors(known: Answers, tokens_in: float, tokens_out: float) -> None:
    demand = demands(known, {"chat/glm-5": tokens_in}, {"chat/glm-5": tokens_out}, 0.0)["chat/glm-5"]
    assert demand.requests_per_second == 3
    assert (demand.input_tokens_per_request, demand.output_tokens_per_request) == (
        PRIOR_INPUT_TOKENS,
        PRIOR_OUTPUT_TOKENS,
    )


def test_a_deployment_without_series_had_no_traffic_of_that_age() -> None:
    idle = Traffic(age_seconds=3.0).of("chat/new")
    assert (idle.requests_per_second, idle.age_seconds) == (0.0, 3.0)
    assert read(answers(), Windows()).of("chat/new").age_seconds == UNKNOWN_AGE_SECONDS


def test_queries_use_both_windows() -> None:
    asked = queries("20s", "90s")
    assert "[20s]" in asked["arrivals"]
    assert "[90s]" in asked["local_answers"]


def test_what_routes_take_is_asked_apart() -> None:
    """By label where it is known at the start; answers of routes by model are taken off."""
    asked = queries("60s", "300s")
    assert asked["arrivals"] == 'sum by (deployment) (rate(envoy_spillway_arrivals{route=""}[60s]))'
    assert 'route=~"model[|].+"' in asked["routed_late"] and 'route=""' in asked["refused"]
