"""One Prometheus server, asked many questions at once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import requests
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from urllib3 import Retry


class MetricsUnavailable(Exception):
    """Prometheus cannot be asked; the message says why."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One series of an instant vector. Its value is a finite number: NaN and infinities are no data."""

    labels: Mapping[str, str]
    value: float

    @property
    def deployment(self) -> str:
        """namespace/name. Engine series carry the target's `namespace` and `deployment`, gateway series `deployment`
        as namespace/name; empty where there is neither."""
        name, namespace = self.labels.get("deployment", ""), self.labels.get("namespace")
        return f"{namespace}/{name}" if namespace and name else name

    @property
    def pod(self) -> str:
        """namespace/name of the target's pod."""
        return f"{self.labels.get('namespace', '')}/{self.labels.get('pod', '')}"


Answers = Mapping[str, tuple[Sample, ...]]
"""Samples by signal."""


class Prometheus:
    """Asks in a bounded pool of threads: its client is synchronous and has no time-out for the whole."""

    def __init__(self, url: str, timeout_seconds: float = 5.0) -> None:
        self._client = PrometheusConnect(url=url, timeout=timeout_seconds, retry=Retry(total=0), disable_ssl=False)
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="prometheus")
        self._timeout_seconds = timeout_seconds
        self.url = url

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def ask(self, queries: Mapping[str, str]) -> Answers:
        """The answers to all PromQL queries now. Raises MetricsUnavailable when one of them has none."""
        loop = asyncio.get_running_loop()
        jobs = [loop.run_in_executor(self._pool, self._ask, query) for query in queries.values()]
        try:
            results = await asyncio.wait_for(asyncio.gather(*jobs), 2 * self._timeout_seconds)
        except TimeoutError as error:
            raise MetricsUnavailable(f"{self.url} did not answer within {2 * self._timeout_seconds:.0f} s") from error
        return dict(zip(queries, results, strict=True))

    def _ask(self, query: str) -> tuple[Sample, ...]:
        try:
            found = self._client.custom_query(query)
        except (requests.RequestException, PrometheusApiClientException, ValueError) as error:
            raise MetricsUnavailable(f"{self.url}: {str(error)[:200]}") from error
        samples = (Sample(one["metric"], float(one["value"][1])) for one in found)
        return tuple(sample for sample in samples if math.isfinite(sample.value))
