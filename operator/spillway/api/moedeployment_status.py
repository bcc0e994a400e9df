"""What Spillway reports of a MoEDeployment: replicas by variant, spill, cost, the last decisions, conditions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from spillway.api.conditions import Conditions
from spillway.api.markers import Keywords, ListType
from spillway.api.resource import KubeModel
from spillway.api.scalars import Count, Money, Seconds, Share, SignedMoney, Timestamp

MAX_DECISIONS = 10
"""How many of the last decisions the status keeps."""


class VariantCapacity(KubeModel):
    """What one replica of a variant can do."""

    prefill_tokens_per_second: Count
    """Prompt tokens, per second."""
    decode_tokens_per_second: Count
    """Completion tokens, per second."""
    source: Literal["Catalog", "Learned"]
    """Catalog: published or estimated. Learned: measured here."""


class VariantStatus(KubeModel):
    """Replicas of one variant; also of one that the spec no longer has, while they serve on."""

    name: Annotated[str, Field(max_length=63)]
    """POOL-PRECISION-ENGINE."""
    desired: Count
    """Replicas that Spillway wants."""
    ready: Count
    """Replicas that answer."""
    starting: Count
    """Replicas that have their GPUs and load the model."""
    pending: Count
    """Replicas that wait for GPUs."""
    gpus_per_replica: Count
    """GPUs that one replica holds."""
    cost_per_hour: Money
    """What the replicas cost now, in US dollars per hour."""
    cold_start_seconds: Annotated[Seconds | None, Field(alias="coldStart")] = None
    """Time from asking for a replica to its first answer, as measured, or expected where nothing was measured yet;
    absent for a variant that the spec no longer has."""
    capacity: VariantCapacity | None = None
    """What one replica can do."""


class LoadStatus(KubeModel):
    """Load of the engines of one variant, from their own metrics."""

    variant: Annotated[str, Field(max_length=63)]
    """POOL-PRECISION-ENGINE."""
    running: Count
    """Requests in the engines' batches."""
    waiting: Count
    """Requests that wait in the engines for a place in a batch."""
    kv_use: Annotated[Share, Field(alias="kvCacheUse")]
    """Share of the KV cache in use, 0 to 1, the mean of the replicas."""
    saturated: Count
    """Replicas at their limit: requests wait in them, or more than 0.8 of their KV cache is in use."""
    input_tokens_per_second: Count
    """Prompt tokens that the engines read."""
    output_tokens_per_second: Count
    """Tokens that the engines wrote."""
    preemptions_per_minute: Count
    """Requests that were pushed out of the KV cache and have to be computed again."""
    rejections_per_minute: Count
    """Requests that a full engine answered with 503; the gateway spills them."""
    time_to_first_token_seconds: Annotated[Seconds | None, Field(alias="timeToFirstToken")] = None
    """Time from a request's arrival at the engine to its first token, 95th percentile. Absent: no requests."""
    inter_token_latency_seconds: Annotated[Seconds | None, Field(alias="interTokenLatency")] = None
    """Time between two tokens of a stream, 95th percentile. Absent: no requests."""


class SpillStatus(KubeModel):
    """What goes to external providers."""

    active: bool
    """Whether requests may spill now."""
    reason: Annotated[str, Field(max_length=128)]
    """Why, as a code."""
    share: Share = 0.0
    """Share of the requests that spilled lately, 0 to 1."""
    cost_per_hour: Money
    """What spilled requests cost now, in US dollars per hour."""
    lease_until: Timestamp | None = None
    """Until when requests go on spilling without a word from the operator; told anew when half of that is over. Absent
    while none spill, and where they would stop within 15 s."""


class CostStatus(KubeModel):
    """What the deployment costs now."""

    gpu_per_hour: Money
    """GPUs, in US dollars per hour."""
    external_per_hour: Money
    """External providers, in US dollars per hour."""
    per_million_tokens: Money | None = None
    """Both, for a million tokens served, in US dollars. Absent without requests."""
    all_external_per_hour: Money | None = None
    """What the same requests would cost if all went to the cheapest provider, in US dollars per hour.
    Absent without requests or a provider."""
    break_even_utilisation: Share | None = None
    """Utilisation of the replicas above which they cost less than that provider, 0 to 1. Absent where they never
    do."""


class DecisionStatus(KubeModel):
    """A decision that changed something."""

    model_config = ConfigDict(populate_by_name=True)

    time: Timestamp
    """When it was taken."""
    replicas_before: Annotated[Count, Field(alias="from")]
    """Replicas before."""
    replicas_after: Annotated[Count, Field(alias="to")]
    """Replicas after."""
    variant: Annotated[str, Field(max_length=63)] = ""
    """Variant that it concerns."""
    reason: Annotated[str, Field(max_length=128)]
    """Why, as a code."""
    message: Annotated[str, Field(max_length=1024)]
    """Why, in words and dollars."""
    dollars_per_hour: SignedMoney
    """Change of the cost, in US dollars per hour."""


class MoEDeploymentStatus(KubeModel):
    """What Spillway saw and did."""

    observed_generation: Annotated[int, Keywords(format="int64")] | None = None
    """The metadata.generation that this status speaks of."""
    replicas: Count | None = None
    """Replicas that exist."""
    desired_replicas: Count | None = None
    """Replicas that Spillway wants."""
    ready_replicas: Count | None = None
    """Replicas that answer."""
    selector: Annotated[str, Field(max_length=512)] | None = None
    """Label selector of the pods, for the scale subresource."""
    endpoint: Annotated[str, Field(max_length=512)] | None = None
    """OpenAI-compatible address inside the cluster."""
    summary: Annotated[str, Field(max_length=64)] | None = None
    """Ready of wanted replicas, for example 2/3."""
    revision: Annotated[str, Field(max_length=64)] | None = None
    """Revision of the pods that Spillway brings up now."""
    variants: Annotated[tuple[VariantStatus, ...], Field(max_length=64), ListType("map", "name")] = ()
    """Replicas by variant."""
    load: Annotated[tuple[LoadStatus, ...], Field(max_length=64), ListType("map", "variant")] = ()
    """Load of the engines by variant; absent while it is not known."""
    spill: SpillStatus | None = None
    """What goes to external providers."""
    cost: CostStatus | None = None
    """What the deployment costs now."""
    decisions: Annotated[tuple[DecisionStatus, ...], Field(max_length=MAX_DECISIONS), ListType("atomic")] = ()
    """The last decisions, newest first."""
    conditions: Conditions = ()
    """Ready, Progressing, Degraded, MetricsAvailable, SpillAvailable, RoutesAvailable, ScalingLimited, WithinBudget,
    Pinned, Paused, ForeignAutoscaler, NotActedOn."""
