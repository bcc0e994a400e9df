"""Envoy counts in-flight requests per process: a limit for all gateways together is shared out over them."""

from __future__ import annotations

from collections.abc import Mapping


def share(total: int, in_flight: Mapping[str, int]) -> dict[str, int]:
    """Split `total` over processes by their in-flight requests; the sum is never above `total`.

    Each process gets at least 1 while there is enough for all; with fewer than one each, the busiest come first.
    Half the average load is added to every process, so that traffic that moves to an idle one is not refused until
    the next reading. Ties are broken by name: equal input gives equal output.
    """
    if total <= 0 or not in_flight:
        return dict.fromkeys(in_flight, 0)
    by_need = sorted(in_flight, key=lambda process: (-in_flight[process], process))
    if total <= len(by_need):
        return {process: int(rank < total) for rank, process in enumerate(by_need)}
    mean = sum(in_flight.values()) / len(in_flight)
    weights = {process: count + max(mean / 2, 1.0) for process, count in in_flight.items()}
    spare, whole = total - len(weights), sum(weights.values())
    return {process: 1 + int(spare * weight / whole) for process, weight in weights.items()}


def growing(total: int, wanted: Mapping[str, int], held: Mapping[str, int]) -> dict[str, int]:
    """What each process may be told, when each may still have what it `held`: less at once, more only out of what
    nobody holds. So what is in force never adds up to more than the total, or than what was held before."""
    free = total - sum(max(0, has) for has in held.values())
    told = {}
    for process, part in sorted(wanted.items()):
        has = held.get(process, 0)
        more = max(0, min(part - has, free))
        told[process] = min(part, has + more)
        free -= more
    return told
