"""What changing the problem is worth where no forecast helps: hints, tenants, shorter starts, work that may wait.

Each pair of runs differs in one thing, on the same demand (synthetic, seeds fixed), at prices A and C.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spillway.decide.provisioning.evidence import Evidence
from spillway.decide.snapshot import Demand, HintWindow
from spillway.simulate import single
from spillway.simulate.economics import BIN_SECONDS, Economics
from spillway.simulate.fleet import Fleet
from spillway.simulate.load import Load, scale
from spillway.simulate.pilots import SpillwayPilot
from spillway.simulate.presets import PRESETS
from spillway.simulate.run import play
from spillway.simulate.score import score
from spillway.simulate.single import KEY
from spillway.simulate.synthetic import Synthetic, generate_split, pattern
from spillway.simulate.traces import Floats, Trace
from spillway.simulate.world import World

DAYS = 3
BINS = DAYS * 8640
FLEET = 6.0


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    demand: str
    prices: str
    without_usd: float
    with_usd: float

    def as_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "demand": self.demand,
            "prices": self.prices,
            "without_usd": round(self.without_usd),
            "with_usd": round(self.with_usd),
            "saves": f"{1 - self.with_usd / self.without_usd:.1%}",
        }


def findings() -> Iterator[Finding]:
    """All of them, one by one."""
    for prices in ("A", "C"):
        economics = PRESETS[prices]()
        yield hints("launches", prices, economics)
        yield hints("periodic-on-off", prices, economics)
        yield tenants(prices, economics)
        yield cancelled_starts(prices, economics)
        for deadline_hours in (0.5, 4.0):
            yield waiting(deadline_hours, prices, economics)
        for name in ("launches", "redrawn-levels", "week"):
            yield halved_start(name, prices, economics)


def usd(world: World, load: Load, pilot: SpillwayPilot | None = None) -> float:
    ledger = play(world, pilot or SpillwayPilot(world))[KEY]
    return score(ledger, load.score_from).usd


def demand(name: str, economics: Economics) -> Load:
    trace = weekly() if name == "week" else pattern(name, BINS, 0)
    return scale(trace, economics, FLEET, 0)


def weekly() -> Trace:
    """The first days of the default week."""
    return generate_split(replace(Synthetic(), bins=BINS), 0).trace


def with_deployment(world: World, **changes: Any) -> World:
    return replace(world, deployments=(replace(world.deployments[0], **changes),))


def hints(name: str, prices: str, economics: Economics) -> Finding:
    """Somebody who knows when demand will rise, and to about what, says so: the whole replicas of each level."""
    load = demand(name, economics)
    world = single.world(load, economics)
    hour = 360
    smooth = np.convolve(np.pad(load.work, 15, mode="edge"), np.ones(31) / 31, "valid")
    level = np.floor(smooth * 1.05).astype(int)
    windows, begin = [], 0
    for at in range(1, len(level) + 1):
        if at == len(level) or level[at] != level[begin]:
            # What rises for less than two minutes is noise, which nobody announces.
            if level[begin] > 0 and at - begin >= 12:
                windows.append(
                    HintWindow(begin * BIN_SECONDS, min(at, begin + 24 * hour) * BIN_SECONDS, int(level[begin]))
                )
            begin = at
    return Finding("hints", name, prices, usd(world, load), usd(with_deployment(world, hints=tuple(windows)), load))


class TenantPilot(SpillwayPilot):
    """Sees each tenant's rate, and so what is to be expected a cold start later: of each tenant what it sends while it
    is on, times how often it was on so much later when it was as it is now."""

    def __init__(self, world: World, work_by_tenant: Floats, delay_bins: int) -> None:
        super().__init__(world)
        self._work, self._delay = work_by_tenant, delay_bins

    def _demand(self, fleet: Fleet, now: int) -> Demand | None:
        seen = super()._demand(fleet, now)
        if seen is None or now <= 2 * self._delay or seen.requests_per_second <= 0:
            return seen
        begin, until = self._window(now)
        rates = self._work[:, begin:until].mean(axis=1)
        past = self._work[:, max(0, now - 8640) : now]
        on = past > 0
        size = past.sum(axis=1) / np.maximum(on.sum(axis=1), 1)
        then, later = on[:, : -self._delay], on[:, self._delay :]
        stays = ((then & later).sum(axis=1) + 1.0) / (then.sum(axis=1) + 1.0)
        comes = (~then & later).sum(axis=1) / ((~then).sum(axis=1) + 1.0)
        expected = float((size * np.where(rates > 0, stays, comes)).sum())
        return replace(seen, requests_per_second=seen.requests_per_second * expected / float(rates.sum()))


def tenants(prices: str, economics: Economics) -> Finding:
    """Batch tenants that send for five minutes and tenants that send for hours: their sum tells nobody who is who."""
    base = replace(Synthetic(), bins=BINS, peak_to_trough=1.0, weekend_factor=1.0, spikes_per_day=0.0, arrival_cv=1.0)
    quick = replace(base, tenants=8, tenants_share=0.8, tenant_on_minutes=5.0, tenant_off_minutes=40.0)
    slow = replace(base, tenants=6, tenants_share=1.5, tenant_on_minutes=240.0, tenant_off_minutes=360.0)
    parts = [generate_split(quick, 1), generate_split(slow, 2)]
    # Row 0 of a split is everyday traffic: that of one is enough.
    rows = [(parts[0].requests[1:], parts[1].requests), (parts[0].input_tokens[1:], parts[1].input_tokens)]
    rows.append((parts[0].output_tokens[1:], parts[1].output_tokens))
    requests, inputs, outputs = (np.vstack(both) for both in rows)
    trace = Trace("tenants", requests.sum(axis=0), inputs.sum(axis=0), outputs.sum(axis=0))
    natural = scale(trace, economics)
    load = scale(
        trace, economics, max(FLEET, 0.81 * natural.natural_fleet), 0
    )  # not thinned: tenants stay who they are
    work = (inputs / economics.prefill_tokens_per_second + outputs / economics.decode_tokens_per_second) / BIN_SECONDS
    work = work * (load.work.sum() / work.sum())
    world = single.world(load, economics)
    pilot = TenantPilot(world, work[:, : len(load)], economics.delay_bins)
    return Finding("rates by tenant", "tenants", prices, usd(world, load), usd(world, load, pilot))


def cancelled_starts(prices: str, economics: Economics) -> Finding:
    """A replica that is not ready yet may be given up when it is no longer needed, where a minute is the least that
    is billed."""
    economics = replace(economics, minimum_billing_seconds=60.0)
    load = demand("redrawn-levels", economics)
    world = single.world(load, economics)
    without = usd(world, load)
    held = Evidence.may_stop
    try:
        Evidence.may_stop = property(lambda self: self.youngest_seconds >= self.minimum_seconds)  # type: ignore[assignment,method-assign]
        return Finding("cancelled starts", "redrawn-levels", prices, without, usd(world, load))
    finally:
        Evidence.may_stop = held  # type: ignore[method-assign]


def waiting(deadline_hours: float, prices: str, economics: Economics) -> Finding:
    """A third of the work may wait until its deadline: it fills what the replicas have left."""
    load = demand("week", economics)
    world = single.world(load, economics)
    patient = with_deployment(world, deferrable_share=1 / 3, deadline_seconds=deadline_hours * 3600)
    what = f"a third may wait {deadline_hours:g} h"
    return Finding(what, "week", prices, usd(world, load), usd(patient, load))


def halved_start(name: str, prices: str, economics: Economics) -> Finding:
    """Five minutes instead of ten from asking to ready."""
    load = demand(name, economics)
    faster = replace(economics, delay_seconds=economics.delay_seconds / 2)
    return Finding(
        "half the cold start",
        name,
        prices,
        usd(single.world(load, economics), load),
        usd(single.world(load, faster), load),
    )
