"""`spill.maxShare`: how much of a deployment's tokens may go outside, of the trailing hour, while a replica is ready.

Only ticks with a ready replica count, on both sides: what covers a cold start is none of it. It is control, not a
bound: tokens are rates times the time between ticks, and spill stops at the tick after the share was reached. It goes
on once the share is a tenth below it, and not within a minute, so that it does not flicker.
"""

from __future__ import annotations

from dataclasses import replace

from spillway.decide.memory import DeploymentMemory, ShareMemory, TokenBucket
from spillway.decide.reasons import Code
from spillway.decide.snapshot import Demand, Deployment, Phase, Settings

HOUR_SECONDS = 3600.0
BUCKET_SECONDS = 300.0
OPEN_AGAIN = 0.9  # of the limit
LEAST_SHUT_SECONDS = 60.0


def learn(
    now: float, deployment: Deployment, memory: DeploymentMemory, seconds: float, settings: Settings
) -> DeploymentMemory:
    """With the tokens of the last `seconds`, and whether spill is held back for them."""
    limit = limit_of(deployment)
    if limit is None:
        return memory if memory.share is None else replace(memory, share=None)
    before = memory.share or ShareMemory()
    buckets = tuple(b for b in before.buckets if b.begin + BUCKET_SECONDS > now - HOUR_SECONDS)
    demand = deployment.demand
    if demand is not None and demand.age_seconds <= settings.metrics_stale_seconds and answers(deployment):
        buckets = _counted(buckets, now, demand, seconds)
    known = replace(before, buckets=buckets)
    known = replace(known, shut_since=_shut_since(now, limit, known))
    return replace(memory, share=known)


def limit_of(deployment: Deployment) -> float | None:
    """The share, 0 to 1; None where all may go out."""
    return deployment.max_share if deployment.max_share is not None and deployment.max_share < 1 else None


def held_back(deployment: Deployment, memory: DeploymentMemory) -> Deployment:
    """The deployment with its providers shut while too much went out and a replica is ready."""
    limit = limit_of(deployment)
    if limit is None or memory.share is None or not memory.share.shut_since or not answers(deployment):
        return deployment
    words = (
        f"more than {deployment.max_share_of} {limit:g} of the last hour's tokens went outside; "
        f"spill goes on below {limit * OPEN_AGAIN:g}"
        if limit > 0
        else f"{deployment.max_share_of} is 0: nothing goes outside while a replica is ready"
    )
    options = tuple(
        o if o.unavailable else replace(o, unavailable=Code.MAX_SHARE, unavailable_message=words)
        for o in deployment.providers
    )
    return replace(deployment, providers=options)


def answers(deployment: Deployment) -> bool:
    """Whether a replica is ready."""
    return any(replica.phase is Phase.READY for replica in deployment.replicas)


def share(known: ShareMemory) -> float | None:
    """What went outside, of all tokens that are remembered; None where there are none."""
    outside = sum(b.outside for b in known.buckets)
    total = outside + sum(b.local for b in known.buckets)
    return outside / total if total > 0 else None


def _shut_since(now: float, limit: float, known: ShareMemory) -> float:
    if limit <= 0:
        return known.shut_since or now
    now_share = share(known)
    if not known.shut_since:
        return now if now_share is not None and now_share >= limit else 0.0
    below = now_share is None or now_share < limit * OPEN_AGAIN
    return 0.0 if below and now - known.shut_since >= LEAST_SHUT_SECONDS else known.shut_since


def _counted(buckets: tuple[TokenBucket, ...], now: float, demand: Demand, seconds: float) -> tuple[TokenBucket, ...]:
    own_output = demand.local_output_tokens or demand.output_tokens_per_request
    served = max(0.0, demand.local_answers_per_second - demand.local_errors_per_second)
    local = served * (demand.input_tokens_per_request + own_output) * seconds
    outside = demand.spilled_per_second * (demand.input_tokens_per_request + demand.output_tokens_per_request) * seconds
    if local <= 0 and outside <= 0:
        return buckets
    begin = now // BUCKET_SECONDS * BUCKET_SECONDS
    last = buckets[-1] if buckets and buckets[-1].begin == begin else None
    if last is None:
        return (*buckets, TokenBucket(begin, local, outside))
    return (*buckets[:-1], replace(last, local=last.local + local, outside=last.outside + outside))
