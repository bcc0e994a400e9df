"""What a run's requests saw, one by one and added up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

LOCAL = "local"


@dataclass(frozen=True)
class Record:
    """One finished request; times in seconds since the run's start.

    `status` is None when no answer came, `first_token` None when no token did. `error` is None, or a short kind:
    `http_<status>`, `connect`, `timeout`, `disconnected`, `cut` (a stream without [DONE], a body that broke off),
    `in_stream` (an error event inside a stream), `malformed`.
    """

    start: float
    end: float
    streaming: bool
    status: int | None
    served_by: str | None
    reason: str | None
    first_token: float | None
    prompt_tokens: int | None
    completion_tokens: int | None
    error: str | None
    error_code: str | None = None
    gateway: str = ""  # base URL of the one that was asked

    @property
    def failed(self) -> bool:
        return self.error is not None

    @property
    def cut(self) -> bool:
        return self.error == "cut"

    @property
    def spilled(self) -> bool:
        return not self.failed and self.served_by not in {None, "", "none", LOCAL}


@dataclass(frozen=True)
class Summary:
    """`seconds_*` are whole answers, `first_token_seconds_*` streams only; None where there was nothing to measure."""

    requests: int
    failed: int
    cut: int
    spilled: int
    prompt_tokens: int
    completion_tokens: int
    seconds_p50: float | None
    seconds_p95: float | None
    first_token_seconds_p50: float | None
    first_token_seconds_p95: float | None
    by_status: Mapping[str, int]
    by_served: Mapping[str, int]
    by_error: Mapping[str, int]

    @property
    def spilled_share(self) -> float:
        """Spilled requests of the answered ones, 0 to 1."""
        answered = self.requests - self.failed
        return self.spilled / answered if answered else 0.0

    def line(self) -> str:
        """The summary in one line."""
        parts = [
            f"{self.requests} answered",
            f"{self.failed} failed",
            f"{self.cut} cut",
            f"{self.spilled_share:.1%} spilled",
        ]
        if self.seconds_p50 is not None and self.seconds_p95 is not None:
            parts.append(f"p50 {self.seconds_p50:.2f} s, p95 {self.seconds_p95:.2f} s")
        if self.first_token_seconds_p50 is not None and self.first_token_seconds_p95 is not None:
            parts.append(
                f"first token p50 {self.first_token_seconds_p50:.2f} s, p95 {self.first_token_seconds_p95:.2f} s"
            )
        if self.by_error:
            parts.append("errors: " + ", ".join(f"{kind} {count}" for kind, count in sorted(self.by_error.items())))
        return " · ".join(parts)


def summarize(records: Iterable[Record]) -> Summary:
    """Add up finished requests."""
    rows = list(records)
    good = [row for row in rows if not row.failed]
    durations = sorted(row.end - row.start for row in good)
    first_tokens = sorted(row.first_token - row.start for row in good if row.first_token is not None and row.streaming)
    return Summary(
        requests=len(rows),
        failed=len(rows) - len(good),
        cut=sum(row.cut for row in rows),
        spilled=sum(row.spilled for row in rows),
        prompt_tokens=sum(row.prompt_tokens or 0 for row in good),
        completion_tokens=sum(row.completion_tokens or 0 for row in good),
        seconds_p50=_quantile(durations, 0.5),
        seconds_p95=_quantile(durations, 0.95),
        first_token_seconds_p50=_quantile(first_tokens, 0.5),
        first_token_seconds_p95=_quantile(first_tokens, 0.95),
        by_status=dict(Counter(str(row.status or "none") for row in rows)),
        by_served=dict(Counter(row.served_by or "unknown" for row in good)),
        by_error=dict(Counter(row.error for row in rows if row.error is not None)),
    )


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    """The nearest-rank quantile."""
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
