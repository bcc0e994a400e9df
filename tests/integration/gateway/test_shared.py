"""The shared address: any Host that is no deployment's own; the body's model says which deployment is meant."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from spillway.gateway.desired import Desired, Refusal, Route
from tests.integration.gateway.fakes import Fake
from tests.integration.gateway.rig import MESSAGES, PROVIDER_PORT, Answer, Rig, deployment, egress, provider, spill

HOST = "spillway-gateway.spillway-system.svc.cluster.local"
ZAI = ("zai", "glm-5.1")


@pytest.fixture
async def two(rig: Rig) -> tuple[Rig, Fake, Fake]:
    """Deployments of the same name in two namespaces; the second serves another name than its own."""
    chat, one = await rig.fake("chat")
    search, other = await rig.fake("search")
    both = (deployment(one), deployment(other, namespace="search", served_name='zai-org/"GLM"'))
    await rig.publish(Desired(both, spill={"chat/glm-5": spill(gate=10), "search/glm-5": spill(gate=10)}))
    await rig.start_envoy()
    await rig.healthy("local|chat/glm-5", 1)
    await rig.healthy("local|search/glm-5", 1)
    return rig, chat, search


async def shared(rig: Rig, model: Any, host: str = HOST, **kw: Any) -> Answer:
    return await rig.post({"stream": False, **MESSAGES, "model": model, "x": {"model": "no"}}, host=host, **kw)


async def test_by_the_model_of_the_body(two: tuple[Rig, Fake, Fake]) -> None:
    rig, chat, search = two
    for host in (HOST, "spillway-gateway", "127.0.0.1:8080", "models.example.com"):
        for model, fake, served in (("chat/glm-5", chat, "glm-5"), ("search/glm-5", search, 'zai-org/"GLM"')):
            answer = await shared(rig, model, host, headers={"x-spillway-deployment": "chat/other"})
            assert (answer.status, answer.served_by) == (200, "local")
            assert fake.seen[-1].body == {"stream": False, **MESSAGES, "model": served, "x": {"model": "no"}}
            headers = {name.lower(): value for name, value in fake.seen[-1].headers.items()}
            assert headers["x-spillway-deployment"] == model
            assert not {"x-spillway-addressed", "x-spillway-model", "x-spillway-prefix"} & set(headers)
    assert (len(chat.seen), len(search.seen)) == (4, 4)
    assert (await rig.reading()).arrivals == {"chat/glm-5": 4, "search/glm-5": 4}
    models = await (await rig.session.get(f"{rig.url}/v1/models", headers={"host": HOST})).json()
    assert [model["id"] for model in models["data"]] == ["chat/glm-5", "search/glm-5"]
    escaped = await rig.session.post(
        f"{rig.url}/v1/chat/completions", data=b'{"model":"search\\/glm-5"}', headers={"host": HOST}
    )
    assert escaped.status == 200 and len(search.seen) == 5


@pytest.mark.parametrize(
    "model", ["glm-5", "chat/other", "chat/glm-5/", "", None, 7, {"a": "chat/glm-5"}, "x\ny/z", "é/é"]
)
async def test_unknown_models_say_what_to_write(two: tuple[Rig, Fake, Fake], model: Any) -> None:
    rig, chat, search = two
    for headers in ({}, {"x-spillway-addressed": "model"}):
        answer = await shared(rig, model, headers=headers)
        error = json.loads(answer.text)["error"]
        assert (answer.status, error["code"], error["type"]) == (404, "model_not_found", "invalid_request_error")
        assert '"<namespace>/<name>"' in error["message"] and "chat/glm-5, search/glm-5" in error["message"]
    assert not chat.seen and not search.seen


async def test_bodies_that_cannot_be_read(two: tuple[Rig, Fake, Fake]) -> None:
    rig, chat, search = two
    url, headers = f"{rig.url}/v1/chat/completions", {"host": HOST}
    unnamed = (b"{}", b'{"mod\\u0065l":"chat/glm-5"}')
    for body in (b"", b"[]", b'{"model":', b'"chat/glm-5"', b"\xff\x00", *unnamed):
        async with rig.session.post(url, data=body, headers=headers) as answer:
            assert answer.status == (404 if body in unnamed else 400), body
            assert "message" in (await answer.json())["error"]
    async with rig.session.post(url, data=b"x", headers={**headers, "content-encoding": "gzip"}) as answer:
        assert answer.status == 400
    large = await shared(rig, "chat/glm-5", params={"a": "b"}, headers={})
    assert large.status == 200 and chat.seen[-1].path == "/v1/chat/completions?a=b"
    huge = await rig.post({"model": "chat/glm-5", "prompt": "x" * (17 << 20)}, host=HOST, path="/v1/completions")
    assert (huge.status, json.loads(huge.text)["error"]["code"]) == (413, "payload_too_large")
    five = await rig.post({"prompt": "x" * (5 << 20), "model": "search/glm-5"}, host=HOST, path="/v1/completions")
    assert five.status == 200 and search.seen[-1].body["model"] == 'zai-org/"GLM"'
    assert len(search.seen[-1].body["prompt"]) == 5 << 20


async def test_a_deployments_own_address_passes_the_model_on_as_it_is(two: tuple[Rig, Fake, Fake]) -> None:
    rig, chat, _ = two
    for model in ("other", "search/glm-5", "chat/glm-5", None):
        assert (await shared(rig, model, "glm-5.chat")).status == 200
        assert chat.seen[-1].body["model"] == model


async def test_overflow_routes_and_aborts_work_there_too(rig: Rig) -> None:
    engine, address = await rig.fake("engine")
    zai, external = await rig.fake("zai", PROVIDER_PORT)
    (rig.directory / "keys" / "zai").write_text("sk")
    premium = Route("premium", ZAI, Refusal(429, "budget_exhausted", "", 5), header=("x-tier", "premium"))
    glm = deployment(address, chain=(ZAI,), routes=(premium,))
    state = spill(ZAI, gate=1, routed=frozenset({ZAI}))
    await rig.publish(Desired((glm,), (provider("zai", external),), (egress(*ZAI),), {glm.id: state}))
    await rig.start_envoy()
    await rig.healthy(f"local|{glm.id}", 1)

    engine.hold.clear()
    held = asyncio.create_task(shared(rig, glm.id))
    await engine.until(lambda: engine.open_requests == 1)
    overflow, routed = await shared(rig, glm.id), await shared(rig, glm.id, headers={"x-tier": "premium"})
    assert [(a.served_by, a.headers["x-spillway-reason"]) for a in (overflow, routed)] == [
        ("zai", "overflow"),
        ("zai", "route"),
    ]
    assert {seen.body["model"] for seen in zai.seen} == {"glm-5.1"}
    held.cancel()
    await engine.until(lambda: engine.aborted == 1)
