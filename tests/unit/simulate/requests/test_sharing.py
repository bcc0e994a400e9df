"""One replica's time: by hand, and against a reference that has no virtual time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spillway.simulate.requests.sharing import Engine

PREFILL, DECODE = 1000.0, 100.0  # tokens per second of the whole replica
STREAM = 50.0  # half of it for one stream


def engine(**changes: float) -> Engine:
    found = {"sequences": 4, "stream": STREAM, "prompts": 4, **changes}
    return Engine(
        PREFILL, DECODE, int(found["sequences"]), float(found["stream"]), prompts_at_once=int(found["prompts"])
    )


@dataclass
class Times:
    begun: dict[int, float] = field(default_factory=dict)
    first: dict[int, float] = field(default_factory=dict)
    ended: dict[int, float] = field(default_factory=dict)


def played(one: Engine, arrivals: list[tuple[float, float, float]]) -> Times:
    """Arrivals: seconds, prompt and output tokens, in order."""
    times = Times()

    def until(limit: float) -> None:
        while (at := one.next_at()) <= limit and at < math.inf:
            done = one.turn(at)
            times.begun.update(dict.fromkeys(done.begun, at))
            times.first.update(dict.fromkeys(done.first, at))
            times.ended.update(dict.fromkeys(done.ended, at))

    for number, (at, tokens_in, tokens_out) in enumerate(arrivals):
        until(at)
        if one.submit(at, number, tokens_in, tokens_out):
            times.begun[number] = at
    until(math.inf)
    return times


def test_two_requests_by_hand() -> None:
    # 0: one second of prompt, one of output. 1 comes at 0.5 s: half a second of each.
    # To 0.5 s the first prompt has the replica alone and half of it is done. Then both get half: 0.5 s of work each
    # is done at 1.5 s. Both streams get half of the replica: the second's 0.5 s of work ends at 2.5 s, and the first,
    # which may decode at 50 of 100 tokens a second also when it is alone, does its last half second by 3.5 s.
    times = played(engine(), [(0.0, 1000, 100), (0.5, 500, 50)])
    assert times.begun == {0: 0.0, 1: 0.5}
    assert times.first == pytest.approx({0: 1.5, 1: 1.5})
    assert times.ended == pytest.approx({1: 2.5, 0: 3.5})


def test_what_streams_leave_goes_to_prompts() -> None:
    # 0 streams from 1 s on at its limit, a quarter of the replica: 4 s for its second of work. The prompt of 1 gets
    # the other three quarters: 1.5 s of work take 2 s.
    times = played(engine(stream=25.0), [(0.0, 1000, 100), (1.0, 1500, 0)])
    assert times.first == pytest.approx({0: 1.0, 1: 3.0})
    assert times.ended == pytest.approx({0: 5.0, 1: 3.0}), "no output: the end of the prompt is the end"


def test_prompts_beyond_those_computed_at_once_wait_in_order() -> None:
    times = played(engine(prompts=1), [(0.0, 1000, 0), (0.1, 1000, 0), (0.2, 1000, 0)])
    assert times.begun == pytest.approx({0: 0.0, 1: 1.0, 2: 2.0})
    assert times.ended == pytest.approx({0: 1.0, 1: 2.0, 2: 3.0})


def test_a_place_is_free_when_a_request_ends() -> None:
    one = engine(sequences=1)
    assert one.submit(0.0, 0, 1000, 50)
    assert not one.submit(0.5, 1, 1000, 0)
    assert (one.running, one.waiting, one.in_flight) == (1, 1, 2)
    assert one.turn(one.next_at()).first == [0]
    done = one.turn(one.next_at())  # 50 tokens at 50 a second
    assert (done.ended, done.begun) == ([0], [1])
    assert one.now == pytest.approx(2.0)


def test_tokens_are_counted_as_they_are_done() -> None:
    one = engine()
    one.submit(0.0, 0, 1000, 100)
    one.advance(0.25)
    assert [one.input_tokens, one.output_tokens] == pytest.approx([250, 0])
    one.turn(one.next_at())
    one.advance(1.5)
    assert [one.input_tokens, one.output_tokens] == pytest.approx([1000, 25])


@dataclass
class Running:
    number: int
    prompt: float  # seconds of the replica that are left
    output: float


def stepped(
    arrivals: list[tuple[float, float, float]], sequences: int, prompts_at_once: int, limit: float
) -> tuple[Times, float]:
    """Small steps: who runs gets its share of each, and nothing is known of an end before it is there. Also returns
    for how long the replica did less than it can though a prompt was there."""
    times, now, idle = Times(), 0.0, 0.0
    coming, waiting, running = list(enumerate(arrivals)), list[Running](), list[Running]()
    while coming or waiting or running:
        while coming and coming[0][1][0] <= now + 1e-12:
            number, (_, tokens_in, tokens_out) = coming.pop(0)
            waiting.append(Running(number, tokens_in / PREFILL, tokens_out / DECODE))
        while waiting and len(running) < sequences and sum(r.prompt > 0 for r in running) < prompts_at_once:
            one = waiting.pop(0)
            one.prompt = max(one.prompt, 1e-12)  # an empty prompt, too, is computed
            times.begun[one.number] = now
            running.append(one)
        prompts, streams = [r for r in running if r.prompt > 0], [r for r in running if r.prompt <= 0]
        to_stream = min(1 / max(len(running), 1), limit)
        to_prompt = (1 - len(streams) * to_stream) / max(len(prompts), 1)
        ends = [r.prompt / to_prompt for r in prompts] + [r.output / to_stream for r in streams]
        step = min([0.05, *ends, *([coming[0][1][0] - now] if coming else [])])
        done = len(prompts) * to_prompt + len(streams) * to_stream
        idle += step * (1 - done) if prompts else 0.0
        now += step
        for one in prompts:
            one.prompt -= to_prompt * step
            if one.prompt <= 1e-11:
                one.prompt = 0.0
                times.first[one.number] = now
        for one in streams:
            one.output -= to_stream * step
        for one in list(running):
            if one.prompt <= 0 and one.output <= 1e-11:
                times.ended[one.number] = now
                running.remove(one)
    return times, idle


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 30), st.integers(0, 20)), min_size=1, max_size=12),
    st.integers(1, 5),
    st.integers(1, 4),
    st.sampled_from([5.0, 20.0, 50.0, 100.0]),
)
@example([(0, 10, 10), (0, 10, 10), (0, 10, 10)], 2, 1, 100.0)
def test_virtual_time_is_the_time_that_small_steps_take(
    requests: list[tuple[int, int, int]], sequences: int, prompts_at_once: int, stream: float
) -> None:
    arrivals = sorted((at / 10, tokens_in * 100.0, tokens_out * 10.0) for at, tokens_in, tokens_out in requests)
    one = engine(sequences=sequences, prompts=prompts_at_once, stream=stream)
    times = played(one, arrivals)
    expected, idle = stepped(arrivals, sequences, prompts_at_once, stream / DECODE)
    assert idle == pytest.approx(0), "work is conserved"
    assert times.begun == pytest.approx(expected.begun, abs=1e-6)
    assert times.first == pytest.approx(expected.first, abs=1e-6)
    assert times.ended == pytest.approx(expected.ended, abs=1e-6)
    assert one.in_flight == 0
    assert one.input_tokens == pytest.approx(sum(a[1] for a in arrivals), abs=1e-6)
    assert one.output_tokens == pytest.approx(sum(a[2] for a in arrivals), abs=1e-6)
