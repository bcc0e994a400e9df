"""From informer caches, Prometheus and the ledger to a `decide.Snapshot`: what is, without an opinion.

`objects` holds the caches, `resolve` reads specs, `cluster` pods and workloads, `pools` nodes, `traffic` Prometheus,
`money` the ledger; `snapshot` puts them together.
"""

from spillway.observe.objects import Objects
from spillway.observe.resolve import Problem, Resolved, resolve
from spillway.observe.snapshot import take

__all__ = ["Objects", "Problem", "Resolved", "resolve", "take"]
