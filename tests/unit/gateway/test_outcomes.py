"""Labels of attempts at a provider, and what the ledger knows them by."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.gateway.outcomes import Label, read


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("metered/json", Label("metered", "json")),
        ("metered/stream:32000", Label("metered", "stream", tier=32_000)),
        ("doubtful/-", Label("doubtful")),
        ("unmetered/json/unmetered/-", Label("unmetered", "json")),
        ("unmetered/stream/unmetered/-:4608", Label("unmetered", "stream", most_bytes=4608)),
        ("unmetered/stream/metered/-", Label("malformed", "stream")),
        ("unmetered/stream/unmetered/UC", Label("broken", "stream")),
        ("unmetered/stream/metered/UPE", Label("broken", "stream")),
        ("unmetered/json/unmetered/UR,DC:64", Label("broken", "json", most_bytes=64)),
        ("unmetered/-/unmetered/DC", Label("left")),
        ("unmetered/stream/unmetered/UT", Label("left", "stream")),
        ("unanswered:-", Label("unanswered")),
        ("unanswered:128", Label("unanswered", most_bytes=128)),
        ("refused", Label("refused")),
        # of gateways of before
        ("metered", Label("metered")),
        ("metered:32000", Label("metered", tier=32_000)),
        ("unmetered", Label("unmetered")),
        ("", Label("")),
    ],
)
def test_labels(text: str, label: Label) -> None:
    assert read(text) == label


def test_a_number_that_is_none_is_no_label() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        read("metered/json:many")


@given(st.text(max_size=20))
def test_any_text_is_a_label_or_none(text: str) -> None:
    try:
        assert read(text).outcome in (text.partition(":")[0].partition("/")[0], "malformed", "broken", "left")
    except ValueError:
        assert ":" in text
