"""What becomes of a provider's error: who reads it, how it is counted, and for how long the provider is left alone."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from e2e.simulators.provider.errors import STYLES, Situation
from spillway.api import ExternalProvider, Reason
from spillway.controller.provider_guard import ProviderGuard
from spillway.controller.provider_watch import ProviderWatch, Told
from spillway.gateway.desired import Desired
from spillway.ledger import EgressSample as Sample
from spillway.observe.resolve import valid
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
from tests.unit.api.examples import example

NOON = 1_795_435_200.0
ZAI, DEEP = ("zai", "glm-5.1"), ("deep", "zai-org/GLM-5")
ID = "chat/glm-5"
PASSED_ON = 502  # nobody else is there to answer
CLASSES: dict[Situation, str] = {
    "bad_request": "rejected",
    "unauthorized": "credentials",
    "forbidden": "forbidden",
    "unknown_model": "unknown_model",
    "rate_limited": "throttled",
    "no_balance": "quota",
    "server_error": "unavailable",
}
OVERLOADED = {"anthropic": "overloaded", "zai": "overloaded", "ark": "overloaded"}  # elsewhere a plain 503


async def one(rig: Rig) -> Fake:
    """A deployment without replicas, with one provider, before anything was asked."""
    zai, address = await rig.fake("zai", PROVIDER_PORT)
    (rig.directory / "keys" / "zai").write_text("sk-zai")
    await rig.publish(
        Desired((deployment(chain=(ZAI,)),), (provider("zai", address),), (egress(*ZAI),), {ID: spill(ZAI)})
    )
    await rig.start_envoy()
    return zai


async def errors(rig: Rig, expected: dict[str, int], name: str = "zai") -> None:
    seen: dict[str, int] = {}

    async def there() -> bool:
        seen.clear()
        for (which, _, why), count in (await rig.reading()).errors.items():
            if which == name:
                seen[why] = count
        return seen == expected

    await eventually(there, f"errors {expected}", dump=lambda: str(seen))


@pytest.mark.parametrize("style", STYLES)
async def test_every_error_of_every_style(rig: Rig, style: str) -> None:
    zai = await one(rig)
    expected: dict[str, int] = {}
    for situation, said in STYLES[style].items():
        why = OVERLOADED.get(style, "unavailable") if situation == "overloaded" else CLASSES[situation]
        zai.status, zai.error, zai.extra_headers = said.status, said.body, {}
        before = len(zai.seen)
        answer = await rig.post()
        assert len(zai.seen) == before + 1, situation
        assert answer.status == (said.status if why == "rejected" else PASSED_ON), situation
        if why == "rejected":
            assert (json.loads(answer.text), answer.served_by) == (said.body, "zai")
        expected[why] = expected.get(why, 0) + 1
        await errors(rig, expected)
    samples = {s.outcome: s.requests for s in (await rig.reading()).samples}
    assert samples == {"refused": len(STYLES[style])}


@pytest.mark.parametrize(
    ("status", "error", "why"),
    [
        (400, {"type": "error", "error": {"type": "x", "message": "Your credit balance is too low to"}}, "quota"),
        (400, {"error": {"message": "what is Your credit balance is too low?"}}, "rejected"),
        (400, {"error": {"message": "insufficient_quota Arrearage", "code": None}}, "rejected"),
        (400, {"error": {"message": "no", "param": "insufficient_quota"}}, "rejected"),
        (400, [{"error": {"code": 400, "message": "API key not valid. Pass one.", "status": "x"}}], "credentials"),
        (400, {"code": "Arrearage", "message": "Access denied"}, "quota"),
        (400, {"error": {"code": 1113, "message": "x"}}, "quota"),
        (400, "not an object", "rejected"),
        (413, {"error": {"code": "insufficient_quota"}}, "rejected"),
        (422, {}, "rejected"),
        (429, {"error": {"code": "1308"}}, "quota"),
        (429, {"error": "words"}, "throttled"),
        (403, {"error": {"message": "moderation"}}, "forbidden"),
        (408, {}, "unavailable"),
        (409, {}, "unavailable"),
        (301, {}, "unavailable"),
        (529, {}, "overloaded"),
    ],
)
async def test_codes_count_where_providers_put_them(rig: Rig, status: int, error: Any, why: str) -> None:
    zai = await one(rig)
    zai.status, zai.error, zai.chunked = status, error, True
    answer = await rig.post()
    assert answer.status == (status if why == "rejected" else PASSED_ON)
    if why == "rejected":
        assert json.loads(answer.text) == error
    await errors(rig, {why: 1})


@pytest.mark.parametrize(
    ("style", "situation", "asked", "reason"),
    [
        ("openai", "unauthorized", 1, Reason.KEY_REFUSED),
        ("openai", "no_balance", 1, Reason.QUOTA_SPENT),
        ("ark", "forbidden", 3, Reason.KEY_REFUSED),
        ("openai", "rate_limited", 9, ""),
        ("openai", "bad_request", 9, ""),
    ],
)
async def test_what_is_counted_disables_the_provider(
    rig: Rig, style: str, situation: Situation, asked: int, reason: str
) -> None:
    """From a provider's answer to the leader's verdict, and back after an answer."""
    zai = await one(rig)
    watch, guard, at = ProviderWatch(), ProviderGuard(), NOON
    parsed = valid(ExternalProvider, {"zai": example("ExternalProvider", "zai")})

    async def look() -> None:
        nonlocal at
        at += 2.0
        reading = await rig.reading()
        samples = tuple(Sample(*(getattr(s, f.name) for f in fields(Sample))) for s in reading.samples)
        new = watch.note([Told("gateway-0", reading.process or "", samples, reading.errors)], at)
        guard.note(parsed, new, at)

    await rig.post(path="/v1/none")  # something is counted: the process is known
    await look()
    said = STYLES[style][situation]
    zai.status, zai.error = said.status, said.body
    for _ in range(asked):
        await rig.post()
    await eventually(lambda: has_ended(rig, asked), "all are counted")
    await look()
    assert {name: held.reason for name, held in guard.disabled.items()} == ({"zai": reason} if reason else {})
    if reason:
        at += 30.0
        await look()
        assert guard.disabled["zai"].on_trial
        zai.status = 200
        assert (await rig.post()).status == 200
        await eventually(lambda: has_ended(rig, asked + 1), "the answer is counted")
        await look()
        assert guard.disabled == {}


async def has_ended(rig: Rig, count: int) -> bool:
    return sum(s.requests for s in (await rig.reading()).samples) == count


async def test_an_error_of_any_size_is_taken(rig: Rig) -> None:
    """A body that is announced as large is not waited for; one that only turns out to be is given up."""
    zai = await one(rig)
    zai.status, zai.error = 400, {"error": {"message": "x" * 200_000}}
    answer = await rig.post()
    assert (answer.status, json.loads(answer.text)) == (400, zai.error)
    zai.error, zai.chunked = {"error": {"message": "x" * (17 << 20)}}, True
    assert (await rig.post()).status == PASSED_ON
    zai.status = 429
    assert (await rig.post()).status == PASSED_ON
    await errors(rig, {"rejected": 2, "throttled": 1})
    assert {s.outcome: s.requests for s in (await rig.reading()).samples} == {"refused": 3}
    zai.status = 200
    assert (await rig.post()).status == 200


async def test_nobody_there_and_an_answer_broken_off_are_unavailable(rig: Rig) -> None:
    zai = await one(rig)
    await zai.stop()
    assert (await rig.post()).status == PASSED_ON
    await errors(rig, {"unavailable": 1})


def in_seconds(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("status", "headers", "least", "most"),
    [
        (429, {"retry-after": "600"}, 590, 600),
        (429, {"retry-after": "90000"}, 3590, 3600),
        (429, {"retry-after": "date"}, 580, 600),
        (429, {"retry-after-ms": "600000", "retry-after": "1"}, 590, 600),
        (503, {"retry-after": "600"}, 590, 600),
        (529, {"retry-after": "600"}, 590, 600),
    ],
)
async def test_a_provider_that_asks_for_a_pause_has_it(
    rig: Rig, status: int, headers: dict[str, str], least: int, most: int
) -> None:
    zai = await one(rig)
    zai.status = status
    zai.extra_headers = {name: in_seconds(600) if value == "date" else value for name, value in headers.items()}
    for _ in range(3):
        answer = await rig.post()
        assert (answer.status, json.loads(answer.text)["error"]["code"]) == (PASSED_ON, "provider_error")
        assert least <= int(answer.headers["retry-after"]) <= most, "the client hears the provider's own wait"
    assert len(zai.seen) == 1
    await errors(
        rig, {"throttled" if status == 429 else "overloaded" if status == 529 else "unavailable": 1, "held": 2}
    )
    assert {s.outcome: s.requests for s in (await rig.reading()).samples} == {"refused": 1}, "nothing else was sent"


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (429, {}),
        (429, {"retry-after": "0"}),
        (429, {"retry-after": "-5"}),
        (429, {"retry-after": "nan"}),
        (429, {"retry-after": "soon"}),
        (429, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        (429, {"retry-after": "Wed, 99 Foo 2099 07:28:00 GMT"}),
        (401, {"retry-after": "600"}),
        (402, {"retry-after": "600"}),
        (400, {"retry-after": "600"}),
        (500, {}),
    ],
)
async def test_without_a_wait_the_next_request_is_tried(rig: Rig, status: int, headers: dict[str, str]) -> None:
    zai = await one(rig)
    zai.status, zai.extra_headers = status, headers
    first = await rig.post()
    assert first.headers["retry-after"] == ("600" if status == 400 else "10")
    await rig.post()
    assert len(zai.seen) == 2


@pytest.mark.parametrize(("status", "headers"), [(429, {"retry-after-ms": "40"}), (529, {})])
async def test_a_pause_ends(rig: Rig, status: int, headers: dict[str, str]) -> None:
    zai = await one(rig)
    zai.status, zai.extra_headers = status, headers
    await rig.post()
    zai.status = 200

    async def served() -> bool:
        return (await rig.post()).status == 200

    await eventually(served, "it is asked again")


async def test_while_one_pauses_the_next_one_serves(rig: Rig) -> None:
    zai, first = await rig.fake("zai", PROVIDER_PORT)
    deep, second = await rig.fake("deep", PROVIDER_PORT)
    for key in ("zai", "deep"):
        (rig.directory / "keys" / key).write_text("sk")
    chain = (ZAI, DEEP)
    await rig.publish(
        Desired(
            (deployment(chain=chain), deployment(name="other", chain=(ZAI,))),
            (provider("zai", first), provider("deep", second)),
            (egress(*ZAI), egress(*DEEP)),
            {ID: spill(*chain), "chat/other": spill(ZAI)},
        )
    )
    await rig.start_envoy()
    zai.status, zai.extra_headers = 429, {"retry-after": "3000"}
    for stream in (False, True, False):
        answer = await rig.post({"model": "glm-5", "stream": stream, **MESSAGES})
        assert (answer.status, answer.served_by) == (200, "deep")
        assert "retry-after" not in answer.headers
    assert len(zai.seen) == 1
    assert (await rig.post(host="other.chat")).status == PASSED_ON, "it asked all to wait, not one deployment"
    assert len(zai.seen) == 1

    deep.status = 500
    answer = await rig.post()
    assert (answer.status, answer.headers["retry-after"]) == (PASSED_ON, "10"), "the other may answer sooner"
    deep.status, deep.extra_headers = 429, {"retry-after": "3600"}
    assert (await rig.post()).headers["retry-after"] == "10"


async def test_time_to_the_first_byte_of_streams(rig: Rig) -> None:
    zai = await one(rig)
    await rig.post()
    await rig.post({"model": "glm-5", "stream": True, **MESSAGES})

    async def counted(count: int) -> bool:
        found = (await rig.reading()).first_bytes.get(ZAI, {})
        return found.get(float("inf")) == count

    await eventually(lambda: counted(1), "one stream is counted, and no answer that came as a whole")
    zai.status = 500
    await rig.post({"model": "glm-5", "stream": True, **MESSAGES})
    await errors(rig, {"unavailable": 1})
    assert await counted(1)
