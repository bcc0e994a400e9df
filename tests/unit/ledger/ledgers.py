"""What several tests of the ledger need: books of realistic size, a request to adjust."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from decimal import Decimal

from spillway.ledger.book import Amount, Book, Entry, Key, add

ENTRY = {
    "day": "2026-11-26",
    "namespace": "chat",
    "deployment": "glm-5",
    "provider": "zai",
    "model": "glm-5",
    "usd": "-1.77",
    "reason": "invoice 4711",
    "by": "ada",
}
"""A request to adjust, as people write it into ConfigMap `spillway-adjustments`."""


def busy_book(deployments: int, now: datetime, days: int = 45) -> Book:
    """Every deployment spends on one provider and one pool in every quarter-hour of the last `days`."""
    dice = random.Random(7)
    names = [(f"team-{number % 20}", f"model-{number}") for number in range(deployments)]
    keys = [Key(*name, "external", "zai", "glm-5") for name in names]
    keys += [Key(*name, "gpu", "blackwell-b200", "glm-5") for name in names]
    entries = (
        Entry(int((now - timedelta(minutes=15 * quarter)).timestamp()), key, _amount(key, usd, dice.randrange(10**6)))
        for quarter in range(days * 96)
        for key in keys
        for usd in [Decimal(dice.randrange(10**9)).scaleb(-8)]
    )
    return add(Book(), entries, int(now.timestamp()))


def _amount(key: Key, usd: Decimal, quantity: int) -> Amount:
    return Amount(usd, quantity, usd) if key.source == "external" else Amount(usd, gpu_seconds=quantity)
