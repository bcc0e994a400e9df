"""No header of a client's chooses deployment, provider, reason, retries or timeouts: each, with the real Envoy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spillway.gateway.desired import Desired
from spillway.gateway.names import ANSWER_HEADERS
from tests.integration.gateway.fakes import Fake
from tests.integration.gateway.rig import PROVIDER_PORT, Rig, deployment, egress, provider, spill

ZAI = ("zai", "glm-5.1")
OURS = {
    "x-spillway-deployment": "chat/other",
    "x-spillway-next": "saturated",
    "x-spillway-served-by": "zai",
    "x-spillway-reason": "share",
    "x-spillway-provider-status": "200",
    "x-spillway-provider": "zai",
    "x-spillway-permitted": "true",
    "x_spillway_deployment": "chat/other",
    "x-spillway-affinity": "10.0.0.1",
}
ENVOYS = {
    "x-envoy-max-retries": "20",
    "x-envoy-retry-on": "5xx,reset,retriable-4xx,connect-failure",
    "x-envoy-retry-grpc-on": "internal,unavailable",
    "x-envoy-retriable-status-codes": "500,503",
    "x-envoy-retriable-header-names": "content-type",
    "x-envoy-upstream-rq-timeout-ms": "1",
    "x-envoy-upstream-rq-per-try-timeout-ms": "1",
    "x-envoy-upstream-stream-duration-ms": "1",
    "x-envoy-expected-rq-timeout-ms": "1",
    "x-envoy-upstream-rq-timeout-alt-response": "1",
    "x-envoy-hedge-on-per-try-timeout": "true",
    "x-envoy-upstream-alt-stat-name": "spillway.zai",
    "x-envoy-original-path": "/v1/models",
    "x-envoy-original-host": "other.chat",
    "x-envoy-original-dst-host": "127.0.0.1:1",
    "x-envoy-decorator-operation": "other",
    "x-envoy-downstream-service-cluster": "spillway",
    "x-envoy-downstream-service-node": "gateway-0",
    "x-envoy-external-address": "10.0.0.1",
    "x-envoy-force-trace": "true",
    "x-envoy-internal": "true",
    "x-envoy-attempt-count": "9",
    "x-envoy-is-timeout-retry": "true",
    "x-envoy-degraded": "true",
    "x-envoy-immediate-health-check-fail": "true",
}
OTHERS = {
    "x-forwarded-host": "other.chat",
    "x-original-url": "/v1/models",
    "x-rewrite-url": "/v1/models",
    "x-http-method-override": "GET",
    "forwarded": "host=other.chat",
}
FORGED = OURS | ENVOYS | OTHERS


async def world(rig: Rig) -> tuple[Fake, Fake, Fake]:
    """glm-5 may not spill, `other` does nothing else; their engines, and the provider."""
    (rig.directory / "keys" / "zai").write_text("sk-of-the-platform")
    mine, first = await rig.fake("mine")
    theirs, second = await rig.fake("theirs")
    zai, third = await rig.fake("zai", PROVIDER_PORT)
    stopped = spill(ZAI, allowed=False, permitted={ZAI: False})
    await rig.publish(
        Desired(
            (deployment(first, chain=(ZAI,)), deployment(second, name="other", chain=(ZAI,))),
            (provider("zai", third),),
            (egress(*ZAI),),
            {"chat/glm-5": stopped, "chat/other": spill(ZAI, share_percent=100)},
        )
    )
    await rig.start_envoy()
    await rig.healthy("local|chat/glm-5", 1)
    return mine, theirs, zai


async def test_none_moves_a_request(rig: Rig) -> None:
    mine, theirs, zai = await world(rig)
    for name, value in FORGED.items():
        answer = await rig.post(headers={name: value})
        assert (answer.status, answer.served_by, answer.headers["x-spillway-reason"]) == (200, "local", "local"), name
        [seen] = mine.seen
        mine.seen.clear()
        arrived = {key.lower(): text for key, text in seen.headers.items()}
        assert arrived["x-spillway-deployment"] == "chat/glm-5", name
        assert seen.path == "/v1/chat/completions"
        if name in ANSWER_HEADERS:
            assert arrived.get(name) != value, f"the engine was told {name}"
    assert theirs.seen == zai.seen == []


async def test_all_at_once_spend_nothing(rig: Rig) -> None:
    """The gate is shut, too: what may not spill is refused, whatever the client says."""
    mine, theirs, zai = await world(rig)
    mine.status = 503
    answer = await rig.post(headers=FORGED)
    assert (answer.status, answer.served_by) in ((429, "none"), (503, "none"))
    assert theirs.seen == zai.seen == []


async def test_none_asks_for_another_try(rig: Rig) -> None:
    mine, _, _ = await world(rig)
    mine.status = 500
    for name, value in (OURS | ENVOYS).items():
        assert (await rig.post(headers={name: value})).status == 500, name
        assert len(mine.seen) == 1, f"{name} had it tried again"
        mine.seen.clear()


async def test_none_reaches_a_provider(rig: Rig) -> None:
    _, theirs, zai = await world(rig)
    for name, value in FORGED.items():
        answer = await rig.post(host="other.chat", headers={name: value})
        assert (answer.served_by, answer.headers["x-spillway-reason"]) == ("zai", "share"), name
        [seen] = zai.seen
        zai.seen.clear()
        assert name not in {key.lower() for key in seen.headers}, f"the provider was told {name}"
    assert theirs.seen == []


@pytest.mark.parametrize("header", ["x-spillway-served-by", "x-spillway-reason"])
async def test_a_provider_does_not_speak_for_the_gateway(rig: Rig, header: str) -> None:
    _, _, zai = await world(rig)
    zai.extra_headers = {header: "local"}
    answer = await rig.post(host="other.chat")
    assert (answer.status, answer.served_by, answer.headers["x-spillway-reason"]) == (200, "zai", "share")


@pytest.mark.parametrize("status", [200, 400])
async def test_a_providers_answer_is_not_paid_for_twice(rig: Rig, status: int) -> None:
    """Its own x-spillway-next does not send the request on."""
    _, theirs, zai = await world(rig)
    zai.extra_headers, zai.status = {"x-spillway-next": "provider", "x-spillway-provider-status": "500"}, status
    answer = await rig.post(host="other.chat")
    assert (answer.status, answer.served_by) == (status, "zai")
    assert not {"x-spillway-next", "x-spillway-provider-status"} & answer.headers.keys()
    assert (len(zai.seen), len(theirs.seen)) == (1, 0)


async def test_a_replica_does_not_send_its_requests_to_a_provider(rig: Rig) -> None:
    mine, theirs, zai = await world(rig)
    await rig.publish(replace(rig.published, spill={"chat/glm-5": spill(ZAI)}))
    mine.extra_headers = {"x-spillway-next": "saturated", "x-spillway-served-by": "zai"}
    answer = await rig.post()
    assert (answer.status, answer.served_by) == (200, "local")
    assert theirs.seen == zai.seen == []
