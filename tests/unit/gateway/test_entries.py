"""What is read of a gateway's log."""

from __future__ import annotations

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from spillway.gateway.entries import Attempt, attempts

GOOD = {
    "process": "p1",
    "deployment": "chat/glm-5",
    "provider": "zai",
    "model": "glm-5.1",
    "outcome": "metered/json:200000",
    "prompt": "11",
    "completion": "7",
    "cached": "-",
    "cache_write": "2",
    "request_bytes": "90",
    "response_bytes": "300",
    "duration_ms": "12",
    "first_byte_ms": "-",
}


def export(*records: dict[str, str]) -> ExportLogsServiceRequest:
    found = ExportLogsServiceRequest()
    logs = found.resource_logs.add().instrumentation_library_logs.add()
    for record in records:
        one = logs.logs.add()
        for key, value in record.items():
            one.attributes.add(key=key).value.string_value = value
    return found


def test_an_attempt() -> None:
    wanted = Attempt("p1", "chat/glm-5", "zai", "glm-5.1", "metered", 200000, 11, 7, 0, 2, 90, 300, 12, None)
    assert attempts(export(GOOD)) == ([wanted], 0)


def test_tokens_that_were_not_told_are_none() -> None:
    [one], odd = attempts(export({**GOOD, "outcome": "unmetered/json/metered/-", "prompt": "-1"}))
    assert (one.prompt_tokens, one.completion_tokens, odd) == (0, 0, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "many"},
        {"prompt": "-1"},
        {"prompt": "1e30"},
        {"completion": "nan"},
        {"completion": "inf"},
        {"outcome": ""},
        {"outcome": "metered:x"},
        {"deployment": "-"},
    ],
)
def test_what_is_no_attempt_is_counted_and_spoils_no_other(change: dict[str, str]) -> None:
    found, odd = attempts(export({**GOOD, **change}, GOOD))
    assert (len(found), odd) == (1, 1)
