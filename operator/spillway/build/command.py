"""An engine's command line and what else of its container depends on the engine; filled by `vllm` and `sglang`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from spillway.api import MoEDeployment
from spillway.catalog import ResolvedVariant

STREAM_SECONDS = 5.0
"""How long a typical request holds its place: about 200 tokens at 41 tokens/s."""


@dataclass(frozen=True, slots=True)
class Command:
    """Command, arguments, environment and probe paths of an engine container."""

    command: tuple[str, ...]
    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    readiness_path: str


@dataclass(frozen=True, slots=True)
class CheckpointPath:
    """What the engine is told to load, and the claim to mount for it, if any."""

    model: str
    claim: str | None = None


MODELS_DIRECTORY = "/models"


def checkpoint_path(uri: str) -> CheckpointPath:
    """``hf://a/b`` is loaded as ``a/b``; ``pvc://claim/path`` as ``/models/path`` with the claim mounted there."""
    scheme, _, rest = uri.partition("://")
    if scheme == "hf":
        return CheckpointPath(rest)
    if scheme == "pvc":
        claim, _, path = rest.partition("/")
        return CheckpointPath(f"{MODELS_DIRECTORY}/{path}".rstrip("/"), claim)
    raise ValueError(f"{uri!r}: a checkpoint is hf://… or pvc://…")


def waiting_limit(moe: MoEDeployment, variant: ResolvedVariant) -> int:
    """Requests that may wait in one replica before it answers 503, which makes the gateway spill.

    The gateway's gate holds back all but ``queueSeconds`` of work, spread unevenly over the replicas; one more full
    batch is left for the unevenness.
    """
    batches = 1 + math.ceil(moe.spec.slo.queue_seconds / STREAM_SECONDS)
    return variant.concurrency * batches
