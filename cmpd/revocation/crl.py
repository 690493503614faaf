"""CRLs of other PKIs: what one says, for which certificates, and whether it may be believed (RFC 5280 §5, §6.3.3).

A CRL that is only a part of the truth is told apart from one that is all of it: delta CRLs, indirect CRLs, and those
limited to some reasons or to attribute certificates say nothing here; those limited to the certificates of users, of
CAs, or of one distribution point say it of these only.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import CRLEntryExtensionOID, ExtensionOID

from cmpd import asn1
from cmpd.asn1 import certificate as fields
from cmpd.asn1 import der
from cmpd.errors import BadAlg
from cmpd.limits import Limits
from cmpd.protection import signature
from cmpd.revocation.answer import SKEW, Unusable

_PEM = re.compile(rb"-----BEGIN X509 CRL-----([A-Za-z0-9+/=\s]*)-----END X509 CRL-----")
_UNDERSTOOD = frozenset(
    {
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.CRL_NUMBER,
        ExtensionOID.ISSUER_ALTERNATIVE_NAME,
        ExtensionOID.ISSUING_DISTRIBUTION_POINT,
        ExtensionOID.AUTHORITY_INFORMATION_ACCESS,
        ExtensionOID.FRESHEST_CRL,
    }
)
_ENTRY_UNDERSTOOD = frozenset({CRLEntryExtensionOID.CRL_REASON, CRLEntryExtensionOID.INVALIDITY_DATE})
_CRITICAL = b"\x01\x01\xff"
"""`critical TRUE` of an extension."""
_UNREADABLE = (
    ValueError,
    TypeError,
    OverflowError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class CRL:
    """A CRL that has been read; who signed it is not yet known."""

    issuer: bytes
    """Name, DER."""
    this_update: datetime
    next_update: datetime
    size: int
    """Octets."""
    only_users: bool
    only_cas: bool
    names: frozenset[bytes] | None
    """The distribution point it is for: its GeneralNames, as `_name_key` has them; None: all of the issuer's."""
    serials: frozenset[int]
    """Everything that has an entry."""
    _crl: x509.CertificateRevocationList = field(repr=False)
    _der: bytes = field(repr=False)
    _tbs: slice
    _algorithm: asn1.AlgorithmIdentifier = field(repr=False)

    def check_scope(self, certificate: x509.Certificate, issuer: x509.Certificate) -> None:
        """Is it by the certificate's issuer, and for this certificate? Raises Unusable (RFC 5280 §6.3.3 (b))."""
        if self.issuer != certificate.issuer.public_bytes():
            raise Unusable("the CRL is by another issuer")
        if self.only_users or self.only_cas:
            is_ca = _is_ca(certificate)
            if (self.only_users and is_ca) or (self.only_cas and not is_ca):
                raise Unusable("the CRL is for " + ("users' certificates only" if self.only_users else "CAs only"))
        if self.names is not None and self.names.isdisjoint(map(_name_key, _points(certificate))):
            raise Unusable("the CRL is for a distribution point that the certificate does not name")
        try:
            usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
        except x509.ExtensionNotFound:
            return
        if not usage.crl_sign:
            raise Unusable("the issuer may not sign CRLs (keyUsage cRLSign)")

    def check_time(self, now: datetime, good_until: datetime) -> None:
        """Is it current? Raises Unusable."""
        if self.this_update > now + SKEW:
            raise Unusable(f"the CRL is not valid before {self.this_update:%Y-%m-%dT%H:%M:%SZ}")
        if now >= good_until:
            raise Unusable(f"the CRL expired at {self.next_update:%Y-%m-%dT%H:%M:%SZ}")

    def check_signature(self, issuer: x509.Certificate, limits: Limits) -> None:
        """Has the issuer signed it? Raises Unusable. It takes time in proportion to its size."""
        try:
            key = signature.accept_public_key(issuer.public_key(), limits)
            signature.verify(self._algorithm, key, self._crl.signature, self._der[self._tbs])
        except signature.InvalidSignature:
            raise Unusable("the signature of the CRL does not verify with its issuer's key") from None
        except (BadAlg, ValueError, signature.UnsupportedAlgorithm) as exc:
            raise Unusable(f"the signature of the CRL cannot be verified: {exc}") from exc

    def revoked(self, serial: int) -> str | None:
        """When and why a certificate was revoked, for the log; None when it was not (RFC 5280 §5.3)."""
        if serial not in self.serials:
            return None
        entry = self._crl.get_revoked_certificate_by_serial_number(serial)
        assert entry is not None
        reason = x509.ReasonFlags.unspecified
        try:
            reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
        except x509.ExtensionNotFound:
            pass
        except _UNREADABLE:
            return f"at {entry.revocation_date_utc:%Y-%m-%dT%H:%M:%SZ}, reason unreadable"
        if reason is x509.ReasonFlags.remove_from_crl:
            return None
        return f"at {entry.revocation_date_utc:%Y-%m-%dT%H:%M:%SZ}, {reason.value}"


def read(data: bytes) -> CRL:
    """Read a CRL, DER or PEM. Raises Unusable. It takes time in proportion to its size."""
    try:
        return _read(_der(data))
    except _UNREADABLE as exc:
        if isinstance(exc, Unusable):
            raise
        raise Unusable(f"the CRL cannot be read: {exc}") from exc


def _der(data: bytes) -> bytes:
    if b"-----BEGIN" not in data[:4096]:
        return data
    found = _PEM.search(data)
    if found is None:
        raise Unusable("the file is PEM without an X509 CRL")
    try:
        return base64.b64decode(b"".join(found[1].split()), validate=True)
    except binascii.Error as exc:
        raise Unusable(f"the CRL is no base64: {exc}") from exc


def _read(data: bytes) -> CRL:
    crl = x509.load_der_x509_crl(data)
    if crl.next_update_utc is None:
        raise Unusable("the CRL does not say when the next one comes (nextUpdate)")
    tbs, entries = _parts(data)
    only_users = only_cas = False
    names: frozenset[bytes] | None = None
    for extension in crl.extensions:
        if extension.oid == ExtensionOID.DELTA_CRL_INDICATOR:
            raise Unusable("it is a delta CRL")
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise Unusable(f"the CRL has the unknown critical extension {extension.oid.dotted_string}")
        if isinstance(extension.value, x509.IssuingDistributionPoint):
            point = extension.value
            if point.indirect_crl or point.only_some_reasons or point.only_contains_attribute_certs:
                raise Unusable("the CRL is indirect, or for some reasons or attribute certificates only")
            if point.relative_name is not None:
                raise Unusable("the CRL is for a distribution point with a relative name")
            only_users, only_cas = point.only_contains_user_certs, point.only_contains_ca_certs
            if point.full_name is not None:
                names = frozenset(map(_name_key, point.full_name))
    return CRL(
        issuer=crl.issuer.public_bytes(),
        this_update=crl.last_update_utc,
        next_update=crl.next_update_utc,
        size=len(data),
        only_users=only_users,
        only_cas=only_cas,
        names=names,
        serials=frozenset(_serials(crl, critical=data.find(_CRITICAL, entries.start, entries.stop) >= 0)),
        _crl=crl,
        _der=data,
        _tbs=tbs,
        _algorithm=signature.signature_algorithm(data),
    )


def _parts(data: bytes) -> tuple[slice, slice]:
    """Where tbsCertList is, and its revokedCertificates (RFC 5280 §5.1)."""
    _, start, _ = der.read(data)
    _, pos, end = der.read(data, start)
    found: list[tuple[int, int, int]] = []
    while pos < end:
        tag, _, after = der.read(data, pos)
        found.append((tag, pos, after))
        pos = after
    # SEQUENCEs are the signature algorithm, the issuer's name, and then they
    sequences = [one for one in found if one[0] == der.SEQUENCE]
    _, *entries = sequences[2] if len(sequences) > 2 else (0, end, end)
    return slice(start, end), slice(*entries)


def _serials(crl: x509.CertificateRevocationList, *, critical: bool) -> Iterator[int]:
    """Every entry's number. A critical extension of an entry that is not understood: Unusable (RFC 5280 §5.3)."""
    for entry in crl:
        if critical:
            for extension in entry.extensions:
                if extension.critical and extension.oid not in _ENTRY_UNDERSTOOD:
                    raise Unusable(f"an entry of the CRL has the critical extension {extension.oid.dotted_string}")
        yield entry.serial_number


def places(certificate: x509.Certificate) -> list[str]:
    """Where a certificate says that its complete CRL is: the http URLs of cRLDistributionPoints (RFC 5280 §4.2.1.13).

    A point for some reasons only, or by another issuer, is left out.
    """
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return []
    return [
        name.value
        for point in points
        if point.reasons is None and point.crl_issuer is None
        for name in point.full_name or ()
        if isinstance(name, x509.UniformResourceIdentifier) and name.value.lower().startswith("http://")
    ]


def _points(certificate: x509.Certificate) -> list[x509.GeneralName]:
    """All names of all distribution points of a certificate; without any, its issuer (RFC 5280 §6.3.3)."""
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return [x509.DirectoryName(certificate.issuer)]
    return [name for point in points for name in (*(point.full_name or ()), *(point.crl_issuer or ()))]


def _name_key(name: x509.GeneralName) -> bytes:
    if isinstance(name, x509.DirectoryName):
        return b"dn:" + name.value.public_bytes()
    return f"{type(name).__name__}:{name.value}".encode()


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def key_of(certificate: x509.Certificate) -> bytes:
    """The public key of an issuer, to remember whose signature has been verified."""
    return fields.spki(certificate.public_bytes(Encoding.DER))
