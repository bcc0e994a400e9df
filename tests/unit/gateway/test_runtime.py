from __future__ import annotations

from dataclasses import replace

import pytest

from spillway.gateway import names, runtime
from spillway.gateway.desired import Deployment, Desired, Refusal, Route, SpillState

ZAI = ("zai", "glm-5.1")
GLM = Deployment("chat", "glm-5", "glm-5", "/health", (), (ZAI,))
EXTERNAL = "ext|zai|glm-5.1|chat/glm-5"


@pytest.mark.parametrize(
    ("seconds", "layer"),
    [
        (0, None),
        (14.9, None),
        (15, "spill-15s"),
        (59, "spill-15s"),
        (60, "spill-1m"),
        (300, "spill-5m"),
        (3599, "spill-5m"),
        (3600, "spill-1h"),
        (1e9, "spill-1h"),
    ],
)
def test_longest_layer_within_the_lease(seconds: float, layer: str | None) -> None:
    assert runtime.lease_layer(seconds) == layer


def desired(**state: object) -> Desired:
    values = {"allowed": True, "gate": 8, "permitted": {ZAI: True}, "caps": {ZAI: 6}, "lease_seconds": 60.0, **state}
    return Desired((GLM,), spill={GLM.id: SpillState(**values)})  # type: ignore[arg-type]


def test_layers_of_one_process() -> None:
    layers = runtime.layers(desired(), {"local|chat/glm-5": 4, EXTERNAL: 3})
    assert layers["gate"] == {"circuit_breakers.local|chat/glm-5.default.max_requests": 4}
    assert layers["spill-1m"] == {
        "spill.chat/glm-5.allowed": 100,
        "spill.chat/glm-5.zai|glm-5.1": 100,
        f"circuit_breakers.{EXTERNAL}.default.max_requests": 3,
    }
    assert not layers["spill-15s"] and not layers["spill-5m"] and not layers["spill-1h"]
    assert runtime.layers(desired(share_percent=30), {EXTERNAL: 3})["spill-1m"][names.share_key(GLM.id)] == 30


def test_routes_are_permitted_apart_from_spill() -> None:
    opus, route = ("anthropic", "opus"), "route.chat/glm-5.anthropic|opus"
    percent = Route("a", ZAI, Refusal(429, "", "", 1), percent=20)
    glm = replace(GLM, routes=(percent, Route("b", opus, percent.refusal, header=("a", "b"))))
    shares = {EXTERNAL: 3, "ext|anthropic|opus|chat/glm-5": 2}

    def leased(**state: object) -> set[str]:
        layers = runtime.layers(replace(desired(caps={ZAI: 6, opus: 4}, **state), deployments=(glm,)), shares)
        return {key for key in layers["spill-1m"] if not key.startswith("circuit")}

    spill = {"spill.chat/glm-5.allowed", "spill.chat/glm-5.zai|glm-5.1"}
    assert leased() == spill
    assert leased(routed=frozenset({opus})) == {*spill, route}
    assert leased(routed=frozenset({opus}), allowed=False) == {route}
    assert leased(routed=frozenset({ZAI}), permitted={}) == {"route.chat/glm-5.zai|glm-5.1"}
    assert leased(routed=frozenset({opus}), lease_seconds=5.0) == set()
    _, caps = runtime.limits(replace(desired(caps={ZAI: 6, opus: 4}, routed=frozenset({opus})), deployments=(glm,)))
    assert caps == shares | {EXTERNAL: 6, "ext|anthropic|opus|chat/glm-5": 4}
    share = runtime.layers(replace(desired(share_percent=50), deployments=(glm,)), shares)["spill-1m"]
    assert share[names.share_key(GLM.id)] == 20 + 40, "half of what the route by percentage leaves"


@pytest.mark.parametrize(
    ("full", "empty", "door"),
    [(True, True, "allowed"), (True, False, "full"), (False, True, "empty"), (False, False, None)],
)
def test_spill_opens_for_the_occasions_of_now(full: bool, empty: bool, door: str | None) -> None:
    keys = runtime.layers(desired(when_full=full, when_empty=empty), {EXTERNAL: 3})["spill-1m"]
    doors = {"spill.chat/glm-5.allowed", "spill.chat/glm-5.full", "spill.chat/glm-5.empty"} & set(keys)
    assert doors == ({f"spill.chat/glm-5.{door}"} if door else set())
    assert "spill.chat/glm-5.zai|glm-5.1" in keys


def test_a_hold_needs_no_lease() -> None:
    layers = runtime.layers(desired(hold=True, lease_seconds=0.0), {})
    assert layers["gate"]["hold.chat/glm-5"] == 100
    assert "hold.chat/glm-5" not in runtime.layers(desired(), {})["gate"]


@pytest.mark.parametrize(
    "off",
    [{"allowed": False}, {"permitted": {}}, {"permitted": {ZAI: False}}, {"lease_seconds": 5.0}, {"caps": {ZAI: 0}}],
)
def test_nothing_is_allowed_by_halves(off: dict[str, object]) -> None:
    state = desired(**off)
    _, caps = runtime.limits(state)
    layers = runtime.layers(state, {"local|chat/glm-5": 4, **caps})
    assert not any(layers[layer] for layer in runtime.LEASES)
    assert layers["gate"]


def test_without_numbers_the_fallbacks_of_the_clusters_stand() -> None:
    assert not any(runtime.layers(Desired((GLM,)), {}).values())


def test_what_a_process_may_have_in_flight_and_for_how_long() -> None:
    key = names.limit_key(EXTERNAL)
    other = "ext|zai|glm-5.1|chat/other"
    possible = [
        ("gate", {names.limit_key("local|chat/glm-5"): 9}),
        ("spill-15s", {key: 7, names.permitted_key(GLM.id, ZAI): 100, names.limit_key(other): 3}),
        ("spill-1h", {key: 5}),
        ("spill-1m", {key: 6}),
    ]
    assert runtime.leased(possible) == {EXTERNAL: runtime.Leased(7, 3600), other: runtime.Leased(3, 15)}
    assert runtime.leased([]) == {}


def test_handover_keeps_a_key_until_the_other_layer_has_it() -> None:
    before = {"spill-15s": {"a": 1, "b": 2, "gone": 3}, "spill-1m": {}}
    wanted = {"spill-15s": {"b": 5}, "spill-1m": {"a": 1}}
    assert runtime.handover("spill-15s", wanted, before) == {"a": 1, "b": 5}
    assert runtime.handover("spill-1m", wanted, before) == {"a": 1}
    assert runtime.handover("spill-15s", wanted, {**before, "spill-1m": {"a": 1}}) == {"b": 5}
