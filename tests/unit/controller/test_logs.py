"""One line of JSON per thing that happened."""

from __future__ import annotations

import json
import logging
import sys
from decimal import Decimal
from typing import Any

from spillway.controller.logs import JsonFormatter


def line(message: str = "applied", *args: object, extra: dict[str, Any] | None = None, fails: bool = False) -> Any:
    logger = logging.getLogger("spillway.test")
    caught = None
    if fails:
        try:
            raise ValueError("no such pool")
        except ValueError:
            caught = sys.exc_info()
    record = logger.makeRecord("spillway.test", logging.WARNING, "file.py", 1, message, args, caught, extra=extra)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    return json.loads(text)


def test_time_level_logger_and_message() -> None:
    found = line("%d replicas", 3)
    assert found["message"] == "3 replicas"
    assert (found["level"], found["logger"]) == ("warning", "spillway.test")
    assert found["time"].endswith("+00:00")
    assert set(found) == {"time", "level", "logger", "message"}


def test_extra_fields_stand_beside_and_nothing_else_does() -> None:
    found = line(extra={"deployment": "chat/glm-5", "usd_per_hour": Decimal("4.20"), "_private": 1})
    assert found["deployment"] == "chat/glm-5"
    assert found["usd_per_hour"] == "4.20"
    assert "_private" not in found
    assert "pathname" not in found


def test_a_trace_stays_on_one_line() -> None:
    assert "ValueError: no such pool" in line(fails=True)["trace"]


def test_words_are_readable_as_they_are() -> None:
    assert "→" in JsonFormatter().format(logging.makeLogRecord({"msg": "1→2"}))
