"""Probes and lifecycle hooks of a container, run against its own loopback address."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping

import aiohttp

from e2e.cluster.kubeapi import Obj
from e2e.cluster.processes import die_with_parent


class Target:
    """What a probe or hook of one container needs: its address, named ports and environment."""

    def __init__(self, address: str, container: Obj, environment: Mapping[str, str], directory: str) -> None:
        self.address, self.environment, self.directory = address, environment, directory
        self._ports = {port["name"]: port["containerPort"] for port in container.get("ports", []) if "name" in port}

    def port(self, port: int | str) -> int:
        number = self._ports.get(str(port), port)
        if not str(number).isdigit():
            raise ValueError(f"the container has no port named {port}")
        return int(number)

    async def run(self, action: Obj, seconds: float) -> str | None:
        """Carry out httpGet, tcpSocket, exec or sleep; returns what went wrong, or None."""
        try:
            async with asyncio.timeout(seconds):
                if "httpGet" in action:
                    return await self._http_get(action["httpGet"])
                if "tcpSocket" in action:
                    return await self._tcp(action["tcpSocket"])
                if "exec" in action:
                    return await self._exec(action["exec"]["command"])
                if "sleep" in action:
                    await asyncio.sleep(action["sleep"]["seconds"])
                    return None
        except TimeoutError:
            return f"no answer within {seconds:g} s"
        except ValueError as error:
            return str(error)
        return f"the node agent cannot run a handler of {sorted(action)}"

    async def _http_get(self, get: Obj) -> str | None:
        scheme, host = get.get("scheme", "HTTP").lower(), get.get("host") or self.address
        url = f"{scheme}://{host}:{self.port(get['port'])}/{get.get('path', '/').lstrip('/')}"
        headers = {header["name"]: header["value"] for header in get.get("httpHeaders", [])}
        try:
            async with (
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, ssl=False)) as session,
                session.get(url, headers=headers, allow_redirects=False) as response,
            ):
                return None if response.status < 400 else f"HTTP status {response.status}"
        except aiohttp.ClientError as error:
            return str(error)

    async def _tcp(self, socket: Obj) -> str | None:
        try:
            _, writer = await asyncio.open_connection(socket.get("host") or self.address, self.port(socket["port"]))
        except OSError as error:
            return str(error)
        writer.close()
        return None

    async def _exec(self, command: list[str]) -> str | None:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=dict(self.environment),
                cwd=self.directory,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )
        except OSError as error:
            return str(error)
        try:
            printed, _ = await process.communicate()
        except asyncio.CancelledError:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
            raise
        if process.returncode == 0:
            return None
        return f"exit status {process.returncode}: {printed.decode(errors='replace')[-300:]}"


async def wait_for_success(target: Target, probe: Obj) -> str | None:
    """A startup probe: None once it succeeded, else the last error after failureThreshold failures in a row."""
    await asyncio.sleep(probe.get("initialDelaySeconds", 0))
    failures = 0
    while True:
        error = await target.run(probe, probe.get("timeoutSeconds", 1))
        if error is None:
            return None
        failures += 1
        if failures >= probe.get("failureThreshold", 3):
            return error
        await asyncio.sleep(probe.get("periodSeconds", 10))


class Threshold:
    """A probe's verdict: flips after successThreshold or failureThreshold results in a row."""

    def __init__(self, probe: Obj, initial: bool) -> None:
        self.healthy = initial
        self._needed = {True: probe.get("successThreshold", 1), False: probe.get("failureThreshold", 3)}
        self._last, self._count = initial, 0

    def add(self, success: bool) -> bool:
        """Count a result; returns whether the verdict changed."""
        self._count = self._count + 1 if success == self._last else 1
        self._last = success
        if success != self.healthy and self._count >= self._needed[success]:
            self.healthy = success
            return True
        return False
