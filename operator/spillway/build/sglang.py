"""SGLang's command line (`sglang.launch_server`, 0.5.23): arguments, environment, probes."""

from __future__ import annotations

import math

from spillway.api import MoEDeployment
from spillway.build.command import (
    LEADER_ADDRESS,
    WORKER_INDEX,
    Command,
    Role,
    at_least,
    has_flag,
    waiting_limit,
)
from spillway.build.fabric import Fabric
from spillway.build.labels import ENGINE_PORT
from spillway.build.settings import BuildSettings
from spillway.build.weights import source
from spillway.catalog import ResolvedVariant

RENDEZVOUS_PORT = 20000
"""Where the nodes of a replica meet; the port of LeaderWorkerSet's SGLang example."""
ATTENTION_DATA_PARALLEL = (0, 5, 23)
"""From here on --attn-dp-size; before, --dp-size with --enable-dp-attention (accepted until the end of 2026)."""


_RUNNER = {"NVFP4": "flashinfer_cutedsl", "FP8": "deep_gemm", "BF16": "auto"}
"""MoE kernels that take what DeepEP delivers, by precision."""


def command(
    moe: MoEDeployment, variant: ResolvedVariant, settings: BuildSettings, role: Role, between: Fabric
) -> Command:
    """How SGLang is started for a variant.

    It listens on 127.0.0.1 and has no metrics unless told otherwise. SIGTERM drains without a limit of its own, and
    /ready turns 503 meanwhile; the pod's grace period bounds it. ``--max-running-requests`` is of the whole replica,
    ``--max-queued-requests`` of each data rank's scheduler.
    """
    spread, checkpoint = variant.parallelism, source(variant.checkpoint_uri)
    args = [
        "--model-path",
        checkpoint.model,
        *checkpoint.args,
        "--served-model-name",
        moe.served_name,
        "--host",
        "0.0.0.0",
        "--port",
        str(ENGINE_PORT),
        "--enable-metrics",
        *_parallelism(variant),
        "--max-running-requests",
        str(variant.concurrency),
        "--max-queued-requests",
        str(math.ceil(waiting_limit(moe, variant) / spread.data)),
    ]
    if variant.max_model_len is not None:
        args += ["--context-length", str(variant.max_model_len)]
    return Command(
        command=("python3", "-m", "sglang.launch_server"),
        args=(*args, *_with_exchange(moe, variant, between)),
        env=dict(variant.env),
        readiness_path="/ready",
        shared_memory="32Gi" if spread.data == 1 else "64Gi",  # llm-d gives it 64
    )


def _parallelism(variant: ResolvedVariant) -> list[str]:
    """How the replica is spread over GPUs and nodes. SGLang's tensor ranks are all GPUs; data ranks divide them for
    attention. The same command runs on every node, and the one of rank 0 serves."""
    spread = variant.parallelism
    args = ["--tp-size", str(spread.gpus)]
    if spread.data > 1:
        if at_least(variant.engine_version, ATTENTION_DATA_PARALLEL):
            args += ["--attn-dp-size", str(spread.data)]
        else:
            args += ["--dp-size", str(spread.data), "--enable-dp-attention"]
        args.append("--enable-metrics-for-all-schedulers")  # else data rank 0 speaks for all
    if spread.expert_parallel_size:
        args += ["--ep-size", str(spread.expert_parallel_size)]
    if variant.redundant_experts:
        args += ["--enable-eplb", "--ep-num-redundant-experts", str(variant.redundant_experts)]
    if spread.nodes > 1:
        args += [
            "--nnodes",
            str(spread.nodes),
            "--node-rank",
            WORKER_INDEX,
            "--dist-init-addr",
            f"{LEADER_ADDRESS}:{RENDEZVOUS_PORT}",
        ]
    return args


def _with_exchange(moe: MoEDeployment, variant: ResolvedVariant, between: Fabric) -> tuple[str, ...]:
    """The variant's own arguments; before the user's, those for how tokens get to experts on other nodes.

    DeepEP over RDMA or NVLink (`auto`: one way for prefill, another for decode), unless the arguments say otherwise.
    Its kernels take the place of the catalog's, which are for one node.
    """
    own = moe.spec.engine.extra_args
    catalog = variant.args[: len(variant.args) - len(own)]
    exchanges = variant.parallelism.strategy == "DataExpert" and between in (Fabric.RDMA, Fabric.NVLINK)
    if not exchanges or has_flag(variant.args, "--moe-a2a-backend"):
        return variant.args
    runner = _RUNNER[variant.precision]
    return (
        *catalog,
        "--moe-a2a-backend",
        "deepep",
        "--deepep-mode",
        "auto",
        "--moe-runner-backend",
        runner,
        *own,
    )
