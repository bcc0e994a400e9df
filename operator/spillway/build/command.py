"""An engine's command line and what else of its container depends on the engine; filled by `vllm` and `sglang`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from spillway.api import MoEDeployment
from spillway.catalog import ResolvedVariant

STREAM_SECONDS = 5.0
"""How long a typical request holds its place: about 200 tokens at 41 tokens/s."""
LEADER_ADDRESS, WORKER_INDEX = "$(LWS_LEADER_ADDRESS)", "$(LWS_WORKER_INDEX)"
"""What LeaderWorkerSet puts into the environment of each pod of a group; the kubelet fills it in."""


class Role(StrEnum):
    """What a pod is of its replica."""

    WHOLE = "whole"
    LEADER = "leader"
    """The pod of a group that answers requests."""
    WORKER = "worker"


@dataclass(frozen=True, slots=True)
class Command:
    """Command, arguments, environment and probe paths of an engine container.

    ``address_variable`` is an environment variable that takes the pod's own address, if the engine wants one;
    ``shared_memory`` the size of /dev/shm.
    """

    command: tuple[str, ...]
    args: tuple[str, ...]
    env: Mapping[str, str]
    readiness_path: str
    shared_memory: str
    address_variable: str | None = None


def waiting_limit(moe: MoEDeployment, variant: ResolvedVariant) -> int:
    """Requests that may wait in one replica before it answers 503, which makes the gateway spill.

    The gateway's gate holds back all but ``queueSeconds`` of work, spread unevenly over the replicas; one more full
    batch is left for the unevenness.
    """
    batches = 1 + math.ceil(moe.spec.slo.queue_seconds / STREAM_SECONDS)
    return variant.concurrency * batches


def at_least(version: str, minimum: tuple[int, int, int]) -> bool:
    """Whether an engine's version is the minimum or newer."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3]) >= minimum


def has_flag(args: Iterable[str], flag: str) -> bool:
    """Whether a flag is among arguments, as ``--flag value`` or ``--flag=value``."""
    return any(arg.partition("=")[0] == flag for arg in args)
