"""One deployment with replicas of one kind and one provider: the case of the published figures and of the command."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from spillway.decide.provisioning import DEFAULT_RULE
from spillway.decide.snapshot import Settings, Variant
from spillway.simulate.economics import Economics
from spillway.simulate.load import Load
from spillway.simulate.traces import Trace
from spillway.simulate.world import Faults, Traffic, VirtualDeployment, VirtualPool, VirtualProvider, Window, World

NAMESPACE, NAME, POOL, PROVIDER = "simulated", "model", "pool", "provider"
KEY = f"{NAMESPACE}/{NAME}"
GPUS_PER_REPLICA = 8
FIRST_BINS = 60  # whose mean demand is the size of the fleet that is ready at the begin


@dataclass(frozen=True, slots=True)
class Trouble:
    """What goes wrong in a run, beside cold starts that differ."""

    faults: Faults = field(default_factory=Faults)
    stock_outs: tuple[Window, ...] = ()  # of the pool
    outages: tuple[Window, ...] = ()  # of the provider
    requests_per_minute: float = float("inf")  # the provider's quota
    capacity_error: float = 0.0  # share of a replica's work that it does not do, though Spillway believes so


@dataclass(frozen=True, slots=True)
class Controls:
    """How often is decided, on metrics of how long a window, by which rule."""

    tick_seconds: float = 10.0
    metrics_window_seconds: float = 30.0
    rule: str = DEFAULT_RULE
    usd_value_per_request: float | None = None  # None: a hundred times what it costs outside


@dataclass(frozen=True, slots=True)
class Answers:
    """The provider's, where single requests are played."""

    first_token_seconds: float = 1.0
    tokens_per_second: float = 25.0  # of a stream
    concurrent: float = float("inf")  # requests in flight


def variant(economics: Economics) -> Variant:
    """The kind of replica."""
    return Variant(
        name="replica",
        pool=POOL,
        precision="FP8",
        engine="vLLM",
        revision="1",
        gpus_per_replica=GPUS_PER_REPLICA,
        usd_per_hour=economics.usd_per_replica_hour,
        prefill_tokens_per_second=economics.prefill_tokens_per_second,
        decode_tokens_per_second=economics.decode_tokens_per_second,
        concurrency=max(1, round(economics.decode_tokens_per_second / 40)),
        cold_start_seconds=economics.delay_seconds,
        minimum_billing_seconds=economics.minimum_billing_seconds,
    )


def world(
    load: Load,
    economics: Economics,
    seed: int = 0,
    trouble: Trouble | None = None,
    controls: Controls | None = None,
    min_replicas: int = 0,
    max_replicas: int = 400,
    answers: Answers | None = None,
    arriving: Trace | None = None,
) -> World:
    """The world of one load. `arriving`: as its requests arrive, where they are played one by one; a fluid's tokens
    fall due while they run."""
    trouble, controls, answers = trouble or Trouble(), controls or Controls(), answers or Answers()
    due = arriving or load
    traffic = Traffic(due.requests, due.input_tokens, due.output_tokens)
    value = controls.usd_value_per_request
    if value is None:
        external = load.input_tokens.sum() * economics.usd_per_million_input
        external += load.output_tokens.sum() * economics.usd_per_million_output
        value = 100 * float(external) / 1e6 / max(float(load.requests.sum()), 1e-9)
    deployment = VirtualDeployment(
        NAMESPACE,
        NAME,
        (variant(economics),),
        traffic,
        (PROVIDER,),
        min_replicas=min_replicas,
        max_replicas=max_replicas,
        queue_seconds=economics.queue_seconds,
        usd_value_per_request=value,
        ready_at_begin=max(1, int(np.ceil(load.work[:FIRST_BINS].mean()))),
        capacity_error=trouble.capacity_error,
    )
    return World(
        deployments=(deployment,),
        pools=(
            VirtualPool(
                POOL, usd_per_gpu_hour=economics.usd_per_replica_hour / GPUS_PER_REPLICA, stock_outs=trouble.stock_outs
            ),
        ),
        providers=(
            VirtualProvider(
                PROVIDER,
                economics.usd_per_million_input,
                economics.usd_per_million_output,
                requests_per_minute=trouble.requests_per_minute,
                outages=trouble.outages,
                concurrent=answers.concurrent,
                first_token_seconds=answers.first_token_seconds,
                tokens_per_second=answers.tokens_per_second,
            ),
        ),
        faults=trouble.faults,
        # A stopped replica is taken away at once here; its drain is billed, so it is part of what a start costs.
        settings=Settings(
            drain_seconds=0.0,
            deregister_seconds=economics.drain_seconds,
            rule=controls.rule,
            metrics_window_seconds=controls.metrics_window_seconds,
        ),
        drain_seconds=economics.drain_seconds,
        tick_seconds=controls.tick_seconds,
        metrics_window_seconds=controls.metrics_window_seconds,
        seed=seed,
    )
