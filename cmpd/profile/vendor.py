"""Devices that enroll with the certificate of their maker: the part of [enrollment.vendor] that is about names."""

from dataclasses import dataclass

from cryptography import x509

from cmpd import asn1
from cmpd.asn1 import oids
from cmpd.asn1.compare import same_name
from cmpd.exchange import Device
from cmpd.profile.syntax import parse_name


@dataclass(frozen=True, slots=True)
class VendorRules:
    """Section [enrollment.vendor], prepared (IEEE 802.1AR §8, RFC 9483 §1.6)."""

    trusted: tuple[bytes, ...]
    """The makers' CAs, DER."""
    serial_from: str
    """Where the device's serial number is in its vendor certificate."""
    allow_list: bool
    """Only devices in the profile's list."""
    subject: str | None
    """Template of the subject; {serial} stands for the serial number."""
    free_subject: bool
    """A device may ask for any subject that the profile allows."""
    seat_from_serial: bool

    def subject_of(self, serial: str, device: Device | None) -> bytes | None:
        """The configured subject of a device, Name (DER): that of the list, else the profile's; None: there is none."""
        if device is not None and device.subject is not None:
            return parse_name(device.subject).public_bytes()
        if self.subject is None:
            return None
        # filled in attribute by attribute: no serial number can add another attribute to the name
        name = parse_name(self.subject)
        return x509.Name(
            x509.RelativeDistinguishedName(
                x509.NameAttribute(one.oid, str(one.value).replace("{serial}", serial)) for one in rdn
            )
            for rdn in name.rdns
        ).public_bytes()

    def may_have(self, subject: bytes, serial: str, configured: bytes | None) -> bool:
        """Whether a device may ask for a subject: its configured one, or, when there is none, one with its serial."""
        if self.free_subject:
            return True
        if configured is not None:
            return same_name(subject, configured)
        for rdn in asn1.name_rdns(subject):
            for oid, tag, octets in rdn:
                if oid not in {oids.COMMON_NAME, oids.SERIAL_NUMBER}:
                    continue
                value = asn1.text_of(tag, octets)
                if value == serial or (
                    oid == oids.COMMON_NAME and value is not None and value.partition(".")[0] == serial
                ):
                    return True
        return False
