"""Virtual hosts with routes, and the shared address."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf import json_format

from spillway.gateway.desired import Deployment, Desired, Egress, GatewayNode, Provider, Refusal, Route
from spillway.gateway.errors import LISTED_MODELS, unknown_model
from spillway.gateway.resources import LARGEST_DIRECT_ANSWER_BYTES, ROUTE, PartId, Renderer

ZAI, OPUS = ("zai", "glm-5.1"), ("anthropic", "opus")
NODE = GatewayNode("gateway-0", "gateway-0-1", "10.0.0.9")
SHUT = Refusal(429, "budget_exhausted", "spent", 60)
PROVIDERS = (Provider("zai", "https://api.z.ai/v4", "zai"), Provider("anthropic", "https://api.example.com/v1", "a"))


def hosts(*deployments: Deployment) -> dict[tuple[str, str], dict[str, Any]]:
    egresses = (Egress(*ZAI, 100), Egress(*OPUS, 100))
    rendered = Renderer().render(Desired(deployments, PROVIDERS, egresses), NODE)
    assert not rendered.failures
    return {
        (part_id.resource, part_id.owner): json_format.MessageToDict(part.message, preserving_proto_field_name=True)
        for part_id, part in rendered.parts.items()
        if part_id.type_url == ROUTE
    }


def glm(*routes: Route, chain: tuple[tuple[str, str], ...] = ()) -> Deployment:
    return Deployment("chat", "glm-5", "glm-5", "/health", (), chain, routes=routes)


def test_percentages_come_last_and_each_matches_what_is_below_its_sum() -> None:
    deployment = glm(
        Route("a", OPUS, SHUT, percent=10),
        Route("b", OPUS, SHUT, header=("X-Tier", "premium")),
        Route("c", ZAI, SHUT, percent=25),
        Route("d", None, SHUT, model="best"),
        chain=(ZAI,),
    )
    routes = hosts(deployment)["main", deployment.id]["routes"]
    assert [r.get("name") for r in routes[:7]] == [
        "route|b", "route|d", "route|a", "route|c", "share", "overflow", "local",
    ]  # fmt: skip
    numerators = [r["match"]["runtime_fraction"]["default_value"]["numerator"] for r in routes[2:4]]
    assert numerators == [10, 35]
    assert routes[0]["route"]["cluster"] == "to|egress|anthropic|opus" and "retry_policy" not in routes[0]["route"]
    assert routes[1]["direct_response"]["status"] == 429, "a route that leads nowhere is not skipped"


def test_an_egress_asks_for_the_permission_of_what_sent_the_request() -> None:
    routed, both, spilled = (
        [
            r["match"].get("runtime_fraction", {}).get("runtime_key")
            for r in hosts(d)["egress|anthropic|opus", d.id]["routes"]
        ]
        for d in (
            glm(Route("a", OPUS, SHUT, percent=1)),
            glm(Route("a", OPUS, SHUT, percent=1), chain=(OPUS,)),
            glm(chain=(OPUS,)),
        )
    )
    spill, route = "spill.chat/glm-5.anthropic|opus", "route.chat/glm-5.anthropic|opus"
    assert routed == both == [route, None, spill, None]
    assert spilled == [spill, None]
    assert ("egress|zai|glm-5.1", "chat/glm-5") not in hosts(glm(chain=(OPUS,)))


def test_a_route_to_a_pair_that_is_not_configured_refuses() -> None:
    deployment = glm(Route("a", ("ghost", "x"), SHUT, percent=100))
    [first, *_] = hosts(deployment)["main", deployment.id]["routes"]
    assert first["direct_response"]["status"] == 429
    assert {h["header"]["key"]: h["header"]["value"] for h in first["response_headers_to_add"]} == {
        "content-type": "application/json",
        "retry-after": "60",
        "x-spillway-reason": "budget_exhausted",
    }


def test_the_shared_address_knows_a_thousand_models() -> None:
    many = tuple(Deployment("n" * 63, f"{n:040d}", "x", "/health", ()) for n in range(1000))
    routes = hosts(*many)["main", "shared"]["routes"]
    listed = json.loads(routes[2]["direct_response"]["body"]["inline_string"])["data"]
    assert [m["id"] for m in listed] == [d.id for d in many]
    assert len(json.dumps(listed)) < LARGEST_DIRECT_ANSWER_BYTES // 2
    message = json.loads(unknown_model([d.id for d in many]))["error"]["message"]
    assert message.count("n" * 63) == LISTED_MODELS and "…" in message
    assert "There is none yet" in unknown_model(())
    assert PartId(ROUTE, "main", "shared") in Renderer().render(Desired(many[:1]), NODE).parts
