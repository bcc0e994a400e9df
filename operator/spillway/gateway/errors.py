"""Answers that the gateway gives itself, in the shape that OpenAI's clients expect."""

from __future__ import annotations

import json
from collections.abc import Iterable

from spillway.gateway.desired import Deployment
from spillway.gateway.messages import Fields

LONGEST_RETRY_AFTER_SECONDS = 3600


def error_body(status: int, code: str, message: str) -> str:
    kind = "rate_limit_error" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


def refusals(deployment: Deployment) -> Fields:
    """Route metadata for answer.lua: by `x-spillway-next`, what the client reads when the chain could not serve."""
    name = f"{deployment.id} ({deployment.served_name})"
    full = _answer(429, "capacity_exceeded", f"All replicas of {name} are at capacity. Retry later.", 5)
    empty = _answer(503, "no_capacity", f"No replica of {name} is ready yet. Retry later.", 30)
    failed = _answer(502, "provider_error", f"No external provider of {name} gave an answer. Retry later.", 10)
    refusal = deployment.refusal
    if refusal is not None:
        full = empty = _answer(refusal.status, refusal.code, refusal.message, refusal.retry_after_seconds)
    return {"saturated": full, "no-replica": empty, "not-permitted": full, "capped": full, "provider": failed}


def _answer(status: int, code: str, message: str, retry_after_seconds: int) -> Fields:
    retry_after = max(1, min(retry_after_seconds, LONGEST_RETRY_AFTER_SECONDS))
    body = error_body(status, code, message)
    return {"status": str(status), "code": code, "retry_after": str(retry_after), "body": body}


def direct(status: int, body: str) -> Fields:
    """Fields of a route that answers by itself with JSON."""
    return {
        "direct_response": {"status": status, "body": {"inline_string": body}},
        "response_headers_to_add": [
            {
                "header": {"key": "content-type", "value": "application/json"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
    }


def unknown_host() -> str:
    return error_body(
        404,
        "deployment_not_found",
        "No model is served at this address. Address a MoEDeployment as http://<name>.<namespace>.svc/v1.",
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
