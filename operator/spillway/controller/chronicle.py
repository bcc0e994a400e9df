"""Accounts of decisions for `kubectl spillway explain`: of now, and of a day back, served as JSON by the leader.

`/explain/NAMESPACE/NAME` is the account of the last plan, `?at=UNIXSECONDS` that of the last change before then. An
account is kept when what is wanted, or what limits it, changes, and once an hour; all of them in a bounded store.
"""

from __future__ import annotations

import bisect
import json
import zlib
from collections import deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from spillway.decide import Account, Memory, Plan, Snapshot, account, accounts, encode
from spillway.decide.outcome import DeploymentPlan

KEPT_SECONDS = 86_400.0
KEPT_BYTES = 32 * 10**6  # of all accounts, packed
ANEW_SECONDS = 3600.0  # an account of a deployment in which nothing changes
ADDRESS = "/explain/{namespace}/{name}"


@dataclass(frozen=True, slots=True)
class _Kept:
    time: float
    key: str
    packed: bytes


class Chronicle:
    """Fed with every plan; asked by the health server."""

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: deque[_Kept] = deque()
        self._last: dict[str, tuple[float, Hashable]] = {}  # by key, when an account was kept, and of what
        self._now: tuple[Snapshot, Memory, Plan] | None = None
        self._misfits: Mapping[str, list[dict[str, str]]] = {}

    def take(self, snapshot: Snapshot, memory: Memory, planned: Plan) -> None:
        """One plan, with the memory from before it. Call it off the loop: many changes at once take a while."""
        self._now = (snapshot, memory, planned)
        changed = {}
        for outcome in planned.deployments:
            what = _what(outcome)
            at, before = self._last.get(outcome.key, (float("-inf"), None))
            if what != before or snapshot.time - at >= ANEW_SECONDS:
                changed[outcome.key] = (snapshot.time, what)
        for one in accounts(snapshot, memory, planned, changed.keys(), worth=False).values() if changed else ():
            self._keep(one)
        keys = {outcome.key for outcome in planned.deployments}
        self._last = {key: last for key, last in {**self._last, **changed}.items() if key in keys}
        while self._kept and (
            self._bytes > self._most_bytes or snapshot.time - self._kept[0].time > KEPT_SECONDS + ANEW_SECONDS
        ):
            self._bytes -= len(self._kept.popleft().packed)

    def misfits(self, found: Mapping[str, list[dict[str, str]]]) -> None:
        """What fits on no pool, and why, by deployment: of the last plan."""
        self._misfits = found

    def _keep(self, one: Account) -> None:
        packed = zlib.compress(encode(one).encode())
        self._kept.append(_Kept(one.time, one.key, packed))
        self._bytes += len(packed)

    def answer(self, key: str, at: float | None = None) -> dict[str, Any] | None:
        """`account`, and `misfits`; with `at` also `since` (from when on accounts are kept). None: nothing is known of
        it (then)."""
        if self._now is None:
            return None
        snapshot, memory, planned = self._now
        if at is None or at >= snapshot.time:
            if planned.deployment(key) is None:
                return None
            found = json.loads(encode(account(snapshot, memory, key, planned)))
            return {"account": found, "misfits": self._misfits.get(key, [])}
        kept = list(self._kept)
        end = bisect.bisect_right(kept, at, key=lambda k: k.time)
        one = next((k for k in reversed(kept[:end]) if k.key == key), None)
        found = json.loads(zlib.decompress(one.packed)) if one else None
        return {"account": found, "misfits": [], "since": kept[0].time if kept else snapshot.time}


def _what(outcome: DeploymentPlan) -> Hashable:
    """What somebody would call a change: not the numbers in the words."""
    return (
        tuple(sorted(outcome.desired.items())),
        tuple((d.code, d.variant, d.before, d.after) for d in outcome.decisions),
        tuple((p.provider, p.model, p.permitted, p.reason) for p in outcome.spill.providers),
        tuple((r.provider, r.model, r.permitted, r.reason) for r in outcome.spill.routes),
        outcome.spill.reason,
    )
