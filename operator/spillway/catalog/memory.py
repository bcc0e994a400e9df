"""How much GPU memory a replica needs, and what is left for the KV cache. All sizes in GB (10^9 bytes).

Fit rule: weights + overhead + KV cache of one request of full context on each rank ≤ GPUs × memory × 0.92. (An engine
refuses to start with less KV cache than that.)

Weights: the checkpoint; with data parallelism everything outside the routed experts once more for each further rank;
and the redundant experts. Overhead (activations, CUDA graphs, communication buffers): 15 % of the weights, at most
16 GB a GPU, which is what lets DeepSeek-V4-Pro run on one tray of GB300, as vllm-project/recipes has it. KV cache: a
tensor-parallel group splits that of a token by KV heads; with one head (MLA) each of its GPUs holds a full copy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from spillway.api import Precision
from spillway.catalog.models import KvDtype, ModelFacts
from spillway.catalog.parallelism import Parallelism

OVERHEAD = 0.15
OVERHEAD_GB_PER_GPU = 16.0
USABLE_MEMORY = 0.92
"""vLLM's default --gpu-memory-utilization."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """One replica's memory, over all of its GPUs."""

    parallelism: Parallelism
    memory_gb: float
    """Of one GPU."""
    checkpoint_gb: float
    copies_gb: float
    """Weights outside the routed experts, for the data-parallel ranks after the first."""
    redundant_gb: float
    context_length: int
    kv_dtype: KvDtype
    kv_bytes_per_token: int
    """Without copies."""
    kv_copies: int

    @property
    def weights_gb(self) -> float:
        """Checkpoint, copies for the ranks, redundant experts."""
        return self.checkpoint_gb + self.copies_gb + self.redundant_gb

    @property
    def overhead_gb(self) -> float:
        """Activations, CUDA graphs, communication buffers."""
        return min(OVERHEAD * self.weights_gb, OVERHEAD_GB_PER_GPU * self.parallelism.gpus)

    @property
    def kv_gb_per_request(self) -> float:
        """KV cache of one request of full context, with its copies."""
        return self.context_length * self.kv_bytes_per_token * self.kv_copies / 1e9

    @property
    def needed_gb(self) -> float:
        """Weights, overhead and the least KV cache."""
        return self.weights_gb + self.overhead_gb + self.parallelism.data * self.kv_gb_per_request

    @property
    def usable_gb(self) -> float:
        """What an engine takes of the GPUs' memory."""
        return self.parallelism.gpus * self.memory_gb * USABLE_MEMORY

    @property
    def fits(self) -> bool:
        """Whether the fit rule holds."""
        return self.needed_gb <= self.usable_gb

    @property
    def kv_gb(self) -> float:
        """Memory left for KV cache; negative where not even the weights fit."""
        return self.usable_gb - self.weights_gb - self.overhead_gb

    @property
    def kv_tokens(self) -> int:
        """Tokens whose KV cache fits at once, over all ranks."""
        return max(0, math.floor(self.kv_gb * 1e9 / (self.kv_bytes_per_token * self.kv_copies)))

    @property
    def longest_context(self) -> int:
        """Longest context of which every rank can hold one request, in tokens, to a multiple of 1,024 below."""
        return self.kv_tokens // self.parallelism.data // 1024 * 1024

    @property
    def full_requests(self) -> float:
        """How many requests of full context fit at once."""
        return self.kv_tokens / self.context_length

    def words(self) -> str:
        """The rule with its numbers."""
        data = self.parallelism.data
        parts = [f"{self.checkpoint_gb:.4g} GB weights"]
        if self.copies_gb:
            parts.append(f"{self.copies_gb:.4g} GB for {data - 1} more copies of the weights outside the experts")
        if self.redundant_gb:
            parts.append(f"{self.redundant_gb:.3g} GB redundant experts")
        parts.append(f"{self.overhead_gb:.0f} GB overhead")
        cache = f"{self.context_length:,} tokens × {self.kv_bytes_per_token:,} B"
        if self.kv_copies > 1:
            cache += f" × {self.kv_copies} copies"
        if data > 1:
            cache += f" × {data} ranks"
        parts.append(f"{data * self.kv_gb_per_request:.1f} GB KV cache ({cache})")
        sign = "≤" if self.fits else ">"
        return (
            f"{' + '.join(parts)} = {self.needed_gb:.0f} GB {sign} "
            f"{self.parallelism.gpus} × {self.memory_gb:g} GB × {USABLE_MEMORY} = {self.usable_gb:.0f} GB"
        )


def footprint(
    model: ModelFacts,
    precision: Precision,
    memory_gb: float,
    parallelism: Parallelism,
    *,
    redundant_experts: int = 0,
    context_length: int | None = None,
    args: tuple[str, ...] = (),
) -> Footprint:
    """The memory of one replica. ``args``: the engine's arguments, for the type of the KV cache.

    Redundant experts of a model whose number of experts is not known count nothing.
    """
    checkpoint = model.checkpoints[precision]
    experts_gb = checkpoint.gigabytes - checkpoint.dense_gigabytes
    dtype, kv_bytes = model.kv_bytes(args)
    return Footprint(
        parallelism=parallelism,
        memory_gb=memory_gb,
        checkpoint_gb=checkpoint.gigabytes,
        copies_gb=(parallelism.data - 1) * checkpoint.dense_gigabytes,
        redundant_gb=redundant_experts * experts_gb / model.routed_experts if model.routed_experts else 0.0,
        context_length=min(context_length or model.context_length, model.context_length),
        kv_dtype=dtype,
        kv_bytes_per_token=kv_bytes,
        kv_copies=math.ceil(parallelism.tensor / min(parallelism.tensor, model.kv_heads)),
    )
