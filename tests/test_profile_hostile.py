"""Names that mean to deceive or to cost: each ends in a way that was decided, whichever template decides."""

import time
from typing import Any

import pytest

from cmpd.asn1 import der
from cmpd.errors import BadCertTemplate, BadDataFormat, CMPError
from cmpd.exchange import CertificateRequest
from cmpd.profile import Profile, templates
from tests.profile_cases import DNS, EMAIL, KEYS, NOW, URI, approve, attribute, name, request, rule_of, san, upn
from tests.templates.cases import made

NAMES: dict[str, Any] = {"san": {"dns": {"allow_wildcard": True}, "email": {}, "uri": {}, "upn": {}}}
ALL = [made(one) for one in templates()]


def refused(changes: Any, asked: CertificateRequest, kind: type[CMPError] = BadCertTemplate) -> str:
    with pytest.raises(CMPError) as caught:
        approve(changes, asked)
    assert type(caught.value) is kind, caught.value
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 400
    rule_of(text)
    return text


# ── internationalised domain names ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "host",
    [
        "xn--bcher-kva.example",  # bücher
        "XN--BCHER-KVA.example",
        "xn--fiqs8s.example",  # 中国
        "xn--tckwe.example",  # コム
        "xn--e1afmkfd.example",  # пример
        "xn--mgbh0fb.example",  # مثال
        "xn--oogle-wmc.example",  # another Latin g: one script, which is not a disguise of another
        "xn--strae-oqa.example",  # straße, which IDNA 2003 would have turned into strasse
    ],
)
@pytest.mark.parametrize("prefix", ["", "*."])
def test_a_valid_a_label_is_kept(host: str, prefix: str) -> None:
    assert approve(NAMES, request(None, san((DNS, prefix + host)))).modified == ()


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("xn--a.example", "not valid in IDNA 2008"),
        ("xn--abc.example", "not valid in IDNA 2008"),
        ("xn--n3h.example", "not valid in IDNA 2008"),  # a snowman
        ("xn--zca.xn--a.example", "not valid in IDNA 2008"),
        ("xn--xn--a--gua.example", "not valid in IDNA 2008"),
        ("xn--bcher-kvb.example", "not valid in IDNA 2008"),
        ("xn--BCHER-KVA-.example", "DNS name"),
        ("xn--80ak6aa92e.example", "taken for another name"),  # аррӏе, all Cyrillic
        ("xn--pple-43d.example", "taken for another name"),  # аpple, the first letter Cyrillic
        ("xn--pypal-4ve.example", "taken for another name"),
        ("xn--" + "a" * 59 + ".example", "not valid in IDNA 2008"),
    ],
)
def test_an_a_label_that_is_none_or_deceives_is_refused(host: str, words: str) -> None:
    assert words in refused(NAMES, request(None, san((DNS, host))))
    assert refused(NAMES, request(None, san((EMAIL, f"a@{host}"))))
    assert refused(NAMES, request(None, san(upn(f"a@{host}"))))
    assert refused(NAMES, request(None, san((URI, f"https://{host}/"))))


@pytest.mark.parametrize("host", ["bücher.example", "аpple.example", "a\u200d.example", "a。example", "ａ.example"])
def test_a_name_that_is_not_in_ascii_is_no_dns_name(host: str) -> None:
    refused(NAMES, request(None, san((DNS, host))))
    refused(NAMES, request(None, san((EMAIL, f"a@{host}"))))


# ── wildcards, e-mail look-alikes ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "host",
    ["*", "*.", ".*", "*.com", "**.example.com", "*.*.example.com", "a.*.example.com", "a*.example.com",
     "*a.example.com",
     "xn--*.example.com", "*.xn--a.example", "%2a.example.com", "＊.example.com", "*\0.example.com", "*.example.com."],
)  # fmt: skip
def test_wildcards_are_whole_leftmost_labels_only(host: str) -> None:
    refused(NAMES, request(None, san((DNS, host))))


def test_a_wildcard_does_not_reach_beyond_the_allowed_domains() -> None:
    rules = {"san.dns": {"allow_wildcard": True, "allowed_domains": [".example.com"]}}
    assert approve(rules, request(None, san((DNS, "*.example.com")))).modified == ()
    for host in ("*.com", "*.example.org", "*.notexample.com"):
        refused(rules, request(None, san((DNS, host))))


@pytest.mark.parametrize(
    "mailbox",
    ["аda@example.com", "ada@exаmple.com", "ada@example.com.", "ada@example.com\0.evil.example",
     "ada@example.com,eve@evil",
     "ada@example.com>", '"ada@example.com"@evil.example', "ada@evil.example@example.com", "ada @example.com",
     "ada@[127.0.0.1]", "ada@", "@example.com", "ada%example.com", "ada@.example.com", "ada..b@example.com",
     "mailto:ada@exa mple.com", "ada@example.com\r\nBcc: eve@evil.example", "a" * 65 + "@example.com",
     "a@" + "b" * 63 + "." + ("c" * 63 + ".") * 3 + "example"],
)  # fmt: skip
def test_what_only_looks_like_a_mailbox_is_refused(mailbox: str) -> None:
    refused(NAMES, request(None, san((EMAIL, mailbox))))
    refused({"subject.email_address": {}}, request(name(("email", (der.UTF8_STRING, mailbox.encode())))))


def test_the_allowed_domain_is_what_follows_the_last_at_sign() -> None:
    rules = {"san.email": {"allowed_domains": ["example.com"]}}
    for mailbox in ("ada@example.com.evil.example", "ada@evilexample.com", "ada@sub.example.com"):
        assert "allowed_domains" in refused(rules, request(None, san((EMAIL, mailbox))))
    assert approve(rules, request(None, san((EMAIL, "ada@EXAMPLE.com")))).modified == ()


@pytest.mark.parametrize(("first", "second"), [("a@example.com", "a@EXAMPLE.com"), ("a@example.com", "a@example.com")])
def test_the_same_mailbox_twice_is_refused(first: str, second: str) -> None:
    assert "twice" in refused(NAMES, request(None, san((EMAIL, first), (EMAIL, second))))


def test_the_same_host_twice_is_refused() -> None:
    assert "twice" in refused(NAMES, request(None, san((DNS, "a.example"), (DNS, "A.Example"))))


# ── every template ──────────────────────────────────────────────────────────────────────────────────────────────────

HOSTILE_TEXTS = [
    "good.example\0.evil.example", "\u202egpj.exe", "a\u2066b", "a\u200bb", "\ufeffa", "a\nb", "\x1b[2J", " a", "a ",
     "",
    "a\u00a0b", "\ue000", "x" * 65, "x" * 100_000, "\u2028",
]  # fmt: skip


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.base_template)
@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=ascii)
def test_a_hostile_common_name_is_refused_by_every_template(one: Profile, text: str) -> None:
    assert refused(one, request(name(("CN", text)), spki=KEYS["rsa"])).startswith("subject.common_name: ")


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.base_template)
def test_several_attributes_in_a_relative_name_are_refused_by_every_template(one: Profile) -> None:
    rdn = der.sequence(der.set_of(attribute("CN", "a"), attribute("C", "DE")))
    assert "multi_valued_rdn" in refused(one, request(rdn, spki=KEYS["rsa"]))


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.base_template)
@pytest.mark.parametrize("tag", [0x14, 0x1E, 0x1C, 0x16, 0x04, 0x30, 0x02, 0x05])
def test_string_types_are_written_anew_or_refused(one: Profile, tag: int) -> None:
    """TeletexString, BMPString and UniversalString become UTF8String; nothing else is taken for a text."""
    codec = {0x1E: "utf-16-be", 0x1C: "utf-32-be"}.get(tag, "ascii")
    host = "www.example.com"
    wanted = name(("CN", host))
    names = san(*({"user": [], "device": [(DNS, host)], "smime": [(EMAIL, "a@example.com")], "server": [(DNS, host)]}[
        str(one.base_template).rpartition("-")[2]]))  # fmt: skip
    extensions = () if names.value == b"\x30\x00" else (names,)
    text = host if one.base_template != "public-smime" else "a@example.com"
    asked = request(name(("CN", (tag, text.encode(codec)))), *extensions, spki=KEYS["rsa"])
    if tag in {0x14, 0x1E, 0x1C}:
        got = approve(one, asked)
        if one.base_template == "public-smime":
            wanted = name(("CN", text))
        assert attribute("CN", text) in got.subject
        assert wanted == got.subject or one.organization is not None
    else:
        refused(one, asked)


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.base_template)
@pytest.mark.parametrize("tag", [EMAIL, DNS, URI, 0x87, 0x88, 0xA0, 0xA4])
def test_ten_thousand_names_cost_no_more_than_the_first_too_many(one: Profile, tag: int) -> None:
    asked = request(name(("CN", "a")), san(*((tag, f"a{n}@b.example") for n in range(10_000))), spki=KEYS["rsa"])
    started = time.process_time()
    with pytest.raises(CMPError):
        approve(one, asked)
    findings = one.explain(asked, transaction_id=b"t", now=NOW)
    assert time.process_time() - started < 5  # a runaway, not a measurement
    assert len(findings) <= 1000


def test_ten_thousand_names_to_be_dropped_are_refused_as_a_whole() -> None:
    many = san(*((URI, f"urn:x:{n}") for n in range(10_000)))
    assert "more than 1000 names" in refused({"san.on_unlisted": "drop"}, request(None, many))


def test_a_subject_of_ten_thousand_attributes_is_no_name() -> None:
    asked = request(name(*((("OU", "x"),) * 10_000)))
    refused({"subject.organizational_unit_name": {"max": 32}}, asked, BadDataFormat)


def test_a_pattern_that_splits_names_cannot_be_made_to_backtrack() -> None:
    rules = {
        "subject": {"common_name": {}, "given_name": {}, "surname": {}, "name_split": "(?P<gn>(a+)+)(?P<sn>(a|aa)+b)"}
    }
    assert approve(rules, request(name(("CN", "a" * 64)))).modified == ()
