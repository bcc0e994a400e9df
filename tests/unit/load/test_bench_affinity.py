"""The figures of `make bench-affinity`."""

from __future__ import annotations

import random

from e2e.bench.affinity import Played, parser, words


def test_words_are_so_many_tokens_and_differ_by_draw() -> None:
    one, same, other = (words(random.Random(seed), 3000) for seed in (1, 1, 2))
    assert len(one) == 12_000 and one == same != other


def test_figures() -> None:
    played = Played(first=[0.4, 0.6], later=[0.1, 0.2, 0.3], asked=[100.0, 300.0], found=[50.0, 250.0])
    assert played.as_json("PrefixAffinity") == {
        "balancing": "PrefixAffinity",
        "requests": 5,
        "failed": 0,
        "cached_token_share": 0.75,
        "ttft_p50_seconds": 0.3,
        "ttft_p95_seconds": 0.4,
        "ttft_mean_later_turns_seconds": 0.2,
        "busiest_engine_over_mean": 1.5,
    }


def test_defaults() -> None:
    assert parser().parse_args([]).engines == 4
