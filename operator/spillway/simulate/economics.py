"""What one replica does and costs, and what the outside costs: the constants of a simulated deployment."""

from __future__ import annotations

from dataclasses import dataclass

BIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Economics:
    """Of one kind of replica and one provider (reference/policy.md §2). A replica is billed from being asked for."""

    usd_per_replica_hour: float = 24.0
    prefill_tokens_per_second: float = 20_000.0  # one replica, within its latency target
    decode_tokens_per_second: float = 10_000.0
    usd_per_million_input: float = 3.0  # the provider's
    usd_per_million_output: float = 15.0
    delay_seconds: float = 600.0  # cold start
    minimum_billing_seconds: float = 600.0  # of a replica's life
    drain_seconds: float = 60.0  # billed after a replica that was ready is stopped
    queue_seconds: float = 10.0  # of work that may wait for the ready replicas; more goes outside at once

    @property
    def usd_per_replica_bin(self) -> float:
        return self.usd_per_replica_hour * BIN_SECONDS / 3600

    @property
    def delay_bins(self) -> int:
        return round(self.delay_seconds / BIN_SECONDS)

    @property
    def minimum_billing_bins(self) -> int:
        return round(self.minimum_billing_seconds / BIN_SECONDS)

    @property
    def drain_bins(self) -> int:
        return round(self.drain_seconds / BIN_SECONDS)

    @property
    def start_usd(self) -> float:
        """beta: what a start costs beside the work that the replica does, its cold start and its drain."""
        return self.usd_per_replica_bin * (self.delay_bins + self.drain_bins)
