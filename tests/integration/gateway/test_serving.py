"""Requests through the gateway: local, overflow at the gate, chains, refusals."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

from spillway.gateway.desired import Desired, Refusal
from tests.integration.gateway.rig import MESSAGES, PROVIDER_PORT, Answer, Rig, deployment, egress, provider, spill

ZAI, DEEP = ("zai", "glm-5.1"), ("deep", "zai-org/GLM-5")
ID = "chat/glm-5"


async def test_local_json_and_stream(rig: Rig) -> None:
    engine, address = await rig.fake("engine")
    await rig.publish(Desired((deployment(address),), spill={ID: spill(gate=10)}))
    await rig.start_envoy()
    await rig.healthy(f"local|{ID}", 1)

    for host in ("glm-5.chat", "glm-5", "glm-5.chat.svc", "GLM-5.chat.svc.cluster.local:8080"):
        answer = await rig.post(host=host)
        assert (answer.status, answer.served_by) == (200, "local")
        assert json.loads(answer.text)["choices"][0]["message"]["content"] == "engine"
    stream = await rig.post({"model": "glm-5", "stream": True, **MESSAGES}, headers={"x-spillway-deployment": "a/b"})
    assert stream.status == 200 and stream.text.endswith("data: [DONE]\n\n")
    assert engine.seen[-1].headers["x-spillway-deployment"] == ID
    assert engine.seen[-1].body == {"model": "glm-5", "stream": True, **MESSAGES}

    models = await (await rig.session.get(f"{rig.url}/v1/models", headers={"host": "glm-5.chat"})).json()
    assert [model["id"] for model in models["data"]] == ["glm-5"]
    for wrong in (await rig.post(host="other.chat"), await rig.post(path="/v1/files")):
        assert wrong.status == 404
        assert json.loads(wrong.text)["error"]["type"] == "invalid_request_error"
    assert "<name>.<namespace>" in (await rig.post(host="other.chat")).text
    large = await rig.post({"model": "glm-5", "prompt": "x" * (17 << 20)}, path="/v1/completions")
    assert (large.status, json.loads(large.text)["error"]["code"]) == (413, "payload_too_large")
    assert len(engine.seen) == 5


async def test_same_name_in_two_namespaces(rig: Rig) -> None:
    _, chat = await rig.fake("chat")
    _, search = await rig.fake("search")
    both = (deployment(chat), deployment(search, namespace="search"))
    await rig.publish(Desired(both, spill={ID: spill(gate=10), "search/glm-5": spill(gate=10)}))
    await rig.start_envoy()
    await rig.healthy(f"local|{ID}", 1)
    await rig.healthy("local|search/glm-5", 1)

    ambiguous = await rig.post(host="glm-5")
    assert ambiguous.status == 404
    assert "http://glm-5.chat/v1" in ambiguous.text and "http://glm-5.search/v1" in ambiguous.text
    assert '"chat"' in (await rig.post(host="glm-5.chat")).text
    assert '"search"' in (await rig.post(host="glm-5.search")).text
    await rig.publish(Desired(both[1:], spill={"search/glm-5": spill(gate=10)}))
    assert '"search"' in (await rig.post(host="glm-5")).text
    assert (await rig.post(host="glm-5.chat")).status == 404


async def test_overflow_at_the_gate_exactly(rig: Rig) -> None:
    engine, address = await rig.fake("engine")
    zai, external = await rig.fake("zai", PROVIDER_PORT)
    (rig.directory / "keys" / "zai").write_text("sk-zai")
    engine.hold.clear()
    desired = Desired(
        (deployment(address, chain=(ZAI,)),), (provider("zai", external),), (egress(*ZAI),), {ID: spill(ZAI, gate=2)}
    )
    await rig.publish(desired)
    await rig.start_envoy()
    await rig.healthy(f"local|{ID}", 1)

    requests = [asyncio.create_task(rig.post()) for _ in range(10)]
    await zai.until(lambda: len(zai.seen) == 8)
    assert engine.open_requests == 2
    engine.hold.set()
    answers = await asyncio.gather(*requests)
    assert Counter((a.status, a.served_by) for a in answers) == {(200, "local"): 2, (200, "zai"): 8}
    assert {a.headers["x-spillway-reason"] for a in answers if a.served_by == "zai"} == {"overflow"}
    reading = await rig.reading()
    assert reading.arrivals == {ID: 10}
    assert [(s.outcome, s.requests, s.prompt_tokens) for s in reading.samples] == [("metered", 8, 88)]


async def test_chain_order_permission_and_provider_errors(rig: Rig) -> None:
    zai, first = await rig.fake("zai", PROVIDER_PORT)
    deep, second = await rig.fake("deep", PROVIDER_PORT)
    for key in ("zai", "deep"):
        (rig.directory / "keys" / key).write_text(f"sk-{key}")
    glm = deployment(chain=(ZAI, DEEP))
    providers, egresses = (provider("zai", first), provider("deep", second)), (egress(*ZAI), egress(*DEEP))

    async def served(**state: object) -> Answer:
        await rig.publish(Desired((glm,), providers, egresses, {ID: spill(ZAI, DEEP, **state)}))  # type: ignore[arg-type]
        return await rig.post()

    await rig.publish(Desired((glm,), providers, egresses, {ID: spill(ZAI, DEEP)}))
    await rig.start_envoy()
    assert (await served()).served_by == "zai"
    assert (await served(permitted={ZAI: False, DEEP: True})).served_by == "deep"
    for status in (400, 413, 422):
        zai.status = status
        answer = await served()
        assert (answer.status, answer.served_by) == (status, "zai")
        assert f"zai says {status}" in answer.text
    for status in (401, 402, 403, 404, 408, 409, 429, 500, 503, 529):  # after the last one it is left alone for 2 s
        zai.status = status
        assert (await served()).served_by == "deep", status
    zai.status, deep.status = 429, 500
    failed = await served()
    assert (failed.status, json.loads(failed.text)["error"]["code"]) == (502, "provider_error")
    assert failed.headers["retry-after"] == "10" and "x-spillway-next" not in failed.headers
    zai.status = deep.status = 200
    await zai.stop()
    assert (await served()).served_by == "deep"
    assert (await served(allowed=False)).status == 503
    assert (await served(share_percent=100)).served_by == "deep"


async def test_refusals(rig: Rig) -> None:
    engine, address = await rig.fake("engine")
    zai, external = await rig.fake("zai", PROVIDER_PORT)
    (rig.directory / "keys" / "zai").write_text("sk-zai")
    refusal = Refusal(429, "budget_exhausted", 'CostPolicy "team-a" is spent: resets 2026-12-01T00:00Z', 90_000)

    async def refused(*endpoints: str, refusal: Refusal | None = None, **state: object) -> Answer:
        glm = deployment(*endpoints, chain=(ZAI,), refusal=refusal)
        desired = Desired((glm,), (provider("zai", external),), (egress(*ZAI),), {ID: spill(ZAI, **state)})  # type: ignore[arg-type]
        await rig.publish(desired)
        return await rig.post()

    def code(answer: Answer) -> tuple[int, str, str, str]:
        error = json.loads(answer.text)["error"]
        return answer.status, error["code"], answer.headers["retry-after"], answer.headers["x-spillway-reason"]

    await rig.publish(Desired())
    await rig.start_envoy()
    assert code(await refused(allowed=False)) == (503, "no_capacity", "30", "no_capacity")
    assert code(await refused(allowed=False, refusal=refusal)) == (429, "budget_exhausted", "3600", "budget_exhausted")
    await refused(address, allowed=False)
    await rig.healthy(f"local|{ID}", 1)
    assert (await refused(address, allowed=False, gate=1)).served_by == "local"
    full = await refused(address, allowed=False, gate=0)
    assert code(full) == (429, "capacity_exceeded", "5", "capacity_exceeded") and full.served_by == "none"
    spent = await refused(address, allowed=False, gate=0, refusal=refusal)
    assert code(spent) == (429, "budget_exhausted", "3600", "budget_exhausted")
    assert "team-a" in json.loads(spent.text)["error"]["message"]
    assert code(await refused(address, gate=0, cap=0))[1] == "capacity_exceeded"
    engine.status = 503
    assert code(await refused(address, allowed=False))[1] == "capacity_exceeded"
    engine.status = 500
    assert (await refused(address)).status == 500
    assert not zai.seen


async def test_money_cap_exactly(rig: Rig) -> None:
    zai, external = await rig.fake("zai", PROVIDER_PORT)
    (rig.directory / "keys" / "zai").write_text("sk-zai")
    glm = deployment(chain=(ZAI,))
    await rig.publish(Desired((glm,), (provider("zai", external),), (egress(*ZAI),), {ID: spill(ZAI, cap=3)}))
    await rig.start_envoy()

    zai.hold.clear()
    held = [asyncio.create_task(rig.post()) for _ in range(3)]
    await zai.until(lambda: len(zai.seen) == 3)
    above = await asyncio.gather(*(rig.post() for _ in range(5)))
    assert {(answer.status, answer.headers["x-spillway-reason"]) for answer in above} == {(429, "capacity_exceeded")}
    zai.hold.set()
    assert {answer.status for answer in await asyncio.gather(*held)} == {200}
    assert [(s.outcome, s.requests) for s in (await rig.reading()).samples] == [("metered", 3)]
