from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.api.scalars import format_duration, format_money, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10.0),
        ("15m", 900.0),
        ("6m10s", 370.0),
        ("1h30m", 5400.0),
        ("500ms", 0.5),
        ("1.5h", 5400.0),
        ("2d", 172800.0),
    ],
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "s", "-5s", "10 s", "5x", "1h-3m", "PT15M"])
def test_what_is_no_duration_is_refused_with_the_way_out(text: str) -> None:
    with pytest.raises(ValueError, match="write a number with a unit"):
        parse_duration(text)


@given(st.integers(0, 10**10))
def test_durations_survive_formatting(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        ("50.4", "50.40"),
        ("-24.2", "-24.20"),
        ("0", "0.00"),
        ("-0.0000000001", "0.00"),
        ("0.0012", "0.0012"),
        ("1E+3", "1000.00"),
        ("0.1234567891234", "0.123456789"),
    ],
)
def test_money_shows_at_least_cents_and_at_most_nanodollars(usd: str, text: str) -> None:
    assert format_money(Decimal(usd)) == text
