"""Path validation of CMP protection certificates (RFC 5280 §6.1, RFC 9483 §3.5).

Every signature algorithm that protects a message may also sign a certificate here, EdDSA and ML-DSA included. What this
validation does not implement it refuses rather than skips: name constraints and unknown critical extensions.
The work is bounded: `limits.chain_length` certificates a path, and no more than `MAX_SIGNATURES` signatures a search.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID

from cmpd import asn1
from cmpd.asn1 import der
from cmpd.errors import BadAlg, SignerNotTrusted
from cmpd.limits import Limits
from cmpd.protection import signature

MAX_SIGNATURES = 16
"""Signatures checked while one path is looked for; hostile extraCerts could otherwise ask for factorially many."""
_NO_PATH = "the CMP protection certificate does not validate to a trust anchor"

_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.ISSUER_ALTERNATIVE_NAME,
        ExtensionOID.CERTIFICATE_POLICIES,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.CRL_DISTRIBUTION_POINTS,
        ExtensionOID.AUTHORITY_INFORMATION_ACCESS,
    }
)

_NO_GRACE = timedelta()
_NEVER = datetime.max.replace(tzinfo=UTC)

_UNREADABLE = (
    ValueError,
    TypeError,
    OverflowError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    signature.UnsupportedAlgorithm,
)


@dataclass(frozen=True, slots=True)
class ValidPath:
    """A validated path: good between the two times, both aware UTC."""

    certificates: tuple[x509.Certificate, ...]
    """The end entity's first, the trust anchor last."""
    not_before: datetime
    not_after: datetime
    issuers_not_after: datetime
    """The end of all but the end entity's."""

    def good_at(self, now: datetime, grace: timedelta = _NO_GRACE) -> bool:
        """Tell whether it is good at a time; the end entity's certificate may have expired `grace` ago."""
        if self.not_before <= now <= self.not_after:
            return True
        if not grace or not self.not_before <= now <= self.issuers_not_after:
            return False
        return now - grace <= self.certificates[0].not_valid_after_utc


def load(data: bytes) -> x509.Certificate:
    """Load a certificate (DER) that is readable in every part that is looked at later; raises ValueError.

    The library reads names and extensions only when they are asked for, and then raises what it likes.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of e.g. a serial number that is not positive (RFC 5280 §4.1.2.2)
            certificate = x509.load_der_x509_certificate(data)
            for name in (certificate.subject, certificate.issuer):
                name.public_bytes()
            _ = certificate.extensions, certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except _UNREADABLE as exc:
        raise ValueError(f"the certificate cannot be read: {exc}") from exc
    _check_outside(data)
    return certificate


def _name(certificate: x509.Certificate) -> str:
    """The subject, for the log."""
    return asn1.name_text(certificate.subject.public_bytes())


def _check_outside(certificate: bytes) -> None:
    """What the certificate's signature does not cover must not vary, for we know a certificate by its hash.

    Both signature algorithms are the same (RFC 5280 §4.1.1.2), and the signature is of whole octets.
    """
    tbs, algorithm, value = der.children(certificate, 3)
    fields = der.children(tbs)
    _, start, _ = der.read(value)
    if algorithm != fields[2 if fields[0][0] == 0xA0 else 1] or value[start] != 0:
        raise ValueError("the certificate's signature is not of the form that the certificate says")


def validate(
    leaf: x509.Certificate,
    untrusted: Sequence[x509.Certificate],
    anchors: Sequence[x509.Certificate],
    limits: Limits,
    now: datetime,
    *,
    allow_sha1: bool = False,
    grace: timedelta = _NO_GRACE,
) -> ValidPath:
    """Find a path from `leaf` to one of `anchors` that is valid at `now`, whatever the order of `untrusted`.

    `leaf`, and it alone, may have expired `grace` ago.
    All of them must come from `load` (RFC 9483 §3.3). Raises SignerNotTrusted; its private part says which certificate
    failed and why.
    """
    search = _Search(untrusted, anchors, limits, now, allow_sha1)
    search.check_certificate(leaf, grace)
    path = search.extend((leaf,))
    if path is None:
        why = "; ".join(dict.fromkeys(search.problems)) or "no issuer found among extraCerts and trust anchors"
        raise SignerNotTrusted(_NO_PATH, private=why)
    issuers_not_after = min((c.not_valid_after_utc for c in path[1:]), default=_NEVER)
    return ValidPath(
        path,
        max(c.not_valid_before_utc for c in path),
        min(leaf.not_valid_after_utc, issuers_not_after),
        issuers_not_after,
    )


def _intermediates(path: Sequence[x509.Certificate]) -> int:
    """How many CA certificates are in an unfinished path; self-issued ones do not count (RFC 5280 §6.1.4 (l))."""
    return sum(certificate.subject != certificate.issuer for certificate in path[1:])


class _Search:
    """One depth-first search with its budget."""

    def __init__(
        self,
        untrusted: Sequence[x509.Certificate],
        anchors: Sequence[x509.Certificate],
        limits: Limits,
        now: datetime,
        allow_sha1: bool,
    ) -> None:
        self._untrusted = untrusted
        self._anchors = anchors
        self._limits = limits
        self._now = now
        self._allow_sha1 = allow_sha1
        self._signatures = 0
        self.problems: list[str] = []

    def check_certificate(self, certificate: x509.Certificate, grace: timedelta) -> None:
        """RFC 5280 §6.1.3 (a)(2) and §4.2: validity, and no critical extension that is not understood."""
        problem = self._problem(certificate, grace)
        if problem is not None:
            raise SignerNotTrusted(_NO_PATH, private=problem)

    def extend(self, path: tuple[x509.Certificate, ...]) -> tuple[x509.Certificate, ...] | None:
        """Complete `path` to an anchor, or None."""
        last = path[-1]
        if last in self._anchors:
            return path
        if len(path) >= self._limits.chain_length:
            self.problems.append(f"the path is longer than {self._limits.chain_length} certificates")
            return None
        issuer = last.issuer.public_bytes()
        for trusted, candidates in ((True, self._anchors), (False, self._untrusted)):
            for candidate in candidates:
                if candidate.subject.public_bytes() != issuer or candidate in path:
                    continue
                problem = self._problem(candidate) or self._ca_problem(candidate, _intermediates(path))
                if problem is None and not self._signed(last, candidate):
                    problem = f"the signature of {_name(last)} does not verify"
                if problem is not None:
                    self.problems.append(problem)
                    continue
                longer = (*path, candidate)
                found = longer if trusted else self.extend(longer)
                if found is not None:
                    return found
        return None

    def _problem(self, certificate: x509.Certificate, grace: timedelta = _NO_GRACE) -> str | None:
        if self._now < certificate.not_valid_before_utc:
            return f"{_name(certificate)} is not valid before {certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}"
        if self._now - grace > certificate.not_valid_after_utc:
            return f"{_name(certificate)} expired at {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
        for extension in certificate.extensions:
            if extension.oid == ExtensionOID.NAME_CONSTRAINTS:
                return f"{_name(certificate)} has name constraints, which are not supported"
            if extension.critical and extension.oid not in _UNDERSTOOD:
                return f"{_name(certificate)} has the unknown critical extension {extension.oid.dotted_string}"
        return None

    def _ca_problem(self, certificate: x509.Certificate, below: int) -> str | None:
        """RFC 5280 §6.1.4 (k)(l)(m)(n): a CA, allowed to sign certificates, with `below` CAs under it."""
        extensions = certificate.extensions
        try:
            constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        except x509.ExtensionNotFound:
            return f"{_name(certificate)} is not a CA certificate"
        if not constraints.ca:
            return f"{_name(certificate)} is not a CA certificate"
        if constraints.path_length is not None and below > constraints.path_length:
            return f"the path is longer than the pathLenConstraint of {_name(certificate)}"
        try:
            usage = extensions.get_extension_for_class(x509.KeyUsage).value
        except x509.ExtensionNotFound:
            return None
        return None if usage.key_cert_sign else f"{_name(certificate)} may not sign certificates (keyCertSign)"

    def _signed(self, certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
        if self._signatures >= MAX_SIGNATURES:
            raise SignerNotTrusted(_NO_PATH, private=f"more than {MAX_SIGNATURES} signatures would have to be checked")
        self._signatures += 1
        try:
            key = signature.accept_public_key(issuer.public_key(), self._limits)
            algorithm = signature.signature_algorithm(certificate.public_bytes(Encoding.DER))
            signature.verify(
                algorithm, key, certificate.signature, certificate.tbs_certificate_bytes, allow_sha1=self._allow_sha1
            )
        except (signature.InvalidSignature, BadAlg, ValueError, signature.UnsupportedAlgorithm):
            return False
        return True
