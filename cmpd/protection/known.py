"""A client's certificate that has been validated, and what is read of it for the rules of a profile."""

from dataclasses import dataclass
from functools import cached_property

from cryptography import x509

from cmpd import asn1
from cmpd.asn1 import der, oids
from cmpd.protection import certpath
from cmpd.protection.signature import PublicKey


@dataclass(frozen=True)  # not slotted: what only some profiles ask for is read when it is first asked for
class KnownSigner:
    """A CMP protection certificate that has been validated, or a TLS client's, with what follows from it."""

    certificate: x509.Certificate
    der: bytes
    key: PublicKey
    subject: bytes
    """DER of its subject Name."""
    issuer: bytes
    """DER of its issuer Name."""
    serial: int
    path: certpath.ValidPath
    fingerprint: str
    """SHA-256 of the certificate, hexadecimal."""
    key_id: bytes | None
    """Its subjectKeyIdentifier."""
    label: str
    """Its subject, for people."""
    extended_key_usage: frozenset[x509.ObjectIdentifier]
    """The purposes of extKeyUsage; empty when the extension is absent."""

    @property
    def subject_text(self) -> str:
        """Its subject in RFC 4514 style, the last RDN first; empty for the empty name."""
        return self.label

    @cached_property
    def issuer_text(self) -> str:
        """Its issuer's name in RFC 4514 style."""
        return asn1.name_text(self.issuer)

    @cached_property
    def san(self) -> tuple[str, ...]:
        """The entries of subjectAltName for patterns (RFC 5280 §4.2.1.6).

        `dns:a.example` (in lower case, as it is compared), `email:a@b`, `uri:…`, `ip:192.0.2.1`, `dn:CN=…`, `upn:a@b`,
        `rid:1.2.3`; of any other name its OID alone, `other:1.2.3`. What is no printable text stands escaped.
        """
        return tuple(map(_general_name, _subject_alt_name(self.certificate)))

    @cached_property
    def certificate_policies(self) -> frozenset[str]:
        """The OIDs of certificatePolicies, dotted (RFC 5280 §4.2.1.4)."""
        try:
            policies = self.certificate.extensions.get_extension_for_class(x509.CertificatePolicies).value
        except x509.ExtensionNotFound:
            return frozenset()
        return frozenset(policy.policy_identifier.dotted_string for policy in policies)

    def device_serial(self, source: str) -> str | None:
        """The serial number of the device whose certificate it is (IEEE 802.1AR §8, 3GPP TS 33.310 §9.4).

        `source` is `subject.serial_number`, `subject.common_name`, `san.hardware_module_name` (RFC 4108 §5: text where
        it is printable ASCII, else hexadecimal) or `certificate.serial_number` (hexadecimal). None when there is none,
        more than one, or one that is no printable text. Raises ValueError for another source.
        """
        match source:
            case "subject.serial_number":
                return self._only(oids.SERIAL_NUMBER)
            case "subject.common_name":
                return self._only(oids.COMMON_NAME)
            case "san.hardware_module_name":
                found = [
                    name.value
                    for name in _subject_alt_name(self.certificate)
                    if isinstance(name, x509.OtherName) and name.type_id == oids.ON_HARDWARE_MODULE_NAME
                ]
                return _hardware_serial(found[0]) if len(found) == 1 else None
            case "certificate.serial_number":
                return f"{self.serial:x}" if self.serial > 0 else None
        raise ValueError(f"{source!r} is no place of a device's serial number")

    def _only(self, kind: x509.ObjectIdentifier) -> str | None:
        """The one value of an attribute of the subject."""
        values = [(tag, value) for rdn in asn1.name_rdns(self.subject) for oid, tag, value in rdn if oid == kind]
        text = asn1.text_of(*values[0]) if len(values) == 1 else None
        return text if text and asn1.printable(text) == text else None


def _subject_alt_name(certificate: x509.Certificate) -> tuple[x509.GeneralName, ...]:
    try:
        return tuple(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return ()


def _general_name(name: x509.GeneralName) -> str:
    match name:
        case x509.DNSName():
            return f"dns:{asn1.printable(name.value.lower())}"
        case x509.RFC822Name():
            return f"email:{asn1.printable(name.value)}"
        case x509.UniformResourceIdentifier():
            return f"uri:{asn1.printable(name.value)}"
        case x509.IPAddress():
            return f"ip:{name.value}"
        case x509.DirectoryName():
            return f"dn:{asn1.name_text(name.value.public_bytes())}"
        case x509.RegisteredID():
            return f"rid:{name.value.dotted_string}"
        case x509.OtherName():
            text = _text(name.value) if name.type_id == oids.MS_UPN else None
            return f"other:{name.type_id.dotted_string}" if text is None else f"upn:{asn1.printable(text)}"
    raise TypeError(type(name).__name__)  # the library reads no other kind


def _text(value: bytes) -> str | None:
    """The text of one DER string; None when it is none."""
    try:
        tag, start, end = der.read(value)
    except asn1.MalformedError:
        return None
    return asn1.text_of(tag, value[start:end]) if end == len(value) else None


def _hardware_serial(value: bytes) -> str | None:
    """HardwareModuleName ::= SEQUENCE { hwType OBJECT IDENTIFIER, hwSerialNum OCTET STRING } (RFC 4108 §5)."""
    try:
        tag, _, end = der.read(value)
        parts = der.children(value, 2)
        if tag != der.SEQUENCE or end != len(value) or len(parts) != 2:
            return None
        octets = der.content(parts[1], der.OCTET_STRING)
    except asn1.MalformedError:
        return None
    text = octets.decode("latin-1")
    return (text if text.isascii() and text.isprintable() else octets.hex()) or None
