"""What an engine's command line and the pod's environment come down to."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from e2e.simulators.engine.hub import hub_directory

EngineName = Literal["vllm", "sglang"]
HOPPER_PRODUCTS = ("H100", "H200", "GH200", "H800", "H20")
DEFAULT_MAX_MODEL_TOKENS = 202_752


class RefusedSettings(ValueError):
    """The flags parse, but the engine would refuse to start with them (exit status 1)."""


@dataclass(frozen=True)
class Group:
    """Processes on several nodes that are one engine: which this is, of how many, and where they meet."""

    rank: int
    nodes: int
    host: str
    port: int


@dataclass(frozen=True)
class Rank:
    """A process of the engine that exports metrics of its own: its labels, and of which data parallel rank it tells."""

    labels: Mapping[str, str]
    data_rank: int = 0


@dataclass(frozen=True)
class Settings:
    """`gpus` are those used in this pod. `shutdown_seconds` None: drain without limit. Limits of None: no limit.

    `group` None: one node. `headless`: no HTTP here. `tells_cached_tokens`: in the usage of an answer.
    The data parallel ranks of which `ranks` tell share the requests; several may tell of the same one.
    """

    engine: EngineName
    model: str
    precision: str  # NVFP4 or FP8
    gpus: int
    served_names: tuple[str, ...]
    host: str
    port: int
    max_running: int
    max_queued_requests: int | None
    max_queued_tokens: int | None
    max_model_tokens: int
    api_keys: tuple[str, ...]
    shutdown_seconds: float | None
    metrics: bool
    headless: bool
    ranks: tuple[Rank, ...]
    prefix_caching: bool = True
    tells_cached_tokens: bool = False
    group: Group | None = None

    @property
    def all_gpus(self) -> int:
        """Of all nodes."""
        return self.gpus * (self.group.nodes if self.group else 1)


@dataclass(frozen=True)
class Surroundings:
    """The pod's part: address, hardware, and how fast its GPUs are.

    `hosts` is a file with what the cluster's DNS would answer, where there is none. `gpu_speeds` has (prefill, decode)
    tokens per second of one GPU by precision; what it lacks runs at the two speeds of the whole replica.
    """

    pod_ip: str | None
    hosts: Path | None
    gpus: int | None
    gpu_product: str
    api_key: str | None
    load_seconds: float
    fetch_seconds: float
    hub: Path
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    gpu_speeds: Mapping[str, tuple[float, float]]
    stream_tokens_per_second: float
    kv_cache_tokens: int
    drain_poll_seconds: float
    seed: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Surroundings:
        """Read SIM_*, POD_IP and VLLM_API_KEY; the default speed is GLM-5 NVFP4 on 4 x B200 (InferenceX 8k/1k).

        SIM_GPU_SPEEDS is JSON: {"NVFP4": [prefill, decode], "FP8": [prefill, decode]}, per GPU.
        """

        def number(name: str, default: float) -> float:
            value = environment.get(name, "")
            return float(value) if value else default

        gpus = environment.get("SIM_GPUS", "")
        # A container has its own network: there all interfaces are the pod's.
        container = "0.0.0.0" if "KUBERNETES_SERVICE_HOST" in environment else None
        speeds = json.loads(environment.get("SIM_GPU_SPEEDS") or "{}")
        return cls(
            pod_ip=environment.get("POD_IP") or container,
            hosts=Path(environment["SIM_HOSTS"]) if environment.get("SIM_HOSTS") else None,
            gpus=int(gpus) if gpus else None,
            gpu_product=environment.get("SIM_GPU_PRODUCT", ""),
            api_key=environment.get("VLLM_API_KEY") or None,
            load_seconds=number("SIM_LOAD_SECONDS", 0.0),
            fetch_seconds=number("SIM_FETCH_SECONDS", 0.0),
            hub=hub_directory(environment),
            prefill_tokens_per_second=number("SIM_PREFILL_TOKENS_PER_SECOND", 22_000.0),
            decode_tokens_per_second=number("SIM_DECODE_TOKENS_PER_SECOND", 2_800.0),
            gpu_speeds={precision: (float(prefill), float(decode)) for precision, (prefill, decode) in speeds.items()},
            stream_tokens_per_second=number("SIM_STREAM_TOKENS_PER_SECOND", 50.0),
            kv_cache_tokens=int(number("SIM_KV_CACHE_TOKENS", 2_000_000)),
            drain_poll_seconds=number("SIM_DRAIN_POLL_SECONDS", 5.0),
            seed=int(number("SIM_SEED", zlib.crc32(environment.get("HOSTNAME", "").encode()))),
        )

    def bind_address(self, host: str) -> str:
        """All interfaces means the pod's own; outside a pod only loopback."""
        return (self.pod_ip or "127.0.0.1") if host in {"0.0.0.0", "::", ""} else host

    def running(self, settings: Settings) -> Surroundings:
        """With the speed of a replica that these settings run on GPUs like this node's."""
        if settings.precision not in self.gpu_speeds:
            return self
        prefill, decode = self.gpu_speeds[settings.precision]
        return replace(
            self,
            prefill_tokens_per_second=settings.all_gpus * prefill,
            decode_tokens_per_second=settings.all_gpus * decode,
        )

    def is_hopper(self) -> bool:
        return any(product in self.gpu_product for product in HOPPER_PRODUCTS)


def precision_of(model: str, quantization: str | None) -> str:
    """NVFP4 or FP8, the two that Spillway's catalog knows."""
    return "NVFP4" if is_nvfp4(model, quantization) else "FP8"


def is_nvfp4(model: str, quantization: str | None) -> bool:
    """Does the checkpoint's name, or the forced quantization, mean NVFP4 weights (nvidia/…-NVFP4, …-FP4)?"""
    name = model.upper()
    return "NVFP4" in name or name.endswith(("-FP4", "-FP4-V2")) or quantization in {"modelopt_fp4", "petit_nvfp4"}
