"""Entries of the gateways' log: one for each attempt at a provider, with what it cost and nothing of what it said.

Envoy sends them as OpenTelemetry logs, whose attributes are those that `metering.egress_log` names and no others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from spillway.gateway import outcomes

MOST_TOKENS = 10_485_760
"""What the API takes as a contextLength at most: more in one request is no count of tokens. One number that is negative
or beyond 64 bits would turn a counter back or around, and the ledger could charge nothing on it ever after."""
_NUMBERS = (
    "prompt",
    "completion",
    "cached",
    "cache_write",
    "request_bytes",
    "response_bytes",
    "duration_ms",
    "first_byte_ms",
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a provider that has ended. `outcome` and `tier` as in `ledger.external.EgressSample`.

    `first_byte_ms`: from the end of the request to the first byte of the answer's body; None where there was none.
    """

    process: str
    deployment: str
    provider: str
    model: str
    outcome: str
    tier: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    request_bytes: int
    response_bytes: int
    duration_ms: int
    first_byte_ms: int | None


def attempts(export: Any) -> tuple[list[Attempt], int]:
    """The attempts of an ExportLogsServiceRequest, and how many records of it are none."""
    found, odd = [], 0
    for record in _records(export):
        attempt = _attempt({a.key: a.value.string_value for a in record.attributes})
        if attempt is None:
            odd += 1
        else:
            found.append(attempt)
    return found, odd


def _records(export: Any) -> Iterable[Any]:
    for resource in export.resource_logs:
        # The name that xds-protos has is the one of before `scope_logs`; on the wire they are the same.
        for scope in resource.instrumentation_library_logs:
            yield from scope.logs


def _attempt(values: dict[str, str]) -> Attempt | None:
    try:
        numbers = {key: _number(values.get(key, "")) for key in _NUMBERS}
        label = outcomes.read(values.get("outcome", ""))
        process, deployment = values["process"], values["deployment"]
        provider, model = values["provider"], values["model"]
    except (KeyError, ValueError, OverflowError):
        return None
    if not label.outcome or "/" not in deployment:
        return None
    counted = label.outcome in ("metered", "doubtful")  # else Envoy has numbers that were not told, or cannot be
    prompt, completion, cached, cache_write = tokens = [
        (numbers[key] or 0) if counted else 0 for key in ("prompt", "completion", "cached", "cache_write")
    ]
    if not all(0 <= count <= MOST_TOKENS for count in tokens):
        return None
    return Attempt(
        process,
        deployment,
        provider,
        model,
        label.outcome,
        label.tier,
        prompt,
        completion,
        cached,
        cache_write,
        request_bytes=numbers["request_bytes"] or 0,
        response_bytes=numbers["response_bytes"] or 0,
        duration_ms=numbers["duration_ms"] or 0,
        first_byte_ms=numbers["first_byte_ms"],
    )


def _number(text: str) -> int | None:
    """Envoy writes `-` where there is nothing, and a number of dynamic metadata as JSON has it: 11 or 1.1e+1."""
    return None if text in ("", "-") else int(float(text))
