"""`python -m e2e.simulators.provider --address 127.0.0.9 --port P --control-port P --cert F --key F --config F`."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import signal
import ssl
import sys
from pathlib import Path

from aiohttp import web

from e2e.simulators.provider.config import ProviderConfig
from e2e.simulators.provider.server import ProviderServer


def arguments() -> argparse.Namespace:
    line = argparse.ArgumentParser(prog="e2e.simulators.provider", description="A simulated external API.")
    line.add_argument("--address", type=_own, default="127.0.0.1", help="loopback, or all of a container's")
    line.add_argument("--port", type=int, required=True, help="TLS port of the API; 0 takes a free one")
    line.add_argument("--control-port", type=int, required=True, help="plain-HTTP port of /bill, /faults, /requests")
    line.add_argument("--cert", type=Path, required=True)
    line.add_argument("--key", type=Path, required=True)
    line.add_argument("--config", type=Path, required=True, help="JSON, see e2e/simulators/provider/config.py")
    return line.parse_args()


async def serve(options: argparse.Namespace, config: ProviderConfig) -> None:
    """Serve until SIGTERM; prints one line with both addresses once both ports listen."""
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(options.cert, options.key)
    provider = ProviderServer(config)
    api = web.AppRunner(provider.app(), access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    control = web.AppRunner(provider.control(), access_log=None)
    try:
        await api.setup()
        await control.setup()
        await web.TCPSite(api, options.address, options.port, ssl_context=tls, backlog=1024).start()
        await web.TCPSite(control, options.address, options.control_port).start()
        print(
            f"{config.style} simulator on https://{options.address}:{api.addresses[0][1]}{config.base_path}"
            f" control http://{options.address}:{control.addresses[0][1]}",
            flush=True,
        )
        await stop.wait()
    finally:
        await api.cleanup()
        await control.cleanup()


def main() -> int:
    options = arguments()
    try:
        config = ProviderConfig.load(options.config)
    except (OSError, ValueError) as error:
        print(f"{options.config}: {error}", file=sys.stderr)
        return 2
    asyncio.run(serve(options, config))
    return 0


def _own(value: str) -> str:
    """Nobody but this machine is served: outside a container only loopback addresses are."""
    address = ipaddress.ip_address(value)
    if not address.is_loopback and not (address.is_unspecified and "KUBERNETES_SERVICE_HOST" in os.environ):
        raise argparse.ArgumentTypeError(f"{value} is not a loopback address")
    return value


if __name__ == "__main__":
    sys.exit(main())
