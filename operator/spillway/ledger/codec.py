"""The book as JSON and back. Money is text, so no float ever touches it; anything unexpected is `CorruptLedger`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple, TypeVar

from .adjustment import NAMES, Adjustment, Settled
from .book import (
    Amount,
    Book,
    Counter,
    Counts,
    IdleMark,
    Key,
    Pair,
    PodMark,
    Process,
    ProviderModel,
    Span,
    Watermark,
    hour_of,
)
from .external import UNTOLD
from .learned import Learned, Line
from .price import Price, Rates, Tier

VERSION: Final = 1
PAGED_VERSION: Final = 2
"""Of a ledger whose closed time lies in pages: those who know of none must not take what is left for all of it."""
CORRECTION: Final = re.compile(r"(.*) \(adjustment ([-._a-zA-Z0-9]+)\)", re.DOTALL)
"""A correction's model and id, as a key has them: operators of before take it for another model and keep it."""

PROMPTS: Final = "prompts"
ANSWERS: Final = "answers"

K = TypeVar("K", bound=tuple[Any, ...])


class CorruptLedger(Exception):
    """What is stored is not a ledger this version can read. Never treat it as empty: that would forget spent money."""


class PageRef(NamedTuple):
    """Where a page lies: the number of its object, and its name there, which is the digest of what it holds."""

    place: int
    name: str


def encode(book: Book, pages: Sequence[PageRef] = ()) -> str:
    """Compact JSON, equal for equal books: names stand once in `keys` and `counters`, rows refer to them by index.
    `pages` hold the rest of the book's time."""
    keys = sorted(
        {key for bucket in book.spans.values() for key in bucket}
        | {key for bucket in book.minutes.values() for key in bucket}
        | {mark.key for mark in book.pods.values()}
    )
    counters = sorted({counter for mark in book.gateways.values() for counter in mark.counts})
    key_index = {key: index for index, key in enumerate(keys)}
    counter_index = {counter: index for index, counter in enumerate(counters)}
    document: dict[str, Any] = {
        "version": PAGED_VERSION if pages else VERSION,
        "keys": [_key_row(key) for key in keys],
        "counters": [_counter_row(counter) for counter in counters],
        "spans": [
            [*span, [[key_index[key], *_amount_row(key, bucket[key])] for key in sorted(bucket)]]
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
            [*owner, mark.read_at.isoformat(), [[counter_index[c], *mark.counts[c][:6]] for c in sorted(mark.counts)]]
            for owner, mark in sorted(book.gateways.items())
        ],
        "cacheWrites": [
            [*owner, [[counter_index[c], n] for c in sorted(mark.counts) if (n := mark.counts[c].cache_write_tokens)]]
            for owner, mark in sorted(book.gateways.items())
            if any(counts.cache_write_tokens for counts in mark.counts.values())
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
            [*what, x.prompt.n, x.prompt.y, x.completion.y, x.prompt.x, x.completion.x]
            for what, x in sorted(book.learned.items())
        ],
        "lines": [
            [*what, of, answer, *astuple(line)]
            for what, x in sorted(book.learned.items())
            for of, lines in ((PROMPTS, x.prompts), (ANSWERS, x.answers))
            for answer, line in sorted(lines.items())
        ],
        "prices": [
            [*what, str(price.input), str(price.cached_input), str(price.output)]
            for what, price in sorted(book.prices.items())
        ],
        "cacheWritePrices": [
            [*what, str(price.cache_write)]
            for what, price in sorted(book.prices.items())
            if price.cache_write is not None
        ],
        "priceTiers": [
            [*what, tier.above_input_tokens, *(str(rate) for rate in tier.rates)]
            for what, price in sorted(book.prices.items())
            for tier in price.tiers
        ],
        "adjustments": [_settled_row(ref, settled) for ref, settled in sorted(book.adjustments.items())],
        "idle": [
            [pool, m.gpus, str(m.usd_per_gpu_hour), m.until, m.gpu_seconds] for pool, m in sorted(book.idle.items())
        ],
    }
    if pages:
        document["pages"] = sorted(pages)
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def decode(text: str) -> Book:
    """The book that `encode` wrote without pages. Raises `CorruptLedger` for anything else, in words."""
    book, pages = decode_paged(text)
    if pages:
        raise CorruptLedger("a part of this ledger lies in pages, which have none themselves")
    return book


def decode_paged(text: str) -> tuple[Book, tuple[PageRef, ...]]:
    """The book that `encode` wrote, but for what lies in the pages that are named. Raises `CorruptLedger`."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptLedger(f"the ledger is not JSON: {error}") from error
    version = document.get("version") if isinstance(document, dict) else None
    if version not in (VERSION, PAGED_VERSION):
        raise CorruptLedger(
            f"the ledger has version {version!r}, this operator reads versions {VERSION} and {PAGED_VERSION}"
        )
    try:
        pages = tuple(PageRef(_whole(n), _text(name)) for n, name in document["pages"]) if version != VERSION else ()
        return _book(document), pages
    except (KeyError, IndexError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise CorruptLedger(f"the ledger's content is damaged: {type(error).__name__}: {error}") from error


def _book(document: Mapping[str, Any]) -> Book:
    keys = [_key(*row) for row in document["keys"]]
    if any(key.source not in ("external", "gpu") for key in keys):
        raise ValueError("a key's source is neither external nor gpu")
    counters = [_counter(row) for row in document["counters"]]
    # What ledgers of before do not have, they who wrote them pass over in ours: `get`, not `[]`.
    written = {
        (_names(Process, [pod, process]), _at(counters, index)): _whole(tokens)
        for pod, process, rows in document.get("cacheWrites", [])
        for index, tokens in rows
    }
    spans = {
        Span(_whole(start), _whole(quarters)): {
            (key := _at(keys, index)): _amount(key, _usd(usd), _whole(quantity), _usd(estimated))
            for index, usd, quantity, estimated in rows
        }
        for start, quarters, rows in document["spans"]
    }
    hour = document.get("hour")
    return Book(
        spans=spans,
        minutes={_whole(minute): {_at(keys, i): _usd(usd) for i, usd in rows} for minute, rows in document["minutes"]},
        hour=hour_of(spans)
        if hour is None
        else {_whole(minute): {_text(n): _usd(usd) for n, usd in rows} for minute, rows in hour},
        gateways={
            _names(Process, [pod, process]): Watermark(
                _moment(read_at),
                {
                    (counter := _at(counters, index)): Counts(*(_whole(n) for n in counts))._replace(
                        cache_write_tokens=written.get((Process(pod, process), counter), 0)
                    )
                    for index, *counts in rows
                },
            )
            for pod, process, read_at, rows in document["gateways"]
        },
        caps={
            _names(Process, [pod, process]): {_names(Pair, names): _whole(cap) for *names, cap in rows}
            for pod, process, rows in document.get("caps", [])
        },
        leases={
            _names(Process, [pod, process]): _whole(seconds) for pod, process, seconds in document.get("leases", [])
        },
        pods={_text(uid): _pod(keys, row) for uid, *row in document["pods"]},
        learned=_learned(document),
        prices=_prices(document),
        # Those who know neither of the two drop both: what was applied is still known by its amount, and idle GPUs
        # are charged from when they are seen again.
        adjustments=dict(_settled(*row) for row in document.get("adjustments", [])),
        idle={
            _text(pool): IdleMark(_whole(gpus), _usd(price), _whole(until), _whole(gpu_seconds))
            for pool, gpus, price, until, gpu_seconds in document.get("idle", [])
        },
    )


def _counter_row(counter: Counter) -> list[str]:
    """The kind of answer, and the tier or the most bytes, stand in the outcome, so that the row is one that every
    version can read."""
    *names, outcome, tier, answer, most_bytes = counter
    label = f"{outcome}/{answer}" if answer else outcome
    return [*names, f"{label}:{number}" if (number := tier or most_bytes) else label]


def _counter(row: list[Any]) -> Counter:
    namespace, deployment, provider, model, text = (_text(name) for name in row)
    label, _, number = text.partition(":")
    outcome, _, answer = label.partition("/")
    tier, most_bytes = (0, int(number or 0)) if outcome in UNTOLD else (int(number or 0), 0)
    return Counter(namespace, deployment, provider, model, outcome, tier, answer, most_bytes)


def _key_row(key: Key) -> list[str]:
    *names, model, ref = key
    return [*names, f"{model} (adjustment {ref})" if ref else model]


def _key(*names: Any) -> Key:
    key = _names(Key, [*names])
    if len(names) != len(Key._fields) - 1:
        raise ValueError(f"a key has {len(names)} names")
    correction = CORRECTION.fullmatch(key.model)
    return key._replace(model=correction[1], adjustment=correction[2]) if correction else key


def _amount_row(key: Key, amount: Amount) -> list[str | int]:
    """The quantity is what the source sells: tokens, or seconds of a GPU."""
    return [str(amount.usd), amount.gpu_seconds if key.source == "gpu" else amount.tokens, str(amount.estimated_usd)]


def _amount(key: Key, usd: Decimal, quantity: int, estimated: Decimal) -> Amount:
    return Amount(usd, 0, estimated, quantity) if key.source == "gpu" else Amount(usd, quantity, estimated)


def _settled_row(ref: str, settled: Settled) -> list[Any]:
    row = [ref, settled.adjustment.document(), settled.at.isoformat(), str(settled.usd)]
    return [*row, settled.refusal] if settled.refusal else row


def _settled(ref: Any, document: Mapping[str, Any], at: Any, usd: Any, refusal: Any = "") -> tuple[str, Settled]:
    usd_asked, to = (_usd(document[name]) if name in document else None for name in ("usd", "to"))
    names = {name: _text(document[name]) for name in ("day", *NAMES, "reason", "by")}
    adjustment = Adjustment(**names, usd=usd_asked, to=to, time_zone=_text(document["timeZone"]))
    return _text(ref), Settled(adjustment, _moment(at), _usd(usd), _text(refusal))


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


def _learned(document: Mapping[str, Any]) -> dict[ProviderModel, Learned]:
    """Ledgers of before have sums alone: as if all had been seen at once."""
    lines: dict[ProviderModel, dict[str, dict[str, Line]]] = {}
    for provider, model, of, answer, *numbers in document.get("lines", []):
        own = lines.setdefault(_names(ProviderModel, [provider, model]), {PROMPTS: {}, ANSWERS: {}})
        own[of][_text(answer)] = Line(*(float(number) for number in numbers))
    found = {}
    for row in document["learned"]:
        what = _names(ProviderModel, row[:2])
        n, prompt_tokens, completion_tokens, request_bytes, response_bytes = (float(number) for number in row[2:])
        known = lines.get(what) or {
            PROMPTS: {"": Line.of(n, request_bytes, prompt_tokens)},
            ANSWERS: {"": Line.of(n, response_bytes, completion_tokens)},
        }
        found[what] = Learned(known[PROMPTS], known[ANSWERS])
    return found


def _prices(document: Mapping[str, Any]) -> dict[ProviderModel, Price]:
    written = {_names(ProviderModel, row[:2]): _usd(row[2]) for row in document.get("cacheWritePrices", [])}
    tiers: dict[ProviderModel, list[Tier]] = {}
    for provider, model, above, *rates in document.get("priceTiers", []):
        tier = Tier(_whole(above), Rates(*(_usd(rate) for rate in rates)))
        tiers.setdefault(_names(ProviderModel, [provider, model]), []).append(tier)
    return {
        (what := _names(ProviderModel, row[:2])): replace(
            _price(*row[2:]), cache_write=written.get(what), tiers=tuple(tiers.get(what, ()))
        )
        for row in document["prices"]
    }


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
