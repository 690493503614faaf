"""What came back held against what was approved: nothing that differs in more than `TOLERATED` is handed out.

The API is asked in its own words and answers with whatever it holds for the order: another certificate of it, names
that were normalised, a chain in any order. So the leaf is found by its key, the chain by signatures, and the content is
compared field by field.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from cmpd.asn1 import MalformedError, certificate
from cmpd.asn1.names import printable
from cmpd.exchange import Approved
from cmpd.issuers.certcentral.content import Content
from cmpd.issuers.certcentral.options import Family, ProfileFacts, is_smime
from cmpd.issuers.certcentral.orders import expected_policy

_DAY: Final = timedelta(days=1)
_SECOND: Final = timedelta(seconds=1)
_CABF: Final = "2.23.140.1."
_LONGEST_CHAIN: Final = 8
_MOST: Final = 32

TOLERATED: Final = {
    "attribute.added": (
        "CertCentral adds what it has validated of the organization, and EV's registration: these attributes may be "
        "there though they were not approved; the organization's name must be the profile's where it has one"
    ),
    "attribute.normalised": (
        "these attributes come from CertCentral's record of the organization: capital letters and spaces may differ"
    ),
    "common_name.added": (
        "CertCentral always makes a common name; where none was approved it may be any that the other names confirm"
    ),
    "subject.order": "CertCentral puts the attributes in an order of its own and writes their strings in its own types",
    "san.order": "CertCentral puts the common name first; hosts and domains may be in small letters",
    "key_usage.tls_rsa": "orders for servers have no field for key usage, and RSA keys always get keyEncipherment",
    "policies.own": "DigiCert's own policies may stand beside the one of the Baseline Requirements",
    "extensions.issuer": "these extensions are the CA's: where its CRL is, who signed, that it was logged",
    "criticality": "whether an extension is critical is the CA's decision",
    "validity.shifted": (
        "it begins at a midnight before the issuance, which may come days after the approval: not when it begins and "
        "ends is compared, but that it is not longer, and no older than the approval"
    ),
}
"""What may differ from what was approved, and why. Everything else is a mismatch."""
ADDED: Final = frozenset(
    {
        "organization_name",
        "organization_identifier",
        "country_name",
        "state_or_province_name",
        "locality_name",
        "postal_code",
        "street_address",
        "serial_number",
        "2.5.4.15",  # businessCategory
        "1.3.6.1.4.1.311.60.2.1.1",  # jurisdictionLocalityName
        "1.3.6.1.4.1.311.60.2.1.2",  # jurisdictionStateOrProvinceName
        "1.3.6.1.4.1.311.60.2.1.3",  # jurisdictionCountryName
    }
)
"""attribute.added: these."""
NORMALISED: Final = frozenset(
    {
        "organization_name",
        "organization_identifier",
        "country_name",
        "state_or_province_name",
        "locality_name",
        "postal_code",
        "street_address",
    }
)
"""attribute.normalised: these."""
ISSUERS_OWN: Final = frozenset(
    {
        "2.5.29.14",  # subjectKeyIdentifier
        "2.5.29.19",  # basicConstraints, whose content is looked at
        "2.5.29.31",  # cRLDistributionPoints
        "2.5.29.35",  # authorityKeyIdentifier
        "1.3.6.1.5.5.7.1.1",  # authorityInfoAccess
        "1.3.6.1.4.1.11129.2.4.2",  # signed certificate timestamps
    }
)
"""extensions.issuer: these."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What has been found among the certificates that came."""

    leaf: bytes | None
    """DER; None when none of them has the approved key."""
    chain: tuple[bytes, ...] = ()
    """The CA certificates above it, issuing CA first, root last."""
    differences: tuple[str, ...] = ()
    """One phrase each; empty: this is what was approved."""

    @property
    def good(self) -> bool:
        """Whether it may be handed out."""
        return self.leaf is not None and not self.differences


def check(came: Sequence[bytes], approved: Approved, profile: ProfileFacts, kind: Family, *, now: datetime) -> Checked:
    """Find the leaf and its chain among DER certificates in any order, and compare. Never raises."""
    leaf = find_leaf(came, approved.spki)
    if leaf is None:
        return Checked(None, (), (f"key: none of {len(came)} certificates has the key that was approved",))
    chain = build_chain(leaf, came, now)
    differences = [] if chain else ["chain: the signatures do not lead to a root among the certificates that came"]
    try:
        differences += _compare(Content.of_approved(approved), Content.of_certificate(leaf), profile, kind)
        differences += _validity(x509.load_der_x509_certificate(leaf), approved, now)
    except (MalformedError, ValueError) as error:
        differences.append(f"certificate: cannot be read: {error}")
    return Checked(leaf, chain, tuple(printable(one) for one in differences[:_MOST]))


def find_leaf(came: Iterable[bytes], spki: bytes) -> bytes | None:
    """The certificate with a key; None when there is none, or when there are several different ones."""
    found = set()
    for one in came:
        try:
            if certificate.spki(one) == spki:
                found.add(one)
        except MalformedError:
            continue
    return found.pop() if len(found) == 1 else None


def build_chain(leaf: bytes, came: Iterable[bytes], now: datetime) -> tuple[bytes, ...]:
    """The CA certificates from a leaf to a self-signed one, by signatures; empty when they do not lead to one."""
    pool = {}
    for one in came:
        try:
            pool[one] = x509.load_der_x509_certificate(one)
        except ValueError:
            continue
    if leaf not in pool:
        return ()
    path = _climb(pool[leaf], [other for der, other in pool.items() if der != leaf], now, 0)
    by_certificate = {other: der for der, other in pool.items()}
    return tuple(by_certificate[one] for one in path or ())


def _climb(
    child: x509.Certificate, pool: Sequence[x509.Certificate], now: datetime, depth: int
) -> list[x509.Certificate] | None:
    """The path above a certificate; None when there is none. A way round over a cross-certificate is tried too."""
    if depth >= _LONGEST_CHAIN:
        return None
    for parent in sorted(pool, key=lambda one: one.subject != one.issuer):  # a root first: the shortest path
        if not _issued_by(child, parent) or not _is_ca(parent, now):
            continue
        if _issued_by(parent, parent):
            return [parent]
        above = _climb(parent, [one for one in pool if one != parent], now, depth + 1)
        if above is not None:
            return [parent, *above]
    return None


def _issued_by(child: x509.Certificate, parent: x509.Certificate) -> bool:
    if child.issuer != parent.subject:
        return False
    try:
        child.verify_directly_issued_by(parent)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _is_ca(one: x509.Certificate, now: datetime) -> bool:
    try:
        constraints = one.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = one.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return constraints.ca and usage.key_cert_sign and one.not_valid_before_utc <= now <= one.not_valid_after_utc


# ── field by field ──────────────────────────────────────────────────────────────────────────────────────────────────


def _compare(approved: Content, issued: Content, profile: ProfileFacts, kind: Family) -> list[str]:
    return [
        *_subject(approved, issued, profile, kind),
        *_names(approved, issued),
        *_usages(approved, issued, kind),
        *_policies(approved, issued, profile, kind),
        *_extensions(approved, issued),
    ]


def _subject(approved: Content, issued: Content, profile: ProfileFacts, kind: Family) -> list[str]:
    differences = []
    for name in sorted(approved.attributes.keys() | issued.attributes.keys()):
        wanted, found = approved.attributes.get(name, ()), issued.attributes.get(name, ())
        if sorted(wanted) == sorted(found):
            continue
        if not wanted and name in ADDED:
            if name == "organization_name" and profile.organization is not None:
                wanted = (profile.organization.name,)
            else:
                continue
        if name in NORMALISED and sorted(map(_folded, wanted)) == sorted(map(_folded, found)):
            continue
        if name == "common_name" and not wanted and len(found) == 1 and _confirmed(found[0], issued, kind):
            continue
        if not found:
            differences.append(f"subject.{name}: is missing, {_list(wanted)} was approved")
        elif not wanted:
            differences.append(f"subject.{name}: {_list(found)} was not approved")
        else:
            differences.append(f"subject.{name}: {_list(found)} in place of {_list(wanted)}")
    return differences


def _confirmed(common: str, issued: Content, kind: Family) -> bool:
    """Whether a common name repeats what the certificate says elsewhere, which is compared there."""
    others = {name.lower() for names in issued.names.values() for name in names}
    if is_smime(kind):
        others |= {f"{issued.one('given_name')} {issued.one('surname')}".lower()}
        others |= {(issued.one("pseudonym") or "\0").lower(), (issued.one("organization_name") or "\0").lower()}
    return common.lower() in others


def _names(approved: Content, issued: Content) -> list[str]:
    differences = []
    for kind in sorted(approved.names.keys() | issued.names.keys()):
        wanted = {_host_folded(kind, one): one for one in approved.names.get(kind, ())}
        found = {_host_folded(kind, one): one for one in issued.names.get(kind, ())}
        missing = [wanted[one] for one in sorted(wanted.keys() - found.keys())]
        extra = [found[one] for one in sorted(found.keys() - wanted.keys())]
        if missing:
            differences.append(f"san.{kind}: {_list(missing)} is missing")
        if extra:
            differences.append(f"san.{kind}: {_list(extra)} was not approved")
    return differences


def _usages(approved: Content, issued: Content, kind: Family) -> list[str]:
    wanted = set(approved.key_usage)
    if not is_smime(kind) and issued.key == "rsa":
        wanted |= issued.key_usage & {"key_encipherment"}
    differences = []
    for key, right, found in (
        ("key_usage", wanted, issued.key_usage),
        ("extended_key_usage", set(approved.purposes), issued.purposes),
    ):
        if right - found:
            differences.append(f"extensions.{key}: {_list(sorted(right - found))} is missing")
        if found - right:
            differences.append(f"extensions.{key}: {_list(sorted(found - right))} was not approved")
    return differences


def _policies(approved: Content, issued: Content, profile: ProfileFacts, kind: Family) -> list[str]:
    """Public certificates have the one policy of the Baseline Requirements that was ordered."""
    expected = expected_policy(kind, profile)
    wanted = approved.policies | ({expected} if expected is not None else set())
    public = {one for one in issued.policies if one.startswith(_CABF)}
    differences = []
    if wanted - issued.policies:
        differences.append(f"extensions.certificate_policies: {_list(sorted(wanted - issued.policies))} is missing")
    if public - wanted:
        differences.append(f"extensions.certificate_policies: {_list(sorted(public - wanted))} was not ordered")
    return differences


def _extensions(approved: Content, issued: Content) -> list[str]:
    differences = []
    if issued.others.get("2.5.29.19", b"\x30\x00") not in {b"\x30\x00", b"\x30\x03\x01\x01\x00"}:
        differences.append("extensions.basic_constraints: it is a CA certificate")
    changed = [oid for oid in approved.others.keys() - {"2.5.29.19"} if issued.others.get(oid) != approved.others[oid]]
    differences += [f"extensions: {oid} is not as approved" for oid in sorted(changed)]
    added = issued.others.keys() - approved.others.keys() - ISSUERS_OWN
    return [*differences, *(f"extensions: {oid} was not approved" for oid in sorted(added))]


def _validity(leaf: x509.Certificate, approved: Approved, now: datetime) -> list[str]:
    longest = -(-(approved.not_after - approved.not_before + _SECOND) // _DAY) * _DAY
    begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    differences = []
    if ends - begins + _SECOND > longest:
        differences.append(f"validity: {begins:%Y-%m-%d} to {ends:%Y-%m-%d} is longer than {longest // _DAY} days")
    if begins < approved.not_before - _DAY:
        differences.append(f"validity: begins at {begins:%Y-%m-%dT%H:%M:%SZ}, before it was approved")
    if begins > now + _DAY:
        differences.append(f"validity: begins at {begins:%Y-%m-%dT%H:%M:%SZ}, in the future")
    if ends < now:
        differences.append(f"validity: ended at {ends:%Y-%m-%dT%H:%M:%SZ}")
    return differences


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _host_folded(kind: str, name: str) -> str:
    if kind == "dns":
        return name.lower()
    local, at, domain = name.rpartition("@")
    return local + at + domain.lower() if kind == "email" else name


def _list(values: Sequence[str]) -> str:
    return ", ".join(repr(one) for one in values)
