"""What is known of a GPU."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from spillway.api import Precision
from spillway.catalog.entry import Entry

Interconnect = Literal["NVLink", "NVL72", "PCIe"]
Above0 = Annotated[float, Field(gt=0)]


class GpuFacts(Entry):
    """A GPU: memory in 10^9 bytes, bandwidth in 10^12 bytes/s, dense 10^12 FLOP/s by precision.

    ``products`` are the values of the nvidia.com/gpu.product label; ``scale_up`` is the number of GPUs that reach each
    other over NVLink (1: none do).
    """

    name: str
    products: Annotated[tuple[str, ...], Field(min_length=1)]
    memory_gb: Above0
    compute_capability: Annotated[str, Field(pattern=r"^[0-9]{1,2}\.[0-9]$")]
    per_node: Annotated[int, Field(gt=0)]
    interconnect: Interconnect
    scale_up: Annotated[int, Field(gt=0)]
    bandwidth_tb_per_second: Above0
    dense_teraflops: Annotated[dict[Precision, Above0], Field(min_length=1)]
    instances: tuple[str, ...] = ()
    """Machine types of clouds that hold it."""
    source: str = ""

    @property
    def bandwidth(self) -> float:
        """Memory bandwidth in bytes per second."""
        return self.bandwidth_tb_per_second * 1e12

    @property
    def flops(self) -> dict[Precision, float]:
        """Dense FLOP per second by precision."""
        return {precision: teraflops * 1e12 for precision, teraflops in self.dense_teraflops.items()}
