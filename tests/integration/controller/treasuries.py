"""What tests of the treasury stand on: a gateway's counters, a small cluster, a leader's treasury that runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

from aiohttp import web
from kubernetes.aio.client import CoreV1Api

from spillway.act.events import EventRecorder
from spillway.act.kube import Kube as Client
from spillway.controller.adjustment_watch import AdjustmentWatch
from spillway.controller.settings import OperatorSettings
from spillway.controller.treasury import Treasury
from spillway.ledger import Pair, total
from spillway.ledger.store import LedgerStore
from spillway.observe import Objects

READ_SECONDS = 0.3  # what is charged does not depend on how often one looks
ZAI = Pair("chat", "glm-5", "zai", "glm-5")
CLUSTER = "ext|zai|glm-5|chat/glm-5"
PAIR = 'deployment="chat/glm-5",provider="zai",model="glm-5",outcome="metered"'


class FakeGateway:
    """Answers `/counters` as a gateway does that has sent so many requests of 1000 + 100 tokens to a provider."""

    def __init__(self) -> None:
        self.process, self.requests, self.in_flight, self.port = "p1", 0, 0, 0
        self.silent = False
        self.outcome, self.cache_writes = "metered/json", 0
        self.errors: dict[str, int] = {}

    def page(self) -> str:
        label = f'{PAIR.replace("metered", self.outcome)},process="{self.process}"'
        rows = {
            "requests": 1,
            "prompt_tokens": 1000,
            "completion_tokens": 100,
            "cached_tokens": 0,
            "cache_write_tokens": self.cache_writes,
        }
        lines = [f"envoy_spillway_egress_{name}{{{label}}} {each * self.requests}" for name, each in rows.items()]
        refused = f'{PAIR.replace("metered", "refused")},process="{self.process}"'
        lines.append(f"envoy_spillway_egress_requests{{{refused}}} {sum(self.errors.values())}")
        of = f'provider="zai",model="glm-5",process="{self.process}"'
        lines += [f'envoy_spillway_egress_errors{{{of},why="{why}"}} {count}' for why, count in self.errors.items()]
        cluster = f'envoy_cluster_name="ext|zai|glm-5|chat/glm-5",process="{self.process}"'
        return "\n".join([*lines, f"envoy_cluster_upstream_rq_active{{{cluster}}} {self.in_flight}", ""])


@asynccontextmanager
async def listening(address: str, port: int = 0) -> AsyncIterator[FakeGateway]:
    fake = FakeGateway()

    async def counters(_: web.Request) -> web.Response:
        return web.Response(status=503) if fake.silent else web.Response(text=fake.page())

    app = web.Application()
    app.router.add_get("/counters", counters)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, address, port).start()
    fake.port = runner.addresses[0][1]
    yield fake
    await runner.cleanup()


def objects(namespace: str) -> Objects:
    """A cluster with one gateway pod, one deployment, one provider and a budget of 500 dollars a day."""
    api = {"apiVersion": "spillway.dev/v1alpha1"}
    pod = {
        "metadata": {"name": "gw-0", "namespace": namespace, "labels": {"app.kubernetes.io/name": "spillway-gateway"}},
        "status": {"phase": "Running", "podIP": "127.0.0.1"},
    }
    model = {"name": "glm-5", "price": {"input": "1", "output": "3"}, "contextLength": 8192, "maxOutputTokens": 512}
    provider = {
        **api,
        "kind": "ExternalProvider",
        "metadata": {"name": "zai"},
        "spec": {
            "baseURL": "https://api.z.ai/v4",
            "credentials": {"key": "zai"},
            "models": [model],
            "allowedNamespaces": ["chat"],
        },
    }
    spill = {"providers": [{"name": "zai", "model": "glm-5"}]}
    moe = {
        **api,
        "kind": "MoEDeployment",
        "metadata": {"name": "glm-5", "namespace": "chat", "uid": "u"},
        "spec": {"model": {"name": "glm-5"}, "spill": spill},
    }
    budget = {"name": "day", "period": "Day", "amount": "500"}
    policy = {
        **api,
        "kind": "CostPolicy",
        "metadata": {"name": "team"},
        "spec": {"selector": {"namespaces": ["chat"]}, "budgets": [budget]},
    }
    return Objects(
        moedeployments={"chat/glm-5": moe},
        externalproviders={"zai": provider},
        costpolicies={"team": policy},
        pods={f"{namespace}/gw-0": pod},
    )


@asynccontextmanager
async def treasury(core: CoreV1Api, found: Objects, namespace: str, port: int) -> AsyncIterator[Treasury]:
    """A leader's treasury that runs until the block ends, and then writes its last state."""
    settings = OperatorSettings(namespace=namespace, gateway_metrics_port=port)
    adjustments = AdjustmentWatch(core, namespace, EventRecorder(Client(core.api_client), "test"))
    await adjustments.read()
    one = Treasury(core, found, settings, on_threshold=lambda: None, adjustments=adjustments)
    await one.load()
    stopped = asyncio.Event()
    task = asyncio.create_task(one.run(stopped, READ_SECONDS))
    watching = asyncio.create_task(adjustments.run())
    try:
        yield one
    finally:
        stopped.set()
        await task
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def until(look: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not look():  # noqa: ASYNC110 - the treasury tells nobody that it has read
            await asyncio.sleep(0.05)


async def stored_usd(core: CoreV1Api, namespace: str) -> Decimal:
    """What the ledger has that a next leader would load."""
    stored = await LedgerStore(core, namespace).load()
    assert stored is not None
    return sum((amount.usd for amount in total(stored).values()), Decimal(0))


def spent(one: Treasury) -> Decimal:
    return sum((a.usd for a in total(one.book).values()), Decimal(0))


def estimated(one: Treasury) -> Decimal:
    return sum((a.estimated_usd for a in total(one.book).values()), Decimal(0))


EACH = Decimal("0.0013")  # 1000 tokens at $1 and 100 at $3 a million


async def rounds(one: Treasury, count: int) -> None:
    """So many more readings."""
    for _ in range(count):
        before = one.view
        await until(lambda before=before: one.view is not before)  # type: ignore[misc]
