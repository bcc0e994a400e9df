"""Conditions after metav1.Condition (KEP-1623): their types, reasons, and the one function that changes them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from spillway.api.markers import Keywords, ListType
from spillway.api.resource import KubeModel
from spillway.api.scalars import Timestamp

ConditionStatus = Literal["True", "False", "Unknown"]


class Condition(KubeModel):
    """One condition of an object."""

    type: Annotated[str, Field(max_length=316)]
    """Type of the condition, such as Ready."""
    status: ConditionStatus
    """True, False or Unknown."""
    observed_generation: Annotated[int, Field(ge=0), Keywords(format="int64")] | None = None
    """The metadata.generation that the condition was set for."""
    last_transition_time: Timestamp
    """When the status last changed."""
    reason: Annotated[str, Field(min_length=1, max_length=1024)]
    """Stable CamelCase code of why."""
    message: Annotated[str, Field(max_length=32768)]
    """Why, in words, and what to do about it."""


Conditions = Annotated[tuple[Condition, ...], Field(max_length=32), ListType("map", "type")]


class ConditionType:
    """Condition types that Spillway writes."""

    READY = "Ready"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"
    METRICS_AVAILABLE = "MetricsAvailable"
    SPILL_AVAILABLE = "SpillAvailable"
    ROUTES_AVAILABLE = "RoutesAvailable"
    SCALING_LIMITED = "ScalingLimited"
    WITHIN_BUDGET = "WithinBudget"
    PINNED = "Pinned"
    PAUSED = "Paused"
    FOREIGN_AUTOSCALER = "ForeignAutoscaler"
    OUT_OF_CAPACITY = "OutOfCapacity"
    HEALTHY = "Healthy"
    CREDENTIALS = "Credentials"
    FORECAST = "Forecast"
    NOT_ACTED_ON = "NotActedOn"
    PREFETCHED = "Prefetched"


class Reason:
    """Condition reasons: stable codes that people and scripts may rely on."""

    AS_EXPECTED = "AsExpected"
    INVALID_SPEC = "InvalidSpec"
    UNKNOWN_MODEL = "UnknownModel"
    INVALID_CATALOG = "InvalidCatalog"
    MEMORY_DROPPED = "MemoryDropped"
    ADJUSTMENT_APPLIED = "AdjustmentApplied"
    ADJUSTMENT_REFUSED = "AdjustmentRefused"
    NO_POOL_FITS = "NoPoolFits"
    NAME_TAKEN = "NameTaken"
    APPLY_REFUSED = "ApplyRefused"
    WEIGHTS_NOT_KEPT = "WeightsNotKept"
    STARTING = "Starting"
    ROLLING_OUT = "RollingOut"
    ROLLOUT_FAILED = "RolloutFailed"
    REPLICAS_FAIL = "ReplicasFail"
    NO_READY_REPLICA = "NoReadyReplica"
    FEWER_REPLICAS_THAN_WANTED = "FewerReplicasThanWanted"
    SCALED_TO_ZERO = "ScaledToZero"
    METRICS_STALE = "MetricsStale"
    NO_PROVIDER = "NoProvider"
    UNKNOWN_PROVIDER = "UnknownProvider"
    PROVIDER_NOT_READY = "ProviderNotReady"
    NAMESPACE_NOT_ALLOWED = "NamespaceNotAllowed"
    MODEL_NOT_OFFERED = "ModelNotOffered"
    NO_BUDGET = "NoBudget"
    BUDGET_SPENT = "BudgetSpent"
    BUDGET_PACING = "BudgetPacing"
    ABOVE_VALUE = "AboveValue"
    MAX_SHARE = "MaxShare"
    SUSPENDED = "Suspended"
    MAX_REPLICAS = "MaxReplicas"
    NO_GPU = "NoGPU"
    FLOOR_LIMITED = "FloorLimited"
    POOL_OUT_OF_CAPACITY = "PoolOutOfCapacity"
    PINNED_BY_REPLICAS = "PinnedByReplicas"
    NOT_PINNED = "NotPinned"
    AUTOSCALER_INACTIVE = "AutoscalerInactive"
    AUTOSCALER_PINS = "AutoscalerPins"
    NO_AUTOSCALER = "NoAutoscaler"
    PAUSED_BY_ANNOTATION = "PausedByAnnotation"
    DRY_RUN = "DryRun"
    MISSING_KEY = "MissingKey"
    KEY_PRESENT = "KeyPresent"
    KEY_REFUSED = "KeyRefused"
    QUOTA_SPENT = "QuotaSpent"
    ON_TRIAL = "OnTrial"
    THROTTLED = "Throttled"
    PROVIDER_ERRORS = "ProviderErrors"
    PROVIDER_ANSWERS = "ProviderAnswers"
    UNKNOWN_GPU = "UnknownGPU"
    NO_NODES = "NoNodes"
    LASTS = "Lasts"
    RUNS_OUT = "RunsOut"
    FETCHING = "Fetching"
    CACHE_TOO_SMALL = "CacheTooSmall"
    NOT_YET = "NotYet"
    ACTED_ON = "ActedOn"


def find_condition(conditions: Iterable[Condition], type: str) -> Condition | None:
    """The condition of that type, or None."""
    return next((condition for condition in conditions if condition.type == type), None)


def set_condition(
    conditions: Iterable[Condition],
    type: str,
    status: ConditionStatus,
    reason: str,
    message: str,
    generation: int,
    now: datetime,
) -> tuple[Condition, ...]:
    """The conditions with one of them set: in its old place, or at the end.

    ``last_transition_time`` becomes ``now`` only when the status flips. Conditions of other types, those that
    somebody else wrote included, stay as they are.
    """
    before = tuple(conditions)
    old = find_condition(before, type)
    new = Condition(
        type=type,
        status=status,
        observed_generation=generation,
        last_transition_time=old.last_transition_time if old and old.status == status else now,
        reason=reason,
        message=message,
    )
    if old is None:
        return (*before, new)
    return tuple(new if condition.type == type else condition for condition in before)


def without_condition(conditions: Iterable[Condition], type: str) -> tuple[Condition, ...]:
    """The conditions without that type."""
    return tuple(condition for condition in conditions if condition.type != type)
