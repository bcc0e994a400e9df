"""Objects of the four kinds as plain data."""

from __future__ import annotations

import copy
from typing import Any

Object = dict[str, Any]

SMALLEST: dict[str, Object] = {
    "MoEDeployment": {"model": {"name": "glm-5"}},
    "GPUPool": {
        "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-B200"},
        "gpu": {"product": "B200"},
        "price": {"perGPUHour": "4.20"},
    },
    "ExternalProvider": {
        "baseURL": "https://api.z.ai/api/paas/v4",
        "credentials": {"key": "zai"},
        "models": [{"name": "glm-5", "price": {"input": "1", "output": "3.2"}}],
    },
    "CostPolicy": {
        "selector": {"namespaces": ["chat"]},
        "budgets": [{"name": "day", "period": "Day", "amount": "400"}],
    },
}
"""The smallest accepted spec of each kind."""


ONE_BUDGET = {"name": "day", "period": "Day", "amount": "1"}
ONE_MODEL = {"name": "m", "price": {"input": "1", "output": "1"}}


def example(kind: str, name: str = "example", **changes: Any) -> Object:
    """The smallest object of a kind; ``changes`` replaces fields by path: ``engine__name="SGLang"``."""
    spec = copy.deepcopy(SMALLEST[kind])
    for path, value in changes.items():
        *parents, field = path.split("__")
        target = spec
        for parent in parents:
            target = target.setdefault(parent, {})
        target[field] = value
    metadata: Object = {"name": name}
    if kind == "MoEDeployment":
        metadata["namespace"] = "default"
    return {"apiVersion": "spillway.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}
