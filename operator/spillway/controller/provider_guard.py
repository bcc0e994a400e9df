"""Providers that refuse for a reason that one request more does not change: nothing is sent there for a while.

A key that is refused, or an account without money, fails every request, and each costs its client a detour. Such a
provider is disabled, for 30 s at first. Then it is on trial: each deployment may have one request at a time there. An
answer opens it again; the same refusal disables it for twice as long. A change of its object starts a trial at once.

It is kept in the leader's memory alone. A new leader starts with a trial of those whose status says that they were
disabled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from spillway.api import ConditionType, ExternalProvider, Reason, find_condition
from spillway.controller.provider_watch import Outcomes

FIRST_SECONDS = 30.0
LONGEST_SECONDS = {Reason.KEY_REFUSED: 300.0, Reason.QUOTA_SPENT: 1800.0}
FORBIDDEN = 3  # answers 403 without any other between them: a single one may speak of one request alone


@dataclass(frozen=True, slots=True)
class Disabled:
    """Nothing is sent before `until` (Unix seconds), then trials. `generation` is that of the object at the time."""

    reason: str
    message: str
    seconds: float
    until: float
    generation: int
    on_trial: bool = False

    @property
    def most(self) -> int:
        """Requests in flight that a deployment may have there."""
        return 1 if self.on_trial else 0


class ProviderGuard:
    """Takes each round's outcomes, and says who is disabled."""

    def __init__(self) -> None:
        self.disabled: dict[str, Disabled] = {}
        self._forbidden: dict[str, int] = {}
        self._opened: dict[str, tuple[Disabled, float]] = {}  # what was, and when it was opened again
        self._known: frozenset[str] = frozenset()

    def note(self, providers: Mapping[str, ExternalProvider], new: Mapping[str, Outcomes], now: float) -> None:
        """One round of readings: `new` is what became of requests since the one before."""
        for name, provider in providers.items():
            if name not in self._known and (before := _stated(provider, now)) is not None:
                self.disabled[name] = before
            self._look(name, provider, new.get(name, Outcomes()), now)
        self._known = frozenset(providers)
        for kept in (self.disabled, self._forbidden, self._opened):
            for name in kept.keys() - self._known:
                del kept[name]

    def _look(self, name: str, provider: ExternalProvider, new: Outcomes, now: float) -> None:
        held, generation = self.disabled.get(name), provider.metadata.generation
        if held is None:
            if reason := self._verdict(name, new):
                self._disable(name, provider, reason, self._last_pause(name, now), now)
        elif generation != held.generation:
            self.disabled[name] = _on_trial(replace(held, generation=generation, until=now), provider)
        elif not held.on_trial:
            if now >= held.until:
                self.disabled[name] = _on_trial(held, provider)
        elif reason := _refused(new):
            self._disable(name, provider, reason, held.seconds, now)
        elif new.proven:
            self._opened[name] = (self.disabled.pop(name), now)
            self._forbidden.pop(name, None)

    def _verdict(self, name: str, new: Outcomes) -> str:
        """Reason to disable an open provider; empty: there is none."""
        others = new.answered + new.failed - new.errors["forbidden"]
        self._forbidden[name] = (0 if others else self._forbidden.get(name, 0)) + new.errors["forbidden"]
        if new.errors["quota"] or new.errors["credentials"]:
            return _refused(new)
        return Reason.KEY_REFUSED if self._forbidden[name] >= FORBIDDEN and not new.proven else ""

    def _last_pause(self, name: str, now: float) -> float:
        """How long it was disabled before, if that did not help: else an old stream that ended in time, or a key that
        works now and then, would start the pauses anew. 0: it has been open for longer since."""
        held, opened = self._opened.get(name, (None, 0.0))
        return held.seconds if held is not None and now - opened < held.seconds else 0.0

    def _disable(self, name: str, provider: ExternalProvider, reason: str, last: float, now: float) -> None:
        seconds = min(max(2 * last, FIRST_SECONDS), LONGEST_SECONDS[reason])
        until = datetime.fromtimestamp(now + seconds, UTC).strftime("%H:%M:%S UTC")
        self.disabled[name] = Disabled(
            reason,
            f"{_what(reason, provider)}: nothing is sent there until {until}, then one request at a time as a trial. "
            f"{_remedy(reason, provider)}; to have it tried at once set spec.suspend to true and back",
            seconds,
            now + seconds,
            provider.metadata.generation,
        )
        self._forbidden.pop(name, None)


def _refused(new: Outcomes) -> str:
    if new.errors["quota"]:
        return Reason.QUOTA_SPENT
    return Reason.KEY_REFUSED if new.errors["credentials"] or new.errors["forbidden"] else ""


def _what(reason: str, provider: ExternalProvider) -> str:
    name = provider.metadata.name
    if reason == Reason.QUOTA_SPENT:
        return f"ExternalProvider {name} says that its account has no money or no quota left"
    return f"ExternalProvider {name} refuses the key {provider.spec.credentials.key!r}"


def _remedy(reason: str, provider: ExternalProvider) -> str:
    if reason == Reason.QUOTA_SPENT:
        return "Top the account up, or name another provider"
    key = provider.spec.credentials.key
    return f"Put a key that it takes at {key!r} of Secret spillway-provider-keys, with the rights that it needs"


def _on_trial(held: Disabled, provider: ExternalProvider) -> Disabled:
    message = (
        f"{_what(held.reason, provider)}: one request at a time is sent there as a trial, until one is answered. "
        f"{_remedy(held.reason, provider)}"
    )
    return replace(held, message=message, on_trial=True)


def _stated(provider: ExternalProvider, now: float) -> Disabled | None:
    """What another leader's words in its status come to."""
    healthy = find_condition(provider.status.conditions, ConditionType.HEALTHY)
    if healthy is None or healthy.status != "False" or healthy.reason not in LONGEST_SECONDS:
        return None
    reason, generation = healthy.reason, provider.metadata.generation
    return _on_trial(Disabled(reason, "", FIRST_SECONDS, now, generation), provider)
