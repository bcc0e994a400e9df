"""From informer caches, Prometheus and the ledger to a `decide.Snapshot`: what is, without an opinion.

`objects` holds the caches, `resolve` reads specs, `cluster` pods and workloads, `pools` nodes, `money` the ledger;
`traffic` asks `prometheus` for `demand` at the gateways and `load` of the engines; `snapshot` puts them together.
"""

from spillway.observe.objects import Objects
from spillway.observe.resolve import Problem, Resolved, resolve
from spillway.observe.snapshot import take

__all__ = ["Objects", "Problem", "Resolved", "resolve", "take"]
