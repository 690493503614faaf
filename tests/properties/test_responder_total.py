"""respond() is total: whatever comes in, a PKIMessage comes out, and nothing else happens (RFC 9483 §3.5, §3.6)."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmpd import asn1
from cmpd.asn1 import BodyType, der, oids
from cmpd.limits import Limits
from tests.asn1.vectors import MESSAGES
from tests.ee import EE, Draft, cert_profile, directory_name, extension, name, new_key, san, sign, spki
from tests.world import World, certificate

LIMITS = Limits()
KEY = new_key()
SLOW = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def rows(world: World) -> dict[str, list[Any]]:
    """Everything that is in the store."""
    connection = sqlite3.connect(f"file:{world.base / 'cmpd.db'}?mode=ro", uri=True)
    try:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
    finally:
        connection.close()


async def answered(world: World, data: bytes) -> asn1.PKIMessage:
    """Send octets, whatever they are; the answer decodes to the last field, and nothing went wrong inside."""
    world.exchanges.clear()
    answer = await world.post(data)
    assert world.last.exception is None, (data.hex(), world.last.exception)
    assert world.last.fail_info != "systemFailure", data.hex()
    message = asn1.decode(answer, LIMITS)
    assert not message.was_ber
    message.decode_body()
    assert message.header.pvno in {2, 3}
    assert message.header.senderNonce is not None
    assert len(message.header.senderNonce) == 16
    for general_name in map(asn1.raw, (message.header.sender, message.header.recipient)):
        assert general_name[0] in {0xA0, 0x81, 0x82, 0xA3, 0xA4, 0xA5, 0x86, 0x87, 0x88}
        assert general_name[0] != 0xA4 or (asn1.directory_name(general_name) or b"")[0] == der.SEQUENCE
    return message


async def refused(world: World, data: bytes) -> None:
    """Whatever it is, it is not authentic: an error message is all that comes of it."""
    message = await answered(world, data)
    assert message.body_type is BodyType.error, data.hex()
    assert world.last.outcome == "error"


async def mac_ir(world: World) -> tuple[EE, Draft]:
    ee = await world.code(uses=None)
    return ee, ee.ir(KEY, header={"general_info": cert_profile("device")}, extensions=[san("device.example")])


async def signed_kur(world: World) -> tuple[EE, Draft]:
    ee = await world.enrolled()
    return ee, ee.kur(KEY)


async def signed_cr(world: World) -> tuple[EE, Draft]:
    ee = await world.enrolled()
    return ee, ee.cr(KEY, header={"sender_kid": None, "pvno": 3})


Make = Callable[[World], Any]
MAKERS = [mac_ir, signed_kur, signed_cr]


@pytest.mark.parametrize("make", MAKERS, ids=lambda one: one.__name__)
async def test_every_single_flipped_bit(world: World, make: Make) -> None:
    """Of header, body, protection, their framing, and of the certificate that the message is signed with.

    extraCerts is not protected (RFC 9810 §5.1); but a protection certificate of which a bit is flipped either cannot
    be read or does not validate, and so nothing at all may be flipped here.
    """
    ee, draft = await make(world)
    data = ee.seal(draft)
    before = rows(world)
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 0x80 >> bit % 8
        await refused(world, bytes(flipped))
    assert rows(world) == before
    assert (await answered(world, data)).body_type in {BodyType.ip, BodyType.cp, BodyType.kup}
    assert world.last.outcome == "accepted", "and the message itself was good"


async def test_flipped_bits_of_a_certificate_that_is_not_needed(world: World) -> None:
    """What is only company in extraCerts may be anything: one request, one certificate, and no internal error."""
    ee = await world.enrolled()
    chain = await world.issuer.chain()
    ee.chain = (chain[0],)
    data = ee.seal(ee.kur(KEY))
    start = data.index(chain[0])
    before = len(rows(world)["certificate"])
    for bit in range(start * 8, (start + len(chain[0])) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 0x80 >> bit % 8
        await answered(world, bytes(flipped))
    assert len(rows(world)["certificate"]) == before + 1


@pytest.mark.parametrize("make", MAKERS, ids=lambda one: one.__name__)
async def test_every_truncation_and_what_follows_the_end(world: World, make: Make) -> None:
    ee, draft = await make(world)
    data = ee.seal(draft)
    before = rows(world)
    for length in range(len(data)):
        await refused(world, data[:length])
    for tail in (b"\x00", b"\x05\x00", b"\x00\x00", data):
        await refused(world, data + tail)
    for position in range(0, len(data), 3):
        await refused(world, data[:position] + data[position + 1 :])
        await refused(world, data[:position] + b"\x00" + data[position:])
    assert rows(world) == before


@given(data=st.binary(max_size=600))
@SLOW
async def test_random_octets(world: World, data: bytes) -> None:
    before = rows(world)
    await refused(world, data)
    await refused(world, der.sequence(data))
    await refused(world, der.sequence(der.sequence(der.integer(2), directory_name("CN=x"), directory_name("")), data))
    assert rows(world) == before


@pytest.mark.parametrize("path", MESSAGES)
async def test_messages_of_strangers(world: World, path: str) -> None:
    """Every real message of the vectors: an answer to each, and no state of any."""
    before = rows(world)
    await refused(world, MESSAGES[path])
    assert rows(world) == before


HEADER = der.sequence(der.integer(2), directory_name("CN=x"), directory_name(""))
ABSURD = {
    "nothing": b"",
    "4 GiB": b"\x30\x84\xff\xff\xff\xff",
    "2**1000 octets": b"\x30\xfe" + b"\xff" * 126,
    "reserved length": b"\x30\xff",
    "indefinite and no end": b"\x30\x80" * 5000,
    "indefinite, ended": b"\x30\x80" * 5000 + b"\x00\x00" * 5000,
    "10,000 levels": b"",
    "HTML": b"<html><body>It works!</body></html>",
    "PEM": b"-----BEGIN CMP-----\nMIIB\n-----END CMP-----\n",
    "a high tag number": b"\x3f\xff\xff\xff\xff\x7f\x02\x05\x00",
    "an INTEGER of 30,000 octets": der.sequence(der.sequence(der.integer(1 << 240_000)), der.explicit(19, der.null())),
    "30,000 INTEGERs": der.sequence(*[der.integer(1)] * 30_000),
    "an OID of 30,000 octets": der.sequence(
        der.sequence(
            der.integer(2),
            directory_name(""),
            directory_name(""),
            der.tlv(0xA1, der.sequence(der.tlv(6, b"\x81" * 30_000 + b"\x01"))),
        ),
        der.explicit(19, der.null()),
    ),
    "50,000 RDNs": der.sequence(
        der.sequence(der.integer(2), der.explicit(4, der.sequence(*[der.set_of()] * 50_000)), directory_name("")),
        der.explicit(19, der.null()),
    ),
    "50,000 freeTexts": der.sequence(
        der.sequence(
            der.integer(2),
            directory_name(""),
            directory_name(""),
            der.tlv(0xA7, der.sequence(*[der.utf8_string("")] * 50_000)),
        ),
        der.explicit(19, der.null()),
    ),
    "20,000 generalInfos": der.sequence(
        der.sequence(
            der.integer(2),
            directory_name(""),
            directory_name(""),
            der.tlv(0xA8, der.sequence(*[der.sequence(der.oid("1.2"))] * 20_000)),
        ),
        der.explicit(19, der.null()),
    ),
    "1000 extraCerts": asn1.encode(HEADER, der.explicit(19, der.null()), b"x", [der.null()] * 1000),
    "a nonce of 100,000 octets": der.sequence(
        der.sequence(
            der.integer(2), directory_name(""), directory_name(""), der.tlv(0xA5, der.octet_string(bytes(100_000)))
        ),
        der.explicit(19, der.null()),
    ),
    "body of no type": der.sequence(HEADER, der.explicit(27, der.null())),
    "body of tag 30": der.sequence(HEADER, der.explicit(30, der.null())),
    "body primitive": der.sequence(HEADER, der.tlv(0x80, b"")),
    "no header": der.sequence(der.sequence(), der.explicit(19, der.null())),
    "pvno 0": der.sequence(
        der.sequence(der.integer(0), directory_name(""), directory_name("")), der.explicit(0, der.sequence())
    ),
    "pvno 2**20000": der.sequence(
        der.sequence(der.integer(2**20_000), directory_name(""), directory_name("")), der.explicit(0, der.sequence())
    ),
    "pvno -1": der.sequence(
        der.sequence(der.integer(-1), directory_name(""), directory_name("")), der.explicit(0, der.sequence())
    ),
    "a sender that is no GeneralName": der.sequence(
        der.sequence(der.integer(2), der.octet_string(b"x"), directory_name("")), der.explicit(0, der.sequence())
    ),
    "a sender that is a hollow directoryName": der.sequence(
        der.sequence(der.integer(2), der.tlv(0xA4, b""), directory_name("")), der.explicit(0, der.sequence())
    ),
    "a sender that is a directoryName of junk": der.sequence(
        der.sequence(der.integer(2), der.tlv(0xA4, der.octet_string(b"x")), directory_name("")),
        der.explicit(0, der.sequence()),
    ),
}
_deep = b""
for _ in range(10_000):
    _deep = der.tlv(0x30, _deep)
    if len(_deep) > 120_000:
        break
ABSURD["10,000 levels"] = _deep


@pytest.mark.parametrize("data", ABSURD.values(), ids=ABSURD)
async def test_absurd_messages(world: World, data: bytes) -> None:
    before = rows(world)
    await refused(world, data)
    assert rows(world) == before


# ---------------------------------------------------------------------------- structure, by those who hold the secret

Node = list[Any]
"""[tag, content]: content is a list of Nodes, or octets."""
_WRAPPED = {der.OCTET_STRING: 0, der.BIT_STRING: 1}


def parse(data: bytes) -> Node:
    tag, start, end = der.read(data)
    if end != len(data):
        raise asn1.MalformedError("trailing octets")
    if tag & 0x20:
        return [tag, [parse(child) for child in der.children(data)]]
    skip = _WRAPPED.get(tag)
    if skip is not None and end - start > skip + 2:
        try:  # what is wrapped in a string: extnValue, a public key, an ECDSA signature
            return [tag, [[None, data[start : start + skip]], parse(data[start + skip : end])]]
        except asn1.MalformedError:
            pass
    return [tag, data[start:end]]


def build(node: Node) -> bytes:
    tag, content = node
    inner = content if isinstance(content, bytes) else b"".join(map(build, content))
    return inner if tag is None else der.tlv(tag, inner)


def nodes(node: Node) -> list[Node]:
    return [node, *(found for child in (node[1] if isinstance(node[1], list) else ()) for found in nodes(child))]


JUNK = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"",
            der.null(),
            der.integer(-1),
            der.integer(2**64),
            der.sequence(),
            der.octet_string(bytes(1000)),
            der.oid("2.5.4.3"),
            der.utf8_string("\u202e\x00\ud7ff"),
            der.tlv(0x0C, b"\xff\xfe"),
            der.tlv(0x1E, b"\xd8\x00"),
            der.tlv(0x1C, b"\xff\xff\xff\xff"),
            der.tlv(0x18, b"00000000000000Z"),
            der.tlv(0x17, b"991399999999Z"),
            der.tlv(0x01, b"\x01"),
            der.tlv(0x03, b""),
            der.tlv(0x03, b"\x09x"),
            der.tlv(0x30, b"\x30\x80\x00\x00"),
            der.sequence(*[der.null()] * 1200),
        ]
    ),
)


NUMBER = st.integers(0, 1_000_000)
TAGS = st.sampled_from([0x02, 0x03, 0x04, 0x05, 0x06, 0x0C, 0x18, 0x1F, 0x30, 0x31, 0x80, 0x81, 0xA0, 0xA1, 0xA2, 0xA9])
KINDS = st.sampled_from(["drop", "double", "many", "swap", "tag", "empty", "wrap", "deep", "flip", "whole", "junk"])
PLAN = st.lists(st.tuples(KINDS, NUMBER, NUMBER, NUMBER, TAGS, JUNK), min_size=1, max_size=4)
"""One to four changes somewhere in a tree, told without knowing the tree."""


def mutate(plan: Sequence[tuple[str, int, int, int, int, bytes]], data: bytes) -> bytes:
    tree = parse(data)
    for kind, where, one, two, tag, junk in plan:
        found = nodes(tree)
        node = found[where % len(found)]
        content = node[1]
        if isinstance(content, list) and content and kind in {"drop", "double", "many", "swap"}:
            index, other = one % len(content), two % len(content)
            if kind == "drop":
                del content[index]
            elif kind == "swap":
                content[index], content[other] = content[other], content[index]
            else:
                content[index:index] = [content[index]] * (1 if kind == "double" else 40)
        elif kind == "tag" and node[0] is not None:
            node[0] = tag
        elif kind == "empty":
            node[1] = b""
        elif kind in {"wrap", "deep"}:
            for _ in range(1 if kind == "wrap" else 60):
                node[1] = [[0x30 if node[0] is None else node[0], node[1]]]
        elif kind == "flip" and isinstance(content, bytes) and content:
            changed = bytearray(content)
            changed[one % len(content)] ^= 1 << two % 8
            node[1] = bytes(changed)
        elif kind == "whole":
            node[0], node[1] = None, junk
        else:
            node[1] = junk
    return build(tree)


OLD_CERT_ID = der.sequence(der.oid(oids.REG_CTRL_OLD_CERT_ID), der.sequence(directory_name("CN=x"), der.integer(5)))
KEY_USAGE = extension(oids.KEY_USAGE, der.named_bits([0]), critical=True)


async def requests(world: World) -> list[tuple[EE, Callable[[], Draft]]]:
    """One who holds a code and one who holds a certificate, and all that they may send."""
    holder = await world.code(uses=None)
    enrolled = await world.enrolled()
    info = cert_profile("device") + der.sequence(der.oid(oids.IMPLICIT_CONFIRM), der.null())
    validity = der.tlv(0xA4, der.tlv(0xA0, der.tlv(0x18, b"20261123000000Z")))
    full: dict[str, Any] = {
        "extensions": [san("a.example", "b.example"), KEY_USAGE],
        "controls": [OLD_CERT_ID],
        "validity": validity,
    }
    return [
        (holder, lambda: holder.ir(KEY, header={"general_info": info}, **full)),
        (holder, lambda: holder.cr(KEY)),
        (holder, lambda: holder.p10cr(KEY, extensions=[san("a.example"), KEY_USAGE])),
        (enrolled, lambda: enrolled.kur(KEY, **{**full, "controls": []})),
        (enrolled, lambda: enrolled.p10cr(KEY)),
        (holder, lambda: holder.draft(BodyType.genm, der.sequence(der.sequence(der.oid("1.3.6.1.5.5.7.4.1"))))),
        (holder, lambda: holder.draft(BodyType.nested, der.sequence(holder.seal(holder.ir(KEY))))),
        (holder, lambda: holder.draft(BodyType.rr, der.sequence(der.sequence(der.sequence())))),
        (holder, lambda: holder.draft(BodyType.certConf, der.sequence())),
        (enrolled, lambda: enrolled.draft(BodyType.error, der.sequence(der.sequence(der.integer(2))))),
    ]


def seal(ee: EE, draft: Draft, header: bytes, body: bytes) -> bytes:
    """Protect what has been changed as if it had always been so; the algorithm is that of the draft."""
    ee.seal(draft)  # sets draft.algorithm
    part = asn1.protected_part(header, body)
    if ee.secret is not None:
        assert draft.algorithm is not None
        return asn1.encode(header, body, ee._mac(draft.algorithm, part), draft.extra_certs)
    return asn1.encode(header, body, sign(ee.key, part), draft.extra_certs)


@given(which=NUMBER, in_body=st.booleans(), plan=PLAN)
@SLOW
async def test_a_changed_structure_that_is_protected_all_the_same(
    world: World, which: int, in_body: bool, plan: Any
) -> None:
    """An authenticated client can send anything: never an internal error, never an answer that cannot be read."""
    choices = await _once(world)
    ee, make = choices[which % len(choices)]
    draft = make()
    ee.seal(draft)
    header, body = draft.header(), draft.body
    if in_body:
        body = mutate(plan, body)
    else:
        header = mutate(plan, header)
    await answered(world, seal(ee, draft, header, body))


@given(which=NUMBER, plan=PLAN)
@SLOW
async def test_a_changed_structure_that_is_not_protected(world: World, which: int, plan: Any) -> None:
    """Without the secret nothing comes of it but an error message, whatever is changed."""
    choices = await _once(world)
    ee, make = choices[which % 5]
    draft = make()
    original = ee.seal(draft)
    changed = mutate(plan, original)
    whole = asn1.decode(original, LIMITS)
    try:
        other = asn1.decode(changed, LIMITS)
    except asn1.MalformedError:
        pass
    else:
        if (other.protected_part(), other.protection) == (whole.protected_part(), whole.protection):
            await answered(world, changed)  # only extraCerts differ
            return
    before = rows(world)
    await refused(world, changed)
    assert rows(world) == before


@pytest.mark.parametrize("number", [-1, 2**63, 2**20_000], ids=["-1", "2**63", "2**20000"])
@pytest.mark.parametrize("field", ["cert_req_id", "status"])
async def test_absurd_numbers_in_a_cert_conf(world: World, field: Any, number: Any) -> None:
    """A number of more than 4300 digits cannot even be written."""
    ee = await world.code()
    answer = await world.send(ee, ee.ir(KEY))
    conf = ee.cert_conf(answer, **{field: number})
    message = await answered(world, ee.seal(conf))
    assert message.body_type is BodyType.error
    assert world.last.fail_info in {"badCertId", "badRequest", "badDataFormat"}


CERTIFICATE_EXTENSIONS: list[tuple[x509.ExtensionType, bool]] = [
    (x509.SubjectAlternativeName([x509.DNSName("a.example"), x509.RFC822Name("a@b.example")]), False),
    (
        x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.2.3.4"), ["http://cps.example"])]),
        False,
    ),
]


@given(plan=PLAN, trusted=st.booleans())
@SLOW
async def test_certificates_of_any_structure(world: World, plan: Any, trusted: bool) -> None:
    """A CA that the profile trusts, or anybody, may sign whatever it likes; it is read without an internal error."""
    root = getattr(world, "_root", None)
    if root is None:
        root = world._root = certificate(KEY, "Vendor", ca=True)  # type: ignore[attr-defined]
        (world.base / "v.pem").write_bytes(root.public_bytes(Encoding.PEM))
        table = {
            "authentication_method": "tls_certificate",
            "trusted_certificates": ["v.pem"],
            "ra_certificates": ["v.pem"],
        }
        world.profile(enrollment=table)
    good = certificate(KEY, "x", KEY, root, eku=[oids.KP_CMC_RA], extensions=CERTIFICATE_EXTENSIONS)
    tbs, algorithm, _ = der.children(good.public_bytes(Encoding.DER))
    tbs = mutate(plan, tbs)
    signer = KEY if trusted else new_key()
    leaf = der.sequence(tbs, algorithm, der.bit_string(sign(signer, tbs)))
    ee = EE.with_certificate(KEY, good.public_bytes(Encoding.DER))
    await answered(world, ee.seal(ee.cr(KEY, header={"extra_certs": (leaf,), "sender_kid": None})))
    await answered(world, ee.seal(ee.cr(KEY, header={"extra_certs": (good.public_bytes(Encoding.DER), leaf)})))


@given(in_body=st.booleans(), plan=PLAN)
@SLOW
async def test_a_changed_cert_conf(world: World, in_body: bool, plan: Any) -> None:
    """The certConf of a transaction that waits for one."""
    ee, _ = (await _once(world))[0]
    draft = ee.ir()
    answer = ee.read(await world.post(ee.seal(draft)), draft)
    conf = ee.cert_conf(answer, status=asn1.PKIStatus.accepted, hash_alg=oids.SHA256, pvno=3)
    ee.seal(conf)
    header, body = conf.header(), conf.body
    if in_body:
        body = mutate(plan, body)
    else:
        header = mutate(plan, header)
    await answered(world, seal(ee, conf, header, body))


async def _once(world: World) -> list[tuple[EE, Callable[[], Draft]]]:
    found = getattr(world, "_requests", None)
    if found is None:
        found = world._requests = await requests(world)  # type: ignore[attr-defined]
    return found


HUGE = {
    "700 CertReqMsgs": lambda ee: der.sequence(*[ee.cert_req_msg(KEY)] * 700),
    "5000 extensions": lambda ee: der.sequence(ee.cert_req_msg(KEY, extensions=[KEY_USAGE] * 5000)),
    "5000 controls": lambda ee: der.sequence(
        ee.cert_req_msg(KEY, controls=[der.sequence(der.oid("1.2.3"), der.null())] * 5000)
    ),
    "10,000 names in a SAN": lambda ee: der.sequence(ee.cert_req_msg(KEY, extensions=[san(*["a.example"] * 10_000)])),
    "a subject of 2000 RDNs": lambda ee: der.sequence(ee.cert_req_msg(KEY, subject=",".join(["CN=x"] * 2000))),
    "a subject of 100,000 characters": lambda ee: der.sequence(ee.cert_req_msg(KEY, subject="CN=" + "x" * 100_000)),
    "a certReqId of 20,000 bits": lambda ee: der.sequence(ee.cert_req_msg(KEY, cert_req_id=2**20_000)),
    "a version of 20,000 bits": lambda ee: der.sequence(
        ee.cert_req_msg(
            KEY, template=der.sequence(der.tlv(0x80, (2**20_000).to_bytes(2501, "big")), der.children(spki(KEY))[0])
        )
    ),
    "a certReqId of -2**63": lambda ee: der.sequence(ee.cert_req_msg(KEY, cert_req_id=-(2**63))),
    "no CertReqMsg": lambda ee: der.sequence(),
    "a public key of 30,000 octets": lambda ee: der.sequence(
        ee.cert_req_msg(
            KEY,
            template=der.sequence(
                der.explicit(5, name("CN=x")),
                der.tlv(0xA6, der.children(spki(KEY))[0], der.bit_string(bytes(30_000))),
            ),
        )
    ),
}


@pytest.mark.parametrize("content", HUGE.values(), ids=HUGE)
@pytest.mark.parametrize("several", [False, True])
async def test_huge_requests_of_one_who_holds_the_secret(
    world: World, content: Callable[[EE], bytes], several: bool
) -> None:
    world.profile(enrollment={"authentication_method": "enrollment_code", "several_requests": several})
    ee = await world.code(uses=None)
    message = await answered(world, ee.seal(ee.draft(BodyType.ir, content(ee))))
    assert message.body_type in {BodyType.ip, BodyType.error}
    assert world.last.outcome in {"rejection", "error"}
    assert not (await world.store.certificates(10))
