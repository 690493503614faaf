"""What a profile asks of a client's certificate beyond a valid path."""

from dataclasses import dataclass
from typing import Protocol

from cryptography import x509

from cmpd.protection.known import KnownSigner


class Matcher(Protocol):
    """An operator's regular expression for a whole value, in time linear in the value's length (RE2)."""

    def matches(self, value: str, /) -> bool:
        """Whether the whole value matches."""


@dataclass(frozen=True, slots=True)
class ClientRules:
    """[enrollment.client]: what the certificate of a client must be; a rule that is empty asks nothing."""

    subject: Matcher | None = None
    """For the whole subject in RFC 4514 style."""
    issuer: Matcher | None = None
    """For the whole issuer name in RFC 4514 style."""
    san: tuple[Matcher, ...] = ()
    """Each of them must match some entry of subjectAltName; entries that none matches are let pass."""
    extended_key_usages: frozenset[x509.ObjectIdentifier] = frozenset()
    """All of them must be in extKeyUsage, by name: anyExtendedKeyUsage does not stand for them."""
    certificate_policies: frozenset[str] = frozenset()
    """One of them, dotted, must be in certificatePolicies, by name: anyPolicy does not stand for them."""
    fingerprints: frozenset[str] = frozenset()
    """SHA-256 of the certificates that are accepted, lower-case hexadecimal."""

    def fault(self, known: KnownSigner) -> tuple[str, str] | None:
        """The first rule that a certificate breaks: the profile's key, and words for the peer; None when it is good.

        The words do not say what would have matched.
        """
        if self.subject is not None and not self.subject.matches(known.subject_text):
            return "enrollment.client.subject", "the subject of the client's certificate is not accepted here"
        if self.issuer is not None and not self.issuer.matches(known.issuer_text):
            return "enrollment.client.issuer", "the issuer of the client's certificate is not accepted here"
        if not all(any(map(pattern.matches, known.san)) for pattern in self.san):
            return "enrollment.client.san", "the client's certificate lacks a subjectAltName that is required here"
        if not self.extended_key_usages <= known.extended_key_usage:
            return (
                "enrollment.client.extended_key_usages",
                "the client's certificate lacks an extended key usage that is required here",
            )
        if self.certificate_policies and not self.certificate_policies & known.certificate_policies:
            return (
                "enrollment.client.certificate_policies",
                "the client's certificate has no certificate policy that is accepted here",
            )
        if self.fingerprints and known.fingerprint not in self.fingerprints:
            return "enrollment.client.fingerprints", "the client's certificate is not one of those that may enroll here"
        return None


def device_serial(known: KnownSigner, source: str) -> str | None:
    """The serial number of a vendor's device; see `KnownSigner.device_serial`."""
    return known.device_serial(source)
