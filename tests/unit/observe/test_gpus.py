"""What the ledger is told of GPUs: who holds them, at what price, and which are paid anyway."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from spillway.ledger import PodUsage, PoolPrice, Reserved
from spillway.observe import gpus
from spillway.observe.objects import Object, Objects
from tests.unit.api.examples import example
from tests.unit.observe.cluster_objects import SCHEDULED, node, objects, pod

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def seen(*items: Object) -> Objects:
    found = objects(*items)
    found.gpupools["blackwell-b200"] = example("GPUPool", "blackwell-b200", price__perGPUHour="4.20")
    found.gpupools["kept"] = example(
        "GPUPool",
        "kept",
        price__perGPUHour="3.60",
        price__billing="Reserved",
        price__reservedGPUs=8,
        price__minimumBilling="2m",
        nodeSelector={"pool": "kept"},
    )
    found.gpupools["wrong"] = example("GPUPool", "wrong", price__perGPUHour="cheap")
    found.moedeployments["chat/glm-5"] = example("MoEDeployment", "glm-5")
    return found


def test_a_pod_holds_its_gpus_from_its_scheduling_until_it_has_finished() -> None:
    found = seen(
        node("n1"), pod("a", gpus=4), pod("b", gpus=2, phase="Failed"), pod("waits", node=None), pod("c", labels={})
    )
    since = datetime.fromisoformat(SCHEDULED.replace("Z", "+00:00"))
    held = {usage.uid: usage for usage in gpus.held(found, NOW)}
    assert [(u.gpus, u.scheduled, u.ended) for u in held.values()] == [(4, since, None), (2, since, NOW)]
    assert all(isinstance(usage, PodUsage) and usage.pool == "blackwell-b200" for usage in held.values())


def test_prices_and_reserved_gpus_are_those_of_valid_pools() -> None:
    strangers = pod("theirs", node="k1", gpus=3, labels={}, namespace="kube-system")
    found = seen(node("k1", gpus=8, labels={"pool": "kept"}), strangers)
    assert gpus.prices(found) == {
        "blackwell-b200": PoolPrice(Decimal("4.20"), 60),
        "kept": PoolPrice(Decimal("3.60"), 120),
    }
    assert gpus.reserved(found) == {"kept": Reserved(5, Decimal("3.60"))}
