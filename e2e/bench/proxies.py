"""What `make bench-gateway` puts between clients and engine: nothing, a plain Envoy, Spillway's gateway, and others."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from e2e.bench.http_load import Address
from e2e.bench.identities import issued
from e2e.cluster.certificates import Authority
from spillway.gateway.ads import AdsServer
from spillway.gateway.desired import Deployment, Desired, Egress, Endpoint, Provider, SpillState
from spillway.gateway.process import find_envoy

SUBNET = "127.43.0"
ENGINE, GATEWAY, LEADER = f"{SUBNET}.1", f"{SUBNET}.10", f"{SUBNET}.2"
ENGINE_PORT, PROVIDER_PORT = 8000, 8443
PAIR = ("zai", "glm-5")
READY_SECONDS = 120.0
OTHERS = Path("build/bench-venv")
LOCK = Path("requirements/bench.txt")
_LITELLM_KEY = "sk-bench-4f9d0c2b7a6e41538d90c1f2e3b4a596"  # of this run alone; it does not start with a short one


@dataclass(frozen=True)
class Proxy:
    """A proxy that runs: its name, the process (with its children), where clients reach it."""

    name: str
    pid: int
    to: Address


@asynccontextmanager
async def process(log: Path, *command: str, **env: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program that ends with the block."""
    with log.open("ab") as output:
        started = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # no preexec_fn: gRPC's threads, which run here, do not outlive a real fork
        )
    try:
        yield started
    finally:
        if started.returncode is None:
            os.killpg(started.pid, signal.SIGKILL)
        await started.wait()


@asynccontextmanager
async def engines(directory: Path) -> AsyncIterator[None]:
    """The engine twice: as a replica, and over TLS as a provider."""
    certificate, key = Authority(directory, "ca").issue("provider", [ENGINE])
    async with AsyncExitStack() as stack:
        for port, files in ((ENGINE_PORT, ()), (PROVIDER_PORT, (str(certificate), str(key)))):
            command = [sys.executable, "-m", "e2e.bench.http_load", ENGINE, str(port), *files]
            await stack.enter_async_context(process(directory / "engine.log", *command))
            await reachable(ENGINE, port)
        yield


async def reachable(host: str, port: int, of: asyncio.subprocess.Process | None = None) -> None:
    """Until somebody listens there. Raises TimeoutError, and RuntimeError when the process has ended instead."""
    async with asyncio.timeout(READY_SECONDS):
        while True:
            if of is not None and of.returncode is not None:
                raise RuntimeError(f"it ended with status {of.returncode}")
            try:
                _, writer = await asyncio.open_connection(host, port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


@asynccontextmanager
async def plain_envoy(directory: Path) -> AsyncIterator[Proxy]:
    """Envoy with one route, one cluster and no log: what its binary costs by itself."""
    host, port = f"{SUBNET}.11", 8080
    kind = "type.googleapis.com/envoy.extensions.filters"
    connection = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "plain",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "engine", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{kind}.http.router.v3.Router"}}
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connection}]}
    config = {
        "static_resources": {
            "listeners": [{"name": "in", "address": _socket(host, port), "filter_chains": [chain]}],
            "clusters": [
                {
                    "name": "engine",
                    "type": "STATIC",
                    "circuit_breakers": {"thresholds": [{"max_connections": 5000, "max_requests": 5000}]},
                    "load_assignment": {
                        "cluster_name": "engine",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(ENGINE, ENGINE_PORT)}}]}],
                    },
                }
            ],
        }
    }
    path = directory / "plain.json"
    path.write_text(json.dumps(config))
    command = [find_envoy(os.environ), "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
    async with process(directory / "plain.log", *command) as envoy:
        await reachable(host, port)
        yield Proxy("plain Envoy", envoy.pid, Address(host, port))


def _socket(host: str, port: int) -> dict[str, object]:
    return {"socket_address": {"address": host, "port_value": port}}


class Spillway:
    """A gateway and its leader, which is this process: mTLS between them, as in production."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        identity = issued(directory / "ads")
        (directory / "keys").mkdir(exist_ok=True)
        for name, content in {"zai": b"sk-bench", "ca": (directory / "ca.crt").read_bytes()}.items():
            (directory / "keys" / name).write_bytes(content)
        self.ads = AdsServer(LEADER, 18000, lambda: True, lambda: identity)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        """The process id of its Envoy."""
        await self.ads.start()
        self.ads.publish(Desired())  # without a first configuration Envoy listens nowhere
        env = {
            "POD_NAME": "gateway-0",
            "POD_IP": GATEWAY,
            "SPILLWAY_ADS_ADDRESS": f"{LEADER}:18000",
            "SPILLWAY_BIND_ADDRESS": GATEWAY,
            "SPILLWAY_RUN_DIRECTORY": str(self._directory / "run"),
            "SPILLWAY_KEYS_DIRECTORY": str(self._directory / "keys"),
            "SPILLWAY_ADS_CERTIFICATES_DIRECTORY": str(self._directory / "ads"),
        }
        start = "import os; from spillway.gateway.process import run_gateway; run_gateway(os.environ)"
        try:
            async with process(self._directory / "spillway.log", sys.executable, "-c", start, **env) as envoy:
                await reachable(GATEWAY, 9902)
                yield envoy.pid
        finally:
            await self.ads.stop()

    async def publish(self, deployments: int) -> None:
        """So many deployments with a replica and a provider each; the first has the replica alone, the second only the
        provider. Returns when the gateway has taken them."""
        self.ads.publish(desired(deployments))
        await self.ads.wait_synced(READY_SECONDS)

    @staticmethod
    async def serving() -> None:
        """Until both ways answer."""
        async with asyncio.timeout(READY_SECONDS), aiohttp.ClientSession() as session:
            for host in ("glm-5.chat", "spilled.chat"):
                while True:
                    body = {"model": "glm-5", "messages": [{"role": "user", "content": "hello"}]}
                    url = f"http://{GATEWAY}:8080/v1/chat/completions"
                    try:
                        async with session.post(url, json=body, headers={"host": host}) as answer:
                            if answer.status == 200:
                                break
                    except aiohttp.ClientError:
                        pass
                    await asyncio.sleep(0.1)


def desired(deployments: int) -> Desired:
    replica = (Endpoint(ENGINE, ENGINE_PORT),)
    base = f"https://{ENGINE}:{PROVIDER_PORT}/v1"
    made = [
        Deployment("chat", "glm-5", "glm-5", "/health", replica, affinity=True),
        Deployment("chat", "spilled", "glm-5", "/health", (), chain=(PAIR,), affinity=True),
    ]
    made += [
        Deployment("chat", f"glm-{n}", "glm-5", "/health", replica, chain=(PAIR,), affinity=True)
        for n in range(6, deployments + 4)
    ]
    states = {
        d.id: SpillState(bool(d.chain), 2000, permitted={PAIR: True}, caps={PAIR: 2000}, lease_seconds=3600)
        for d in made[:deployments]
    }
    return Desired(
        tuple(made[:deployments]),
        (Provider("zai", base, "zai", ca_key="ca"),),
        (Egress(*PAIR, 4096),),
        states,
    )


def environment_of_others() -> Path | None:
    """Programs of other gateways, in an environment made from requirements/bench.txt; None, and why is printed, where
    that cannot be had."""
    programs = OTHERS / "bin"
    stamp = OTHERS / ".installed"
    if stamp.exists() and stamp.read_text() == LOCK.read_text():
        return programs
    print("installing LiteLLM and vllm-router into build/bench-venv", file=sys.stderr, flush=True)
    for command in (
        [sys.executable, "-m", "venv", str(OTHERS)],
        [str(programs / "pip"), "install", "-q", "--require-hashes", "--only-binary", ":all:", "-r", str(LOCK)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no words"])[-1]
            print(f"LiteLLM and vllm-router are left out: {' '.join(command[:3])} …: {last}", file=sys.stderr)
            return None
    stamp.write_text(LOCK.read_text())
    return programs


@asynccontextmanager
async def vllm_router(programs: Path, directory: Path) -> AsyncIterator[Proxy]:
    host, port = f"{SUBNET}.12", 8080
    command = [str(programs / "vllm-router"), "--worker-urls", f"http://{ENGINE}:{ENGINE_PORT}", "--host", host]
    command += ["--port", str(port), "--policy", "round_robin", "--prometheus-host", host]
    async with process(directory / "vllm-router.log", *command, TOKIO_WORKER_THREADS="1") as router:
        await reachable(host, port, router)
        yield Proxy("vllm-router", router.pid, Address(host, port))


@asynccontextmanager
async def litellm(programs: Path, directory: Path) -> AsyncIterator[Proxy]:
    host, port = f"{SUBNET}.13", 8080
    model = {
        "model_name": "glm-5",
        "litellm_params": {
            "model": "openai/glm-5",
            "api_base": f"http://{ENGINE}:{ENGINE_PORT}/v1",
            "api_key": "sk-bench",
        },
    }
    config = directory / "litellm.json"
    settings = {"litellm_settings": {"telemetry": False}, "general_settings": {"master_key": _LITELLM_KEY}}
    config.write_text(json.dumps({"model_list": [model], **settings}))
    command = [str(programs / "litellm"), "--config", str(config), "--host", host, "--port", str(port)]
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "DISABLE_ADMIN_UI": "True"}  # no look-ups outside
    async with process(directory / "litellm.log", *command, **env) as proxy:
        await reachable(host, port, proxy)
        yield Proxy("LiteLLM", proxy.pid, Address(host, port, key=_LITELLM_KEY))
