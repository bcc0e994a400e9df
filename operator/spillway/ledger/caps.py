"""Caps: how many requests may be in flight to a provider so that a budget is never passed by more than its bound.

What is known at a reading r is what had ended by then. What may still be billed on top of it is what is in flight
and what is admitted until a decision made on that reading has taken hold everywhere. For one pair (deployment,
provider, model) let

  c    the greatest cost of one request (`greatest_cost`),
  rho  the most that one slot can burn per second: a slot is a request in flight that is replaced as soon as it
       ends. A billed answer lasts at least `shortest_seconds` d and no stream is faster than v tokens/s, so
       rho = input part of c / d + min(output part of c / d, choices x v x output price),
  n    in flight at r;  K' the greatest cap that can be in force at r;  K the cap decided on r,
  q    requests that may begin at the provider in a minute, over all its pairs (`limits.requestsPerMinute`),
  a    from the reading to the cap being in force at every gateway (`apply_seconds`),
  l    the lease by which gateways hold the cap decided on r, and
  W    how long requests can be admitted without a decision on a newer reading: the read interval, a, and l, because
       the leader may die at any moment,
  H, h slots that gateways may hold by an older and longer lease, and that lease: they count until every gateway has
       acknowledged something else or it has run out, however long a gateway cannot be reached.

In W seconds a slot starts at most W/d + 1 requests. Those that end burn at most rho x W; the last one may cost c
after it. So what slots let in after r, if everything is stopped by the decision on the reading that follows, is at most

  S(K', K, l) = max(K', K) (rho a + c)  +  K rho (W - a)

(the first term runs under the old cap and ends with one last request per slot, the second runs under the new cap; the
maximum makes the value hold at a standing cap too, so that caps do not flap). Gateways never hold more than the larger
of H and K together (a share of a cap grows only by what others have given up), so with an older lease it is

  E = max(S(K', K, l),  H (rho W_h + c) + S(K' - H, K - H, l)),    differences not below 0, W_h as W with h.

Where the provider has a limit q, in W seconds at most q (W/60 + 1) requests begin there, whatever the slots: the
gateways' buckets let q/60 through each second and have at most one minute's worth saved up. So what a provider's pairs
let in is at most the lesser of the sum of E and q (W/60 + 1) c_max. With what is in flight,

  U = sum of max(n, K) c over pairs  +  sum over providers of min(sum of E, q (W/60 + 1) c_max).

A budget of amount B with remaining R allows an overspend of A = share x B (1 % by default). `caps` keeps, with the
shortest lease of 15 s for what it gives,

  (1)  U over all pairs that spend from it  <=  R + A,    and no cap at all once R <= 0,
  (2)  sum of K c  <=  A  (a single slot is exempt: (1) alone already carries the promise),

and `lease_seconds` is the longest l of 15 s, 1 min, 5 min and 1 h with

  (3)  U with l  +  U with 15 s and H = 0  <=  R + A,    or else 15 s.

Claim: the bill never passes B + A. Stop is always decided on some reading s (K = 0). By (1) and (3) at the reading r
before it, what was billed after r is at most R(r) + A, and R(r) = B - ledger(r): also where the decision after r
reached some gateways and others not, for these hold H by h, which is in E. If no reading ever follows, the lease stops
admission within W. The second U of (3) is not needed for the claim: it is what may be spent until a shorter lease,
decided when the longer one is no longer affordable, has been acknowledged, so that until then the caps can stay. Rule
(2) is not needed either; it limits the damage where d or v are wrong, where a provider bills more than it reported, or
where a breaker overshoots. It also means that a budget which is small against one request is left unspent at its end
rather than overspent: with c > A the last 2c + rho W - A dollars stay.

The claim rests on:
- `needs` names every pair that has anything in flight or a cap in force, wanted or not;
- a lease is renewed only on a decision whose reading is younger than the read interval + a;
- a lease longer than 15 s is stored before it is given, so that the next leader counts it;
- the ledger is never below the bill for what has ended (estimates err upwards);
- the shares of the gateway pods sum to at most K (round down; zero is allowed), and those of q to at most q. Envoy's
  breaker may overshoot by its worker threads - 1: run gateways with one worker, or leave that much out of K;
- d and v are as configured, and c is enforced at egress (max_tokens, n, body size).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final, Literal

from .book import ZERO, Pair
from .budgets import BudgetStatus, Policy
from .exposure import LEASES_SECONDS, Exposure, Need, Slot, Timing
from .price import Price, Rates

DEFAULT_SHARE: Final = Decimal("0.01")
FIRST_SLOT_LEAD: Final = Decimal("0.9")
"""How far a pair's first slot comes before its proportional turn: an idle fallback gets its one slot early."""

Stop = Literal["NoBudget", "Suspended", "BudgetSpent", "GatewayUnread", "RequestTooDear", "NotWanted"]


@dataclass(frozen=True, slots=True)
class Limit:
    """A budget that external spend of these namespaces comes out of. `unread_usd`: what gateways that exist but do not
    answer may have spent since (`external.unread_usd`), beyond what `remaining` knows. `words`: what it is, where it is
    no budget."""

    policy: str
    budget: str
    namespaces: frozenset[str]
    amount: Decimal
    remaining: Decimal
    share: Decimal = DEFAULT_SHARE
    suspended: bool = False
    unread_usd: Decimal = ZERO
    words: str = ""

    @property
    def what(self) -> str:
        """For a sentence."""
        return self.words or f"budget {self.budget} of CostPolicy {self.policy} (${self.amount})"

    @property
    def available_usd(self) -> Decimal:
        """R: what is left for certain."""
        return self.remaining - self.unread_usd

    @property
    def bound_usd(self) -> Decimal:
        """A: by how much spend may pass this budget at most."""
        return self.amount * self.share


@dataclass(frozen=True, slots=True)
class Grant:
    """What the caps mean for one budget, in USD. `reserved_usd`: what is in flight may cost. `outstanding_usd`: U, what
    may be billed until a stop has taken hold. `spare_usd`: what (1) leaves. `lease_seconds`: the longest lease that
    this budget can bear."""

    policy: str
    budget: str
    bound_usd: Decimal
    reserved_usd: Decimal
    outstanding_usd: Decimal
    spare_usd: Decimal
    max_burn_usd_per_hour: Decimal
    lease_seconds: int = LEASES_SECONDS[0]


def max_input_tokens(context_length: int, body_bytes: int, tokens_per_byte: Decimal = Decimal(1)) -> int:
    """The most prompt tokens of a body: a token of a byte-level vocabulary covers at least one byte of text. Some
    tokenizers do make one token of each digit, so less than 1 is a judgement, not a bound. Images are outside this."""
    return min(context_length, math.ceil(body_bytes * tokens_per_byte))


def greatest_cost(price: Price, max_input_tokens: int, max_output_tokens: int, choices: int = 1) -> Decimal:
    """USD that one request can cost at most: nothing cached, every choice as long as it may be, at the dearest rates
    that a prompt of that length can come to."""
    rates = price.dearest(max_input_tokens)
    return _input_cost(rates, max_input_tokens) + _output_cost(rates, max_output_tokens * choices)


def slot(price: Price, max_input_tokens: int, max_output_tokens: int, choices: int, timing: Timing) -> Slot:
    """c and rho of the module's text."""
    rates = price.dearest(max_input_tokens)
    input_usd, output_usd = _input_cost(rates, max_input_tokens), _output_cost(rates, max_output_tokens * choices)
    stream_usd_per_second = choices * timing.output_tokens_per_second * rates.output.scaleb(-6)
    burn = input_usd / timing.shortest_seconds + min(output_usd / timing.shortest_seconds, stream_usd_per_second)
    return Slot(input_usd + output_usd, burn)


def limits(policy: Policy, statuses: Iterable[BudgetStatus], share: Decimal = DEFAULT_SHARE) -> tuple[Limit, ...]:
    """The limits that a policy puts on spill: its External and Total budgets. A GPU budget limits no spill, and permits
    none either; a suspended policy is a limit of nothing, and one on trial allows what its full amounts would."""
    if policy.suspended:
        return (Limit(policy.name, "", policy.namespaces, ZERO, ZERO, share, suspended=True),)
    return tuple(
        Limit(
            policy.name,
            status.name,
            policy.namespaces,
            status.amount,
            status.amount if policy.dry_run else status.remaining,
            share,
        )
        for status in statuses
        if status.scope != "GPU"
    )


def caps(needs: Sequence[Need], limits: Iterable[Limit], timing: Timing) -> dict[Pair, int]:
    """The cap of every pair: the least that any of its budgets allows; 0 where no budget selects its namespace.

    Independent of the order of `needs` and `limits`, and never lower for a larger remaining. Within a budget, slots
    are handed out by need in dollars (slot s of a pair comes at (s - 0.9) x its cost / its weight, as in divisor
    methods of apportionment) until the first one that (1) or (2) refuses.
    """
    result: dict[Pair, int] = {}
    for limit in limits:
        for pair, cap in _fill(
            [need for need in needs if need.pair.namespace in limit.namespaces], limit, timing
        ).items():
            result[pair] = min(cap, result.get(pair, cap))
    return {need.pair: result.get(need.pair, 0) for need in needs}


def grant(needs: Iterable[Need], given: Mapping[Pair, int], limit: Limit, timing: Timing) -> Grant:
    """What the caps `given` mean for a budget: its `reserved_usd` is `reserved` of the policy's status."""
    own = [need for need in needs if need.pair.namespace in limit.namespaces]
    slots = [(need, given.get(need.pair, 0)) for need in own]
    outstanding = Exposure(own, given, timing).usd
    return Grant(
        policy=limit.policy,
        budget=limit.budget,
        bound_usd=limit.bound_usd,
        reserved_usd=sum((max(need.in_flight, cap) * need.slot.greatest_usd for need, cap in slots), ZERO),
        outstanding_usd=outstanding,
        spare_usd=max(ZERO, limit.available_usd + limit.bound_usd - outstanding),
        max_burn_usd_per_hour=sum((cap * need.slot.burn_usd_per_second * 3600 for need, cap in slots), ZERO),
        lease_seconds=lease_seconds(own, given, limit, timing),
    )


def why_none(need: Need, limits: Iterable[Limit], timing: Timing) -> tuple[Stop, str]:
    """Why a pair has no slot, as a code and a sentence. Ask only about pairs whose cap is 0."""
    own = [limit for limit in limits if need.pair.namespace in limit.namespaces]
    where = f"{need.pair.provider}/{need.pair.model}"
    if not own:
        return "NoBudget", f"no CostPolicy with an External or Total budget selects namespace {need.pair.namespace}"
    for limit in own:
        if limit.suspended:
            return "Suspended", f"CostPolicy {limit.policy} is suspended"
    for limit in own:
        if limit.remaining <= 0:
            return "BudgetSpent", f"{limit.what} is spent"
        if limit.available_usd <= 0:
            return "GatewayUnread", (
                f"what is left of {limit.what}, ${limit.remaining:.4f}, may be spent: a gateway does not answer, and "
                f"can have spent ${limit.unread_usd:.4f} since it last did"
            )
    if need.wanted <= 0 or need.most <= 0:
        return "NotWanted", f"{where} is not asked for"
    tightest = min(own, key=lambda limit: (limit.available_usd + limit.bound_usd, limit.policy, limit.budget))
    least = Exposure([need], {need.pair: max(1, need.in_flight, need.previous_cap)}, timing).usd
    return "RequestTooDear", (
        f"{tightest.what} has ${tightest.remaining:.4f} left, and what one request at a time to {where} may cost until "
        f"it can be stopped is ${least:.4f} (${need.slot.greatest_usd:.4f} a request): lower max_tokens or the body "
        "limit, or raise the amount"
    )


def vanished_limits(
    needs: Iterable[Need], pod_caps: Mapping[Pair, int]
) -> tuple[dict[Pair, Decimal], dict[Pair, Decimal]]:
    """For `charge_vanished`: USD in flight and USD per hour that one gateway pod's share of the caps allowed."""
    in_flight: dict[Pair, Decimal] = {}
    burn: dict[Pair, Decimal] = {}
    for need in needs:
        cap = pod_caps.get(need.pair, 0)
        in_flight[need.pair] = cap * need.slot.greatest_usd
        burn[need.pair] = cap * need.slot.burn_usd_per_second * 3600
    return in_flight, burn


def lease_seconds(needs: Sequence[Need], given: Mapping[Pair, int], limit: Limit, timing: Timing) -> int:
    """How long gateways may go on spilling without word, as far as this budget of these pairs goes: (3)."""
    until_shorter = Exposure((replace(need, leased_cap=0) for need in needs), given, timing).usd
    room = limit.available_usd + limit.bound_usd - until_shorter
    bearable = (seconds for seconds in LEASES_SECONDS if Exposure(needs, given, timing, seconds).usd <= room)
    return max(bearable, default=LEASES_SECONDS[0])


def _fill(needs: Sequence[Need], limit: Limit, timing: Timing) -> dict[Pair, int]:
    """How many slots this budget allows each of its pairs."""
    given = {need.pair: 0 for need in needs}
    if limit.suspended or limit.available_usd <= 0:
        return given
    asking = [need for need in needs if need.wanted > 0 and need.most > 0]
    money, in_flight = limit.available_usd + limit.bound_usd, limit.bound_usd
    # Much money, few requests: everybody gets all of it, without counting slot by slot.
    all_of_it = given | {need.pair: need.most for need in asking}
    if sum((need.most * need.slot.greatest_usd for need in asking), ZERO) <= in_flight and (
        Exposure(needs, all_of_it, timing).usd <= money
    ):
        return all_of_it
    exposure = Exposure(needs, given, timing)
    turns = [(_turn(need, 1, timing), need.pair, need) for need in asking]
    heapq.heapify(turns)
    first = True
    while turns:
        _, pair, need = heapq.heappop(turns)
        number = given[pair] + 1
        exposure.grow(need, number)
        in_flight -= need.slot.greatest_usd
        if exposure.usd > money or (in_flight < 0 and not first):
            break
        given[pair], first = number, False
        if number < need.most:
            heapq.heappush(turns, (_turn(need, number + 1, timing), pair, need))
    return given


def _turn(need: Need, number: int, timing: Timing) -> Decimal:
    """When a pair's slot comes; by what a standing slot holds, so it depends on neither the money nor the last caps."""
    held = 2 * need.slot.greatest_usd + need.slot.burn_usd_per_second * (
        timing.read_seconds + timing.apply_seconds + timing.lease_seconds
    )
    return (number - FIRST_SLOT_LEAD) * held / need.wanted


def _input_cost(rates: Rates, tokens: int) -> Decimal:
    return (tokens * max(rates.input, rates.cached_input, rates.cache_write)).scaleb(-6)


def _output_cost(rates: Rates, tokens: int) -> Decimal:
    return (tokens * rates.output).scaleb(-6)
