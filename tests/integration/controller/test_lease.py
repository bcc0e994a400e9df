"""Leader election on a real API server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from spillway.act.kube import Kube
from spillway.controller.lease import NAME, LeaderLease

from .conftest import Place

AN_HOUR = 3600.0
SOON = 0.05


def contender(kube: Kube, place: Place, identity: str, duration: float = AN_HOUR) -> LeaderLease:
    return LeaderLease(kube, place.namespace, identity, duration, 30.0, SOON)


def lease(place: Place) -> dict[str, Any]:
    done = place.server.kubectl("get", "lease", NAME, "-n", place.namespace, "-o", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["spec"]
    return found


async def test_of_two_contenders_one_leads(place: Place) -> None:
    first, second = contender(place.kube, place, "a"), contender(place.other, place, "b")
    winners = await asyncio.gather(first._attempt(), second._attempt())
    assert sorted(map(bool, winners)) == [False, True]
    assert first.valid is not second.valid
    leader, loser = (first, second) if first.valid else (second, first)
    for _ in range(3):
        assert await loser._attempt() is False
        assert await leader._attempt() is True
    assert lease(place)["holderIdentity"] == leader._identity
    assert lease(place)["leaseTransitions"] == 0


async def test_release_hands_over_at_once(place: Place) -> None:
    first, second = contender(place.kube, place, "a"), contender(place.other, place, "b")
    await first.acquire()
    waiting = asyncio.create_task(second.acquire())
    assert await second._attempt() is False
    await first.release()
    assert not first.valid
    await asyncio.wait_for(waiting, 30)  # the lease itself would have lasted an hour
    assert second.valid
    assert lease(place)["holderIdentity"] == "b"
    assert lease(place)["leaseTransitions"] == 1


async def test_a_lease_that_is_not_renewed_is_taken(place: Place) -> None:
    await contender(place.kube, place, "dead", duration=1).acquire()
    second = contender(place.other, place, "b", duration=1)
    assert await second._attempt() is False, "it counts from when the second one first saw it"
    await asyncio.wait_for(second.acquire(), 30)
    assert lease(place)["holderIdentity"] == "b"


async def test_a_stolen_lease_is_noticed(place: Place) -> None:
    first = contender(place.kube, place, "a")
    await first.acquire()
    holding = asyncio.create_task(first.hold())
    patch = json.dumps({"spec": {"holderIdentity": "thief"}})
    place.server.kubectl("patch", "lease", NAME, "-n", place.namespace, "--type=merge", "-p", patch)
    await asyncio.wait_for(holding, 30)
    assert not first.valid, "nobody's spending is renewed from that moment on"
    await first.release()
    assert lease(place)["holderIdentity"] == "thief", "another's lease is not given away"


async def test_a_lease_that_was_deleted_is_made_again(place: Place) -> None:
    first = contender(place.kube, place, "a")
    await first.acquire()
    place.server.kubectl("delete", "lease", NAME, "-n", place.namespace)
    assert await first._attempt() is True
    assert lease(place)["holderIdentity"] == "a"


async def test_the_same_pod_leads_again_after_its_container_restarted(place: Place) -> None:
    await contender(place.kube, place, "a").acquire()
    restarted = contender(place.other, place, "a")
    assert await restarted._attempt() is True
