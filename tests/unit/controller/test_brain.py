"""A loaded memory with which no plan can be made ends nobody; a bug later does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from spillway.api import ExternalProvider, Reason
from spillway.controller import brain as module
from spillway.controller.brain import Brain
from spillway.controller.chronicle import Chronicle
from spillway.controller.provider_guard import Disabled
from spillway.controller.settings import OperatorSettings
from spillway.decide import Memory, Plan, Snapshot, plan
from spillway.observe.resolve import valid
from tests.unit.api.examples import example
from tests.unit.decide.world import World

LOADED = Memory(time=77.0)


class Told:
    def __init__(self) -> None:
        self.dropped: list[str] = []
        self.recorded: list[Memory] = []

    async def drop(self, why: str) -> None:
        self.dropped.append(why)

    def record(self, snapshot: Snapshot, before: Memory, planned: Plan) -> None:
        self.recorded.append(before)


def brain(told: Told, memory: Memory) -> Brain:
    nothing: Any = None  # planning alone is looked at
    return Brain(
        nothing,
        nothing,
        nothing,
        nothing,
        nothing,
        nothing,
        nothing,
        memory,
        nothing,
        told.drop,
        Chronicle(),
        told.record,
    )


async def test_the_loaded_memory_is_dropped_and_the_plan_made_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def picky(snapshot: Snapshot, memory: Memory) -> tuple[Plan, Memory]:
        if memory.time == 77.0:
            raise KeyError("a variant of before")
        return plan(snapshot, memory)

    monkeypatch.setattr(module, "plan", picky)
    told, snapshot = Told(), World().snapshot()
    mine = brain(told, LOADED)
    assert await mine._plan(snapshot) == plan(snapshot, Memory())[0]
    assert told.dropped == ["no plan can be made with it: KeyError: 'a variant of before'"]
    assert told.recorded == [Memory()]
    assert mine.memory == plan(snapshot, Memory())[1]


@pytest.mark.parametrize("memory", [Memory(), LOADED])
async def test_a_bug_is_not_taken_for_the_memorys_fault(monkeypatch: pytest.MonkeyPatch, memory: Memory) -> None:
    told, snapshot = Told(), World().snapshot()
    mine = brain(told, memory)
    await mine._plan(snapshot)

    def broken(snapshot: Snapshot, memory: Memory) -> tuple[Plan, Memory]:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "plan", broken)
    with pytest.raises(ZeroDivisionError):
        await mine._plan(snapshot)
    assert told.dropped == []
    assert told.recorded == [memory]


@pytest.mark.parametrize("on_trial", [False, True])
@pytest.mark.parametrize("key_there", [False, True])
def test_what_is_known_of_a_disabled_provider(on_trial: bool, key_there: bool) -> None:
    """It is not asked at all, and on trial not as the last one: else no request would come to it."""
    mine = brain(Told(), Memory())
    held = Disabled(Reason.QUOTA_SPENT, "top it up", 30, 0, 1, on_trial)
    watch = SimpleNamespace(
        failing=lambda: {"zai": "all fail", "deep": "most fail"},
        unwell=lambda: {"zai": (Reason.PROVIDER_ERRORS, "all fail")},
        error_rates=lambda: {"zai": 1.0},
    )
    record = SimpleNamespace(
        watch=watch,
        guard=SimpleNamespace(disabled={"zai": held}),
        first_tokens=SimpleNamespace(medians=lambda: {"zai": 0.5}),
    )
    missing = frozenset() if key_there else frozenset({"zai"})
    treasury: Any = SimpleNamespace(missing_keys=missing, providers=record)
    ads: Any = SimpleNamespace(missing_keys=lambda: ())
    mine._treasury, mine._ads, mine._settings = treasury, ads, OperatorSettings()
    health = mine._health(valid(ExternalProvider, {"zai": example("ExternalProvider", "zai")}))
    if key_there:
        assert health.blocked == ({} if on_trial else {"zai": (Reason.QUOTA_SPENT, "top it up")})
    else:
        assert health.blocked["zai"][0] == Reason.MISSING_KEY, "which is what must be put right first"
    assert health.failing == {"deep": "most fail"}
    assert health.disabled == {"zai": (Reason.QUOTA_SPENT, "top it up", on_trial)}
    assert health.first_token_seconds == {"zai": 0.5}
