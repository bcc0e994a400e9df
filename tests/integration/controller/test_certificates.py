"""The certificates of the ADS connection on a real API server: made, kept, renewed, taken over, made anew when lost."""

from __future__ import annotations

import base64
import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from e2e.cluster.kubeapi import Obj
from spillway.controller.certificates import AUTHORITY, GATEWAY, Certificates
from spillway.gateway import authority
from spillway.gateway.authority import Identity
from spillway.gateway.names import GATEWAY_NAME, OPERATOR_NAME

from .conftest import Place

MANIFEST = Path(__file__).parents[3] / "manifests" / "base" / "certificates.yaml"
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
DAY = timedelta(days=1)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


def manifest(place: Place) -> str:
    objects = list(yaml.safe_load_all(MANIFEST.read_text()))
    for obj in objects:
        obj["metadata"]["namespace"] = place.namespace
    return yaml.safe_dump_all(objects)


def apply(place: Place) -> None:
    """What an installation or an upgrade does."""
    done = place.server.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=manifest(place))
    assert done.returncode == 0, done.stderr


def secret(place: Place, name: str) -> Obj:
    done = place.server.kubectl("get", "secret", name, "-n", place.namespace, "-o", "json")
    assert done.returncode == 0, done.stderr
    found: Obj = json.loads(done.stdout)
    return found


def data(place: Place, name: str) -> dict[str, bytes]:
    return {key: base64.b64decode(value) for key, value in (secret(place, name).get("data") or {}).items()}


def gateways(place: Place) -> Identity:
    held = data(place, GATEWAY)
    return Identity(held["tls.crt"], held["tls.key"], held["ca.crt"])


def clear(place: Place, name: str) -> None:
    patch = json.dumps([{"op": "remove", "path": "/data"}])
    done = place.server.kubectl("patch", "secret", name, "-n", place.namespace, "--type=json", "-p", patch)
    assert done.returncode == 0, done.stderr


async def leading(place: Place, clock: Clock, kube: Any = None) -> Certificates:
    certificates = Certificates(kube or place.kube, place.namespace, clock=clock)
    await certificates.load()
    return certificates


async def test_the_first_leader_fills_what_the_manifests_bring(place: Place) -> None:
    apply(place)
    clock = Clock()
    certificates = await leading(place, clock)
    kept = authority.load(data(place, AUTHORITY))
    assert len(kept) == 1
    assert not authority.due(certificates.identity, kept, OPERATOR_NAME, NOW)
    assert not authority.due(gateways(place), kept, GATEWAY_NAME, NOW)
    assert set(data(place, GATEWAY)) == {"tls.crt", "tls.key", "ca.crt"}
    assert kept[0].certificate.public_bytes(serialization.Encoding.PEM) in gateways(place).roots
    assert len(place.writes()) == 2


async def test_nothing_is_written_while_nothing_is_due(place: Place) -> None:
    apply(place)
    clock = Clock()
    certificates = await leading(place, clock)
    place.writes()
    identity = certificates.identity
    clock.now += 19 * DAY
    await certificates.load()
    assert certificates.identity is identity
    assert place.writes() == []


async def test_the_next_leader_goes_on_with_the_same_authority(place: Place) -> None:
    apply(place)
    first = await leading(place, Clock())
    held = gateways(place)
    place.writes()
    second = await leading(place, Clock(), place.other)
    assert place.other.writes == []
    assert gateways(place) == held
    assert second.identity.roots == first.identity.roots
    assert second.identity.key != first.identity.key  # which never left the first one's memory


async def test_an_upgrade_leaves_what_is_in_the_secrets(place: Place) -> None:
    apply(place)
    await leading(place, Clock())
    before = data(place, AUTHORITY), data(place, GATEWAY)
    apply(place)
    done = place.server.kubectl("apply", "-f", "-", input=manifest(place))  # not server-side
    assert done.returncode == 0, done.stderr
    assert (data(place, AUTHORITY), data(place, GATEWAY)) == before


async def test_certificates_are_renewed_in_time(place: Place) -> None:
    apply(place)
    clock = Clock()
    certificates = await leading(place, clock)
    before, shown = gateways(place), certificates.identity
    clock.now += 20 * DAY
    await certificates.load()
    assert authority.ends(gateways(place).certificate) == clock.now + authority.CERTIFICATE_LIFE
    assert gateways(place).roots == before.roots
    assert authority.ends(certificates.identity.certificate) > authority.ends(shown.certificate)


async def test_a_new_authority_is_trusted_before_it_signs(place: Place) -> None:
    apply(place)
    clock = Clock()
    certificates = await leading(place, clock)
    [first] = authority.load(data(place, AUTHORITY))
    clock.now += 250 * DAY
    await certificates.load()
    new, old = authority.load(data(place, AUTHORITY))
    assert old.certificate == first.certificate
    for held in (gateways(place), certificates.identity):
        assert held.roots == authority.roots((new, old))
        x509.load_pem_x509_certificate(held.certificate).verify_directly_issued_by(old.certificate)
    clock.now += authority.SETTLE
    await certificates.load()
    for held in (gateways(place), certificates.identity):
        x509.load_pem_x509_certificate(held.certificate).verify_directly_issued_by(new.certificate)
    clock.now = NOW + 366 * DAY
    await certificates.load()
    assert gateways(place).roots == certificates.identity.roots == authority.roots((new,))


@pytest.mark.parametrize("name", [AUTHORITY, GATEWAY])
async def test_what_somebody_empties_is_made_anew(place: Place, name: str) -> None:
    """Which is also how one has everything made anew after a leak."""
    apply(place)
    clock = Clock()
    certificates = await leading(place, clock)
    before = gateways(place)
    clear(place, name)
    await certificates.load()
    kept = authority.load(data(place, AUTHORITY))
    assert gateways(place).key != before.key
    assert (gateways(place).roots != before.roots) == (name == AUTHORITY)
    assert not authority.due(gateways(place), kept, GATEWAY_NAME, NOW)
    assert not authority.due(certificates.identity, kept, OPERATOR_NAME, NOW)


async def test_what_cannot_be_read_is_told_and_made_anew(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    apply(place)
    patch = json.dumps({"data": {"tls.crt": base64.b64encode(b"x").decode(), "tls.key": "eQ=="}})
    place.server.kubectl("patch", "secret", AUTHORITY, "-n", place.namespace, "--type=merge", "-p", patch)
    with caplog.at_level(logging.ERROR):
        await leading(place, Clock())
    assert "tls.crt and tls.key are no certificates and keys" in caplog.text
    assert len(authority.load(data(place, AUTHORITY))) == 1


async def test_without_the_secrets_it_serves_and_says_so_once(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with caplog.at_level(logging.ERROR):
        certificates = await leading(place, clock)
        await certificates.load()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    for name, message in zip((AUTHORITY, GATEWAY), told, strict=True):
        assert f"Secret {place.namespace}/{name}" in message and "apply the manifests again" in message
    assert place.writes() == []
    assert authority.ends(certificates.identity.certificate) == NOW + authority.CERTIFICATE_LIFE
    apply(place)
    await certificates.load()
    assert gateways(place).roots == certificates.identity.roots


async def test_of_two_who_write_at_once_both_end_with_one_authority(place: Place) -> None:
    apply(place)
    first = Certificates(place.kube, place.namespace, clock=Clock())
    second = Certificates(place.other, place.namespace, clock=Clock())
    read = first._read
    meddled = False

    async def read_then_meddle(name: str) -> Obj | None:
        nonlocal meddled
        found = await read(name)
        if not meddled:
            meddled = True
            await second.load()
        return found

    first._read = read_then_meddle  # type: ignore[method-assign]
    await first.load()
    assert first.identity.roots == second.identity.roots == authority.roots(authority.load(data(place, AUTHORITY)))


async def test_keys_are_in_no_log(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    apply(place)
    with caplog.at_level(logging.DEBUG, logger="spillway"):
        certificates = await leading(place, Clock())
        clear(place, AUTHORITY)
        await certificates.load()
    text = "".join(str(record.__dict__) for record in caplog.records if record.name.startswith("spillway"))
    assert "certificates renewed" in text
    assert "PRIVATE KEY" not in text and "LS0tLS1CRUdJTi" not in text
