"""Demand of the next two hours, from its own history, in steps of five minutes.

Five experts give a path of log demand from the present level: as now, damped trend of the last half hour, as yesterday,
as the mean of past days, as a week ago; they are mixed by their recent squared errors a quarter of an hour ahead.
Scenarios are the mixed path plus the errors that such paths had lately, picked evenly, without chance, so that nothing
flickers from tick to tick. Of the state only what cannot be computed again is kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from spillway.decide.provisioning.evidence import Floats

STEP_SECONDS = 300.0
HORIZON = 24  # steps
DAY = 288  # steps
SCENARIOS = 16
KEPT = 8 * DAY + HORIZON + 8  # steps of history
SCORED_AHEAD = 3  # steps after which an expert is judged
SHARPNESS = 8.0  # how strongly weights follow errors
FADE = 0.995  # of past errors, a step
FEWEST_ERRORS = 24  # paths before which the spread is a guess: 8 % in five minutes, growing with the root of time


@dataclass(frozen=True, slots=True)
class History:
    """Means of demand by step, the oldest first; the step that is not over yet; each expert's discounted error."""

    levels: tuple[float, ...] = ()
    losses: tuple[float, ...] = (0.0,) * 5
    begun: float = 0.0  # Unix seconds of the step that is not over
    work_seconds: float = 0.0  # of it, replica-seconds so far, and the seconds they took
    seconds: float = 0.0


def observe(history: History, time: float, work: float, seconds: float) -> History:
    """With the demand of the last `seconds`."""
    step = time // STEP_SECONDS * STEP_SECONDS
    if step > history.begun and history.seconds > 0:
        history = _push(history, history.work_seconds / history.seconds)
    if step > history.begun:
        history = replace(history, begun=step, work_seconds=0.0, seconds=0.0)
    return replace(history, work_seconds=history.work_seconds + work * seconds, seconds=history.seconds + seconds)


def scenarios(history: History, level: float) -> Floats:
    """Demand in replicas, [scenarios][horizon]. `level`: of the last minutes."""
    levels = np.array(history.levels)
    floor = _floor(levels)
    path = _mixed(levels, len(levels) - 1, history.losses, floor)
    if level > 0:
        # What the last minutes add to the last step's level fades over the horizon.
        fade = 0.6 * np.exp(-np.arange(HORIZON) / 8)
        path = path + fade * np.clip(np.log(level + floor) - path[0], -1.0, 1.0)
    found: Floats = np.maximum(np.exp(path + _errors(levels, history.losses, floor)) - floor, 0.0)
    return found


def _push(history: History, level: float) -> History:
    levels = np.array([*history.levels, level])
    floor = _floor(levels)
    losses = np.array(history.losses)
    judged = len(levels) - 1 - SCORED_AHEAD
    if judged >= 0:
        ahead = _experts(levels, judged, floor)[:, SCORED_AHEAD - 1]
        error = np.minimum((ahead - np.log(level + floor)) ** 2, 4.0)
        known = np.isfinite(error)
        losses = FADE * losses + np.where(known, error, np.max(error[known]))
    kept = (*history.levels, float(f"{level:.6g}"))[-KEPT:]
    return replace(history, levels=kept, losses=tuple(losses.tolist()))


def _floor(levels: Floats) -> float:
    """Added before the logarithm."""
    return max(0.02, 0.01 * float(levels[-DAY:].mean()))


def _experts(levels: Floats, at: int, floor: float) -> Floats:
    """Paths from step `at` on, [experts][horizon]; NaN where history is too short."""
    known = np.log(levels[max(0, at - 8 * DAY) : at + 1] + floor)
    number = len(known)
    level = np.average(known[-3:], weights=[1, 2, 4][-min(3, number) :])
    paths = np.full((5, HORIZON), np.nan)
    paths[0] = level
    if number >= 6:
        slope = np.polyfit(np.arange(6.0), known[-6:], 1)[0]
        paths[1] = level + np.clip(slope, -0.25, 0.25) * np.cumsum(0.8 ** np.arange(HORIZON))
    days = {lag: day for lag in range(1, 8) if (day := _day(known, number - lag * DAY)) is not None}
    if 1 in days:
        paths[2] = level + days[1][1:] - days[1][0]
    if len(days) >= 2:
        mean = np.mean([days[lag] for lag in sorted(days)[:5]], axis=0)
        paths[3] = level + mean[1:] - mean[0]
    if 7 in days:
        paths[4] = level + days[7][1:] - days[7][0]
    return paths


def _day(known: Floats, begin: int) -> Floats | None:
    """The smoothed path after a step of a past day, that step included; None where it is not known."""
    if begin < 3:
        return None
    low = max(0, begin - 6)
    padded = np.pad(known[low : begin + HORIZON + 6], 3, mode="edge")
    smooth = np.convolve(padded, np.array([1, 2, 3, 4, 3, 2, 1]) / 16, "valid")
    path: Floats = smooth[begin - low - 1 : begin - low + HORIZON]
    return path if len(path) == HORIZON + 1 else None


def _mixed(levels: Floats, at: int, losses: Iterable[float], floor: float) -> Floats:
    """The experts' weighted path from step `at` on, log demand, [horizon]."""
    paths = _experts(levels, at, floor)
    known = np.isfinite(paths[:, 0])
    error = np.array(tuple(losses))
    best = error[known].min()
    weights = np.where(known, np.exp(-SHARPNESS * (error - best) / max(best, 0.02)), 0.0)
    mixed: Floats = (np.where(known[:, None], paths, 0.0) * (weights / weights.sum())[:, None]).sum(axis=0)
    return mixed


def _errors(levels: Floats, losses: Iterable[float], floor: float) -> Floats:
    """Errors of past paths, log demand, [scenarios][horizon]; recent ones more often."""
    number = min(len(levels) - HORIZON, 3 * DAY)
    if number < FEWEST_ERRORS:
        spread = np.linspace(-1.6, 1.6, SCENARIOS)[:, None]
        guess: Floats = spread * 0.08 * np.sqrt(np.arange(1, HORIZON + 1))[None]
        return guess
    quantile = (np.arange(SCENARIOS) + 0.5) / SCENARIOS
    ages = np.minimum(number - 1, -np.log(1 - quantile * (1 - np.exp(-number / DAY))) * DAY).astype(int)
    losses = tuple(losses)
    found = []
    for age in ages.tolist():
        end = len(levels) - age
        path = _mixed(levels, end - 1 - HORIZON, losses, floor)
        found.append(np.log(levels[end - HORIZON : end] + floor) - path)
    return np.stack(found)
