"""Reverse proxies: who may speak for clients, in which form, and what becomes of everybody else who tries."""

import base64
import dataclasses
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from cmpd.exchange import TLSClient
from cmpd.http_transfer import NO_PROXIES, Proxies
from cmpd.http_transfer.proxy import CERTIFICATE_HEADERS, HEADERS, ForbiddenFieldError, Form, MalformedFieldError
from tests.ee import new_key
from tests.http_client import both_loops, post, serving
from tests.world import certificate

PROXY = "10.1.2.3"
CLIENT = "192.0.2.7"
OWN = TLSClient(b"the proxy's own")


def made(name: str) -> bytes:
    return certificate(new_key(), name).public_bytes(Encoding.DER)


LEAF, LOWER, UPPER = made("device-1"), made("CA 2"), made("CA 1")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def pem(*certificates: bytes) -> str:
    return "".join(f"-----BEGIN CERTIFICATE-----\n{b64(one)}\n-----END CERTIFICATE-----\n" for one in certificates)


def proxies(form: Form, **options: Any) -> Proxies:
    options.setdefault("address_header", "X-Forwarded-For")
    return Proxies.of([ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"), ip_network("127.0.0.1")], form, **options)


def fields(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    usual = [("Host", "x"), ("Content-Type", "application/pkixcmp"), ("Content-Length", "3")]
    return CIMultiDictProxy(CIMultiDict([*usual, *pairs]))


WRITTEN: dict[str, tuple[Form, list[tuple[str, str]], TLSClient | None]] = {
    "rfc9440": ("rfc9440", [("Client-Cert", f":{b64(LEAF)}:")], TLSClient(LEAF, (), PROXY)),
    "rfc9440 with chain": (
        "rfc9440",
        [("client-cert", f" :{b64(LEAF)}: "), ("Client-Cert-Chain", f":{b64(LOWER)}:, \t:{b64(UPPER)}:")],
        TLSClient(LEAF, (LOWER, UPPER), PROXY),
    ),
    "rfc9440 with chain in two fields": (
        "rfc9440",
        [
            ("Client-Cert-Chain", f":{b64(LOWER)}:"),
            ("Client-Cert", f":{b64(LEAF)}:"),
            ("Client-Cert-Chain", f":{b64(UPPER)}:"),
        ],
        TLSClient(LEAF, (LOWER, UPPER), PROXY),
    ),
    "rfc9440 without padding": (
        "rfc9440",
        [("Client-Cert", f":{b64(LEAF).rstrip('=')}:")],
        TLSClient(LEAF, (), PROXY),
    ),
    "nginx": ("nginx", [("X-SSL-Client-Cert", quote(pem(LEAF), safe=""))], TLSClient(LEAF, (), PROXY)),
    "nginx with chain": (
        "nginx",
        [("X-SSL-Client-Cert", quote(pem(LEAF, LOWER, UPPER)))],
        TLSClient(LEAF, (LOWER, UPPER), PROXY),
    ),
    "nginx without certificate": ("nginx", [("X-SSL-Client-Cert", "")], None),
    "haproxy": ("haproxy", [("X-SSL-Client-DER", b64(LEAF))], TLSClient(LEAF, (), PROXY)),
    "haproxy with chain": (
        "haproxy",
        [("X-SSL-Client-DER", b64(LEAF)), ("X-SSL-Client-Chain-DER", b64(LOWER + UPPER))],
        TLSClient(LEAF, (LOWER, UPPER), PROXY),
    ),
    "haproxy without certificate": ("haproxy", [("X-SSL-Client-DER", ""), ("X-SSL-Client-Chain-DER", "")], None),
    "none of them": ("rfc9440", [], None),
    "off": ("off", [], None),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_what_a_listed_proxy_writes_is_taken(case: str) -> None:
    """RFC 9440 §2.2 and §2.3; nginx's $ssl_client_escaped_cert; HAProxy's ssl_c_der and ssl_c_chain_der."""
    form, pairs, client = WRITTEN[case]
    assert proxies(form).origin(PROXY, OWN, fields(*pairs)) == (PROXY, client)


def test_the_proxys_own_certificate_is_never_a_clients() -> None:
    """Else every client without a certificate would have the proxy's."""
    assert proxies("rfc9440").origin(PROXY, OWN, fields()) == (PROXY, None)
    assert proxies("off").origin(PROXY, OWN, fields()) == (PROXY, None)
    assert proxies("rfc9440").origin(CLIENT, OWN, fields()) == (CLIENT, OWN)


BROKEN: dict[str, tuple[Form, list[tuple[str, str]]]] = {
    "twice": ("rfc9440", [("Client-Cert", f":{b64(LEAF)}:")] * 2),
    "twice, one of them empty": ("nginx", [("X-SSL-Client-Cert", ""), ("X-SSL-Client-Cert", quote(pem(LEAF)))]),
    "chain twice": ("haproxy", [("X-SSL-Client-DER", b64(LEAF)), *[("X-SSL-Client-Chain-DER", b64(LOWER))] * 2]),
    "chain alone": ("rfc9440", [("Client-Cert-Chain", f":{b64(LEAF)}:")]),
    "chain alone in DER": ("haproxy", [("X-SSL-Client-DER", ""), ("X-SSL-Client-Chain-DER", b64(LOWER))]),
    "empty": ("rfc9440", [("Client-Cert", "")]),
    "no colons": ("rfc9440", [("Client-Cert", b64(LEAF))]),
    "a list": ("rfc9440", [("Client-Cert", f":{b64(LEAF)}:, :{b64(LOWER)}:")]),
    "parameters": ("rfc9440", [("Client-Cert", f":{b64(LEAF)}:;a=b")]),
    "a hole in the list": ("rfc9440", [("Client-Cert", f":{b64(LEAF)}:"), ("Client-Cert-Chain", f":{b64(LOWER)}:,")]),
    "not base64": ("rfc9440", [("Client-Cert", ":a*b:")]),
    "not a certificate": ("rfc9440", [("Client-Cert", f":{b64(b'certificate')}:")]),
    "octets behind": ("rfc9440", [("Client-Cert", f":{b64(LEAF + b'x')}:")]),
    "half": ("rfc9440", [("Client-Cert", f":{b64(LEAF[:-9])}:")]),
    "two in one": ("haproxy", [("X-SSL-Client-DER", b64(LEAF + LOWER))]),
    "chain cut off": ("haproxy", [("X-SSL-Client-DER", b64(LEAF)), ("X-SSL-Client-Chain-DER", b64(LOWER[:-1]))]),
    "not PEM": ("nginx", [("X-SSL-Client-Cert", "%00")]),
    "words around PEM": ("nginx", [("X-SSL-Client-Cert", quote("x" + pem(LEAF)))]),
    "too many": ("nginx", [("X-SSL-Client-Cert", quote(pem(LEAF, *[LOWER] * 17)))]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_read_is_refused(case: str) -> None:
    form, pairs = BROKEN[case]
    with pytest.raises(MalformedFieldError, match=f"(?i){pairs[-1][0]}|{pairs[0][0]}"):
        proxies(form).origin(PROXY, None, fields(*pairs))


@given(st.text(alphabet=st.characters(max_codepoint=255)), st.sampled_from(["rfc9440", "nginx", "haproxy"]))
def test_whatever_comes_is_read_or_refused(value: str, form: Any) -> None:
    try:
        proxies(form).origin(PROXY, None, fields((HEADERS[form][0], value)))
    except MalformedFieldError:
        return


@pytest.mark.parametrize("name", sorted(CERTIFICATE_HEADERS))
@pytest.mark.parametrize("rules", [NO_PROXIES, proxies("off"), proxies("rfc9440")], ids=["none", "off", "rfc9440"])
def test_nobody_else_may_give_a_certificate(name: str, rules: Proxies) -> None:
    """RFC 9440 §2.4 and §4: whatever it is called, and whatever is in it."""
    for value in ("", "x", f":{b64(LEAF)}:"):
        with pytest.raises(ForbiddenFieldError, match=f"(?i){name} from an address that is no listed proxy"):
            rules.origin(CLIENT, None, fields((name.title(), value)))


@pytest.mark.parametrize("form", HEADERS)
def test_a_listed_proxy_may_give_one_in_the_configured_form_only(form: Form) -> None:
    for name in CERTIFICATE_HEADERS - {name.lower() for name in HEADERS[form]}:
        with pytest.raises(ForbiddenFieldError, match=f"{name} from a listed proxy that is to send "):
            proxies(form).origin(PROXY, None, fields((name, f":{b64(LEAF)}:")))


def test_fields_can_have_other_names() -> None:
    """And those names are then as good as the usual ones, for everybody."""
    rules = proxies("haproxy", certificate_header="X-Device-Cert", chain_header="X-Device-Chain")
    pairs = [("x-device-cert", b64(LEAF)), ("x-device-chain", b64(LOWER))]
    assert rules.origin(PROXY, None, fields(*pairs)) == (PROXY, TLSClient(LEAF, (LOWER,), PROXY))
    with pytest.raises(ForbiddenFieldError, match="x-device-cert from an address"):
        rules.origin(CLIENT, None, fields(*pairs))
    with pytest.raises(ForbiddenFieldError, match="X-SSL-Client-DER from a listed proxy"):
        rules.origin(PROXY, None, fields(("X-SSL-Client-DER", b64(LEAF))))


@pytest.mark.parametrize(
    ("noted", "address"),
    [
        ([], PROXY),
        ([""], PROXY),
        ([CLIENT], CLIENT),
        ([f"{CLIENT}, 10.9.9.9"], CLIENT),
        ([CLIENT, "10.9.9.9"], CLIENT),
        ([f"203.0.113.1, {CLIENT}"], CLIENT),
        (["nonsense", CLIENT], CLIENT),
        (["10.0.0.5, 10.0.0.6"], "10.0.0.5"),
        (["2001:DB9::1"], "2001:db9::1"),
        (["[2001:db9::1]:443"], "2001:db9::1"),
        ([f"{CLIENT}:5000"], CLIENT),
        ([f"::ffff:{CLIENT}"], CLIENT),
        ([f"{CLIENT},2001:db8::9"], CLIENT),
    ],
)
def test_the_last_address_that_is_no_proxys_counts(noted: Sequence[str], address: str) -> None:
    """What a client writes itself stands before what its proxy writes."""
    pairs = [("X-Forwarded-For", one) for one in noted]
    assert proxies("off").origin(PROXY, None, fields(*pairs))[0] == address
    assert proxies("off").origin("203.0.113.9", None, fields(*pairs))[0] == "203.0.113.9"
    assert proxies("off", address_header="").origin(PROXY, None, fields(*pairs))[0] == PROXY
    assert NO_PROXIES.origin(PROXY, None, fields(*pairs))[0] == PROXY


@pytest.mark.parametrize("noted", ["unknown", "_hidden", f"{CLIENT}, ", "1.2.3", f"{CLIENT} 10.0.0.1"])
def test_an_address_that_is_none_is_refused(noted: str) -> None:
    with pytest.raises(MalformedFieldError, match="X-Forwarded-For"):
        proxies("off").origin(PROXY, None, fields(("X-Forwarded-For", noted)))


@pytest.mark.parametrize("address", ["", "fe80::1%eth0", "not an address", "10.1.2.3.4", "::ffff:11.1.1.1"])
def test_who_is_no_proxy(address: str) -> None:
    assert not proxies("off").lists(address)


def test_a_flood_of_addresses_does_not_fill_the_memory() -> None:
    rules = proxies("off")
    for number in range(20_000):
        assert not rules.lists(f"192.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(rules._known) <= 4096
    assert rules.lists(PROXY)


# ------------------------------------------------------------------------------------------------------ over HTTP


@both_loops
async def test_a_listed_proxy_speaks_for_its_client() -> None:
    async with serving(proxies=proxies("rfc9440")) as server, server.connect() as client:
        request = post("/cmp/4f2a9c", b"x", f"Client-Cert: :{b64(LEAF)}:", f"X-Forwarded-For: {CLIENT}")
        assert (await client.ask(request)).status == 200
        assert (await client.ask(post())).status == 200
        first, second = server.arrivals
        assert (first.address, first.client) == (CLIENT, TLSClient(LEAF, (), "127.0.0.1"))
        assert (second.address, second.client) == ("127.0.0.1", None)
        server.transfer.proxies = NO_PROXIES
        assert (await client.ask(request)).status == 403, "a reload counts on open connections too"


@pytest.mark.parametrize("path", ["/cmp/4f2a9c", "/nowhere", "/crl/local.crl"])
@both_loops
async def test_a_field_from_anybody_else_is_403_and_the_end_of_the_connection(path: str) -> None:
    async with serving() as server, server.connect() as client:
        request = post(path, b"x", f"Client-Cert: :{b64(LEAF)}:")
        client.send(request + post())
        reply = await client.reply()
        assert (reply.status, reply.headers["connection"]) == (403, "close")
        assert reply.body == b"Client-Cert from an address that is no listed proxy\n"
        assert await client.closed() == b""
        assert server.suspicions == [(403, "127.0.0.1", path, "Client-Cert from an address that is no listed proxy")]
        assert server.refusals == []
        assert server.arrivals == []


@both_loops
async def test_a_field_that_cannot_be_read_is_400_and_the_end_of_the_connection() -> None:
    async with serving(proxies=proxies("nginx")) as server, server.connect() as client:
        reply = await client.ask(post("/cmp/4f2a9c", b"x", "X-SSL-Client-Cert: x"))
        assert (reply.status, reply.headers["connection"]) == (400, "close")
        assert await client.closed() == b""
        assert server.suspicions[0][::3] == (400, "X-SSL-Client-Cert cannot be read as nginx writes it")
        assert server.arrivals == []


@both_loops
async def test_a_long_chain_fits_into_the_fields_of_a_listed_proxy() -> None:
    """Post-quantum certificates have 6 KiB and more; fields of anybody else are shorter."""
    chain = ", ".join(f":{b64(UPPER)}:" for _ in range(16))
    long = f":{b64(LEAF)}:{' ' * 20_000}"
    request = post("/cmp/4f2a9c", b"x", f"Client-Cert: {long}", f"Client-Cert-Chain: {chain}")
    assert len(request) > 25_000
    async with serving(proxies=proxies("rfc9440")) as server, server.connect() as client:
        for start in range(0, len(request), 4000):
            client.send(request[start : start + 4000])
            await server.connected()
        assert (await client.reply()).status == 200
        assert server.arrivals[0].client == TLSClient(LEAF, (UPPER,) * 16, "127.0.0.1")
    elsewhere = dataclasses.replace(proxies("rfc9440"), addresses=())
    async with serving(proxies=elsewhere) as server, server.connect() as client:
        client.send(request[:20_000])
        assert (await client.reply()).status == 431
