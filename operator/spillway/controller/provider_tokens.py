"""`limits.tokensPerMinute`: how many requests may be in flight so that a provider's tokens of a minute stay within it.

Tokens are known when an answer ends, so this is control and no bound: what was taken in the last minute, and what is in
flight at the mean of a request, together stay within the limit. A single long answer may pass it by its own length.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from spillway.api import ExternalProvider
from spillway.gateway.share import share
from spillway.ledger import Pair, ProviderModel
from spillway.ledger.learned import Learned
from spillway.observe.demand import PRIOR_INPUT_TOKENS, PRIOR_OUTPUT_TOKENS

WINDOW_SECONDS = 60.0
PRIOR_TOKENS = PRIOR_INPUT_TOKENS + PRIOR_OUTPUT_TOKENS
"""Of a request before the first answer: the means that demand starts from."""


class TokensLately:
    """Tokens of the last minute by provider. A new leader begins with none: it does not know the minute before it."""

    def __init__(self) -> None:
        self._rounds: list[tuple[float, Mapping[str, int]]] = []

    def note(self, sums: Mapping[str, int], now: float) -> None:
        """Take the ledger's tokens of all time, by provider. `now`: any clock's seconds."""
        self._rounds.append((now, sums))
        while len(self._rounds) > 2 and self._rounds[1][0] <= now - WINDOW_SECONDS:
            self._rounds.pop(0)

    def of(self, provider: str) -> int:
        """Tokens within the window, and not less than none: a ledger that was read again may know of fewer."""
        if not self._rounds:
            return 0
        return max(0, self._rounds[-1][1].get(provider, 0) - self._rounds[0][1].get(provider, 0))


def limited(
    providers: Mapping[str, ExternalProvider],
    in_flight: Mapping[Pair, int],
    lately: TokensLately,
    learned: Mapping[ProviderModel, Learned],
) -> dict[Pair, tuple[int, str]]:
    """Requests that each pair may have in flight, and why not more in words; only pairs of providers with a limit."""
    found: dict[Pair, tuple[int, str]] = {}
    for name, provider in providers.items():
        limit = provider.spec.limits.tokens_per_minute
        own = sorted(pair for pair in in_flight if pair.provider == name)
        if limit is None or not own:
            continue
        used = lately.of(name)
        slots = math.floor(max(0, limit - used) / _mean(own, in_flight, learned))
        names = {str(number): in_flight[pair] for number, pair in enumerate(own)}
        shares = share(slots, names)
        words = (
            f"ExternalProvider {name} took {used:,} tokens in the last minute, and limits.tokensPerMinute is "
            f"{limit:,}: no further request goes there until there is room"
        )
        found.update((pair, (shares[str(number)], words)) for number, pair in enumerate(own))
    return found


def _mean(pairs: Iterable[Pair], in_flight: Mapping[Pair, int], learned: Mapping[ProviderModel, Learned]) -> float:
    """Tokens of a request, the pairs weighted by what they have in flight."""
    tokens = weights = 0.0
    for pair in pairs:
        known, weight = learned.get(ProviderModel(pair.provider, pair.model)), in_flight[pair] + 1
        each = (known.tokens_per_request if known else None) or PRIOR_TOKENS
        tokens, weights = tokens + weight * each, weights + weight
    return tokens / weights
