from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2e.simulators.engine.model import Capacity, EngineModel, Sequence

DT = 0.1
GLM5 = Capacity(22_000, 2_800, 50, max_running=256, kv_cache_tokens=2_000_000)


def finish_all(model: EngineModel, *, most_steps: int = 100_000) -> list[Sequence]:
    finished: list[Sequence] = []
    for _ in range(most_steps):
        if model.idle:
            return finished
        finished += model.step(DT).finished
    raise AssertionError("the model did not come to an end")


def test_unloaded_stream_decodes_at_the_stream_rate() -> None:
    model = EngineModel(GLM5)
    sequence = Sequence(1200, 211)
    model.submit(sequence, at=5.0)
    finish_all(model)
    assert sequence.first_token is not None
    assert sequence.finished is not None
    assert sequence.first_token == pytest.approx(5.0 + DT)
    assert sequence.finished - sequence.first_token == pytest.approx(210 / 50, abs=DT)


def test_saturated_engine_does_one_second_of_work_per_second() -> None:
    draw = random.Random(1)
    model = EngineModel(GLM5)
    submitted = [Sequence(draw.randint(10, 4000), draw.randint(2, 600)) for _ in range(900)]
    for sequence in submitted:
        model.submit(sequence, at=0.0)
    done: list[Sequence] = []
    while len(model.waiting) > 300:
        done += model.step(DT).finished
    # Running ones are partly done: their share is counted by what they have got.
    partly = sum(
        GLM5.work_seconds(s.prompt_tokens, 1) - s.prefill_seconds_left + max(0.0, s.generated - 1) / 2_800
        for s in model.running
    )
    work = sum(GLM5.work_seconds(s.prompt_tokens, s.output_tokens) for s in done) + partly
    # A step's end finds some finishers with a share they cannot use: at most a percent is lost.
    assert 0.99 * model.now <= work <= model.now + 1e-6


def test_decode_is_shared_equally_below_saturation_of_a_stream() -> None:
    model = EngineModel(GLM5)
    sequences = [Sequence(4, 10_000) for _ in range(100)]
    for sequence in sequences:
        model.submit(sequence, at=0.0)
    for _ in range(50):
        model.step(DT)
    rates = {round(s.generated / model.now, 1) for s in sequences}
    assert len(rates) == 1
    assert rates.pop() == pytest.approx(2_800 / 100, rel=0.05)


def test_no_more_than_max_running_run_and_the_rest_waits_in_order() -> None:
    model = EngineModel(Capacity(22_000, 2_800, 50, max_running=8, kv_cache_tokens=10**6))
    sequences = [Sequence(100, 20) for _ in range(12)]
    for sequence in sequences:
        model.submit(sequence, at=0.0)
    assert (len(model.running), len(model.waiting)) == (8, 4)
    finish_all(model)
    assert max(s.admitted or 0.0 for s in sequences[:8]) == 0.0
    assert min(s.admitted or 0.0 for s in sequences[8:]) > 0.0


def test_kv_cache_bounds_what_runs() -> None:
    model = EngineModel(Capacity(22_000, 2_800, 50, max_running=100, kv_cache_tokens=1_000))
    for _ in range(5):
        model.submit(Sequence(300, 100), at=0.0)
    assert len(model.running) == 2
    assert model.kv_cache_usage == pytest.approx(0.6)
    finish_all(model)


def test_aborted_sequences_free_their_slot() -> None:
    model = EngineModel(Capacity(22_000, 2_800, 50, max_running=1, kv_cache_tokens=10**6))
    first, second, third = Sequence(10, 1000), Sequence(10, 10), Sequence(10, 10)
    for sequence in (first, second, third):
        model.submit(sequence, at=0.0)
    model.abort(first)
    model.abort(third)
    assert (model.running, list(model.waiting)) == ([second], [])
    model.abort(first)
    assert finish_all(model) == [second]


def test_choices_decode_side_by_side() -> None:
    one, four = Sequence(10, 100), Sequence(10, 400, n=4)
    for sequence in (one, four):
        model = EngineModel(GLM5)
        model.submit(sequence, at=0.0)
        finish_all(model)
    assert four.finished == pytest.approx(one.finished)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 800)), min_size=1, max_size=60),
    st.integers(1, 40),
    st.floats(0.02, 0.5),
)
def test_every_token_is_made_exactly_once(sizes: list[tuple[int, int]], max_running: int, dt: float) -> None:
    model = EngineModel(Capacity(22_000, 2_800, 50, max_running=max_running, kv_cache_tokens=2_000_000))
    sequences = [Sequence(tin, tout) for tin, tout in sizes]
    for sequence in sequences:
        model.submit(sequence, at=0.0)
    prompt = generated = gaps = 0
    while not model.idle:
        report = model.step(dt)
        prompt += report.prompt_tokens
        generated += report.generated_tokens
        gaps += sum(times for _, times in report.token_gaps)
        assert len(model.running) <= max_running
    assert prompt == sum(tin for tin, _ in sizes)
    assert generated == sum(tout for _, tout in sizes)
    assert gaps == generated - len(sizes)
    total = sum(model.capacity.work_seconds(tin, tout) for tin, tout in sizes)
    assert model.now >= total - 1e-6
    for s in sequences:
        assert s.admitted is not None
        assert s.first_token is not None
        assert s.finished is not None
        assert s.arrived <= s.admitted <= s.first_token <= s.finished
