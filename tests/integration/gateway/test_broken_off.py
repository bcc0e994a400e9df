"""A provider that takes a request and breaks off before its first byte: the next one answers, and both are paid."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web

from spillway.gateway.desired import Desired
from tests.integration.gateway.fakes import Fake
from tests.integration.gateway.rig import MESSAGES, PROVIDER_PORT, Rig, deployment, egress, eventually, provider, spill

ZAI, DEEP = ("zai", "glm-5.1"), ("deep", "zai-org/GLM-5")


@dataclass
class Breaking(Fake):
    """Reads the request and, when it has thought about it for so long, closes the connection."""

    thinks_seconds: float = 0.0

    async def _speak(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(self.thinks_seconds)
        assert request.transport is not None
        request.transport.abort()
        raise ConnectionResetError


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_a_provider_broke_off_is_no_refusal(rig: Rig, stream: bool) -> None:
    zai, first = Breaking("zai", thinks_seconds=0.4), f"{rig.subnet}.{next(rig.addresses)}"
    await zai.start(first, PROVIDER_PORT)
    rig.fakes.append(zai)
    _, second = await rig.fake("deep", PROVIDER_PORT)
    for key in ("zai", "deep"):
        (rig.directory / "keys" / key).write_text(f"sk-{key}")
    glm = deployment(chain=(ZAI, DEEP))
    providers = provider("zai", first), provider("deep", second)
    await rig.publish(Desired((glm,), providers, (egress(*ZAI), egress(*DEEP)), {"chat/glm-5": spill(ZAI, DEEP)}))
    await rig.start_envoy()

    async def counted(zai_outcomes: dict[str, int], deep: int) -> None:
        async def there() -> bool:
            samples = (await rig.reading()).samples
            return {s.outcome: s.requests for s in samples if s.provider == "zai"} == zai_outcomes and sum(
                s.requests for s in samples if s.provider == "deep" and s.outcome == "metered"
            ) == deep

        await eventually(there, f"zai {zai_outcomes}, deep {deep}")

    body = {"model": "glm-5", "stream": stream, **MESSAGES}
    answer = await rig.post(body)
    assert (answer.status, answer.served_by) == (200, "deep")
    assert "x-spillway-unanswered" not in answer.headers
    await counted({"unanswered": 1}, 1)
    [sample] = [s for s in (await rig.reading()).samples if s.outcome == "unanswered"]
    assert sample.request_bytes > 0, "what its prompt is estimated from"

    zai.thinks_seconds = 0.0  # at once: nothing was computed
    assert (await rig.post(body)).served_by == "deep"
    await counted({"unanswered": 1, "refused": 1}, 2)

    await zai.stop()  # nobody listens: nothing was sent, and nothing is owed
    answer = await rig.post(body)
    assert (answer.status, answer.served_by) == (200, "deep")
    await counted({"unanswered": 1, "refused": 2}, 3)
