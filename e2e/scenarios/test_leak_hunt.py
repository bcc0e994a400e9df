"""The leak hunt: no dollar above budget and bound, whatever dies; and a ledger that knows every dollar of the bill."""

from __future__ import annotations

import asyncio
import os
import random
import time
import urllib.request
from decimal import Decimal

import pytest

from e2e.cluster.settings import SYSTEM_NAMESPACE
from e2e.hunt import Striker, Timeline, drawn
from e2e.load.clients import Clients
from e2e.load.generator import Target
from e2e.load.schedule import Arrival, Schedule
from e2e.load.summary import Record
from e2e.stage import PROVIDER_MODELS, BackgroundLoad, Stage
from spillway.ledger.stored import Stored, read

SECONDS = 85.0
CLIENTS = 200
BUDGET = Decimal(8)  # so large that about twenty requests at once may go out
SHARE_LEFT = Decimal("0.25")  # dollars, when the budget is lowered in mid-load
SEEDS = range(1, 1 + int(os.environ.get("HUNTS", "3")))


@pytest.mark.only("local")
@pytest.mark.parametrize("seed", SEEDS)
def test_no_dollar_leaks(play: Stage, seed: int) -> None:
    gateways_die = seed % 3 != 1
    namespace = f"hunt-{seed}"
    offered = {"zai": "glm-5", "deepinfra": "glm-5-tiered"}  # about a third of the prompts reach the tier
    play.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    for provider, name in offered.items():
        model = {"name": name, "price": PROVIDER_MODELS[name], "contextLength": 2048, "maxOutputTokens": 256}
        play.apply(play.provider(provider, models=[model], allowedNamespaces=[namespace]))
    play.apply(play.policy("hunted", str(BUDGET), [namespace]))
    chain = [{"name": provider, "model": name} for provider, name in offered.items()]
    names = {"first": 1, "outside": 0}  # replicas: what one cannot take, and everything
    for name, replicas in names.items():
        size = {"minReplicas": replicas, "maxReplicas": replicas}
        play.apply(play.moe(name, {"model": {"name": "glm-5"}, "spill": {"providers": chain}, **size}, namespace))
    play.wait_ready("first", namespace=namespace)
    for name in names:
        play.wait("a permission to spill", lambda name=name: spill_allowed(play, name, namespace), 60)  # type: ignore[misc]
    billed_before = play.billed()

    timeline = Timeline.kept(f"hunt-{seed}")
    striker = Striker(play, timeline, seed)
    print(f"\nhunt {seed}: {CLIENTS} clients for {SECONDS:.0f} s, ${BUDGET}")
    loads = [clients(play, name, namespace, seed) for name in names]
    amount = BUDGET
    try:
        lowering = drawn_lowering(seed)
        for blow in drawn(seed, 8.0, SECONDS - 12.0, gateways_die):
            if amount == BUDGET and blow.at >= lowering:
                amount = lowered(play, billed_before, namespace, timeline)
            time.sleep(max(0.0, blow.at - timeline.now()))
            striker.strike(blow)
        time.sleep(max(0.0, SECONDS - timeline.now()))
    finally:
        play.cluster.heal()
        for load in loads:
            load.stop()
    summaries = [load.join() for load in loads]
    records = [record for load in loads for record in load.records]
    play.cluster.wait_for_operator()
    play.wait_for_gateways()

    bill = play.billed() - billed_before
    spent, estimated = play.wait("a ledger at rest", lambda: at_rest(play, namespace), 90)
    bound = amount / 100
    for name, summary in zip(names, summaries, strict=True):
        timeline.tell(f"  {name}: {summary.line()}")
    timeline.tell(
        f"hunt {seed}: budget ${amount}, bill ${bill:.6f}, ledger ${spent:.6f} (estimated ${estimated:.6f}), "
        f"bound ${bound:.4f}"
    )
    aborted = sum(int(play.cluster.provider_bill(p)["total"]["aborted"]) for p in play.cluster.providers)
    failed = broken(records, timeline, aborted)
    timeline.keep(failed, play.cluster.directory)
    assert bill > Decimal("0.2"), "the hunt hunted nothing"
    assert bill <= amount + bound
    assert spent >= bill - Decimal("1e-9"), "the ledger must know every dollar"
    assert spent - bill <= (estimated if timeline.killed else bill * Decimal("0.005"))
    assert failed == []


def clients(play: Stage, name: str, namespace: str, seed: int) -> BackgroundLoad:
    """Half of all, with prompts of 700 to 1,500 tokens and answers of 40 to 200."""
    draw = random.Random(f"{seed}-{name}")
    lengths = tuple(Arrival(0.0, draw.randint(700, 1500), draw.randint(40, 200)) for _ in range(1000))
    asked = Schedule(lengths, SECONDS, "drawn", seed)
    target = Target(tuple(play.urls()), f"{name}.{namespace}", "glm-5")
    run = Clients(target, asked, seed=seed, clients=CLIENTS // 2, seconds=SECONDS, streaming_share=0.6)
    return BackgroundLoad(run)


def drawn_lowering(seed: int) -> float:
    """Seconds after which the budget is lowered to little more than what is spent: it ends in mid-load."""
    return 30.0 + (seed * 7) % 20


def lowered(play: Stage, billed_before: Decimal, namespace: str, timeline: Timeline) -> Decimal:
    """What is admitted under the larger amount is billed (docs/money.md): so it waits until somebody leads who acts on
    the policy, which a cent more shows, and to whom the gateways listen; and leaves more than what is in flight."""

    def set_to(amount: Decimal) -> None:
        play.apply(play.policy("hunted", str(amount), [namespace]))
        play.wait(f"a budget of ${amount}", lambda: Decimal(play.budget("hunted").get("amount", "0")) == amount, 60)

    set_to(BUDGET + Decimal("0.01"))
    play.wait("gateways that listen to the leader", lambda: connected(play) == len(play.gateways()), 60)
    known = max(play.billed() - billed_before, booked(play, namespace)[0])  # a gateway's death may be charged already
    amount = (known + SHARE_LEFT).quantize(Decimal("0.01"))
    set_to(amount)
    timeline.note(f"the budget is lowered to ${amount}")
    return amount


def connected(play: Stage) -> int:
    """Gateways on the leader's ADS stream, as its metrics have it."""
    address = play.leader()["status"]["podIP"]
    with urllib.request.urlopen(f"http://{address}:8081/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return next(int(float(line.split()[1])) for line in lines if line.startswith("spillway_gateways_connected "))


def spill_allowed(play: Stage, name: str, namespace: str) -> bool:
    available = play.condition("moedeployment", name, "SpillAvailable", namespace)
    return available.get("status") == "True"


def at_rest(play: Stage, namespace: str) -> tuple[Decimal, Decimal] | None:
    """Dollars and estimated dollars that the stored ledger has for the namespace, once two looks agree with the
    status that users see."""
    first = booked(play, namespace)
    time.sleep(12)  # longer than the ledger waits before it stores what it has read
    shown = play.budget("hunted")
    if booked(play, namespace) != first or not shown:
        return None
    return first if abs(Decimal(shown["spent"]) - first[0]) <= Decimal("0.0001") else None


def booked(play: Stage, namespace: str) -> tuple[Decimal, Decimal]:
    async def get(name: str) -> Stored | None:
        stored = play.get("configmap", name, SYSTEM_NAMESPACE)
        return Stored.of(stored) if stored else None

    found = asyncio.run(read(get, SYSTEM_NAMESPACE))
    assert found is not None, "there is a ledger"
    external = [
        a
        for span in found.book.spans.values()
        for key, a in span.items()
        if key.namespace == namespace and key.source == "external"
    ]
    return sum((a.usd for a in external), Decimal(0)), sum((a.estimated_usd for a in external), Decimal(0))


def broken(records: list[Record], timeline: Timeline, aborted: int) -> list[Record]:
    """Requests that failed although nothing that was killed had them. Refusals are honest here: money, capacity or a
    leader was missing (429, and 503 while no replica was known)."""
    found = []
    for record in records:
        if not record.failed or record.status in (429, 503):
            continue
        died = any(url == record.gateway and record.start - 2 <= at <= record.end + 2 for url, at in timeline.killed)
        # The last of the chain failed, while its provider had a fault: there was nobody else who had room.
        faulty = record.status == 502 and any(a <= record.end and record.start <= b for a, b in timeline.faulty)
        if not died and not faulty:
            found.append(record)
    # A provider that breaks off breaks its own streams.
    external = [r for r in found if r.cut and r.served_by in ("zai", "deepinfra")]
    assert len(external) <= aborted, f"{len(external)} streams of providers were cut, they broke off {aborted}"
    return [r for r in found if r not in external]
