"""Every CEL rule of the CRDs with an object that it accepts and one that it refuses: for the models and for a real API
server, which must agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from spillway.api import KINDS
from tests.unit.api.examples import ONE_BUDGET, ONE_MODEL, Object, example

Changes = dict[str, Any]


@dataclass(frozen=True)
class RuleExample:
    """What the two objects change in the smallest one of their kind, and a part of the API server's refusal."""

    kind: str
    accepted: Changes
    refused: Changes
    message: str

    @property
    def objects(self) -> tuple[Object, Object]:
        """The accepted and the refused object."""
        return example(self.kind, **self.accepted), example(self.kind, **self.refused)


def _moe(accepted: Changes, refused: Changes, message: str) -> RuleExample:
    return RuleExample("MoEDeployment", accepted, refused, message)


def _pool(accepted: Changes, refused: Changes, message: str) -> RuleExample:
    return RuleExample("GPUPool", accepted, refused, message)


def _provider(accepted: Changes, refused: Changes, message: str) -> RuleExample:
    return RuleExample("ExternalProvider", accepted, refused, message)


def _policy(accepted: Changes, refused: Changes, message: str) -> RuleExample:
    return RuleExample("CostPolicy", accepted, refused, message)


PROFILE = {
    "totalParameters": "671B",
    "activeParameters": "37B",
    "checkpoints": {"FP8": {"sizeGB": 688, "denseGB": 20}},
    "kvBytesPerToken": 70272,
    "contextLength": 163840,
}
R1 = {"name": "my-r1", "sources": {"FP8": {"uri": "s3://weights/r1"}}, "profile": PROFILE}


def _profile(**changes: Any) -> Changes:
    return {"model": {**R1, "profile": {**PROFILE, **changes}}}


def _parallel(redundant: int = 0, **parallelism: Any) -> Changes:
    variant = {"pool": "p", "precision": "FP8", "parallelism": parallelism, "redundantExperts": redundant}
    return {"placement__variants": [variant]}


def _routes(*matches: Changes) -> Changes:
    to = {"provider": "openai", "model": "gpt-5.4"}
    return {"routes": [{"name": f"route-{n}", "match": match, "to": to} for n, match in enumerate(matches)]}


def _hint(**changes: Any) -> Changes:
    return {"hints": [{"schedule": "0 8 * * 1-5", "duration": "2h", "minReplicas": 4, **changes}]}


PRICE = {"input": "1", "output": "1"}
HEADER = {"header": {"name": "x-task-tier", "value": "premium"}}

RULES: tuple[RuleExample, ...] = (
    *(
        RuleExample(kind.definition.kind, {"name": "x" * 40}, {"name": "x" * 41}, "metadata.name must be at most 40")
        for kind in KINDS
    ),
    _moe({"name": "glm-5-2"}, {"name": "glm-5.2"}, "metadata.name must be at most 40"),
    _moe({"name": "a1"}, {"name": "1a"}, "metadata.name must be at most 40"),
    _moe({"minReplicas": 8}, {"minReplicas": 9}, "minReplicas must not be more than maxReplicas"),
    _moe({"minReplicas": 0, "maxReplicas": 0}, {"maxReplicas": 0}, "minReplicas must not be more than maxReplicas"),
    _moe(
        {"engine__extraArgs": ["--portable", "--max-num-seqs=8"]},
        {"engine__extraArgs": ["--max-num-seqs=8", "--port=8000"]},
        "Spillway sets --host, --port",
    ),
    _moe(
        {"model__sources": {"FP8": {"uri": "pvc://weights/a..b"}}},
        {"model__sources": {"FP8": {"uri": "pvc://weights/a/../b"}}},
        "uri must not contain /..",
    ),
    _moe(
        {"model__cache": {"persistentVolumeClaim": "weights"}},
        {"model__cache": {"persistentVolumeClaim": "weights", "node": True}},
        "give persistentVolumeClaim or node, not both",
    ),
    _moe(
        {"model__cache": {"node": True, "prefetch": True}},
        {"model__cache": {"prefetch": True}},
        "prefetch needs node: true",
    ),
    _moe(_profile(), _profile(activeParameters="672B"), "activeParameters must not be more than totalParameters"),
    _moe(_profile(activeParameters="0.001B"), _profile(activeParameters="0.000B"), "must be more than 0 parameters"),
    _moe(
        _profile(checkpoints={"FP8": {"sizeGB": 20, "denseGB": 20}}),
        _profile(checkpoints={"FP8": {"sizeGB": 20, "denseGB": 21}}),
        "denseGB must not be more than sizeGB",
    ),
    _moe(_profile(), _profile(checkpoints={}), "give the size of at least one checkpoint"),
    _moe(
        _profile(),
        _profile(checkpoints={"FP8": {"sizeGB": 688}, "NVFP4": {"sizeGB": 413}}),
        "each precision of profile.checkpoints needs its uri in sources",
    ),
    _moe(
        _parallel(strategy="Tensor", tensor=16, nodes=2),
        _parallel(strategy="Tensor", tensor=16, nodes=3),
        "tensor × data must be a multiple of nodes",
    ),
    _moe(
        _parallel(strategy="DataExpert", data=8),
        _parallel(strategy="DataExpert", tensor=8),
        "data must be more than 1 with strategy DataExpert",
    ),
    _moe(
        _parallel(strategy="TensorExpert", tensor=8),
        _parallel(strategy="TensorExpert", tensor=4, data=2),
        "data must be more than 1 with strategy DataExpert, and 1 with the others",
    ),
    _moe(
        _parallel(32, strategy="TensorExpert", tensor=8),
        _parallel(32, strategy="Tensor", tensor=8),
        "redundantExperts needs strategy TensorExpert or DataExpert",
    ),
    _moe(
        {"slo": {"timeToFirstToken": "10s", "interTokenLatency": "60ms"}},
        {"slo": {"timeToFirstToken": "9900ms"}},
        "queueSeconds must not be more than timeToFirstToken",
    ),
    _moe(
        {"slo__interTokenLatency": "10m"}, {"slo__interTokenLatency": "10.1m"}, "must be more than 0s and at most 10m"
    ),
    _moe({"slo__interTokenLatency": "1ms"}, {"slo__interTokenLatency": "0s"}, "must be more than 0s and at most 10m"),
    _moe(_routes(HEADER, {"model": "gpt"}), _routes({}), "give exactly one of header, percent and model"),
    _moe(_routes(HEADER), _routes({**HEADER, "percent": 5}), "give exactly one of header, percent and model"),
    _moe(
        _routes({"percent": 60}, HEADER, {"percent": 40}),
        _routes({"percent": 60}, HEADER, {"percent": 41}),
        "the percentages of the routes must add up to at most 100",
    ),
    _moe(_hint(duration="168h"), _hint(duration="168h1s"), "duration must be more than 0s and at most 168h"),
    _moe(_hint(minReplicas=8), _hint(minReplicas=9), "minReplicas of a hint must not be more than maxReplicas"),
    _pool({"price__perGPUHour": "0.000000001"}, {"price__perGPUHour": "0.00"}, "must be more than 0 US dollars"),
    _pool(
        {"tolerations": [{"key": "a", "value": "b"}, {"operator": "Exists"}]},
        {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]},
        "operator Exists takes no value, operator Equal needs a key",
    ),
    _pool({"tolerations": []}, {"tolerations": [{"operator": "Equal"}]}, "operator Equal needs a key"),
    _pool(
        {"price__billing": "Reserved", "price__reservedGPUs": 8},
        {"price__billing": "Spot", "price__reservedGPUs": 8},
        "reservedGPUs needs billing Reserved",
    ),
    _pool(
        {"price__billing": "Reserved", "price__reservedGPUs": 8, "capacity__maxGPUs": 8},
        {"price__billing": "Reserved", "price__reservedGPUs": 9, "capacity__maxGPUs": 8},
        "price.reservedGPUs must not be more than capacity.maxGPUs",
    ),
    _pool(
        {"topology": {"multiNode": "LeaderWorkerSet", "computeDomain": True}},
        {"topology": {"multiNode": "None", "computeDomain": True}},
        "computeDomain needs multiNode LeaderWorkerSet",
    ),
    _pool(
        {"topology": {"multiNode": "LeaderWorkerSet", "computeDomain": True}, "gpu__interconnect": "NVL72"},
        {"topology": {"multiNode": "LeaderWorkerSet", "computeDomain": True}, "gpu__interconnect": "NVLink"},
        "topology.computeDomain needs gpu.interconnect NVL72",
    ),
    *(
        _pool(
            {"nodeCache": {"hostPath": accepted, "maxGB": 2000}},
            {"nodeCache": {"hostPath": refused, "maxGB": 2000}},
            "hostPath must not be a directory of the system or of the kubelet",
        )
        for accepted, refused in (
            ("/mnt/nvme", "/etc"),
            ("/var/lib/spillway", "/var/lib/kubelet/pods"),
            ("/var/cache/models", "/var"),
        )
    ),
    _provider(
        {"baseURL": "http://10.0.0.1", "tls": {"insecure": True}},
        {"baseURL": "http://10.0.0.1"},
        "baseURL must start with https://",
    ),
    _provider(
        {"models": [{**ONE_MODEL, "contextLength": 4096, "maxOutputTokens": 4096}]},
        {"models": [{**ONE_MODEL, "contextLength": 4096}]},
        "maxOutputTokens must not be more than contextLength",
    ),
    _provider(
        {"models": [{"name": "m", "price": {"input": "1", "cachedInput": "0", "output": "1"}}]},
        {"models": [{"name": "m", "price": {"input": "0", "output": "1"}}]},
        "must be more than 0 US dollars",
    ),
    _provider(
        {"models": [{**ONE_MODEL, "price": {**PRICE, "tiers": [{**PRICE, "aboveInputTokens": 131_071}]}}]},
        {"models": [{**ONE_MODEL, "price": {**PRICE, "tiers": [{**PRICE, "aboveInputTokens": 131_072}]}}]},
        "aboveInputTokens of a tier must be less than contextLength",
    ),
    _provider(
        {"models": [{**ONE_MODEL, "verbosity": "0.001"}]},
        {"models": [{**ONE_MODEL, "verbosity": "0.0"}]},
        "must be more than 0",
    ),
    _provider(
        {"timeouts": {"firstByte": "30s", "idle": "30s"}},
        {"timeouts": {"firstByte": "31s", "idle": "30s"}},
        "firstByte must not be more than idle",
    ),
    _provider({"timeouts": {"connect": "2s"}}, {"timeouts": {"idle": "1h"}}, "must be more than 0s and at most 10m"),
    _policy({"spill": {"maxPerHour": "60"}}, {"spill": {"maxPerHour": "0"}}, "must be more than 0 US dollars"),
    _policy({"selector": {"namespaces": ["a"]}}, {"selector": {"namespaces": []}}, "give a namespaceSelector"),
    _policy(
        {"selector": {"namespaceSelector": {"matchLabels": {"team": "a"}}}},
        {"selector": {}},
        "name namespaces or give a namespaceSelector",
    ),
    _policy({"budgets": [ONE_BUDGET]}, {"budgets": [{**ONE_BUDGET, "amount": "0"}]}, "must be more than 0 US dollars"),
    _policy({"valuePerRequest": "0.02"}, {"valuePerRequest": "0"}, "must be more than 0 US dollars"),
)

IMMUTABLE = {"GPUPool": {"resourceName cannot be changed: create another GPUPool"}}
"""Rules that compare with the stored object: by kind, their messages."""

EACH_RULE = pytest.mark.parametrize("rule", [pytest.param(rule, id=f"{rule.kind}-{rule.message}") for rule in RULES])


def messages(node: Any) -> Iterator[str]:
    """The messages of all rules below a node of a CRD."""
    if isinstance(node, list):
        for item in node:
            yield from messages(item)
    if isinstance(node, dict):
        for rule in node.get("x-kubernetes-validations", []):
            yield rule["message"]
        for child in node.values():
            yield from messages(child)
