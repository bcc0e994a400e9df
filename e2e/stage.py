"""What scenarios and the demo play on: a cluster with Spillway, the platform team's objects, load, and eyes.

Everything is asked of the API server, the gateways, Prometheus and the providers' own bills, as a user would.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import yaml

from e2e.cluster import audit
from e2e.cluster.cluster import Cluster
from e2e.cluster.handle import ClusterHandle
from e2e.cluster.kind.cluster import KindCluster
from e2e.cluster.processes import Say
from e2e.cluster.settings import (
    BLACKWELL_ULTRA_POOLS,
    DEFAULT_POOLS,
    H100_POOL,
    SYSTEM_NAMESPACE,
    ClusterConfig,
    Provider,
)
from e2e.load.generator import LoadRun, Target
from e2e.load.schedule import Schedule
from e2e.load.summary import Record, Summary

Object = dict[str, Any]
T = TypeVar("T")

API = "spillway.dev/v1alpha1"
NAMESPACE = "chat"
PROVIDER_MODELS: dict[str, dict[str, Any]] = {
    "glm-5": {"input": "1", "cachedInput": "0.2", "output": "3.2"},
    "glm-5-tiered": {
        "input": "1",
        "output": "3.2",
        "tiers": [{"aboveInputTokens": 1200, "input": "1.5", "output": "4.8"}],
    },
}
# Small contexts and short answers bound what one request can cost, so that budgets of a few dollars are large
# against one request (docs/money.md).
CONTEXT_TOKENS, ANSWER_TOKENS = 8192, 512


def providers() -> list[Provider]:
    """Two APIs that answer in a second or two and take many requests at once."""
    shared = {"maxConcurrency": 400, "tokensPerSecond": 150, "firstTokenSeconds": 0.3, "models": PROVIDER_MODELS}
    return [
        Provider(name="zai", server_name="api.z.ai.local", host=21, api_key="sk-zai", config={
            "style": "zai", "basePath": "/api/paas/v4", **shared}),
        Provider(name="deepinfra", server_name="api.deepinfra.com.local", host=22, api_key="sk-deepinfra", config={
            "style": "openai", "basePath": "/v1/openai", **shared}),
    ]  # fmt: skip


def config() -> ClusterConfig:
    """Cold starts of about ten seconds; nodes come within three. Replicas may take several H100 nodes, and there are
    Blackwell Ultra for every model at once."""
    pools = [pool.model_copy(update={"provisioning_seconds": 3}) for pool in (*DEFAULT_POOLS, H100_POOL)]
    return ClusterConfig(
        pools=[*pools, *BLACKWELL_ULTRA_POOLS], providers=providers(), loopback_prefix="auto", leader_worker_sets=True
    )


def kind_config() -> ClusterConfig:
    """The same with nodes that are always there: sixteen B200 and eight H200."""
    sizes = {"blackwell-b200": 2, "hopper-h200": 1}
    pools = [pool.model_copy(update={"nodes": sizes[pool.name]}) for pool in DEFAULT_POOLS]
    return ClusterConfig(pools=pools, providers=providers())


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: Object


class Unmet(AssertionError):
    """What a scenario waited for did not come."""


class Stage:
    """One cluster with Spillway on it."""

    def __init__(self, cluster: ClusterHandle) -> None:
        self.cluster = cluster
        self._judged = 0  # requests in the audit log that were looked at before

    @property
    def local(self) -> Cluster:
        """The local cluster, whose clouds and processes a scenario can break."""
        assert isinstance(self.cluster, Cluster), "this scenario is played on the local cluster only"
        return self.cluster

    @property
    def kind(self) -> KindCluster:
        """The kind cluster, whose nodes and images a scenario can change."""
        assert isinstance(self.cluster, KindCluster), "this scenario is played on kind only"
        return self.cluster

    # ---- objects -----------------------------------------------------------------------------------------------------

    def apply(self, *objects: Object) -> None:
        self.cluster.kubectl(
            "apply", "--server-side", "--force-conflicts", "-f", "-", input=yaml.safe_dump_all(objects)
        )

    def get(self, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """The object, or None."""
        where = ["-n", namespace] if namespace else []
        found = self.cluster.kubectl("get", kind, name, *where, "-o", "json", "--ignore-not-found")
        return json.loads(found.stdout) if found.stdout.strip() else None

    def objects(self, kind: str, namespace: str | None = None, selector: str = "") -> list[Object]:
        where = ["-n", namespace] if namespace else ["-A"]
        selected = ["-l", selector] if selector else []
        found = self.cluster.kubectl("get", kind, *where, *selected, "-o", "json")
        items: list[Object] = json.loads(found.stdout)["items"]
        return items

    def patch(self, kind: str, name: str, patch: Object, namespace: str | None = None) -> None:
        where = ["-n", namespace] if namespace else []
        self.cluster.kubectl("patch", kind, name, *where, "--type=merge", "-p", json.dumps(patch))

    def delete(self, kind: str, name: str, namespace: str | None = None) -> None:
        where = ["-n", namespace] if namespace else []
        self.cluster.kubectl("delete", kind, name, *where, "--ignore-not-found", "--wait=true", "--timeout=90s")

    def status(self, name: str, namespace: str = NAMESPACE) -> Object:
        """Status of a MoEDeployment; empty before the first write."""
        found = self.get("moedeployment", name, namespace)
        return (found or {}).get("status") or {}

    def condition(self, kind: str, name: str, type: str, namespace: str | None = None) -> Object:
        found = self.get(kind, name, namespace) or {}
        conditions = (found.get("status") or {}).get("conditions") or []
        return next((c for c in conditions if c["type"] == type), {})

    def events(self, name: str, namespace: str = NAMESPACE) -> list[Object]:
        return [e for e in self.objects("events", namespace) if e["involvedObject"]["name"] == name]

    def wait(self, what: str, look: Callable[[], T | None], seconds: float, every: float = 0.5) -> T:
        """Look until it is true. Raises Unmet that names what did not come, with what was seen last."""
        deadline = time.monotonic() + seconds
        while True:
            seen = look()
            if seen:
                return seen
            if time.monotonic() > deadline:
                raise Unmet(f"not within {seconds:.0f} s: {what}")
            time.sleep(every)

    def wait_ready(self, name: str, seconds: float = 90, namespace: str = NAMESPACE) -> None:
        self.cluster.kubectl(
            "wait", "--for=condition=Ready", f"moedeployment/{name}", "-n", namespace, f"--timeout={seconds:.0f}s"
        )

    # ---- the platform team's objects ---------------------------------------------------------------------------------

    def pool(self, name: str, product: str, usd: str, timeout: str = "15s", max_gpus: int | None = 32) -> Object:
        capacity: Object = {"provisioningTimeout": timeout} | ({"maxGPUs": max_gpus} if max_gpus is not None else {})
        return {
            "apiVersion": API, "kind": "GPUPool", "metadata": {"name": name},
            "spec": {
                "nodeSelector": {"nvidia.com/gpu.product": f"NVIDIA-{product}"},
                "gpu": {"product": product, "perNode": 8},
                "price": {"perGPUHour": usd, "minimumBilling": "10s"},
                "capacity": capacity,
            },
        }  # fmt: skip

    def provider(self, name: str, **changes: Any) -> Object:
        found = self.cluster.providers[name]
        prices = PROVIDER_MODELS["glm-5"]
        model = {"name": "glm-5", "price": prices, "contextLength": CONTEXT_TOKENS, "maxOutputTokens": ANSWER_TOKENS}
        spec: Object = {
            "baseURL": found["base_url"],
            "credentials": {"key": name},
            "tls": {"caSecretRef": {"key": "provider-ca.crt"}, "serverName": server_name(name)},
            "models": [model],
            "limits": {"concurrent": 256},
            "allowedNamespaces": [NAMESPACE],
        }
        return {"apiVersion": API, "kind": "ExternalProvider", "metadata": {"name": name}, "spec": spec | changes}

    def policy(self, name: str, amount: str, namespaces: Sequence[str] = (NAMESPACE,), **changes: Any) -> Object:
        budget = {"name": "api-day", "period": "Day", "amount": amount, "scope": "External"}
        spec: Object = {"selector": {"namespaces": list(namespaces)}, "budgets": [budget]}
        return {"apiVersion": API, "kind": "CostPolicy", "metadata": {"name": name}, "spec": spec | changes}

    def moe(self, name: str, spec: Object, namespace: str = NAMESPACE) -> Object:
        return {
            "apiVersion": API,
            "kind": "MoEDeployment",
            "metadata": {"name": name, "namespace": namespace},
            "spec": spec,
        }

    def platform(self, amount: str = "500", timeout: str = "15s") -> None:
        """Both pools, both providers and a policy with one budget a day."""
        self.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
            self.pool("blackwell-b200", "B200", "4.20", timeout),
            self.pool("hopper-h200", "H200", "2.50", timeout),
            self.provider("zai"),
            self.provider("deepinfra"),
            self.policy("assist", amount),
        )

    def clear(self) -> None:
        """Back to an empty cluster with Spillway: every object of the four kinds gone, clouds and providers well."""
        for kind in ("moedeployments", "costpolicies", "externalproviders", "gpupools"):
            self.cluster.kubectl("delete", kind, "--all", "-A", "--ignore-not-found", "--timeout=90s")
        self.wait(
            "all replicas gone", lambda: not self.objects("pods", selector="app.kubernetes.io/component=engine"), 120
        )
        self.cluster.heal()
        for name in self.cluster.providers:
            self.cluster.provider_faults(name, mode="ok")
        self._replace_restarted()

    def _replace_restarted(self) -> None:
        """New pods for those of Spillway's that were killed: before each further start of the same pod a kubelet waits
        longer, up to five minutes, and the next scenario would have no operator."""

        def restarted() -> list[str]:
            pods = self.objects("pods", SYSTEM_NAMESPACE, "app.kubernetes.io/part-of=spillway")
            return [
                pod["metadata"]["name"]
                for pod in pods
                if any(c["restartCount"] for c in pod.get("status", {}).get("containerStatuses", []))
            ]

        if names := restarted():
            self.cluster.kubectl("delete", "pods", *names, "-n", SYSTEM_NAMESPACE, "--wait=false")
            self.wait("the killed pods gone", lambda: not restarted(), 120)
            self.cluster.wait_for_operator()

    def spillway(self, *arguments: str) -> str:
        """What the command says, as administrator; a failure raises RuntimeError with its words."""
        done = subprocess.run(
            [str(Path(sys.prefix, "bin", "spillway")), *arguments],
            env={**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"spillway {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    # ---- traffic and money -------------------------------------------------------------------------------------------

    def gateway_pods(self) -> list[Object]:
        """Those that serve, those that start, and those that drain."""
        return self.objects("pods", SYSTEM_NAMESPACE, "app.kubernetes.io/name=spillway-gateway")

    def gateways(self) -> list[Object]:
        """The gateway pods that are ready and stay."""
        return [pod for pod in self.gateway_pods() if is_ready(pod) and not pod["metadata"].get("deletionTimestamp")]

    def wait_for_gateways(self, seconds: float = 90) -> None:
        self.wait("two gateways that serve", lambda: len(self.gateways()) == 2, seconds)

    def urls(self) -> list[str]:
        """Base URLs that clients spread over."""
        return self.cluster.client_urls(self.gateways())

    def load(self, name: str, schedule: Schedule, namespace: str = NAMESPACE, **options: Any) -> BackgroundLoad:
        """Start sending; stop it or wait for its end."""
        target = Target(tuple(self.urls()), f"{name}.{namespace}", "glm-5")
        return BackgroundLoad(LoadRun(target, schedule, **options))

    @contextmanager
    def streams(self, name: str, schedule: Schedule) -> Iterator[BackgroundLoad]:
        """Streams of which none may fail or be cut until the block ends."""
        with self.load(name, schedule, streaming_share=1.0) as sending:
            yield sending
            sending.stop()
            summary = sending.join()
        print(f"\n{name}: {summary.line()}")
        assert (summary.failed, summary.cut) == (0, 0), summary.by_error

    def ask(
        self,
        name: str,
        content: str,
        namespace: str = NAMESPACE,
        url: str | None = None,
        model: str = "glm-5",
        headers: Mapping[str, str] | None = None,
        seconds: float = 60,
    ) -> Answer:
        """One chat completion, whatever comes of it within so many seconds; at any gateway unless `url` names one."""
        body = {"model": model, "messages": [{"role": "user", "content": content}]}
        sent = {"Host": f"{name}.{namespace}", "Content-Type": "application/json", **(headers or {})}
        address = f"{url or self.urls()[0]}/v1/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), sent)
        try:
            with urllib.request.urlopen(request, timeout=seconds) as found:
                return Answer(found.status, dict(found.headers), json.loads(found.read()))
        except urllib.error.HTTPError as error:
            return Answer(error.code, dict(error.headers), json.loads(error.read()))

    def billed(self) -> Decimal:
        """What all providers have charged, by their own books."""
        return sum(
            (Decimal(self.cluster.provider_bill(name)["total_usd"]) for name in self.cluster.providers), Decimal(0)
        )

    def budget(self, policy: str = "assist", name: str = "api-day") -> Object:
        """A budget as CostPolicy.status shows it; empty before the first write."""
        found = self.get("costpolicy", policy) or {}
        budgets = (found.get("status") or {}).get("budgets") or []
        return next((b for b in budgets if b["name"] == name), {})

    def leader(self) -> Object:
        """The operator pod that leads."""
        return self.wait(
            "an operator that leads",
            lambda: next(
                (p for p in self.objects("pods", SYSTEM_NAMESPACE, "spillway.dev/leader=true") if is_ready(p)), None
            ),
            60,
        )

    # ---- permissions -------------------------------------------------------------------------------------------------

    def refused(self) -> list[str]:
        """What the API server refused Spillway's accounts since the last call."""
        asked = audit.entries(self.cluster.audit_log, self._judged)
        self._judged += len(asked)
        assert self._judged, "an empty audit log proves nothing"
        return audit.refused(asked)


class BackgroundLoad:
    """A LoadRun in a thread of its own; usable as a context manager that ends it."""

    def __init__(self, run: LoadRun) -> None:
        self.run = run
        self.started = time.monotonic()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, name="load", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        self._loop.run_until_complete(self.run.run())
        self._loop.close()

    def __enter__(self) -> BackgroundLoad:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.join()

    def stop(self) -> None:
        """Send nothing more."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.run.stop)

    def join(self, seconds: float = 180) -> Summary:
        """Wait for the last answer. Raises Unmet when it does not come."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise Unmet(f"{self.run.in_flight} requests are still without an answer after {seconds:.0f} s")
        return self.run.summary()

    @property
    def records(self) -> list[Record]:
        return list(self.run.records)

    def since(self, seconds: float) -> list[Record]:
        """Requests that started after that time of the run and have ended."""
        return [r for r in self.records if r.start >= seconds]

    def elapsed(self) -> float:
        return time.monotonic() - self.started


def server_name(provider: str) -> str:
    return next(p.server_name for p in providers() if p.name == provider)


def is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


@contextmanager
def stage(kind: str, directory: Path, say: Say = print) -> Iterator[Stage]:
    """A `local` or `kind` cluster with Spillway installed, until the block ends."""
    up = KindCluster.up(kind_config(), say=say) if kind == "kind" else Cluster.up(directory, config(), say)
    with up as cluster:
        cluster.deploy_operator()
        cluster.wait_for_operator()
        found = Stage(cluster)
        found.wait_for_gateways()
        yield found
