"""Single requests: where each goes and when it is answered, by hand and by what must always hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spillway.simulate.cluster import Cluster
from spillway.simulate.economics import Economics
from spillway.simulate.fleet import Ledger, Outlet, Quota
from spillway.simulate.load import scale
from spillway.simulate.pilots import SpillwayPilot
from spillway.simulate.requests.draw import single_requests
from spillway.simulate.requests.latency import latency
from spillway.simulate.requests.records import LOCAL, REFUSED, Records
from spillway.simulate.requests.serving import RequestFleet
from spillway.simulate.run import Played, play, play_out
from spillway.simulate.score import score
from spillway.simulate.study import Case, run
from spillway.simulate.traces import Trace
from spillway.simulate.world import Faults, PriceChange, VirtualBudget, VirtualPool, VirtualProvider
from tests.unit.simulate.worlds import API, REPLICA, SLOW, world
from tests.unit.simulate.worlds import scripted as as_fluid

from .served import arrivals, one_world, poisson, requested, scripted, steered

KEY = "team/m"
API_SECONDS = 1.0 + 100 / 25  # first token, then 100 tokens


def told(played: Played) -> tuple[Ledger, Records]:
    return played.ledgers[KEY], played.records[KEY]


def in_flight_at_arrivals(records: Records, destination: int) -> list[int]:
    """Of that destination, each request counted as it comes."""
    of = records.destination == destination
    ended = np.sort(records.ended[of])
    at = records.arrived[of]
    return list(np.arange(1, len(at) + 1) - np.searchsorted(ended, at, side="right"))


def test_a_request_streams_at_its_limit_and_its_work_is_that_of_the_fluid() -> None:
    found = arrivals([1.0, 12.0])
    ledger, records = told(scripted(one_world(found, 4, ready_at_begin=1), found, {}))
    assert records.destination.tolist() == [LOCAL, LOCAL]
    assert records.begun == pytest.approx([1.0, 12.0])
    assert records.first == pytest.approx([1.0, 12.0]), "no prompt"
    assert records.ended == pytest.approx([6.0, 17.0]), "100 tokens at 1,000 / 50 a second"
    assert ledger.served == pytest.approx([0.01, 0.01, 0, 0]), "0.1 replica-seconds of ten"
    assert ledger.spilled == ledger.refused == ledger.late == [0.0] * 4


def test_what_finds_the_gate_shut_goes_outside_at_the_providers_speed_and_price() -> None:
    found = arrivals([1.0, 2.0, 3.0, 6.5])
    ledger, records = told(scripted(one_world(found, 2, ready_at_begin=1), found, {}, gate=2))
    assert records.destination.tolist() == [LOCAL, LOCAL, 0, LOCAL]
    assert records.first[2] == pytest.approx(4.0)
    assert records.ended[2] == pytest.approx(3.0 + API_SECONDS)
    assert np.isnan(records.begun[2])
    assert ledger.external_usd == pytest.approx([100 * 30 / 1e6, 0])
    assert ledger.spilled == pytest.approx([0.01, 0])


def test_without_a_replica_the_next_provider_takes_what_the_first_does_not_and_the_rest_is_refused() -> None:
    first = replace(API, concurrent=1)
    second = VirtualProvider(
        "second", 0.0, 60.0, concurrent=1, verbosity=2.0, first_token_seconds=0.5, tokens_per_second=100.0
    )
    found = arrivals([1.0, 2.0, 3.0, 4.6, 6.5])
    one = one_world(found, 2, providers=("api", "second"), of_world={"providers": (first, second)})
    ledger, records = told(scripted(one, found, {}))
    assert records.destination.tolist() == [0, 1, REFUSED, 1, 0]
    assert records.ended[1] == pytest.approx(2.0 + 0.5 + 200 / 100), "twice as many tokens"
    assert np.isnan(records.first[2]) and np.isnan(records.ended[2])
    assert ledger.refused == pytest.approx([0.01, 0])
    assert ledger.external_usd[0] == pytest.approx((2 * 100 * 30 + 2 * 200 * 60) / 1e6)


def test_a_quota_counts_whole_requests_and_its_parts_add_up() -> None:
    # Five a minute are 5/6 in a bin.
    found = arrivals(np.arange(0, 600, 0.5).tolist())
    one = one_world(found, 60, of_world={"providers": (replace(API, requests_per_minute=5),)})
    _, records = told(scripted(one, found, {}))
    taken = records.arrived[records.destination == 0]
    assert len(taken) == 50
    assert max(np.histogram(taken, np.arange(0, 601, 60))[0]) == 5


def test_an_outage_sends_requests_on_and_those_under_way_are_answered() -> None:
    found = arrivals([9.0, 11.0, 21.0])
    one = one_world(found, 3, of_world={"providers": (replace(API, outages=((10.0, 20.0),)),)})
    _, records = told(scripted(one, found, {}))
    assert records.destination.tolist() == [0, REFUSED, 0]
    assert records.ended[0] == pytest.approx(9.0 + API_SECONDS)


def test_prices_change_and_pools_run_dry_when_they_do() -> None:
    dearer = replace(API, price_changes=(PriceChange(20.0, 10_000.0, 90.0),))
    pools = (VirtualPool("pool", gpus=80, stock_outs=((0.0, 50.0),)), VirtualPool("old"))
    found = arrivals([15.0, 25.0, 115.0])
    ledger, records = told(
        scripted(one_world(found, 13, of_world={"providers": (dearer,), "pools": pools}), found, {0: 1})
    )
    assert ledger.asked == [0] * 5 + [1] * 8
    assert records.destination.tolist() == [0, 0, LOCAL]
    assert ledger.external_usd[1:3] == pytest.approx([100 * 30 / 1e6, 0.01 + 100 * 90 / 1e6], rel=1e-3)


def test_a_budget_is_not_passed_by_a_single_request() -> None:
    found = poisson(2.0, 100.0)
    budgets = (VirtualBudget("day", 0.0451, 86_400.0),)  # 15 requests of 0.3 cents, and a bit
    _, records = told(scripted(one_world(found, 10, of_world={"budgets": budgets}), found, {}))
    assert (records.destination == 0).sum() == 15
    assert (records.destination == REFUSED).sum() == len(found) - 15


def test_a_replica_that_is_stopped_finishes_what_it_has_and_is_paid_until_then() -> None:
    # 2,000 tokens at 20 a second: 100 seconds. Stopped in bin 2; the drain that is paid at once is two bins.
    found = arrivals([5.0, 25.0], [2000.0, 100.0])
    one = one_world(found, 20, ready_at_begin=1, of_world={"pools": (VirtualPool("pool", gpus=8), VirtualPool("old"))})
    ledger, records = told(scripted(one, found, {2: 0, 3: 1}))
    assert records.destination.tolist() == [LOCAL, 0], "it takes nothing new"
    assert records.ended[0] == pytest.approx(105.0)
    # Bins 2 to 10: nine, of which two with the stop.
    assert sum(ledger.stop_usd) == pytest.approx(0.10 * 9)
    # The pool has one replica's GPUs: the next gets them when the first has drained.
    assert ledger.asked == [1] * 2 + [0] * 9 + [1] * 9


def test_work_that_may_wait_is_for_the_fluid_alone() -> None:
    found = arrivals([1.0])
    with pytest.raises(ValueError, match=r"team/m: deferrable_share 0\.5"):
        scripted(one_world(found, 2, deferrable_share=0.5, deadline_seconds=20.0), found, {})


def test_waits_longer_than_the_queue_are_late() -> None:
    # 50 run; each of the two that wait begins when the first of them ends, five seconds later.
    found = arrivals([0.0] * 50 + [1.0, 2.0])
    one = one_world(found, 4, ready_at_begin=1, queue_seconds=3.5)
    ledger, records = told(scripted(one, found, {}, gate=1000))
    assert records.begun[50:] == pytest.approx([5.0, 5.0])
    assert ledger.late == pytest.approx([0.01, 0, 0, 0]), "four seconds are too long, three are not"
    assert score(ledger).slo == pytest.approx(1 - 1 / 52)


def test_cold_starts_and_their_failures_are_those_of_the_fluid() -> None:
    found = poisson(5.0, 600.0)
    one = one_world(found, 60, of_world={"faults": Faults(delay_cv=0.7, start_failure_share=0.3), "seed": 3})
    ledger, _ = told(scripted(one, found, {0: 4, 20: 8}))
    fluid = as_fluid(one, {0: 4, 20: 8})
    assert ledger.ready == fluid.ready and ledger.asked == fluid.asked
    assert ledger.gpu_usd == fluid.gpu_usd


@st.composite
def storms(draw: st.DrawFn) -> tuple[list[tuple[float, int]], dict[int, int], int | None, float, float]:
    requests = draw(st.lists(st.tuples(st.floats(0, 199), st.integers(0, 5000)), min_size=1, max_size=120))
    wanted = draw(st.dictionaries(st.integers(0, 19), st.integers(0, 4), max_size=8))
    gate = draw(st.none() | st.integers(0, 60))
    return sorted(requests), wanted, gate, draw(st.sampled_from([0, 2, 60, 1e9])), draw(st.sampled_from([0, 3, 1e9]))


@given(storms(), st.integers(0, 2), st.floats(-0.5, 0.5))
@settings(max_examples=150, deadline=None)
def test_every_request_ends_once_and_no_limit_is_passed(
    storm: tuple[list[tuple[float, int]], dict[int, int], int | None, float, float], ready: int, error: float
) -> None:
    requests, wanted, gate, quota, slots = storm
    found = arrivals([at for at, _ in requests], [tokens for _, tokens in requests])
    one = one_world(
        found,
        20,
        ready_at_begin=ready,
        capacity_error=error,
        variants=(replace(REPLICA, concurrency=5), SLOW),
        of_world={"providers": (replace(API, requests_per_minute=quota, concurrent=slots),)},
    )
    played = scripted(one, found, wanted, gate)
    ledger, records = told(played)
    local, out, refused = (records.destination == d for d in (LOCAL, 0, REFUSED))
    assert np.all(local.astype(int) + out + refused == 1)
    assert np.all(records.ended[~refused] >= records.first[~refused])
    assert np.all(records.first[~refused] >= records.arrived[~refused])
    assert np.all(records.first[local] >= records.begun[local])
    assert np.all(np.isnan(records.ended[refused]))
    # A stream's limit, that of the faster variant.
    fastest = 1000 / 5 * (1 - error)
    streamed = records.ended[local] - records.first[local]
    assert np.all(streamed >= records.output_tokens[local] / fastest - 1e-6)
    assert max(in_flight_at_arrivals(records, 0), default=0) <= slots
    assert out.sum() <= quota * 200 / 60 + 1
    # Work: what was done, sent out or refused, and what is still in flight, is what came.
    work = records.output_tokens / 10_000 + records.input_tokens / 1e13
    assert sum(ledger.spilled) == pytest.approx(work[out].sum())
    assert sum(ledger.refused) == pytest.approx(work[refused].sum())
    assert sum(ledger.served) <= work[local].sum() + 1e-9
    over = local & (records.ended > 200)
    assert sum(ledger.served) >= work[local & ~over].sum() - 1e-9
    assert np.isfinite([*ledger.gpu_usd, *ledger.external_usd, *ledger.stop_usd]).all()


@given(st.integers(1, 60), st.integers(1, 3), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_never_more_in_flight_than_the_gate(gate: int, replicas: int, seed: int) -> None:
    found = poisson(20.0, 60.0, seed)
    _, records = told(scripted(one_world(found, 6, ready_at_begin=replicas), found, {}, gate))
    assert max(in_flight_at_arrivals(records, LOCAL)) <= gate


def test_the_gate_without_a_pilots_is_that_of_decide() -> None:
    # Ten requests a second are a replica's work: 50 run, and ten seconds' worth wait.
    found = poisson(40.0, 120.0)
    _, records = told(scripted(one_world(found, 12, ready_at_begin=1), found, {}))
    late = records.arrived > 60
    in_flight = np.array(in_flight_at_arrivals(records, LOCAL))[late[records.destination == LOCAL]]
    assert max(in_flight) == pytest.approx(50 + 100, abs=1)


def test_equal_seeds_give_equal_runs_and_others_do_not() -> None:
    found = poisson(30.0, 600.0)

    def played(seed: int) -> tuple[object, ...]:
        one = one_world(found, 60, ready_at_begin=3, of_world={"seed": seed, "faults": Faults(delay_cv=0.5)})
        played, pilot = steered(one, found)
        ledger, records = told(played)
        return ledger, records.ended.tobytes(), records.destination.tobytes(), tuple(pilot.told)

    assert played(1) == played(1)
    assert played(1) != played(2)


@given(st.integers(1, 59), st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_what_comes_later_changes_nothing_before(cut: int, seed: int) -> None:
    whole = poisson(25.0, 600.0, seed)
    first = whole.seconds < cut * 10
    # The same until then; afterwards other requests, and another load.
    later = poisson(5.0, 600.0, seed + 100)
    keep = later.seconds >= cut * 10
    other = arrivals(np.concatenate((whole.seconds[first], later.seconds[keep])).tolist())
    number = int(first.sum())

    def until(found: object) -> tuple[object, ...]:
        played, pilot = steered(one_world(found, 60, ready_at_begin=2), found)  # type: ignore[arg-type]
        ledger, records = told(played)
        return (
            ledger.asked[:cut],
            ledger.served[:cut],
            ledger.external_usd[:cut],
            records.destination[:number].tolist(),
            [t for t in pilot.told if t.bin < cut],
        )

    assert until(whole) == until(other)


@pytest.mark.parametrize("load", ["steady", "slow"])
def test_it_agrees_with_the_fluid(load: str) -> None:
    """Steady demand of seven replicas, and demand that takes two hours to double: the same decisions, nearly."""
    bins = 720
    level = np.full(bins, 66.0) if load == "steady" else 55.0 * (1 + np.arange(bins) / bins)
    random = np.random.default_rng(4)
    counts = random.poisson(level * 10)
    found = arrivals(((np.repeat(np.arange(bins), counts) + random.random(counts.sum())) * 10).tolist())
    one = one_world(found, bins, ready_at_begin=7, max_replicas=40)
    played, _ = steered(one, found)
    ledger, records = told(played)
    fluid = play(one, SpillwayPilot(one))[KEY]
    mine, other = score(ledger, 60), score(fluid, 60)
    assert mine.usd == pytest.approx(other.usd, rel=0.03)
    assert np.mean(ledger.asked[60:]) == pytest.approx(np.mean(fluid.asked[60:]), rel=0.03)
    assert np.max(np.abs(np.array(ledger.asked[60:]) - fluid.asked[60:])) <= 1
    assert sum(ledger.served) == pytest.approx(sum(fluid.served), rel=0.02)
    assert np.nanpercentile(records.first - records.arrived, 95) < 10


@pytest.mark.parametrize("policy", ["spillway", "hpa", "fixed-7"])
def test_chat_with_prompts_agrees_with_the_fluid_under_every_pilot(policy: str) -> None:
    bins = np.full(720, 300.0)
    chat = Trace("chat", bins, bins * 1600, bins * 250)
    economics = Economics(24.0, 20_000.0, 10_000.0, 3.0, 15.0)
    requests = single_requests(chat, economics, fleet=6.0, seed=1)
    load = scale(requests, economics)
    fluid = run(Case(load, economics), policy).score
    mine = run(Case(load, economics, requests=requests), policy)
    assert mine.score.usd == pytest.approx(fluid.usd, rel=0.03)
    assert mine.score.mean_replicas == pytest.approx(fluid.mean_replicas, rel=0.03)
    assert mine.records is not None
    found = latency(mine.records, since=720.0)
    # A prompt of 1,600 tokens alone takes 0.08 s; 250 tokens at 40 a second take 6.25 s.
    assert 0.05 < found.first_token.p50 < 3
    assert 3 < found.end_to_end.p50 < 10


def test_a_share_goes_outside_though_replicas_could_take_it_and_comes_back_where_nothing_does() -> None:
    found = arrivals(np.linspace(0, 9.9, 40))
    one = one_world(found, 1, ready_at_begin=2)
    for share, quota, expected in ((1.0, 1e9, (0, 40)), (0.0, 1e9, (40, 0)), (1.0, 10.0, (30, 10))):
        cluster = Cluster(one, {KEY: found})
        cluster.advance()
        cluster.serve({KEY: [Outlet(API, Quota(quota))]}, {KEY: share}, {KEY: 100})
        cluster.finish()
        fleet = cluster.fleets[KEY]
        assert isinstance(fleet, RequestFleet)
        to = fleet.records().destination
        assert ((to == LOCAL).sum(), (to == 0).sum()) == expected


def test_a_full_replica_does_one_replica_bin_of_work_in_a_bin() -> None:
    found = poisson(30.0, 300.0)
    ledger, _ = told(scripted(one_world(found, 30, ready_at_begin=2, capacity_error=0.25), found, {}))
    assert ledger.served[3:] == pytest.approx([1.5] * 27, rel=1e-6)


def test_a_slower_replica_is_found_out_by_decide() -> None:
    """Engines that wait show it: what replicas really do is learned from their rates, as on a cluster."""
    found = poisson(100.0, 3600.0)
    pools = (VirtualPool("pool"), VirtualPool("old"))
    one = one_world(found, 360, ready_at_begin=10, capacity_error=0.3, max_replicas=40, of_world={"pools": pools})
    played, _ = steered(one, found)
    ledger, _ = told(played)
    assert np.mean(ledger.asked[-60:]) == pytest.approx(10 / 0.7, rel=0.15)


def test_snapshots_show_what_engines_have() -> None:
    found = arrivals([1.0] * 60)
    one = one_world(found, 2, ready_at_begin=1)
    cluster = Cluster(one, {KEY: found})
    cluster.advance()
    cluster.serve({KEY: [Outlet(API, Quota(1e9))]}, {}, {KEY: 55})
    fleet = cluster.fleets[KEY]
    assert isinstance(fleet, RequestFleet)
    assert fleet.in_flight == 5, "fifty ended at six seconds"
    (seen,) = fleet.shown(1)
    assert (seen.in_flight, seen.waiting) == (5, 0)
    assert fleet.spilled_requests == [0, 5]


def test_several_deployments_share_a_quota() -> None:
    one, other = poisson(3.0, 100.0, 1), poisson(3.0, 100.0, 2)
    both = world(requested(one, 10), requested(other, 10, name="n"), providers=(replace(API, requests_per_minute=60),))
    played = play_out(both, SpillwayPilot(both), requests={"team/m": one, "team/n": other})
    taken = np.concatenate([r.arrived[r.destination == 0] for r in played.records.values()])
    assert max(np.histogram(taken, np.arange(0, 101, 10))[0]) == 10
