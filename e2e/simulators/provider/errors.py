"""Each provider's error answers, as data. Sources: the vendors' error pages as collected in 2026.

One situation looks different everywhere: an exhausted balance is 402 at DeepSeek and Anthropic, 403 at Ark, 400 at
DashScope, and 429 at OpenAI and Z.ai, where only the body's code tells it from a rate limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Situation = Literal[
    "bad_request",
    "unauthorized",
    "forbidden",
    "unknown_model",
    "rate_limited",
    "no_balance",
    "server_error",
    "overloaded",
]


@dataclass(frozen=True)
class ErrorAnswer:
    status: int
    body: object
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def _openai(message: str, kind: str, code: str | None) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _anthropic(kind: str, message: str) -> dict[str, object]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_011CSimulated"}


def _zai(code: str, message: str) -> dict[str, object]:
    return {"error": {"code": code, "message": message}}


def _google(status: int, message: str, name: str) -> list[object]:
    return [{"error": {"code": status, "message": message, "status": name}}]


def _ark(code: str, message: str, kind: str) -> dict[str, object]:
    return {"error": {"code": code, "message": message, "param": "", "type": kind}}


_OPENAI_LIMITS = {
    "retry-after": "2",
    "x-ratelimit-limit-requests": "500",
    "x-ratelimit-remaining-requests": "0",
    "x-ratelimit-reset-requests": "2s",
}
_ANTHROPIC_LIMITS = {
    "retry-after": "2",
    "anthropic-ratelimit-requests-limit": "500",
    "anthropic-ratelimit-requests-remaining": "0",
}

STYLES: Mapping[str, Mapping[Situation, ErrorAnswer]] = {
    "openai": {
        "bad_request": ErrorAnswer(400, _openai("Invalid request.", "invalid_request_error", None)),
        "unauthorized": ErrorAnswer(
            401, _openai("Incorrect API key provided.", "invalid_request_error", "invalid_api_key")
        ),
        "forbidden": ErrorAnswer(
            403,
            _openai(
                "Country, region, or territory not supported.",
                "request_forbidden",
                "unsupported_country_region_territory",
            ),
        ),
        "unknown_model": ErrorAnswer(
            404, _openai("The model does not exist.", "invalid_request_error", "model_not_found")
        ),
        "rate_limited": ErrorAnswer(
            429, _openai("Rate limit reached for requests.", "requests", "rate_limit_exceeded"), _OPENAI_LIMITS
        ),
        "no_balance": ErrorAnswer(
            429,
            _openai(
                "You exceeded your current quota, please check your plan and billing details.",
                "insufficient_quota",
                "insufficient_quota",
            ),
        ),
        "server_error": ErrorAnswer(
            500, _openai("The server had an error while processing your request.", "server_error", None)
        ),
        "overloaded": ErrorAnswer(
            503, _openai("The engine is currently overloaded, please try again later.", "server_error", None)
        ),
    },
    "anthropic": {
        "bad_request": ErrorAnswer(400, _anthropic("invalid_request_error", "Invalid request.")),
        "unauthorized": ErrorAnswer(401, _anthropic("authentication_error", "invalid x-api-key")),
        "forbidden": ErrorAnswer(
            403, _anthropic("permission_error", "Your API key does not have permission to use the specified resource.")
        ),
        "unknown_model": ErrorAnswer(404, _anthropic("not_found_error", "model not found")),
        "rate_limited": ErrorAnswer(
            429,
            _anthropic("rate_limit_error", "This request would exceed your rate limit."),
            _ANTHROPIC_LIMITS,
        ),
        "no_balance": ErrorAnswer(402, _anthropic("billing_error", "Your credit balance is too low.")),
        "server_error": ErrorAnswer(500, _anthropic("api_error", "Internal server error")),
        "overloaded": ErrorAnswer(529, _anthropic("overloaded_error", "Overloaded")),
    },
    "zai": {
        "bad_request": ErrorAnswer(400, _zai("1210", "Incorrect API call parameters, please check the documentation.")),
        "unauthorized": ErrorAnswer(401, _zai("1000", "Authentication Failed")),
        "forbidden": ErrorAnswer(403, _zai("1220", "You do not have permission to access this API.")),
        "unknown_model": ErrorAnswer(400, _zai("1211", "Model does not exist, please check the model code.")),
        "rate_limited": ErrorAnswer(
            429, _zai("1302", "High concurrency usage of this API, please reduce concurrency.")
        ),
        "no_balance": ErrorAnswer(429, _zai("1113", "Your account is in arrears, please recharge and try again.")),
        "server_error": ErrorAnswer(500, _zai("1234", "Network error, please try again later.")),
        "overloaded": ErrorAnswer(429, _zai("1305", "The service is currently overloaded, please try again later.")),
    },
    "deepseek": {
        "bad_request": ErrorAnswer(400, _openai("Invalid Format", "invalid_request_error", "invalid_request_error")),
        "unauthorized": ErrorAnswer(
            401,
            _openai("Authentication Fails (governor)", "authentication_error", "invalid_request_error"),
        ),
        "forbidden": ErrorAnswer(403, _openai("Forbidden", "permission_error", "permission_denied")),
        "unknown_model": ErrorAnswer(400, _openai("Model Not Exist", "invalid_request_error", "invalid_request_error")),
        "rate_limited": ErrorAnswer(429, _openai("Rate Limit Reached", "rate_limit_error", "rate_limit_reached")),
        "no_balance": ErrorAnswer(402, _openai("Insufficient Balance", "unknown_error", "invalid_request_error")),
        "server_error": ErrorAnswer(500, _openai("Server Error", "server_error", "server_error")),
        "overloaded": ErrorAnswer(503, _openai("Server Overloaded", "server_error", "server_overloaded")),
    },
    "google": {
        "bad_request": ErrorAnswer(400, _google(400, "Request contains an invalid argument.", "INVALID_ARGUMENT")),
        "unauthorized": ErrorAnswer(401, _google(401, "API key not valid.", "UNAUTHENTICATED")),
        "forbidden": ErrorAnswer(403, _google(403, "The caller does not have permission.", "PERMISSION_DENIED")),
        "unknown_model": ErrorAnswer(404, _google(404, "The model is not found.", "NOT_FOUND")),
        "rate_limited": ErrorAnswer(429, _google(429, "Resource has been exhausted.", "RESOURCE_EXHAUSTED")),
        "no_balance": ErrorAnswer(403, _google(403, "Billing is not enabled for the project.", "PERMISSION_DENIED")),
        "server_error": ErrorAnswer(500, _google(500, "An internal error has occurred.", "INTERNAL")),
        "overloaded": ErrorAnswer(503, _google(503, "The model is overloaded.", "UNAVAILABLE")),
    },
    "ark": {
        "bad_request": ErrorAnswer(400, _ark("InvalidParameter", "A parameter is not valid.", "BadRequest")),
        "unauthorized": ErrorAnswer(401, _ark("AuthenticationError", "The API key is not valid.", "Unauthorized")),
        "forbidden": ErrorAnswer(
            403, _ark("AccessDenied", "Access is denied by the IP allow list of the key.", "Forbidden")
        ),
        "unknown_model": ErrorAnswer(404, _ark("InvalidEndpointOrModel.NotFound", "Model not found.", "NotFound")),
        "rate_limited": ErrorAnswer(
            429, _ark("RateLimitExceeded.EndpointRPMExceeded", "Request rate exceeded.", "TooManyRequests")
        ),
        "no_balance": ErrorAnswer(403, _ark("AccountOverdueError", "The account has an overdue balance.", "Forbidden")),
        "server_error": ErrorAnswer(500, _ark("InternalServiceError", "Internal error.", "InternalServerError")),
        "overloaded": ErrorAnswer(429, _ark("ServerOverloaded", "The service is overloaded.", "TooManyRequests")),
    },
    "dashscope": {
        "bad_request": ErrorAnswer(400, _openai("Invalid parameter.", "invalid_request_error", "InvalidParameter")),
        "unauthorized": ErrorAnswer(
            401, _openai("Invalid API-key provided.", "invalid_request_error", "InvalidApiKey")
        ),
        "forbidden": ErrorAnswer(403, _openai("Model access denied.", "AccessDenied", "AccessDenied")),
        "unknown_model": ErrorAnswer(404, _openai("Model not exist.", "invalid_request_error", "ModelNotFound")),
        "rate_limited": ErrorAnswer(
            429, _openai("Requests rate limit exceeded.", "Throttling.RateQuota", "Throttling.RateQuota")
        ),
        "no_balance": ErrorAnswer(400, _openai("Access denied, account in arrears.", "Arrearage", "Arrearage")),
        "server_error": ErrorAnswer(500, _openai("Internal error.", "InternalError", "InternalError")),
        "overloaded": ErrorAnswer(503, _openai("Service unavailable.", "ServiceUnavailable", "ServiceUnavailable")),
    },
}
