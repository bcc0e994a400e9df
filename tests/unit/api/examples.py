"""Objects of the four kinds as plain data, and hypothesis strategies for their specs."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

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


NAMES = st.from_regex(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True)
MONEY = st.decimals(min_value="0.000000001", max_value="999999999999", places=9).map(lambda usd: format(usd, "f"))
DURATIONS = st.from_regex(r"([0-9]{1,3}(\.[0-9]{1,2})?(ms|s|m|h|d)){1,3}", fullmatch=True)
TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)


def _some(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[Object]:
    return st.fixed_dictionaries(required, optional=optional)


def _unique(item: st.SearchStrategy[Object], *keys: str, least: int = 0) -> st.SearchStrategy[list[Object]]:
    return st.lists(item, min_size=least, max_size=4, unique_by=lambda entry: tuple(entry[key] for key in keys))


_variant = _some({"pool": NAMES, "precision": st.sampled_from(["NVFP4", "FP8", "BF16"])}, {})
_checkpoint = st.fixed_dictionaries(
    {
        "uri": st.sampled_from(
            [
                "hf://a/b",
                "hf://a/b@main",
                "pvc://claim/x/y",
                "pvc://claim",
                "s3://weights/r1",
                "gs://my.bucket",
                "oci://r/m:1",
            ]
        )
    }
)

MOE_SPECS = _some(
    {
        "model": _some(
            {"name": NAMES},
            {
                "servedName": TEXT,
                "sources": _some({}, {"NVFP4": _checkpoint, "FP8": _checkpoint, "BF16": _checkpoint}),
                "tokenSecretRef": _some({"name": NAMES}, {"key": NAMES}),
            },
        ),
        "minReplicas": st.integers(0, 10),
        "maxReplicas": st.integers(10, 1000),
    },
    {
        "replicas": st.integers(0, 1000),
        "engine": _some(
            {},
            {
                "name": st.sampled_from(["vLLM", "SGLang"]),
                "version": st.sampled_from(["0.33.0", "0.34.0rc1"]),
                "image": TEXT,
                "extraArgs": st.lists(TEXT.filter(lambda arg: not arg.startswith("--")), max_size=4),
                "env": _unique(_some({"name": st.from_regex(r"[A-Z_]{1,9}", fullmatch=True)}, {"value": TEXT}), "name"),
                "overrides": _some({}, {"maxModelLen": st.integers(1, 10**6), "maxNumSeqs": st.integers(1, 4096)}),
            },
        ),
        "placement": _some({}, {"variants": _unique(_variant, "pool", "precision")}),
        "slo": _some({}, {"queueSeconds": st.integers(0, 600)}),
        "spill": _some({}, {"providers": _unique(_some({"name": NAMES, "model": TEXT}, {}), "name", "model")}),
    },
)

POOL_SPECS = _some(
    {
        "nodeSelector": st.dictionaries(NAMES, NAMES, min_size=1, max_size=3),
        "gpu": _some(
            {"product": TEXT},
            {
                "memoryGB": st.integers(1, 4096),
                "computeCapability": st.sampled_from(["9.0", "10.3"]),
                "perNode": st.integers(1, 72),
                "resourceName": st.sampled_from(["nvidia.com/gpu", "nvidia.com/mig-7g.80gb"]),
            },
        ),
        "price": _some({"perGPUHour": MONEY}, {"minimumBilling": DURATIONS}),
    },
    {
        "tolerations": st.lists(
            st.one_of(
                _some({"operator": st.just("Exists")}, {"key": NAMES, "effect": st.just("NoExecute")}),
                _some({"key": NAMES}, {"value": NAMES}),
            ),
            max_size=3,
        ),
        "capacity": _some({}, {"maxGPUs": st.integers(0, 10**5), "provisioningTimeout": DURATIONS}),
        "allowedNamespaces": st.lists(NAMES, max_size=4, unique=True),
    },
)

PROVIDER_SPECS = _some(
    {
        "baseURL": st.sampled_from(["https://api.z.ai/api/paas/v4", "https://127.0.0.9:8443"]),
        "credentials": _some(
            {"key": NAMES}, {"header": st.just("x-api-key"), "prefix": st.sampled_from(["", "Bearer "])}
        ),
        "models": _unique(
            _some(
                {"name": TEXT, "price": _some({"input": MONEY, "output": MONEY}, {"cachedInput": MONEY})},
                {
                    "contextLength": st.integers(8192, 10**6),
                    "maxOutputTokens": st.integers(1, 8192),
                    "dropFields": st.lists(TEXT, max_size=4, unique=True),
                },
            ),
            "name",
            least=1,
        ),
    },
    {
        "suspend": st.booleans(),
        "limits": _some({}, {"concurrent": st.integers(1, 1000)}),
        "allowedNamespaces": st.lists(NAMES, max_size=4, unique=True),
        "tls": _some({}, {"caSecretRef": _some({"key": NAMES}, {}), "serverName": TEXT, "insecure": st.booleans()}),
    },
)

POLICY_SPECS = _some(
    {
        "selector": st.one_of(
            _some({"namespaces": st.lists(NAMES, min_size=1, max_size=4, unique=True)}, {}),
            st.builds(
                lambda labels: {"namespaceSelector": {"matchLabels": labels}},
                st.dictionaries(NAMES, NAMES, min_size=1, max_size=3),
            ),
        ),
        "budgets": _unique(
            _some(
                {"name": NAMES, "period": st.sampled_from(["Day", "Month"]), "amount": MONEY},
                {
                    "scope": st.sampled_from(["External", "GPU", "Total"]),
                    "warnAt": st.lists(st.integers(1, 100), max_size=4, unique=True),
                    "atLimit": st.sampled_from(["StopSpill", "StopSpillAndScaleToFloor"]),
                },
            ),
            "name",
            least=1,
        ),
    },
    {
        "suspend": st.booleans(),
        "timeZone": st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]),
        "valuePerRequest": MONEY,
        "whenOperatorLost": st.sampled_from(["LeaseOnly", "StopAtOnce"]),
    },
)

SPECS = {
    "MoEDeployment": MOE_SPECS,
    "GPUPool": POOL_SPECS,
    "ExternalProvider": PROVIDER_SPECS,
    "CostPolicy": POLICY_SPECS,
}
