"""How long starts take: each is measured once; the mean for the money, the ninetieth percentile to be in time."""

from __future__ import annotations

import pytest

from spillway.decide.memory import DeploymentMemory
from spillway.decide.snapshot import Phase, Replica
from spillway.decide.starts import KEPT, LONGEST_SECONDS, cold_start_p90_seconds, cold_start_seconds, learn

from .world import BLACKWELL, deployment


def after(*took: float, memory: DeploymentMemory | None = None) -> DeploymentMemory:
    memory = memory or DeploymentMemory()
    for i, seconds in enumerate(took):
        replica = Replica(f"r{i}-{seconds}", BLACKWELL.name, "rev1", Phase.READY, 0.0, 100.0, 100.0 + seconds)
        memory = learn(deployment(replicas=(replica,)), memory)
        assert learn(deployment(replicas=(replica,)), memory) == memory, "it is counted once"
    return memory


def test_before_any_the_catalogs_estimate_holds() -> None:
    memory = DeploymentMemory()
    assert cold_start_seconds(memory, BLACKWELL) == cold_start_p90_seconds(memory, BLACKWELL) == 300


def test_the_first_measurement_replaces_the_estimate_and_later_ones_move_it() -> None:
    assert cold_start_seconds(after(100), BLACKWELL) == 100
    assert cold_start_seconds(after(100, 200), BLACKWELL) == pytest.approx(130)


@pytest.mark.parametrize(
    ("took", "expected"),
    [
        ([50.0], 50),
        ([50.0, 90.0, 60.0], 90),
        ([float(n) for n in range(1, 10)], 9),
        ([float(n) for n in range(1, 21)], 19),
    ],
)
def test_nine_of_ten(took: list[float], expected: float) -> None:
    assert cold_start_p90_seconds(after(*took), BLACKWELL) == expected


def test_only_the_last_ones_count() -> None:
    memory = after(*[1000.0 + n for n in range(KEPT)], *[10.0 + n for n in range(KEPT)])
    assert cold_start_p90_seconds(memory, BLACKWELL) < 30


def test_a_start_that_hung_does_not_count_for_ever() -> None:
    assert cold_start_seconds(after(1e9), BLACKWELL) == LONGEST_SECONDS
    assert cold_start_seconds(after(-5.0), BLACKWELL) == 0, "clocks differ"


def test_replicas_that_are_gone_are_forgotten() -> None:
    memory = learn(deployment(replicas=()), after(10, 20, 30))
    assert memory.counted_starts == ()
    assert len(memory.cold_starts[BLACKWELL.name]) == 3
