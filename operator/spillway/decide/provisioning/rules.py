"""The rules by name, and the door to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from spillway.decide.provisioning import hedge, lcp, plcp
from spillway.decide.provisioning.evidence import Evidence

State = Annotated[lcp.LcpState | plcp.PlcpState | hedge.HexState, Field(discriminator="rule")]


@dataclass(frozen=True, slots=True)
class Rule:
    """`advance(state, evidence)` gives the state after a tick, `rescale(state, ratio, start_usd_ratio)` the state in
    units of another variant, of which `ratio` do the work of one, and whose start costs that many times as much."""

    advance: Callable[[Any, Evidence], State]
    rescale: Callable[[Any, float, float], State]


RULES: Mapping[str, Rule] = {
    "lcp": Rule(lcp.advance, lcp.rescale),
    "plcp": Rule(plcp.advance, plcp.rescale),
    "hex": Rule(hedge.advance, hedge.rescale),
}
DEFAULT_RULE = "hex"


def advance(rule: str, state: State | None, evidence: Evidence) -> State:
    """The state after this tick; `.on` is how many layers there shall be. A state of another rule is not used."""
    return RULES[rule].advance(state if state is not None and state.rule == rule else None, evidence)


def rescale(state: State, ratio: float, start_usd_ratio: float) -> State:
    return RULES[state.rule].rescale(state, ratio, start_usd_ratio)
