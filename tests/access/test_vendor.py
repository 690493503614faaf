"""Devices that enroll with the certificate of their maker (IEEE 802.1AR, 3GPP TS 33.310 §9.5.4, RFC 9483 §1.6)."""

from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from cmpd import asn1
from cmpd.asn1 import BodyType, der, oids
from cmpd.asn1.certificate import subject as subject_of
from cmpd.exchange import Device
from tests.access.pki import PKI, bare, tls, write
from tests.ee import EE, Answer, Draft, san, sign, signature_algorithm, spki
from tests.world import World

SUBJECT = "CN={serial}.devices.example.com,O=Example"


class Maker(PKI):
    def device(self, world: World, serial: str | None = "0815", *, name: str = "IDevID", **kwargs: Any) -> EE:
        parts = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
        if serial is not None:
            parts.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, serial, _ASN1Type.UTF8String))
        return self.client(now=world.clock(), name=x509.Name(parts), **kwargs)


@pytest.fixture
def maker(world: World) -> Maker:
    maker = Maker("Maker Root")
    write(world.base, "maker.pem", maker.root)
    return maker


def profile(world: World, *, vendor: dict[str, Any] | None = None, **changes: Any) -> None:
    rules = {"trusted_certificates": ["maker.pem"], "allow_list": False, "subject": SUBJECT, **(vendor or {})}
    world.profile(enrollment={"vendor": {key: rule for key, rule in rules.items() if rule is not None}}, **changes)


def named(answer: Answer) -> str:
    """The subject, as it is encoded."""
    return asn1.name_text(subject_of(answer.certificate_der()))


async def seat(world: World, answer: Answer) -> str | None:
    issued = await world.store.certificate(answer.certificate().serial_number)
    assert issued is not None
    return issued.seat


def without_subject(ee: EE, form: str) -> Draft:
    """An ir for the key alone: certTemplate without subject, as 3GPP has it, or with the NULL-DN."""
    if form == "NULL-DN":
        return ee.ir(subject="")
    draft = ee.ir()
    key = draft.key
    if form == "absent, POP over certReq":
        return ee.ir(key, subject=None)
    public = der.sequence(der.tlv(0xA6, *der.children(spki(key))))
    sender = der.explicit(0, draft.sender)
    given = der.tlv(0xA0, sender, spki(key))
    signed = der.sequence(sender, spki(key))
    popo = der.tlv(0xA1, given, signature_algorithm(key), der.bit_string(sign(key, signed)))
    return ee.ir(key, template=public, popo=popo)


@pytest.mark.parametrize("form", ["absent", "absent, POP over certReq", "NULL-DN"])
async def test_a_request_without_subject_gets_the_configured_one(world: World, maker: Maker, form: str) -> None:
    profile(world)
    ee = maker.device(world)
    draft = without_subject(ee, form)
    answer = await world.send(ee, draft)
    assert answer.type is BodyType.ip, answer.text
    assert named(answer) == "CN=0815.devices.example.com,O=Example"
    assert await seat(world, answer) == "0815"
    root = (await world.issuer.chain())[-1]
    assert root in answer.message.extraCerts, "3GPP TS 33.310 §9.5.4.3: the operator's root"
    assert answer.body.caPubs is None
    assert (await world.send(ee, ee.cert_conf(answer))).type is BodyType.pkiconf

    own = EE.with_certificate(draft.key, answer.certificate_der(), now=world.clock())
    renewed = await world.send(own, own.kur(subject=""))
    assert renewed.type is BodyType.kup, renewed.text
    assert named(renewed) == named(answer)
    assert await seat(world, renewed) == "0815", "it keeps its seat"
    assert root not in renewed.message.extraCerts, "it has it"


async def test_the_list_says_who_may_for_which_seat_and_under_which_name(world: World, maker: Maker) -> None:
    profile(world, vendor={"allow_list": True})
    ee, other, third = (maker.device(world, serial) for serial in ("0815", "4711", "0816"))
    now = world.clock()
    await world.store.import_devices(
        "device",
        [Device("device", "0815", now, "door-7", "CN=door-7.example.com"), Device("device", "0816", now)],
    )
    answer = await world.send(ee, ee.ir(subject=""))
    assert (named(answer), await seat(world, answer)) == ("CN=door-7.example.com", "door-7")
    answer = await world.send(third, third.ir(subject=""))
    assert (named(answer), await seat(world, answer)) == ("CN=0816.devices.example.com,O=Example", "0816")
    answer = await world.send(other, other.ir(subject=""))
    assert (answer.type, answer.fail_info) == (BodyType.error, "notAuthorized")
    assert "4711" not in answer.text
    assert "4711" in world.last.private
    await world.store.remove_device("device", "0815")
    assert (await world.send(ee, ee.ir(subject=""))).fail_info == "notAuthorized"


@pytest.mark.parametrize(
    ("configured", "subject", "granted"),
    [
        (SUBJECT, "O=Example,CN=0815.devices.example.com", True),
        (SUBJECT, "O=Example,CN=4711.devices.example.com", False),
        (SUBJECT, "O=Example,CN=0815", False),
        (SUBJECT, "CN=0815.devices.example.com,O=Example", False),
        (None, "CN=0815", True),
        (None, "CN=0815.example.com", True),
        (None, "CN=door-7,SERIALNUMBER=0815", True),
        (None, "CN=4711", False),
        (None, "CN=08150", False),
        (None, "CN=x.0815", False),
        (None, "CN=door-7,SERIALNUMBER=4711", False),
        (None, "CN=door-7,O=0815", False),
        (None, "", False),
    ],
)
async def test_a_device_asks_for_itself(
    world: World, maker: Maker, configured: str | None, subject: str, granted: bool
) -> None:
    profile(world, vendor={"subject": configured})
    ee = maker.device(world)
    answer = await world.send(ee, ee.ir(subject=subject))
    assert answer.fail_info == (None if granted else "badCertTemplate"), answer.text
    if not granted:
        assert "enrollment.vendor" in answer.text


async def test_any_subject_only_where_the_profile_says_so(world: World, maker: Maker) -> None:
    profile(world, vendor={"free_subject": True})
    ee = maker.device(world)
    answer = await world.send(ee, ee.ir(subject="CN=whatever"))
    assert (named(answer), await seat(world, answer)) == ("CN=whatever", "0815")


async def test_the_seat_may_be_that_of_the_request(world: World, maker: Maker) -> None:
    profile(world, vendor={"seat": "request"}, seat={"id_mapping": "san.dns"})
    ee = maker.device(world)
    answer = await world.send(ee, ee.ir(subject="", extensions=[san("door-7.example.com")]))
    assert await seat(world, answer) == "door-7.example.com"


HOSTILE = {
    "commas": "1,O=Evil",
    "a whole name": "1,CN=admin.example.com,O=Example",
    "a plus": "1+CN=admin",
    "escapes": "1\\2CO\\3DEvil",
    "quotes": '1"2',
    "a NUL": "1\x002",
    "a line": "1\n2",
    "the terminal": "1\x1b[31m2",
    "right to left": "1\u202e2",
    "too long": "1" * 64,
    "braces": "{serial}{0}",
    "empty": " ",
}


@pytest.mark.parametrize("serial", HOSTILE.values(), ids=HOSTILE)
async def test_no_serial_number_shapes_the_name(world: World, maker: Maker, serial: str) -> None:
    """It is one value, or it is refused; nothing else of the name is the device's to choose."""
    profile(world)
    ee = maker.device(world, serial)
    answer = await world.send(ee, ee.ir(subject=""))
    assert world.last.exception is None
    if answer.type is not BodyType.ip or answer.fail_info:
        assert answer.fail_info in {"notAuthorized", "badCertTemplate"}
        assert answer.text.isprintable()
        return
    rdns = asn1.name_rdns(subject_of(answer.certificate_der()))
    values = {oid: asn1.text_of(tag, value) for rdn in rdns for oid, tag, value in rdn if len(rdn) == 1}
    assert values == {oids.COMMON_NAME: f"{serial}.devices.example.com", oids.ORGANIZATION_NAME: "Example"}
    assert [oid for rdn in rdns for oid, _, _ in rdn].count(oids.COMMON_NAME) == 1


@pytest.mark.parametrize("serial", [None, "\x00"], ids=["none", "a control character"])
async def test_a_certificate_without_a_serial_number_names_no_device(
    world: World, maker: Maker, serial: str | None
) -> None:
    profile(world)
    ee = maker.device(world, serial)
    answer = await world.send(ee, ee.ir(subject=""))
    assert (answer.type, answer.fail_info) == (BodyType.error, "notAuthorized")
    assert "enrollment.vendor.serial_from" in answer.text


async def test_two_serial_numbers_are_none(world: World, maker: Maker) -> None:
    profile(world)
    parts = [x509.NameAttribute(NameOID.SERIAL_NUMBER, serial) for serial in ("0815", "4711")]
    ee = maker.client(now=world.clock(), name=x509.Name(parts))
    assert (await world.send(ee, ee.ir(subject=""))).fail_info == "notAuthorized"


@pytest.mark.parametrize("source", ["subject.common_name", "san.hardware_module_name", "certificate.serial_number"])
async def test_where_the_serial_number_may_be(world: World, maker: Maker, source: str) -> None:
    profile(world, vendor={"serial_from": source})
    hardware = der.sequence(der.oid("1.3.6.1.4.1.55555.7"), der.octet_string(b"HW-7"))
    names = x509.SubjectAlternativeName([x509.OtherName(oids.ON_HARDWARE_MODULE_NAME, hardware)])
    ee = maker.device(world, None, name="CN-7", extensions=[(names, False)])
    answer = await world.send(ee, ee.ir(subject=""))
    assert ee.certificate is not None
    number = f"{x509.load_der_x509_certificate(ee.certificate).serial_number:x}"
    expected = {"subject.common_name": "CN-7", "san.hardware_module_name": "HW-7", "certificate.serial_number": number}
    assert await seat(world, answer) == expected[source]


async def test_a_device_may_come_by_tls_alone(world: World, maker: Maker) -> None:
    """Its certificate in the handshake, the message without protection, where the profile accepts that."""
    rules = {"trusted_certificates": ["maker.pem"], "allow_list": False, "subject": SUBJECT}
    world.profile(enrollment={"vendor": rules, "tls": {"unprotected": True}})
    ee, device = bare(world.clock()), maker.device(world)
    answer = await world.send(ee, ee.ir(subject=""), client=tls(device))
    assert named(answer) == "CN=0815.devices.example.com,O=Example"
    assert (await world.send(ee, ee.cert_conf(answer), client=tls(device))).type is BodyType.pkiconf
    other = maker.device(world, "4711")
    answer = await world.send(ee, ee.ir(subject="CN=0815.devices.example.com,O=Example"), client=tls(other))
    assert answer.fail_info == "badCertTemplate"


async def test_a_device_cannot_vouch_for_another_key(world: World, maker: Maker) -> None:
    profile(world)
    ee = maker.device(world)
    answer = await world.send(ee, ee.ir(subject="", popo=der.tlv(0x80)))
    assert answer.fail_info == "badPOP"
