"""The authority of the ADS connection: who signs, until when, and what each side shows to the other.

One authority signs both sides. It is replaced long before it ends, and a successor signs only after it has been trusted
for a while: a gateway learns whom to trust through a mounted Secret, which takes a kubelet up to two minutes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from spillway.gateway.names import GATEWAY_NAME, OPERATOR_NAME

AUTHORITY_LIFE = timedelta(days=365)
CERTIFICATE_LIFE = timedelta(days=30)
SETTLE = timedelta(hours=1)
"""How long a new authority is trusted before it signs."""
_SKEW = timedelta(minutes=5)  # between the clocks of nodes

CERTIFICATES, KEYS = "tls.crt", "tls.key"
ROOTS = "ca.crt"
"""Keys of the Secrets. In the authority's, certificates and keys of all that are trusted, newest first."""

_USAGES = {OPERATOR_NAME: ExtendedKeyUsageOID.SERVER_AUTH, GATEWAY_NAME: ExtendedKeyUsageOID.CLIENT_AUTH}
_KEY = re.compile(rb"-----BEGIN PRIVATE KEY-----.*?-----END PRIVATE KEY-----\n?", re.DOTALL)


class UnreadableAuthority(ValueError):
    """A Secret holds something else than authorities."""


@dataclass(frozen=True)
class Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Identity:
    """One side's certificate and key, and the authorities that it trusts; all PEM."""

    certificate: bytes
    key: bytes
    roots: bytes

    def data(self) -> dict[str, bytes]:
        """As a Secret has it."""
        return {CERTIFICATES: self.certificate, KEYS: self.key, ROOTS: self.roots}


def renewed(authorities: Sequence[Authority], now: datetime) -> tuple[Authority, ...]:
    """Those that have not ended, newest first, with a successor where the newest has less than a third of its life."""
    alive = sorted(
        (a for a in authorities if now < a.certificate.not_valid_after_utc),
        key=lambda a: a.certificate.not_valid_before_utc,
        reverse=True,
    )
    if not alive or _worn(alive[0].certificate, now):
        alive.insert(0, _new_authority(now))
    return tuple(alive)


def issuer(authorities: Sequence[Authority], now: datetime) -> Authority:
    """The newest that gateways had the time to hear of; where there is none, the oldest."""
    settled = [a for a in authorities if now - _began(a.certificate) >= SETTLE]
    return settled[0] if settled else authorities[-1]


def issue(authorities: Sequence[Authority], name: str, now: datetime) -> Identity:
    """A new key and certificate for one side, by its name. Raises KeyError for a name that is neither side's."""
    signing, key = issuer(authorities, now), ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _certificate(name, signing.certificate.subject, key.public_key(), now, CERTIFICATE_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([_USAGES[name]]), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(_identifier_of(signing), critical=False)
        .sign(signing.key, hashes.SHA256())
    )
    return Identity(certificate.public_bytes(serialization.Encoding.PEM), _pem(key), roots(authorities))


def due(identity: Identity, authorities: Sequence[Authority], name: str, now: datetime) -> bool:
    """Whether a side needs a new certificate: less than a third of it is left, it is not by the authority that signs
    now, or its files are not what this side's should be."""
    try:
        certificate = x509.load_pem_x509_certificate(identity.certificate)
        key = serialization.load_pem_private_key(identity.key, None)
        certificate.verify_directly_issued_by(issuer(authorities, now).certificate)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.ExtensionNotFound):
        return True
    return (
        _worn(certificate, now)
        or key.public_key() != certificate.public_key()
        or names.get_values_for_type(x509.DNSName) != [name]
        or identity.roots != roots(authorities)
    )


def roots(authorities: Sequence[Authority]) -> bytes:
    """PEM of all authorities that are trusted."""
    return b"".join(a.certificate.public_bytes(serialization.Encoding.PEM) for a in authorities)


def dump(authorities: Sequence[Authority]) -> dict[str, bytes]:
    """Data of the authorities' Secret."""
    return {CERTIFICATES: roots(authorities), KEYS: b"".join(_pem(a.key) for a in authorities)}


def load(data: Mapping[str, bytes]) -> tuple[Authority, ...]:
    """What `dump` made; nothing from an empty Secret. Raises UnreadableAuthority."""
    if not data:
        return ()
    try:
        certificates = x509.load_pem_x509_certificates(data[CERTIFICATES])
        keys = [serialization.load_pem_private_key(pem, None) for pem in _KEY.findall(data[KEYS])]
    except (KeyError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UnreadableAuthority(f"{CERTIFICATES} and {KEYS} are no certificates and keys: {error}") from error
    found = []
    for certificate, key in zip(certificates, keys, strict=False):
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise UnreadableAuthority(f"a key in {KEYS} does not belong to its certificate in {CERTIFICATES}")
        found.append(Authority(certificate, key))
    if len(found) != len(certificates) or len(found) != len(keys):
        raise UnreadableAuthority(f"{CERTIFICATES} has {len(certificates)} certificates, {KEYS} has {len(keys)} keys")
    return tuple(found)


def ends(pem: bytes) -> datetime:
    """When a certificate ends. Raises ValueError where the PEM holds none."""
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc


def _new_authority(now: datetime) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"spillway-ads {now:%Y-%m-%dT%H:%M:%SZ}")])
    certificate = (
        _certificate(None, subject, key.public_key(), now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def _certificate(
    name: str | None, issued_by: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    subject = issued_by if name is None else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issued_by)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + life)
    )


def _identifier_of(authority: Authority) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())


def _key_usage(digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(digital_signature, False, False, False, False, key_cert_sign, False, False, False)


def _began(certificate: x509.Certificate) -> datetime:
    return certificate.not_valid_before_utc + _SKEW


def _worn(certificate: x509.Certificate, now: datetime) -> bool:
    began, end = _began(certificate), certificate.not_valid_after_utc
    return now >= end - (end - began) / 3


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
