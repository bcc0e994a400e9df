"""In the gateway's image: `spillway gateway` becomes an Envoy that answers on its admin socket and ends on SIGTERM."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time

import aiohttp

_DIRECTORY = "/run/spillway"
_ENVIRONMENT = {
    "POD_NAME": "probe",
    "POD_IP": "127.0.0.1",
    "SPILLWAY_ADS_ADDRESS": "127.0.0.1:18000",
    "SPILLWAY_RUN_DIRECTORY": _DIRECTORY,
}


async def version(deadline: float) -> str:
    """Envoy's own version, as soon as it answers."""
    connector = aiohttp.UnixConnector(path=f"{_DIRECTORY}/admin.sock")
    async with aiohttp.ClientSession("http://admin", connector=connector) as admin:
        while True:
            try:
                async with admin.get("/server_info") as answer:
                    return str((await answer.json(content_type=None))["version"]).split("/")[1]
            except (aiohttp.ClientError, OSError):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)


with subprocess.Popen(["spillway", "gateway"], env={**os.environ, **_ENVIRONMENT}) as gateway:
    try:
        found = asyncio.run(version(time.monotonic() + 30))
    finally:
        gateway.terminate()
if gateway.returncode != 0:
    raise SystemExit(f"Envoy ended with status {gateway.returncode}")
print(f"Envoy {found} runs")
