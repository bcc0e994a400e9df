"""MoEDeployment: a Mixture-of-Experts model that an app team wants served (namespaced, ``moe``)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from spillway.api.engine import Engine
from spillway.api.markers import Keywords, ListType, cel, model_rules
from spillway.api.model import Model
from spillway.api.moedeployment_status import MoEDeploymentStatus
from spillway.api.placement import Placement
from spillway.api.resource import Column, Definition, KubeModel, Resource
from spillway.api.rules import NAME_RULE
from spillway.api.traffic import Balancing, Hint, Routes, Slo, Spill

PAUSED_ANNOTATION = "spillway.dev/paused"
"""``"true"`` freezes replicas and spill settings as they are; a budget still stops spill."""
DRY_RUN_ANNOTATION = "spillway.dev/dry-run"
"""``"true"``: decide and report, change nothing."""
RESTART_ANNOTATION = "spillway.dev/restart"
"""Any value that was not there before replaces all replicas, as a new revision does."""

RolloutStrategy = Literal["SpillAssisted", "Surge", "Recreate"]


class Rollout(KubeModel):
    """How replicas of a new revision take over."""

    strategy: RolloutStrategy = "SpillAssisted"
    """SpillAssisted: Surge where the pool has room, else one replica less at a time while its requests spill. Surge:
    new replicas first, then the old ones go; waits for room. Recreate: the old ones go first. Default:
    SpillAssisted."""


class MoEDeploymentSpec(KubeModel):
    """What to serve, with what, how large."""

    model_config = ConfigDict(
        json_schema_extra=model_rules(
            cel(
                "self.minReplicas <= self.maxReplicas",
                "minReplicas must not be more than maxReplicas",
                field=".minReplicas",
            ),
            cel(
                "!has(self.hints) || self.hints.all(hint, hint.minReplicas <= self.maxReplicas)",
                "minReplicas of a hint must not be more than maxReplicas",
                field=".hints",
            ),
        )
    )

    model: Model
    """Which model to serve."""
    engine: Engine = Engine()
    """Which inference engine runs the model, and how."""
    replicas: Annotated[int, Field(ge=0, le=1000), Keywords(format="int32")] = 0
    """0: Spillway decides. More: pins the number of replicas (kubectl scale); budgets still stop spill. Default: 0."""
    min_replicas: Annotated[int, Field(ge=0, le=1000), Keywords(format="int32")] = 1
    """Fewest replicas; 0 lets the model scale to zero. Default: 1."""
    max_replicas: Annotated[int, Field(ge=0, le=1000), Keywords(format="int32")] = 8
    """Most replicas; 0 stops serving on own GPUs. Default: 8."""
    placement: Placement = Placement()
    """Where the model may run."""
    slo: Slo = Slo()
    """What users are promised."""
    spill: Spill = Spill()
    """Where requests go that the replicas cannot take."""
    routes: Routes = ()
    """Requests that always go to a provider, whatever the replicas can take. Default: none."""
    hints: Annotated[tuple[Hint, ...], Field(max_length=16), ListType("atomic")] = ()
    """Known events that no history shows: times at which at least so many replicas are wanted. Default: none."""
    balancing: Balancing = "PrefixAffinity"
    """PrefixAffinity: requests with the same beginning go to the same replica, whose cache then holds it, as long as
    that one is not overloaded. LeastRequest: to the replica with the fewest requests. Default: PrefixAffinity."""
    rollout: Rollout = Rollout()
    """How replicas of a new revision take over."""

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Every (provider, model) that requests may be sent to, by spill or by a route; each once."""
        named = [(target.name, target.model) for target in self.spill.providers]
        named += [(route.to.provider, route.to.model) for route in self.routes]
        return tuple(dict.fromkeys(named))

    @model_validator(mode="after")
    def _floors_below_ceiling(self) -> MoEDeploymentSpec:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"minReplicas is {self.min_replicas} and maxReplicas is {self.max_replicas}: "
                "lower minReplicas or raise maxReplicas"
            )
        for hint in self.hints:
            if hint.min_replicas > self.max_replicas:
                raise ValueError(
                    f"hints has minReplicas {hint.min_replicas} and maxReplicas is {self.max_replicas}: "
                    "lower the hint or raise maxReplicas"
                )
        return self


class MoEDeployment(Resource):
    """A Mixture-of-Experts model, served on GPU pools at the lowest cost, spilling to external APIs within a budget."""

    definition: ClassVar[Definition] = Definition(
        kind="MoEDeployment",
        plural="moedeployments",
        short_names=("moe",),
        namespaced=True,
        scalable=True,
        rules=(NAME_RULE,),
        columns=(
            Column("Model", ".spec.model.name", "Model of the catalog."),
            Column("Ready", ".status.summary", "Ready of wanted replicas."),
            Column("Spill($/h)", ".status.spill.costPerHour", "What spilled requests cost now."),
            Column("Cost($/h)", ".status.cost.gpuPerHour", "What the GPUs cost now."),
            Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', "Why it is ready or not."),
            Column("Age", ".metadata.creationTimestamp", "Time since creation.", type="date"),
            Column("$/M tokens", ".status.cost.perMillionTokens", "GPUs and spill, per million tokens.", wide=True),
            Column("Endpoint", ".status.endpoint", "OpenAI-compatible address.", wide=True),
            Column("Variants", ".status.variants[*].name", "Pools, precisions and engines.", wide=True),
            Column("Message", '.status.conditions[?(@.type=="Ready")].message', "Ready, in words.", wide=True),
        ),
    )
    status_model: ClassVar[type[KubeModel]] = MoEDeploymentStatus

    spec: MoEDeploymentSpec
    """What to serve, with what, how large."""
    status: MoEDeploymentStatus = MoEDeploymentStatus()
    """What Spillway saw and did."""

    @property
    def served_name(self) -> str:
        """What clients send as "model"."""
        return self.spec.model.served_name or self.spec.model.name

    @property
    def paused(self) -> bool:
        """Whether the pause annotation is set."""
        return self.metadata.annotations.get(PAUSED_ANNOTATION) == "true"

    @property
    def dry_run(self) -> bool:
        """Whether the dry-run annotation is set."""
        return self.metadata.annotations.get(DRY_RUN_ANNOTATION) == "true"

    @property
    def restart(self) -> str:
        """Value of the restart annotation; empty without one."""
        return self.metadata.annotations.get(RESTART_ANNOTATION, "")
