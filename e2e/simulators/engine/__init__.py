"""An inference engine without a GPU: vLLM 0.33 or SGLang 0.5.23 as seen from outside.

`python -m e2e.simulators.engine <the container's command and arguments>` parses that engine's real command line, loads
for a while, and then serves its HTTP API and metrics. How fast it answers is decided by `EngineModel`, which is pure:
it knows tokens and seconds, no clock and no socket.
"""

from __future__ import annotations

from e2e.simulators.engine.model import Capacity, EngineModel, Sequence

__all__ = ["Capacity", "EngineModel", "Sequence"]
