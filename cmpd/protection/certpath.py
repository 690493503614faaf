"""Path validation of clients' certificates (RFC 5280 §6.1, RFC 9483 §3.5).

Two judge a path, and both must find it good. The search here finds it among certificates in any order, and checks
signatures, times, cA, keyCertSign, pathLenConstraint and critical extensions on its way. `cryptography`'s verifier then
judges the path that was found, with the policy below: certificates as CMP has them, not as web browsers want them.
Name constraints are for the verifier alone; of the forms of name it does not judge, a path is refused.

The search alone decides where the verifier has no opinion but "not in the Web PKI" (`_beyond_the_verifier`): a CA with
an EdDSA key or on a curve of its own, SHA-1 (where the profile allows it) and SHA-224, unusual RSASSA-PSS parameters,
self-issued CA certificates, and certificates whose version, serial number or times are encoded as some devices do it.
Such a path with name constraints is refused. A certificate that is itself a trust anchor needs no path.

The work is bounded: `limits.chain_length` certificates a path, no more than `MAX_SIGNATURES` signatures a search, and
no more than `MAX_JUDGEMENTS` paths for the verifier.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification
from cryptography.x509.oid import ExtensionOID, NameOID

from cmpd import asn1
from cmpd.asn1 import certificate as fields
from cmpd.asn1 import der, oids
from cmpd.errors import BadAlg, SignerNotTrusted
from cmpd.limits import Limits
from cmpd.protection import signature

MAX_SIGNATURES = 16
"""Signatures checked while one path is looked for; hostile extraCerts could otherwise ask for factorially many."""
MAX_JUDGEMENTS = 4
"""Paths put before the verifier in one search; each costs it as many signatures as the path has."""
CMP_CERTIFICATE = "the CMP protection certificate"
TLS_CERTIFICATE = "the TLS client certificate"

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
        ExtensionOID.NAME_CONSTRAINTS,  # by the verifier, or the path is refused
    }
)

_POLICY = verification.ExtensionPolicy.permit_all()
for _extension in (x509.CertificatePolicies, x509.CRLDistributionPoints, x509.IssuerAlternativeName):
    # so that it lets them be critical: they are understood, or concern revocation, which is looked at elsewhere
    _POLICY = _POLICY.may_be_present(_extension, verification.Criticality.AGNOSTIC, None)
_CA_POLICY = _POLICY.require_present(x509.BasicConstraints, verification.Criticality.AGNOSTIC, None)


def _pss(oid: x509.ObjectIdentifier, salt: int) -> bytes:
    digest = der.sequence(der.oid(oid), der.null())
    mgf = der.sequence(der.oid(oids.MGF1), digest)
    return der.sequence(
        der.oid(oids.RSASSA_PSS),
        der.sequence(der.explicit(0, digest), der.explicit(1, mgf), der.explicit(2, der.integer(salt))),
    )


_ML_DSA = [der.sequence(der.oid(oid)) for oid in (oids.ML_DSA_44, oids.ML_DSA_65, oids.ML_DSA_87)]
_JUDGED_SIGNATURES = frozenset(
    [
        *(der.sequence(der.oid(oid), der.null()) for oid in (oids.RSA_SHA256, oids.RSA_SHA384, oids.RSA_SHA512)),
        *(der.sequence(der.oid(oid)) for oid in (oids.ECDSA_SHA256, oids.ECDSA_SHA384, oids.ECDSA_SHA512)),
        *(_pss(oid, size) for oid, size in ((oids.SHA256, 32), (oids.SHA384, 48), (oids.SHA512, 64))),
        *_ML_DSA,
    ]
)
"""The signature algorithms (DER) that the verifier knows."""
_JUDGED_KEYS = frozenset(
    [
        der.sequence(der.oid(oids.RSA_ENCRYPTION), der.null()),
        *(
            der.sequence(der.oid(oids.EC_PUBLIC_KEY), der.oid(curve))
            for curve in (oids.SECP256R1, oids.SECP384R1, oids.SECP521R1)
        ),
        *_ML_DSA,
    ]
)
"""The algorithms (DER) of CA keys that the verifier knows."""
_MAX_SERIAL_OCTETS = 20

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
    what: str = CMP_CERTIFICATE,
) -> ValidPath:
    """Find a path from `leaf` to one of `anchors` that is valid at `now`, whatever the order of `untrusted`.

    `leaf`, and it alone, may have expired `grace` ago.
    All of them must come from `load` (RFC 9483 §3.3). Raises SignerNotTrusted: its text names `what`, its private part
    says which certificate failed and why.
    """
    search = _Search(untrusted, anchors, limits, now, allow_sha1, f"{what} does not validate to a trust anchor")
    search.check_certificate(leaf, grace)
    path = search.extend((leaf,))
    if path is None:
        why = "; ".join(dict.fromkeys(search.problems)) or "no issuer found among extraCerts and trust anchors"
        raise SignerNotTrusted(search.no_path, private=why)
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
        no_path: str,
    ) -> None:
        self.no_path = no_path
        self._untrusted = untrusted
        self._anchors = anchors
        self._limits = limits
        self._now = now
        self._allow_sha1 = allow_sha1
        self._signatures = 0
        self._judgements = 0
        self.problems: list[str] = []

    def check_certificate(self, certificate: x509.Certificate, grace: timedelta) -> None:
        """RFC 5280 §6.1.3 (a)(2) and §4.2: validity, and no critical extension that is not understood."""
        problem = self._problem(certificate, grace)
        if problem is None and _name_constraints(certificate) is not None:
            problem = f"{_name(certificate)} has name constraints and is no CA certificate of the path"
        if problem is not None:
            raise SignerNotTrusted(self.no_path, private=problem)

    def extend(self, path: tuple[x509.Certificate, ...]) -> tuple[x509.Certificate, ...] | None:
        """Complete `path` to an anchor, or None."""
        last = path[-1]
        if len(path) == 1 and last in self._anchors:
            return path
        if len(path) >= self._limits.chain_length:
            self.problems.append(f"the path is longer than {self._limits.chain_length} certificates")
            return None
        issuer = last.issuer.public_bytes()
        for trusted, candidates in ((True, self._anchors), (False, self._untrusted)):
            for candidate in candidates:
                if candidate.subject.public_bytes() != issuer or candidate in path:
                    continue
                if not trusted and candidate in self._anchors:
                    continue  # it has had its turn, and was refused
                problem = self._problem(candidate) or self._ca_problem(candidate, _intermediates(path))
                if problem is None and not self._signed(last, candidate):
                    problem = f"the signature of {_name(last)} does not verify"
                if problem is not None:
                    self.problems.append(problem)
                    continue
                longer = (*path, candidate)
                if not trusted:
                    found = self.extend(longer)
                    if found is not None:
                        return found
                elif (problem := self._verdict(longer)) is None:
                    return longer
                else:
                    self.problems.append(problem)
        return None

    def _verdict(self, path: tuple[x509.Certificate, ...]) -> str | None:
        """What the verifier has against a path from an end entity to a trust anchor, or None."""
        moment = min(self._now, path[0].not_valid_after_utc)  # within its grace it is judged by its last moment
        beyond = _beyond_the_verifier(path, moment)
        constrained = _constrained(path)
        if constrained is not None:
            unjudged = beyond or _unjudged_names(path)
            if unjudged is not None:
                return f"{_name(constrained)} has name constraints, which are not supported with {unjudged}"
        if beyond is not None:
            return None
        if self._judgements >= MAX_JUDGEMENTS:
            raise SignerNotTrusted(self.no_path, private=f"more than {MAX_JUDGEMENTS} paths were refused")
        self._judgements += 1
        try:
            _judge(path, moment)
        except verification.VerificationError as exc:
            return f"the path of {_name(path[0])} is refused: {str(exc)[:200]}"
        except _UNREADABLE as exc:
            return f"the path of {_name(path[0])} cannot be verified: {exc}"
        return None

    def _problem(self, certificate: x509.Certificate, grace: timedelta = _NO_GRACE) -> str | None:
        if self._now < certificate.not_valid_before_utc:
            return f"{_name(certificate)} is not valid before {certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}"
        if self._now - grace > certificate.not_valid_after_utc:
            return f"{_name(certificate)} expired at {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
        for extension in certificate.extensions:
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
            raise SignerNotTrusted(
                self.no_path, private=f"more than {MAX_SIGNATURES} signatures would have to be checked"
            )
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


# ----------------------------------------------------------------------------------------- the library's verifier


def _judge(path: Sequence[x509.Certificate], moment: datetime) -> None:
    """Put a path before the library's verifier; raises VerificationError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (
            verification.PolicyBuilder()
            .store(verification.Store([path[-1]]))
            .time(moment)
            .max_chain_depth(len(path))
            .extension_policies(ca_policy=_CA_POLICY, ee_policy=_POLICY)
            .build_client_verifier()
            .verify(path[0], list(path[1:-1]))
        )


def _beyond_the_verifier(path: Sequence[x509.Certificate], moment: datetime) -> str | None:
    """Why the verifier would refuse the path without having looked at it, or None."""
    for number, certificate in enumerate(path):
        if certificate.not_valid_before_utc > moment:
            return f"{_name(certificate)} newer than the end of the certificate below it"
        problem = _unusual(certificate, is_ca=number > 0, is_anchor=number == len(path) - 1)
        if problem is not None:
            return f"{problem} of {_name(certificate)}"
    if any(certificate.subject == certificate.issuer for certificate in path[1:-1]):
        return "self-issued CA certificates, which it counts for pathLenConstraint (RFC 5280 §6.1.4 (l))"
    return None


def _unusual(certificate: x509.Certificate, *, is_ca: bool, is_anchor: bool) -> str | None:
    """What the verifier does not know, or does not take, that is no fault here."""
    encoded = certificate.public_bytes(Encoding.DER)
    parts = fields.tbs(encoded)
    algorithm, key_algorithm = parts[1], der.children(parts[5], 2)[0]
    if not is_anchor and algorithm not in _JUDGED_SIGNATURES:  # nobody looks at a trust anchor's own signature
        return "the signature algorithm"
    if is_ca and key_algorithm not in _JUDGED_KEYS:
        return "the public key algorithm"
    if certificate.version is not x509.Version.v3:
        return "the version"
    if not 0 <= fields.serial(encoded) < 1 << 8 * _MAX_SERIAL_OCTETS:
        return "the serial number"
    times = der.x509_time(certificate.not_valid_before_utc), der.x509_time(certificate.not_valid_after_utc)
    if parts[3] != der.sequence(*times):
        return "the encoding of the validity"
    return None


def _name_constraints(certificate: x509.Certificate) -> x509.NameConstraints | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return None


def _constrained(path: Sequence[x509.Certificate]) -> x509.Certificate | None:
    """The first CA certificate of a path that has name constraints."""
    return next((one for one in path[1:] if _name_constraints(one) is not None), None)


def _constraints(path: Sequence[x509.Certificate]) -> Iterator[x509.GeneralName]:
    for certificate in path[1:]:
        constraints = _name_constraints(certificate)
        if constraints is not None:
            yield from constraints.permitted_subtrees or ()
            yield from constraints.excluded_subtrees or ()


def _unjudged_names(path: Sequence[x509.Certificate]) -> str | None:
    """Names that constraints apply to and that the verifier passes over (RFC 5280 §4.2.1.10).

    It compares dNSName, iPAddress and rfc822Name in subjectAltName, and refuses other forms that are both constrained
    and there; but it does not look into subjects.
    """
    forms = {type(constraint) for constraint in _constraints(path)}
    if x509.DirectoryName in forms:
        return "directoryName"
    if x509.RFC822Name in forms and any(one.subject.get_attributes_for_oid(NameOID.EMAIL_ADDRESS) for one in path):
        return "an emailAddress in a subject"
    return None
