"""Stable reason codes of decisions: they become status, events, metrics and the words of `explain`."""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    DEMAND_ROSE = "DemandRose"
    DEMAND_FELL = "DemandFell"
    FLOOR_RAISED = "FloorRaised"
    FLOOR_LIMITED = "FloorLimited"
    HINT = "Hint"
    REQUEST_WAITS = "RequestWaits"
    MAX_REPLICAS = "MaxReplicas"
    PINNED = "Pinned"
    NO_GPU = "NoGPU"
    POOL_OUT_OF_CAPACITY = "PoolOutOfCapacity"
    CHEAPER_VARIANT = "CheaperVariant"
    RESERVED_FIRST = "ReservedFirst"
    OUTBID = "Outbid"
    BUDGET_SPENT = "BudgetSpent"
    BUDGET_PACING = "BudgetPacing"
    ABOVE_VALUE = "AboveValue"
    MAX_SHARE = "MaxShare"
    COLD_START_COVER = "ColdStartCover"
    SATURATED = "Saturated"
    NO_BUDGET = "NoBudget"
    NO_PROVIDER = "NoProvider"
    SUSPENDED = "Suspended"
    METRICS_STALE = "MetricsStale"
    PAUSED = "Paused"
    DRY_RUN = "DryRun"
    NO_VARIANT = "NoVariant"
    ROLLOUT_SURGE = "RolloutSurge"
    ROLLOUT_SPILL = "RolloutSpill"
    ROLLOUT_RECREATE = "RolloutRecreate"
    ROLLOUT_WAITING = "RolloutWaiting"
    ROLLOUT_FAILED = "RolloutFailed"
