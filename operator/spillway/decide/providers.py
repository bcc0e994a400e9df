"""Which provider first: by what a request really costs there, those that fail last.

The price per token is not the price per task: a model that answers at twice the length costs twice as much. Verbosity
is output tokens there relative to ours for the same task: as the provider's object says, then as overflow shows, which
is a fair sample of the same tasks.
"""

from __future__ import annotations

from dataclasses import replace

from spillway.decide.memory import DeploymentMemory, ProviderMemory
from spillway.decide.snapshot import Demand, Deployment, ProviderOption

PRIOR_ANSWERS = 200.0  # that the stated verbosity weighs as much as
HALF_LIFE_SECONDS = 3 * 86_400.0
BOUNDS = (0.25, 4.0)  # of what is learned, times what is stated
MARGIN = 0.05  # relative: a cheaper one goes first only if it is cheaper by more, so that orders do not flicker
LAST_SECONDS = 300.0  # for which one that fails is tried last: then it is given another try


def learn(now: float, deployment: Deployment, memory: DeploymentMemory, seconds: float) -> DeploymentMemory:
    """With what the last `seconds` showed of each provider."""
    ours = deployment.demand.local_output_tokens if deployment.demand is not None else None
    known = {}
    for option in deployment.providers:
        one = memory.providers.get(option.name, ProviderMemory())
        if ours and option.answers_per_second > 0 and option.output_tokens_per_answer > 0:
            fade, answers = 0.5 ** (seconds / HALF_LIFE_SECONDS), option.answers_per_second * seconds
            low, high = BOUNDS
            ratio = min(max(option.output_tokens_per_answer / ours / option.verbosity, low), high) * option.verbosity
            one = replace(
                one,
                answers=one.answers * fade + answers,
                verbosity_answers=one.verbosity_answers * fade + answers * ratio,
            )
        if option.failing:
            one = replace(one, last_until=now + LAST_SECONDS)
        if one != ProviderMemory():
            known[option.name] = one
    return replace(memory, providers=known) if known != memory.providers else memory


def ranked(now: float, deployment: Deployment, memory: DeploymentMemory) -> Deployment:
    """The deployment with its providers at their learned verbosity, in the order in which they are tried."""
    if not deployment.providers:
        return deployment
    options = [_learned(option, memory.providers.get(option.name)) for option in deployment.providers]
    if deployment.cheapest_first:
        options = _cheapest_first(options, memory.provider_order, deployment.demand)
    failing = {name for name, one in memory.providers.items() if now < one.last_until}
    options.sort(key=lambda option: option.name in failing)  # stable
    found = tuple(options)
    return deployment if found == deployment.providers else replace(deployment, providers=found)


def _learned(option: ProviderOption, known: ProviderMemory | None) -> ProviderOption:
    if known is None or known.answers <= 0:
        return option
    mean = (PRIOR_ANSWERS * option.verbosity + known.verbosity_answers) / (PRIOR_ANSWERS + known.answers)
    return replace(option, verbosity=round(mean, 2))


def _cheapest_first(
    options: list[ProviderOption], last: tuple[str, ...], demand: Demand | None
) -> list[ProviderOption]:
    """From the user's order, neighbours change places while the later one is clearly cheaper; one that stands before
    another because it was stays there while it is cheaper at all."""
    place = {name: number for number, name in enumerate(last)}
    found = list(options)
    tokens = (demand.input_tokens_per_request, demand.output_tokens_per_request) if demand else (1000.0, 200.0)
    usd = {option.name: option.usd_per_request(*tokens) for option in found}
    for end in range(len(found) - 1, 0, -1):
        for i in range(end):
            one, other = found[i], found[i + 1]
            went_first = place.get(other.name, len(place)) < place.get(one.name, len(place))
            if usd[other.name] < usd[one.name] * (1.0 if went_first else 1 - MARGIN):
                found[i], found[i + 1] = other, one
    return found
