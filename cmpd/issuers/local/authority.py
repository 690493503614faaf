"""Certificates and CRLs of one CA key, written as DER (RFC 5280 §4.1, §5.1).

Everything that is the same in all of them is encoded once. A certificate written like this costs a third of what
`cryptography`'s CertificateBuilder takes, which is in the path of every request.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from cryptography.x509.oid import (
    AuthorityInformationAccessOID,
    CRLEntryExtensionOID,
    ExtensionOID,
    ObjectIdentifier,
)

from cmpd.asn1 import der
from cmpd.exchange import RequestedExtension, RevocationReason
from cmpd.issuers.local.keys import CAKey, Signer
from cmpd.ports import Entropy, Revocation

_SERIAL_OCTETS = 16
_V3 = der.explicit(0, der.integer(2))
_V2 = der.integer(1)
_GENERATED = frozenset(
    {
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    }
)
"""Set by the CA, and by nobody else."""
_CRITICAL = der.boolean(True)


class UnissuableError(Exception):
    """What was asked for does not make a certificate."""


def key_identifier(spki: bytes) -> bytes:
    """The subjectKeyIdentifier of a key: RFC 7093 §2 method 1, the first 160 bits of the SHA-256 of the key's bits.

    Not the SHA-1 of RFC 5280 §4.2.1.2: that hash is switched off on more and more systems, and both are as short.
    Raises `UnissuableError` when `spki` is not a SubjectPublicKeyInfo.
    """
    try:
        _, start, end = der.read(spki)
        _, _, key_start = der.read(spki, start)
        tag, bits_start, bits_end = der.read(spki, key_start)
    except der.MalformedError as error:
        raise UnissuableError(f"subjectPublicKeyInfo: {error}") from None
    if end != len(spki) or bits_end != end or tag != 0x03 or bits_end - bits_start < 2 or spki[0] != 0x30:
        raise UnissuableError("subjectPublicKeyInfo: not a SEQUENCE of an algorithm and a BIT STRING")
    return hashlib.sha256(spki[bits_start + 1 : bits_end]).digest()[:20]


def _tag(data: bytes) -> int | None:
    """The tag of the one element that `data` is; None when it is not one element."""
    try:
        tag, _, end = der.read(data)
    except der.MalformedError:
        return None
    return tag if end == len(data) else None


def extension(oid: ObjectIdentifier, value: bytes, *, critical: bool = False) -> bytes:
    """DER of an Extension; FALSE is the default and left out."""
    return der.sequence(der.oid(oid), _CRITICAL if critical else b"", der.octet_string(value))


def _uri(url: str) -> bytes:
    return der.tlv(0x86, url.encode("ascii"))


def _distribution_point(url: str) -> bytes:
    # CRLDistributionPoints ::= SEQUENCE OF { distributionPoint [0] EXPLICIT { fullName [0] GeneralNames } … }
    point = der.explicit(0, der.tlv(0xA0, _uri(url)))
    return extension(ExtensionOID.CRL_DISTRIBUTION_POINTS, der.sequence(der.sequence(point)))


def _ca_issuers(url: str) -> bytes:
    access = der.sequence(der.oid(AuthorityInformationAccessOID.CA_ISSUERS), _uri(url))
    return extension(ExtensionOID.AUTHORITY_INFORMATION_ACCESS, der.sequence(access))


_SKI_HEAD = der.oid(ExtensionOID.SUBJECT_KEY_IDENTIFIER)
_REASONS = {
    reason: der.sequence(extension(CRLEntryExtensionOID.CRL_REASON, der.tlv(0x0A, bytes([reason]))))
    # unspecified is better left out (RFC 5280 §5.3.1); removeFromCRL belongs to delta CRLs only
    if reason not in {RevocationReason.unspecified, RevocationReason.removeFromCRL}
    else b""
    for reason in RevocationReason
}


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A TBSCertificate and its serial number."""

    tbs: bytes
    serial: int


class Authority:
    """A CA's name and key, and what it puts into all that it signs."""

    __slots__ = ("_after_serial", "_aki", "_entropy", "_own", "name", "signer")

    def __init__(
        self,
        key: CAKey,
        name: bytes,
        identifier: bytes,
        *,
        entropy: Entropy,
        crl_url: str = "",
        ca_issuers_url: str = "",
    ) -> None:
        """`name` is the DER of the CA's subject, `identifier` its subjectKeyIdentifier. Raises ValueError (the key)."""
        self.signer = Signer.of(key)
        self.name = name
        self._entropy = entropy
        self._after_serial = self.signer.algorithm + name
        self._aki = extension(ExtensionOID.AUTHORITY_KEY_IDENTIFIER, der.sequence(der.tlv(0x80, identifier)))
        self._own: dict[ObjectIdentifier, bytes] = {}
        """What is added unless the request has its own."""
        if crl_url:
            self._own[ExtensionOID.CRL_DISTRIBUTION_POINTS] = _distribution_point(crl_url)
        if ca_issuers_url:
            self._own[ExtensionOID.AUTHORITY_INFORMATION_ACCESS] = _ca_issuers(ca_issuers_url)

    def prepare(
        self,
        subject: bytes,
        spki: bytes,
        not_before: datetime,
        not_after: datetime,
        extensions: Iterable[RequestedExtension],
    ) -> Unsigned:
        """Write a TBSCertificate with a fresh serial number of 128 random bits.

        The order of extensions: authorityKeyIdentifier, subjectKeyIdentifier, `extensions` as they come, then
        cRLDistributionPoints and authorityInfoAccess unless they are among `extensions`. Raises `UnissuableError`.
        """
        if not_after <= not_before:
            raise UnissuableError(f"validity: notAfter {not_after:%Y-%m-%dT%H:%M:%SZ} is not later than notBefore")
        if _tag(subject) != der.SEQUENCE:
            raise UnissuableError("subject: not one SEQUENCE")
        parts = [
            self._aki,
            der.sequence(_SKI_HEAD, der.octet_string(der.octet_string(key_identifier(spki)))),
        ]
        seen = set(_GENERATED)
        for one in extensions:
            if one.oid in seen:
                raise UnissuableError(f"extension {one.oid.dotted_string} is there twice, or the issuer's own to set")
            seen.add(one.oid)
            parts.append(extension(one.oid, one.value, critical=one.critical))
        parts.extend(own for oid, own in self._own.items() if oid not in seen)
        serial = 0
        while not serial:
            serial = int.from_bytes(self._entropy(_SERIAL_OCTETS))
        tbs = der.sequence(
            _V3,
            der.integer(serial),
            self._after_serial,
            der.sequence(der.x509_time(not_before), der.x509_time(not_after)),
            subject,
            spki,
            der.explicit(3, der.sequence(*parts)),
        )
        return Unsigned(tbs, serial)

    def signed(self, tbs: bytes, signature: bytes) -> bytes:
        """DER of SIGNED{…}: what was signed, the algorithm and the signature."""
        return der.sequence(tbs, self.signer.algorithm, der.bit_string(signature))

    def certificate(
        self,
        subject: bytes,
        spki: bytes,
        not_before: datetime,
        not_after: datetime,
        extensions: Iterable[RequestedExtension],
    ) -> bytes:
        """DER of a whole certificate, signed at once. Raises `UnissuableError`."""
        tbs = self.prepare(subject, spki, not_before, not_after, extensions).tbs
        return self.signed(tbs, self.signer.sign(tbs))

    def crl(self, revoked: Iterable[Revocation], number: int, this_update: datetime, next_update: datetime) -> bytes:
        """DER of a complete CRL, version 2, with authorityKeyIdentifier and cRLNumber (RFC 5280 §5.1, §5.2)."""
        entries = b"".join(
            der.sequence(der.integer(one.serial), der.x509_time(one.at), _REASONS[one.reason])
            for one in sorted(revoked, key=lambda one: (one.at, one.serial))
        )
        extensions = der.sequence(self._aki, extension(ExtensionOID.CRL_NUMBER, der.integer(number)))
        tbs = der.sequence(
            _V2,
            self.signer.algorithm,
            self.name,
            der.x509_time(this_update),
            der.x509_time(next_update),
            der.sequence(entries) if entries else b"",  # an empty list MUST be absent (RFC 5280 §5.1.2.6)
            der.explicit(0, extensions),
        )
        return self.signed(tbs, self.signer.sign(tbs))
