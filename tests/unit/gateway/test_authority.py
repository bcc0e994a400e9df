"""Who signs, until when, and what counts as due."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from spillway.gateway import authority
from spillway.gateway.authority import CERTIFICATE_LIFE, SETTLE, Authority, Identity
from spillway.gateway.names import GATEWAY_NAME, OPERATOR_NAME

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
DAY = timedelta(days=1)
SIDES = (OPERATOR_NAME, GATEWAY_NAME)


def certificate(identity: Identity) -> x509.Certificate:
    return x509.load_pem_x509_certificate(identity.certificate)


def began(authorities: tuple[Authority, ...]) -> list[datetime]:
    return [a.certificate.not_valid_before_utc for a in authorities]


@pytest.fixture(scope="module")
def first() -> tuple[Authority, ...]:
    return authority.renewed((), NOW)


def test_the_first_authority_signs_at_once(first: tuple[Authority, ...]) -> None:
    assert len(first) == 1
    for name, usage in zip(SIDES, (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH), strict=True):
        identity = authority.issue(first, name, NOW)
        found = certificate(identity)
        found.verify_directly_issued_by(first[0].certificate)
        extensions = found.extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [name]
        assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [usage]
        assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert found.not_valid_after_utc - NOW == CERTIFICATE_LIFE
        assert identity.roots == authority.roots(first)


def test_nobody_else_gets_a_certificate(first: tuple[Authority, ...]) -> None:
    with pytest.raises(KeyError):
        authority.issue(first, "zai.example.com", NOW)


def test_every_key_is_new(first: tuple[Authority, ...]) -> None:
    assert authority.issue(first, GATEWAY_NAME, NOW).key != authority.issue(first, GATEWAY_NAME, NOW).key


@pytest.mark.parametrize(("days", "number"), [(0, 1), (243, 1), (244, 2), (364, 2), (365, 1), (9999, 1)])
def test_an_authority_gets_a_successor_before_it_ends_and_goes_with_its_end(
    first: tuple[Authority, ...], days: int, number: int
) -> None:
    then = authority.renewed(first, NOW + days * DAY)
    assert len(then) == number
    assert began(then) == sorted(began(then), reverse=True)
    assert (first[0].certificate in [a.certificate for a in then]) == (days < 365)
    assert authority.roots(authority.renewed(then, NOW + days * DAY)) == authority.roots(then)


def test_a_successor_is_trusted_before_it_signs(first: tuple[Authority, ...]) -> None:
    day = NOW + 250 * DAY
    both = authority.renewed(first, day)
    assert authority.issuer(both, day) is both[1]
    assert authority.issuer(both, day + SETTLE - timedelta(seconds=1)) is both[1]
    assert authority.issuer(both, day + SETTLE) is both[0]
    held = authority.issue(both, GATEWAY_NAME, day)
    assert held.roots.count(b"BEGIN CERTIFICATE") == 2
    assert not authority.due(held, both, GATEWAY_NAME, day + SETTLE - timedelta(seconds=1))
    assert authority.due(held, both, GATEWAY_NAME, day + SETTLE)


def test_over_ten_years_there_is_always_one_that_signs_and_is_trusted() -> None:
    """Looked at every day; whoever has not looked for a day still knows the one that signed."""
    authorities: tuple[Authority, ...] = ()
    held, known = None, b""
    for day in range(3650):
        now = NOW + day * DAY
        authorities = authority.renewed(authorities, now)
        if held is None or authority.due(held, authorities, GATEWAY_NAME, now):
            held = authority.issue(authorities, GATEWAY_NAME, now)
        signed = authority.issuer(authorities, now).certificate
        assert now + 9 * DAY < certificate(held).not_valid_after_utc <= signed.not_valid_after_utc
        assert not known or signed in x509.load_pem_x509_certificates(known)
        known = held.roots
    assert len(authorities) <= 2


@pytest.mark.parametrize(("days", "is_due"), [(0, False), (19, False), (20, True), (31, True)])
def test_a_certificate_is_renewed_with_a_third_of_its_life_left(
    first: tuple[Authority, ...], days: int, is_due: bool
) -> None:
    held = authority.issue(first, OPERATOR_NAME, NOW)
    assert authority.due(held, first, OPERATOR_NAME, NOW + days * DAY) is is_due


def test_what_is_not_ours_is_due(first: tuple[Authority, ...]) -> None:
    held = authority.issue(first, GATEWAY_NAME, NOW)
    other = authority.renewed((), NOW)
    assert not authority.due(held, first, GATEWAY_NAME, NOW)
    for wrong in (
        Identity(b"", b"", b""),
        replace(held, certificate=b"nonsense"),
        replace(held, key=b"nonsense"),
        replace(held, key=authority.issue(first, GATEWAY_NAME, NOW).key),
        replace(held, roots=b""),
        authority.issue(first, OPERATOR_NAME, NOW),
        authority.issue(other, GATEWAY_NAME, NOW),
    ):
        assert authority.due(wrong, first, GATEWAY_NAME, NOW)


def test_what_is_kept_is_read_again(first: tuple[Authority, ...]) -> None:
    both = authority.renewed(first, NOW + 250 * DAY)
    again = authority.load(authority.dump(both))
    assert authority.roots(again) == authority.roots(both)
    assert not authority.due(authority.issue(again, GATEWAY_NAME, NOW), both, GATEWAY_NAME, NOW)
    assert authority.load({}) == ()


def test_what_cannot_be_read_is_told(first: tuple[Authority, ...]) -> None:
    both = authority.dump(authority.renewed(first, NOW + 250 * DAY))
    one = authority.dump(first)
    for data, words in (
        ({"tls.crt": b"x", "tls.key": b"y"}, "are no certificates and keys"),
        ({"tls.crt": one["tls.crt"]}, "are no certificates and keys"),
        ({**one, "tls.key": b""}, "has 1 certificates"),
        ({**one, "tls.crt": both["tls.crt"]}, "does not belong"),
        ({**both, "tls.crt": one["tls.crt"]}, "does not belong"),
    ):
        with pytest.raises(authority.UnreadableAuthority, match=words):
            authority.load(data)
