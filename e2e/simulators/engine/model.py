"""How an engine shares its time between requests: pure, stepped from outside.

One second of engine time does `prefill_tokens_per_second` of prompt or `decode_tokens_per_second` of output, so a
request of (tin, tout) tokens costs tin / P + tout / D seconds, and a saturated engine finishes exactly one second of
that work per second; of tin, what the prefix cache has costs nothing. Prefill is first come, first served (chunked
prefill); decode is shared equally between streams, none faster than `stream_tokens_per_second`. When both want more
than there is, each gets half and takes what the other leaves.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from e2e.simulators.engine.prefix import PrefixCache


@dataclass(frozen=True)
class Capacity:
    """Rates in tokens/s, limits in sequences and tokens."""

    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    stream_tokens_per_second: float
    max_running: int
    kv_cache_tokens: int
    prefix_caching: bool = False

    def work_seconds(self, prompt_tokens: float, output_tokens: float) -> float:
        return prompt_tokens / self.prefill_tokens_per_second + output_tokens / self.decode_tokens_per_second


@dataclass(eq=False)
class Sequence:
    """One request inside the engine. `output_tokens` is over all of its `n` choices, which decode side by side.

    `prompt`, `whole`: blocks of the prompt, and of the prompt and its answer, for the prefix cache. `cached_tokens`: of
    the prompt, found there when the request was admitted.
    Times are seconds on the model's clock; None until they have happened.
    """

    prompt_tokens: int
    output_tokens: int
    n: int = 1
    prompt: tuple[int, ...] = ()
    whole: tuple[int, ...] = ()
    cached_tokens: int = 0
    arrived: float = 0.0
    admitted: float | None = None
    first_token: float | None = None
    finished: float | None = None
    prefill_seconds_left: float = 0.0
    generated: float = 0.0

    @property
    def generated_tokens(self) -> int:
        # The epsilon keeps 209.9999999 from being seen as one token short.
        return int(self.generated + 1e-6)

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens


@dataclass
class StepReport:
    """What one step did: sequences that got their first token or their last, tokens made, gaps between tokens.

    `token_gaps` holds (seconds between two tokens, how many such gaps).
    """

    first_tokens: list[Sequence] = field(default_factory=list)
    finished: list[Sequence] = field(default_factory=list)
    generated_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    token_gaps: list[tuple[float, int]] = field(default_factory=list)


class EngineModel:
    """The scheduler of one engine. Submit and abort between steps; `step(dt)` moves its clock."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self.now = 0.0
        self.cache = PrefixCache(capacity.kv_cache_tokens if capacity.prefix_caching else 0)
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()

    @property
    def idle(self) -> bool:
        return not self.running and not self.waiting

    @property
    def unfinished(self) -> int:
        return len(self.running) + len(self.waiting)

    @property
    def prefill_tokens_queued(self) -> int:
        """Prompt tokens of all requests whose first token is still to come."""
        unstarted = (s for s in (*self.running, *self.waiting) if s.first_token is None)
        return sum(s.prompt_tokens for s in unstarted)

    @property
    def kv_cache_usage(self) -> float:
        """Share of the KV cache that running sequences fill, 0 to 1."""
        used = sum(s.prompt_tokens + s.generated for s in self.running)
        return min(1.0, used / self.capacity.kv_cache_tokens)

    def submit(self, sequence: Sequence, at: float) -> None:
        """Take `sequence` in at time `at`; an idle engine's clock jumps there."""
        if self.idle:
            self.now = max(self.now, at)
        sequence.arrived = at
        self.waiting.append(sequence)
        self._admit()

    def abort(self, sequence: Sequence) -> None:
        """Forget a sequence whose client is gone; unknown or finished ones are ignored."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        elif sequence in self.running:
            self.running.remove(sequence)
        self._admit()

    def step(self, dt: float) -> StepReport:
        """Spend `dt` seconds of engine time."""
        self.now += dt
        report = StepReport()
        prefilling = [s for s in self.running if s.first_token is None]
        decoding = [s for s in self.running if s.first_token is not None]
        most_tokens = [self._most_tokens(s, dt) for s in decoding]
        prefill_need = sum(s.prefill_seconds_left for s in prefilling)
        decode_need = sum(most_tokens) / self.capacity.decode_tokens_per_second
        prefill_seconds = min(prefill_need, max(dt / 2, dt - decode_need))
        decode_seconds = min(decode_need, dt - prefill_seconds)
        self._prefill(prefilling, prefill_seconds, report)
        self._decode(decoding, most_tokens, decode_seconds * self.capacity.decode_tokens_per_second, dt, report)
        for sequence in self.running:
            if sequence.generated_tokens >= sequence.output_tokens:
                sequence.finished = self.now
                report.finished.append(sequence)
        if report.finished:
            self.running = [s for s in self.running if s.finished is None]
            for sequence in report.finished:
                self.cache.keep(sequence.whole, self._held_tokens)
            self._admit()
        return report

    @property
    def _held_tokens(self) -> int:
        """What running sequences have of the KV cache beyond the prompts that the prefix cache has as blocks."""
        return round(sum(s.generated if s.prompt else s.prompt_tokens + s.generated for s in self.running))

    def _most_tokens(self, sequence: Sequence, dt: float) -> float:
        left = sequence.output_tokens - sequence.generated
        return min(left, self.capacity.stream_tokens_per_second * sequence.n * dt)

    def _prefill(self, prefilling: list[Sequence], seconds: float, report: StepReport) -> None:
        for sequence in prefilling:
            spent = min(seconds, sequence.prefill_seconds_left)
            seconds -= spent
            sequence.prefill_seconds_left -= spent
            if sequence.prefill_seconds_left > 1e-12:
                return
            sequence.first_token = self.now
            sequence.generated = float(min(sequence.n, sequence.output_tokens))
            report.first_tokens.append(sequence)
            self.cache.keep(sequence.prompt, self._held_tokens)
            report.prompt_tokens += sequence.prompt_tokens
            report.cached_tokens += sequence.cached_tokens
            report.generated_tokens += sequence.generated_tokens

    def _decode(
        self, decoding: list[Sequence], most: list[float], tokens: float, dt: float, report: StepReport
    ) -> None:
        """Equal shares of `tokens`; what one stream cannot use goes to the others (water filling)."""
        left = len(decoding)
        for index in sorted(range(left), key=most.__getitem__):
            share = min(most[index], tokens / left)
            tokens -= share
            left -= 1
            sequence = decoding[index]
            before = sequence.generated_tokens
            sequence.generated += share
            made = sequence.generated_tokens - before
            report.generated_tokens += made
            if made:
                report.token_gaps.append((dt * sequence.n / share, made))

    def _admit(self) -> None:
        """Move waiting sequences in while a slot and the KV cache for their whole length are free.

        Reserving the whole length means that no preemption needs to be modelled.
        """
        slots = self.capacity.max_running - sum(s.n for s in self.running)
        kv_free = self.capacity.kv_cache_tokens - sum(s.total_tokens for s in self.running)
        while self.waiting:
            head = self.waiting[0]
            alone = not self.running
            if not alone and (head.n > slots or head.total_tokens > kv_free):
                return
            self.waiting.popleft()
            head.admitted = max(self.now, head.arrived)
            head.cached_tokens = self.cache.find(head.prompt, head.prompt_tokens)
            # The first token comes out of the prefill pass; its cost is part of the pass, so that the sum stays exact.
            computed = head.prompt_tokens - head.cached_tokens
            head.prefill_seconds_left = self.capacity.work_seconds(computed, head.n)
            self.running.append(head)
            slots -= head.n
            kv_free -= head.total_tokens
