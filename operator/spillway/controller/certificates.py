"""Keeps the certificates of the ADS connection: the authority in a Secret of its own, the gateways' side in another.

Both Secrets come with the manifests, empty; the operator's rights name them and include no `create`. Its own
certificate is made anew by each leader and lies nowhere but in its memory.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from spillway.act.kube import Kube, KubeError, Object, path
from spillway.controller.metrics import Metrics
from spillway.gateway import authority
from spillway.gateway.authority import Authority, Identity, UnreadableAuthority
from spillway.gateway.names import GATEWAY_NAME, OPERATOR_NAME

log = logging.getLogger(__name__)

AUTHORITY = "spillway-ads-authority"
GATEWAY = "spillway-ads-gateway"
LOOK_SECONDS = 60.0
_TRIES = 3  # of a write, where another one came between


def _now() -> datetime:
    return datetime.now(UTC)


class Certificates:
    """Only the leader loads and keeps them."""

    def __init__(
        self, kube: Kube, namespace: str, metrics: Metrics | None = None, clock: Callable[[], datetime] = _now
    ) -> None:
        self._kube, self._namespace, self._clock = kube, namespace, clock
        self._metrics = metrics or Metrics()
        self._authorities: tuple[Authority, ...] = ()
        self._identity: Identity | None = None
        self._said: dict[str, str] = {}

    @property
    def identity(self) -> Identity:
        """What the operator shows to gateways; the same object until it is renewed. Needs `load` before."""
        assert self._identity is not None, "load() comes first"
        return self._identity

    async def load(self) -> None:
        """Read what a former leader left, renew what is due, write what changed.

        Where a Secret is missing the operator serves with what it has in memory, which then no new gateway can trust:
        that is logged. Raises KubeError, OSError or TimeoutError when the API server gives no answer.
        """
        for left in reversed(range(_TRIES)):
            try:
                await self._look()
                return
            except KubeError as error:
                if error.status != 409 or not left:
                    raise

    async def run(self) -> None:
        """Look once a minute, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.load()
            except (KubeError, OSError, TimeoutError) as error:
                log.warning(
                    "the certificates of the gateways could not be looked at", extra={"error": str(error)[:200]}
                )

    async def _look(self) -> None:
        now = self._clock()
        stored = await self._read(AUTHORITY)
        before = self._stored_authorities(stored)
        wanted = authority.renewed(before, now)
        if authority.roots(wanted) != authority.roots(before):
            # Nothing is signed by an authority that is not kept: the next leader would not know it.
            await self._write(stored, AUTHORITY, authority.dump(wanted))
        self._authorities = wanted
        if self._identity is None or authority.due(self._identity, wanted, OPERATOR_NAME, now):
            self._identity = authority.issue(wanted, OPERATOR_NAME, now)
        await self._keep_gateways(now)
        for name, pem in (("authority", authority.roots(wanted)), ("operator", self._identity.certificate)):
            self._metrics.certificates.labels(name).set(authority.ends(pem).timestamp())

    def _stored_authorities(self, stored: Object | None) -> tuple[Authority, ...]:
        if stored is None:
            return self._authorities
        try:
            return authority.load(_data(stored))
        except UnreadableAuthority as error:
            self._say(AUTHORITY, f"Secret {self._namespace}/{AUTHORITY}: {error}; a new authority takes its place")
            return ()

    async def _keep_gateways(self, now: datetime) -> None:
        stored = await self._read(GATEWAY)
        data = _data(stored) if stored is not None else {}
        held = Identity(*(data.get(key, b"") for key in (authority.CERTIFICATES, authority.KEYS, authority.ROOTS)))
        if authority.due(held, self._authorities, GATEWAY_NAME, now):
            held = authority.issue(self._authorities, GATEWAY_NAME, now)
            await self._write(stored, GATEWAY, held.data())
        self._metrics.certificates.labels("gateway").set(authority.ends(held.certificate).timestamp())

    async def _read(self, name: str) -> Object | None:
        """The Secret, or None where there is none that the operator may read."""
        try:
            found = await self._kube.request("GET", path("v1", "Secret", self._namespace, name))
        except KubeError as error:
            if error.status not in (403, 404):
                raise
            self._say(name, f"Secret {self._namespace}/{name}: {error.message}; apply the manifests again")
            return None
        self._said.pop(name, None)
        return found

    async def _write(self, stored: Object | None, name: str, data: Mapping[str, bytes]) -> None:
        """Replace the Secret's data, unless somebody else wrote since it was read (KubeError 409)."""
        if stored is None:
            return
        body: dict[str, Any] = {
            **stored,
            "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
        }
        await self._kube.request(
            "PUT", path("v1", "Secret", self._namespace, name), body, params={"fieldManager": "spillway"}
        )
        log.info("certificates renewed", extra={"secret": name})

    def _say(self, name: str, problem: str) -> None:
        if self._said.get(name) != problem:
            self._said[name] = problem
            log.error("certificates of the gateways: %s", problem)


def _data(secret: Object) -> dict[str, bytes]:
    """What the Secret holds; what is no base64 counts as empty."""
    found = {}
    for key, value in (secret.get("data") or {}).items():
        try:
            found[key] = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            found[key] = b""
    return found
