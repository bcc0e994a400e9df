"""The log of attempts at providers: what reaches the leader, what does not, and what happens when nobody listens."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from spillway.gateway import ads, entries
from spillway.gateway.ads import AdsServer
from spillway.gateway.desired import Desired
from spillway.gateway.entries import Attempt
from tests.integration.gateway.rig import PROVIDER_PORT, Rig, deployment, egress, eventually, provider, spill

ZAI = ("zai", "glm-5.1")
MARK = "marked-7f3a5c1e"


async def listening(rig: Rig) -> list[Attempt]:
    """The rig's leader, started anew so that it keeps what it is told."""
    await rig.ads.stop()
    told: list[Attempt] = []
    rig.ads = AdsServer(f"{rig.subnet}.1", 18000, lambda: True, lambda: rig.identity, told.extend)
    await rig.ads.start()
    rig.ads.publish(rig.published)
    return told


async def serving(rig: Rig) -> Any:
    zai, address = await rig.fake("zai", PROVIDER_PORT)
    (rig.directory / "keys" / "zai").write_text(f"sk-{MARK}")
    glm = deployment(chain=(ZAI,))
    await rig.publish(Desired((glm,), (provider("zai", address),), (egress(*ZAI),), {"chat/glm-5": spill(ZAI)}))
    await rig.start_envoy()
    return zai


async def until(told: list[Attempt], count: int) -> None:
    async def there() -> bool:
        return len(told) >= count

    await eventually(there, f"{count} entries", dump=lambda: str(told))
    assert len(told) == count


async def test_each_attempt_is_told_with_what_it_used_and_nothing_it_said(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw: list[bytes] = []
    parse = entries.attempts

    def recorded(export: Any) -> Any:
        raw.append(export.SerializeToString())
        return parse(export)

    monkeypatch.setattr(ads, "attempts", recorded)
    told = await listening(rig)
    zai = await serving(rig)
    zai.extra_headers = {"x-answer": MARK}
    headers = {"authorization": f"Bearer {MARK}", "x-mine": MARK, "user-agent": MARK, "referer": MARK}
    body = {"model": "glm-5", "messages": [{"role": "user", "content": MARK}], "user": MARK}
    path = f"/v1/chat/completions?key={MARK}"

    assert (await rig.post(body, headers=headers, path=path)).status == 200
    await until(told, 1)
    assert (await rig.post({**body, "stream": True}, headers=headers, path=path)).status == 200
    await until(told, 2)
    zai.status = 500
    await rig.post(body, headers=headers, path=path)
    await until(told, 3)
    zai.status = 200
    zai.hold.clear()
    with pytest.raises(TimeoutError):
        await rig.post({**body, "stream": True}, headers=headers, path=path, timeout=aiohttp.ClientTimeout(total=1))
    await until(told, 4)

    whole, streamed, refused, aborted = told
    for one in (whole, streamed):
        assert (one.outcome, one.tier, one.prompt_tokens, one.completion_tokens) == ("metered", 0, 11, 7)
        assert (one.cached_tokens, one.cache_write_tokens) == (3, 0)
    assert [one.outcome for one in (refused, aborted)] == ["refused", "left"]
    assert refused.prompt_tokens == aborted.prompt_tokens == 0
    assert {(one.deployment, one.provider, one.model) for one in told} == {("chat/glm-5", *ZAI)}
    assert all(one.request_bytes > 0 for one in told)
    assert streamed.first_byte_ms is not None and 0 <= streamed.first_byte_ms <= streamed.duration_ms
    assert {one.process for one in told} == {(await rig.reading()).process}
    counted = {(s.outcome, s.answer): s.requests for s in (await rig.reading()).samples}
    metered = {("metered", "json"): 1, ("metered", "stream"): 1}
    assert counted == {**metered, ("refused", ""): 1, ("left", "stream"): 1}

    assert b"chat/glm-5" in b"".join(raw)
    for hidden in (MARK, "completions", "sk-", "127.0.", "glm-5.chat", "user-agent"):
        assert hidden.encode() not in b"".join(raw), hidden


async def test_requests_do_not_wait_for_a_leader_that_is_away_and_are_told_to_the_next(rig: Rig) -> None:
    told = await listening(rig)
    await serving(rig)
    assert (await rig.post()).status == 200
    await until(told, 1)
    await rig.ads.stop()
    answers = await asyncio.gather(*(rig.post() for _ in range(50)))
    assert {answer.status for answer in answers} == {200}

    anew = await listening(rig)

    async def heard() -> bool:
        return (await rig.post()).status == 200 and bool(anew)

    await eventually(heard, "the next leader is told")
    assert anew[-1].outcome == "metered"


async def test_requests_do_not_wait_for_a_leader_that_takes_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    never, asked = asyncio.Event(), asyncio.Event()

    async def hang(self: AdsServer, export: Any, context: Any) -> Any:
        asked.set()
        await never.wait()

    monkeypatch.setattr(AdsServer, "_take_detail", hang)
    await listening(rig)
    await serving(rig)
    assert (await rig.post()).status == 200
    async with asyncio.timeout(30):
        await asked.wait()
    answers = await asyncio.gather(*(rig.post() for _ in range(50)))
    assert {answer.status for answer in answers} == {200}
    never.set()
