"""Reverse proxies that speak for clients: the client's certificate and address in header fields.

    rfc9440   Client-Cert and Client-Cert-Chain (RFC 9440 §2), byte sequences of structured fields (RFC 9651 §3.3.5)
    nginx     $ssl_client_escaped_cert: PEM, URL-encoded
    haproxy   %[ssl_c_der,base64] and %[ssl_c_chain_der,base64]: DER in base64

Such a field is as good as a key. From anybody but a listed proxy, or in another form than the configured one, it is an
attempt to be somebody else or a mistake that would become one: the request is refused, never served without the field.
"""

import base64
import binascii
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from multidict import CIMultiDictProxy

from cmpd.asn1 import MalformedError, der
from cmpd.exchange import TLSClient

Fields = CIMultiDictProxy[str]
Form = Literal["rfc9440", "nginx", "haproxy", "off"]

HEADERS: dict[Form, tuple[str, str]] = {
    "rfc9440": ("Client-Cert", "Client-Cert-Chain"),
    "nginx": ("X-SSL-Client-Cert", ""),
    "haproxy": ("X-SSL-Client-DER", "X-SSL-Client-Chain-DER"),
    "off": ("", ""),
}
"""By form, where the client's certificate and its chain are unless the settings name other fields."""
CERTIFICATE_HEADERS = frozenset(
    {name.lower() for names in HEADERS.values() for name in names if name}
    | {
        # what other proxies call it: cmpd reads none of them, and nobody shall believe that it does
        "ssl-client-cert",
        "ssl_client_cert",
        "x-client-cert",
        "x-forwarded-client-cert",
        "x-forwarded-tls-client-cert",
        "x-amzn-mtls-clientcert",
        "x-amzn-mtls-clientcert-leaf",
        "x-arr-clientcert",
    }
)
"""Every field, in lower case, that carries a client's certificate by custom."""
MAX_CHAIN = 16
"""The most certificates of one client."""

_BINARY = re.compile(r":([A-Za-z0-9+/]*={0,2}):")
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\s*", re.DOTALL)
_KEPT = 4096


class ForbiddenFieldError(Exception):
    """Somebody gives a client's certificate who may not, or not in this form. The text says who and what."""


class MalformedFieldError(Exception):
    """A listed proxy gives something that cannot be read. The text says which field and why."""


@dataclass(slots=True)
class Proxies:
    """The listed proxies, and where they put what they know of their clients."""

    addresses: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    form: Form = "off"
    certificate_header: str = ""
    chain_header: str = ""
    address_header: str = ""
    headers: frozenset[str] = CERTIFICATE_HEADERS
    """Every field that carries a client's certificate, by custom or by the settings."""
    _known: dict[str, bool] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        addresses: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network],
        form: Form,
        *,
        certificate_header: str | None = None,
        chain_header: str | None = None,
        address_header: str = "",
    ) -> "Proxies":
        """Take the names of fields from the form where none is given."""
        certificate, chain = HEADERS[form]
        certificate = certificate if certificate_header is None else certificate_header
        chain = chain if chain_header is None else chain_header
        named = {name.lower() for name in (certificate, chain) if name}
        return cls(tuple(addresses), form, certificate, chain, address_header, CERTIFICATE_HEADERS | named)

    def lists(self, address: str) -> bool:
        """Whether a listed proxy has this address."""
        known = self._known.get(address)
        if known is None:
            try:
                parsed = ipaddress.ip_address(address)
            except ValueError:
                return False
            if len(self._known) >= _KEPT:
                self._known.clear()
            known = self._known[address] = any(parsed in network for network in self.addresses)
        return known

    def origin(self, address: str, client: TLSClient | None, fields: Fields) -> tuple[str, TLSClient | None]:
        """Say who a request is from that `client` has sent from `address`: address and TLS client.

        Raises ForbiddenFieldError or MalformedFieldError.
        """
        given = () if self.headers.isdisjoint(map(str.lower, fields)) else self._given(fields)
        if not (self.addresses and self.lists(address)):
            if given:
                raise ForbiddenFieldError(f"{given[0]} from an address that is no listed proxy")
            return address, client
        # a proxy's own certificate, if it has shown one, says nothing of its clients
        client = None
        if given:
            mine = {self.certificate_header.lower(), self.chain_header.lower()} if self.form != "off" else set()
            if other := [name for name in given if name.lower() not in mine]:
                raise ForbiddenFieldError(f"{other[0]} from a listed proxy that is to send {self._expected}")
            client = self._client(address, fields)
        return self._address(address, fields), client

    @property
    def _expected(self) -> str:
        names = [name for name in (self.certificate_header, self.chain_header) if name and self.form != "off"]
        return " and ".join(names) or "no certificates"

    def _given(self, fields: Fields) -> list[str]:
        return sorted(name for name in set(map(str, fields)) if name.lower() in self.headers)

    def _client(self, address: str, fields: Fields) -> TLSClient | None:
        certificates = fields.getall(self.certificate_header, [])
        chains = fields.getall(self.chain_header, []) if self.chain_header else []
        if len(certificates) > 1:
            raise MalformedFieldError(f"{self.certificate_header} is there {len(certificates)} times")
        if self.form != "rfc9440":  # those proxies write an empty field when there is no certificate
            certificates = [one for one in certificates if one.strip()]
            chains = [one for one in chains if one.strip()]
            if len(chains) > 1:
                raise MalformedFieldError(f"{self.chain_header} is there {len(chains)} times")
        if not certificates:
            if chains:
                raise MalformedFieldError(f"{self.chain_header} without {self.certificate_header}")
            return None
        leaf, *chain = self._read(self.certificate_header, certificates[0])
        if chain and self.form != "nginx":
            raise MalformedFieldError(f"{self.certificate_header} holds more than one certificate")
        if chains:
            # a list may be spread over several fields (RFC 9651 §4.2)
            chain += self._read(self.chain_header, ",".join(chains), several=True)
        if len(chain) > MAX_CHAIN:
            raise MalformedFieldError(f"{self.chain_header or self.certificate_header} holds too many certificates")
        return TLSClient(leaf, tuple(one for one in chain if one != leaf), address)

    def _read(self, name: str, value: str, *, several: bool = False) -> list[bytes]:
        """Read the certificates of a field, at least one unless `several`; DER each."""
        try:
            match self.form:
                case "rfc9440":
                    found = [_byte_sequence(item) for item in (_members(value) if several else [value.strip(" ")])]
                case "nginx":
                    found = _pem(value)
                case _:
                    found = _concatenated(base64.b64decode(value.strip(" "), validate=True))
            if not found and not several:
                raise ValueError
            if not several:
                x509.load_der_x509_certificate(found[0])
            if any(der.read(one)[::2] != (der.SEQUENCE, len(one)) for one in found):
                raise ValueError
        except (ValueError, binascii.Error, MalformedError):
            raise MalformedFieldError(f"{name} cannot be read as {self.form} writes it") from None
        return found

    def _address(self, address: str, fields: Fields) -> str:
        """Go back through the addresses that proxies have noted, to the last one that is not a listed proxy."""
        if not self.address_header:
            return address
        noted = ",".join(fields.getall(self.address_header, []))
        if not noted:
            return address
        for entry in reversed(noted.split(",")):
            try:
                address = str(_plain_address(entry))
            except ValueError:
                raise MalformedFieldError(f"{self.address_header} holds something that is no address") from None
            if not self.lists(address):
                break
        return address


NO_PROXIES = Proxies()
"""Nobody speaks for clients."""


def _plain_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Read an address, with or without a port."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def _members(value: str) -> list[str]:
    """Split a list (RFC 9651 §3.1); the alphabet of byte sequences has no comma."""
    return [] if not value.strip(" \t") else [member.strip(" \t") for member in value.split(",")]


def _byte_sequence(item: str) -> bytes:
    """Read `:base64:`; padding may be left out (RFC 9651 §4.2.7)."""
    found = _BINARY.fullmatch(item)
    if found is None:
        raise ValueError
    text = found[1].rstrip("=")
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def _pem(value: str) -> list[bytes]:
    text = unquote_to_bytes(value).strip()
    if _PEM.sub(b"", text):
        raise ValueError
    return [one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(text)]


def _concatenated(data: bytes) -> list[bytes]:
    """Take certificates apart that stand one behind the other."""
    found, position = [], 0
    while position < len(data):
        _, _, end = der.read(data, position)
        found.append(data[position:end])
        position = end
    return found
