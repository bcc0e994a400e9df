"""Policies side by side on one load: what each costs, beside the bound that none can undercut."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from multiprocessing import get_context

import numpy as np

from spillway.decide.provisioning import DEFAULT_RULE, RULES
from spillway.simulate import single
from spillway.simulate.baselines import BASELINES, TUNED_HPA_TARGETS, Fixed, Hpa, Rule, covering
from spillway.simulate.bounds import clairvoyant
from spillway.simulate.economics import Economics
from spillway.simulate.fleet import Ledger
from spillway.simulate.load import Load
from spillway.simulate.pilots import Pilot, RulePilot, SpillwayPilot, Told
from spillway.simulate.requests.records import Records
from spillway.simulate.run import play, play_out
from spillway.simulate.score import Score, score
from spillway.simulate.single import KEY, Answers, Controls, Trouble
from spillway.simulate.traces import Trace
from spillway.simulate.world import World

SPILLWAY = "spillway"  # the rule that the operator uses
HINDSIGHT = ("hpa-tuned", "fixed-best", "fixed-p99.9", "clairvoyant")  # know the whole trace beforehand
ANY_FIXED = "fixed-N"  # stands for fixed-0, fixed-1, …
POLICIES = (SPILLWAY, *RULES, *BASELINES, *HINDSIGHT, ANY_FIXED)
FIXED_STEPS = 12  # fleet sizes that are tried for the best fixed one


class UnknownPolicy(ValueError):
    """The name is none of POLICIES."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One load with what a replica and the outside cost, and what goes wrong. `requests`: of that load, to be played
    one by one (`requests.draw`); None: work is a fluid."""

    load: Load
    economics: Economics
    seed: int = 0
    trouble: Trouble = field(default_factory=Trouble)
    controls: Controls = field(default_factory=Controls)
    answers: Answers = field(default_factory=Answers)
    requests: Trace | None = None

    def world(self, rule: str | None = None) -> World:
        """To be played; `rule`: in place of the default's."""
        controls = self.controls if rule is None else replace(self.controls, rule=rule)
        return single.world(
            self.load, self.economics, self.seed, self.trouble, controls, answers=self.answers, arriving=self.requests
        )


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One policy on one case."""

    policy: str
    score: Score
    ledger: Ledger
    told: tuple[Told, ...] = ()
    records: Records | None = None  # where requests were played one by one


def known(policy: str) -> str:
    """The name, if it is one. Raises UnknownPolicy with the names that there are."""
    if (policy in POLICIES and policy != ANY_FIXED) or re.fullmatch(r"fixed-\d{1,4}", policy):
        return policy
    raise UnknownPolicy(f"no policy {policy!r}: there are {', '.join(POLICIES)} (N: a number of replicas)")


def run(case: Case, policy: str, progress: Callable[[int], None] | None = None) -> Run:
    """Play one policy. `progress` hears of the bins done."""
    known(policy)
    if policy in RULES or policy == SPILLWAY:
        rule = DEFAULT_RULE if policy == SPILLWAY else policy
        world = case.world(rule)
        pilot = SpillwayPilot(world)
        return replace(_played(case, policy, world, pilot, progress), told=tuple(pilot.told))
    if policy == "clairvoyant":
        if case.requests is not None:
            raise UnknownPolicy(f"policy {policy!r} is a schedule for a fluid: leave out --requests, or choose another")
        return _clairvoyant(case)
    tries = [_with_rule(case, policy, rule, progress) for rule in _rules(case, policy)]
    return min(tries, key=lambda r: r.score.usd)


def _rules(case: Case, policy: str) -> Iterator[Rule]:
    """The rule of that name; those of which the cheapest counts, for a policy of hindsight."""
    if policy in BASELINES:
        yield BASELINES[policy]()
    elif policy == "hpa-tuned":
        yield from (Hpa(target) for target in TUNED_HPA_TARGETS)
    elif policy == "fixed-p99.9":
        yield covering(case.load.work)
    elif policy == "fixed-best":
        low, high = float(np.mean(case.load.work)) * 0.8, float(np.quantile(case.load.work, 0.999))
        yield from (Fixed(n) for n in sorted({round(n) for n in np.linspace(low, max(high, low + 1), FIXED_STEPS)}))
    else:
        yield Fixed(int(policy.removeprefix("fixed-")), policy)


def _with_rule(case: Case, policy: str, rule: Rule, progress: Callable[[int], None] | None) -> Run:
    world = case.world()
    return _played(case, policy, world, RulePilot(world, {KEY: rule}, case.economics), progress)


def _played(case: Case, policy: str, world: World, pilot: Pilot, progress: Callable[[int], None] | None) -> Run:
    if case.requests is None or case.requests.arrivals is None:
        ledger = play(world, pilot, progress)[KEY]
        return Run(policy, score(ledger, case.load.score_from), ledger)
    played = play_out(world, pilot, progress, {KEY: case.requests.arrivals})
    ledger = played.ledgers[KEY]
    return Run(policy, score(ledger, case.load.score_from), ledger, records=played.records[KEY])


def _clairvoyant(case: Case) -> Run:
    """The schedule of somebody who knows the future, as if it had been run; nothing is counted before the first bin
    that counts."""
    schedule = clairvoyant(case.load, case.economics)
    before = [0] * schedule.first_bin
    replicas = [*before, *schedule.replicas.tolist()]
    spilled = [*map(float, before), *schedule.spilled.tolist()]
    rent = case.economics.usd_per_replica_bin
    starts = [
        max(0, b - a)
        for a, b in zip(
            [replicas[schedule.first_bin], *replicas[schedule.first_bin :]],
            replicas[schedule.first_bin :],
            strict=False,
        )
    ]
    ledger = Ledger(
        asked=replicas,
        ready=replicas,
        served=[float(w) - s for w, s in zip(case.load.work.tolist(), spilled, strict=True)],
        spilled=spilled,
        refused=[0.0] * len(replicas),
        gpu_usd=[n * rent for n in replicas],
        external_usd=[s * float(e) for s, e in zip(spilled, case.load.spill_usd.tolist(), strict=True)],
        stop_usd=[0.0] * schedule.first_bin + [n * case.economics.start_usd for n in starts],
        starts=[*before, *starts],
    )
    return Run("clairvoyant", score(ledger, case.load.score_from), ledger)


def run_all(
    jobs: Iterable[tuple[str, Case, str]],
    workers: int,
    on_done: Callable[[str, Run], None],
    progress: Callable[[int], None] | None = None,
) -> dict[str, Run]:
    """Runs by job name, in processes of their own, each (name, case, policy). `on_done` hears of each as it ends; of a
    single job, which needs no process, `progress` hears of the bins that are done."""
    queue = list(jobs)
    if workers <= 1 or len(queue) == 1:
        found = {}
        for name, case, policy in queue:
            found[name] = run(case, policy, progress)
            on_done(name, found[name])
        return found
    done: dict[str, Run] = {}
    # Spawned, not forked: the caller may have threads.
    with ProcessPoolExecutor(min(workers, len(queue)), mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(run, case, policy): name for name, case, policy in queue}
        waiting = set(futures)
        while waiting:
            ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in ended:
                done[futures[future]] = future.result()
                on_done(futures[future], done[futures[future]])
    return {name: done[name] for name, _, _ in queue}
