"""Rules that several kinds share, in the two tongues that must agree: CEL for the API server, Python for parsing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field

from spillway.api.markers import ListType, cel
from spillway.api.resource import MAX_NAME_LENGTH, NAME_PATTERN

NAME_RULE = cel(
    f"size(self.metadata.name) <= {MAX_NAME_LENGTH} && self.metadata.name.matches('{NAME_PATTERN}')",
    f"metadata.name must be at most {MAX_NAME_LENGTH} lower-case letters, digits and '-', starting with a letter",
)

ObjectName = Annotated[str, Field(max_length=MAX_NAME_LENGTH, pattern=NAME_PATTERN)]
"""Name of a Spillway object."""

NamespaceName = Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
Namespaces = Annotated[tuple[NamespaceName, ...], Field(max_length=256), ListType("set")]

SecretName = Annotated[str, Field(min_length=1, max_length=253)]
"""Name of a Secret."""

SecretKeyName = Annotated[str, Field(max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
"""A key of the Secret spillway-provider-keys."""


def _known_time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError("no such time zone: use an IANA name such as Europe/Berlin or UTC") from error
    return name


TimeZone = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_+/-]+$"), AfterValidator(_known_time_zone)]
"""IANA name of a time zone; whether it exists is known to the operator alone."""

RESERVED_FLAGS = (
    "--host",
    "--port",
    "--served-model-name",
    "--shutdown-timeout",
    "--enable-metrics",
    "--api-key",
)
"""Flags that the gateway, the drain and the scraper rely on."""


def reserved_flags(args: Iterable[str]) -> list[str]:
    """The reserved flags among engine arguments."""
    return [flag for arg in args if (flag := arg.partition("=")[0]) in RESERVED_FLAGS]
