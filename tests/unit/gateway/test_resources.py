"""What is written for Envoy: names, addresses, texts, and that one bad deployment is one bad part."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from google.protobuf import json_format

from spillway.gateway import errors, names
from spillway.gateway.bootstrap import ads_secrets, bootstrap, node_from_metadata
from spillway.gateway.desired import Deployment, Desired, Egress, Endpoint, GatewayNode, Provider, Refusal
from spillway.gateway.lua import egress_filter
from spillway.gateway.quarantine import Quarantine
from spillway.gateway.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, PartId, Renderer, compose

ZAI, DEEP = ("zai", "glm-5.1"), ("deep", "zai-org/GLM-5")
NODE = GatewayNode("gateway-0", "gateway-0-1", "10.0.0.9", keys_directory="/keys")
GLM = Deployment("chat", "glm-5", "glm-5", "/health", (Endpoint("10.0.0.1", 8000),), (ZAI, DEEP))
DESIRED = Desired(
    (GLM,),
    (
        Provider("zai", "https://api.z.ai/api/paas/v4", "zai.key"),
        Provider("deep", "http://127.0.0.1:9000", "deep", ca_key="ca", insecure=True),
    ),
    (Egress(*ZAI, 100), Egress(*DEEP, 100)),
)


def test_every_part_that_one_deployment_needs() -> None:
    rendered = Renderer().render(DESIRED, NODE)
    assert not rendered.failures
    assert {part_id for part_id, part in rendered.parts.items() if part.deployment == GLM.id} == {
        PartId(CLUSTER, "local|chat/glm-5"),
        PartId(CLUSTER, "ext|zai|glm-5.1|chat/glm-5"),
        PartId(CLUSTER, "ext|deep|zai-org/GLM-5|chat/glm-5"),
        PartId(ENDPOINT, "local|chat/glm-5"),
        PartId(ROUTE, "main", GLM.id),
        PartId(ROUTE, "gate", GLM.id),
        PartId(ROUTE, "egress|zai|glm-5.1", GLM.id),
        PartId(ROUTE, "egress|deep|zai-org/GLM-5", GLM.id),
    }
    shared = {(part_id.type_url, part_id.resource) for part_id in rendered.parts}
    assert {resource for kind, resource in shared if kind == LISTENER} == {
        "main",
        "shared",
        "gate",
        "egress|zai|glm-5.1",
        "egress|deep|zai-org/GLM-5",
    }
    assert {resource for kind, resource in shared if kind == SECRET} == {
        "credential|zai.key",
        "credential|deep",
        "authority|",
        "authority|ca",
    }


def test_chains_in_both_orders_with_as_many_retries_as_they_need() -> None:
    parts = Renderer().render(DESIRED, NODE).parts
    clusters = compose(part for part_id, part in parts.items() if part_id.type_url == CLUSTER)
    route = json_format.MessageToDict(parts[PartId(ROUTE, "main", GLM.id)].message, preserving_proto_field_name=True)
    by_name = {each["name"]: each["route"] for each in route["routes"] if "route" in each}
    gate, zai, deep = names.GATE_CLUSTER, names.egress_cluster(ZAI), names.egress_cluster(DEEP)
    for name, members in (("share", [zai, deep, gate]), ("overflow", [gate, zai, deep])):
        chain = json_format.MessageToDict(clusters[by_name[name]["cluster"]])
        assert [each["name"] for each in chain["clusterType"]["typedConfig"]["clusters"]] == members
        assert by_name[name]["retry_policy"]["num_retries"] == 2
    assert by_name["local"]["cluster"] == gate and "retry_policy" not in by_name["local"]
    assert route["domains"] == ["glm-5.chat", "glm-5.chat.svc", "glm-5.chat.svc.*", "glm-5"]


def test_a_provider_with_a_limit_has_one_count_for_all_its_models() -> None:
    zai, deep = DESIRED.providers
    air = Egress("zai", "glm-5-air", 100)
    limited = replace(
        DESIRED, providers=(replace(zai, requests_per_minute=60), deep), egresses=(*DESIRED.egresses, air)
    )
    parts = Renderer().render(limited, NODE, {"zai": 20}).parts
    share = parts[PartId(ROUTE, "rate|zai", "rate")].message
    assert '"per_minute": 20.0' in json_format.MessageToJson(share)
    assert {part_id.resource for part_id in parts if part_id.resource.startswith("rate|")} == {"rate|zai"}
    asks = {
        part_id.resource: "to|rate|zai" in json_format.MessageToJson(part.message)
        for part_id, part in parts.items()
        if part_id.type_url == LISTENER and part_id.resource.startswith("egress|")
    }
    assert asks == {"egress|zai|glm-5.1": True, "egress|zai|glm-5-air": True, "egress|deep|zai-org/GLM-5": False}
    unknown = Renderer().render(limited, NODE).parts[PartId(ROUTE, "rate|zai", "rate")].message
    assert '"per_minute": 0.0' in json_format.MessageToJson(unknown), "a process without a share sends nothing"


def test_no_secret_is_in_a_resource_but_its_file_name() -> None:
    parts = Renderer().render(DESIRED, NODE).parts
    secret = json_format.MessageToDict(parts[PartId(SECRET, "credential|zai.key")].message)
    assert secret["genericSecret"]["secret"] == {
        "filename": "/keys/zai.key",
        "watchedDirectory": {"path": "/keys"},
    }


def test_a_pair_that_is_not_configured_is_left_out() -> None:
    parts = Renderer().render(replace(DESIRED, egresses=(Egress(*DEEP, 100),)), NODE).parts
    assert not any("zai|" in part_id.resource for part_id in parts if part_id.type_url != SECRET)
    assert PartId(CLUSTER, names.chain_cluster([names.GATE_CLUSTER, names.egress_cluster(DEEP)])) in parts


@pytest.mark.parametrize("url", ["http://api.z.ai/v1", "ftp://api.z.ai", "https://", "https://host:port/v1"])
def test_a_bad_provider_url_is_the_failure_of_its_own_parts(url: str) -> None:
    providers = (Provider("zai", url, "zai"), DESIRED.providers[1])
    rendered = Renderer().render(replace(DESIRED, providers=providers), NODE)
    assert {part_id.resource for part_id in rendered.failures} <= {"ext|zai|glm-5.1|chat/glm-5", "egress|zai|glm-5.1"}
    assert set(rendered.deployments.values()) == {GLM.id}


def test_parts_are_kept_while_their_inputs_are() -> None:
    renderer = Renderer()
    first = renderer.render(DESIRED, NODE).parts
    renderer.forget()
    moved = replace(GLM, endpoints=())
    second = renderer.render(replace(DESIRED, deployments=(moved,)), NODE).parts
    assert {part_id for part_id in first if first[part_id] != second[part_id]} == {PartId(ENDPOINT, "local|chat/glm-5")}
    kept = PartId(CLUSTER, "ext|zai|glm-5.1|chat/glm-5")
    assert first[kept].message is second[kept].message


def test_quarantine_puts_the_last_good_version_in() -> None:
    quarantine, renderer = Quarantine(), Renderer()
    good = renderer.render(DESIRED, NODE)
    local = PartId(CLUSTER, "local|chat/glm-5")
    assert quarantine.admit(good) == good.parts
    quarantine.accept(good.parts.values())
    bad = renderer.render(replace(DESIRED, deployments=(replace(GLM, health_path="bad"),)), NODE)
    quarantine.refuse(bad.parts[local], "no such path")
    assert quarantine.admit(bad)[local] == good.parts[local]
    [rejection] = quarantine.rejections()
    assert (rejection.deployment, rejection.text) == (GLM.id, "no such path")
    assert quarantine.admit(good) == good.parts
    quarantine.release()
    assert quarantine.admit(bad) == bad.parts and not quarantine.rejections()


def test_refusal_replaces_the_texts_of_full_and_empty() -> None:
    plain = errors.refusals(GLM)
    assert {why: (text["status"], text["code"]) for why, text in plain.items()} == {
        "saturated": ("429", "capacity_exceeded"),
        "no-replica": ("503", "no_capacity"),
        "not-permitted": ("429", "capacity_exceeded"),
        "capped": ("429", "capacity_exceeded"),
        "provider": ("502", "provider_error"),
    }
    spent = errors.refusals(replace(GLM, refusal=Refusal(429, "budget_exhausted", 'policy "a"', 10**6)))
    assert {text["code"] for why, text in spent.items() if why != "provider"} == {"budget_exhausted"}
    assert spent["no-replica"]["retry_after"] == "3600"
    assert json.loads(spent["saturated"]["body"])["error"] == {
        "message": 'policy "a"',
        "type": "rate_limit_error",
        "param": None,
        "code": "budget_exhausted",
    }


def test_names_cannot_end_a_lua_literal() -> None:
    source = egress_filter(Egress("p", 'm"]] os.exit()\n--', 5, drop_fields=('x"] = 1, ["y',)))
    code = source["typed_config"]["default_source_code"]["inline_string"].splitlines()
    assert code[0] == 'local MODEL = "\\034m\\092\\034]] os.exit()\\092n--\\034"'
    assert '["x\\034] = 1, [\\034y"] = true' in code[3]


def test_bootstrap_introduces_the_node_and_is_valid() -> None:
    files = {name: f"/run/{name}.json" for name in ads_secrets("/etc/spillway/ads")}
    message = json_format.ParseDict(bootstrap(NODE, "ads", 18000, "/run/admin.sock", files), Bootstrap())
    assert node_from_metadata(message.node) == NODE
    layers = [layer.name for layer in message.layered_runtime.layers]
    assert layers == ["static", "gate", "spill-15s", "spill-1m", "spill-5m", "spill-1h"]
