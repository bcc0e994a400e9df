"""What one replica really does: the catalog's rates, corrected by what engines do when they are full.

A replica that is busy all the time does `in / P + out / D = 1`. With the catalog's (P0, D0) and the measured rates
that is `a * z_in + b * z_out = 1` for the unknown corrections `a = P0 / P` and `b = D0 / D`: a regression on saturated
intervals, regularised towards the catalog (a = b = 1), with large residuals weighed down (Huber), decayed over days.
One traffic mix alone cannot tell `a` from `b`; it then moves both in the proportion in which they take part. More than
the whole of a replica is never done: a rate above it corrects the estimate also while nothing waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from spillway.decide.memory import CapacityMemory, DeploymentMemory
from spillway.decide.snapshot import Deployment, EngineRates, Phase, Snapshot, Variant

PRIOR_SECONDS = 900.0  # saturated seconds that weigh as much as the catalog
HALF_LIFE_SECONDS = 3 * 86_400.0
BOUNDS = (0.25, 4.0)  # of what is learned, times the catalog's
ROBUST_RESIDUAL = 0.2  # share of a replica beyond which a measurement weighs less
LEAST_WORK = 0.05  # share of a replica below which a saturated engine says nothing (one huge request, a stuck one)
NOTICEABLE = 0.02  # relative change below which the old correction stays, so that plans do not flicker


def learn(snapshot: Snapshot, deployment: Deployment, memory: DeploymentMemory, seconds: float) -> DeploymentMemory:
    """With what this tick shows of each variant's engines."""
    if not deployment.rates and not memory.capacity:
        return memory
    learned: dict[str, CapacityMemory] = {}
    for variant in deployment.variants:
        before = memory.capacity.get(variant.name, CapacityMemory())
        rates = next((r for r in deployment.rates if r.variant == variant.name), None)
        after = _observe(snapshot, deployment, variant, rates, before, seconds)
        if after != CapacityMemory():
            learned[variant.name] = after
    return replace(memory, capacity=learned)


def corrected(deployment: Deployment, capacity: Mapping[str, CapacityMemory]) -> Deployment:
    """The deployment with what was learned in the place of the catalog's rates."""
    if not any(c.corrected for c in capacity.values()):
        return deployment
    return replace(deployment, variants=tuple(_corrected(v, capacity.get(v.name)) for v in deployment.variants))


def _corrected(variant: Variant, known: CapacityMemory | None) -> Variant:
    if known is None or not known.corrected:
        return variant
    return replace(
        variant,
        prefill_tokens_per_second=variant.prefill_tokens_per_second / known.prefill_correction,
        decode_tokens_per_second=variant.decode_tokens_per_second / known.decode_correction,
    )


def _observe(
    snapshot: Snapshot,
    deployment: Deployment,
    variant: Variant,
    rates: EngineRates | None,
    before: CapacityMemory,
    seconds: float,
) -> CapacityMemory:
    """One tick of the regression. `rates` are means over a window: a replica must have been full all of it."""
    replicas = [r for r in deployment.replicas if r.variant == variant.name and r.phase is Phase.READY]
    full = bool(replicas) and all(r.saturated for r in replicas)
    since = (before.full_since or snapshot.time) if full else 0.0
    fade = 0.5 ** (seconds / HALF_LIFE_SECONDS) if before.seconds else 1.0
    found = replace(
        before,
        full_since=since,
        in_in=before.in_in * fade,
        in_out=before.in_out * fade,
        out_out=before.out_out * fade,
        in_one=before.in_one * fade,
        out_one=before.out_one * fade,
        seconds=before.seconds * fade,
    )
    window = snapshot.settings.metrics_window_seconds
    settled = [r for r in replicas if r.ready_at is not None and snapshot.time - r.ready_at >= window]
    if rates is None or not replicas or len(settled) < len(replicas):
        return found
    # Too slow for the promise: only as much counts as it would do at the promised speed.
    pace = min(
        1.0,
        _share(deployment.inter_token_seconds, rates.inter_token_latency_seconds),
        _share(deployment.first_token_seconds, rates.time_to_first_token_seconds),
    )
    z_in = pace * rates.input_tokens_per_second / len(replicas) / variant.prefill_tokens_per_second
    z_out = pace * rates.output_tokens_per_second / len(replicas) / variant.decode_tokens_per_second
    work = before.prefill_correction * z_in + before.decode_correction * z_out
    whole_window = full and snapshot.time - since >= window
    plausible = LEAST_WORK <= z_in + z_out <= BOUNDS[1]
    if not plausible or not (whole_window or work > 1 + NOTICEABLE):
        return found
    weight = seconds * min(1.0, ROBUST_RESIDUAL / max(abs(work - 1), 1e-9))
    found = replace(
        found,
        in_in=found.in_in + weight * z_in * z_in,
        in_out=found.in_out + weight * z_in * z_out,
        out_out=found.out_out + weight * z_out * z_out,
        in_one=found.in_one + weight * z_in,
        out_one=found.out_one + weight * z_out,
        seconds=found.seconds + weight,
    )
    return _solved(found)


def _share(promised: float | None, measured: float | None) -> float:
    """Of the promised latency in the measured one; 1 where either is unknown."""
    return promised / measured if promised and measured else 1.0


def _solved(found: CapacityMemory) -> CapacityMemory:
    """The corrections that fit best, within their bounds; the old ones where they hardly differ."""
    # Normal equations of the ridge regression, in deviations from 1; the prior weighs like an equal mix.
    ridge = PRIOR_SECONDS / 4
    m11, m12, m22 = found.in_in + ridge, found.in_out, found.out_out + ridge
    r1 = found.in_one - found.in_in - found.in_out
    r2 = found.out_one - found.in_out - found.out_out
    determinant = m11 * m22 - m12 * m12
    low, high = BOUNDS
    prefill = min(max(1 + (r1 * m22 - r2 * m12) / determinant, 1 / high), 1 / low)
    decode = min(max(1 + (r2 * m11 - r1 * m12) / determinant, 1 / high), 1 / low)
    if _near(prefill, found.prefill_correction) and _near(decode, found.decode_correction):
        return found
    return replace(found, prefill_correction=float(f"{prefill:.4g}"), decode_correction=float(f"{decode:.4g}"))


def _near(new: float, old: float) -> bool:
    return abs(new - old) <= NOTICEABLE * old
