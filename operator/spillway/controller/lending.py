"""What gateways may go on spending without a word from us, and that the stored ledger knows it before they do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from spillway.gateway import runtime
from spillway.gateway.names import external_cluster
from spillway.ledger import LEASES_SECONDS, Book, Pair, lend
from spillway.observe.money import Leased, Money

SHORTEST = LEASES_SECONDS[0]

Leases = Mapping[str, Mapping[str, runtime.Leased]]
"""What gateway processes are known to have been lent, by process and external cluster."""


def cluster_of(pair: Pair) -> str:
    """The gateways' name of a pair."""
    return external_cluster((pair.provider, pair.model), f"{pair.namespace}/{pair.deployment}")


def leased(book: Book, known: Leases, pairs: Iterable[Pair]) -> dict[Pair, Leased]:
    """Of each pair, what all gateway processes may hold by more than the shortest lease. Of a process that has not told
    us yet only the book knows: all that it was allowed may have the longest lease that it had."""
    found: dict[Pair, Leased] = {}
    for pair in pairs:
        name, cap, longest = cluster_of(pair), 0, 0
        for owner in book.gateways:
            if owner.process in known:
                has = known[owner.process].get(name, runtime.Leased(0, 0))
            else:
                has = runtime.Leased(book.caps.get(owner, {}).get(pair, 0), book.leases.get(owner, SHORTEST))
            if has.cap and has.seconds > SHORTEST:
                cap, longest = cap + has.cap, max(longest, has.seconds)
        if cap:
            found[pair] = Leased(cap, longest)
    return found


def lent(book: Book, known: Leases, view: Money) -> Book:
    """The book that knows the longest lease that each process may have once the view is in force."""
    spending = {pair.namespace for pair, cap in view.caps.items() if cap}
    coming = max((lease for n, lease in view.lease_seconds.items() if n in spending), default=SHORTEST)
    for owner in book.gateways:
        if owner.process in known:
            has = max((one.seconds for one in known[owner.process].values()), default=0)
        else:
            has = book.leases.get(owner, 0)
        book = lend(book, owner, max(coming, has))
    return book


def allows_more(book: Book, stored: Book | None) -> bool:
    """Whether a gateway process is allowed more, or for longer, than the stored ledger knows."""
    known = stored if stored is not None else Book()
    more = any(
        cap > known.caps.get(owner, {}).get(pair, 0)
        for owner, allowed in book.caps.items()
        for pair, cap in allowed.items()
    )
    return more or any(seconds > known.leases.get(owner, SHORTEST) for owner, seconds in book.leases.items())


def no_more_than(view: Money, before: Money) -> Money:
    """The view without any cap or lease that is more than it was."""
    return replace(
        view,
        caps={pair: min(cap, before.caps.get(pair, 0)) for pair, cap in view.caps.items()},
        lease_seconds={n: min(lease, before.lease_seconds.get(n, SHORTEST)) for n, lease in view.lease_seconds.items()},
    )
