"""Who may open an ADS stream: TLS on both sides, and the name in the client's certificate."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import grpc

from spillway.gateway.authority import Identity
from spillway.gateway.names import GATEWAY_NAME

log = logging.getLogger(__name__)


def server_credentials(identity: Callable[[], Identity]) -> Any:
    """Credentials of a server whose clients must have a certificate; `identity` is asked before every handshake."""
    shown = identity()

    def fetch() -> Any:
        nonlocal shown
        current = identity()
        if current is shown:
            return None  # nothing changed
        shown = current
        return _configuration(current)

    return grpc.dynamic_ssl_server_credentials(_configuration(shown), fetch, require_client_authentication=True)


def _configuration(identity: Identity) -> Any:
    return grpc.ssl_server_certificate_configuration(
        [(identity.key, identity.certificate)], root_certificates=identity.roots
    )


async def admit(context: Any) -> None:
    """Only gateways: the operator's own certificate is by the same authority, and is for the other side. Ends the call
    with PERMISSION_DENIED for anybody else."""
    names = context.auth_context().get("x509_subject_alternative_name", ())
    if GATEWAY_NAME.encode() not in names:
        log.warning("not a gateway's certificate", extra={"peer": context.peer(), "names": str(names)[:200]})
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"the certificate is not for {GATEWAY_NAME}")
