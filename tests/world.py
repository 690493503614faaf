"""A whole cmpd without sockets: a CA, a store, profiles and a responder, with a clock that the test sets."""

import contextlib
import itertools
import os
import sqlite3
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd import issuers
from cmpd.exchange import Arrival, EnrollmentCode, Exchange, TLSClient
from cmpd.limits import Limits
from cmpd.ordering import OrderDesk
from cmpd.ports import CMPSigner, Issuer, RevocationSource
from cmpd.profile import Profile
from cmpd.responder import Responder
from cmpd.store.serving import Serving
from tests.ee import EE, Answer, Draft, new_key

SECRET = "correct-horse-battery"
UNCOUNTED = Limits(address_requests=0, address_failures=0)
"""The limits for tests that send more than anybody would."""
_ids = itertools.count(1)


def device_table(**changes: Any) -> dict[str, Any]:
    """The table of a profile that is liberal about names; `changes` are merged section by section."""
    table: dict[str, Any] = {
        "id": f"profile-for-tests-{next(_ids):06d}",
        "issuer": "local",
        # many a test gets MACs wrong more often than a profile would let pass
        "enrollment": {"authentication_method": "enrollment_code", "code": {"lock_after": 1_000_000}},
        "validity": {"default": "365d", "max": "2y"},
        "key": {"allowed_types": ["rsa", "ecdsa", "ed25519", "ed448", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87"]},
        "subject": {
            "common_name": {"include": "required"},
            "organization_name": {"include": "optional"},
            "serial_number": {"include": "optional"},
        },
        "san": {"dns": {"include": "optional"}},
        "extensions": {
            "key_usage": {"required_usages": ["digital_signature"]},
            "extended_key_usage": {"required_usages": ["client_auth"]},
        },
    }
    for section, values in changes.items():
        if isinstance(values, dict):
            table[section] = {**table.get(section, {}), **values}
        else:
            table[section] = values
    return table


@dataclass
class Clock:
    """A clock that stands still until it is told."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    def __call__(self) -> datetime:
        return self.now

    def tick(self, **kwargs: float) -> None:
        self.now += timedelta(**kwargs)


@dataclass
class World:
    """Everything of a running service but the network."""

    store: Serving
    issuer: Issuer
    clock: Clock
    base: Path
    store_url: str = ""
    limits: Limits = UNCOUNTED
    revocations: RevocationSource | None = None
    desk: OrderDesk | None = None
    signer: CMPSigner | None = None
    profiles: dict[str, Profile] = field(default_factory=dict)
    exchanges: list[Exchange] = field(default_factory=list)
    default: str | None = "device"
    _responder: Responder | None = None

    def profile(self, name: str = "device", **changes: Any) -> Profile:
        """Add or replace a profile; the responder is made anew."""
        self.profiles[name] = Profile.from_config(name, device_table(**changes), self.base)
        self._responder = None
        return self.profiles[name]

    @property
    def responder(self) -> Responder:
        if self._responder is None:
            self._responder = Responder(
                profiles=self.profiles,
                default=self.default,
                issuers={"local": self.issuer},
                store=self.store,
                limits=self.limits,
                observe=self.exchanges.append,
                clock=self.clock,
                revocations=self.revocations,
                desk=self.desk,
                signer=self.signer,
            )
        return self._responder

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask the database from outside."""
        if self.store_url.startswith("postgresql:"):
            from tests import postgres

            return postgres.query(self.store_url, statement)
        with contextlib.closing(sqlite3.connect(self.store_url.removeprefix("sqlite:///"))) as database:
            return database.execute(statement).fetchall()

    def restart(self) -> None:
        """Forget everything that is not in the store."""
        self._responder = None

    async def code(
        self,
        reference: str = "device-1",
        *,
        profile: str = "device",
        uses: int | None = 1,
        secret: str = SECRET,
        expires: datetime | None = None,
    ) -> EE:
        """Make an enrollment code and an EE that holds it."""
        await self.store.create_code(profile, reference, secret.encode(), uses, expires, self.clock())
        return EE.with_code(reference, secret, now=self.clock())

    async def post(
        self,
        data: bytes,
        *,
        profile: str | None = "device",
        operation: str | None = None,
        address: str = "192.0.2.1",
        code: str | None = None,
        client: TLSClient | None = None,
    ) -> bytes:
        return await self.responder.respond(data, Arrival(address, profile, operation, code, client))

    async def send(self, ee: EE, draft: Draft, **arrival: Any) -> Answer:
        """Protect, send, and read the answer with all checks."""
        return ee.read(await self.post(ee.seal(draft), **arrival), draft)

    async def enrolled(
        self, subject: str = "CN=device-1", *, profile: str = "device", key: Any = None, **request: Any
    ) -> EE:
        """An EE with a confirmed certificate of ours."""
        reference = os.urandom(6).hex()
        ee = await self.code(reference, profile=profile)
        draft = ee.ir(key, subject=subject, **request)
        answer = await self.send(ee, draft, profile=profile)
        done = await self.send(ee, ee.cert_conf(answer, hash_name="sha256"), profile=profile)
        assert done.type.name == "pkiconf", done.text
        return EE.with_certificate(draft.key, answer.certificate_der(), now=self.clock())

    @property
    def last(self) -> Exchange:
        return self.exchanges[-1]

    async def used(self, reference: str = "device-1", profile: str = "device") -> int:
        code: EnrollmentCode | None = await self.store.code(profile, reference.encode())
        assert code is not None
        return code.used


def certificate(
    key: Any,
    subject: str,
    issuer_key: Any = None,
    issuer: x509.Certificate | None = None,
    *,
    ca: bool = False,
    eku: list[x509.ObjectIdentifier] | None = None,
    key_usage: bool = True,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
    extensions: list[tuple[x509.ExtensionType, bool]] | None = None,
    path_length: int | None = None,
    basic_constraints: bool = True,
    name: x509.Name | None = None,
) -> x509.Certificate:
    """A certificate of some other PKI: a vendor's, an RA's, an attacker's; `name` is a subject of more than a CN."""
    now = datetime.now(UTC)
    name = name or x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
    signing = issuer_key or key
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before or now - timedelta(days=1))
        .not_valid_after(not_after or now + timedelta(days=30))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if basic_constraints:
        builder = builder.add_extension(x509.BasicConstraints(ca, path_length if ca else None), critical=True)
    if key_usage:
        builder = builder.add_extension(
            x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False), critical=True
        )
    if eku:
        builder = builder.add_extension(x509.ExtendedKeyUsage(eku), critical=False)
    for value, critical in extensions or []:
        builder = builder.add_extension(value, critical=critical)
    hashed = isinstance(signing, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    return builder.sign(signing, hashes.SHA256() if hashed else None)


def vendor(subject: str = "IDevID 0815", **kwargs: Any) -> tuple[EE, x509.Certificate]:
    """An EE with a certificate of a vendor's PKI, and that PKI's root."""
    root_key, key = new_key(), new_key()
    root = certificate(root_key, "Vendor Root", ca=True)
    leaf = certificate(key, subject, root_key, root, **kwargs)
    return EE.with_certificate(key, leaf.public_bytes(Encoding.DER)), root


def load_local(table: dict[str, Any], base: Path) -> Issuer:
    return issuers.load("local", table, base=base, url="http://127.0.0.1:8829")
