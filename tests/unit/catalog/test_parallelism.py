from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.api import Strategy
from spillway.catalog import Parallelism


@pytest.mark.parametrize(
    ("text", "parallelism", "gpus", "per_node", "experts_over"),
    [
        ("TP1", Parallelism("Tensor", 1), 1, 1, 0),
        ("TP8", Parallelism("Tensor", 8), 8, 8, 0),
        ("TP8+EP", Parallelism("TensorExpert", 8), 8, 8, 8),
        ("DP8+EP", Parallelism("DataExpert", 1, 8), 8, 8, 8),
        ("DP4+TP2+EP", Parallelism("DataExpert", 2, 4), 8, 8, 8),
        ("TP16 on 2 nodes", Parallelism("Tensor", 16, nodes=2), 16, 8, 0),
        ("DP16+EP on 4 nodes", Parallelism("DataExpert", 1, 16, nodes=4), 16, 4, 16),
    ],
)
def test_the_notation_and_what_it_means(
    text: str, parallelism: Parallelism, gpus: int, per_node: int, experts_over: int
) -> None:
    assert Parallelism.parse(text) == parallelism
    assert str(parallelism) == text
    assert (parallelism.gpus, parallelism.gpus_per_node, parallelism.expert_parallel_size) == (
        gpus,
        per_node,
        experts_over,
    )


@pytest.mark.parametrize(
    "text", ["", "8", "EP", "TP", "TP0", "DP8", "DP8+TP2", "TP8+", "TP08", "tp8", "TP8 on 1 nodes", "TP8+EP on 2 node"]
)
def test_other_texts_are_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a parallelism: write TP8, TP8\+EP, DP8\+EP"):
        Parallelism.parse(text)


@pytest.mark.parametrize(
    ("strategy", "tensor", "data", "nodes", "message"),
    [
        ("Tensor", 0, 1, 1, "parallelism.tensor is 0"),
        ("DataExpert", 1, -2, 1, "parallelism.data is -2"),
        ("TensorExpert", 8, 1, 0, "parallelism.nodes is 0"),
        ("TensorExpert", 8, 2, 1, "only DataExpert has data ranks"),
        ("Tensor", 8, 1, 3, "use a divisor of 8"),
    ],
)
def test_sizes_that_cannot_be_are_refused(strategy: Strategy, tensor: int, data: int, nodes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Parallelism(strategy, tensor, data, nodes)


@given(
    strategy=st.sampled_from(("Tensor", "TensorExpert", "DataExpert")),
    tensor=st.integers(1, 64),
    data=st.integers(1, 64),
    nodes=st.integers(1, 64),
)
def test_every_parallelism_can_be_written_and_read(strategy: Strategy, tensor: int, data: int, nodes: int) -> None:
    data = data if strategy == "DataExpert" else 1
    nodes = next(count for count in range(nodes, 0, -1) if tensor * data % count == 0)
    parallelism = Parallelism(strategy, tensor, data, nodes)
    assert Parallelism.parse(str(parallelism)) == parallelism
    assert parallelism.gpus_per_node * parallelism.nodes == parallelism.gpus
