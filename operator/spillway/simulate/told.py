"""A run bin by bin, so that anybody can recompute its cost (decisions.md §8)."""

from __future__ import annotations

from typing import Any

from spillway.simulate.economics import BIN_SECONDS
from spillway.simulate.requests import latency
from spillway.simulate.study import Case, Run


def document(case: Case, result: Run, lower_bound_usd: float | None) -> dict[str, Any]:
    """Costs are of the bins from `score_from` on, the rent of what is `asked`, for each stop the rest of its minimum
    and its drain, and `spilled` times `spill_price`. Of single requests their latencies are told, too, and each bin's
    dollars: a drain lasts as long as its last request, and which requests went outside nobody can tell from sums."""
    ledger, scored = result.ledger, result.score
    told = {
        "policy": result.policy,
        "bin_seconds": BIN_SECONDS,
        "score_from": case.load.score_from,
        "work": case.load.work.tolist(),
        "spill_price": case.load.spill_usd.tolist(),
        "asked": ledger.asked,
        "ready": ledger.ready,
        "served": ledger.served,
        "spilled": ledger.spilled,
        "refused": ledger.refused,
        "cost": scored.usd,
        "gpu": scored.gpu_usd,
        "external": scored.external_usd,
        "lower_bound": lower_bound_usd,
        "ratio": scored.usd / lower_bound_usd if lower_bound_usd else None,
        "slo": scored.slo,
        "starts_per_day": scored.starts_per_day,
        "spill_share": scored.spill_share,
    }
    if case.requests is None or result.records is None:
        return told
    tokens = case.requests
    seconds = tokens.input_tokens / case.economics.prefill_tokens_per_second
    seconds = seconds + tokens.output_tokens / case.economics.decode_tokens_per_second
    begin = case.load.score_from * BIN_SECONDS
    return told | {
        "work": (seconds / BIN_SECONDS).tolist(),  # as it arrives
        "spill_price": [
            usd / spilled if spilled > 0 else price
            for usd, spilled, price in zip(ledger.external_usd, ledger.spilled, told["spill_price"], strict=True)
        ],
        "late": ledger.late,
        "gpu_usd": ledger.gpu_usd,
        "stop_usd": ledger.stop_usd,
        "external_usd": ledger.external_usd,
        "requests": latency.document(result.records, begin, len(tokens) * BIN_SECONDS),
    }
