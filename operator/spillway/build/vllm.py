"""vLLM's command line (`vllm serve`, 0.33): arguments, environment, probes."""

from __future__ import annotations

from spillway.api import MoEDeployment
from spillway.build.command import Command, checkpoint_path, waiting_limit
from spillway.build.labels import ENGINE_PORT
from spillway.build.settings import BuildSettings
from spillway.catalog import ResolvedVariant


def command(moe: MoEDeployment, variant: ResolvedVariant, settings: BuildSettings) -> Command:
    """How vLLM is started for a variant.

    ``--shutdown-timeout``: without it SIGTERM aborts requests in flight. During that drain /health stays 200, so a
    replica must be out of the gateway before (preStop). ``--max-num-queued-reqs`` counts running requests too.
    """
    args = [
        checkpoint_path(variant.checkpoint_uri).model,
        "--served-model-name",
        moe.served_name,
        "--host",
        "0.0.0.0",
        "--port",
        str(ENGINE_PORT),
        "--tensor-parallel-size",
        str(variant.parallelism.tensor),
        "--max-num-seqs",
        str(variant.concurrency),
        "--max-num-queued-reqs",
        str(variant.concurrency + waiting_limit(moe, variant)),
        "--shutdown-timeout",
        str(settings.drain_seconds),
        "--disable-access-log-for-endpoints",
        "/health,/metrics",
    ]
    if variant.parallelism.expert_parallel_size:
        args.append("--enable-expert-parallel")
    if variant.max_model_len is not None:
        args += ["--max-model-len", str(variant.max_model_len)]
    env = (
        ("VLLM_ENGINE_READY_TIMEOUT_S", str(settings.startup_seconds)),
        ("VLLM_CACHE_ROOT", "/cache/vllm"),
    )
    return Command(("vllm", "serve"), (*args, *variant.args), env, readiness_path="/health")
