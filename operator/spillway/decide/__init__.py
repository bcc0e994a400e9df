"""From what is known to what shall be: `plan(snapshot, memory) -> (plan, memory)`, pure and replayable.

No decision is made anywhere else. `snapshot` holds the inputs, `outcome` the results, `memory` what one tick leaves to
the next; `starts`, `capacity`, `target` (with `demand` and `provisioning`), `placement`, `pools`, `rollout`, `drain`,
`spill` and `words` are the steps that `planner` composes. `account` tells a person what a plan comes to.
"""

from spillway.decide.account import Account, account, accounts
from spillway.decide.codec import UnreadableMemory, decode, decode_memory, encode
from spillway.decide.memory import Memory
from spillway.decide.outcome import DeploymentPlan, Plan
from spillway.decide.planner import plan
from spillway.decide.reasons import Code
from spillway.decide.snapshot import Snapshot

__all__ = [
    "Account",
    "Code",
    "DeploymentPlan",
    "Memory",
    "Plan",
    "Snapshot",
    "UnreadableMemory",
    "account",
    "accounts",
    "decode",
    "decode_memory",
    "encode",
    "plan",
]
