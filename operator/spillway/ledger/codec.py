"""The book as JSON and back. Money is text, so no float ever touches it; anything unexpected is `CorruptLedger`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, TypeVar

from .book import (
    Amount,
    Book,
    Counter,
    Counts,
    Key,
    Learned,
    Pair,
    PodMark,
    Price,
    Process,
    ProviderModel,
    Span,
    Watermark,
    hour_of,
)

VERSION: Final = 1

K = TypeVar("K", bound=tuple[Any, ...])


class CorruptLedger(Exception):
    """What is stored is not a ledger this version can read. Never treat it as empty: that would forget spent money."""


def encode(book: Book) -> str:
    """Compact JSON, equal for equal books: names stand once in `keys` and `counters`, rows refer to them by index."""
    keys = sorted(
        {key for bucket in book.spans.values() for key in bucket}
        | {key for bucket in book.minutes.values() for key in bucket}
        | {mark.key for mark in book.pods.values()}
    )
    counters = sorted({counter for mark in book.gateways.values() for counter in mark.counts})
    key_index = {key: index for index, key in enumerate(keys)}
    counter_index = {counter: index for index, counter in enumerate(counters)}
    document = {
        "version": VERSION,
        "keys": keys,
        "counters": counters,
        "spans": [
            [*span, [[key_index[key], *_amount_row(bucket[key])] for key in sorted(bucket)]]
            for span, bucket in sorted(book.spans.items())
        ],
        "minutes": [
            [minute, [[key_index[key], str(bucket[key])] for key in sorted(bucket)]]
            for minute, bucket in sorted(book.minutes.items())
        ],
        "hour": [
            [minute, sorted([n, str(usd)] for n, usd in spent.items())] for minute, spent in sorted(book.hour.items())
        ],
        "gateways": [
            [*owner, mark.read_at.isoformat(), [[counter_index[c], *mark.counts[c]] for c in sorted(mark.counts)]]
            for owner, mark in sorted(book.gateways.items())
        ],
        "caps": [
            [*owner, [[*pair, cap] for pair, cap in sorted(caps.items()) if cap]]
            for owner, caps in sorted(book.caps.items())
        ],
        "leases": [[*owner, seconds] for owner, seconds in sorted(book.leases.items())],
        "pods": [
            [uid, key_index[m.key], m.gpus, str(m.usd_per_gpu_hour), m.minimum_seconds, m.scheduled, m.segment, m.until]
            + ([True] if m.closed else [])
            for uid, m in sorted(book.pods.items())
        ],
        "learned": [
            [*what, x.requests, x.prompt_tokens, x.completion_tokens, x.request_bytes, x.response_bytes]
            for what, x in sorted(book.learned.items())
        ],
        "prices": [
            [*what, str(price.input), str(price.cached_input), str(price.output)]
            for what, price in sorted(book.prices.items())
        ],
    }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def decode(text: str) -> Book:
    """The book that `encode` wrote. Raises `CorruptLedger` for anything else, in words."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptLedger(f"the ledger is not JSON: {error}") from error
    version = document.get("version") if isinstance(document, dict) else None
    if version != VERSION:
        raise CorruptLedger(f"the ledger has version {version!r}, this operator reads version {VERSION}")
    try:
        return _book(document)
    except (KeyError, IndexError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise CorruptLedger(f"the ledger's content is damaged: {type(error).__name__}: {error}") from error


def _book(document: Mapping[str, Any]) -> Book:
    keys = [_names(Key, row) for row in document["keys"]]
    if any(key.source not in ("external", "gpu") for key in keys):
        raise ValueError("a key's source is neither external nor gpu")
    counters = [_names(Counter, row) for row in document["counters"]]
    spans = {
        Span(_whole(start), _whole(quarters)): {
            _at(keys, index): Amount(_usd(usd), _whole(tokens), _usd(estimated))
            for index, usd, tokens, estimated in rows
        }
        for start, quarters, rows in document["spans"]
    }
    hour = document.get("hour")  # not in ledgers of before
    return Book(
        spans=spans,
        minutes={_whole(minute): {_at(keys, i): _usd(usd) for i, usd in rows} for minute, rows in document["minutes"]},
        hour=hour_of(spans)
        if hour is None
        else {_whole(minute): {_text(n): _usd(usd) for n, usd in rows} for minute, rows in hour},
        gateways={
            _names(Process, [pod, process]): Watermark(
                _moment(read_at),
                {_at(counters, index): Counts(*(_whole(n) for n in counts)) for index, *counts in rows},
            )
            for pod, process, read_at, rows in document["gateways"]
        },
        # Ledgers of before have none; those who wrote them pass over ours.
        caps={
            _names(Process, [pod, process]): {_names(Pair, names): _whole(cap) for *names, cap in rows}
            for pod, process, rows in document.get("caps", [])
        },
        leases={
            _names(Process, [pod, process]): _whole(seconds) for pod, process, seconds in document.get("leases", [])
        },
        pods={_text(uid): _pod(keys, row) for uid, *row in document["pods"]},
        learned={
            _names(ProviderModel, row[:2]): Learned(*(float(number) for number in row[2:]))
            for row in document["learned"]
        },
        prices={_names(ProviderModel, row[:2]): _price(*row[2:]) for row in document["prices"]},
    )


def _amount_row(amount: Amount) -> list[str | int]:
    return [str(amount.usd), amount.tokens, str(amount.estimated_usd)]


def _pod(keys: list[Key], row: list[Any]) -> PodMark:
    index, gpus, price, minimum, scheduled, segment, until, *closed = row
    if closed not in ([], [True]):
        raise ValueError("a pod's last column is not true")
    return PodMark(
        _at(keys, index),
        _whole(gpus),
        _usd(price),
        _whole(minimum),
        _whole(scheduled),
        _whole(segment),
        _whole(until),
        bool(closed),
    )


def _price(input_: str, cached_input: str, output: str) -> Price:
    return Price(_usd(input_), _usd(cached_input), _usd(output))


def _names(kind: Callable[..., K], row: list[Any]) -> K:
    return kind(*(_text(name) for name in row))


def _at(table: list[K], index: Any) -> K:
    position = _whole(index)
    if not 0 <= position < len(table):
        raise ValueError(f"index {position} is outside its table")
    return table[position]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _usd(value: Any) -> Decimal:
    amount = Decimal(_text(value))
    if not amount.is_finite():
        raise ValueError(f"{value!r} is not an amount of money")
    return amount


def _moment(value: Any) -> datetime:
    moment = datetime.fromisoformat(_text(value))
    if moment.tzinfo is None:
        raise ValueError(f"{value!r} has no time zone")
    return moment.astimezone(UTC)
