"""The LeaderWorkerSet of one variant and revision whose replicas are groups of pods, one on each node."""

from __future__ import annotations

from spillway.api import MoEDeployment
from spillway.build.labels import Object, metadata, workload_name
from spillway.catalog import ResolvedVariant

LEADER_WORKER_SET = "leaderworkerset.x-k8s.io/v1"
MAX_NAME_LENGTH = 48
"""A worker's StatefulSet is named <set>-<group>, and its pods carry a label <that>-<hash of 10> of at most 63."""


def leader_worker_set(
    moe: MoEDeployment, variant: ResolvedVariant, leader: Object, worker: Object, revision: str, replicas: int
) -> Object:
    """The LeaderWorkerSet that runs ``replicas`` groups of a leader and workers, one pod for each of the replica's
    nodes. The templates have the revision's label.

    A replica without one of its pods cannot go on: the whole group starts anew. Workers come up with their leader,
    because it is ready only when they all are. A new revision is another LeaderWorkerSet, so that its own rolling
    update never runs.
    """
    labels = leader["metadata"]["labels"]
    return {
        "apiVersion": LEADER_WORKER_SET,
        "kind": "LeaderWorkerSet",
        "metadata": metadata(
            moe, workload_name(moe.metadata.name, variant.name, revision, longest=MAX_NAME_LENGTH), labels
        ),
        "spec": {
            "replicas": replicas,
            "startupPolicy": "LeaderCreated",
            "networkConfig": {"subdomainPolicy": "Shared"},
            "leaderWorkerTemplate": {
                "size": variant.parallelism.nodes,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": leader,
                "workerTemplate": worker,
            },
        },
    }
