"""Small worlds for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from spillway.decide.snapshot import Settings, Variant
from spillway.simulate.baselines import Seen
from spillway.simulate.economics import Economics
from spillway.simulate.fleet import Ledger
from spillway.simulate.pilots import RulePilot, SpillwayPilot
from spillway.simulate.run import play
from spillway.simulate.world import Traffic, VirtualDeployment, VirtualPool, VirtualProvider, World

# A replica does 1,000 output tokens a second and costs $36/h: 10 cents a bin.
REPLICA = Variant("fast", "pool", "FP8", "vLLM", "1", 8, 36.0, 1e12, 1000.0, 50, 60.0, minimum_billing_seconds=100.0)
SLOW = replace(REPLICA, name="slow", pool="old", usd_per_hour=27.0, decode_tokens_per_second=500.0)
API = VirtualProvider("api", 0.0, 30.0)  # $0.30 for a replica-bin of work
TOKENS_PER_BIN = 10_000.0  # of a whole replica
REQUEST_TOKENS = 100.0


def traffic(work: Sequence[float]) -> Traffic:
    """Work in replicas by bin, as requests of 100 output tokens."""
    tokens = np.array(work, dtype=float) * TOKENS_PER_BIN
    return Traffic(tokens / REQUEST_TOKENS, np.zeros(len(tokens)), tokens)


def deployment(work: Sequence[float], name: str = "m", **changes: object) -> VirtualDeployment:
    base = VirtualDeployment(
        "team", name, (REPLICA,), traffic(work), ("api",), max_replicas=20, usd_value_per_request=1.0
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def world(*deployments: VirtualDeployment, **changes: object) -> World:
    base = World(
        deployments,
        (VirtualPool("pool", gpus=80), VirtualPool("old", gpus=80)),
        (API,),
        settings=Settings(drain_seconds=0.0, deregister_seconds=20.0, metrics_window_seconds=30.0),
        drain_seconds=20.0,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


class Script:
    """A rule that asks for what is written down, by bin."""

    name = "script"

    def __init__(self, wanted: dict[int, int]) -> None:
        self.wanted = wanted

    def replicas(self, seen: Seen) -> int | None:
        return self.wanted.get(seen.bin)


def scripted(one: World, wanted: dict[int, int]) -> Ledger:
    key = one.deployments[0].key
    return play(one, RulePilot(one, {key: Script(wanted)}, Economics()))[key]


def steered(one: World) -> tuple[dict[str, Ledger], SpillwayPilot]:
    pilot = SpillwayPilot(one)
    return play(one, pilot), pilot
