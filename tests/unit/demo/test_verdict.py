"""Every check of the story fails when its part of the recording is broken, and only then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from e2e.demo.recording import Answer, Outcome, Recording
from e2e.demo.verdict import Verdict, judge
from tests.unit.demo.recordings import (
    CHOSEN,
    END,
    H200,
    LOWERED,
    SPENT,
    STEP,
    STOCK_OUT,
    SUSPENDED,
    holding,
)

Break = Callable[[Recording], None]


def broken(recording: Recording) -> list[tuple[str, str]]:
    """Chapter and text of each check that does not hold."""
    return [(v.chapter, c.text) for v in judge(recording) for c in v.checks if not c.held]


def without(kind: str, name: str, since: float = 0.0) -> Break:
    def change(recording: Recording) -> None:
        recording.moments = [m for m in recording.moments if (m.kind, m.name) != (kind, name) or m.at < since]

    return change


def fact(name: str, value: float | str) -> Break:
    def change(recording: Recording) -> None:
        recording.facts[name] = value

    return change


def one_more(at: float, outcome: Outcome, code: str) -> Break:
    def change(recording: Recording) -> None:
        recording.answers.append(Answer(at, at + 1, outcome, "zai" if outcome == "spilled" else "none", code, 0))

    return change


def becomes(before: Outcome, begin: float, end: float, after: Outcome) -> Break:
    def change(recording: Recording) -> None:
        recording.answers = [
            replace(a, outcome=after) if a.outcome == before and begin <= a.at < end else a for a in recording.answers
        ]

    return change


def later(kind: str, name: str, since: float, seconds: float) -> Break:
    def change(recording: Recording) -> None:
        recording.moments = [
            replace(m, at=m.at + seconds) if (m.kind, m.name) == (kind, name) and 0 <= m.at - since < 20 else m
            for m in recording.moments
        ]

    return change


def no_replicas_follow(recording: Recording) -> None:
    recording.samples = [
        replace(s, variants={n: replace(v, ready=min(v.ready, 1)) for n, v in s.variants.items()})
        for s in recording.samples
    ]


def h200_stays_silent(recording: Recording) -> None:
    recording.samples = [
        replace(s, variants={n: replace(v, output_tokens_per_second=0.0) if n == H200 else v
                             for n, v in s.variants.items()})
        for s in recording.samples
    ]  # fmt: skip


def test_the_story_holds() -> None:
    assert broken(holding()) == []
    assert all(v.held and not v.reasons for v in judge(holding()))


CASES: dict[str, tuple[Break, list[tuple[str, str]]]] = {
    "never ready": (without("act", "ready"), [("S1", "the deployment becomes Ready")]),
    "no JSON answer": (fact("json_tokens", 0.0), [("S1", "the openai client gets a JSON answer")]),
    "a stream that breaks off": (fact("stream_chunks", 0.0), [("S1", "and a streamed one, to its end")]),
    "a request fails in the step": (
        one_more(STEP + 5, "failed", "http_502"),
        [("S2", "no request fails, is refused or is cut")],
    ),
    "a request is refused in the step": (
        one_more(STEP + 5, "refused", "capacity_exceeded"),
        [("S2", "no request fails, is refused or is cut")],
    ),
    "nothing overflows": (
        becomes("spilled", 24, 110, "local"),
        [
            ("S2", "overflow is answered by providers in the same request"),
            ("S2", "spill falls back to nothing"),
        ],
    ),
    "a slow reaction": (
        later("decision", "DemandRose", STEP, 20),
        [("S2", "more replicas are asked for within 15 s, with a reason")],
    ),
    "spill goes on": (one_more(108, "spilled", ""), [("S2", "spill falls back to nothing")]),
    "no replica follows": (no_replicas_follow, [("S2", "more replicas answer")]),
    "the budget lasts": (
        without("act", "spent"),
        [("S3", "the budget runs out"), ("S3", "nothing goes out once the budget is spent")],
    ),
    "another refusal": (
        fact("refusal_message", "something went wrong"),
        [("S3", "which names the policy assist")],
    ),
    "the bill passes the bound": (
        fact("billed_at_end_usd", 5.46),
        [("S3", "the providers' own bill is within budget and bound")],
    ),
    "a generous bound": (
        fact("lowered_bound_usd", 0.06),
        [("S3", "the bound is 1 % of the budget at most")],
    ),
    "spill without money": (
        one_more(SPENT + 8, "spilled", ""),
        [("S3", "nothing goes out once the budget is spent")],
    ),
    "suspend is slow": (one_more(SUSPENDED + 9, "spilled", ""), [("S3", "suspend stops spill within seconds")]),
    "suspend had nothing to stop": (
        becomes("spilled", SPENT, SUSPENDED, "local"),
        [("S3", "suspend stops spill within seconds")],
    ),
    "a cut stream": (one_more(LOWERED, "cut", "cut"), [("S3", "what is refused is refused cleanly")]),
    "the fallback does not wait": (
        later("decision", "DemandRose", STOCK_OUT, 14),
        [("S4", "after the provisioning timeout the H200 pool is asked")],
    ),
    "the wrong precision": (
        fact("fallback_command", "vllm serve nvidia/GLM-5-NVFP4"),
        [("S4", "with FP8 flags")],
    ),
    "H200 never serves": (h200_stays_silent, [("S4", "and serves a cold start later")]),
    "nothing covers": (
        becomes("spilled", STOCK_OUT, END, "local"),
        [("S4", "spill covers the time between")],
    ),
    "no word in the status": (
        without("condition", "OutOfCapacity"),
        [("S4", "the pool's status says so")],
    ),
    "a request fails in S4": (
        one_more(CHOSEN, "failed", "timeout"),
        [("S4", "no request fails, is refused or is cut")],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_broken_story_is_noticed(name: str) -> None:
    change, expected = CASES[name]
    recording = holding()
    change(recording)
    assert broken(recording) == expected


def test_a_story_that_never_began_does_not_hold() -> None:
    verdicts = judge(Recording())
    assert [v.chapter for v in verdicts] == ["S1", "S2", "S3", "S4"]
    assert not any(v.held for v in verdicts)


def test_a_story_that_ended_early_is_judged_as_far_as_it_got() -> None:
    recording = holding()
    recording.chapters = recording.chapters[:2]
    recording.moments = [m for m in recording.moments if m.at < 110]
    held = {v.chapter: v.held for v in judge(recording)}
    assert held == {"S1": True, "S2": True, "S3": False, "S4": False}


def test_figures_say_what_was_measured() -> None:
    by_chapter: dict[str, Verdict] = {v.chapter: v for v in judge(holding())}
    assert by_chapter["S2"].headline[0] == "5.0 s"
    assert by_chapter["S3"].headline[0] == "$0.0100"
    assert by_chapter["S4"].headline[0] == "31.0 s"


def test_a_recording_survives_its_file(tmp_path: Path) -> None:
    recording = holding()
    recording.save(tmp_path / "recording.json")
    assert Recording.load(tmp_path / "recording.json") == recording
