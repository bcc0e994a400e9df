"""What bytes turned out to mean: the line from bytes to tokens that metered requests of a provider's model lie on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

HALF_LIFE_REQUESTS: Final = 500.0
"""After so many metered requests an older one weighs half in what has been learned."""
BYTES_SPREAD: Final = 0.25
"""Standard deviation of a request's tokens to what its bytes come to, until it is seen: of code and prose alike."""
LENGTH_SPREAD: Final = 1.0
"""Of an answer's tokens to their mean, until it is seen: as of lengths that are exponential."""
PROPORTIONAL: Final = 0.1
"""How sizes have to differ, as a share of their mean, before they tell what part of the bytes are no tokens."""


class Fit(NamedTuple):
    """`n` requests of `x` bytes together have `intercept` n + `slope` x tokens. One of them is off by `variance` in
    squared tokens, and by `common` as all the others are: a line is as good as what was seen."""

    intercept: float
    slope: float
    variance: float
    common: float = 0.0

    def tokens(self, requests: int, size: float) -> float:
        """At least 0."""
        return max(0.0, self.intercept * requests + self.slope * size)


@dataclass(frozen=True, slots=True)
class Line:
    """Sums over readings, each of which saw n requests with x bytes and y tokens together, of fading weight.

    A reading's y is off by √n of what one request is off by, so it weighs 1/n: `xx` is the sum of x²/n, and so on.
    """

    readings: float = 0.0
    n: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0
    yy: float = 0.0

    @classmethod
    def of(cls, n: float, x: float, y: float) -> Line:
        """One reading; of none, nothing."""
        return cls(1.0, n, x, y, x * x / n, x * y / n, y * y / n) if n > 0 else cls()

    def __add__(self, other: Line) -> Line:
        return Line(
            self.readings + other.readings,
            self.n + other.n,
            self.x + other.x,
            self.y + other.y,
            self.xx + other.xx,
            self.xy + other.xy,
            self.yy + other.yy,
        )

    def faded(self, requests: float) -> Line:
        """After so many requests more."""
        weight = 0.5 ** (requests / HALF_LIFE_REQUESTS)
        return Line(
            self.readings * weight,
            self.n * weight,
            self.x * weight,
            self.y * weight,
            self.xx * weight,
            self.xy * weight,
            self.yy * weight,
        )

    def fit(self) -> Fit | None:
        """The line of least squares; through zero as far as sizes do not differ enough to tell. None: nothing seen."""
        if self.n <= 0:
            return None
        size, tokens = self.x / self.n, self.y / self.n
        xx, xy, yy = self._spread()
        belief = (PROPORTIONAL * size) ** 2
        slope = max(0.0, (xy + belief * tokens / size) / (xx + belief)) if belief > 0 else 0.0
        off = max(0.0, yy - 2 * slope * xy + slope * slope * xx)
        variance = self._variance(off, BYTES_SPREAD)
        return Fit(tokens - slope * size, slope, variance, variance / max(1.0, self.n))

    def mean(self) -> Fit | None:
        """Tokens of a request whose bytes tell nothing."""
        if self.n <= 0:
            return None
        variance = self._variance(self._spread()[2], LENGTH_SPREAD)
        return Fit(self.y / self.n, 0.0, variance, variance / max(1.0, self.n))

    def _spread(self) -> tuple[float, float, float]:
        """Sums of squares around the means."""
        n, x, y = self.n, self.x, self.y
        return max(0.0, self.xx - x * x / n), self.xy - x * y / n, max(0.0, self.yy - y * y / n)

    def _variance(self, off: float, until_seen: float) -> float:
        """What is expected until it is seen counts as one reading among few, and as less among many."""
        expected = (until_seen * self.y / self.n) ** 2
        return (off + expected / math.sqrt(max(1.0, self.readings))) / max(1.0, self.readings - 1)


@dataclass(frozen=True, slots=True)
class Learned:
    """Of metered traffic: prompts by the bytes of requests, completions by the bytes of answers. Each by the kind of
    answer ("stream", "json", or "" where the gateway did not tell): a token takes many more bytes in a stream, and who
    asks for one writes more into the request."""

    prompts: Mapping[str, Line] = field(default_factory=dict)
    answers: Mapping[str, Line] = field(default_factory=dict)

    def after(
        self,
        answer: str,
        *,
        requests: int,
        prompt_tokens: int,
        completion_tokens: int,
        request_bytes: int,
        response_bytes: int,
    ) -> Learned:
        """With one reading more."""
        prompts = self.prompts.get(answer, Line()).faded(requests) + Line.of(requests, request_bytes, prompt_tokens)
        answers = self.answers.get(answer, Line()).faded(requests) + Line.of(
            requests, response_bytes, completion_tokens
        )
        return Learned({**self.prompts, answer: prompts}, {**self.answers, answer: answers})

    @property
    def prompt(self) -> Line:
        """Of all kinds."""
        return _sum(self.prompts)

    @property
    def completion(self) -> Line:
        """Of all kinds."""
        return _sum(self.answers)

    @property
    def tokens_per_request(self) -> float | None:
        """Prompt and completion; None while nothing was seen."""
        prompt, completion = self.prompt, self.completion
        if prompt.n <= 0:
            return None
        return prompt.y / prompt.n + (completion.y / completion.n if completion.n > 0 else 0.0)


def _sum(lines: Mapping[str, Line]) -> Line:
    return sum((line for _, line in sorted(lines.items())), Line())
