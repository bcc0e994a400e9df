"""CostPolicy: how much the MoEDeployments of some namespaces may spend (cluster-scoped, ``cpol``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from spillway.api.conditions import Conditions
from spillway.api.markers import Keywords, ListType, cel, model_rules
from spillway.api.resource import Column, Definition, KubeModel, Resource
from spillway.api.rules import NAME_RULE, NamespaceName, Namespaces, TimeZone
from spillway.api.scalars import Money, PositiveMoney, Share, SignedMoney, Timestamp

Period = Literal["Day", "Month"]
Scope = Literal["External", "GPU", "Total"]
AtLimit = Literal["StopSpill", "StopSpillAndScaleToFloor"]
Pacing = Literal["Even", "None"]
Enforcement = Literal["Enforce", "DryRun"]
Percent = Annotated[int, Field(ge=1, le=100), Keywords(format="int32")]


class NamespaceLabels(KubeModel):
    """Labels that a namespace must carry."""

    match_labels: Annotated[
        dict[str, Annotated[str, Field(max_length=63)]], Field(min_length=1, max_length=16), Keywords(maxProperties=16)
    ]
    """Labels that a namespace must all carry."""


class PolicySelector(KubeModel):
    """Which namespaces the policy covers: those named and those whose labels match."""

    model_config = ConfigDict(
        json_schema_extra=model_rules(
            cel(
                "(has(self.namespaces) && size(self.namespaces) > 0) || has(self.namespaceSelector)",
                "name namespaces or give a namespaceSelector",
            )
        )
    )

    namespaces: Namespaces = ()
    """Namespaces by name. Default: none."""
    namespace_selector: NamespaceLabels | None = None
    """Namespaces by labels. Default: none."""

    @model_validator(mode="after")
    def _selects_something(self) -> PolicySelector:
        if not self.namespaces and self.namespace_selector is None:
            raise ValueError("selects no namespace: name namespaces or give a namespaceSelector")
        return self


class TopUp(KubeModel):
    """More money for a budget, kept as history."""

    amount: PositiveMoney
    """What is added to the budget's amount, in US dollars."""
    reason: Annotated[str, Field(min_length=1, max_length=256)]
    """Why, for those who read it later."""
    until: Timestamp
    """When it ends, such as 2026-12-01T00:00:00Z; it counts in each period that begins before."""


class Budget(KubeModel):
    """An amount for a period."""

    name: Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    """Name of the budget, for example month."""
    period: Period
    """Day or Month, in the policy's time zone."""
    amount: PositiveMoney
    """What may be spent in the period, in US dollars."""
    scope: Scope = "External"
    """External: API dollars. GPU: GPU dollars, cold starts and idle included. Total: both. Default: External."""
    warn_at: Annotated[tuple[Percent, ...], Field(max_length=10), ListType("set")] = (50, 80, 95)
    """Percentages of the amount at which an event warns. Default: 50, 80, 95."""
    at_limit: AtLimit = "StopSpill"
    """At the limit: StopSpill, or StopSpillAndScaleToFloor (minReplicas). Default: StopSpill."""
    top_ups: Annotated[tuple[TopUp, ...], Field(max_length=32), ListType("atomic")] = ()
    """More money for a time. Default: none."""


class PolicySpill(KubeModel):
    """Limits of spill below the budgets."""

    max_share: Share | None = None
    """Largest share of the tokens of the trailing hour that a deployment may spill while a replica is ready, 0 to 1.
    Default: no limit."""
    max_per_hour: PositiveMoney | None = None
    """Most that the namespaces together may spend outside in any 60 minutes, in US dollars, routes included. Default:
    no limit."""


class CostPolicySpec(KubeModel):
    """Whose money, how much, what happens at the limit."""

    selector: PolicySelector
    """Which namespaces the policy covers."""
    suspend: bool = False
    """True: no external spend for these namespaces, within seconds. Default: false."""
    max_floor_gpus: Annotated[int, Field(ge=0, le=100_000), Keywords(format="int32")] | None = None
    """Most GPUs that minReplicas of these namespaces may hold together. Default: no limit."""
    time_zone: TimeZone = "UTC"
    """IANA time zone that days and months are counted in, for example Europe/Berlin. Default: UTC."""
    budgets: Annotated[tuple[Budget, ...], Field(min_length=1, max_length=16), ListType("map", "name")]
    """Budgets; each must allow a request before it spills."""
    pacing: Pacing | None = None
    """Even: spend is held back where it runs ahead of an even pace over the period. None: spent as it comes. Default:
    None."""
    spill: PolicySpill = PolicySpill()
    """Limits of spill below the budgets."""
    value_per_request: PositiveMoney | None = None
    """What serving one request is worth, in US dollars: never pay more. Default: 10 times the provider's list price."""
    when_operator_lost: Literal["LeaseOnly", "StopAtOnce"] = "LeaseOnly"
    """Without the operator: LeaseOnly goes on spilling as long as the budget surely lasts, at most an hour;
    StopAtOnce stops within 15 s. Default: LeaseOnly."""
    enforcement: Enforcement = "Enforce"
    """Enforce: budgets stop what they do not cover. DryRun: what they would stop is only reported. Default: Enforce."""

    def selects(self, namespace: str, labels: Mapping[str, str]) -> bool:
        """Whether the policy covers a namespace with these labels: named, or all labels match."""
        if namespace in self.selector.namespaces:
            return True
        wanted = self.selector.namespace_selector
        return wanted is not None and all(labels.get(key) == value for key, value in wanted.match_labels.items())


class DeploymentSpend(KubeModel):
    """What one deployment spent in the period."""

    namespace: NamespaceName
    """Namespace of the MoEDeployment."""
    name: Annotated[str, Field(max_length=253)]
    """Name of the MoEDeployment."""
    spent: Money
    """Spent in the period, in US dollars."""


class BudgetStatus(KubeModel):
    """Where a budget stands."""

    name: Annotated[str, Field(max_length=63)]
    """Name of the budget."""
    period: Period
    """Day or Month."""
    period_start: Timestamp
    """When the current period began."""
    amount: Money
    """The budget, in US dollars."""
    spent: Money
    """Spent in the period within the budget's scope, in US dollars."""
    gpu: Money
    """GPU dollars of the period."""
    external: Money
    """API dollars of the period."""
    reserved: Money
    """What requests in flight may still cost at most, in US dollars."""
    remaining: SignedMoney
    """Left to spend, in US dollars."""
    burn_per_hour: Money
    """Spent per hour lately, in US dollars."""
    exhausted_at: Timestamp | None = None
    """When the budget ran out."""
    bound: Money
    """By how much the budget can be exceeded at most, in US dollars (External scope)."""
    by_deployment: Annotated[
        tuple[DeploymentSpend, ...], Field(max_length=1024), ListType("map", "namespace", "name")
    ] = ()
    """What each deployment spent in the period."""


class HourStatus(KubeModel):
    """The last 60 minutes, where spill.maxPerHour limits them."""

    amount: Money
    """What may be spent outside in any 60 minutes, in US dollars."""
    spent: Money
    """Spent outside in the last 60 minutes, in US dollars."""
    remaining: Money
    """Left to spend now, in US dollars."""
    bound: Money
    """By how much the amount can be exceeded at most, in US dollars."""
    opens_at: Timestamp | None = None
    """When spill may go on. Absent while something is left."""


class BudgetSummary(KubeModel):
    """All budgets in a line each for `kubectl get`, which shows only the first entry of a list."""

    budgets: Annotated[str, Field(max_length=1200)]
    """Names, in the order of spec."""
    spent: Annotated[str, Field(max_length=512)]
    """Spent in the period, in US dollars."""
    amount: Annotated[str, Field(max_length=512)]
    """Amounts, in US dollars."""
    remaining: Annotated[str, Field(max_length=512)]
    """Left to spend, in US dollars."""
    burn_per_hour: Annotated[str, Field(max_length=512)]
    """Spent per hour lately, in US dollars."""


class CostPolicyStatus(KubeModel):
    """Where the budgets stand."""

    observed_generation: Annotated[int, Keywords(format="int64")] | None = None
    """The metadata.generation that this status speaks of."""
    budgets: Annotated[tuple[BudgetStatus, ...], Field(max_length=16), ListType("map", "name")] = ()
    """Where each budget stands."""
    last_hour: HourStatus | None = None
    """Where the last 60 minutes stand; absent without spill.maxPerHour."""
    summary: BudgetSummary | None = None
    """The same for people, as `kubectl get` shows it."""
    conditions: Conditions = ()
    """Ready, WithinBudget, Forecast, NotActedOn."""


class CostPolicy(Resource):
    """Budgets of namespaces for GPUs and external APIs, and what happens at the limit."""

    definition: ClassVar[Definition] = Definition(
        kind="CostPolicy",
        plural="costpolicies",
        short_names=("cpol",),
        namespaced=False,
        rules=(NAME_RULE,),
        columns=(
            Column("Budgets", ".status.summary.budgets", "Names of the budgets."),
            Column("Spent($)", ".status.summary.spent", "Spent in the period, by budget."),
            Column("Amount($)", ".status.summary.amount", "Amount for the period, by budget."),
            Column("Left($)", ".status.summary.remaining", "Left to spend, by budget."),
            Column("Burn($/h)", ".status.summary.burnPerHour", "Spent per hour lately, by budget."),
            Column("WithinBudget", '.status.conditions[?(@.type=="WithinBudget")].status', "Whether all budgets hold."),
            Column("Forecast", '.status.conditions[?(@.type=="Forecast")].reason', "Whether they last the period."),
            Column("Suspended", ".spec.suspend", "Whether external spend is stopped by hand."),
            Column("Age", ".metadata.creationTimestamp", "Time since creation.", type="date"),
            Column("Message", '.status.conditions[?(@.type=="WithinBudget")].message', "In words.", wide=True),
        ),
    )
    status_model: ClassVar[type[KubeModel]] = CostPolicyStatus

    spec: CostPolicySpec
    """Whose money, how much, what happens at the limit."""
    status: CostPolicyStatus = CostPolicyStatus()
    """Where the budgets stand."""
