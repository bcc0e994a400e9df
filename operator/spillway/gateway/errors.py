"""Answers that the gateway gives itself, in the shape that OpenAI's clients expect."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from spillway.gateway import names
from spillway.gateway.desired import Deployment, Refusal, Route
from spillway.gateway.messages import Fields, header

LONGEST_RETRY_AFTER_SECONDS = 3600
LISTED_MODELS = 50


def error_body(status: int, code: str, message: str) -> str:
    kind = "rate_limit_error" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


def refusals(deployment: Deployment) -> Fields:
    """Route metadata for main.lua: by `x-spillway-next`, what the client reads when the chain could not serve. `sole`:
    one provider alone could have, so when it may be asked again is when the client may."""
    name = f"{deployment.id} ({deployment.served_name})"
    full = _answer(429, "capacity_exceeded", f"All replicas of {name} are at capacity. Retry later.", 5)
    empty = _answer(503, "no_capacity", f"No replica of {name} is ready yet. Retry later.", 30)
    failed = _answer(502, "provider_error", f"No external provider of {name} gave an answer. Retry later.", 10)
    if len(deployment.chain) == 1:
        failed["sole"] = True
    refusal = deployment.refusal
    if refusal is not None:
        full = empty = _refusal(refusal)
    return {"saturated": full, "no-replica": empty, "not-permitted": full, "capped": full, "provider": failed}


def route_refusals(deployment: Deployment, route: Route) -> Fields:
    """As `refusals`, for the requests of one of its routes."""
    asked = route.pair[0] if route.pair else "no provider"
    shut = _refusal(route.refusal)
    message = f"Provider {asked} gave no answer to this request of {deployment.id}, which is routed there. Retry later."
    failed = {**_answer(502, "provider_error", message, 10), "sole": True}
    return {"not-permitted": shut, "capped": shut, "provider": failed}


def refused(refusal: Refusal) -> Fields:
    """Fields of a route that refuses by itself."""
    answer = _refusal(refusal)
    fields = direct(refusal.status, answer["body"])
    told = {"retry-after": answer["retry_after"], names.REASON_HEADER: refusal.code}
    return {
        **fields,
        "response_headers_to_add": [
            *fields["response_headers_to_add"],
            *(header(name, value) for name, value in told.items()),
        ],
    }


def _refusal(refusal: Refusal) -> Fields:
    return _answer(refusal.status, refusal.code, refusal.message, refusal.retry_after_seconds)


def _answer(status: int, code: str, message: str, retry_after_seconds: int) -> Fields:
    retry_after = max(1, min(retry_after_seconds, LONGEST_RETRY_AFTER_SECONDS))
    body = error_body(status, code, message)
    return {"status": str(status), "code": code, "retry_after": str(retry_after), "body": body}


def direct(status: int, body: str) -> Fields:
    """Fields of a route that answers by itself with JSON."""
    return {
        "direct_response": {"status": status, "body": {"inline_string": body}},
        "response_headers_to_add": [header("content-type", "application/json")],
    }


def model_list(ids: Iterable[str]) -> str:
    """OpenAI's answer to GET /v1/models."""
    models = [{"id": name, "object": "model", "created": 0, "owned_by": "spillway"} for name in ids]
    return json.dumps({"object": "list", "data": models})


def unknown_model(ids: Sequence[str]) -> str:
    """At an address that is no deployment's own."""
    listed = ", ".join(ids[:LISTED_MODELS]) + (", …" if len(ids) > LISTED_MODELS else "")
    there = f"There are: {listed} (all: GET /v1/models)" if ids else "There is none yet"
    return error_body(
        404,
        "model_not_found",
        'This address serves every MoEDeployment as "model": "<namespace>/<name>"; each has one of its own, '
        f"http://<name>.<namespace>.svc/v1. {there}.",
    )


def ambiguous_host(name: str, hosts: Iterable[str]) -> str:
    choices = ", ".join(f"http://{host}/v1" for host in hosts)
    return error_body(404, "ambiguous_address", f"Several deployments are called {name}: use one of {choices}.")


def unknown_path() -> str:
    return error_body(
        404,
        "path_not_found",
        "Served here: POST /v1/chat/completions, /v1/completions, /v1/responses, /v1/embeddings and GET /v1/models.",
    )
