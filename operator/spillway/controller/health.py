"""`/livez`, `/readyz` and `/metrics` of the operator."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import generate_latest

from spillway.controller.metrics import Metrics


class HealthServer:
    """`alive` and `ready` return the trouble in words, or an empty string."""

    def __init__(
        self, bind: str, port: int, metrics: Metrics, alive: Callable[[], str], ready: Callable[[], str]
    ) -> None:
        self._bind, self._port = bind, port
        self._metrics, self._alive, self._ready = metrics, alive, ready
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen. Raises OSError when the address is taken."""
        app = web.Application()
        app.router.add_get("/livez", lambda _: self._answer(self._alive))
        app.router.add_get("/readyz", lambda _: self._answer(self._ready))
        app.router.add_get("/metrics", self._page)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._bind, self._port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, check: Callable[[], str]) -> web.Response:
        trouble = check()
        return web.Response(status=503 if trouble else 200, text=trouble or "ok")

    async def _page(self, _: web.Request) -> web.Response:
        page = generate_latest(self._metrics.registry)
        return web.Response(body=page, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
