"""`python3 -m sglang.launch_server` of SGLang 0.5.23: its flags and the combinations that it refuses."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from e2e.simulators.engine.arguments import Flag, choice, parser, real, refuse_unknown, switch, whole, word
from e2e.simulators.engine.settings import (
    DEFAULT_MAX_MODEL_TOKENS,
    Group,
    Rank,
    RefusedSettings,
    Settings,
    Surroundings,
    is_nvfp4,
    precision_of,
)

DEFAULT_MAX_RUNNING_REQUESTS = 1024

A2A = "none deepep mooncake nixl mori ascend_fuseep flashinfer megamoe deepep_v2 pplx ascend_tp flashinfer_megamoe"
RUNNER = (
    "auto deep_gemm triton triton_kernel flashinfer_trtllm flashinfer_trtllm_routed flashinfer_cutlass "
    "flashinfer_mxfp4 flashinfer_cutedsl flashinfer_megamoe cutlass aiter marlin humming hpc_ops megamoe"
)
QUANTIZATION = (
    "awq fp8 mxfp8 gptq gptq_marlin awq_marlin bitsandbytes gguf modelopt modelopt_fp8 modelopt_fp4 nvfp4_online "
    "modelopt_mixed petit_nvfp4 w8a8_int8 w8a8_fp8 moe_wna16 w4afp8 mxfp4 auto-round compressed-tensors quark humming"
)

FLAGS: tuple[Flag, ...] = (
    *(
        whole(names)
        for names in (
            "--port",
            "--tp-size --tensor-parallel-size",
            "--dp-size --data-parallel-size",
            "--ep-size --expert-parallel-size --ep",
            "--pp-size --pipeline-parallel-size",
            "--moe-dp-size",
            "--dcp-size",
            "--attn-cp-size",
            "--attn-dp-size --attention-data-parallel-size",
            "--nnodes",
            "--node-rank",
            "--dist-timeout",
            "--eplb-rebalance-num-iterations",
            "--ep-num-redundant-experts",
            "--max-running-requests",
            "--max-queued-requests",
            "--chunked-prefill-size",
            "--context-length",
            "--speculative-num-steps",
            "--speculative-eagle-topk",
            "--speculative-num-draft-tokens",
            "--disaggregation-bootstrap-port",
            "--page-size",
            "--random-seed",
        )
    ),
    real("--mem-fraction-static"),
    *(
        switch(names)
        for names in (
            "--enable-dp-attention",
            "--enable-eplb",
            "--enable-two-batch-overlap",
            "--enable-metrics",
            "--enable-metrics-for-all-schedulers",
            "--enable-memory-saver",
            "--weight-loader-prefetch-checkpoints",
            "--trust-remote-code",
            "--disable-radix-cache",
            "--disable-cuda-graph",
            "--enable-cache-report",
        )
    ),
    *(
        word(names)
        for names in (
            "--model-path --model",
            "--served-model-name",
            "--host",
            "--dist-init-addr --nccl-init-addr",
            "--eplb-algorithm",
            "--ep-dispatch-algorithm",
            "--init-expert-location",
            "--api-key",
            "--admin-api-key",
            "--config",
            "--reasoning-parser",
            "--tool-call-parser",
            "--dtype",
            "--revision",
            "--download-dir",
            "--load-format",
            "--log-level",
            "--mamba-ssm-dtype",
            "--chat-template",
            "--tokenizer-path",
            "--attention-backend",
        )
    ),
    word("--uvicorn-access-log-exclude-prefixes", many=True),
    choice("--moe-a2a-backend", A2A),
    choice("--deepep-mode", "auto normal low_latency"),
    choice("--moe-runner-backend", RUNNER),
    choice(
        "--fp4-gemm-backend",
        "auto flashinfer_cudnn flashinfer_cutedsl flashinfer_cutlass flashinfer_trtllm marlin",
    ),
    choice("--quantization", QUANTIZATION),
    choice("--kv-cache-dtype", "auto fp8_e5m2 fp8_e4m3 mxfp8 bf16 bfloat16 nvfp4 fp4_mx_block16"),
    choice("--speculative-algorithm", "EAGLE EAGLE3 NEXTN STANDALONE NGRAM DFLASH DSPARK UNO"),
    choice("--load-balance-method", "auto round_robin follow_bootstrap_room total_requests total_tokens"),
    choice("--disaggregation-mode", "null prefill decode"),
    choice("--disaggregation-transfer-backend", "mooncake nixl ascend fake mori mooncake_tcp"),
)


def read(arguments: Sequence[str], around: Surroundings) -> Settings:
    """Parse the launch server's arguments. Exits 2 on what argparse refuses; raises RefusedSettings for the rest."""
    line = parser("launch_server.py", FLAGS, abbreviations=True)
    parsed, unknown = line.parse_known_args(list(arguments))
    refuse_unknown("launch_server.py", line, unknown)
    if not parsed.model_path:
        line.error("the following arguments are required: --model-path/--model")
    gpus = _check(parsed, around)
    host = "127.0.0.1" if parsed.host is None else around.bind_address(parsed.host)
    return Settings(
        engine="sglang",
        model=parsed.model_path,
        precision=precision_of(parsed.model_path, parsed.quantization),
        gpus=gpus,
        served_names=(parsed.served_model_name or parsed.model_path,),
        host=host,
        port=30_000 if parsed.port is None else parsed.port,
        max_running=parsed.max_running_requests or DEFAULT_MAX_RUNNING_REQUESTS,
        max_queued_requests=parsed.max_queued_requests and parsed.max_queued_requests * _attention_data_ranks(parsed),
        max_queued_tokens=None,
        max_model_tokens=parsed.context_length or DEFAULT_MAX_MODEL_TOKENS,
        api_keys=(parsed.api_key,) if parsed.api_key else (),
        shutdown_seconds=None,
        metrics=parsed.enable_metrics,
        headless=(parsed.node_rank or 0) > 0,
        group=_group(parsed),
        ranks=_schedulers(parsed),
        prefix_caching=not parsed.disable_radix_cache,
        tells_cached_tokens=parsed.enable_cache_report,
    )


def _attention_data_ranks(parsed: argparse.Namespace) -> int:
    """Ranks with a scheduler, and so a queue, of their own."""
    return int(parsed.attn_dp_size or (parsed.dp_size if parsed.enable_dp_attention else None) or 1)


def _group(parsed: argparse.Namespace) -> Group | None:
    nodes, rank = parsed.nnodes or 1, parsed.node_rank or 0
    if not 0 <= rank < nodes:
        raise RefusedSettings(f"AssertionError: node_rank ({rank}) must be less than nnodes ({nodes})")
    if nodes == 1:
        return None
    host, colon, port = (parsed.dist_init_addr or "").rpartition(":")
    if not colon or not port.isdigit():
        raise RefusedSettings(f"{nodes} nodes need --dist-init-addr HOST:PORT to meet: they would wait for ever")
    return Group(rank, nodes, host, int(port))


def _schedulers(parsed: argparse.Namespace) -> tuple[Rank, ...]:
    """Schedulers that export metrics: the first tensor rank of each data rank, or with a flag all of them.

    metrics_collector.py: `dp_rank` is there only with data parallelism. The leader of several nodes tells of all ranks
    here, as the simulated workers have no page; a real node tells of its own.
    """
    tensor, within = parsed.tp_size or 1, _attention_data_ranks(parsed)
    data = max(within, parsed.dp_size or 1)
    each = tensor // within  # DP attention splits the tensor ranks, plain data parallelism adds to them
    expert_tensor = max(1, tensor // _expert_parallel(parsed))
    found = []
    for number in range(data * each):
        data_rank, rank = divmod(number, each)
        if rank and not parsed.enable_metrics_for_all_schedulers:
            continue
        tensor_rank = number if within > 1 else rank
        labels = {"tp_rank": str(tensor_rank), "pp_rank": "0", "moe_ep_rank": str(tensor_rank // expert_tensor)}
        found.append(Rank(labels | ({"dp_rank": str(data_rank)} if data > 1 else {}), data_rank))
    return tuple(found)


def _expert_parallel(parsed: argparse.Namespace) -> int:
    """The all-to-all backends span every tensor rank: SGLang sets the expert size itself."""
    spans_all = parsed.moe_a2a_backend not in {None, "none"}
    return int((parsed.tp_size or 1) if spans_all else (parsed.ep_size or 1))


def _check(parsed: argparse.Namespace, around: Surroundings) -> int:
    """The GPUs that the engine takes in this pod."""
    if parsed.config:
        raise RefusedSettings("the simulator reads no --config file: give the flags on the command line")
    tensor, pipeline, data = parsed.tp_size or 1, parsed.pp_size or 1, parsed.dp_size or 1
    if min(tensor, pipeline, data) < 1:
        raise RefusedSettings("AssertionError: parallel sizes must be at least 1")
    expert = _expert_parallel(parsed)
    if parsed.enable_eplb and expert <= 1:
        raise RefusedSettings("AssertionError: EPLB needs ep_size > 1")
    if tensor % expert:
        raise RefusedSettings(f"AssertionError: tp_size ({tensor}) must be divisible by ep_size ({expert})")
    attention = _attention_data_ranks(parsed)
    if attention < 1 or tensor % attention:
        raise RefusedSettings(f"AssertionError: tp_size ({tensor}) must be divisible by the attention's ({attention})")
    nodes = parsed.nnodes or 1
    if (tensor * pipeline) % nodes:
        raise RefusedSettings("AssertionError: tp_size must be divisible by number of nodes")
    if not 0 <= (parsed.node_rank or 0) < nodes:
        raise RefusedSettings(f"AssertionError: node_rank {parsed.node_rank} is not below nnodes {nodes}")
    share = parsed.mem_fraction_static
    if share is not None and not 0 < share < 1:
        raise RefusedSettings(f"mem_fraction_static must lie between 0 and 1, got {share}")
    replicated = 1 if parsed.enable_dp_attention else data
    local = tensor * pipeline * replicated // nodes
    if around.gpus is not None and local > around.gpus:
        raise RefusedSettings(
            f"RuntimeError: CUDA error: invalid device ordinal (needs {local} GPUs, {around.gpus} are visible)"
        )
    if around.is_hopper() and is_nvfp4(parsed.model_path, parsed.quantization):
        raise RefusedSettings(
            "ValueError: The quantization method modelopt_fp4 is not supported for the current GPU. "
            "Minimum capability: 100. Current capability: 90."
        )
    return local
