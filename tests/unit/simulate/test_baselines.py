"""Each rule against its formula by hand, and what holds for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spillway.simulate.baselines import BASELINES, TUNED_HPA_TARGETS, Fixed, Hpa, Rule, Seen, all_external, covering
from spillway.simulate.baselines.apa import Apa
from spillway.simulate.baselines.dynamo import Dynamo
from spillway.simulate.baselines.keda import Keda
from spillway.simulate.baselines.kpa import Kpa
from spillway.simulate.baselines.kubeai import KubeAi
from spillway.simulate.baselines.skyserve import SkyServe
from spillway.simulate.baselines.wva import WvaV1, WvaV2
from spillway.simulate.economics import Economics
from spillway.simulate.traces import Floats


def seen(work: Sequence[float] | Floats, ready: int, total: int | None = None, queued: float = 0.0) -> Seen:
    """What there is to see after the bins of `work`."""
    past = np.asarray(work, dtype=float)
    none = np.zeros(len(past))
    return Seen(len(past), past, none + 0.1, none, queued, ready, ready if total is None else total, Economics())


def play(rule: Rule, work: Sequence[float], ready: int, starting: int = 0) -> list[int]:
    """The fleet that the rule wanted before each bin and after the last, when the fleet never obeys."""
    total = ready + starting
    answers = [rule.replicas(seen(work[:at], ready, total)) for at in range(len(work) + 1)]
    return [total if answer is None else answer for answer in answers]


# ---- HPA -------------------------------------------------------------------------------------------------------------


def test_hpa_takes_the_load_over_the_target() -> None:
    # ratio 7 / (0.7 x 8) = 1.25, beyond 10 %: ceil(7 / 0.7) = 10, for an exact 10 stays 10 in floats
    assert Hpa().replicas(seen([7.0] * 4, ready=8)) == 10


def test_hpa_averages_30_s_and_counts_what_waits() -> None:
    # (4 + 6 + 8) / 3 + 1 = 7; the 100 is older than 30 s
    assert Hpa().replicas(seen([100.0, 4, 6, 8], ready=8, queued=1.0)) == 10


def test_hpa_keeps_within_its_tolerance() -> None:
    # 6.1 / 5.6 = 1.089 is within 10 %, although ceil(6.1 / 0.7) = 9;  6.2 / 5.6 = 1.107 is not
    assert Hpa().replicas(seen([6.1] * 4, ready=8)) == 8
    assert Hpa().replicas(seen([6.2] * 4, ready=8)) == 9


def test_hpa_adds_the_more_of_four_pods_and_as_many_as_there_are() -> None:
    # ceil(70 / 0.7) = 100; from 3: max(3 + 4, 6) = 7; from 8: max(12, 16) = 16
    assert Hpa().replicas(seen([70.0] * 4, ready=3)) == 7
    assert Hpa().replicas(seen([70.0] * 4, ready=8)) == 16


def test_hpa_counts_starting_pods_as_replicas() -> None:
    # 7 / (0.7 x 10) = 1: the two that start are enough
    assert Hpa().replicas(seen([7.0] * 4, ready=8, total=10)) == 10


def test_hpa_goes_down_when_300_s_agree() -> None:
    # up to bin 10: 5.6 = 0.7 x 8, kept; then 2.1, ceil(2.1 / 0.7) = 3. The 30 s mean is 2.1 at bin 13, the first sync
    # after it is bin 14. At bin 12 it was (5.6 + 2.1 + 2.1) / 3 = 3.27: ceil(4.67) = 5, out of the window at 12 + 32.
    wanted = play(Hpa(), [5.6] * 10 + [2.1] * 40, ready=8)
    assert wanted[40] == 8  # bin 10 said 8, 300 s ago
    assert wanted[42] == 5
    assert wanted[44] == 3


def test_hpa_never_goes_to_zero() -> None:
    assert play(Hpa(), [0.0] * 60, ready=2)[-1] == 1


def test_a_tuned_hpa_has_another_target() -> None:
    # ceil(7.2 / t) for .5 .6 .7 .8 .9: 14.4, 12, 10.3, 9, 8; the last is within the tolerance of 8 replicas
    assert [Hpa(t).replicas(seen([7.2] * 4, ready=8)) for t in TUNED_HPA_TARGETS] == [15, 12, 11, 9, 8]


# ---- KEDA ------------------------------------------------------------------------------------------------------------


def test_keda_is_an_hpa_from_one_on() -> None:
    work = [5.6] * 10 + [2.1] * 40
    assert play(Keda(), work, ready=8) == play(Hpa(), work, ready=8)


def test_keda_starts_one_at_its_poll_and_stops_all_after_the_cooldown() -> None:
    keda = Keda()
    assert keda.replicas(seen([0.0, 0, 0, 0, 3], ready=0)) is None  # bin 5: polls are at 3, 6, ...
    assert keda.replicas(seen([0.0, 0, 0, 0, 3, 3], ready=0)) == 1  # whatever the demand
    # Active in the 30 s before bin 9; polls at 12, ..., 39 (300 s later) and 42, the first that is later than 300 s.
    work = [0.0] * 4 + [3.0] * 5 + [0.0] * 40
    wanted = [keda.replicas(seen(work[:at], ready=1)) for at in range(7, 46)]
    assert wanted.index(0) + 7 == 42


# ---- KPA -------------------------------------------------------------------------------------------------------------


def test_kpa_takes_the_stable_mean_over_the_target() -> None:
    # mean of 60 s: (5 x 3.5 + 6.3) / 6 = 3.97, / 0.7 = 5.67: 6.  Panic: 6.3 / 0.7 = 9 < 2 x 5 ready
    assert Kpa().replicas(seen([90.0] + [3.5] * 5 + [6.3], ready=5)) == 6


def test_kpa_panics_at_twice_the_ready_pods_and_holds_for_60_s() -> None:
    # 7 / 0.7 = 10 = 2 x 5 at bin 7. Held while 60 s have not passed: until bin 13. At 14 stable: 3.5 / 0.7 = 5.
    wanted = play(Kpa(), [3.5] * 6 + [7.0] + [3.5] * 8, ready=5)
    assert wanted[6:] == [5, *[10] * 7, 5, 5]


def test_kpa_at_most_halves_what_is_ready() -> None:
    # 0.7 / 0.7 = 1, but floor(9 / 2) = 4
    assert play(Kpa(), [0.7] * 20, ready=9)[-1] == 4


def test_kpa_begins_in_panic_with_more_than_one_pod() -> None:
    wanted = play(Kpa(), [0.7] * 8, ready=9)
    assert wanted[1:8] == [9] * 6 + [4]  # 60 s, then as above


def test_kpa_goes_to_zero_after_60_s_and_a_grace_of_30_s() -> None:
    # One replica: floor(1 / 2) = 0. Work ended with bin 2; the stable window is empty from bin 8 on, the grace
    # from bin 11 on.
    wanted = play(Kpa(), [0.5] * 2 + [0.0] * 12, ready=1)
    assert wanted[10] == 1
    assert wanted[11] == 0


# ---- AIBrix ----------------------------------------------------------------------------------------------------------


def test_apa_multiplies_the_replicas_by_the_pods_mean_use() -> None:
    # use 4.2 / 5 = 0.84, r = 1.2: ceil(5 x 1.2) = 6; the maximum, ceil(4.2) + 2 = 7, allows it
    assert play(Apa(), [4.2] * 20, ready=5)[-1] == 6
    # r = 1.05 is within 10 %
    assert play(Apa(), [3.675] * 20, ready=5)[-1] == 5
    # r = 0.56 / 0.7 = 0.8: ceil(5 x 0.8) = 4.  r = 0.2: max(ceil(1), floor(5 / 2)) = 2
    assert play(Apa(), [2.8] * 20, ready=5)[-1] == 4
    assert play(Apa(), [0.7] * 20, ready=5)[-1] == 2


def test_apa_averages_the_use_of_180_s() -> None:
    # 9 bins at 0.5 and 9 at 0.9: 0.7, r = 1
    assert play(Apa(), [5.0] * 30 + [2.5] * 9 + [4.5] * 9, ready=5)[-1] == 5


def test_apa_as_coded_doubles_what_is_starting_again_and_again() -> None:
    # A pod shows at most 1.5: r = 1.5 / 0.7 = 2.14, but at most twice. 4 ready, 4 starting: 2 x 8, not 2 x 4
    assert play(Apa(maximum=100), [40.0] * 20, ready=4, starting=4)[-1] == 16
    # As documented it counts the ready ones, and keeps what is starting
    assert play(Apa(as_documented=True, maximum=100), [40.0] * 20, ready=4, starting=4)[-1] == 8
    assert play(Apa(as_documented=True, maximum=100), [40.0] * 20, ready=4, starting=6)[-1] == 10


def test_apa_as_coded_goes_down_at_once_and_as_documented_after_300_s() -> None:
    # 18 bins of r = 1, then 18 of r = 0.56 / 0.7 = 0.8. The mean falls below 0.9 x 0.7 = 0.63 with the tenth bin of
    # 0.56 (0.7 - 0.14 x 10 / 18 = 0.622): 0.889, ceil(10 x 0.889) = 9
    work = [7.0] * 18 + [5.6] * 50
    coded = play(Apa(maximum=50), work, ready=10)
    assert (coded[27], coded[28]) == (10, 9)
    documented = play(Apa(as_documented=True, maximum=50), work, ready=10)
    assert (documented[57], documented[58]) == (10, 9)


def test_apa_ends_at_its_maximum() -> None:
    assert play(Apa(maximum=6), [40.0] * 5, ready=4)[-1] == 6
    # 1.1 / 0.7 x 7 = 11, but two over the highest demand so far are ceil(5.5) + 2 = 8
    assert play(Apa(), [5.5] * 2, ready=5, starting=2)[-1] == 8


# ---- Dynamo ----------------------------------------------------------------------------------------------------------


def test_dynamo_takes_the_predicted_load_without_headroom() -> None:
    # Six intervals of 4.0 predict 4.0: 4 replicas, at the bins 18, 36, ...
    assert play(Dynamo(), [4.0] * 18, ready=6) == [6] * 18 + [4]


def test_dynamo_predicts_by_the_last_change() -> None:
    # Changes 1, 1, ..., 1: the kept share is 1, held to 0.9. After 1, 2, ..., 7: 7 + 0.9 x 1 = 7.9, so 8
    dynamo = Dynamo()
    for level in range(1, 8):
        dynamo.replicas(seen(np.repeat(np.arange(1.0, level + 1), 18), ready=8))
    assert dynamo.predicted() == pytest.approx(7.9)


def test_dynamo_waits_while_replicas_start_but_goes_down() -> None:
    assert Dynamo().replicas(seen([9.0] * 18, ready=4, total=6)) is None
    assert Dynamo().replicas(seen([2.0] * 18, ready=4, total=6)) == 2


def test_dynamo_adds_at_most_eight() -> None:
    assert Dynamo().replicas(seen([40.0] * 18, ready=4)) == 12


# ---- WVA -------------------------------------------------------------------------------------------------------------


def test_wva_adds_one_when_240_s_say_that_there_is_little_spare() -> None:
    # u = 3 / 4 = 0.75: spare 0.05 < 0.1. The first look is bin 6; all of five looks, 240 s, agree at bin 30 at the
    # latest; with no earlier look in the window the first already does.
    assert play(WvaV1(), [3.0] * 6, ready=4)[-1] == 5
    # u = 0.6 until bin 24 (kept: 0.2 spare, but 0.6 x 4 / 3 = 0.8 leaves none), then 0.75: looks 6..24 say 4, and the
    # one of bin 24 leaves the window after bin 48
    wanted = play(WvaV1(), [2.4] * 24 + [3.0] * 40, ready=4)
    assert (wanted[48], wanted[54]) == (4, 5)


def test_wva_takes_the_highest_of_the_minute() -> None:
    assert play(WvaV1(), [1.0, 1, 1, 3, 1, 1], ready=4)[-1] == 5


def test_wva_drops_one_when_the_others_keep_the_spare() -> None:
    # 2 / 4 = 0.5, of three 0.667: 0.133 spare. 2.2 / 4 = 0.55, of three 0.733: 0.067 spare
    assert play(WvaV1(), [2.0] * 6, ready=4)[-1] == 3
    assert play(WvaV1(), [2.2] * 6, ready=4)[-1] == 4
    assert play(WvaV1(), [0.0] * 6, ready=1)[-1] == 1


def test_wva_holds_while_one_starts() -> None:
    assert play(WvaV1(), [4.0] * 6, ready=4, starting=1)[-1] == 5


def test_wva_v2_adds_what_is_missing_at_once() -> None:
    # 6.8 / 0.85 = 8; 4 x 0.8 = 3.2 there: 4.8 missing, 6 of 0.8 each
    assert play(WvaV2(), [6.8] * 2, ready=4)[-1] == 10
    # starting ones are capacity to come
    assert play(WvaV2(), [6.8] * 2, ready=4, starting=4)[-1] == 10


def test_wva_v2_drops_what_is_spare_of_the_ready_ones() -> None:
    # 10 x 0.8 - 3.5 / 0.7 = 3: floor(3 / 0.8) = 3
    assert play(WvaV2(), [3.5] * 2, ready=10)[-1] == 7
    # 5.6 / 0.85 = 6.59 < 8 and 5.6 / 0.7 = 8: between the two nothing moves
    assert play(WvaV2(), [5.6] * 2, ready=10)[-1] == 10
    assert play(WvaV2(), [0.0] * 2, ready=10)[-1] == 1


# ---- KubeAI, SkyServe, fixed --------------------------------------------------------------------------------------


def test_kubeai_takes_the_mean_of_ten_minutes() -> None:
    # 30 bins of 2 and 30 of 5: 3.5, so 4; the 90s are older
    assert play(KubeAi(), [90.0] * 9 + [2.0] * 30 + [5.0] * 30, ready=3)[-1] == 4


def test_kubeai_goes_down_at_the_third_look() -> None:
    assert play(KubeAi(), [2.0] * 4, ready=3) == [3, 3, 3, 2, 2]


def test_skyserve_needs_300_s_up_and_1200_s_down() -> None:
    # Every second bin decides: the 15th decision is at bin 30, the 60th at bin 120
    assert play(SkyServe(), [4.5] * 30, ready=4)[28:] == [4, 4, 5]
    assert play(SkyServe(), [2.5] * 120, ready=4)[118:] == [4, 4, 3]
    # one decision against it begins the count anew: a minute's mean of 4 at bin 26, 28 or 30
    assert play(SkyServe(), [4.5] * 20 + [1.0] * 6 + [4.5] * 4, ready=4)[-1] == 4


def test_fixed_fleets() -> None:
    assert play(Fixed(5), [9.0] * 3, ready=2) == [5] * 4
    assert play(all_external(), [9.0] * 3, ready=2) == [0] * 4
    # 0 .. 1000: the 99.9 % point is 999
    assert (covering(np.arange(1001.0)).count, covering(np.arange(1001.0)).name) == (999, "fixed-p99.9")
    with pytest.raises(ValueError, match="-1"):
        Fixed(-1)


# ---- all -------------------------------------------------------------------------------------------------------------

EVERY = pytest.mark.parametrize("make", BASELINES.values(), ids=BASELINES.keys())
WORK = st.lists(st.floats(0, 40) | st.just(0.0), min_size=1, max_size=120)


def fleet(rule: Rule, work: Sequence[float], delay: int = 7) -> list[int | None]:
    """What the rule answers before each bin, with a fleet that obeys and needs `delay` bins to start a replica."""
    starts = [-delay] * 2
    answers: list[int | None] = []
    for at in range(len(work)):
        ready = sum(start + delay <= at for start in starts)
        answer = rule.replicas(seen(work[:at], ready, len(starts), queued=min(ready, work[at - 1] / 3 if at else 0)))
        answers.append(answer)
        if answer is not None:
            starts = starts[:answer] + [at] * (answer - len(starts))
    return answers


@EVERY
@settings(max_examples=25, deadline=None)
@given(work=WORK)
def test_answers_are_whole_and_never_negative(make: Callable[[], Rule], work: list[float]) -> None:
    for answer in fleet(make(), work):
        assert answer is None or (type(answer) is int and answer >= 0)


@EVERY
@settings(max_examples=25, deadline=None)
@given(work=WORK, later=WORK)
def test_rules_know_the_past_alone(make: Callable[[], Rule], work: list[float], later: list[float]) -> None:
    known = len(work) + 1  # the answer before a bin comes from the bins before it
    assert fleet(make(), work + later)[:known] == fleet(make(), [*work, 0.0])[:known]


@EVERY
def test_the_registry_makes_fresh_rules_that_bear_their_names(make: Callable[[], Rule]) -> None:
    assert make() is not make()
    assert BASELINES[make().name] is make


@EVERY
def test_rules_remember_no_more_after_a_week(make: Callable[[], Rule]) -> None:
    rule = make()
    work = np.tile(np.array([3.0, 5.0, 0.5, 8.0]), 3000)
    for at in range(len(work)):
        rule.replicas(Seen(at, work[:at], work[:at], work[:at], 0.0, 4, 4, Economics()))
    assert _size(rule) < 200


def _size(thing: object) -> int:
    """Elements in the collections that a rule holds."""
    total = 0
    for value in vars(thing).values():
        if hasattr(value, "__len__") and not isinstance(value, str):
            total += len(value)
        elif hasattr(value, "__dict__"):
            total += _size(value)
    return total
