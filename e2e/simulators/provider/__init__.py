"""An external API that costs money, without the money: TLS, keys, OpenAI-compatible answers, and a bill of its own.

The bill is the truth that Spillway's ledger is checked against, so it is kept apart from everything that Spillway
sees: it counts what was generated, also for clients that hung up. Faults are switched over a plain-HTTP control port.
"""

from __future__ import annotations

from e2e.simulators.provider.bill import Bill
from e2e.simulators.provider.config import ModelPrice, ProviderConfig

__all__ = ["Bill", "ModelPrice", "ProviderConfig"]
