"""Approved requests of real profiles, a client of the simulator whose pauses take no time, and TLS for it."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import SecretStr

from cmpd.asn1 import der
from cmpd.exchange import Approved, CertificateRequest, RequestedExtension
from cmpd.issuers import validate
from cmpd.issuers.certcentral import CertCentralClient, CertCentralConfig, ProfileFacts, ProfileOptions
from cmpd.issuers.certcentral.answers import Ordered
from cmpd.issuers.certcentral.orders import PreparedOrder, order
from cmpd.profile import Profile
from tests.certcentral import CertCentral
from tests.certcentral.catalogue import EXAMPLE_GMBH
from tests.rules.requests import _STRINGS, OIDS

ID = "K3zV0cHqfQ2mJmXQ4r9yWgZ1"
MAIL = "ada@example.com"
HOST = "www.example.com"
ORGANIZATION = {"name": "Example GmbH", "identifier": "VATDE-123456789", "id": EXAMPLE_GMBH}
PUBLIC = {
    "id": ID,
    "issuer": "digicert",
    "organization": ORGANIZATION,
    "lint": "off",
    "enrollment": {"authentication_method": "enrollment_code"},
}


class Timeline:
    """A monotonic clock that only sleeping moves on."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def config(base: Path, central: CertCentral | str, key: str = "admin", **changes: Any) -> CertCentralConfig:
    """A connector to the simulator."""
    url = central if isinstance(central, str) else central.url
    base.mkdir(exist_ok=True)
    path = base / "api.key"
    if not path.exists():
        path.write_text(("sim-admin-key" if isinstance(central, str) else central.key(key)) + "\n")
        path.chmod(0o600)
    table = {"type": "certcentral", "base_url": url, "api_key_file": "api.key", **changes}
    return validate(CertCentralConfig, {name: value for name, value in table.items() if value is not None}, base=base)


def client(connector: CertCentralConfig, timeline: Timeline | None = None, key: str | None = None) -> CertCentralClient:
    """A client whose pauses take no real time."""
    time = timeline or Timeline()
    secret = connector.read_api_key() if key is None else SecretStr(key)
    return CertCentralClient(connector, secret, clock=time.clock, sleep=time.sleep, chance=lambda: 0.5)


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def spki(key: Any) -> bytes:
    octets: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return octets


def csr(key: Any, common_name: str = "whatever") -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    return (
        x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    )


def name(*pairs: tuple[str, str]) -> bytes:
    """A Name of attributes by their short names."""
    return der.sequence(
        *(
            der.set_of(der.sequence(der.oid(OIDS[kind]), der.tlv(_STRINGS.get(kind, der.UTF8_STRING), text.encode())))
            for kind, text in pairs
        )
    )


def san(*, email: tuple[str, ...] = (), dns: tuple[str, ...] = (), ip: tuple[bytes, ...] = ()) -> RequestedExtension:
    entries = [der.tlv(0x81, one.encode()) for one in email] + [der.tlv(0x82, one.encode()) for one in dns]
    return RequestedExtension(
        x509.ObjectIdentifier("2.5.29.17"), False, der.sequence(*entries, *(der.tlv(0x87, one) for one in ip))
    )


def usage(*bits: int) -> RequestedExtension:
    return RequestedExtension(x509.ObjectIdentifier("2.5.29.15"), True, der.named_bits(bits))


def purposes(*oids: str) -> RequestedExtension:
    return RequestedExtension(x509.ObjectIdentifier("2.5.29.37"), False, der.sequence(*map(der.oid, oids)))


def profile(kind: str, **more: Any) -> Profile:
    """A profile of one of the templates, as an operator would write it."""
    tables: dict[str, dict[str, Any]] = {
        "mailbox": {"base_template": "public-smime"},
        "sponsor": {"base_template": "public-smime", "certificate_type": {"validation_type": "sponsor"}},
        "organization": {"base_template": "public-smime", "certificate_type": {"validation_type": "organization"}},
        "private": {"base_template": "certcentral-private-server"},
        "dv": {"base_template": "certcentral-public-server", "certificate_type": {"validation_type": "domain"}},
        "ov": {"base_template": "certcentral-public-server", "certificate_type": {"validation_type": "organization"}},
    }
    table = {**PUBLIC, **tables[kind]}
    if kind in {"mailbox", "dv"}:
        del table["organization"]
    for key, value in more.items():
        table[key] = {**table[key], **value} if isinstance(value, dict) and isinstance(table.get(key), dict) else value
    return Profile.from_config(kind, table, Path())


OPTIONS = {
    "private": ProfileOptions(product="private_ssl_flex"),
    "dv": ProfileOptions(product="ssl_dv_geotrust"),
    "ov": ProfileOptions(product="ssl_basic"),
}
SUBJECTS = {
    "mailbox": name(("CN", MAIL)),
    "sponsor": name(("O", "Example GmbH"), ("SN", "Byron"), ("GN", "Ada"), ("CN", "Ada Byron")),
    "organization": name(("O", "Example GmbH"), ("CN", "Example GmbH")),
    "private": name(("CN", HOST)),
    "dv": name(("CN", HOST)),
    "ov": name(("O", "Example GmbH"), ("L", "Berlin"), ("C", "DE"), ("CN", HOST)),
}
KINDS = tuple(SUBJECTS)
_transactions = iter(range(1, 1 << 30))


def options(kind: str) -> ProfileOptions:
    return OPTIONS.get(kind, ProfileOptions())


def approved(
    kind: str,
    key: Any = None,
    *,
    of: Profile | None = None,
    subject: bytes | None = None,
    extensions: tuple[RequestedExtension, ...] | None = None,
    now: datetime | None = None,
) -> Approved:
    """What the profile approves of a request."""
    asked = san(email=(MAIL,)) if kind in {"mailbox", "sponsor", "organization"} else san(dns=(HOST,))
    request = CertificateRequest(
        0,
        SUBJECTS[kind] if subject is None else subject,
        spki(key or new_key()),
        (asked,) if extensions is None else extensions,
    )
    transaction = next(_transactions).to_bytes(16)
    return (of or profile(kind)).approve(request, transaction_id=transaction, now=now or datetime.now(UTC))


def prepared(request: Approved, kind: str, connector: CertCentralConfig, **more: Any) -> PreparedOrder:
    facts = ProfileFacts.of(profile(kind))
    return order(request, facts, options(kind), connector, mark=mark(request), now=datetime.now(UTC), **more)


def mark(request: Approved) -> str:
    """Our mark in what a test orders."""
    return f"cmpd:{request.transaction_id.hex():0>40}"


async def placed(caller: CertCentralClient, ready: PreparedOrder) -> Ordered:
    outcome = await caller.order(ready.product, ready.body)
    assert isinstance(outcome, Ordered), outcome
    return outcome


@cache
def tls_certificate(base: Path) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate for 127.0.0.1 as PEM file, and a server's context with it."""
    import ipaddress

    key = new_key()
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat

    path, secret = base / "tls.pem", base / "tls.key"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, secret)
    return path, context
