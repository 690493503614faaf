"""Every way of proving who one is, and everybody who does it in one thing wrongly: the cast of the matrix."""

import hashlib
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from cmpd.asn1 import BodyType, der, oids
from cmpd.exchange import CertificateStatus, Device, NewCode, RevocationReason, ServiceUserCertificate
from cmpd.ports import Revocation
from cmpd.revocation import Revocations
from tests.access.pki import CLIENT_AUTH, PKI, POLICY, bare, dns, loaded, policies, tls, without_its_key, write
from tests.ee import EE, Answer, Draft, new_key, san
from tests.world import World, certificate

SECRET = "a-secret-of-the-matrix"
SUBJECT = "CN=device-1"
RA_VERIFIED = der.tlv(0x80)
"""ProofOfPossession: raVerified [0] NULL (RFC 4211 §4)."""
STRICT = {
    "subject": "CN=gateway-[0-9]+",
    "issuer": "CN=Clients Root",
    "san": ["dns:gateway-.*"],
    "extended_key_usages": ["client_auth"],
    "certificate_policies": [POLICY],
}
"""What [enrollment.client] asks for in the matrix."""
WRONG_CLIENTS: dict[str, dict[str, Any]] = {
    "wrong EKU": {"eku": [x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]},
    "wrong policy": {"policy": "1.3.6.1.4.1.55555.2"},
    "wrong subject": {"subject": "router-1"},
    "wrong SAN": {"dns": "router-1.example.com"},
}
"""What a client's certificate has instead of what `STRICT` asks for."""


@dataclass
class Party:
    """Somebody who asks, and by which way it comes."""

    ee: EE
    arrival: dict[str, Any] = field(default_factory=dict)
    subject: str | None = SUBJECT
    request: dict[str, Any] = field(default_factory=dict)
    """For an ir or cr."""
    update: dict[str, Any] = field(default_factory=dict)
    """For a kur."""
    key: Any = None

    def draft(self, operation: str) -> Draft:
        match operation:
            case "p10cr":
                return self.ee.p10cr(self.key, self.subject or "", extensions=self.request.get("extensions", ()))
            case "kur":
                return self.ee.kur(self.key, subject=self.subject, **self.update)
            case "ir":
                return self.ee.ir(self.key, subject=self.subject, **self.request)
        return self.ee.cr(self.key, subject=self.subject, **self.request)

    def confirm(self, answer: Answer) -> Draft:
        return self.ee.cert_conf(answer)


class Way:
    """One way of authenticating, in a world with a profile for it."""

    begins: ClassVar[str] = "ir"
    """The operation that is confirmed in the column certConf."""
    changes: ClassVar[frozenset[str]] = frozenset({"right", "expired", "revoked", "wrong address", "unknown whether"})
    """What happens to somebody who was right; of all others the wrong one is another from the beginning."""

    def __init__(self, world: World, who: str) -> None:
        self.world, self.who = world, who

    async def prepare(self) -> None:
        """Make the profile, and what it refers to."""
        enrollment: dict[str, Any] = {"allowed_operations": ["ir", "cr", "p10cr", "kur"], **self.enrollment()}
        if self.who == "wrong address":
            enrollment["client_addresses"] = ["192.0.2.0/24"]
        if self.who in {"wrong service user", "user by its names"}:
            enrollment["service_user"] = "gateways"
        seat = {"id_mapping": "subject.common_name"} if self.who == "other seat" else {}
        self.world.profile(
            enrollment=enrollment, san={"dns": {"include": "optional"}, "ip": {"include": "optional"}}, seat=seat
        )

    def enrollment(self) -> dict[str, Any]:
        return {"authentication_method": "enrollment_code"}

    async def party(self, who: str) -> Party:
        raise NotImplementedError

    async def later(self, who: str, party: Party) -> None:
        """What becomes of somebody who was right."""
        if who == "expired":
            self.world.clock.tick(minutes=6)
        elif who == "wrong address":
            party.arrival["address"] = "198.51.100.1"
        party.ee.now = self.world.clock()


class Code(Way):
    """MAC-based protection, the code named by senderKID (RFC 9483 §4.1.5)."""

    changes = Way.changes | {"locked", "used up"}
    is_global: ClassVar[bool] = False
    count = 0

    def enrollment(self) -> dict[str, Any]:
        return {
            "authentication_method": "enrollment_code",
            "code": {"lock_after": 3, "lock_for": "10m", "allow_global": self.is_global},
        }

    def client(self, reference: str, secret: str) -> Party:
        return Party(EE.with_code(reference, secret, now=self.world.clock()))

    async def party(self, who: str) -> Party:
        self.count += 1
        reference, secret, now = f"ref-{self.count}", f"{SECRET}-{self.count}", self.world.clock()
        bound: dict[str, dict[str, Any]] = {
            "other seat": {"seat": "seat-2"},
            "other subject": {"subject": "CN=device-2"},
            "other SAN": {"san": ("dns:device-2[.]example[.]com",)},
            "other key": {"key": hashlib.sha256(b"another key").hexdigest()},
            "not yet valid": {"valid_from": now + timedelta(hours=1)},
            "expired": {"expires": now + timedelta(minutes=5)},
        }
        if who != "untrusted":
            new = NewCode("device", reference, secret.encode(), is_global=self.is_global, **bound.get(who, {}))
            await self.world.store.create_codes([new], now)
        party = self.client(reference, "another-secret" if who == "wrong" else secret)
        if who == "other SAN":
            party.request["extensions"] = [san("device-1.example.com")]
        return party

    async def later(self, who: str, party: Party) -> None:
        await super().later(who, party)
        reference = f"ref-{self.count}"
        if who == "revoked":
            assert await self.world.store.revoke_code("device", reference, self.world.clock())
        if who == "used up" and not await self.world.used(reference):
            other = self.client(reference, f"{SECRET}-{self.count}")
            answer = await self.world.send(other.ee, other.draft("ir"), **other.arrival)
            assert answer.fail_info is None, answer.text
        if who == "locked":
            for _ in range(3):
                wrong = self.client(reference, "a-guess")
                answer = await self.world.send(wrong.ee, wrong.draft("ir"), **wrong.arrival)
                assert answer.fail_info == "badMessageCheck"


class CodeByURL(Code):
    """The same, named by the URL: for firmware whose reference value cannot be set."""

    def client(self, reference: str, secret: str) -> Party:
        return Party(EE.with_code("firmware", secret, now=self.world.clock()), {"code": reference})


class GlobalCode(Code):
    """One code for every client, where the profile allows it."""

    is_global = True

    def client(self, reference: str, secret: str) -> Party:
        return Party(EE.with_code("whoever", secret, now=self.world.clock()))


class Certificate(Way):
    """A client's certificate under one of trusted_certificates."""

    changes = Way.changes | {"user by its names"}
    method: ClassVar[str] = "tls_certificate"
    ra: bool = False
    """What may be wrong, is wrong with an RA's certificate and not with a client's."""

    async def prepare(self) -> None:
        self.clients, self.ras, self.strangers = PKI("Clients Root"), PKI("RA Root"), PKI("Strangers Root")
        self.other_root = PKI("Other Root")
        for file, pki in (("clients", self.clients), ("ras", self.ras), ("others", self.other_root)):
            write(self.world.base, f"{file}.pem", pki.root)
            pki.crl(self.world.base / f"{file}.crl", [], self.world.clock())
        self.world.revocations = Revocations(file_seconds=0)
        await super().prepare()

    def enrollment(self) -> dict[str, Any]:
        required = self.who == "unknown whether"
        client = dict(STRICT)
        if self.who == "wrong fingerprint":
            self.listed = self.make("right")
            client["fingerprints"] = [loaded(self.listed).fingerprint(hashes.SHA256()).hex()]
        return {
            "authentication_method": self.method,
            "client": client,
            "revocation": {
                "crl": "required" if required else "best_effort",
                "crls": ["clients.crl", "ras.crl"],
            },
            **self.trust(),
        }

    def trust(self) -> dict[str, Any]:
        return {"trusted_certificates": ["clients.pem", "others.pem"]}

    def make(self, who: str, **changes: Any) -> EE:
        """A certificate that is as `who` says."""
        clock = self.world.clock
        now = clock()
        pki = self.ras if self.ra else self.clients
        if who == "untrusted":
            pki = self.strangers
        if who == "wrong issuer":
            pki = self.other_root
        facts: dict[str, Any] = {
            "subject": "gateway-1",
            "eku": [oids.KP_CMC_RA] if self.ra else [CLIENT_AUTH],
            "policy": POLICY,
            "dns": "gateway-1.example.com",
            **WRONG_CLIENTS.get(who, {}),
            **changes,
        }
        facts["extensions"] = [policies(facts.pop("policy")), dns(facts.pop("dns"))]
        if who == "not yet valid":
            facts["not_before"] = now + timedelta(minutes=10)
        if who == "expired":
            facts["not_after"] = now + timedelta(minutes=5)
        return pki.client(now=now, **facts)

    async def known_as_service_user(self, who: str, ee: EE) -> None:
        assert ee.certificate is not None
        if who == "right":
            print_ = hashlib.sha256(ee.certificate).hexdigest()
            await self.world.store.add_service_user(ServiceUserCertificate("gateways", self.world.clock(), print_))
        elif who == "user by its names":
            names = loaded(ee).issuer.public_bytes(), loaded(ee).subject.public_bytes()
            await self.world.store.add_service_user(
                ServiceUserCertificate("gateways", self.world.clock(), None, *names)
            )

    async def party(self, who: str) -> Party:
        ee = self.listed if who == "right" and self.who == "wrong fingerprint" else self.make(who)
        await self.known_as_service_user(who, ee)
        return self.seen(who, ee)

    def seen(self, who: str, ee: EE) -> Party:
        """How such a certificate is used."""
        self.asked = ee
        return Party(without_its_key(ee) if who == "wrong" else ee, subject="CN=gateway-1")

    async def later(self, who: str, party: Party) -> None:
        await super().later(who, party)
        now = self.world.clock()
        if who == "revoked":
            pki, file = (self.ras, "ras.crl") if self.ra else (self.clients, "clients.crl")
            pki.crl(self.world.base / file, [loaded(self.asked)], now)
        elif who == "unknown whether":
            for file in ("clients.crl", "ras.crl"):
                (self.world.base / file).unlink()
            self.world.revocations = Revocations(file_seconds=0)  # the one before has them still in memory
            self.world.restart()


class TLS(Certificate):
    """A TLS client certificate; the message has no protection of its own."""

    def trust(self) -> dict[str, Any]:
        return super().trust() | {"tls": {"unprotected": True}}

    def seen(self, who: str, ee: EE) -> Party:
        self.asked = ee
        arrival = {} if who == "none" else {"client": tls(ee)}
        return Party(bare(self.world.clock()), arrival, subject="CN=gateway-1")


class TLSSame(Certificate):
    """A TLS client certificate, and the message is signed with the same."""

    binding: ClassVar[str] = "same_certificate"

    def trust(self) -> dict[str, Any]:
        return super().trust() | {"tls": {"required": True, "binding": self.binding}}

    def seen(self, who: str, ee: EE) -> Party:
        self.asked = ee
        signing = without_its_key(ee) if who == "wrong" else ee
        client = self.make("right") if who == "another client" else ee
        return Party(signing, {} if who == "none" else {"client": tls(client)}, subject="CN=gateway-1")


class TLSSubject(TLSSame):
    """A TLS client certificate, and the message is signed with another one of the same subject."""

    binding = "same_subject"

    def seen(self, who: str, ee: EE) -> Party:
        self.asked = ee
        signing = self.make("right", subject="gateway-2" if who == "another client" else "gateway-1")
        if who == "right" and self.who == "wrong fingerprint":
            signing = self.listed
        if who == "wrong":
            signing = without_its_key(signing)
        return Party(signing, {} if who == "none" else {"client": tls(ee)}, subject="CN=gateway-1")


class TLSRA(TLSSame):
    """The TLS client is an RA; the message is signed by anybody whom the profile trusts."""

    binding: ClassVar[str] = "ra"
    ra = True

    def trust(self) -> dict[str, Any]:
        return super().trust() | {"ra_certificates": ["ras.pem"]}

    def seen(self, who: str, ee: EE) -> Party:
        self.asked = ee
        self.ra = False
        signing = self.make("right")
        client = self.make("right") if who == "another client" else ee
        self.ra = True
        if who == "wrong":
            signing = without_its_key(signing)
        return Party(signing, {} if who == "none" else {"client": tls(client)}, subject="CN=gateway-1")


class TLSCode(Certificate):
    """An enrollment code, and a TLS client certificate beside it; only the latter is wrong."""

    method = "enrollment_code"

    def trust(self) -> dict[str, Any]:
        return {"tls": {"required": True, "trusted_certificates": ["clients.pem", "others.pem"]}}

    def seen(self, who: str, ee: EE) -> Party:
        self.asked = ee
        client = EE.with_code("ref", "another-secret" if who == "wrong" else SECRET, now=self.world.clock())
        return Party(client, {} if who == "none" else {"client": tls(ee)}, subject="CN=gateway-1")

    async def party(self, who: str) -> Party:
        if not await self.world.store.codes("device"):
            await self.world.store.create_codes(
                [NewCode("device", "ref", SECRET.encode(), uses=None)], self.world.clock()
            )
        return await super().party(who)


class Vendor(Certificate):
    """A device's certificate by its maker, on a profile that asks everybody else for a code."""

    method = "enrollment_code"

    def trust(self) -> dict[str, Any]:
        return {"vendor": {"trusted_certificates": ["clients.pem"], "subject": "CN={serial}.example.com"}}

    def make(self, who: str, **changes: Any) -> EE:
        parts = [x509.NameAttribute(NameOID.COMMON_NAME, "IDevID")]
        if who != "no serial":
            parts.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, "4711" if who == "not listed" else "0815"))
        return super().make(who, name=x509.Name(parts))

    async def party(self, who: str) -> Party:
        await self.world.store.import_devices("device", [Device("device", "0815", self.world.clock())])
        party = await super().party(who)
        party.subject = "CN=4711.example.com" if who == "other device" else "CN=0815.example.com"
        return party


class RA(Certificate):
    """An RA below a CA in ra_certificates, known by id-kp-cmcRA; it vouches for the keys of others."""

    method: ClassVar[str] = "enrollment_code"
    ra = True

    def trust(self) -> dict[str, Any]:
        return {"ra_certificates": ["ras.pem"]}

    async def prepare(self) -> None:
        await super().prepare()
        if self.who in {"wrong service user", "user by its names"}:
            return
        self.device = await self.world.enrolled("CN=device-1")

    def seen(self, who: str, ee: EE) -> Party:
        self.asked = ee
        old = loaded(self.device)
        value = der.sequence(der.explicit(4, old.issuer.public_bytes()), der.integer(old.serial_number))
        update = {"controls": [der.sequence(der.oid(oids.REG_CTRL_OLD_CERT_ID), value)], "popo": RA_VERIFIED}
        return Party(
            without_its_key(ee) if who == "wrong" else ee, {}, SUBJECT, request={"popo": RA_VERIFIED}, update=update
        )


class ListedRA(RA):
    """An RA whose own certificate is listed in ra_certificates."""

    async def prepare(self) -> None:
        self.one: EE | None = None
        await super().prepare()

    def trust(self) -> dict[str, Any]:
        if self.one is None:
            self.one = self.make(self.who, eku=None)
        write(self.world.base, "ra.pem", loaded(self.one))
        return {"ra_certificates": ["ra.pem"]}

    async def party(self, who: str) -> Party:
        ee = self.make(who, eku=None) if who == "untrusted" else self.one
        assert ee is not None
        return self.seen(who, ee)


class Own(Way):
    """A certificate that the service itself has issued to the end entity, in this profile."""

    begins = "cr"

    async def party(self, who: str) -> Party:
        world = self.world
        if who == "other profile":
            world.profile("other")
        ee = await world.enrolled(SUBJECT, profile="other" if who == "other profile" else "device")
        if who == "not confirmed":
            code = await world.code("not-confirmed")
            draft = code.ir(subject=SUBJECT)
            answer = await world.send(code, draft)
            ee = EE.with_certificate(draft.key, answer.certificate_der(), now=world.clock())
        if who == "untrusted":
            assert ee.certificate is not None
            issuing = x509.load_der_x509_certificate((await world.issuer.chain())[0])
            key = new_key()
            forged = certificate(key, "device-1", new_key(), issuing)
            ee = EE.with_certificate(key, forged.public_bytes(Encoding.DER), now=world.clock())
        self.asked = ee
        if who == "wrong":
            ee = without_its_key(ee)
        return Party(ee, subject="CN=device-2" if who == "other name" else SUBJECT)

    async def later(self, who: str, party: Party) -> None:
        if who == "expired":
            self.world.clock.tick(days=400)
        await super().later(who, party)
        if who == "revoked":
            serial = loaded(self.asked).serial_number
            issued = await self.world.store.certificate(serial)
            assert issued is not None
            assert issued.status is CertificateStatus.valid
            await self.world.store.revoke(Revocation(serial, RevocationReason.keyCompromise, self.world.clock()))


WAYS: dict[str, type[Way]] = {
    "code": Code,
    "code by URL": CodeByURL,
    "global code": GlobalCode,
    "signer": Certificate,
    "TLS": TLS,
    "TLS = signer": TLSSame,
    "TLS ~ signer": TLSSubject,
    "TLS RA + signer": TLSRA,
    "TLS + code": TLSCode,
    "vendor": Vendor,
    "RA by cmcRA": RA,
    "RA listed": ListedRA,
    "own": Own,
}
RESPONSES = {"ir": BodyType.ip, "cr": BodyType.cp, "p10cr": BodyType.cp, "kur": BodyType.kup}
