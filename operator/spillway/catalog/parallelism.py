"""How one replica is spread over its GPUs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from spillway.api import Strategy

_NOTATION = re.compile(r"(?:DP(?P<data>[1-9]\d{0,3})\+)?(?:TP(?P<tensor>[1-9]\d{0,3})\+?)?(?P<experts>EP)?")
_NODES = re.compile(r" on ([2-9]|[1-9]\d{1,2}) nodes")


@dataclass(frozen=True, slots=True)
class Parallelism:
    """Strategy and sizes of one replica; the strategies are those of vllm-project/recipes.

    Tensor: every layer is split over ``tensor`` GPUs. TensorExpert: the same, with whole experts spread over the same
    GPUs. DataExpert: ``data`` ranks of ``tensor`` GPUs, each with its own copy of everything but the routed experts,
    which are spread over all of them. ``nodes`` is the number of nodes that the replica takes, with the same number
    of GPUs on each. Raises ValueError for sizes that cannot be.
    """

    strategy: Strategy
    tensor: int
    data: int = 1
    nodes: int = 1

    def __post_init__(self) -> None:
        for name, size in (("tensor", self.tensor), ("data", self.data), ("nodes", self.nodes)):
            if size < 1:
                raise ValueError(f"parallelism.{name} is {size}: it must be 1 or more")
        if self.data > 1 and self.strategy != "DataExpert":
            raise ValueError(
                f"parallelism.data is {self.data} with strategy {self.strategy}: only DataExpert has data ranks, "
                "set data to 1 or strategy to DataExpert"
            )
        if self.gpus % self.nodes:
            raise ValueError(
                f"parallelism.nodes is {self.nodes} for tensor {self.tensor} × data {self.data} = {self.gpus} GPUs: "
                f"each node must hold the same number of them, use a divisor of {self.gpus}"
            )

    @classmethod
    def parse(cls, text: str) -> Parallelism:
        """The notation of `__str__`: ``TP8``, ``TP8+EP``, ``DP8+EP``, ``DP4+TP2+EP``, ``TP16+EP on 2 nodes``.

        Raises ValueError for anything else.
        """
        nodes = 1
        sizes = text
        if match := _NODES.search(text):
            nodes, sizes = int(match[1]), text[: match.start()] + text[match.end() :]
        found = _NOTATION.fullmatch(sizes)
        data, tensor, experts = found.group("data", "tensor", "experts") if found else (None, None, None)
        parallelism = None
        if data and experts:
            parallelism = cls("DataExpert", int(tensor or 1), int(data), nodes)
        elif tensor and not data:
            parallelism = cls("TensorExpert" if experts else "Tensor", int(tensor), 1, nodes)
        if parallelism is None or str(parallelism) != text:
            raise ValueError(f"{text!r} is not a parallelism: write TP8, TP8+EP, DP8+EP or TP16+EP on 2 nodes")
        return parallelism

    @property
    def gpus(self) -> int:
        """GPUs of the whole replica."""
        return self.tensor * self.data

    @property
    def gpus_per_node(self) -> int:
        """GPUs that the replica takes on each of its nodes."""
        return self.gpus // self.nodes

    @property
    def expert_parallel_size(self) -> int:
        """GPUs over which whole experts are spread; 0 where each expert is split instead."""
        return 0 if self.strategy == "Tensor" else self.gpus

    def __str__(self) -> str:
        parts = [f"DP{self.data}"] if self.strategy == "DataExpert" else []
        if self.strategy != "DataExpert" or self.tensor > 1:
            parts.append(f"TP{self.tensor}")
        if self.strategy != "Tensor":
            parts.append("EP")
        return "+".join(parts) + (f" on {self.nodes} nodes" if self.nodes > 1 else "")
