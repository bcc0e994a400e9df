"""`/livez`, `/readyz` and `/metrics` of the operator, and the leader's `/explain`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web
from prometheus_client import generate_latest

from spillway.controller import chronicle
from spillway.controller.metrics import Metrics

Explain = Callable[[str, float | None], dict[str, Any] | None]
"""Of a deployment's key and a time; None: it is not known."""


class HealthServer:
    """`alive` and `ready` return the trouble in words, or an empty string; `explain` who explains, if we lead."""

    def __init__(
        self,
        bind: str,
        port: int,
        metrics: Metrics,
        alive: Callable[[], str],
        ready: Callable[[], str],
        explain: Callable[[], Explain | None] = lambda: None,
    ) -> None:
        self._bind, self._port = bind, port
        self._metrics, self._alive, self._ready = metrics, alive, ready
        self._explain = explain
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen. Raises OSError when the address is taken."""
        app = web.Application()
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._page)
        app.router.add_get(chronicle.ADDRESS, self._account)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._bind, self._port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _livez(self, _: web.Request) -> web.Response:
        return _answer(self._alive())

    async def _readyz(self, _: web.Request) -> web.Response:
        return _answer(self._ready())

    async def _page(self, _: web.Request) -> web.Response:
        page = generate_latest(self._metrics.registry)
        return web.Response(body=page, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _account(self, request: web.Request) -> web.Response:
        """JSON, an error's words included."""
        explain = self._explain()
        if explain is None:
            return web.json_response({"error": "this operator does not lead, or has made no plan yet"}, status=503)
        at = request.query.get("at")
        try:
            time = None if at is None else float(at)
        except ValueError:
            return web.json_response({"error": f"at is {at!r}: give Unix seconds"}, status=400)
        key = f"{request.match_info['namespace']}/{request.match_info['name']}"
        found = await asyncio.to_thread(explain, key, time)
        if found is None:
            return web.json_response({"error": f"no decision is made for {key}: see its condition Ready"}, status=404)
        return web.json_response(found)


def _answer(trouble: str) -> web.Response:
    return web.Response(status=503 if trouble else 200, text=trouble or "ok")
