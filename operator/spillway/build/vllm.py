"""vLLM's command line (`vllm serve`, 0.33): arguments, environment, probes."""

from __future__ import annotations

import json
import math

from spillway.api import MoEDeployment
from spillway.build.command import LEADER_ADDRESS, WORKER_INDEX, Command, Role, at_least, has_flag, waiting_limit
from spillway.build.fabric import Fabric
from spillway.build.labels import ENGINE_PORT
from spillway.build.settings import BuildSettings
from spillway.build.weights import source
from spillway.catalog import ResolvedVariant

MASTER_PORT = 29501
"""vLLM's own default, where the nodes of one tensor-parallel group meet."""
DATA_PARALLEL_PORT = 29550
"""vLLM's own default, where data-parallel ranks meet."""


BACKEND_FLAGS = (0, 33, 0)
"""From here on --all2all-backend; before, VLLM_ALL2ALL_BACKEND, which is gone in 0.33 (vllm/envs.py)."""
_ALL2ALL = {Fabric.RDMA: "deepep_low_latency", Fabric.NVLINK: "flashinfer_nvlink_two_sided"}
_ALL2ALL_BEFORE = {Fabric.RDMA: "deepep_low_latency", Fabric.NVLINK: "flashinfer_all2allv"}


def command(
    moe: MoEDeployment, variant: ResolvedVariant, settings: BuildSettings, role: Role, between: Fabric
) -> Command:
    """How vLLM is started for a variant.

    ``--shutdown-timeout``: without it SIGTERM aborts requests in flight. During that drain /health stays 200, so a
    replica must be out of the gateway before (preStop). ``--max-num-queued-reqs`` counts running requests too, on all
    data ranks; ``--max-num-seqs`` is per data rank.
    """
    spread, checkpoint = variant.parallelism, source(variant.checkpoint_uri)
    args = [
        checkpoint.model,
        *checkpoint.args,
        "--served-model-name",
        moe.served_name,
        "--host",
        "0.0.0.0",
        "--port",
        str(ENGINE_PORT),
        *_parallelism(variant, role),
        "--max-num-seqs",
        str(math.ceil(variant.concurrency / spread.data)),
        "--max-num-queued-reqs",
        str(variant.concurrency + waiting_limit(moe, variant)),
        "--shutdown-timeout",
        str(settings.drain_seconds),
        "--disable-access-log-for-endpoints",
        "/health,/metrics",
    ]
    if variant.max_model_len is not None:
        args += ["--max-model-len", str(variant.max_model_len)]
    flags, env = _all2all(variant, between)
    env |= {
        "VLLM_ENGINE_READY_TIMEOUT_S": str(settings.startup_seconds),
        "VLLM_CACHE_ROOT": "/cache/vllm",
    }
    if between is Fabric.NVLINK:
        env["VLLM_USE_NCCL_SYMM_MEM"] = "1"
    return Command(
        command=_program(variant, role),
        args=(*args, *flags, *variant.args),
        env={**env, **dict(variant.env)},
        readiness_path="/health",
        shared_memory="16Gi" if spread.data == 1 else "64Gi",  # 2–256 GiB in llm-d, 15 in LeaderWorkerSet's example
        address_variable=None if role is Role.WHOLE else "VLLM_HOST_IP",
    )


def _parallelism(variant: ResolvedVariant, role: Role) -> list[str]:
    """How the replica is spread over GPUs and nodes.

    Across nodes without Ray: tensor ranks by --nnodes and --node-rank, data ranks by --data-parallel-size-local. Only
    the leader serves: it balances over all data ranks itself (vLLM's internal load balancing).
    """
    spread = variant.parallelism
    args = ["--tensor-parallel-size", str(spread.tensor)]
    if spread.data > 1:
        args += ["--data-parallel-size", str(spread.data)]
        if role is not Role.WORKER:
            # vLLM starts one for each data rank, each of which would hold --max-num-queued-reqs by itself.
            args += ["--api-server-count", "1"]
    if spread.expert_parallel_size:
        args.append("--enable-expert-parallel")
    if variant.redundant_experts:
        config = json.dumps({"num_redundant_experts": variant.redundant_experts}, separators=(",", ":"))
        args += ["--enable-eplb", "--eplb-config", config]
    if spread.nodes == 1:
        return args
    if spread.data > 1:
        args += [
            "--data-parallel-size-local",
            str(spread.data // spread.nodes),
            "--data-parallel-address",
            LEADER_ADDRESS,
            "--data-parallel-rpc-port",
            str(DATA_PARALLEL_PORT),
        ]
    else:
        args += [
            "--distributed-executor-backend",
            "mp",
            "--nnodes",
            str(spread.nodes),
            "--node-rank",
            WORKER_INDEX,
            "--master-addr",
            LEADER_ADDRESS,
            "--master-port",
            str(MASTER_PORT),
        ]
    return [*args, "--headless"] if role is Role.WORKER else args


def _all2all(variant: ResolvedVariant, between: Fabric) -> tuple[list[str], dict[str, str]]:
    """Flags and environment for how tokens get to experts on other nodes, unless the arguments say so already.

    With tensor parallelism alone, and within a node, vLLM's own choice is good. DeepEP needs RDMA from the GPUs (llm-d
    uses it for GLM-5.2), FlashInfer's exchange NVLink across nodes; elsewhere NCCL gathers and scatters.
    """
    if variant.parallelism.strategy != "DataExpert" or has_flag(variant.args, "--all2all-backend"):
        return [], {}
    if at_least(variant.engine_version, BACKEND_FLAGS):
        backend = _ALL2ALL.get(between)
        return (["--all2all-backend", backend] if backend else []), {}
    backend = _ALL2ALL_BEFORE.get(between)
    return [], ({"VLLM_ALL2ALL_BACKEND": backend} if backend else {})


def _program(variant: ResolvedVariant, role: Role) -> tuple[str, ...]:
    """What the arguments are given to. A worker's first data rank is its index times the ranks of a node; the kubelet
    does not multiply, so that a shell has to."""
    spread = variant.parallelism
    if role is not Role.WORKER or spread.data == 1:
        return ("vllm", "serve")
    rank = f'"$((LWS_WORKER_INDEX * {spread.data // spread.nodes}))"'
    return ("sh", "-c", f'exec vllm serve "$@" --data-parallel-start-rank {rank}', "vllm")
