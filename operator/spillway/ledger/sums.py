"""Sums that follow a book as it grows, so that what is months old is not added up anew every two seconds."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Final

from .book import Amount, Book, Key, Span, within

ByNamespace = Mapping[str, Mapping[Key, Amount]]
Minutes = Mapping[int, Mapping[Key, Decimal]]

PERIODS_KEPT: Final = 64
"""Periods asked for lately; policies of many zones have a day and a month each. One more is added up from nothing."""


class Sums:
    """What `book.total` gives, by namespace, for books that come one after the other of each other.

    Functions of the ledger leave what they do not touch: a bucket, and an amount in it, that is the same object as at
    the last look has been added already.
    """

    def __init__(self) -> None:
        self._periods: dict[tuple[datetime | None, datetime | None], _Period] = {}
        self._minutes: Mapping[int, Mapping[Key, Decimal]] = {}
        self._minutes_by_namespace: dict[str, dict[int, dict[Key, Decimal]]] = {}

    def of(self, book: Book, start: datetime | None = None, end: datetime | None = None) -> ByNamespace:
        """Sums over the spans that begin in [start, end), by namespace and key. Valid until the next call."""
        period = self._periods.pop((start, end), None) or _Period()
        self._periods[start, end] = period  # the latest is the last
        while len(self._periods) > PERIODS_KEPT:
            del self._periods[next(iter(self._periods))]
        if period.spans is not book.spans:
            period.follow({span: bucket for span, bucket in book.spans.items() if within(span, start, end)})
            period.spans = book.spans
        return period.sums

    def minutes(self, book: Book, namespace: str) -> Minutes:
        """`book.minutes` of one namespace."""
        if book.minutes is not self._minutes:
            self._minutes, found = book.minutes, dict[str, dict[int, dict[Key, Decimal]]]()
            for minute, by_key in book.minutes.items():
                for key, usd in by_key.items():
                    found.setdefault(key.namespace, {}).setdefault(minute, {})[key] = usd
            self._minutes_by_namespace = found
        return self._minutes_by_namespace.get(namespace, {})


class _Period:
    """The buckets that have been added, and their sums."""

    def __init__(self) -> None:
        self.sums: dict[str, dict[Key, Amount]] = {}
        self.spans: Mapping[Span, Mapping[Key, Amount]] | None = None  # of the book that was followed to
        self._added: dict[Span, Mapping[Key, Amount]] = {}

    def follow(self, spans: dict[Span, Mapping[Key, Amount]]) -> None:
        changed = [span for span, bucket in spans.items() if self._added.get(span) is not bucket]
        if self._added.keys() - spans.keys() or any(self._added.get(s, {}).keys() - spans[s].keys() for s in changed):
            # Something was taken away (folded into another bucket): seldom, so that it may cost what it costs.
            self.sums, self._added, changed = {}, {}, list(spans)
        for span in changed:
            before = self._added.get(span, {})
            for key, amount in spans[span].items():
                known = before.get(key)
                if known is not amount:
                    own = self.sums.setdefault(key.namespace, {})
                    more = amount if known is None else amount - known
                    own[key] = own[key] + more if key in own else more
        self._added = spans
