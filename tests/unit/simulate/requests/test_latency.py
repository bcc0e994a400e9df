"""Percentiles, destinations and minutes, by hand and against a count."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.simulate.requests.latency import by_minute, document, latency
from spillway.simulate.requests.records import LOCAL, REFUSED, Records

NAN = math.nan


def recorded(rows: list[tuple[float, int, float, float]]) -> Records:
    """Rows: arrival, destination, seconds to the first token and to the last."""
    arrived, destination, first, ended = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    nothing = np.full(len(rows), NAN)
    return Records(
        ("api", "other"),
        arrived,
        nothing,
        nothing,
        destination.astype(np.int16),
        nothing,
        arrived + first,
        arrived + ended,
    )


ROWS = [
    (1.0, LOCAL, 0.5, 10.0),
    (2.0, REFUSED, NAN, NAN),
    (30.0, 0, 2.0, 60.0),
    (70.0, LOCAL, 1.5, 5.0),
    (80.0, LOCAL, 0.5, 1.0),
]


def test_of_all_and_of_those_since() -> None:
    whole = latency(recorded(ROWS))
    assert whole.destinations == {"local": 3, "api": 1, "other": 0, "refused": 1}
    assert (whole.requests, whole.refused) == (5, 1)
    assert whole.first_token.p50 == pytest.approx(1.0)
    assert whole.local_first_token.p50 == pytest.approx(0.5)
    assert whole.end_to_end.p99 == pytest.approx(np.percentile([10, 60, 5, 1], 99))
    part = latency(recorded(ROWS), since=60.0)
    assert (part.requests, part.destinations["api"]) == (2, 0)
    assert part.first_token.p95 == pytest.approx(np.percentile([1.5, 0.5], 95))


def test_by_minute_of_arrival() -> None:
    minutes = by_minute(recorded(ROWS), 150.0)
    assert len(minutes) == 3
    assert {name: numbers.tolist() for name, numbers in minutes.destinations.items()} == {
        "local": [1, 2, 0],
        "api": [1, 0, 0],
        "other": [0, 0, 0],
        "refused": [1, 0, 0],
    }
    assert minutes.first_token[50].tolist() == pytest.approx([1.25, 1.0, NAN], nan_ok=True)
    assert minutes.in_flight_local == pytest.approx([10 / 60, 6 / 60, 0])
    assert minutes.in_flight_outside == pytest.approx([0.5, 0.5, 0]), "30 s of each minute"


def test_nothing_answered_is_null_in_json() -> None:
    found = json.loads(json.dumps(document(recorded([(1.0, REFUSED, NAN, NAN)]), 0.0, 60.0), allow_nan=False))
    assert found["first_token"] == {"p50": None, "p95": None, "p99": None}
    assert found["by_minute"]["end_to_end"]["p95"] == [None]
    assert found["destinations"] == {"local": 0, "api": 0, "other": 0, "refused": 1}


@given(
    st.lists(
        st.tuples(st.integers(0, 199), st.sampled_from([LOCAL, 0, REFUSED]), st.integers(0, 90)),
        min_size=1,
        max_size=40,
    )
)
def test_in_flight_is_what_one_counts_second_by_second(rows: list[tuple[int, int, int]]) -> None:
    found = recorded([(float(at), to, 0.0, float(lasted) if to != REFUSED else NAN) for at, to, lasted in sorted(rows)])
    minutes = by_minute(found, 200.0)
    for of, mean in ((LOCAL, minutes.in_flight_local), (0, minutes.in_flight_outside)):
        counted = np.zeros(200)
        for at, to, lasted in rows:
            if to == of:
                counted[at : at + lasted] += 1
        expected = [counted[:60].mean(), counted[60:120].mean(), counted[120:180].mean(), counted[180:].mean()]
        assert mean == pytest.approx(expected)
