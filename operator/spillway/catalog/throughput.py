"""How fast one replica is, before anything was measured: published numbers, else a roofline with fitted efficiencies.

``work = tokens_in / P + tokens_out / D`` wants a prefill rate P and a decode rate D. A published number gives only the
sum over both; a replica at that load is taken to spend half of its time on each, so that P is twice the prompt tokens
and D twice the completion tokens it handles per second.

Without a published number::

    P = PREFILL_EFFICIENCY × GPUs × FLOP/s ÷ (2 × active parameters)
    D = DECODE_EFFICIENCY × GPUs × bandwidth ÷ bytes of the active parameters

The two efficiencies are fitted on GLM-5 at 41 tokens/s per user (InferenceX, 8k/1k): B200 NVFP4 gives 0.050 and 2.06,
B200 FP8 0.048 and 1.69. Decode is above 1 because a batch shares each read of the weights. Other models do better (R1
on B200 FP8: 0.15 and 5.5), so this errs towards too many replicas until real traffic corrects it. Where the same GPU
was measured in another precision, that measurement is scaled by the ratio of the rooflines.
"""

from __future__ import annotations

from dataclasses import dataclass

from spillway.api import Precision
from spillway.catalog.gpus import GpuFacts
from spillway.catalog.models import ModelFacts, Throughput

PREFILL_EFFICIENCY = 0.05
DECODE_EFFICIENCY = 1.7
TOKENS_PER_SECOND_PER_USER = 41.0
"""Speed of one stream at which the published numbers were taken."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens per second of one replica that does nothing but prefill, or nothing but decode."""

    prefill_tokens_per_second: float
    decode_tokens_per_second: float

    @property
    def concurrency(self) -> int:
        """Streams at which decode reaches its rate, by Little's law at 41 tokens/s each."""
        return max(1, round(self.decode_tokens_per_second / TOKENS_PER_SECOND_PER_USER))


def prior(model: ModelFacts, precision: Precision, gpu: GpuFacts, gpus: int) -> Rates:
    """Rates to start from for a replica of ``gpus`` GPUs."""
    roofline = _roofline(model, precision, gpu, gpus)
    on_this_gpu = {measured.precision: measured for measured in model.throughput if measured.gpu == gpu.name}
    if not on_this_gpu:
        return roofline
    measured = on_this_gpu.get(precision) or next(iter(on_this_gpu.values()))
    published = _from_measurement(measured, gpus)
    expected = _roofline(model, measured.precision, gpu, gpus)
    return Rates(
        published.prefill_tokens_per_second * roofline.prefill_tokens_per_second / expected.prefill_tokens_per_second,
        published.decode_tokens_per_second * roofline.decode_tokens_per_second / expected.decode_tokens_per_second,
    )


def _roofline(model: ModelFacts, precision: Precision, gpu: GpuFacts, gpus: int) -> Rates:
    active_bytes = model.active_parameters * _bytes_per_parameter(model, precision)
    return Rates(
        PREFILL_EFFICIENCY * gpus * gpu.flops[precision] / (2 * model.active_parameters),
        DECODE_EFFICIENCY * gpus * gpu.bandwidth / active_bytes,
    )


def _from_measurement(measured: Throughput, gpus: int) -> Rates:
    tokens_per_second = measured.tokens_per_second_per_gpu * gpus
    prompt_share = measured.input / (measured.input + measured.output)
    return Rates(2 * tokens_per_second * prompt_share, 2 * tokens_per_second * (1 - prompt_share))


def _bytes_per_parameter(model: ModelFacts, precision: Precision) -> float:
    return model.checkpoints[precision].gigabytes * 1e9 / model.total_parameters
