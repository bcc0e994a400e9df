"""The catalog as tables, for 100 columns."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from spillway.catalog import PRECISIONS, CheckpointFacts, GpuFacts, ModelFacts, OfferedModel, ProviderFacts

WIDTH = 100  # of a file or a pipe, which have none


def console() -> Console:
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDTH)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def table(*headings: str, left: Sequence[str] = ()) -> Table:
    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        made.add_column(
            heading,
            justify="left" if heading in left else "right",
            overflow="fold",
            no_wrap=heading in ("MODEL", "GPU"),
        )
    return made


def models(found: Sequence[ModelFacts]) -> None:
    out = console()
    made = table(
        "MODEL", "PARAMETERS", "ACTIVE", "CONTEXT", "KV kB", *(f"{p} GB" for p in PRECISIONS), "vLLM", "SGLang",
        left=("MODEL",),
    )  # fmt: skip
    for one in found:
        parameters = one.parameters_billion
        made.add_row(
            one.name,
            f"{parameters.total:g}B/{parameters.active:g}B",
            f"{parameters.active / parameters.total:.1%}",
            tokens(one.context_length),
            "/".join(f"{one.kv_bytes_per_token[t] / 1000:.3g}" for t in ("BF16", "FP8") if t in one.kv_bytes_per_token),
            *(size(one.checkpoints.get(precision)) for precision in PRECISIONS),
            *(
                (one.engines[name].minimum_version or "any") if name in one.engines else "no"
                for name in ("vLLM", "SGLang")
            ),
        )
    out.print(made)
    out.print(
        "\nACTIVE: share of the parameters that one token passes through; its compute follows it. KV kB: cache of a "
        "token at 16 and at 8 bits. GB: size of the checkpoint; ~: not read at its source. vLLM, SGLang: least version "
        "(any: none is known to be too old).",
        style="dim",
    )
    for one in found:
        if one.note:
            out.print(f"{one.name}: {one.note}", style="dim")


def model(one: ModelFacts) -> None:
    out = console()
    parameters, experts = one.parameters_billion, one.experts
    out.print(Text(one.name, "bold"), one.title)
    out.print(
        f"{parameters.total:g}B parameters, {parameters.active:g}B active "
        f"({parameters.active / parameters.total:.1%}); "
        f"context {one.context_length:,} tokens"
    )
    if experts is not None:
        layers = f" in {experts.layers} layers" if experts.layers else ""
        out.print(f"{experts.routed} routed experts{layers}, {experts.active} per token, {experts.shared} shared")
    kv = ", ".join(f"{kind} {size:,} B" for kind, size in one.kv_bytes_per_token.items())
    out.print(
        f"KV cache of a token: {kv}" + (" (each GPU of a tensor group holds a copy)" if one.kv_heads == 1 else "")
    )
    if one.note:
        out.print(one.note)
    out.print()
    made = table(
        "PRECISION", "GB", "DENSE GB", "FILES", "CHECKPOINT", "SOURCE", left=("PRECISION", "CHECKPOINT", "SOURCE")
    )
    for precision in PRECISIONS:
        if checkpoint := one.checkpoints.get(precision):
            made.add_row(
                precision,
                size(checkpoint),
                f"{checkpoint.dense_gigabytes:g}",
                str(checkpoint.files or ""),
                checkpoint.uri,
                f"{checkpoint.source} [{checkpoint.mark}]",
            )
    out.print(made)
    out.print()
    made = table("PRECISION", "RECOMMENDED FOR ONE REPLICA", left=("PRECISION", "RECOMMENDED FOR ONE REPLICA"))
    for precision, by_gpu in one.parallelism.items():
        made.add_row(precision, ", ".join(f"{gpu} {parallelism}" for gpu, parallelism in by_gpu.items()))
    out.print(made)
    for name, engine in one.engines.items():
        mtp = f", multi-token prediction drafts {engine.mtp_tokens}" if engine.mtp_tokens else ""
        out.print(f"\n{name}: least version {engine.minimum_version or 'not known'}{mtp}")
        for rule in engine.rules:
            when = "; ".join(
                part
                for part in (
                    ", ".join(rule.precisions),
                    ", ".join(rule.gpus),
                    f"from {rule.since}" if rule.since else "",
                    f"before {rule.before}" if rule.before else "",
                )
                if part
            )
            what = " ".join([*(f"{variable}={value}" for variable, value in rule.env.items()), *rule.args])
            out.print(Padding(f"{when or 'always'}: {what}", (0, 0, 0, 2)))


def gpus(found: Sequence[GpuFacts]) -> None:
    out = console()
    made = table(
        "GPU", "GB", "CC", "PER NODE", "LINK", "TB/S", "PFLOPS", "NODE LABEL", left=("GPU", "LINK", "NODE LABEL")
    )
    for one in found:
        made.add_row(
            one.name,
            f"{one.memory_gb:g}",
            one.compute_capability,
            str(one.per_node),
            one.interconnect,
            f"{one.bandwidth_tb_per_second:g}",
            "/".join(f"{one.dense_teraflops[p] / 1000:.3g}" if p in one.dense_teraflops else "–" for p in PRECISIONS),
            ", ".join(one.products),
        )
    out.print(made)
    out.print(
        "\nCC: compute capability; NVFP4 needs 10.0, FP8 8.9. LINK: NVLink within a node, NVL72 across the nodes of a "
        "rack, PCIe none. PFLOPS: dense, NVFP4/FP8/BF16. NODE LABEL: values of nvidia.com/gpu.product.",
        style="dim",
    )


def providers(found: Sequence[ProviderFacts]) -> None:
    out = console()
    for position, one in enumerate(found):
        if position:
            out.print()
        out.print(Text.assemble((one.name, "bold"), f"  {one.title}  {one.base_url}  ({one.header}: {one.prefix}KEY)"))
        if one.other_urls:
            out.print(f"also {', '.join(one.other_urls)}", style="dim")
        if one.note:
            out.print(one.note, style="dim")
        out.print(f"$ per million tokens as of {one.checked}; {one.source}", style="dim")
        made = table("MODEL", "INPUT", "CACHED", "WRITE", "OUTPUT", "REMARKS", left=("MODEL", "REMARKS"))
        for name, offered in one.models.items():
            made.add_row(
                name,
                f"{offered.input:f}",
                "" if offered.cached_input is None else f"{offered.cached_input:f}",
                "" if offered.cache_write is None else f"{offered.cache_write:f}",
                f"{offered.output:f}",
                _remarks(offered),
            )
        out.print(made)


def _remarks(offered: OfferedModel) -> str:
    remarks = [
        f"above {tokens(tier.above_input_tokens)}: {tier.input:f}"
        + ("" if tier.cached_input is None else f"/{tier.cached_input:f}")
        + f"/{tier.output:f}"
        for tier in offered.tiers
    ]
    if offered.catalog_model:
        remarks.append(f"is {offered.catalog_model}")
    if offered.ends:
        remarks.append(f"ends {offered.ends}")
    return "; ".join(remarks)


def size(checkpoint: CheckpointFacts | None) -> str:
    if checkpoint is None:
        return "–"
    return f"{'' if checkpoint.mark == 'V' else '~'}{checkpoint.gigabytes:.0f}"


def tokens(count: int) -> str:
    """``163840`` -> ``160k``, ``1048576`` -> ``1M``, ``202752`` -> ``198k``, ``200000`` -> ``200k``."""
    if count % 1000 == 0:
        return f"{count // 1000}k"
    return f"{count / 1048576:.3g}M" if count >= 1048576 else f"{count / 1024:.0f}k"
