from __future__ import annotations

import pytest
import yaml

from e2e.simulators.engine.__main__ import read_command
from e2e.simulators.engine.settings import RefusedSettings, Settings, Surroundings
from tests.unit.simulators.running import REPOSITORY

VLLM = "vllm serve nvidia/GLM-5-NVFP4 --host 0.0.0.0"
SGLANG = "python3 -m sglang.launch_server --model-path deepseek-ai/DeepSeek-R1 --host 0.0.0.0"


def read(command: str, **environment: str) -> Settings:
    settings = read_command(command.split(), Surroundings.from_environment(environment))
    assert settings is not None
    return settings


def test_vllm_command_line_becomes_settings() -> None:
    settings = read(
        f"{VLLM} --port 8000 --served-model-name glm-5 glm --tensor-parallel-size 4 --enable-expert-parallel "
        "--max-num-seqs 64 -dp 2 --max-num-queued-reqs 80 --shutdown-timeout 30 --max-model-len 128K "
        "--kv-cache-dtype fp8 --moe-backend flashinfer_trtllm --gpu-memory-utilization 0.9 --no-enable-prefix-caching "
        "--eplb-config {\"window_size\":500}",
        POD_IP="127.0.5.6",
    )  # fmt: skip
    assert settings.engine == "vllm"
    assert settings.served_names == ("glm-5", "glm")
    assert (settings.host, settings.port) == ("127.0.5.6", 8000)
    assert (settings.max_running, settings.max_queued_requests) == (128, 80)
    assert (settings.max_model_tokens, settings.shutdown_seconds) == (131_072, 30.0)


def test_vllm_defaults() -> None:
    settings = read("vllm serve m", VLLM_API_KEY="k")
    assert (settings.host, settings.port, settings.shutdown_seconds) == ("127.0.0.1", 8000, 0.0)
    assert settings.max_queued_requests is None
    assert (settings.served_names, settings.api_keys) == (("m",), ("k",))


def test_sglang_command_line_becomes_settings() -> None:
    settings = read(
        f"{SGLANG} --port 8000 --tp 8 --ep 8 --max-running-requests 48 --max-queued-requests 5 --enable-metrics "
        "--served-model-name deepseek-r1 --context-length 65536 --mem-fraction-static 0.85 "
        "--moe-runner-backend flashinfer_trtllm",
        POD_IP="127.0.5.7",
    )
    assert (settings.engine, settings.served_names, settings.host) == ("sglang", ("deepseek-r1",), "127.0.5.7")
    assert (settings.max_running, settings.max_queued_requests, settings.metrics) == (48, 5, True)
    assert settings.shutdown_seconds is None


def test_sglang_listens_on_loopback_and_without_metrics_unless_told() -> None:
    settings = read("sglang serve --model-path m", POD_IP="127.0.5.7")
    assert (settings.host, settings.port, settings.metrics) == ("127.0.0.1", 30_000, False)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (f"{VLLM} --max-queued-requests 5", "vllm: error: unrecognized arguments: --max-queued-requests 5"),
        (f"{VLLM} --all2all-backend carrier_pigeon", "invalid choice: 'carrier_pigeon'"),
        (f"{VLLM} --max-num-seqs many", "invalid int value: 'many'"),
        (f"{VLLM} --eplb-config not-json", "cannot be converted"),
        (f'{VLLM} --eplb-config {{"num_redundant_expert":1}}', "num_redundant_expert: Unexpected keyword argument"),
        (f"{VLLM} --attention_config.use_fp4_indexer_cache=True", "unrecognized arguments: --attention_config.use_fp4"),
        (f"{VLLM} --max-num-seq 5", "unrecognized arguments"),
        (f"{VLLM} --no-such.key 5", "unrecognized arguments"),
        (f"{SGLANG} --max-num-seqs 5", "launch_server.py: error: unrecognized arguments: --max-num-seqs 5"),
        (f"{SGLANG} --quantization nvfp4", "invalid choice: 'nvfp4'"),
        ("sglang serve --tp 4", "the following arguments are required: --model-path/--model"),
    ],
)
def test_wrong_flags_exit_with_2(command: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        read(command)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "environment", "message"),
    [
        (f"{VLLM} --enable-eplb -tp 4", {}, "enable_expert_parallel must be True"),
        (f"{VLLM} --enable-eplb -ep", {}, "EPLB requires tensor_parallel_size"),
        (f"{VLLM} -tp 8", {"SIM_GPUS": "4"}, r"World size \(8\) is larger"),
        (f"{VLLM} -tp 1 -dp 8 -ep", {"SIM_GPUS": "4"}, r"World size \(8\) is larger"),
        (f"{VLLM} -tp 4", {"SIM_GPU_PRODUCT": "NVIDIA-H200"}, "not supported for the current GPU"),
        (f"{VLLM} -dph -dpe", {}, "mutually exclusive"),
        (f"{VLLM} --gpu-memory-utilization 92", {}, "gpu_memory_utilization"),
        (f"{VLLM} --max-num-seqs 0", {}, "max_num_seqs"),
        ("vllm serve", {}, "no model"),
        (f"{SGLANG} --enable-eplb --tp 8", {}, "ep_size > 1"),
        (f"{SGLANG} --tp 8 --ep 3", {}, "divisible"),
        (f"{SGLANG} --tp 16", {"SIM_GPUS": "8"}, "invalid device ordinal"),
        (f"{SGLANG} --quantization modelopt_fp4", {"SIM_GPU_PRODUCT": "NVIDIA-H100-80GB-HBM3"}, "not supported"),
    ],
)
def test_wrong_combinations_are_refused(command: str, environment: dict[str, str], message: str) -> None:
    with pytest.raises(RefusedSettings, match=message):
        read(command, **environment)


def test_two_nodes_share_the_world() -> None:
    assert read(f"{SGLANG} --tp 16 --nnodes 2 --node-rank 1 --dist-init-addr r1-0.r1.chat:20000", SIM_GPUS="8").headless
    assert read(f"{VLLM} -tp 8 --nnodes 2 --headless", SIM_GPUS="4").headless


def test_nvfp4_runs_on_blackwell_and_fp8_on_hopper() -> None:
    read(f"{VLLM} -tp 4", SIM_GPUS="4", SIM_GPU_PRODUCT="NVIDIA-B200")
    read(f"{SGLANG} --tp 8", SIM_GPUS="8", SIM_GPU_PRODUCT="NVIDIA-H200")


def test_vllm_takes_underscores_and_dotted_json_flags() -> None:
    settings = read(
        "vllm serve m --max_num_seqs 7 --attention_config.indexer_kv_dtype=mxfp4 --compilation-config.level 3"
    )
    assert settings.max_running == 7


def test_a_command_that_is_no_engine_is_none() -> None:
    assert read_command(["nginx"], Surroundings.from_environment({})) is None


def catalogued_arguments() -> list[tuple[str, str, list[str]]]:
    """(model, engine, arguments) of every recipe in the catalogue, once for each precision that it names."""
    models = yaml.safe_load((REPOSITORY / "operator/spillway/catalog/models.yaml").read_text())
    recipes = []
    for model, facts in models.items():
        for engine, recipe in facts["engines"].items():
            for extra in [[], *recipe.get("precision_args", {}).values()]:
                recipes.append((model, engine, [*recipe.get("args", []), *extra]))
    return recipes


@pytest.mark.parametrize(("model", "engine", "arguments"), catalogued_arguments())
def test_the_catalogue_only_uses_flags_that_exist(model: str, engine: str, arguments: list[str]) -> None:
    command = {"vLLM": ["vllm", "serve", model], "SGLang": ["sglang", "serve", "--model-path", model]}[engine]
    assert read_command([*command, *arguments], Surroundings.from_environment({})) is not None


def test_a_replica_is_as_fast_as_its_gpus_at_its_precision() -> None:
    around = Surroundings.from_environment({"SIM_GPU_SPEEDS": '{"NVFP4": [5500, 700], "FP8": [3400, 440]}'})
    for command, gpus, prefill, decode in [
        (f"{VLLM} -tp 4", 4, 5500, 700),
        ("vllm serve zai-org/GLM-5-FP8 -tp 4 -dp 2", 8, 3400, 440),
        (f"{SGLANG} --tp 8 --quantization modelopt_fp4", 8, 5500, 700),
    ]:
        settings = read_command(command.split(), around)
        assert settings is not None
        running = around.running(settings)
        assert (running.prefill_tokens_per_second, running.decode_tokens_per_second) == (gpus * prefill, gpus * decode)


def test_all_interfaces_are_the_pods_own() -> None:
    assert Surroundings.from_environment({}).bind_address("0.0.0.0") == "127.0.0.1"
    assert Surroundings.from_environment({"POD_IP": "127.64.0.9"}).bind_address("0.0.0.0") == "127.64.0.9"
    container = Surroundings.from_environment({"KUBERNETES_SERVICE_HOST": "10.96.0.1"})
    assert (container.bind_address("0.0.0.0"), container.bind_address("127.0.0.1")) == ("0.0.0.0", "127.0.0.1")
