"""The OpenAI completion API as both simulators speak it: reading a request, writing an answer, a chunk, a usage.

Tokens are counted as bytes / 4, and one simulated token is four bytes of text, so counts agree in both directions.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

BYTES_PER_TOKEN = 4
MEAN_OUTPUT_TOKENS = 210
OUTPUT_SPREAD = 0.6
LONGEST_DRAW_TOKENS = 4096
MOST_CHOICES = 128

_MARKER = re.compile(r"\[\[out=(\d{1,6})\]\]")
_TEXT = "dam sea ice rip eel fog ebb wet tub oar bay cod jet mud row dip " * 400
_TEXT_TOKENS = len(_TEXT) // BYTES_PER_TOKEN

FinishReason = Literal["stop", "length"]


class InvalidRequest(ValueError):
    """The body is no completion request; the message is meant for the client (HTTP 400)."""


@dataclass(frozen=True)
class CompletionRequest:
    """One request, read once. `output_tokens` is per choice; `n` choices are generated."""

    model: str
    chat: bool
    prompt_tokens: int
    output_tokens: int
    max_tokens: int | None
    finish_reason: FinishReason
    n: int
    stream: bool
    include_usage: bool
    prompt: str = ""

    @property
    def completion_tokens(self) -> int:
        return self.n * self.output_tokens


def parse(body: object, *, chat: bool, seed: int) -> CompletionRequest:
    """Read a decoded JSON body of /v1/chat/completions (`chat`) or /v1/completions.

    The length of the answer is the prompt's last marker, else a draw that depends on `seed` and the prompt alone
    (log-normal, mean 210); `max_completion_tokens` or `max_tokens` cuts it. Raises InvalidRequest.
    """
    if not isinstance(body, dict):
        raise InvalidRequest("Input should be a valid dictionary")
    model = body.get("model", "")
    if not isinstance(model, str):
        raise InvalidRequest("model: Input should be a valid string")
    prompt = _chat_text(body.get("messages")) if chat else _prompt_text(body.get("prompt"))
    max_tokens = _positive(body, "max_completion_tokens") or _positive(body, "max_tokens")
    n = _positive(body, "n") or 1
    if n > MOST_CHOICES:
        raise InvalidRequest(f"n: Input should be less than or equal to {MOST_CHOICES}")
    wanted = _wanted_tokens(prompt, seed)
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise InvalidRequest("stream_options: Input should be a valid dictionary")
    return CompletionRequest(
        model=model,
        chat=chat,
        prompt_tokens=max(1, math.ceil(len(prompt.encode()) / BYTES_PER_TOKEN)),
        output_tokens=wanted if max_tokens is None else min(wanted, max_tokens),
        max_tokens=max_tokens,
        finish_reason="length" if max_tokens is not None and wanted >= max_tokens else "stop",
        n=n,
        stream=body.get("stream") is True,
        include_usage=options.get("include_usage") is True,
        prompt=prompt,
    )


def text(first: int, tokens: int) -> str:
    """`tokens` tokens of plain ASCII text that continue from token number `first`; needs no JSON escaping."""
    start = (first % _TEXT_TOKENS) * BYTES_PER_TOKEN
    end = start + tokens * BYTES_PER_TOKEN
    return _TEXT[start:end] if end <= len(_TEXT) else (_TEXT * (end // len(_TEXT) + 1))[start:end]


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int | None = None) -> dict[str, object]:
    """`cached_tokens` None: the server does not tell."""
    details = {} if cached_tokens is None else {"prompt_tokens_details": {"cached_tokens": cached_tokens}}
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        **details,
    }


def answer(
    request: CompletionRequest, *, identifier: str, created: int, model: str, cached_tokens: int | None = None
) -> dict[str, object]:
    """The whole JSON answer, usage included."""
    content = text(0, request.output_tokens)
    choices: list[dict[str, object]] = []
    for index in range(request.n):
        part: dict[str, object] = (
            {"message": {"role": "assistant", "content": content}} if request.chat else {"text": content}
        )
        choices.append({"index": index, **part, "logprobs": None, "finish_reason": request.finish_reason})
    return {
        "id": identifier,
        "object": "chat.completion" if request.chat else "text_completion",
        "created": created,
        "model": model,
        "choices": choices,
        "usage": usage(request.prompt_tokens, request.completion_tokens, cached_tokens),
    }


class ChunkWriter:
    """Writes the server-sent events of one streamed answer; each event carries as many tokens as it is given."""

    def __init__(self, request: CompletionRequest, *, identifier: str, created: int, model: str) -> None:
        self._request = request
        kind = "chat.completion.chunk" if request.chat else "text_completion"
        head = {"id": identifier, "object": kind, "created": created, "model": model}
        self._head = json.dumps(head)[:-1]

    def role(self) -> bytes:
        """The first event of a chat answer (empty for a plain completion)."""
        return self._event('"delta":{"role":"assistant","content":""}', None) if self._request.chat else b""

    def tokens(self, first: int, count: int) -> bytes:
        content = text(first, count)
        return self._event(f'"delta":{{"content":"{content}"}}' if self._request.chat else f'"text":"{content}"', None)

    def finish(self) -> bytes:
        return self._event('"delta":{}' if self._request.chat else '"text":""', self._request.finish_reason)

    def usage(self, completion_tokens: int, cached_tokens: int | None = None) -> bytes:
        return self.stated(usage(self._request.prompt_tokens, completion_tokens, cached_tokens))

    def stated(self, block: Mapping[str, object]) -> bytes:
        """The event of a usage block, whatever it says."""
        return f'data: {self._head},"choices":[],"usage":{json.dumps(block)}}}\n\n'.encode()

    def _event(self, part: str, finish_reason: str | None) -> bytes:
        reason = json.dumps(finish_reason)
        choices = ",".join(
            f'{{"index":{index},{part},"logprobs":null,"finish_reason":{reason}}}' for index in range(self._request.n)
        )
        return f'data: {self._head},"choices":[{choices}]}}\n\n'.encode()


DONE = b"data: [DONE]\n\n"


def _wanted_tokens(prompt: str, seed: int) -> int:
    markers = _MARKER.findall(prompt)
    if markers:
        return max(1, int(markers[-1]))
    digest = hashlib.sha256(f"{seed}:{prompt}".encode()).digest()
    mu = math.log(MEAN_OUTPUT_TOKENS) - OUTPUT_SPREAD**2 / 2
    drawn = random.Random(digest).lognormvariate(mu, OUTPUT_SPREAD)
    return max(1, min(LONGEST_DRAW_TOKENS, round(drawn)))


def _positive(body: Mapping[str, object], field: str) -> int | None:
    value = body.get(field)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidRequest(f"{field} must be at least 1, got {value!r}.")
    return value


def _chat_text(messages: object) -> str:
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("messages: Input should be a non-empty list")
    return "".join(_content_text(message) for message in messages)


def _content_text(message: object) -> str:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise InvalidRequest("messages: each message needs a role")
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest("messages: content should be a string or a list of parts")
    return "".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))


def _prompt_text(prompt: object) -> str:
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        return prompt[0]
    raise InvalidRequest("prompt: Input should be a string, or a list of one string")
