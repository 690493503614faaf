"""Whatever a request holds, the profile decides it: a certificate within its rules, or a refusal of RFC 9483."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from hypothesis import example, given
from hypothesis import strategies as st
from pyasn1.codec.der import decoder, encoder
from pyasn1_alt_modules import rfc5280

from cmpd.asn1 import der
from cmpd.errors import CMPError
from cmpd.exchange import Approved, CertificateRequest, RequestedExtension
from cmpd.profile import Profile, templates
from cmpd.profile.syntax import dns_fault, quote
from tests.profile_cases import KEYS, NOW, OIDS, attribute, extension, key_usage, name, profile, purposes, san
from tests.templates.cases import made

ALLOWED_ATTRIBUTES = {OIDS["CN"], OIDS["OU"], OIDS["O"], OIDS["C"]}
ALLOWED_NAMES = {0x82, 0x87}
CLIENT, SERVER = "1.3.6.1.5.5.7.3.2", "1.3.6.1.5.5.7.3.1"
_RULES = {
    "subject": {
        "common_name": {},
        "organizational_unit_name": {"max": 3},
        "organization_name": {"source": "fixed", "value": "Example"},
        "country_name": {},
        "multi_valued_rdn": True,
    },
    "san": {"dns": {"allowed_domains": [".example"], "allow_wildcard": True}, "ip": {}},
    "extensions.extended_key_usage": {"optional_usages": ["client_auth"]},
    "extensions.key_usage.optional_usages": ["non_repudiation"],
    "validity": {"default": "10d", "max": "20d", "allow_request_override": True, "on_exceed": "shorten"},
}
STRICT = profile(_RULES)
LENIENT = profile(
    _RULES
    | {
        "subject": _RULES["subject"] | {"on_unlisted": "drop"},  # type: ignore[operator]
        "san": _RULES["san"] | {"on_unlisted": "drop"},  # type: ignore[operator]
        "extensions.other": "ignore",
        "extensions.key_usage.on_unlisted": "drop",
        "extensions.extended_key_usage.on_unlisted": "drop",
    }
)
RICH = profile(
    _RULES
    | {
        "subject": {
            "common_name": {}, "given_name": {}, "surname": {}, "country_name": {"source": "default", "value": "DE"},
            "organizational_unit_name": {"max": 3, "min": 2}, "order": ["country_name", "common_name"],
            "name_split": "last-word-is-surname", "on_unlisted": "drop",
        },
        "organization": {"name": "Example", "identifier": "NTRDE-1"},
        "san": {"dns": {}, "upn": {}, "guid": {}, "smtp_utf8_mailbox": {},
                "uri": {"source": "default", "value": "urn:x:y"},
                "email": {"source": "fixed", "value": "a@b.example"}, "on_unlisted": "drop",
                "other_name": {"1.2.3": {"type": "any"}}},
        "extensions": {
            "other": "ignore", "requested": {"1.2.3.4": "honour", "2.5.29.37": "ignore"},
            "certificate_policies": ["1.2.3"], "crl_distribution_points": ["http://a.example/crl"],
            "key_usage": {"on_unlisted": "drop", "optional_usages": ["non_repudiation"]},
        },
        "extensions.custom": [{"oid": "1.2.3.5", "type": "null"}],
    }
)  # fmt: skip
"""One that does everything that a profile can do to a request."""
TEMPLATES = [made(one) for one in templates()]

octets = st.binary(max_size=40)
tags = st.sampled_from(
    [0x0C, 0x13, 0x16, 0x1E, 0x1C, 0x14, 0x04, 0x30, 0x31, 0x02, 0x03, 0x81, 0x82, 0x86, 0x87, 0xA0, 0xA4]
)
elements = st.recursive(
    st.builds(der.tlv, tags, octets),
    lambda inner: st.builds(lambda tag, parts: der.tlv(tag, *parts), tags, st.lists(inner, max_size=4)),
    max_leaves=12,
)
texts = st.text(max_size=20) | st.sampled_from(["device-1", "a.example", "*.example", "DE", "Example"])
attributes = st.builds(
    attribute, st.sampled_from(sorted(OIDS)), texts | st.tuples(tags, octets) | st.tuples(tags, texts.map(str.encode))
)
names = st.builds(
    lambda rdns: der.sequence(*(der.tlv(der.SET, *rdn) for rdn in rdns)),
    st.lists(st.lists(attributes, max_size=3), max_size=5),
)
subjects = names | elements | octets
entry = st.tuples(
    st.sampled_from([0x81, 0x82, 0x86, 0x87, 0x88, 0xA0, 0xA4]), octets | texts.map(str.encode) | subjects
)
extensions = (
    st.builds(san, entry, entry)
    | st.builds(san, entry)
    | st.lists(st.integers(0, 15), max_size=4).map(lambda bits: key_usage(*bits))
    | st.lists(st.sampled_from([CLIENT, SERVER, "1.2.3"]), max_size=3).map(lambda oids: purposes(*oids))
    | st.builds(
        extension,
        st.sampled_from(["2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.37", "2.5.29.14", "2.5.29.32", "1.2.3.4"]),
        octets | elements,
    )
)
keys = st.sampled_from([KEYS["P-256"], KEYS["rsa"], KEYS["ed25519"]]) | octets | elements
moments = st.none() | st.datetimes(datetime(1950, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001  hypothesis wants naive bounds
hostile = st.builds(
    CertificateRequest,
    cert_req_id=st.just(0),
    subject=st.just(name(("CN", "device-1"))) | subjects,
    spki=st.just(KEYS["P-256"]) | keys,
    extensions=st.lists(extensions, max_size=4).map(tuple),
    not_before=moments,
    not_after=moments,
)
good_attributes = st.builds(
    attribute, st.sampled_from(["CN", "O", "OU", "OU", "T"]), st.sampled_from(["Example", "b", "ü"]) | texts
) | st.just(attribute("C", "DE"))
good_entries: st.SearchStrategy[tuple[int, bytes | str]] = st.sampled_from([
    (0x82, "a.example"), (0x82, "*.b.example"), (0x82, "evil.test"), (0x87, b"\x7f\0\0\1"), (0x87, bytes(16)),
    (0x81, "a@b.example"), (0x86, "urn:x"),
])  # fmt: skip
near_times = st.none() | st.integers(-400, 400).map(lambda hours: NOW + timedelta(hours=hours))
near = st.builds(
    CertificateRequest,
    cert_req_id=st.just(0),
    subject=st.lists(st.lists(good_attributes, min_size=1, max_size=2), max_size=4).map(
        lambda rdns: der.sequence(*(der.tlv(der.SET, *rdn) for rdn in rdns))
    ),
    spki=st.sampled_from([KEYS["P-256"], KEYS["rsa"]]),
    extensions=st.lists(
        st.lists(good_entries, min_size=1, max_size=3).map(lambda entries: san(*entries))
        | st.lists(st.integers(0, 8), min_size=1, max_size=3).map(lambda bits: key_usage(*bits))
        | st.lists(st.sampled_from([CLIENT, SERVER]), min_size=1).map(lambda oids: purposes(*oids))
        | st.sampled_from([extension("2.5.29.19", b"\x30\x00"), extension("2.5.29.14"), extension("1.2.3")]),
        max_size=4,
        unique_by=lambda one: one.oid.dotted_string,
    ).map(tuple),
    not_before=near_times,
    not_after=near_times,
)
"""Requests of which many are good, so that the rules about certificates have something to hold."""
requests = near | hostile
profiles = st.sampled_from([STRICT, LENIENT])


def decide(rules: Profile, asked: CertificateRequest) -> Approved | CMPError:
    try:
        return rules.approve(asked, transaction_id=b"t" * 16, now=NOW)
    except CMPError as error:
        return error


@given(profiles, requests)
@example(STRICT, CertificateRequest(0, b"", b""))
def test_a_decision_is_a_certificate_within_the_rules_or_a_refusal(rules: Profile, asked: CertificateRequest) -> None:
    got = decide(rules, asked)
    if isinstance(got, CMPError):
        assert str(got).isprintable()
        assert len(str(got)) < 400
        return
    assert got.spki == asked.spki
    assert got.not_before <= got.not_after
    assert got.not_after - got.not_before <= timedelta(days=20) - timedelta(seconds=1)
    assert got.not_after >= NOW.replace(microsecond=0)
    assert got.not_before.microsecond == got.not_after.microsecond == 0
    subject = _read_name(got.subject)
    assert {oid for oid, _ in subject} <= ALLOWED_ATTRIBUTES
    assert [value for oid, value in subject if oid == OIDS["O"]] == ["Example"]
    assert all(value and value.isprintable() for _, value in subject)
    found = {one.oid.dotted_string: one.value for one in got.extensions}
    assert len(found) == len(got.extensions)
    assert set(found) <= {"2.5.29.19", "2.5.29.15", "2.5.29.37", "2.5.29.17"}
    assert found["2.5.29.19"] == b"\x30\x00"
    assert found["2.5.29.15"] in {der.named_bits([0]), der.named_bits([0, 1])}
    assert found.get("2.5.29.37", purposes(CLIENT).value) == purposes(CLIENT).value
    if "2.5.29.17" in found:
        for one in der.children(found["2.5.29.17"]):
            assert one[0] in ALLOWED_NAMES
            assert one[0] != 0x82 or one.lower().endswith(b".example")


def _read_name(subject: bytes) -> list[tuple[str, str]]:
    """Read by pyasn1, and see that it writes the same octets: what is issued must be readable by everybody."""
    decoded, rest = decoder.decode(subject, asn1Spec=rfc5280.Name())
    assert rest == b""
    assert encoder.encode(decoded) == subject
    found = []
    for rdn in decoded["rdnSequence"]:
        for one in rdn:
            value, rest = decoder.decode(one["value"])
            assert rest == b""
            found.append((str(one["type"]), str(value)))
    return found


plain = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=64)


@given(plain, st.lists(plain, max_size=3), st.booleans())
def test_the_octets_of_a_good_subject_come_back(common: str, units: list[str], swap: bool) -> None:
    parts = [("CN", common), ("O", "Example"), *(("OU", unit) for unit in units)]
    subject = name(*(reversed(parts) if swap else parts))
    got = decide(STRICT, CertificateRequest(0, subject, KEYS["P-256"]))
    assert isinstance(got, Approved)
    assert (got.subject, got.modified) == (subject, ())


@given(st.sampled_from([(LENIENT, STRICT), (RICH, RICH)]), requests)
def test_what_is_approved_is_approved_again_unchanged(
    rules: tuple[Profile, Profile], asked: CertificateRequest
) -> None:
    """An update that asks for exactly what the old certificate has gets it."""
    first = decide(rules[0], asked)
    if isinstance(first, Approved):
        again = CertificateRequest(0, first.subject, first.spki, first.extensions, first.not_before, first.not_after)
        second = decide(rules[1], again)
        assert isinstance(second, Approved)
        assert (second.subject, second.extensions, second.seat) == (first.subject, first.extensions, first.seat)
        assert second.modified == ()


@given(st.sampled_from([STRICT, LENIENT, RICH, *TEMPLATES]), requests)
def test_what_is_explained_is_what_is_decided(rules: Profile, asked: CertificateRequest) -> None:
    """Granted exactly when every finding is ok, and refused with the words of the first that is not."""
    got = decide(rules, asked)
    found = rules.explain(asked, transaction_id=b"t" * 16, now=NOW)
    wrong = [one for one in found if not one.ok]
    if isinstance(got, Approved):
        assert wrong == []
    else:
        assert wrong[0].text == str(got)
    for one in found:
        assert one.text.isprintable()
        assert one.rule
        assert one.field


@given(requests)
def test_every_template_decides_whatever_is_asked(asked: CertificateRequest) -> None:
    for rules in TEMPLATES:
        got = decide(rules, asked)
        if isinstance(got, Approved):
            assert got.seat
            _read_name(got.subject)
            assert got.not_after - got.not_before < timedelta(days=1825)
        else:
            assert str(got).isprintable()


@given(st.text(max_size=70) | st.text("xn-abcäß0.*", max_size=40).map(lambda text: f"xn--{text}.example"))
def test_a_host_name_is_decided_and_is_ascii(host: str) -> None:
    if dns_fault(host, wildcard=True) is None:
        assert host.isascii()
        assert host.removeprefix("*.").replace(".", "").replace("-", "").isalnum()


@given(st.text())
def test_a_quoted_value_can_be_shown_to_anybody(text: str) -> None:
    shown = quote(text)
    assert shown.isprintable()
    assert len(shown) <= 67


@given(st.integers(0, 2**32), octets)
def test_extensions_are_never_taken_over_by_their_oid_alone(arc: int, value: bytes) -> None:
    asked = CertificateRequest(
        0, name(("CN", "x")), KEYS["P-256"], (RequestedExtension(x509.ObjectIdentifier(f"1.2.{arc}"), True, value),)
    )
    assert isinstance(decide(STRICT, asked), CMPError)
    got = decide(LENIENT, asked)
    assert isinstance(got, Approved)
    assert all(one.oid.dotted_string != f"1.2.{arc}" for one in got.extensions)
