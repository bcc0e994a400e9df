"""Where the model may run: pools, precisions, and how a replica spreads over GPUs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from spillway.api.markers import Keywords, ListType, cel, model_rules
from spillway.api.model import Precision
from spillway.api.resource import KubeModel
from spillway.api.rules import ObjectName

Strategy = Literal["Tensor", "TensorExpert", "DataExpert"]


class WantedParallelism(KubeModel):
    """How one replica spreads over GPUs: tensor × data of them, evenly on so many nodes."""

    model_config = ConfigDict(
        json_schema_extra=model_rules(
            cel(
                "self.tensor * self.data % self.nodes == 0",
                "tensor × data must be a multiple of nodes",
                field=".nodes",
            ),
            cel(
                "(self.strategy == 'DataExpert') == (self.data > 1)",
                "data must be more than 1 with strategy DataExpert, and 1 with the others",
                field=".data",
            ),
        )
    )

    strategy: Strategy
    """Tensor: every layer is split over all GPUs. TensorExpert: the same, with whole experts on each GPU. DataExpert:
    attention is replicated over data ranks, experts are spread over all GPUs."""
    tensor: Annotated[int, Field(ge=1, le=128), Keywords(format="int32")] = 1
    """GPUs that a layer is split over. Default: 1."""
    data: Annotated[int, Field(ge=1, le=512), Keywords(format="int32")] = 1
    """Data-parallel ranks, for DataExpert. Default: 1."""
    nodes: Annotated[int, Field(ge=1, le=64), Keywords(format="int32")] = 1
    """Nodes that hold the replica, the same number of GPUs on each. Default: 1."""

    @model_validator(mode="after")
    def _comes_out_even(self) -> WantedParallelism:
        if self.tensor * self.data % self.nodes:
            raise ValueError(
                f"tensor × data is {self.tensor * self.data} and nodes is {self.nodes}: "
                "every node holds the same number of GPUs"
            )
        if self.strategy == "DataExpert" and self.data == 1:
            raise ValueError("strategy is DataExpert and data is 1: raise data, or use TensorExpert")
        if self.strategy != "DataExpert" and self.data > 1:
            raise ValueError(f"strategy is {self.strategy} and data is {self.data}: use DataExpert or drop data")
        return self


class WantedVariant(KubeModel):
    """One way to run the model: a pool and a precision."""

    model_config = ConfigDict(
        json_schema_extra=model_rules(
            cel(
                "self.redundantExperts == 0 || !has(self.parallelism) || self.parallelism.strategy != 'Tensor'",
                "redundantExperts needs strategy TensorExpert or DataExpert",
                field=".redundantExperts",
            )
        )
    )

    pool: ObjectName
    """Name of a GPUPool."""
    precision: Precision
    """NVFP4, FP8 or BF16."""
    parallelism: WantedParallelism | None = None
    """How one replica spreads over GPUs. Default: from the catalog."""
    redundant_experts: Annotated[int, Field(ge=0, le=1024), Keywords(format="int32")] = 0
    """Copies of busy experts that the engine's load balancer (EPLB) may place, over the whole replica. Default: 0."""

    @model_validator(mode="after")
    def _experts_to_copy(self) -> WantedVariant:
        if self.redundant_experts and self.parallelism and self.parallelism.strategy == "Tensor":
            raise ValueError(
                f"redundantExperts is {self.redundant_experts} and strategy is Tensor, which has no expert "
                "parallelism: use TensorExpert or DataExpert"
            )
        return self


class Placement(KubeModel):
    """Where the model may run."""

    variants: Annotated[tuple[WantedVariant, ...], Field(max_length=16), ListType("map", "pool", "precision")] = ()
    """Pools and precisions to use. Default: every pool that the model fits on, cheapest per token first."""
