"""The worked example of docs/how-it-decides.md: its numbers are those of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from spillway.decide.demand import prices, work_per_request
from spillway.decide.provisioning import Evidence, State, advance
from spillway.decide.snapshot import Demand, ProviderOption
from spillway.simulate.presets import USD_PER_B200_HOUR, glm_5_on_b200
from spillway.simulate.single import variant
from tests.unit.decide.world import deployment

PAGE = " ".join((Path(__file__).parents[2] / "docs" / "how-it-decides.md").read_text().split())
GLM_5 = glm_5_on_b200()
REPLICA = variant(GLM_5)
API = ProviderOption("zai", "glm-5", GLM_5.usd_per_million_input, GLM_5.usd_per_million_output, 50)
DRAIN_SECONDS = 5.0


def at(requests_per_second: float) -> tuple[float, float, float]:
    """Replicas of work; $/h of a replica's work outside; $ of a start."""
    demand = Demand(requests_per_second, 1600, 250)
    one = deployment(variants=(REPLICA,), providers=(API,), usd_value_per_request=1.0)
    rates = prices(one, demand, REPLICA, GLM_5.delay_seconds, DRAIN_SECONDS)
    return requests_per_second * work_per_request(REPLICA, demand), rates.off_usd_per_second * 3600, rates.start_usd


def seconds_until_the_fourth(work: float, outside: float) -> float:
    """By playing the plain rule second by second."""
    state: State | None = None
    for second in range(1000):
        evidence = Evidence(
            time=1e9 + second,
            seconds=1.0,
            work=work,
            unserved=0.0,
            ready=3.0,
            on=3,
            layers=8,
            off_usd=outside / 3600,
            rent_usd=GLM_5.usd_per_replica_hour / 3600,
            delay_seconds=GLM_5.delay_seconds,
            drain_seconds=DRAIN_SECONDS,
            minimum_seconds=60.0,
            queue_seconds=10.0,
            youngest_seconds=1e6,
        )
        state = advance("lcp", state, evidence)
        if state.on == 4:
            return second + 1.0
    return float("inf")


def facts() -> list[str]:
    rent = GLM_5.usd_per_replica_hour
    work, outside, start = at(20)
    more, _, _ = at(24)
    request = (1600 * GLM_5.usd_per_million_input + 250 * GLM_5.usd_per_million_output) / 1e6
    return [
        f"four B200 at ${USD_PER_B200_HOUR} an hour each",
        f"${GLM_5.usd_per_million_input:.2f} and ${GLM_5.usd_per_million_output:.2f} per million tokens",
        f"{GLM_5.prefill_tokens_per_second:,.0f} tokens a second or decodes {GLM_5.decode_tokens_per_second:,.0f}",
        f"= {work / 20:.3f} replica-seconds",
        f"**{work:.2f} replicas of work**",
        f"rent is ${rent:.2f}/h. A request costs ${request:.4f} outside",
        f"**${outside:.2f}** there: κ = {outside / rent:.1f} times the rent",
        f"a load of {work - 3:.2f}, which costs ${(work - 3) * outside:.2f}/h outside",
        f"${3 * rent + (work - 3) * outside:.2f}/h in all, against ${4 * rent:.2f}/h with four replicas",
        f"${20 * 3600 * request:.2f}/h with none",
        f"load is {more - 3:.2f}, worth ${(more - 3) * outside:.2f}/h",
        f"a cold start of {GLM_5.delay_seconds:.0f} s and a drain, ${start:.2f}",
        f"**{seconds_until_the_fourth(more, outside):.0f} s**",
    ]


@pytest.mark.parametrize("fact", facts())
def test_the_page_says_what_the_code_does(fact: str) -> None:
    assert fact in PAGE
