"""Load as users would make it: recorded arrivals replayed against the gateway, and a record of what every request saw.

`python -m e2e.load --gateway http://127.0.0.20:8080 --host glm-5.chat --seconds 60 --step 5@30`. Loopback only.
"""

from __future__ import annotations

from e2e.load.generator import LoadRun, RefusedTarget, Target
from e2e.load.schedule import Arrival, Schedule
from e2e.load.summary import Record, Summary, summarize
from e2e.load.traces import Trace, generate, load

__all__ = [
    "Arrival",
    "LoadRun",
    "Record",
    "RefusedTarget",
    "Schedule",
    "Summary",
    "Target",
    "Trace",
    "generate",
    "load",
    "summarize",
]
