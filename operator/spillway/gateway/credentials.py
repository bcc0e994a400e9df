"""Secrets by file name: the gateway reads its own mounted files; no key is ever in a resource."""

from __future__ import annotations

from collections.abc import Sequence

from spillway.gateway import names
from spillway.gateway.desired import GatewayNode, Provider
from spillway.gateway.messages import Fields


def secrets(providers: Sequence[Provider], node: GatewayNode) -> dict[str, Fields]:
    """SDS resources by name: each provider's key, and the CA bundle that its certificate is checked with."""
    resources: dict[str, Fields] = {}
    for provider in providers:
        credential = names.credential_secret(provider.credential_key)
        source = _file(f"{node.keys_directory}/{provider.credential_key}", node.keys_directory)
        resources[credential] = {"name": credential, "generic_secret": {"secret": source}}
        authority = names.authority_secret(provider.ca_key or "")
        if provider.ca_key:
            bundle = _file(f"{node.keys_directory}/{provider.ca_key}", node.keys_directory)
        else:
            bundle = {"filename": node.ca_file}
        resources[authority] = {"name": authority, "validation_context": {"trusted_ca": bundle}}
    return resources


def _file(path: str, directory: str) -> Fields:
    # A Secret volume is replaced as a whole by renaming a symlink in its directory: that move is what is watched.
    return {"filename": path, "watched_directory": {"path": directory}}
