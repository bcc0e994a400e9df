"""The kubelet's log endpoint, so that `kubectl logs` works: the API server asks the node, the agent reads the file."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from aiohttp import web

from e2e.cluster.certificates import Authority

KUBELET_PORT = 10250
_POLL_SECONDS = 0.3
_BLOCK = 1 << 16


class PodLogs:
    """Serves /containerLogs/NAMESPACE/POD/CONTAINER over TLS to holders of a certificate of the cluster's CA.

    A container's log keeps all its runs, so `--previous` shows what the plain command shows.
    """

    def __init__(self, directory: Path, authority: Authority, address: str) -> None:
        self._directory, self._address = directory, address
        certificate, key = authority.issue("kubelet", [address])
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.certificate))
        self._tls.verify_mode = ssl.CERT_REQUIRED
        self._tls.load_cert_chain(certificate, key)
        application = web.Application()
        application.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        self._runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)

    async def start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, self._address, KUBELET_PORT, ssl_context=self._tls).start()

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        names = request.match_info
        path = self._directory / names["namespace"] / names["pod"] / f"{names['container']}.log"
        if not path.is_file():
            raise web.HTTPNotFound(text=f"container {names['container']} has not started yet")
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        with path.open("rb") as log:
            if "tailLines" in request.query:
                log.seek(tail_offset(path.read_bytes(), int(request.query["tailLines"])))
            while True:
                block = log.read(_BLOCK)
                if block:
                    await response.write(block)
                elif request.query.get("follow") in ("true", "1"):
                    await asyncio.sleep(_POLL_SECONDS)
                else:
                    break
        await response.write_eof()
        return response


def tail_offset(text: bytes, lines: int) -> int:
    """Where the last so many lines begin."""
    offset = len(text) - text.endswith(b"\n")
    for _ in range(lines):
        offset = text.rfind(b"\n", 0, max(offset, 0))
        if offset < 0:
            return 0
    return min(offset + 1, len(text))
