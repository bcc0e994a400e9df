"""Counters of one gateway process at one provider, as the ledger reads them, and what came of them."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from spillway.ledger.book import Book, Key, ProviderModel, total
from spillway.ledger.external import EgressSample, Outcome
from spillway.ledger.price import Price

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
ZAI = ProviderModel("zai", "glm-5")
PRICES = {ZAI: Price(Decimal("1.00"), Decimal("0.20"), Decimal("3.20"))}
FLAT = PRICES[ZAI].base
KEY = Key("chat", "glm-5", "external", "zai", "glm-5")


def sample(
    outcome: Outcome = "metered",
    requests: int = 0,
    prompt_tokens: int = 0,
    completion_tokens: int = 0,
    cached_tokens: int = 0,
    request_bytes: int = 0,
    response_bytes: int = 0,
    cache_write_tokens: int = 0,
    tier: int = 0,
    answer: str = "",
    most_bytes: int = 0,
) -> EgressSample:
    counts = (
        requests,
        prompt_tokens,
        completion_tokens,
        cached_tokens,
        request_bytes,
        response_bytes,
        cache_write_tokens,
    )
    return EgressSample("chat", "glm-5", "zai", "glm-5", outcome, *counts, tier, answer, most_bytes)


def spent(book: Book) -> Decimal:
    return sum((amount.usd for amount in total(book).values()), Decimal(0))
