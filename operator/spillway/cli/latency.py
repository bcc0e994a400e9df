"""Latencies of single requests, as the commands print them."""

from __future__ import annotations

import math

from spillway.simulate.requests.latency import Latency


def slowest(found: Latency) -> tuple[str, str]:
    """95th percentiles of first and last token."""
    return in_seconds(found.first_token.p95), in_seconds(found.end_to_end.p95)


def in_seconds(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def words(found: Latency) -> list[str]:
    """What single requests tell, in words."""
    first, last = found.first_token, found.end_to_end
    shares = [
        f"{number / max(found.requests, 1):.2%} {'refused' if name == 'refused' else f'by {where(name)}'}"
        for name, number in found.destinations.items()
        if number
    ]
    return [
        f"First token after {in_seconds(first.p50)} (p50), {in_seconds(first.p95)} (p95), {in_seconds(first.p99)} "
        f"(p99); last after {in_seconds(last.p50)}, {in_seconds(last.p95)}, {in_seconds(last.p99)}.",
        f"Of {found.requests:,} requests: {', '.join(shares)}.",
    ]


def where(destination: str) -> str:
    return "replicas" if destination == "local" else f"the {destination}"
