"""`spillway catalog fit`: where a model fits, and why not where it does not, with the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rich.padding import Padding
from rich.text import Text

from spillway.api import EngineName, Precision
from spillway.catalog import (
    Catalog,
    Footprint,
    GpuFacts,
    ModelFacts,
    Parallelism,
    PoolGpu,
    Wish,
    capability,
    engine_problem,
    fit,
    rules_for,
)
from spillway.cli.catalog_tables import console, table


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked; ``parallelism`` None: what the catalog would choose."""

    model: ModelFacts
    gpus: tuple[GpuFacts, ...]
    precisions: tuple[Precision, ...]
    engine: EngineName
    engine_version: str
    max_model_len: int | None
    parallelism: Parallelism | None
    redundant_experts: int


@dataclass(frozen=True, slots=True)
class Answer:
    """One GPU and precision. ``why_not``: words where nothing fits; ``one_node``: why a replica needs several nodes;
    ``passed_over``: why it is not what is recommended."""

    gpu: GpuFacts
    precision: Precision
    memory: Footprint | None
    recommended: bool
    why_not: str
    one_node: str = ""
    passed_over: str = ""

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"gpu": self.gpu.name, "precision": self.precision, "fits": self.memory is not None}
        if self.memory is None:
            return found | {"reason": self.why_not}
        memory, spread = self.memory, self.memory.parallelism
        return found | {
            "parallelism": {
                "strategy": spread.strategy,
                "tensor": spread.tensor,
                "data": spread.data,
                "nodes": spread.nodes,
            },
            "recommended": self.recommended,
            "gpus": spread.gpus,
            "nodes": spread.nodes,
            "weightsGB": round(memory.weights_gb, 1),
            "overheadGB": round(memory.overhead_gb, 1),
            "usableGB": round(memory.usable_gb, 1),
            "kvCacheGB": round(memory.kv_gb, 1),
            "kvCacheTokens": memory.kv_tokens,
            "fullContextRequests": round(memory.full_requests, 2),
            "reason": memory.words(),
        }


def answers(question: Question, catalog: Catalog) -> list[Answer]:
    """One for each GPU and precision that the model has a checkpoint in; replicas may span nodes."""
    return [
        _answer(question, catalog, gpu, precision)
        for gpu in question.gpus
        for precision in question.precisions
        if precision in question.model.checkpoints
    ]


def _answer(question: Question, catalog: Catalog, gpu: GpuFacts, precision: Precision) -> Answer:
    model = question.model
    if problem := engine_problem(model, question.engine, question.engine_version, precision):
        return Answer(gpu, precision, None, recommended=False, why_not=problem)
    rules = rules_for(catalog, model, question.engine, precision, gpu.name, question.engine_version)
    wish = Wish(
        model,
        precision,
        question.max_model_len,
        tuple(arg for rule in rules for arg in rule.args),
        question.parallelism,
        question.redundant_experts,
    )
    nodes = PoolGpu(gpu, gpu.memory_gb, capability(gpu.compute_capability), gpu.per_node, multi_node=True)
    found = fit(wish, nodes)
    if isinstance(found, str):
        return Answer(gpu, precision, None, recommended=False, why_not=found)
    recommended = model.parallelism.get(precision, {}).get(gpu.name)
    taken = found.parallelism == recommended
    one_node = passed_over = ""
    if recommended is not None and not taken and question.parallelism is None:
        other = fit(replace(wish, parallelism=recommended), nodes)
        passed_over = other.replace(" is asked for", "", 1) if isinstance(other, str) else ""
    elif found.parallelism.nodes > 1 and question.parallelism is None:
        alone = fit(wish, replace(nodes, multi_node=False))
        one_node = alone.partition("; TP")[0].partition("; DP")[0] if isinstance(alone, str) else ""
    return Answer(gpu, precision, found, taken, "", one_node, passed_over)


def tell(question: Question, found: list[Answer]) -> None:
    """A table of what fits, then the arithmetic for each GPU."""
    out, model = console(), question.model
    parameters = model.parameters_billion
    context = min(question.max_model_len or model.context_length, model.context_length)
    out.print(
        Text.assemble(
            (model.name, "bold"),
            f"  {parameters.total:g}B parameters, {parameters.active:g}B active "
            f"({parameters.active / parameters.total:.1%}), {question.engine} {question.engine_version}, "
            f"context {context:,} tokens\n",
        )
    )
    fitting = table(
        "GPU",
        "PRECISION",
        "REPLICA",
        "GPUS",
        "NODES",
        "KV CACHE GB",
        "FULL REQUESTS",
        "",
        left=("GPU", "PRECISION", "REPLICA", ""),
    )
    for answer in found:
        if answer.memory is None:
            continue
        spread = answer.memory.parallelism
        fitting.add_row(
            answer.gpu.name,
            answer.precision,
            str(spread).partition(" on ")[0],
            str(spread.gpus),
            str(spread.nodes),
            f"{answer.memory.kv_gb:.0f}",
            f"{answer.memory.full_requests:.1f}",
            "recommended" if answer.recommended else "",
        )
    if fitting.row_count:
        out.print(fitting)
    else:
        out.print("It fits on none of these GPUs.")
    gpu = None
    for answer in found:
        if answer.gpu is not gpu:
            gpu = answer.gpu
            out.print(
                Text.assemble(
                    ("\n" + gpu.name, "bold"),
                    f"  {gpu.per_node} × {gpu.memory_gb:g} GB on a node, compute capability {gpu.compute_capability}, "
                    f"{gpu.interconnect}",
                )
            )
        _explain(answer)
    out.print(
        "\nRule: weights + overhead (15 % of them, at most 16 GB a GPU) + KV cache of one request of full context on "
        "each rank ≤ GPUs × memory × 0.92. KV CACHE GB is what is left for the cache, FULL REQUESTS how many requests "
        "of full context that is. Several nodes need a GPUPool with topology.multiNode: LeaderWorkerSet.",
        style="dim",
    )


def _explain(answer: Answer) -> None:
    out = console()
    if answer.memory is None:
        out.print(
            Padding(Text.assemble((f"{answer.precision} does not fit: ", "yellow"), answer.why_not), (0, 0, 0, 2))
        )
        return
    spread = answer.memory.parallelism
    out.print(Padding(Text.assemble((f"{answer.precision} {spread}: ", "green"), answer.memory.words()), (0, 0, 0, 2)))
    if answer.passed_over:
        out.print(Padding(Text.assemble(("recommended, but too large: ", "dim"), answer.passed_over), (0, 0, 0, 4)))
    if answer.one_node:
        out.print(Padding(Text.assemble(("one node is not enough: ", "dim"), answer.one_node), (0, 0, 0, 4)))
