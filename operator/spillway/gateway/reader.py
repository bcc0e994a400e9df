"""Reading a gateway over HTTP."""

from __future__ import annotations

import aiohttp

from spillway.gateway.readings import GatewayReading, parse_counters

_LONGEST_SECONDS = 5.0


async def fetch(
    session: aiohttp.ClientSession, address: str, timeout_seconds: float = _LONGEST_SECONDS
) -> GatewayReading:
    """Read the gateway whose metrics listener is `host:port`; raises aiohttp.ClientError, TimeoutError, ValueError."""
    timeout = aiohttp.ClientTimeout(total=timeout_seconds)
    async with session.get(f"http://{address}/counters", timeout=timeout) as answer:
        answer.raise_for_status()
        return parse_counters(await answer.text())
