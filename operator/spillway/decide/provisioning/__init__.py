"""How many replicas: rules that weigh what a replica costs against what its work costs elsewhere.

A rule is one module with a state that can be stored, `advance(state, evidence) -> state` and `rescale`; the state's
`on` is how many layers (replicas of the reference variant) it wants. `RULES` names them, `advance` is the one door.
To try another: write its module, add it to `State` and `RULES`, and give `make bench-decide` its name.
"""

from spillway.decide.provisioning.evidence import Evidence, layer_loads
from spillway.decide.provisioning.rules import DEFAULT_RULE, RULES, State, advance, rescale

__all__ = ["DEFAULT_RULE", "RULES", "Evidence", "State", "advance", "layer_loads", "rescale"]
