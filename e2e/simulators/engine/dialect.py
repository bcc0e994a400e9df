"""How the two engines say no: error bodies and what each does while it drains."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import web

from e2e.simulators.engine.settings import EngineName

QUEUE_FULL_SGLANG = "The request queue is full."


@dataclass(frozen=True)
class Refusal:
    """An answer without tokens. `counted` is the value of vLLM's admission_rejections `reason` label."""

    status: int
    message: str
    kind: str
    counted: str | None = None


def error_body(engine: EngineName, refusal: Refusal) -> dict[str, object]:
    if engine == "vllm":
        detail = {"message": refusal.message, "type": refusal.kind, "param": None, "code": refusal.status}
        return {"error": detail}
    return {"object": "error", "message": refusal.message, "type": refusal.kind, "param": None, "code": refusal.status}


def error_response(engine: EngineName, refusal: Refusal) -> web.Response:
    return web.json_response(error_body(engine, refusal), status=refusal.status)


def error_event(engine: EngineName, refusal: Refusal) -> bytes:
    """SGLang learns of a full queue after it has begun a stream: status 200, the error in the first event."""
    kind = HTTPStatus(refusal.status).name
    detail = {**error_body(engine, refusal), "type": kind}
    return f"data: {json.dumps({'error': detail})}\n\n".encode()


def bad_request(message: str) -> Refusal:
    return Refusal(400, message, "BadRequestError")


def unknown_model(model: str) -> Refusal:
    return Refusal(404, f"The model `{model}` does not exist.", "NotFoundError")


def draining() -> Refusal:
    """What vLLM answers between SIGTERM and its exit (measured: status 500)."""
    return Refusal(500, "cannot schedule new futures after shutdown", "InternalServerError")


def too_long(limit: int, prompt_tokens: int, output_tokens: int) -> Refusal:
    return bad_request(
        f"This model's maximum context length is {limit} tokens. However, you requested "
        f"{prompt_tokens + output_tokens} tokens ({prompt_tokens} in the messages, {output_tokens} in the completion). "
        "Please reduce the length of the messages or completion."
    )


def queue_full(engine: EngineName, reason: str, limit: int) -> Refusal:
    if engine == "sglang":
        return Refusal(503, QUEUE_FULL_SGLANG, "SERVICE_UNAVAILABLE")
    message = f"The engine is at its admission limit: {reason} is {limit}."
    return Refusal(503, message, "ServiceUnavailableError", counted=reason)
