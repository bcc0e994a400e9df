"""The virtual cluster's physics and dollars, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spillway.simulate.world import Faults, PriceChange, VirtualPool, VirtualProvider

from .worlds import API, REPLICA, SLOW, deployment, scripted, world


def test_a_start_serves_one_cold_start_later_and_is_billed_from_the_begin() -> None:
    ledger = scripted(world(deployment([1.0] * 12)), {2: 1})
    assert ledger.asked == [0, 0] + [1] * 10
    assert ledger.ready == [0] * 8 + [1] * 4  # six bins of cold start
    assert ledger.spilled == [1.0] * 8 + [0.0] * 4
    assert ledger.served == [0.0] * 8 + [1.0] * 4
    assert sum(ledger.gpu_usd) == pytest.approx(10 * 0.10)
    assert sum(ledger.external_usd) == pytest.approx(8 * 0.30)
    assert ledger.starts == [0, 0, 1] + [0] * 9


def test_a_stop_before_the_minimum_pays_the_rest_and_one_of_a_ready_replica_its_drain() -> None:
    one = world(deployment([0.0] * 30))
    # Asked at 0, ready at 6, stopped at 8: two of ten bins of the minimum are left, and two bins of drain.
    assert sum(scripted(one, {0: 1, 8: 0}).stop_usd) == pytest.approx(0.10 * (2 + 2))
    # Stopped while it starts: the rest of the minimum alone.
    assert sum(scripted(one, {0: 1, 4: 0}).stop_usd) == pytest.approx(0.10 * 6)
    # After the minimum: the drain alone.
    assert sum(scripted(one, {0: 1, 20: 0}).stop_usd) == pytest.approx(0.10 * 2)


def test_the_youngest_goes_first() -> None:
    ledger = scripted(world(deployment([0.0] * 40)), {0: 1, 20: 2, 28: 1})
    assert sum(ledger.stop_usd) == pytest.approx(0.10 * (2 + 2)), "the one of bin 20, two bins before its minimum"


def test_work_waits_for_ten_seconds_of_the_ready_replicas_and_what_is_more_goes_outside() -> None:
    one = deployment([3.0, 0.0, 0.0, 0.5], ready_at_begin=1)
    ledger = scripted(world(one), {})
    assert ledger.served == [1.0, 1.0, 0.0, 0.5]
    assert ledger.spilled == [1.0, 0.0, 0.0, 0.0]


def test_what_no_provider_takes_is_refused() -> None:
    out = replace(API, outages=((20.0, 40.0),))
    ledger = scripted(world(deployment([1.0] * 6), providers=(out,)), {})
    assert ledger.spilled == [1, 1, 0, 0, 1, 1]
    assert ledger.refused == [0, 0, 1, 1, 0, 0]
    # 100 requests a bin; 240 a minute are 40 in a bin.
    quota = scripted(world(deployment([1.0] * 6), providers=(replace(API, requests_per_minute=240),)), {})
    assert quota.spilled == pytest.approx([0.4] * 6)


def test_the_next_provider_takes_what_the_first_does_not() -> None:
    second = VirtualProvider("second", 0.0, 60.0)
    one = deployment([1.0] * 2, providers=("api", "second"))
    ledger = scripted(world(one, providers=(replace(API, requests_per_minute=240), second)), {})
    assert ledger.external_usd == pytest.approx([0.4 * 0.30 + 0.6 * 0.60] * 2)


def test_prices_change_when_they_do() -> None:
    dearer = replace(API, price_changes=(PriceChange(20.0, 0.0, 90.0),))
    ledger = scripted(world(deployment([1.0] * 4), providers=(dearer,)), {})
    assert ledger.external_usd == pytest.approx([0.30, 0.30, 0.90, 0.90])


def test_a_stock_out_gives_no_gpus_and_costs_nothing_while_it_lasts() -> None:
    pools = (VirtualPool("pool", gpus=80, stock_outs=((0.0, 50.0),)), VirtualPool("old"))
    ledger = scripted(world(deployment([1.0] * 14), pools=pools), {0: 1})
    assert ledger.asked == [0] * 5 + [1] * 9
    assert ledger.ready == [0] * 11 + [1] * 3


def test_a_replica_that_drains_holds_its_gpus() -> None:
    # One replica fits. The second is asked for as the first stops: two bins of drain later it gets the GPUs.
    one = world(deployment([0.0] * 30, ready_at_begin=1), pools=(VirtualPool("pool", gpus=8), VirtualPool("old")))
    ledger = scripted(one, {1: 0, 2: 1})
    assert ledger.asked[1:5] == [0, 0, 1, 1]


def test_cold_starts_vary_as_asked_and_the_mean_stays() -> None:
    faults = Faults(delay_cv=0.5)
    starts = dict.fromkeys(range(1), 100)
    ledger = scripted(
        world(deployment([0.0] * 60, max_replicas=100), faults=faults, pools=(VirtualPool("pool"), VirtualPool("old"))),
        starts,
    )
    delays = np.repeat(np.arange(60), np.diff([0, *ledger.ready]))
    assert delays.mean() == pytest.approx(6, rel=0.15)
    assert 1.5 < delays.std() < 5


def test_starts_that_fail_begin_again() -> None:
    faults = Faults(start_failure_share=0.5)
    one = world(
        deployment([0.0] * 200, max_replicas=100), faults=faults, pools=(VirtualPool("pool"), VirtualPool("old"))
    )
    ready = scripted(one, {0: 100}).ready
    assert ready[6] == pytest.approx(50, abs=15)
    assert ready[5] == 0
    assert ready[-1] == 100


def test_a_replica_that_does_less_than_believed() -> None:
    ledger = scripted(world(deployment([1.0] * 4, ready_at_begin=1, capacity_error=0.2)), {})
    assert ledger.served == pytest.approx([0.8] * 4)


@given(
    st.lists(st.floats(0, 5), min_size=1, max_size=60),
    st.dictionaries(st.integers(0, 59), st.integers(0, 6), max_size=20),
    st.floats(-0.5, 0.5),
)
@settings(max_examples=50, deadline=None)
def test_no_work_and_no_dollar_is_lost(work: list[float], wanted: dict[int, int], error: float) -> None:
    one = world(deployment(work, variants=(REPLICA, SLOW), capacity_error=error))
    ledger = scripted(one, wanted)
    done = np.cumsum(np.array(ledger.served) + ledger.spilled + ledger.refused)
    assert np.all(done <= np.cumsum(work) + 1e-9), "nothing is served before it came"
    queue = sum(work) - done[-1]
    assert -1e-9 <= queue <= max(ledger.ready[-1] * (1 - error), 0) + 1e-9, "what waits fits the queue"
    assert all(s <= r * (1 - error) + 1e-9 for s, r in zip(ledger.served, ledger.ready, strict=True))
    assert all(r <= a for r, a in zip(ledger.ready, ledger.asked, strict=True))
    assert np.isfinite([*ledger.gpu_usd, *ledger.external_usd, *ledger.stop_usd]).all()
    assert sum(ledger.gpu_usd) == pytest.approx(0.10 * sum(ledger.asked))


def test_work_that_may_wait_fills_what_is_left_and_is_urgent_at_its_deadline() -> None:
    # Half of each bin's work may wait two bins. One replica: bin 0 has 0.6 urgent and 0.6 that may wait.
    one = deployment([1.2, 0.4, 0.0, 0.0], ready_at_begin=1, deferrable_share=0.5, deadline_seconds=20.0)
    ledger = scripted(world(one), {})
    assert ledger.served == pytest.approx([1.0, 0.6, 0.0, 0.0])
    assert sum(ledger.spilled) == 0
    # Without a replica it goes outside when its time has come.
    none = scripted(world(replace(one, ready_at_begin=0)), {})
    assert none.spilled == pytest.approx([0.6, 0.2, 0.6, 0.2])


@given(
    st.lists(st.floats(0, 3), min_size=1, max_size=40),
    st.floats(0.01, 1),
    st.integers(0, 30),
    st.integers(0, 3),
)
@settings(max_examples=50, deadline=None)
def test_work_that_waits_is_not_lost(work: list[float], share: float, deadline: int, replicas: int) -> None:
    padded = [*work, *[0.0] * (deadline + 2)]
    one = deployment(
        padded, ready_at_begin=replicas, deferrable_share=share, deadline_seconds=deadline * 10.0, max_replicas=3
    )
    ledger = scripted(world(one), {})
    done = sum(ledger.served) + sum(ledger.spilled) + sum(ledger.refused)
    assert done <= sum(work) + 1e-9
    assert sum(work) - done <= replicas + 1e-9, "all but a queue"
    assert all(served <= replicas + 1e-9 for served in ledger.served)
