"""Worlds of single requests, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from spillway.simulate.cluster import Cluster
from spillway.simulate.economics import Economics
from spillway.simulate.pilots import RulePilot, SpillwayPilot, Steering
from spillway.simulate.run import Played, play_out
from spillway.simulate.traces import Arrivals, Floats, bin_arrivals
from spillway.simulate.world import Traffic, VirtualDeployment, World
from tests.unit.simulate.worlds import Script, deployment, world

OUTPUT_TOKENS = 100.0  # a tenth of a second of a replica's work; five seconds of a stream of 20 tokens a second


def arrivals(seconds: Sequence[float] | Floats, output_tokens: float | Sequence[float] = OUTPUT_TOKENS) -> Arrivals:
    """Requests of no prompt to speak of."""
    at = np.sort(np.array(seconds, dtype=np.float64))
    return Arrivals(at, np.ones(len(at)), np.zeros(len(at)) + np.array(output_tokens))


def poisson(per_second: float, seconds: float, seed: int = 0) -> Arrivals:
    random = np.random.default_rng(seed)
    return arrivals(random.random(random.poisson(per_second * seconds)) * seconds)


def requested(found: Arrivals, bins: int, **changes: object) -> VirtualDeployment:
    """A deployment that has these requests."""
    sums = bin_arrivals("requests", found, bins=bins)
    traffic = Traffic(sums.requests, sums.input_tokens, sums.output_tokens)
    return replace(deployment([]), traffic=traffic, **changes)  # type: ignore[arg-type]


def one_world(found: Arrivals, bins: int, *, of_world: dict[str, object] | None = None, **changes: object) -> World:
    return replace(world(requested(found, bins, **changes)), **(of_world or {}))  # type: ignore[arg-type]


class Gate:
    """A rule's pilot, with a gate that is given."""

    def __init__(self, pilot: RulePilot, gate: int | None) -> None:
        self._pilot, self._gate = pilot, gate

    def tick(self, cluster: Cluster, left_usd: Mapping[str, float]) -> Steering:
        steering = self._pilot.tick(cluster, left_usd)
        return steering if self._gate is None else replace(steering, gates=dict.fromkeys(cluster.fleets, self._gate))


def scripted(one: World, found: Arrivals, wanted: dict[int, int], gate: int | None = None) -> Played:
    key = one.deployments[0].key
    pilot = Gate(RulePilot(one, {key: Script(wanted)}, Economics()), gate)
    return play_out(one, pilot, requests={key: found})


def steered(one: World, found: Arrivals) -> tuple[Played, SpillwayPilot]:
    pilot = SpillwayPilot(one)
    return play_out(one, pilot, requests={one.deployments[0].key: found}), pilot
