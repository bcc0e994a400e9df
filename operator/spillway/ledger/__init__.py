"""The ledger: token counters and pod lifetimes become dollars, dollars are held against budgets.

`book` is the state (a value), `external`, `gpu` and `reserved` charge it, `learned` and `estimate` say what requests
came to whose usage nobody told, `settle` corrects it, `budgets` reads it for a policy, `caps` says how many requests
may be in flight so that no budget is passed by more than its bound, `exposure` what they may still cost, `codec` makes
it JSON: all pure.
The shell is `reader`, which reads every gateway's counters each two seconds, and `store`, which keeps the book in
the one ledger object. Both are imported by their own names, so that the pure half needs no Kubernetes client.
"""

from __future__ import annotations

from .adjustment import Adjustment, BadAdjustment, Settled
from .book import IDLE, Amount, Book, Charged, Key, Pair, Process, ProviderModel, fold, total
from .budgets import Budget, BudgetStatus, Policy, TopUp, period_end, period_start, statement
from .caps import (
    Grant,
    Limit,
    caps,
    grant,
    greatest_cost,
    limits,
    max_input_tokens,
    slot,
    vanished_limits,
    why_none,
)
from .codec import CorruptLedger, decode, encode
from .exposure import LEASES_SECONDS, Exposure, Need, Slot, Timing
from .external import EgressSample, allow, charge_reading, charge_vanished, lend, retire, unread_usd, vanished
from .gpu import PodUsage, PoolPrice, charge_pods
from .hourly import MAX_PER_HOUR, HourStatus, hour_limit, last_hour
from .price import Price, Rates, Tier, cost_usd
from .reserved import Reserved, charge_idle
from .settle import Settlement, settle
from .sums import Sums
from .zones import UnknownTimeZone

__all__ = [
    "IDLE",
    "LEASES_SECONDS",
    "MAX_PER_HOUR",
    "Adjustment",
    "Amount",
    "BadAdjustment",
    "Book",
    "Budget",
    "BudgetStatus",
    "Charged",
    "CorruptLedger",
    "EgressSample",
    "Exposure",
    "Grant",
    "HourStatus",
    "Key",
    "Limit",
    "Need",
    "Pair",
    "PodUsage",
    "Policy",
    "PoolPrice",
    "Price",
    "Process",
    "ProviderModel",
    "Rates",
    "Reserved",
    "Settled",
    "Settlement",
    "Slot",
    "Sums",
    "Tier",
    "Timing",
    "TopUp",
    "UnknownTimeZone",
    "allow",
    "caps",
    "charge_idle",
    "charge_pods",
    "charge_reading",
    "charge_vanished",
    "cost_usd",
    "decode",
    "encode",
    "fold",
    "grant",
    "greatest_cost",
    "hour_limit",
    "last_hour",
    "lend",
    "limits",
    "max_input_tokens",
    "period_end",
    "period_start",
    "retire",
    "settle",
    "slot",
    "statement",
    "total",
    "unread_usd",
    "vanished",
    "vanished_limits",
    "why_none",
]
