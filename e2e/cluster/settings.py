"""What a local cluster consists of: node pools, providers, what stands for which image, and where things lie."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

REPOSITORY = Path(__file__).resolve().parents[2]
SYSTEM_NAMESPACE = "spillway-system"
KEYS_SECRET = "spillway-provider-keys"
PROVIDER_CA_KEY = "provider-ca.crt"
CONFIG_FILE, STATE_FILE, KEYS_FILE = "config.json", "cluster.json", "provider-keys.yaml"  # in a cluster's run directory
HOSTS_FILE = "hosts"  # in the directory of the pods' files
GPU_RESOURCE = "nvidia.com/gpu"
POOL_LABEL = "e2e.spillway.dev/pool"
ENGINE_ANNOTATION = "e2e.spillway.dev/engine"
ADDRESS_ANNOTATION = "e2e.spillway.dev/address"


def cache_directory() -> Path:
    """Where binaries and run directories live: $SPILLWAY_CACHE or ~/.cache/spillway."""
    return Path(os.environ.get("SPILLWAY_CACHE") or Path.home() / ".cache" / "spillway")


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Speed(_Settings):
    """What one GPU adds to a replica's throughput at one precision."""

    prefill_tokens_per_second_per_gpu: float = Field(gt=0)
    decode_tokens_per_second_per_gpu: float = Field(gt=0)


class Pool(_Settings):
    """A kind of GPU node and how the cloud behind it behaves."""

    name: str
    product: str
    memory_mib: int
    compute_capability: str
    speeds: dict[str, Speed]  # by precision
    gpus_per_node: int = 8
    nodes: int = 1
    max_nodes: int = 4
    provisioning_seconds: float = 8
    stocked_out: bool = False
    remove_empty_after_seconds: float | None = None
    image_pull_seconds: float = 2
    load_seconds: float = 6
    fetch_seconds: float = 0  # of a checkpoint from the hub, where no cache has it
    taint: str | None = "nvidia.com/gpu"  # key of a NoSchedule taint, as GPU node groups carry it
    labels: dict[str, str] = {}

    def simulation(self) -> dict[str, str]:
        """What stands for the pool's GPUs in the engine simulator's environment."""
        speeds = {
            precision: [speed.prefill_tokens_per_second_per_gpu, speed.decode_tokens_per_second_per_gpu]
            for precision, speed in self.speeds.items()
        }
        return {
            "SIM_LOAD_SECONDS": f"{self.load_seconds:g}",
            "SIM_FETCH_SECONDS": f"{self.fetch_seconds:g}",
            "SIM_GPU_PRODUCT": self.product,
            "SIM_GPU_SPEEDS": json.dumps(speeds),
        }


class Provider(_Settings):
    """One simulated external API; `config` is handed to the simulator as it stands."""

    name: str  # also the key in the Secret spillway-provider-keys
    server_name: str
    host: int = Field(ge=2, le=254)  # last part of its loopback address
    port: int = 8443
    control_port: int = 9443
    api_key: str
    config: dict[str, Any] = {}


class Image(_Settings):
    """What the node agent starts for an image (without its registry): the first rule whose prefix matches wins."""

    prefix: str
    entrypoint: list[str]
    default_command: list[str] = []  # what the image would run when the container names no command
    repository_on_path: bool = False


DEFAULT_POOLS = [
    Pool(
        name="blackwell-b200",
        product="NVIDIA-B200",
        memory_mib=183359,
        compute_capability="10.0",
        speeds={
            "NVFP4": Speed(prefill_tokens_per_second_per_gpu=5500, decode_tokens_per_second_per_gpu=700),
            "FP8": Speed(prefill_tokens_per_second_per_gpu=3400, decode_tokens_per_second_per_gpu=440),
        },
    ),
    Pool(
        name="hopper-h200",
        product="NVIDIA-H200",
        memory_mib=143771,
        compute_capability="9.0",
        speeds={"FP8": Speed(prefill_tokens_per_second_per_gpu=1375, decode_tokens_per_second_per_gpu=200)},
    ),
]

H100_POOL = Pool(
    name="hopper-h100",
    product="NVIDIA-H100-80GB-HBM3",
    memory_mib=81559,
    compute_capability="9.0",
    speeds={"FP8": Speed(prefill_tokens_per_second_per_gpu=1150, decode_tokens_per_second_per_gpu=160)},
    nodes=2,
)
"""Beside the default pools where a model shall need more than one node."""

BLACKWELL_ULTRA_POOLS = [
    Pool(
        name="blackwell-b300",
        product="NVIDIA-B300-SXM6-AC",
        memory_mib=275040,
        compute_capability="10.3",
        speeds={"NVFP4": Speed(prefill_tokens_per_second_per_gpu=6500, decode_tokens_per_second_per_gpu=850)},
        nodes=7,
        max_nodes=7,
        image_pull_seconds=1,
        load_seconds=2,
    ),
    Pool(
        name="blackwell-gb300",
        product="NVIDIA-GB300",
        memory_mib=284208,
        compute_capability="10.3",
        speeds={"NVFP4": Speed(prefill_tokens_per_second_per_gpu=7000, decode_tokens_per_second_per_gpu=900)},
        gpus_per_node=4,
        nodes=7,
        max_nodes=7,
        image_pull_seconds=1,
        load_seconds=2,
    ),
]
"""Beside the default pools where every model shall find room at once, however the scheduler spreads them."""

DEFAULT_PROVIDERS = [
    Provider(
        name="zai",
        server_name="api.z.ai.local",
        host=21,
        api_key="sk-zai-local",
        config={
            "style": "zai",
            "basePath": "/api/paas/v4",
            "models": {"glm-5": {"input": "1", "cachedInput": "0.2", "output": "3.2"}},
        },
    ),
    Provider(
        name="deepinfra",
        server_name="api.deepinfra.com.local",
        host=22,
        api_key="sk-deepinfra-local",
        config={
            "style": "openai",
            "basePath": "/v1/openai",
            "models": {
                "glm-5": {"input": "0.6", "cachedInput": "0.12", "output": "2.08"},
                "deepseek-r1": {"input": "0.5", "cachedInput": "0.4", "output": "2.15"},
            },
        },
    ),
]

_ENGINE = ["python", "-m", "e2e.simulators.engine"]
DEFAULT_IMAGES = [
    Image(prefix="vllm/", entrypoint=_ENGINE, default_command=["vllm", "serve"], repository_on_path=True),
    Image(prefix="lmsysorg/sglang", entrypoint=_ENGINE, repository_on_path=True),
    Image(prefix="spillway/", entrypoint=[], default_command=["spillway"]),
]


class ClusterConfig(_Settings):
    """One local cluster. The loopback prefix is where Services and providers listen (prefix.N)."""

    pools: list[Pool] = DEFAULT_POOLS
    providers: list[Provider] = DEFAULT_PROVIDERS
    images: list[Image] = DEFAULT_IMAGES
    system_nodes: int = 1
    prometheus: bool = True
    prometheus_host: int = 12
    scrape_seconds: float = 2
    leader_worker_sets: bool = False  # the controller of LeaderWorkerSet and its CRDs, for replicas on several nodes
    loopback_prefix: str = "127.0.0"  # "auto": a free 127.N.0, so that several clusters can run side by side


def load_config(path: Path) -> ClusterConfig:
    """Read a ClusterConfig from YAML; pydantic's error names the wrong field."""
    return ClusterConfig.model_validate(yaml.safe_load(path.read_text()) or {})
