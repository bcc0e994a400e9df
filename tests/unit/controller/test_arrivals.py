"""When requests last came in."""

from __future__ import annotations

from spillway.controller.arrivals import MOST_PROCESSES, QUIET_SECONDS, Arrivals

GLM, QWEN = "chat/glm-5", "chat/qwen"


def test_growth_is_a_request_and_news_after_a_quiet_time() -> None:
    arrivals = Arrivals()
    assert not arrivals.note({"a": {GLM: 7}}, 1000.0) and arrivals.last == {}, "who knows when these were"
    assert not arrivals.note({"a": {GLM: 7}}, 1002.0)
    assert arrivals.note({"a": {GLM: 8}}, 1004.0)
    assert not arrivals.note({"a": {GLM: 9}}, 1006.0)
    assert arrivals.last == {GLM: 1006.0}
    assert arrivals.note({"a": {GLM: 9, QWEN: 1}}, 1008.0), "the first request of all"
    assert arrivals.note({"a": {GLM: 10, QWEN: 1}}, 1007.0 + QUIET_SECONDS)
    assert arrivals.last[QWEN] == 1008.0


def test_processes_that_come_and_those_that_were_not_read_in_between() -> None:
    arrivals = Arrivals()
    arrivals.note({"a": {GLM: 7}}, 1000.0)
    arrivals.note({}, 1002.0)
    assert not arrivals.note({"a": {GLM: 7}}, 1004.0)
    assert arrivals.note({"a": {GLM: 7}, "b": {GLM: 1}}, 1006.0)
    for number in range(2 * MOST_PROCESSES):
        arrivals.note({f"p{number}": {}}, 2000.0)
    assert len(arrivals._counted) == MOST_PROCESSES
