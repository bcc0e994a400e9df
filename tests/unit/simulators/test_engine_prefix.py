"""The prefix cache of the engine simulator."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2e.simulators.completions import text
from e2e.simulators.engine.model import Capacity, EngineModel, Sequence
from e2e.simulators.engine.prefix import BLOCK_TOKENS, PrefixCache, blocks

BLOCK = "x" * 64


def prompt(*parts: int) -> bytes:
    """Blocks that differ by number."""
    return b"".join(f"{part:064d}".encode() for part in parts)


def test_only_whole_blocks_from_the_start_are_found_and_never_the_last_token() -> None:
    cache = PrefixCache(1000)
    cache.keep(blocks(prompt(1, 2, 3) + b"tail"), 0)
    assert len(cache) == 3
    for wanted, tokens, found in (
        (prompt(1, 2, 3) + b"other", 50, 48),
        (prompt(1, 2, 3), 48, 32),
        (prompt(1, 2, 4), 49, 32),
        (prompt(2, 3), 33, 0),
        (prompt(1)[:63], 16, 0),
        (b"", 1, 0),
    ):
        assert cache.find(blocks(wanted), tokens) == found, wanted


def test_the_least_recently_used_goes_first_and_of_one_text_its_end() -> None:
    cache = PrefixCache(4 * BLOCK_TOKENS)
    cache.keep(blocks(prompt(1, 2)), 0)
    cache.keep(blocks(prompt(3, 4)), 0)
    assert cache.find(blocks(prompt(1, 2)), 100) == 32
    cache.keep(blocks(prompt(5)), 0)
    assert cache.find(blocks(prompt(3, 4)), 100) == 16, "the end of what was used least recently"
    assert cache.find(blocks(prompt(1, 2)), 100) == 32
    cache.keep((), 3 * BLOCK_TOKENS)
    assert len(cache) == 1, "running sequences need the memory"
    assert PrefixCache(0).find(blocks(prompt(1)), 100) == 0


@given(st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=20), st.integers(0, 12))
def test_never_more_than_its_memory_nor_more_than_there_is(texts: list[list[int]], capacity: int) -> None:
    cache = PrefixCache(capacity * BLOCK_TOKENS)
    for parts in texts:
        tokens = len(parts) * BLOCK_TOKENS + 1
        assert cache.find(blocks(prompt(*parts)), tokens) <= tokens - 1
        cache.keep(blocks(prompt(*parts)), 0)
        assert len(cache) <= capacity


def finished(model: EngineModel, body: bytes, at: float) -> Sequence:
    sequence = Sequence(len(body) // 4, 10, prompt=blocks(body), whole=blocks(body + text(0, 10).encode()))
    model.submit(sequence, at)
    while not model.idle:
        model.step(0.01)
    return sequence


@pytest.mark.parametrize("caching", [True, False])
def test_the_next_turn_of_a_conversation_computes_only_what_is_new(caching: bool) -> None:
    model = EngineModel(Capacity(1000, 1000, 50, max_running=4, kv_cache_tokens=10_000, prefix_caching=caching))
    first = prompt(*range(100))
    one = finished(model, first, 0.0)
    other = finished(model, first + text(0, 10).encode() + prompt(500), model.now)
    assert one.cached_tokens == 0
    assert other.cached_tokens == (1600 if caching else 0)
    waits = [s.first_token - s.arrived for s in (one, other) if s.first_token is not None]
    assert waits[0] == pytest.approx(1.6, abs=0.02)
    assert waits[1] == pytest.approx(0.026 if caching else 1.626, abs=0.02)
