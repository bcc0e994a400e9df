"""A running gateway: ADS server in this process, Envoy as `spillway gateway` starts it, addresses of its own."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from e2e.cluster.volumes import publish
from spillway.gateway import authority
from spillway.gateway.ads import AdsServer
from spillway.gateway.desired import Deployment, Desired, Egress, Endpoint, Provider, SpillState
from spillway.gateway.names import GATEWAY_NAME, OPERATOR_NAME
from spillway.gateway.reader import fetch
from spillway.gateway.readings import GatewayReading
from tests.integration.gateway.fakes import Fake

START = "import os, sys; from spillway.gateway.process import run_gateway; run_gateway(os.environ)"
_SUBNETS = itertools.count(os.getpid() % 200)
ENGINE_PORT = 8000
PROVIDER_PORT = 8443
MESSAGES = {"messages": [{"role": "user", "content": 'say "model": {[} \\ "x"'}]}


@dataclass
class Rig:
    """Tests change `desired` by `publish(...)` and look at the answers."""

    directory: Path
    subnet: str
    session: aiohttp.ClientSession
    ads: AdsServer
    process: asyncio.subprocess.Process | None = None
    fakes: list[Fake] = field(default_factory=list)
    addresses: Any = None
    leader: bool = True
    authorities: tuple[authority.Authority, ...] = ()
    identity: Any = None  # what the operator shows
    published: Desired = field(default_factory=Desired)

    @classmethod
    async def create(cls, directory: Path) -> Rig:
        subnet = f"127.41.{next(_SUBNETS) % 250}"
        (directory / "keys").mkdir(parents=True, exist_ok=True)
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        rig = cls(directory, subnet, aiohttp.ClientSession(connector=connector), None)  # type: ignore[arg-type]
        rig.addresses = itertools.count(20)
        now = datetime.now(UTC)
        rig.authorities = authority.renewed((), now)
        rig.identity = authority.issue(rig.authorities, OPERATOR_NAME, now)
        rig.mount(authority.issue(rig.authorities, GATEWAY_NAME, now))
        await rig.start_ads()
        return rig

    @property
    def url(self) -> str:
        return f"http://{self.subnet}.10:8080"

    @property
    def metrics(self) -> str:
        return f"http://{self.subnet}.10:9902"

    @property
    def admin_socket(self) -> Path:
        return self.directory / "run" / "admin.sock"

    def mount(self, identity: authority.Identity) -> None:
        """Bring the gateway its certificate, as the kubelet does."""
        (self.directory / "ads").mkdir(exist_ok=True)
        publish(self.directory / "ads", identity.data())

    async def start_ads(self) -> None:
        self.ads = AdsServer(f"{self.subnet}.1", 18000, lambda: self.leader, lambda: self.identity)
        await self.ads.start()

    async def start_envoy(self, start: str = START, **settings: str) -> None:
        env = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[3] / "operator"),
            "POD_NAME": "gateway-0",
            "POD_IP": f"{self.subnet}.10",
            "SPILLWAY_ADS_ADDRESS": f"{self.subnet}.1:18000",
            "SPILLWAY_BIND_ADDRESS": f"{self.subnet}.10",
            "SPILLWAY_RUN_DIRECTORY": str(self.directory / "run"),
            "SPILLWAY_KEYS_DIRECTORY": str(self.directory / "keys"),
            "SPILLWAY_ADS_CERTIFICATES_DIRECTORY": str(self.directory / "ads"),
            **settings,
        }
        with (self.directory / "envoy.log").open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(sys.executable, "-c", start, env=env, stderr=log)
        await eventually(self._ready, "Envoy is ready", dump=lambda: (self.directory / "envoy.log").read_text())

    async def _ready(self) -> bool:
        assert self.process is not None
        if self.process.returncode is not None:
            raise AssertionError((self.directory / "envoy.log").read_text())
        try:
            async with self.session.get(f"{self.metrics}/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def stop(self) -> None:
        await self.session.close()
        for fake in self.fakes:
            await fake.stop()
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        await self.ads.stop()

    async def fake(self, name: str, port: int = ENGINE_PORT, tls: Any = None) -> tuple[Fake, str]:
        fake, address = Fake(name), f"{self.subnet}.{next(self.addresses)}"
        await fake.start(address, port, tls)
        self.fakes.append(fake)
        return fake, address

    async def publish(self, desired: Desired) -> None:
        self.published = desired
        self.ads.publish(desired)
        if self.process is not None:
            await self.ads.wait_synced(20)

    async def post(
        self,
        body: dict[str, Any] | None = None,
        *,
        host: str = "glm-5.chat",
        path: str = "/v1/chat/completions",
        **kw: Any,
    ) -> Answer:
        headers = {"host": host, **kw.pop("headers", {})}
        payload = {"model": "glm-5", **MESSAGES} if body is None else body
        async with self.session.post(self.url + path, json=payload, headers=headers, **kw) as answer:
            return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, await answer.text())

    async def reading(self) -> GatewayReading:
        return await fetch(self.session, f"{self.subnet}.10:9902")

    async def healthy(self, cluster: str, count: int) -> None:
        line = f'envoy_cluster_membership_healthy{{envoy_cluster_name="{cluster}"}} {count}'

        async def there() -> bool:
            async with self.session.get(f"{self.metrics}/metrics") as answer:
                return line in await answer.text()

        await eventually(there, line)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def served_by(self) -> str | None:
        return self.headers.get("x-spillway-served-by")


async def eventually(
    condition: Callable[[], Awaitable[bool]], what: str, seconds: float = 30, dump: Callable[[], str] = str
) -> None:
    """Wait for something that no event announces."""
    try:
        async with asyncio.timeout(seconds):
            while not await condition():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"never happened: {what}\n{dump()}") from None


def deployment(*addresses: str, name: str = "glm-5", namespace: str = "chat", **fields: Any) -> Deployment:
    endpoints = tuple(Endpoint(address, ENGINE_PORT) for address in addresses)
    return Deployment(namespace, name, fields.pop("served_name", name), "/health", endpoints, **fields)


def provider(name: str, address: str, **fields: Any) -> Provider:
    """A provider over plain HTTP unless a base_url is given."""
    base = fields.pop("base_url", f"http://{address}:{PROVIDER_PORT}/api/v4")
    return Provider(name, base, fields.pop("credential_key", name), insecure=base.startswith("http:"), **fields)


def egress(name: str, model: str = "glm-5.1", cap: int = 100, **fields: Any) -> Egress:
    return Egress(name, model, cap, **fields)


def spill(*pairs: tuple[str, str], gate: int = 100, cap: int = 100, allowed: bool = True, **fields: Any) -> SpillState:
    permitted = fields.pop("permitted", dict.fromkeys(pairs, True))
    return SpillState(allowed, gate, permitted=permitted, caps=dict.fromkeys(pairs, cap), **fields)
