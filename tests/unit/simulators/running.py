"""Simulators as real processes on free loopback ports, for the tests beside this file."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from e2e.cluster.certificates import Authority

REPOSITORY = Path(__file__).resolve().parents[3]


@dataclass
class Running:
    """A started simulator. `url` is its API, `control` the provider's side door (empty for an engine)."""

    process: asyncio.subprocess.Process
    url: str
    control: str = ""


async def start(
    module: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments,
        cwd=REPOSITORY, env={**os.environ, **(environment or {})},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def first_line(process: asyncio.subprocess.Process) -> str:
    """The line that a simulator prints once it listens; fails with its error output when it does not."""
    assert process.stdout is not None
    assert process.stderr is not None
    line = (await process.stdout.readline()).decode()
    if not line:
        raise AssertionError(f"the simulator ended: {(await process.stderr.read()).decode()}")
    return line


@asynccontextmanager
async def running(process: asyncio.subprocess.Process) -> AsyncIterator[asyncio.subprocess.Process]:
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def engine(*command: str, environment: Mapping[str, str] | None = None) -> AsyncIterator[Running]:
    """An engine on a free port of 127.0.0.1; `command` without host and port."""
    started = await start(
        "e2e.simulators.engine", *command, "--host", "0.0.0.0", "--port", "0", environment=environment
    )
    async with running(started) as process:
        line = await first_line(process)
        yield Running(process, line.split(" on ")[1].strip())


@asynccontextmanager
async def provider(
    directory: Path, config: Mapping[str, object]
) -> AsyncIterator[tuple[Running, aiohttp.ClientSession]]:
    """A provider on free ports, and a session that trusts its authority alone."""
    authority = Authority(directory, "provider-ca")
    certificate, key = authority.issue("provider", ["provider.test", "127.0.0.1"])
    (directory / "config.json").write_text(json.dumps(config))
    started = await start(
        "e2e.simulators.provider", "--port", "0", "--control-port", "0", "--cert", str(certificate),
        "--key", str(key), "--config", str(directory / "config.json"),
    )  # fmt: skip
    async with running(started) as process:
        words = (await first_line(process)).split()
        tls = ssl.create_default_context(cafile=str(authority.certificate))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session:
            yield Running(process, words[words.index("on") + 1], words[-1]), session


def chat(content: str, **more: object) -> dict[str, object]:
    return {"model": "glm-5", "messages": [{"role": "user", "content": content}], **more}


def events(body: bytes) -> list[str]:
    """The payloads of a stream of server-sent events."""
    return [line.removeprefix("data: ") for line in body.decode().splitlines() if line.startswith("data: ")]
