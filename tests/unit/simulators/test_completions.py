from __future__ import annotations

import pytest

from e2e.simulators import completions


def read(content: str, **more: object) -> completions.CompletionRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": content}], **more}
    return completions.parse(body, chat=True, seed=3)


def test_prompt_tokens_are_bytes_over_four_rounded_up() -> None:
    assert read("x" * 4001).prompt_tokens == 1001
    assert read("ä" * 2).prompt_tokens == 1


def test_marker_sets_the_length_and_max_tokens_cuts_it() -> None:
    assert (read("a [[out=30]]").output_tokens, read("a [[out=30]]").finish_reason) == (30, "stop")
    cut = read("a [[out=30]]", max_tokens=20)
    assert (cut.output_tokens, cut.finish_reason) == (20, "length")
    assert read("a [[out=30]]", max_tokens=500, max_completion_tokens=7).output_tokens == 7


def test_drawn_length_depends_on_prompt_and_seed_and_has_the_mean_it_claims() -> None:
    lengths = [read(f"prompt {i}").output_tokens for i in range(2000)]
    assert lengths == [read(f"prompt {i}").output_tokens for i in range(2000)]
    assert abs(sum(lengths) / len(lengths) - completions.MEAN_OUTPUT_TOKENS) < 15
    body = {"prompt": "prompt 1"}
    drawn = {completions.parse(body, chat=False, seed=seed).output_tokens for seed in range(20)}
    assert len(drawn) > 5


def test_content_parts_are_read() -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "abcd"}, {"type": "text", "text": "[[out=9]]"}]}
    request = completions.parse({"messages": [message]}, chat=True, seed=0)
    assert request.output_tokens == 9


@pytest.mark.parametrize(
    "body",
    [[], {"messages": []}, {"messages": [{"content": "x"}]}, {"messages": "x"},
     {"messages": [{"role": "user", "content": "x"}], "max_tokens": 0},
     {"messages": [{"role": "user", "content": "x"}], "n": 1000},
     {"messages": [{"role": "user", "content": "x"}], "max_tokens": "9"}],
)  # fmt: skip
def test_malformed_requests_are_refused(body: object) -> None:
    with pytest.raises(completions.InvalidRequest):
        completions.parse(body, chat=True, seed=0)


def test_text_has_four_bytes_a_token_and_continues() -> None:
    assert len(completions.text(0, 9000)) == 36_000
    assert completions.text(0, 10) + completions.text(10, 7) == completions.text(0, 17)
