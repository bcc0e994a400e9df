"""What a busy ledger costs the leader: a look at all budgets by sums that follow the book, adding all up, a write.

`python -m e2e.bench.ledger` prints JSON. Every deployment spends on one provider and one pool in each quarter-hour of
45 days, so that this is the most that there can be; 20 policies have a day and a month each.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from spillway.ledger import Amount, Book, Budget, Key, Policy, Sums, fold, statement, total
from spillway.ledger.book import Entry, add
from spillway.ledger.store import pack

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAYS, TEAMS, LOOKS, SEED = 45, 20, 10, 7


def busy(deployments: int) -> Book:
    """The book of so many deployments, folded as it is stored."""
    dice, book = random.Random(SEED), Book()
    names = [(f"team-{number % TEAMS}", f"model-{number}") for number in range(deployments)]
    keys = [Key(*name, "external", "zai", "glm-5") for name in names]
    keys += [Key(*name, "gpu", "blackwell-b200", "glm-5") for name in names]
    for day in reversed(range(DAYS)):
        moments = [NOW - timedelta(days=day, minutes=15 * quarter) for quarter in reversed(range(96))]
        entries = [
            Entry(
                int(moment.timestamp()), key, Amount(Decimal(dice.randrange(10**9)).scaleb(-8), dice.randrange(10**6))
            )
            for moment in moments
            for key in keys
        ]
        book = fold(add(book, entries, int(NOW.timestamp())), NOW)
    return book


def policies() -> list[Policy]:
    budgets = (Budget("day", "Day", Decimal(400)), Budget("month", "Month", Decimal(9000)))
    return [Policy(f"team-{n}", frozenset({f"team-{n}"}), budgets, "Europe/Berlin") for n in range(TEAMS)]


def grown(book: Book) -> Book:
    """Two seconds later: everybody has spent."""
    keys = {key for bucket in list(book.spans.values())[-1:] for key in bucket}
    return add(book, [Entry(int(NOW.timestamp()), key, Amount(Decimal("0.01"), 100)) for key in sorted(keys)],
               int(NOW.timestamp()))  # fmt: skip


def milliseconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def measured(deployments: int) -> dict[str, Any]:
    book, sums, own = busy(deployments), Sums(), policies()
    first = milliseconds(lambda: [statement(book, policy, NOW, sums) for policy in own])
    following, anew = [], []
    for _ in range(LOOKS):
        book = grown(book)
        following.append(milliseconds(lambda: [statement(book, policy, NOW, sums) for policy in own]))  # noqa: B023
        anew.append(milliseconds(lambda: total(book)))  # noqa: B023
    packed = pack(book)
    return {
        "deployments": deployments,
        "amounts": sum(len(bucket) for bucket in book.spans.values()),
        "firstLookMs": round(first, 1),
        "lookMs": round(statistics.median(following), 1),
        "addedUpOnceMs": round(statistics.median(anew), 1),
        "writeMs": round(statistics.median(milliseconds(lambda: pack(book)) for _ in range(3)), 1),
        "objectBytes": len(packed) if isinstance(packed, bytes) else None,
    }


def main() -> int:
    line = argparse.ArgumentParser(prog="bench-ledger", description=__doc__.split("\n")[0] if __doc__ else "")
    line.add_argument("--deployments", type=int, nargs="+", default=[1, 20, 70], help="that spend around the clock")
    print(json.dumps([measured(n) for n in line.parse_args().deployments], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
