"""Routing on a cluster: who waits brings up a replica, routes spend or refuse, one address serves all models."""

from __future__ import annotations

from e2e.stage import NAMESPACE, Object, Stage

GATEWAY = {"Host": "spillway-gateway.spillway-system.svc"}
PREMIUM = {"x-task-tier": "premium"}


def test_a_request_waits_for_the_replica_that_it_asks_for(play: Stage) -> None:
    play.apply(play.moe("glm-5", {"model": {"name": "glm-5"}, "minReplicas": 0}))
    play.wait("scaled to zero", lambda: play.status("glm-5").get("summary") == "0/0", 30)
    answer = play.ask("glm-5", "hello [[out=5]]", seconds=120)
    assert (answer.status, answer.headers["x-spillway-served-by"]) == (200, "local"), answer
    assert play.status("glm-5")["decisions"][-1]["reason"] == "RequestWaits"
    shared = play.ask("glm-5", "hello [[out=5]]", model=f"{NAMESPACE}/glm-5", headers=GATEWAY)
    assert (shared.status, shared.headers["x-spillway-served-by"]) == (200, "local"), shared
    unknown = play.ask("glm-5", "hello", model="glm-5", headers=GATEWAY)
    assert unknown.status == 404 and f"{NAMESPACE}/glm-5" in unknown.body["error"]["message"]


def test_a_route_spends_or_refuses_and_brings_up_nothing(play: Stage) -> None:
    to = {"provider": "zai", "model": "glm-5"}
    route = {"name": "premium", "match": {"header": {"name": "x-task-tier", "value": "premium"}}, "to": to}
    play.apply(play.moe("glm-5", {"model": {"name": "glm-5"}, "minReplicas": 0, "routes": [route]}))
    play.wait("the route", lambda: available(play) == "True", 30)
    before = play.billed()

    def served() -> bool:
        answer = play.ask("glm-5", "hello [[out=5]]", headers=PREMIUM)
        assert answer.headers["x-spillway-served-by"] in ("zai", "none"), "never a replica"
        return answer.status == 200

    play.wait("an answer of the provider", served, 30)
    play.wait("the provider's bill", lambda: play.billed() > before, 10)
    play.patch("costpolicy", "assist", {"spec": {"suspend": True}})
    play.wait("the route is shut", lambda: not served(), 30)
    refused = play.ask("glm-5", "hello", headers=PREMIUM)
    assert (refused.status, refused.body["error"]["code"]) == (429, "budget_exhausted")
    play.wait("the condition", lambda: available(play) == "False", 30)
    assert not play.objects("pods", NAMESPACE), play.status("glm-5")["decisions"]


def available(play: Stage) -> str:
    condition: Object = play.condition("moe", "glm-5", "RoutesAvailable", NAMESPACE) or {}
    return str(condition.get("status", ""))
