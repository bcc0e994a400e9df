"""The `/counters` page of one gateway process, as the ledger reads it every two seconds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from spillway.gateway import names, outcomes

_LINE = re.compile(r"^(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})? (?P<value>[0-9.eE+-]+)$")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")
_EGRESS = "envoy_spillway_egress_"
_ERRORS = f"{_EGRESS}errors"
_FIRST_BYTE = f"{_EGRESS}first_byte"
_QUANTITIES = (
    "requests",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "request_bytes",
    "response_bytes",
    "cache_write_tokens",
)


@dataclass(frozen=True)
class EgressSample:
    """Cumulative since the process started, as `ledger.external.EgressSample`."""

    namespace: str
    deployment: str
    provider: str
    model: str
    outcome: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    request_bytes: int
    response_bytes: int
    cache_write_tokens: int = 0
    tier: int = 0
    answer: str = ""
    most_bytes: int = 0


@dataclass(frozen=True)
class GatewayReading:
    """process: None while nothing was counted yet. in_flight: requests by cluster name (local|… and ext|…).

    arrivals: requests that came in, by deployment id, but for those that a route took at once.
    errors: of providers, by provider, model and class (failures.lua). first_bytes: of streams, by provider and model:
    how many had the first byte of their answer's body within so many milliseconds.
    missing_credential_keys: file names that could not be read.
    """

    process: str | None
    samples: tuple[EgressSample, ...] = ()
    arrivals: dict[str, int] = field(default_factory=dict)
    in_flight: dict[str, int] = field(default_factory=dict)
    missing_credential_keys: tuple[str, ...] = ()
    errors: dict[tuple[str, str, str], int] = field(default_factory=dict)
    first_bytes: dict[tuple[str, str], dict[float, int]] = field(default_factory=dict)


def parse_counters(page: str) -> GatewayReading:
    """Raises ValueError for a line that is not a metric, so that a cut page is never taken for a smaller bill. Several
    samples may be told apart by nothing but their counts: answers that were cut in several ways."""
    process: str | None = None
    quantities: dict[tuple[str, str, str, str], dict[str, int]] = {}
    arrivals: dict[str, int] = {}
    in_flight: dict[str, int] = {}
    read: dict[str, int] = {}
    errors: dict[tuple[str, str, str], int] = {}
    first_bytes: dict[tuple[str, str], dict[float, int]] = {}
    for name, labels, value in _metrics(page):
        process = labels.get("process", process)
        if name == _ERRORS:
            errors[labels["provider"], labels["model"], labels["why"]] = value
        elif name.startswith(_FIRST_BYTE):
            if name == f"{_FIRST_BYTE}_bucket":
                first_bytes.setdefault((labels["provider"], labels["model"]), {})[float(labels["le"])] = value
        elif name.startswith(_EGRESS):
            key = (labels["deployment"], labels["provider"], labels["model"], labels["outcome"])
            quantities.setdefault(key, {})[name.removeprefix(_EGRESS)] = value
        elif name == "envoy_spillway_arrivals" and "/" in labels["deployment"]:
            if not labels.get("route"):  # what a route takes is no demand for replicas
                arrivals[labels["deployment"]] = value
        elif name == "envoy_cluster_upstream_rq_active":
            in_flight[labels["envoy_cluster_name"]] = value
        elif name == "envoy_sds_update_success":
            read[labels["spillway_secret"]] = value
    samples = tuple(_sample(*key, found) for key, found in sorted(quantities.items()))
    prefix = names.credential_secret("")
    missing = (name.removeprefix(prefix) for name, times in read.items() if name.startswith(prefix) and times == 0)
    return GatewayReading(process, samples, arrivals, in_flight, tuple(sorted(missing)), errors, first_bytes)


def _sample(deployment: str, provider: str, model: str, outcome: str, found: Mapping[str, int]) -> EgressSample:
    namespace, name = deployment.split("/", 1)
    counts = {quantity: found.get(quantity, 0) for quantity in _QUANTITIES}
    label = outcomes.read(outcome)
    return EgressSample(
        namespace,
        name,
        provider,
        model,
        label.outcome,
        **counts,
        tier=label.tier,
        answer=label.answer,
        most_bytes=label.most_bytes,
    )


def _metrics(page: str) -> Iterator[tuple[str, dict[str, str], int]]:
    for line in page.splitlines():
        if not line or line.startswith("#"):
            continue
        match = _LINE.match(line)
        if match is None:
            raise ValueError(f"not a metric: {line[:200]!r}")
        labels = {key: _ESCAPE.sub(_unescape, value) for key, value in _LABEL.findall(match["labels"] or "")}
        yield match["name"], labels, int(float(match["value"]))


def _unescape(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]
