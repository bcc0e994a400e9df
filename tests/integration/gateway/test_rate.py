"""A provider that takes only so many requests a minute: what comes beyond goes on to the next."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from spillway.gateway.desired import Desired
from tests.integration.gateway.fakes import Fake
from tests.integration.gateway.rig import PROVIDER_PORT, Rig, deployment, egress, eventually, provider, spill

SMALL, LARGE, DEEP = ("zai", "glm-5-air"), ("zai", "glm-5.1"), ("deep", "zai-org/GLM-5")
OVERFLOW = 'envoy_cluster_upstream_rq_active_overflow{envoy_cluster_name="ext|zai|glm-5.1|chat/glm-5"} '


async def limited(rig: Rig, per_minute: int | None, chain: tuple[tuple[str, str], ...], cap: int = 1000) -> Fake:
    """A deployment without replicas in front of a limited provider and one that takes everything. Returns the first."""
    zai, first = await rig.fake("zai", PROVIDER_PORT)
    _, second = await rig.fake("deep", PROVIDER_PORT)
    for name in ("zai", "deep"):
        (rig.directory / "keys" / name).write_text("sk")
    glm = deployment(chain=chain)
    providers = provider("zai", first, requests_per_minute=per_minute), provider("deep", second)
    state = spill(*chain, cap=cap)
    await rig.publish(Desired((glm,), providers, tuple(egress(*pair) for pair in chain), {glm.id: state}))
    await rig.start_envoy()
    await rig.ads.wait_synced(20)
    return zai


async def change(rig: Rig, per_minute: int | None) -> None:
    zai, *others = rig.published.providers
    await rig.publish(replace(rig.published, providers=(replace(zai, requests_per_minute=per_minute), *others)))


async def served_by_zai(rig: Rig) -> bool:
    return (await rig.post()).served_by == "zai"


async def test_beyond_the_limit_the_next_provider_answers_and_nothing_is_counted(rig: Rig) -> None:
    zai = await limited(rig, 1, (LARGE, DEEP))
    # A bucket begins empty and has its first request after a minute.
    assert {(await rig.post()).served_by for _ in range(10)} == {"deep"}
    assert not zai.seen

    async def counted() -> bool:
        return sum(s.requests for s in (await rig.reading()).samples) >= 10

    await eventually(counted, "the requests of the next provider are counted")
    assert {s.provider for s in (await rig.reading()).samples} == {"deep"}, "neither billed nor a failure of zai"

    await change(rig, 60_000)
    await eventually(lambda: served_by_zai(rig), "a higher limit lets requests through")
    await change(rig, None)
    assert {(await rig.post()).served_by for _ in range(10)} == {"zai"}


async def test_without_another_provider_the_client_is_told_to_come_again(rig: Rig) -> None:
    await limited(rig, 1, (LARGE,))
    answer = await rig.post()
    assert (answer.status, answer.headers["x-spillway-reason"]) == (429, "capacity_exceeded")


async def test_one_count_for_all_models_of_a_provider(rig: Rig) -> None:
    began = time.monotonic()
    zai = await limited(rig, 600, (SMALL, LARGE, DEEP))
    await eventually(lambda: served_by_zai(rig), "the bucket has begun to fill")
    await asyncio.gather(*(rig.post() for _ in range(300)))
    # At most a tenth at once, and the rest of the limit evenly over the minute.
    assert len(zai.seen) <= 60 + (600 + 1 - 60) / 60 * (time.monotonic() - began)


async def test_the_count_outlives_a_change_of_the_share(rig: Rig) -> None:
    began = time.monotonic()
    zai = await limited(rig, 600, (LARGE, DEEP))
    await eventually(lambda: served_by_zai(rig), "the bucket has begun to fill")
    for _ in range(20):
        # Another process that may be alive: it gets a part, and gives it back.
        rig.ads.publish(rig.published, {"gateway-9": {}})
        await rig.ads.wait_synced(20)
        rig.ads.publish(rig.published)
        await rig.ads.wait_synced(20)
        await asyncio.gather(*(rig.post() for _ in range(20)))
    assert len(zai.seen) <= 60 + (600 + 1 - 60) / 60 * (time.monotonic() - began)


async def test_what_the_money_keeps_back_does_not_use_up_the_limit(rig: Rig) -> None:
    zai = await limited(rig, 60, (LARGE, DEEP), cap=1)
    zai.hold.clear()
    holding: list[asyncio.Task[object]] = []

    async def held() -> bool:
        holding.append(asyncio.create_task(rig.post()))
        await asyncio.wait([holding[-1]], timeout=0.2)
        return zai.open_requests == 1

    async def overflows() -> int:
        async with rig.session.get(f"{rig.metrics}/metrics") as page:
            found = [line for line in (await page.text()).splitlines() if line.startswith(OVERFLOW)]
        return int(found[0].removeprefix(OVERFLOW)) if found else 0

    async def two_pass() -> bool:
        before = await overflows()
        await asyncio.gather(rig.post(), rig.post())
        return await overflows() == before + 2

    await eventually(held, "a request is at the provider, which takes one at a time")
    await eventually(two_pass, "the bucket has two more")
    before = await overflows()
    assert {(await rig.post()).served_by for _ in range(30)} == {"deep"}
    assert await overflows() == before + 30, "each found the count open, though only one a second may begin"
    zai.hold.set()
    await asyncio.gather(*holding)
