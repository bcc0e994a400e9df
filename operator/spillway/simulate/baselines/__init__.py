"""Other scalers' rules, as their sources have them, for one deployment with replicas of one kind.

Each sees what a gateway in front of it would tell, and answers with a number of replicas. None has a price, a provider
or a budget: the simulator sends outside what a rule's replicas cannot take, which is generous to all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from spillway.simulate.baselines.apa import Apa
from spillway.simulate.baselines.dynamo import Dynamo
from spillway.simulate.baselines.fixed import Fixed, all_external, covering
from spillway.simulate.baselines.hpa import Hpa
from spillway.simulate.baselines.keda import Keda
from spillway.simulate.baselines.kpa import Kpa
from spillway.simulate.baselines.kubeai import KubeAi
from spillway.simulate.baselines.rule import Rule, Seen
from spillway.simulate.baselines.skyserve import SkyServe
from spillway.simulate.baselines.wva import WvaV1, WvaV2

# A fresh rule each: rules remember. `covering` and the best fixed fleet need the trace, so they are not here.
BASELINES: Mapping[str, Callable[[], Rule]] = MappingProxyType(
    {
        "hpa": Hpa,
        "keda": Keda,
        "kpa": Kpa,
        "apa": Apa,
        "apa-documented": partial(Apa, as_documented=True),
        "dynamo": Dynamo,
        "wva": WvaV1,
        "wva-v2": WvaV2,
        "kubeai": KubeAi,
        "skyserve": SkyServe,
        "all-external": all_external,
    }
)

TUNED_HPA_TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9)  # the best of these in hindsight is the row hpa-tuned

__all__ = ["BASELINES", "TUNED_HPA_TARGETS", "Fixed", "Hpa", "Rule", "Seen", "all_external", "covering"]
