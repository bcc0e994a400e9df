"""`spillway gateway` becomes Envoy; `spillway gateway-drain` lets it go without cutting a stream."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

import aiohttp

from spillway.gateway.bootstrap import ads_secrets, bootstrap, certificate_secret
from spillway.gateway.desired import GatewayNode
from spillway.gateway.names import MAIN_CERTIFICATE

_POLL_SECONDS = 0.25
_SETTLE_SECONDS = 5.0
"""How long to stay open at least: the time that clients and proxies need to learn that this address is going."""
_LOG_LEVELS = ("info", "warning", "error", "critical", "off")
_OPEN = "http.main.downstream_rq_active"
_COME = "http.main.downstream_rq_total"
_READINGS = "vhost.metrics.route.counters.upstream_rq_completed"
_READING_SECONDS = 30.0
"""How long to wait for the ledger's last reading of the counters; SPILLWAY_LAST_READING_SECONDS says otherwise."""


def run_gateway(env: Mapping[str, str]) -> NoReturn:
    """Write the bootstrap file, then exec Envoy. Raises KeyError or ValueError for a wrong environment."""
    run_directory = _run_directory(env)
    run_directory.mkdir(parents=True, exist_ok=True)
    admin_socket = run_directory / "admin.sock"
    admin_socket.unlink(missing_ok=True)
    host, _, port = env["SPILLWAY_ADS_ADDRESS"].rpartition(":")
    secrets = {}
    for name, content in ads_secrets(env.get("SPILLWAY_ADS_CERTIFICATES_DIRECTORY", "/etc/spillway/ads")).items():
        secrets[name] = str(run_directory / f"{name}.json")
        Path(secrets[name]).write_text(json.dumps(content, indent=1))
    node = node_from_environment(env)
    if node.tls_secret:
        content = certificate_secret(MAIN_CERTIFICATE, env["SPILLWAY_TLS_DIRECTORY"])
        Path(node.tls_secret).write_text(json.dumps(content, indent=1))
    path = run_directory / "bootstrap.json"
    path.write_text(json.dumps(bootstrap(node, host, int(port), str(admin_socket), secrets), indent=1))
    envoy = find_envoy(env)
    arguments = [
        envoy,
        "--config-path",
        str(path),
        "--disable-hot-restart",
        "--concurrency",
        env.get("SPILLWAY_GATEWAY_CONCURRENCY", "1"),
        "--log-level",
        _log_level(env),
        # A replaced listener's old connections may finish; a stream longer than this is cut by its own idle limit.
        "--drain-time-s",
        "3600",
        # While draining, each answer closes its connection: clients come back at another gateway at once.
        "--drain-strategy",
        "immediate",
    ]
    os.execve(envoy, arguments, dict(env))


def drain_gateway(env: Mapping[str, str]) -> None:
    """Before the pod stops: fail the health check, take nothing new, finish what is open, be read once more."""
    reading_seconds = float(env.get("SPILLWAY_LAST_READING_SECONDS", _READING_SECONDS))
    asyncio.run(drain(_run_directory(env) / "admin.sock", reading_seconds=reading_seconds))


def node_from_environment(env: Mapping[str, str]) -> GatewayNode:
    name = env["POD_NAME"]
    return GatewayNode(
        name=name,
        process=f"{name}-{uuid4().hex[:8]}",
        address=env["POD_IP"],
        bind_address=env.get("SPILLWAY_BIND_ADDRESS", "0.0.0.0"),
        traffic_port=int(env.get("SPILLWAY_TRAFFIC_PORT", "8080")),
        metrics_port=int(env.get("SPILLWAY_METRICS_PORT", "9902")),
        keys_directory=env.get("SPILLWAY_KEYS_DIRECTORY", "/etc/spillway/keys"),
        tls_port=int(env.get("SPILLWAY_TLS_PORT", "8443")),
        tls_secret=str(_run_directory(env) / f"{MAIN_CERTIFICATE}.json") if env.get("SPILLWAY_TLS_DIRECTORY") else "",
        ca_file=ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt",
    )


def find_envoy(env: Mapping[str, str]) -> str:
    """Path of the binary: SPILLWAY_ENVOY, next to the virtual environment, or on PATH. Raises FileNotFoundError."""
    beside = Path(sys.prefix, "envoy", "envoy", "_bin", "envoy")
    found = env.get("SPILLWAY_ENVOY") or (
        str(beside) if beside.exists() else shutil.which("envoy", path=env.get("PATH"))
    )
    if not found:
        raise FileNotFoundError("no Envoy: set SPILLWAY_ENVOY to the path of its binary")
    return found


async def drain(
    admin_socket: Path, settle_seconds: float = _SETTLE_SECONDS, reading_seconds: float = _READING_SECONDS
) -> None:
    """Returns when no request is open and the counters were read since, or after `reading_seconds` without a reader."""
    connector = aiohttp.UnixConnector(path=str(admin_socket))
    async with aiohttp.ClientSession("http://admin", connector=connector) as admin:
        for command in ("/healthcheck/fail", "/drain_listeners?graceful&skip_exit&inboundonly"):
            async with admin.post(command) as answer:
                answer.raise_for_status()
        await asyncio.sleep(settle_seconds)
        while True:
            while await _stat(admin, _OPEN) > 0:  # noqa: ASYNC110 (Envoy has no event)
                await asyncio.sleep(_POLL_SECONDS)
            come = await _stat(admin, _COME)
            await _read(admin, reading_seconds)
            # A stream that began before the drain did not tell its client to close the connection: the next request
            # may come on it, and would be cut, or paid and never counted.
            if await _stat(admin, _OPEN) == 0 and await _stat(admin, _COME) == come:
                return


async def _read(admin: aiohttp.ClientSession, seconds: float) -> None:
    """Until the counters were read, or nobody did for so long."""
    # A page that was being written when the last request ended may lack it: two more are needed to be sure of one.
    seen = await _stat(admin, _READINGS)
    try:
        async with asyncio.timeout(seconds):
            while await _stat(admin, _READINGS) < seen + 2:  # noqa: ASYNC110
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        print("nobody read the final counters", file=sys.stderr)


async def _stat(admin: aiohttp.ClientSession, name: str) -> int:
    async with admin.get("/stats", params={"filter": f"^{name}$"}) as answer:
        answer.raise_for_status()
        text = await answer.text()
    return sum(int(line.rpartition(":")[2]) for line in text.splitlines() if line.startswith(f"{name}:"))


def _log_level(env: Mapping[str, str]) -> str:
    level = env.get("SPILLWAY_GATEWAY_LOG_LEVEL", "warning")
    if level not in _LOG_LEVELS:
        raise ValueError(
            f"SPILLWAY_GATEWAY_LOG_LEVEL is {level!r}: use one of {', '.join(_LOG_LEVELS)}. "
            "Below info Envoy prints headers, and with them keys."
        )
    return level


def _run_directory(env: Mapping[str, str]) -> Path:
    return Path(env.get("SPILLWAY_RUN_DIRECTORY", "/run/spillway"))
