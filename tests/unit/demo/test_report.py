"""The report stands alone and says what was measured, whatever was recorded."""

from __future__ import annotations

import re

from e2e.demo.charts import numbered, wrapped
from e2e.demo.recording import Moment, Recording
from e2e.demo.report import render
from e2e.demo.verdict import judge
from tests.unit.demo.recordings import holding


def page(recording: Recording) -> str:
    return render(recording, judge(recording))


def test_it_loads_nothing_from_anywhere() -> None:
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", page(holding()))


def test_it_shows_verdicts_and_the_words_of_decisions() -> None:
    text = page(holding())
    assert "The story held" in text
    assert "pool blackwell-b200 gives no GPUs" in text
    recording = holding()
    recording.facts["billed_at_end_usd"] = 9.0
    assert "The story did not hold" in page(recording)


def test_words_of_the_cluster_are_escaped() -> None:
    recording = holding()
    recording.moments.append(Moment(50.0, "decision", "DemandRose", "<script>alert(1)</script>"))
    assert "<td><script>alert(1)" not in page(recording)


def test_a_story_that_ended_at_once_still_gives_a_report() -> None:
    assert "The story did not hold" in page(Recording())


def test_moments_are_numbered_in_order_of_time() -> None:
    times = [moment.at for _, moment in numbered(holding())]
    assert times == sorted(times)
    assert [number for number, _ in numbered(holding())] == list(range(1, len(times) + 1))


def test_long_words_are_wrapped_without_loss() -> None:
    text = "held at maxReplicas 1: demand is 4.2 replicas of work " * 5
    assert " ".join(wrapped(text, 40)) == text.strip()
    assert max(map(len, wrapped(text, 40))) <= 41
