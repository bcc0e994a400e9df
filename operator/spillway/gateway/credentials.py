"""Secrets by file name: the gateway reads its own mounted files; no key is ever in a resource."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from spillway.gateway import names
from spillway.gateway.desired import GatewayNode, Provider
from spillway.gateway.messages import Fields


def secrets(providers: Sequence[Provider], node: GatewayNode) -> dict[str, partial[Fields]]:
    """SDS resources by name: each provider's key, and the CA bundle that its certificate is checked with."""
    resources: dict[str, partial[Fields]] = {}
    for provider in providers:
        credential = names.credential_secret(provider.credential_key)
        resources[credential] = partial(_credential, credential, provider.credential_key, node.keys_directory)
        authority = names.authority_secret(provider.ca_key or "")
        if provider.ca_key:
            resources[authority] = partial(_authority, authority, provider.ca_key, node.keys_directory)
        else:
            resources[authority] = partial(_public_authorities, authority, node.ca_file)
    return resources


def _credential(name: str, key: str, directory: str) -> Fields:
    return {"name": name, "generic_secret": {"secret": _file(key, directory)}}


def _authority(name: str, key: str, directory: str) -> Fields:
    return {"name": name, "validation_context": {"trusted_ca": _file(key, directory)}}


def _public_authorities(name: str, path: str) -> Fields:
    return {"name": name, "validation_context": {"trusted_ca": {"filename": path}}}


def _file(key: str, directory: str) -> Fields:
    # A Secret volume is replaced as a whole by renaming a symlink in its directory: that move is what is watched.
    return {"filename": f"{directory}/{key}", "watched_directory": {"path": directory}}


def respell(secret: Any) -> Any:
    """The same Secret message with its file's path written differently."""
    other = type(secret)()
    other.CopyFrom(secret)
    validates = other.HasField("validation_context")
    source = other.validation_context.trusted_ca if validates else other.generic_secret.secret
    directory, _, file = source.filename.rpartition("/")
    source.filename = f"{directory}/./{file}"
    return other
