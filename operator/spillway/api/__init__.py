"""The four kinds of ``spillway.dev/v1alpha1`` as pydantic models: what users write and what Spillway answers.

``parse`` reads an object of the API server into a frozen model, or into InvalidSpec with messages for the user;
``dump`` writes one back. Conditions change through ``set_condition`` alone. ``python -m spillway.api DIRECTORY``
writes the CustomResourceDefinitions that these models describe.
"""

from spillway.api.conditions import Condition, ConditionType, Reason, find_condition, set_condition, without_condition
from spillway.api.costpolicy import (
    Budget,
    BudgetStatus,
    BudgetSummary,
    CostPolicy,
    CostPolicySpec,
    CostPolicyStatus,
    DeploymentSpend,
    HourStatus,
)
from spillway.api.effect import not_acted_on, not_acted_on_words
from spillway.api.engine import EngineName
from spillway.api.externalprovider import (
    ExternalProvider,
    ExternalProviderSpec,
    ExternalProviderStatus,
    PriceTier,
    ProviderModel,
    TokenPrice,
)
from spillway.api.gpupool import (
    Billing,
    GPUPool,
    GPUPoolSpec,
    GPUPoolStatus,
    Interconnect,
    MultiNode,
    NodeCache,
    Toleration,
)
from spillway.api.model import Cache, Precision, Profile
from spillway.api.moedeployment import (
    DRY_RUN_ANNOTATION,
    PAUSED_ANNOTATION,
    RESTART_ANNOTATION,
    MoEDeployment,
    MoEDeploymentSpec,
    RolloutStrategy,
)
from spillway.api.moedeployment_status import (
    MAX_DECISIONS,
    CostStatus,
    DecisionStatus,
    LoadStatus,
    MoEDeploymentStatus,
    SpillStatus,
    VariantCapacity,
    VariantStatus,
)
from spillway.api.placement import Strategy, WantedParallelism, WantedVariant
from spillway.api.resource import (
    API_VERSION,
    GROUP,
    VERSION,
    Definition,
    InvalidSpec,
    Metadata,
    Resource,
    dump,
    parse,
    stored_status,
)
from spillway.api.traffic import Hint

KINDS: tuple[type[Resource], ...] = (MoEDeployment, GPUPool, ExternalProvider, CostPolicy)

__all__ = [
    "API_VERSION",
    "DRY_RUN_ANNOTATION",
    "GROUP",
    "KINDS",
    "MAX_DECISIONS",
    "PAUSED_ANNOTATION",
    "RESTART_ANNOTATION",
    "VERSION",
    "Billing",
    "Budget",
    "BudgetStatus",
    "BudgetSummary",
    "Cache",
    "Condition",
    "ConditionType",
    "CostPolicy",
    "CostPolicySpec",
    "CostPolicyStatus",
    "CostStatus",
    "DecisionStatus",
    "Definition",
    "DeploymentSpend",
    "EngineName",
    "ExternalProvider",
    "ExternalProviderSpec",
    "ExternalProviderStatus",
    "GPUPool",
    "GPUPoolSpec",
    "GPUPoolStatus",
    "Hint",
    "HourStatus",
    "Interconnect",
    "InvalidSpec",
    "LoadStatus",
    "Metadata",
    "MoEDeployment",
    "MoEDeploymentSpec",
    "MoEDeploymentStatus",
    "MultiNode",
    "NodeCache",
    "Precision",
    "PriceTier",
    "Profile",
    "ProviderModel",
    "Reason",
    "Resource",
    "RolloutStrategy",
    "SpillStatus",
    "Strategy",
    "TokenPrice",
    "Toleration",
    "VariantCapacity",
    "VariantStatus",
    "WantedParallelism",
    "WantedVariant",
    "dump",
    "find_condition",
    "not_acted_on",
    "not_acted_on_words",
    "parse",
    "set_condition",
    "stored_status",
    "without_condition",
]
