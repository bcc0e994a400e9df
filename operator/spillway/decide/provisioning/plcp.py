"""PLCP: LCP with a forecast that may only start earlier or stop later (reference: docs/adr/0009).

A forecast of the next two hours gives, for each layer, what it would be expected to spill and, by dynamic programming,
whether starting it now, or stopping it now, is the best thing to do. A start that the forecast advises needs `LAMBDA`
of the regret that one without it needs; a stop that it does not advise needs regret down to -beta.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from spillway.decide.provisioning import forecast
from spillway.decide.provisioning.evidence import Evidence, Floats, padded, resampled, trimmed
from spillway.decide.provisioning.forecast import HORIZON, STEP_SECONDS, History
from spillway.decide.provisioning.lcp import ALMOST, NOTHING_USD, adopted, gains

LAMBDA = 0.5  # of beta: the regret that a start needs if the forecast advises it
ADVICE_SECONDS = 120.0  # between two forecasts
RECENT_SECONDS = 180.0  # the level from which a forecast starts
HOUR_SECONDS = 3600.0
SHAPE = (np.arange(5) + 0.5) / 5  # quantiles that stand for the demand within a step


@dataclass(frozen=True, slots=True)
class PlcpState:
    on: int = 0
    regrets_usd: tuple[float, ...] = ()  # by layer, -beta..beta
    history: History = field(default_factory=History)
    recent: tuple[tuple[float, float], ...] = ()  # time and demand of the last hour's ticks
    advised_at: float = 0.0
    starts: tuple[bool, ...] = ()  # by layer: start now
    keeps: tuple[bool, ...] = ()  # by layer: do not stop now
    rule: Literal["plcp"] = "plcp"


def advance(state: PlcpState | None, evidence: Evidence) -> PlcpState:
    """Regrets and advice after this tick, and how many layers are on then."""
    before = state or PlcpState()
    if evidence.seconds > 0:
        before = _observed(before, evidence)
    size = evidence.size(max(len(before.regrets_usd), len(before.starts)))
    beta = evidence.start_usd
    layer = np.arange(size)
    regrets = adopted(before.on, padded(before.regrets_usd, size), evidence) + gains(evidence, size)
    regrets = np.clip(regrets, np.where(layer < evidence.on, -beta, 0.0), beta)
    count = evidence.on
    while count < size and regrets[count] >= beta * (LAMBDA if _of(before.starts, count) else 1.0) * ALMOST:
        regrets[count] = beta
        count += 1
    if count == evidence.on and evidence.may_stop:
        while count > 0 and regrets[count - 1] <= (-beta * ALMOST if _of(before.keeps, count - 1) else NOTHING_USD):
            count -= 1
            regrets[count] = 0.0
    return replace(before, on=count, regrets_usd=trimmed(regrets))


def _of(flags: tuple[bool, ...], layer: int) -> bool:
    return layer < len(flags) and flags[layer]


def _observed(state: PlcpState, evidence: Evidence) -> PlcpState:
    recent = (*state.recent, (evidence.time, evidence.work))
    first = next(i for i, (time, _) in enumerate(recent) if time > evidence.time - HOUR_SECONDS)
    state = replace(
        state,
        history=forecast.observe(state.history, evidence.time - evidence.seconds, evidence.work, evidence.seconds),
        recent=recent[first:],
    )
    if evidence.time - state.advised_at < ADVICE_SECONDS or len(state.history.levels) < 3:
        return state
    starts, keeps = _advice(_expected_usd(state, evidence), evidence)
    return replace(state, advised_at=evidence.time, starts=starts, keeps=keeps)


def _expected_usd(state: PlcpState, evidence: Evidence) -> Floats:
    """What each layer is expected to cost elsewhere while it is off, $ per step, [horizon][layers]."""
    levels = [work for time, work in state.recent if time > evidence.time - RECENT_SECONDS]
    paths = forecast.scenarios(state.history, sum(levels) / len(levels))
    hour = np.array([work for _, work in state.recent])
    ticks = max(1, round(STEP_SECONDS / (HOUR_SECONDS / max(len(hour), 1)))) if len(hour) > 1 else 1
    whole = len(hour) // ticks * ticks
    shape = np.ones(1)
    if whole:
        steps = hour[:whole].reshape(-1, ticks)
        shape = np.quantile((steps / np.maximum(steps.mean(axis=1, keepdims=True), 1e-6)).ravel(), SHAPE)
    most = int(np.ceil(np.quantile(paths.max(axis=1), 0.99) * shape[-1])) + 1
    layers = min(evidence.layers, max(most, evidence.on, 1))
    demand = (paths[:, :, None] * shape).transpose(1, 0, 2).reshape(HORIZON, -1)
    loads = np.clip(demand[:, :, None] - np.arange(layers), 0.0, 1.0).mean(axis=1)
    expected: Floats = evidence.off_usd * STEP_SECONDS * loads / evidence.shares(layers)
    return expected


def _advice(off_usd: Floats, evidence: Evidence) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """By layer, whether to start it now and whether to keep it: backward over the horizon, the states of a layer being
    off, on, and warming with i steps to go."""
    rent = evidence.rent_usd * STEP_SECONDS
    drain = evidence.drain_seconds * evidence.rent_usd
    warm_steps = max(1, int(np.ceil(evidence.delay_seconds / STEP_SECONDS)))
    lasts = off_usd[-4:].mean(axis=0) > rent  # beyond the horizon it goes on as in the last steps
    value_off = np.where(lasts, rent * warm_steps + drain, 0.0)
    value_warm = [np.where(lasts, rent * i, drain) for i in range(warm_steps + 1)]
    on = stay = start = value_off
    for step in range(len(off_usd) - 1, -1, -1):
        on = rent + np.minimum(value_warm[0], value_off + drain)
        warm = [on, *(rent + off_usd[step] + value_warm[i - 1] for i in range(1, warm_steps + 1))]
        stay, start = off_usd[step] + value_off, warm[warm_steps]
        value_off, value_warm = np.minimum(stay, start), warm
    return tuple((start < stay).tolist()), tuple((on <= stay + drain).tolist())


def rescale(state: PlcpState, ratio: float, start_usd_ratio: float) -> PlcpState:
    """The same evidence in units of another variant; the next advice comes with the next tick."""
    history = replace(
        state.history,
        levels=tuple(level * ratio for level in state.history.levels),
        work_seconds=state.history.work_seconds * ratio,
    )
    return replace(
        state,
        on=max(round(state.on * ratio), 1) if state.on else 0,
        regrets_usd=resampled(state.regrets_usd, ratio, start_usd_ratio),
        history=history,
        recent=tuple((time, work * ratio) for time, work in state.recent),
        advised_at=0.0,
        starts=(),
        keeps=(),
    )
