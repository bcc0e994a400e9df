"""How one replica shares its time between the requests that it has: processor sharing.

Prompts and streams that run get equal shares of the replica, a stream never more than lets it decode at its limit;
what streams leave goes to the prompts. So a replica with a prompt to compute does one second of work in a second, as
the fluid has it: in / P + out / D seconds of a request. All prompts go on at one rate and all streams at another, so
each kind has a clock of virtual time, on which a request's end is known once it begins: a heap gives the next one, and
an event costs O(log n).

The first token comes with the end of the prompt. What finds no place waits, first come, first served.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field

PROMPTS_AT_ONCE = 4
"""Prompts that an engine computes side by side. Those that came later wait: an engine fills each step with the oldest
prompts, some thousand tokens in all (vLLM: max_num_batched_tokens)."""
SAME_SECONDS = 1e-9  # ends that are nearer to each other are one event


@dataclass(slots=True)
class Progress:
    """Requests that began to run, got their first token, and got their last, by number."""

    begun: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)


class Engine:
    """One replica. Time only goes forward; between `submit` and `turn` it must not pass `next_at`."""

    __slots__ = (
        "_decode",
        "_limit",
        "_prefill",
        "_prompt_clock",
        "_prompt_rate",
        "_prompt_seconds",
        "_prompts",
        "_prompts_at_once",
        "_sequences",
        "_stream_clock",
        "_stream_rate",
        "_stream_seconds",
        "_streams",
        "_waiting",
        "now",
    )

    def __init__(
        self,
        prefill_tokens_per_second: float,
        decode_tokens_per_second: float,
        sequences: int,
        stream_tokens_per_second: float,
        *,
        prompts_at_once: int = PROMPTS_AT_ONCE,
        now: float = 0.0,
    ) -> None:
        """`sequences`: requests that run at once, prompts and streams together."""
        self._prefill, self._decode = prefill_tokens_per_second, decode_tokens_per_second
        self._limit = stream_tokens_per_second / decode_tokens_per_second  # of the replica, for one stream
        self._sequences, self._prompts_at_once = sequences, prompts_at_once
        self.now = now
        self._waiting: deque[tuple[int, float, float]] = deque()  # number, seconds of prompt, seconds of output
        self._prompts: list[tuple[float, int, float]] = []  # end on the clock of prompts, number, seconds of output
        self._streams: list[tuple[float, int]] = []  # end on the clock of streams, number
        self._prompt_clock = self._stream_clock = 0.0  # replica-seconds that each one got
        self._prompt_rate = self._stream_rate = 0.0  # of the clocks
        self._prompt_seconds = self._stream_seconds = 0.0  # replica-seconds done

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._prompts) + len(self._streams)

    @property
    def in_flight(self) -> int:
        return len(self._waiting) + len(self._prompts) + len(self._streams)

    @property
    def input_tokens(self) -> float:
        """Computed so far, parts of prompts included."""
        return self._prompt_seconds * self._prefill

    @property
    def output_tokens(self) -> float:
        """Generated so far."""
        return self._stream_seconds * self._decode

    def next_at(self) -> float:
        """When the next request gets its first or last token; infinity without one."""
        found = math.inf
        if self._prompts:
            found = max(0.0, self._prompts[0][0] - self._prompt_clock) / self._prompt_rate
        if self._streams:
            found = min(found, max(0.0, self._streams[0][0] - self._stream_clock) / self._stream_rate)
        return self.now + found

    def advance(self, to: float) -> None:
        """Let time pass, not beyond `next_at`."""
        passed = to - self.now
        if passed <= 0:
            return
        self.now = to
        if self._prompts:
            got = passed * self._prompt_rate
            self._prompt_clock += got
            self._prompt_seconds += got * len(self._prompts)
        if self._streams:
            got = passed * self._stream_rate
            self._stream_clock += got
            self._stream_seconds += got * len(self._streams)

    def submit(self, at: float, number: int, input_tokens: float, output_tokens: float) -> bool:
        """Take a request in; whether it runs at once."""
        self.advance(at)
        self._waiting.append((number, input_tokens / self._prefill, output_tokens / self._decode))
        begun = self._begin()
        if begun:
            self._share()
        return bool(begun)

    def turn(self, at: float) -> Progress:
        """What happens at `at`, which is `next_at`."""
        self.advance(at)
        done = Progress()
        while self._prompts and self._prompts[0][0] - self._prompt_clock <= SAME_SECONDS * self._prompt_rate:
            _, number, seconds = heapq.heappop(self._prompts)
            done.first.append(number)
            if seconds > 0:
                heapq.heappush(self._streams, (self._stream_clock + seconds, number))
            else:
                done.ended.append(number)
        while self._streams and self._streams[0][0] - self._stream_clock <= SAME_SECONDS * self._stream_rate:
            done.ended.append(heapq.heappop(self._streams)[1])
        done.begun = self._begin()
        self._share()
        return done

    def _begin(self) -> list[int]:
        """Those that wait and find a place."""
        begun = []
        while self._waiting and len(self._prompts) < self._prompts_at_once and self.running < self._sequences:
            number, prompt, output = self._waiting.popleft()
            heapq.heappush(self._prompts, (self._prompt_clock + prompt, number, output))
            begun.append(number)
        return begun

    def _share(self) -> None:
        """The rates that hold until the next event. A clock that nobody looks at begins anew: it stays exact."""
        prompts, streams = len(self._prompts), len(self._streams)
        if not prompts:
            self._prompt_clock = 0.0
        if not streams:
            self._stream_clock = 0.0
        if prompts or streams:
            self._stream_rate = min(1 / (prompts + streams), self._limit)
        if prompts:
            self._prompt_rate = (1 - streams * self._stream_rate) / prompts
