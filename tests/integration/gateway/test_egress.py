"""What goes out to a provider, and what is counted: keys, headers, caps, tokens."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from spillway.gateway.desired import Deployment, Desired, Provider
from spillway.gateway.readings import EgressSample
from tests.integration.gateway.certificates import server_context
from tests.integration.gateway.fakes import Fake
from tests.integration.gateway.rig import (
    MESSAGES,
    PROVIDER_PORT,
    Rig,
    deployment,
    egress,
    eventually,
    provider,
    spill,
)

ZAI, DEEP = ("zai", "glm-5.1"), ("deep", "zai-org/GLM-5")
ID = "chat/glm-5"
PRIVATE = {
    "authorization": "Bearer client-key",
    "x-api-key": "client-key",
    "cookie": "session=1",
    "x-forwarded-for": "10.0.0.1",
    "forwarded": "for=10.0.0.1",
    "x-real-ip": "10.0.0.1",
    "openai-organization": "org",
    "x-team": "assist",
    "x-envoy-max-retries": "50",
    "accept-encoding": "gzip",
    "x-request-id": "secret",
}


def write_secret(directory: Path, files: Mapping[str, bytes]) -> None:
    """As kubelet does: a new directory, then one rename of the `..data` symlink."""
    version = directory / f"..{len(list(directory.iterdir()))}"
    version.mkdir()
    for name, content in files.items():
        (version / name).write_bytes(content)
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"..data/{name}")
    (directory / "..data_tmp").symlink_to(version.name)
    os.replace(directory / "..data_tmp", directory / "..data")


def only(chain: tuple[tuple[str, str], ...], *providers: Provider, **fields: Any) -> Desired:
    egresses = tuple(egress(*pair, **fields) for pair in chain)
    glm: Deployment = deployment(chain=chain)
    return Desired((glm,), providers, egresses, {ID: spill(*chain)})


async def counted(rig: Rig, count: int) -> list[EgressSample]:
    """The samples once `count` attempts have ended."""
    samples: list[EgressSample] = []

    async def there() -> bool:
        samples[:] = (await rig.reading()).samples
        return sum(sample.requests for sample in samples) >= count

    await eventually(there, f"{count} attempts are counted", dump=lambda: str(samples))
    return samples


async def test_tls_key_and_headers(rig: Rig, tmp_path: Path) -> None:
    context, ca = server_context(tmp_path, "api.zai.test")
    zai, address = await rig.fake("zai", PROVIDER_PORT, context)
    keys = rig.directory / "keys"
    write_secret(keys, {"zai": b"sk-one", "zai-ca": ca})
    base = {"base_url": f"https://{address}:{PROVIDER_PORT}/api/paas/v4", "ca_key": "zai-ca"}
    await rig.publish(only((ZAI,), provider("zai", address, server_name="api.zai.test", **base)))
    await rig.start_envoy()

    answer = await rig.post(headers=PRIVATE)
    assert (answer.status, answer.served_by) == (200, "zai")
    seen = zai.seen[-1]
    assert seen.path == "/api/paas/v4/chat/completions"
    headers = {name.lower(): value for name, value in seen.headers.items()}
    assert headers.pop("host") == f"{address}:{PROVIDER_PORT}"
    assert headers.pop("authorization") == "Bearer sk-one"
    assert set(headers) == {"accept", "content-type", "content-length", "user-agent"}
    assert not any("client-key" in value for value in headers.values())

    write_secret(keys, {"zai": b"sk-two", "zai-ca": ca})

    async def rotated() -> bool:
        await rig.post()
        return zai.seen[-1].headers["Authorization"] == "Bearer sk-two"

    await eventually(rotated, "the new key is used")

    wrong = provider("zai", address, server_name="api.other.test", **base)
    before = len(zai.seen)
    await rig.publish(only((ZAI,), wrong))
    refused = await rig.post()
    assert (refused.status, json.loads(refused.text)["error"]["code"]) == (502, "provider_error")
    assert len(zai.seen) == before


@pytest.mark.parametrize(
    ("path", "sent", "received"),
    [
        ("chat/completions", {}, {"max_tokens": 100}),
        ("chat/completions", {"max_tokens": 7}, {"max_tokens": 7}),
        ("chat/completions", {"max_tokens": 101}, {"max_tokens": 100}),
        ("chat/completions", {"max_tokens": -1}, {"max_tokens": 100}),
        ("chat/completions", {"max_tokens": None}, {"max_tokens": 100}),
        ("chat/completions", {"max_tokens": "9999"}, {"max_tokens": 100}),
        ("chat/completions", {"max_completion_tokens": 500}, {"max_completion_tokens": 100}),
        ("chat/completions", {"max_completion_tokens": 5}, {"max_completion_tokens": 5}),
        ("chat/completions", {"n": 64, "top_k": 4, "service_tier": "priority"}, {"n": 2, "max_tokens": 100}),
        ("chat/completions", {"n": 1}, {"n": 1, "max_tokens": 100}),
        (
            "chat/completions",
            {"stream": True, "stream_options": {"include_usage": False, "x": {"y": 1}}},
            {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 100},
        ),
        (
            "chat/completions",
            {"stream": True},
            {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 100},
        ),
        ("completions", {"prompt": "a", "best_of": 9}, {"prompt": "a", "best_of": 2, "max_tokens": 100}),
        ("completions", {"prompt": ["a"]}, {"prompt": ["a"], "max_tokens": 100}),
        ("completions", {"prompt": [1, 2]}, {"prompt": [1, 2], "max_tokens": 100}),
        ("responses", {"input": "a", "background": True}, {"input": "a", "max_output_tokens": 100}),
        ("embeddings", {"input": ["a", "b"]}, {"input": ["a", "b"]}),
    ],
)
async def test_body(shared: tuple[Rig, Fake], path: str, sent: dict[str, Any], received: dict[str, Any]) -> None:
    rig, zai = shared
    text = {"messages": [{"role": "user", "content": 'a "model": "b", \\"max_tokens\\": 9999 {[}'}]}
    before = len(zai.seen)
    answer = await rig.post({"model": "glm-5", **text, **sent}, path=f"/v1/{path}")
    assert answer.status == 200
    assert zai.seen[before].path == f"/api/v4/{path}"
    assert zai.seen[before].body == {"model": 'odd "model".1', **text, **received}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("", 400),
        ("[]", 400),
        ('{"model": "glm-5"', 400),
        ('{"model": "glm-5"} x', 400),
        ('{"model": "glm-5", "max\\u005ftokens": 5000}', 400),
        ('{"model": "glm-5", "prompt": ["a", "b"]}', 429),
        ('{"model": "glm-5", "prompt": [[1, 2], [3]]}', 429),
    ],
)
async def test_unbounded_body_stays_here(shared: tuple[Rig, Fake], body: str, status: int) -> None:
    rig, zai = shared
    before = len(zai.seen)
    headers = {"host": "glm-5.chat", "content-type": "application/json"}
    async with rig.session.post(f"{rig.url}/v1/completions", data=body, headers=headers) as answer:
        assert answer.status == status
        assert (await answer.json())["error"]["message"]
    assert len(zai.seen) == before


async def test_a_field_given_twice_is_capped(shared: tuple[Rig, Fake]) -> None:
    rig, zai = shared
    body = '{"max_tokens": 1, "model": "a", "max_tokens" : 5000 , "n": 1, "n": 70, "model": "b", "messages": []}'
    headers = {"host": "glm-5.chat", "content-type": "application/json"}
    async with rig.session.post(f"{rig.url}/v1/chat/completions", data=body, headers=headers) as answer:
        assert answer.status == 200
    assert zai.seen[-1].body == {"max_tokens": 100, "model": 'odd "model".1', "n": 2, "messages": []}


async def test_counters(rig: Rig) -> None:
    zai, address = await rig.fake("zai", PROVIDER_PORT)
    write_secret(rig.directory / "keys", {"zai": b"sk"})
    await rig.publish(only((ZAI,), provider("zai", address), cap=1000, context_length=2_000_000))
    await rig.start_envoy()
    stream = {"model": "glm-5", "stream": True, **MESSAGES}
    sizes: dict[tuple[str, str], int] = {}

    zai.usage = {"prompt_tokens": 1_234_567, "completion_tokens": 300, "prompt_tokens_details": {"cached_tokens": 5}}
    sizes["metered", "json"] = len((await rig.post()).text)
    sizes["metered", "stream"] = len((await rig.post(stream)).text)
    zai.usage = None
    sizes["unmetered", "json"] = len((await rig.post()).text)
    sizes["unmetered", "stream"] = len((await rig.post(stream)).text)
    zai.status = 429
    await rig.post()
    zai.status = 400
    await rig.post()

    samples = {(s.outcome, s.answer): s for s in await counted(rig, 6)}
    assert samples.keys() == {*sizes, ("refused", "")}
    assert {key: s.response_bytes for key, s in samples.items() if key in sizes} == sizes
    for (outcome, answer), s in samples.items():
        assert (s.namespace, s.deployment, s.provider, s.model) == ("chat", "glm-5", *ZAI)
        tokens = (1_234_567, 300, 5) if outcome == "metered" else (0, 0, 0)
        assert (s.prompt_tokens, s.completion_tokens, s.cached_tokens) == tokens
        assert s.requests == (2 if outcome == "refused" else 1)
        assert s.request_bytes == samples["metered", answer].request_bytes > 0 if outcome == "unmetered" else True

    zai.status = 200
    zai.hold.clear()
    for number, (body, answer) in enumerate(((stream, "stream"), (None, "json")), start=1):
        seen = len(zai.seen)
        aborted = asyncio.create_task(rig.post(body))
        await zai.until(lambda seen=seen: len(zai.seen) > seen)  # type: ignore[misc]
        in_flight = (await rig.reading()).in_flight
        assert in_flight[f"ext|zai|glm-5.1|{ID}"] == 1
        aborted.cancel()
        await zai.until(lambda number=number: zai.aborted == number)  # type: ignore[misc]
        left = {s.answer: s.requests for s in await counted(rig, 6 + number) if s.outcome == "left"}
        assert left.get(answer) == 1
    assert (await rig.reading()).process is not None


async def test_responses_usage(rig: Rig) -> None:
    zai, address = await rig.fake("zai", PROVIDER_PORT)
    zai.usage = {"input_tokens": 21, "output_tokens": 9, "input_tokens_details": {"cached_tokens": 4}}
    write_secret(rig.directory / "keys", {"zai": b"sk"})
    await rig.publish(only((ZAI,), provider("zai", address)))
    await rig.start_envoy()
    await rig.post({"model": "glm-5", "input": "hello"}, path="/v1/responses")
    [sample] = await counted(rig, 1)
    assert (sample.prompt_tokens, sample.completion_tokens, sample.cached_tokens) == (21, 9, 4)


async def test_missing_key_is_skipped_and_reported(rig: Rig) -> None:
    zai, first = await rig.fake("zai", PROVIDER_PORT)
    deep, second = await rig.fake("deep", PROVIDER_PORT)
    keys = rig.directory / "keys"
    write_secret(keys, {"deep": b"sk-deep\n"})
    await rig.publish(only((ZAI, DEEP), provider("zai", first), provider("deep", second)))
    await rig.start_envoy()

    answer = await rig.post()
    assert (answer.status, answer.served_by) == (200, "deep")
    assert deep.seen[-1].headers["Authorization"] == "Bearer sk-deep"
    assert not zai.seen
    assert rig.ads.missing_keys() == ("zai",)
    assert (await rig.reading()).missing_credential_keys == ("zai",)

    await rig.ads.renew()
    (keys / "zai").write_bytes(b"sk-zai")

    async def found() -> bool:
        await rig.ads.renew()
        return rig.ads.missing_keys() == ()

    await eventually(found, "the key that came later is read")
    assert (await rig.post()).served_by == "zai"
    assert (await rig.reading()).missing_credential_keys == ()
