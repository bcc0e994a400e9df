"""What a busy ledger costs the leader: a look at all budgets by sums that follow the book, adding all up, a write, and
what a new leader needs to read it.

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

from spillway.ledger import Amount, Book, Budget, Key, Pair, Policy, Process, Sums, fold, statement, total
from spillway.ledger.book import (
    BURN_MINUTES,
    QUARTER_SECONDS,
    QUARTERS_PER_DAY,
    Counter,
    Counts,
    Entry,
    PodMark,
    Span,
    Watermark,
    add,
    coarse_span,
)
from spillway.ledger.pages import unpacked
from spillway.ledger.stored import PLACES, Content, Room, Stored, laid_out, pack, unpack

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
OUTCOMES = (
    ("metered", "json"),
    ("metered", "stream"),
    ("doubtful", "stream"),
    ("unmetered", "stream"),
    ("left", "stream"),
    ("refused", ""),
)
DAYS, TEAMS, GATEWAYS, LOOKS, SEED = 45, 20, 2, 10, 7


def busy(deployments: int) -> Book:
    """The book of so many deployments, folded as it is stored."""
    dice = random.Random(SEED)
    names = [(f"team-{number % TEAMS}", f"model-{number}") for number in range(deployments)]
    keys = [Key(*name, "external", "zai", "glm-5") for name in names]
    keys += [Key(*name, "gpu", "blackwell-b200", "glm-5") for name in names]
    last = int(NOW.timestamp()) // QUARTER_SECONDS
    spans = {coarse_span(Span(last - n, 1), NOW) for n in reversed(range(DAYS * QUARTERS_PER_DAY))}
    now = int(NOW.timestamp())
    book = Book(
        spans={
            span: {key: Amount(Decimal(dice.randrange(10**9)).scaleb(-8), dice.randrange(10**6)) for key in keys}
            for span in sorted(spans)
        },
        gateways={
            Process(f"spillway-gateway-{n}", f"life-{n}"): Watermark(
                NOW,
                {
                    Counter(*name, "zai", "glm-5", outcome, answer=answer): Counts(
                        *(dice.randrange(10**8) for _ in range(6))
                    )
                    for name in names
                    for outcome, answer in OUTCOMES
                },
            )
            for n in range(GATEWAYS)
        },
        caps={
            Process(f"spillway-gateway-{n}", f"life-{n}"): {Pair(*name, "zai", "glm-5"): 16 for name in names}
            for n in range(GATEWAYS)
        },
        pods={
            f"{dice.getrandbits(128):032x}": PodMark(key, 8, Decimal("4.20"), 60, now - 9_000, now - 9_000, now)
            for key in keys
            if key.source == "gpu"
        },
    )
    return grown(book)


def policies() -> list[Policy]:
    budgets = (Budget("day", "Day", Decimal(400)), Budget("month", "Month", Decimal(9000)))
    return [Policy(f"team-{n}", frozenset({f"team-{n}"}), budgets, "Europe/Berlin") for n in range(TEAMS)]


def grown(book: Book) -> Book:
    """Everybody has spent in each of the last minutes."""
    keys = sorted({key for bucket in list(book.spans.values())[-1:] for key in bucket})
    seconds = int(NOW.timestamp())
    last = (Entry(seconds - 60 * n, key, Amount(Decimal("0.01"), 100)) for n in range(BURN_MINUTES) for key in keys)
    return add(book, last, seconds)


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
    return {
        "deployments": deployments,
        "amounts": sum(len(bucket) for bucket in book.spans.values()),
        "firstLookMs": round(first, 1),
        "lookMs": round(statistics.median(following), 1),
        "addedUpOnceMs": round(statistics.median(anew), 1),
        **stored(book),
    }


def stored(book: Book) -> dict[str, Any]:
    """A write while the quarter lasts, the one at its end, and reading it all: in milliseconds, with the bytes."""
    if (content := pack(book)) is not None:
        return {
            "writeMs": typical(lambda: pack(book)),
            "readMs": typical(lambda: unpack(Stored.holding(content))),
            "objectBytes": size(content),
            "pages": 0,
        }
    none = [Room()] * len(PLACES)
    began = time.perf_counter()
    layout = laid_out(fold(book, NOW), NOW, {}, none)
    first, following = time.perf_counter() - began, grown(layout.book)
    used = [sum(len(p.packed) for ref, p in layout.pages.items() if ref.place == n) for n in range(len(PLACES))]
    rooms = [Room(held) for held in used]
    later = NOW + timedelta(minutes=15)
    closing = laid_out(fold(following, later), later, layout.pages, rooms)
    new = closing.pages.keys() - layout.pages.keys()
    texts = {ref: page.text for ref, page in layout.pages.items()}
    return {
        "amountsStored": sum(len(bucket) for bucket in layout.book.spans.values()),
        "writeMs": typical(lambda: laid_out(fold(following, NOW), NOW, layout.pages, rooms)),
        "quarterMs": typical(lambda: laid_out(fold(following, later), later, layout.pages, rooms)),
        "quarterPages": len(new),
        "quarterObjects": len({ref.place for ref in new}),
        "splitMs": round(first * 1000),
        "readMs": typical(lambda: [unpacked(ref, {ref.name: text}, "") for ref, text in texts.items()]),
        "objectBytes": size(layout.content),
        "pages": len(layout.pages),
        "pageBytes": sum(used),
        "pageObjects": sum(held > 0 for held in used),
    }


def size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else sum(len(text.encode()) for text in content.values())


def typical(work: Callable[[], Any]) -> float:
    return round(statistics.median(milliseconds(work) for _ in range(3)), 1)


def main() -> int:
    line = argparse.ArgumentParser(prog="bench-ledger", description=__doc__.split("\n")[0] if __doc__ else "")
    line.add_argument("--deployments", type=int, nargs="+", default=[1, 70, 1000], help="that spend around the clock")
    print(json.dumps([measured(n) for n in line.parse_args().deployments], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
