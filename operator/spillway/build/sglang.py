"""SGLang's command line (`sglang.launch_server`, 0.5.23): arguments, environment, probes."""

from __future__ import annotations

from spillway.api import MoEDeployment
from spillway.build.command import Command, checkpoint_path, waiting_limit
from spillway.build.labels import ENGINE_PORT
from spillway.build.settings import BuildSettings
from spillway.catalog import ResolvedVariant


def command(moe: MoEDeployment, variant: ResolvedVariant, settings: BuildSettings) -> Command:
    """How SGLang is started for a variant.

    It listens on 127.0.0.1 and has no metrics unless told otherwise. SIGTERM drains without a limit of its own, and
    /ready turns 503 meanwhile; the pod's grace period bounds it.
    """
    args = [
        "--model-path",
        checkpoint_path(variant.checkpoint_uri).model,
        "--served-model-name",
        moe.served_name,
        "--host",
        "0.0.0.0",
        "--port",
        str(ENGINE_PORT),
        "--enable-metrics",
        "--tp-size",
        str(variant.gpus_per_replica),
        "--max-running-requests",
        str(variant.concurrency),
        "--max-queued-requests",
        str(waiting_limit(moe, variant)),
    ]
    if size := variant.parallelism.expert_parallel_size:
        args += ["--ep-size", str(size)]
    if variant.max_model_len is not None:
        args += ["--context-length", str(variant.max_model_len)]
    return Command(("python3", "-m", "sglang.launch_server"), (*args, *variant.args), env=(), readiness_path="/ready")
