"""Whether certificates of other PKIs have been revoked: real CRLs and OCSP responses, served on 127.0.0.1."""

import asyncio
import logging
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from cmpd.asn1 import der
from cmpd.exchange import RevocationRules
from cmpd.limits import Limits
from cmpd.ports import RevocationUnknown, Revoked
from cmpd.protection import certpath
from cmpd.revocation import INLINE_SIZE, Revocations
from cmpd.revocation import crl as crl_module
from cmpd.revocation import ocsp as ocsp_module
from cmpd.revocation.answer import State, Unusable
from tests.ee import new_key
from tests.world import certificate

NOW = datetime.now(UTC).replace(microsecond=0)
KEY = new_key()
"""One key for whatever key does not matter."""
DAY = timedelta(days=1)
CRL_ONLY = RevocationRules(crl="required")
OCSP_ONLY = RevocationRules(crl="off", ocsp="required")


@dataclass
class Server:
    """Serves octets, counts who asks for what, and can hold its answers back."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    posted: list[bytes] = field(default_factory=list)
    responder: Callable[[bytes], bytes] | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    redirects: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        await self.gate.wait()
        if self.redirects:
            self.redirects -= 1
            raise web.HTTPFound(request.path)
        if request.method == "POST":
            self.posted.append(await request.read())
            assert request.content_type == "application/ocsp-request"
            assert self.responder is not None
            return web.Response(body=self.responder(self.posted[-1]), status=self.status, headers=self.headers)
        if request.path not in self.files:
            raise web.HTTPNotFound
        return web.Response(body=self.files[request.path], status=self.status, headers=self.headers)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    found = Server()
    found.gate.set()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert runner.addresses
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    found.gate.set()
    await runner.cleanup()


@pytest.fixture
async def revocations() -> AsyncIterator[Revocations]:
    made = Revocations(file_seconds=0.0)
    yield made
    await made.close()


def loaded(one: x509.Certificate) -> x509.Certificate:
    return certpath.load(one.public_bytes(Encoding.DER))


class PKI:
    """A root, a CA and a leaf, with the URLs of CRLs and OCSP responders in them."""

    def __init__(self, url: str = "", *, kind: str = "ec-p256", extensions: Any = None, **ca: Any) -> None:
        self.root_key, self.ca_key, self.leaf_key = new_key(kind), new_key(kind), new_key()
        self.root = certificate(self.root_key, "Root", ca=True)
        self.ca = certificate(
            self.ca_key, "CA", self.root_key, self.root, ca=True, extensions=urls(url, "/root") if url else None, **ca
        )
        mine = extensions if extensions is not None else urls(url, "/ca") if url else None
        self.leaf = certificate(self.leaf_key, "leaf", self.ca_key, self.ca, extensions=mine)

    @property
    def path(self) -> tuple[x509.Certificate, ...]:
        return loaded(self.leaf), loaded(self.ca), loaded(self.root)

    def root_crl(self, *revoked: Any, **kwargs: Any) -> bytes:
        return crl(self.root_key, self.root, *revoked, **kwargs)

    def ca_crl(self, *revoked: Any, **kwargs: Any) -> bytes:
        return crl(self.ca_key, self.ca, *revoked, **kwargs)


def urls(url: str, name: str) -> list[tuple[x509.ExtensionType, bool]]:
    crl_at = x509.UniformResourceIdentifier(f"{url}{name}.crl")
    ocsp_at = x509.UniformResourceIdentifier(f"{url}{name}.ocsp")
    return [
        (x509.CRLDistributionPoints([x509.DistributionPoint([crl_at], None, None, None)]), False),
        (
            x509.AuthorityInformationAccess([x509.AccessDescription(AuthorityInformationAccessOID.OCSP, ocsp_at)]),
            False,
        ),
    ]


def hashed(key: Any) -> Any:
    return hashes.SHA256() if isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) else None


def crl(
    key: Any,
    issuer: x509.Certificate,
    *revoked: x509.Certificate | int,
    this: datetime = NOW - timedelta(hours=1),
    following: datetime | None = NOW + DAY,
    reason: x509.ReasonFlags | None = None,
    extensions: list[tuple[x509.ExtensionType, bool]] | None = None,
    entry_extension: tuple[x509.ExtensionType, bool] | None = None,
    pem: bool = False,
    algorithm: Any = None,
) -> bytes:
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.subject).last_update(this)
    builder = builder.next_update(following or NOW + DAY)
    for one in revoked:
        number = one if isinstance(one, int) else one.serial_number
        entry = x509.RevokedCertificateBuilder().serial_number(number).revocation_date(NOW - DAY)
        if reason is not None:
            entry = entry.add_extension(x509.CRLReason(reason), False)
        if entry_extension is not None:
            entry = entry.add_extension(*entry_extension)
        builder = builder.add_revoked_certificate(entry.build())
    for value, critical in extensions or []:
        builder = builder.add_extension(value, critical)
    made = builder.sign(key, algorithm or hashed(key))
    return made.public_bytes(Encoding.PEM if pem else Encoding.DER)


def point(**kwargs: Any) -> list[tuple[x509.ExtensionType, bool]]:
    fields: dict[str, Any] = {
        "full_name": None,
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    return [(x509.IssuingDistributionPoint(**{**fields, **kwargs}), True)]


async def outcome(revocations: Revocations, pki: PKI, rules: RevocationRules = CRL_ONLY, now: datetime = NOW) -> str:
    try:
        await revocations.check(pki.path, rules, now)
    except Revoked as exc:
        return f"revoked: {exc}"
    except RevocationUnknown as exc:
        return f"unknown: {exc}"
    return "good"


# ------------------------------------------------------------------------------------------ CRLs by URL


async def test_good_and_revoked_by_the_crls_that_the_certificates_name(server: Server) -> None:
    pki, other = PKI(server.url), PKI(server.url)
    seen: list[tuple[str, str]] = []
    for name, revoked_ca, revoked_leaf, expected in (
        ("good", [], [7], "good"),
        ("leaf", [], [pki.leaf], "revoked: CN=leaf"),
        ("CA", [pki.ca], [], "revoked: CN=CA"),
        ("both", [pki.ca], [pki.leaf], "revoked: CN="),
        ("somebody else", [other.ca], [other.leaf], "good"),
    ):
        server.files = {"/root.crl": pki.root_crl(*revoked_ca), "/ca.crl": pki.ca_crl(*revoked_leaf)}
        revocations = Revocations(observe=lambda source, what: seen.append((source, what)))
        found = await outcome(revocations, pki)
        await revocations.close()
        assert found.startswith(expected), name
        if expected != "good":
            assert "at 20" in found
            assert f"says the CRL {server.url}" in found
    assert set(seen) == {("crl", "fetched"), ("crl", "good"), ("crl", "revoked")}


@pytest.mark.parametrize("kind", ["rsa-2048", "ec-p384", "ed25519", "ml-dsa-65"])
async def test_a_crl_of_every_algorithm(server: Server, revocations: Revocations, kind: str) -> None:
    pki = PKI(server.url, kind=kind)
    server.files = {"/root.crl": pki.root_crl(pem=True), "/ca.crl": pki.ca_crl(pki.leaf)}
    assert (await outcome(revocations, pki)).startswith("revoked: CN=leaf")


async def test_an_answer_is_kept_until_next_update(server: Server, revocations: Revocations) -> None:
    pki = PKI(server.url)
    server.files = {
        "/root.crl": pki.root_crl(following=NOW + 10 * DAY),
        "/ca.crl": pki.ca_crl(following=NOW + timedelta(hours=2)),
    }
    path = pki.path
    for minutes in (0, 1, 60, 119):
        await revocations.check(path, CRL_ONLY, NOW + timedelta(minutes=minutes))
    assert sorted(server.asked) == ["/ca.crl", "/root.crl"]
    server.files["/ca.crl"] = pki.ca_crl(pki.leaf, following=NOW + DAY)
    with pytest.raises(Revoked):
        await revocations.check(path, CRL_ONLY, NOW + timedelta(hours=2))
    assert server.asked.count("/ca.crl") == 2
    assert server.asked.count("/root.crl") == 1
    with pytest.raises(Revoked):
        await revocations.check(path, CRL_ONLY, NOW + timedelta(hours=20))
    assert len(server.asked) == 3


async def test_a_crl_is_kept_a_day_at_most_and_a_minute_at_least(server: Server, revocations: Revocations) -> None:
    pki = PKI(server.url)
    server.files = {
        "/root.crl": pki.root_crl(following=NOW + 10 * DAY),
        "/ca.crl": pki.ca_crl(following=NOW + timedelta(seconds=5)),
    }
    assert await outcome(revocations, pki) == "good"
    assert await outcome(revocations, pki, now=NOW + timedelta(seconds=59)) == "good"
    assert len(server.asked) == 2
    assert "expired" in await outcome(revocations, pki, now=NOW + timedelta(seconds=60)), "the same one again"
    assert server.asked.count("/ca.crl") == 2
    server.files["/ca.crl"] = pki.ca_crl(following=NOW + 10 * DAY)
    assert await outcome(revocations, pki, now=NOW + timedelta(hours=23)) == "good"
    assert server.asked.count("/root.crl") == 1
    assert await outcome(revocations, pki, now=NOW + timedelta(hours=25)) == "good"
    assert server.asked.count("/root.crl") == 2


async def test_what_cannot_be_had_is_not_asked_for_again_for_a_minute(
    server: Server, revocations: Revocations, caplog: pytest.LogCaptureFixture
) -> None:
    pki = PKI(server.url)
    for second in range(60):
        assert "HTTP 404" in await outcome(revocations, pki, now=NOW + timedelta(seconds=second))
    assert len(server.asked) == 2
    server.files = {"/root.crl": pki.root_crl(), "/ca.crl": pki.ca_crl()}
    assert await outcome(revocations, pki, now=NOW + timedelta(seconds=61)) == "good"
    assert not caplog.records


async def test_one_download_for_all_who_wait(server: Server, revocations: Revocations) -> None:
    pki = PKI(server.url)
    leaves = [
        certificate(new_key(), f"leaf {n}", pki.ca_key, pki.ca, extensions=urls(server.url, "/ca")) for n in range(20)
    ]
    server.files = {"/root.crl": pki.root_crl(), "/ca.crl": pki.ca_crl(leaves[3])}
    server.gate.clear()
    waiting = [
        asyncio.create_task(revocations.check((loaded(leaf), loaded(pki.ca), loaded(pki.root)), CRL_ONLY, NOW))
        for leaf in leaves
    ]
    while len(server.asked) < 2:
        await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    server.gate.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert sorted(server.asked) == ["/ca.crl", "/root.crl"]
    assert isinstance(results[0], asyncio.CancelledError), "and the others do not suffer from that"
    assert [type(one) for one in results[1:5]] == [type(None), type(None), Revoked, type(None)]


async def test_a_slow_server_is_not_waited_for(server: Server) -> None:
    pki = PKI(server.url)
    revocations = Revocations(seconds=0.05)
    server.gate.clear()
    assert "did not answer within 0.05 seconds" in await outcome(revocations, pki)
    await revocations.check(pki.path, RevocationRules(), NOW)
    await revocations.close()


async def test_closing_gives_up_what_is_under_way(server: Server) -> None:
    pki = PKI(server.url)
    revocations = Revocations()
    server.gate.clear()
    waiting = asyncio.create_task(revocations.check(pki.path, CRL_ONLY, NOW))
    while len(server.asked) < 2:
        await asyncio.sleep(0)
    await revocations.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_crl_over_the_limit_is_not_read(server: Server) -> None:
    pki = PKI(server.url)
    revocations = Revocations(size=2000)
    server.files = {"/root.crl": pki.root_crl(), "/ca.crl": pki.ca_crl(*range(1, 200))}
    assert "longer than 2000 octets" in await outcome(revocations, pki)
    await revocations.close()


async def test_what_is_compressed_is_not_unpacked(server: Server, revocations: Revocations) -> None:
    server.headers = {"Content-Encoding": "gzip"}
    server.files = {"/root.crl": b"x", "/ca.crl": b"x"}
    assert "Content-Encoding" in await outcome(revocations, PKI(server.url))


async def test_redirects(server: Server) -> None:
    pki = PKI(server.url)
    revocations = Revocations()
    server.files = {"/x.crl": pki.ca_crl()}
    rules = RevocationRules(crl="required", crls=(f"{server.url}/x.crl",))
    path = pki.path[:2]
    server.redirects = 2
    await revocations.check(path, rules, NOW)
    server.redirects = 5
    with pytest.raises(RevocationUnknown, match="cannot be reached"):
        await revocations.check(path, rules, NOW + 2 * DAY)
    assert len(server.asked) <= 3 + 4
    await revocations.close()


async def test_a_server_that_is_not_there(revocations: Revocations) -> None:
    rules = RevocationRules(crl="required", crls=("http://127.0.0.1:1/x.crl",))
    assert "cannot be reached" in await outcome(revocations, PKI(), rules)


async def test_a_kept_crl_outlives_a_failure_of_its_server(
    server: Server, revocations: Revocations, caplog: pytest.LogCaptureFixture
) -> None:
    pki = PKI(server.url)
    far = NOW + 10 * DAY
    server.files = {"/root.crl": pki.root_crl(following=far), "/ca.crl": pki.ca_crl(following=far)}
    assert await outcome(revocations, pki) == "good"
    server.files.clear()
    assert await outcome(revocations, pki, now=NOW + 5 * DAY) == "good"
    assert "the one from before is used" in caplog.text
    assert (await outcome(revocations, pki, now=NOW + 11 * DAY)).startswith("unknown")


async def test_best_effort_lets_pass_and_says_so_once(
    server: Server, revocations: Revocations, caplog: pytest.LogCaptureFixture
) -> None:
    pki = PKI(server.url)
    rules = RevocationRules(crl="best_effort")
    server.files = {"/root.crl": pki.root_crl()}
    for minutes in range(30):
        assert await outcome(revocations, pki, rules, NOW + timedelta(minutes=minutes)) == "good"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "crl: whether certificates of CN=CA have been revoked is not known" in caplog.text
    assert f"{server.url}/ca.crl: HTTP 404" in caplog.text
    server.files["/ca.crl"] = pki.ca_crl(pki.leaf)
    assert "revoked" in await outcome(revocations, pki, rules, NOW + timedelta(minutes=31))


async def test_off_asks_nobody(server: Server, revocations: Revocations) -> None:
    pki = PKI(server.url)
    server.files = {"/ca.crl": pki.ca_crl(pki.leaf)}
    await revocations.check(pki.path, RevocationRules("off", "off"), NOW)
    await revocations.check(pki.path[-1:], CRL_ONLY, NOW)  # a trust anchor alone
    assert not server.asked


async def test_a_certificate_that_names_no_crl(revocations: Revocations) -> None:
    assert "names none by http" in await outcome(revocations, PKI())
    other = x509.UniformResourceIdentifier("https://127.0.0.1:1/x.crl"), x509.UniformResourceIdentifier("ldap://x/y")
    points = x509.CRLDistributionPoints([x509.DistributionPoint(list(other), None, None, None)])
    pki = PKI(extensions=[(points, False)])
    with pytest.raises(RevocationUnknown, match="names none by http"):
        await revocations.check(pki.path[:2], CRL_ONLY, NOW)


async def test_the_second_place_when_the_first_is_of_no_use(server: Server, revocations: Revocations) -> None:
    names = [x509.UniformResourceIdentifier(f"{server.url}/{n}.crl") for n in (1, 2, 3)]
    points = x509.CRLDistributionPoints([x509.DistributionPoint([one], None, None, None) for one in names])
    pki = PKI(extensions=[(points, False)])
    server.files = {"/1.crl": b"junk", "/2.crl": pki.ca_crl(pki.leaf)}
    with pytest.raises(Revoked):
        await revocations.check(pki.path[:2], CRL_ONLY, NOW)
    assert server.asked == ["/1.crl", "/2.crl"]


# ------------------------------------------------------------------------------------------ which CRLs count


async def by_file(tmp_path: Path, pki: PKI, data: bytes, *, who: int = 0, now: datetime = NOW) -> str:
    """What a CRL file says of one certificate of the path."""
    (tmp_path / "x.crl").write_bytes(data)
    revocations = Revocations()
    rules = RevocationRules(crl="required", crls=(str(tmp_path / "x.crl"),))
    try:
        await revocations.check(pki.path[who : who + 2], rules, now)
    except (Revoked, RevocationUnknown) as exc:
        return f"{type(exc).__name__}: {exc}"
    finally:
        await revocations.close()
    return "good"


@pytest.fixture(scope="module")
def pki() -> PKI:
    return PKI("http://127.0.0.1:1")


async def test_wrong_signers(tmp_path: Path, pki: PKI) -> None:
    assert "does not verify" in await by_file(tmp_path, pki, crl(KEY, pki.ca))
    assert "another issuer" in await by_file(tmp_path, pki, pki.root_crl())
    stranger = PKI()
    assert "another issuer" in await by_file(tmp_path, pki, crl(stranger.root_key, stranger.root, pki.leaf))
    flipped = bytearray(pki.ca_crl(pki.leaf))
    flipped[-9] ^= 1
    assert "does not verify" in await by_file(tmp_path, pki, bytes(flipped))


async def test_a_crl_signed_with_sha1(tmp_path: Path) -> None:
    pki = PKI(kind="rsa-2048")
    data = pki.ca_crl()
    sha256, sha1 = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b", b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05"
    assert "not allowed" in await by_file(tmp_path, pki, data.replace(sha256, sha1))
    assert "signature algorithms do not match" in await by_file(tmp_path, pki, data.replace(sha256, sha1, 1))


async def test_an_issuer_that_may_not_sign_crls(tmp_path: Path) -> None:
    """RFC 5280 §6.3.3 (f)."""
    usage = x509.KeyUsage(False, False, False, False, False, True, False, False, False)
    pki = PKI(key_usage=False)
    assert await by_file(tmp_path, pki, pki.ca_crl()) == "good"
    pki.ca = certificate(pki.ca_key, "CA", pki.root_key, pki.root, ca=True, key_usage=False, extensions=[(usage, True)])
    assert "cRLSign" in await by_file(tmp_path, pki, pki.ca_crl())


async def test_the_times_of_a_crl(tmp_path: Path, pki: PKI) -> None:
    assert "expired at" in await by_file(tmp_path, pki, pki.ca_crl(following=NOW - timedelta(seconds=1)))
    assert "not valid before" in await by_file(tmp_path, pki, pki.ca_crl(this=NOW + timedelta(minutes=6)))
    assert await by_file(tmp_path, pki, pki.ca_crl(this=NOW + timedelta(minutes=4))) == "good", "clocks differ"


async def test_without_next_update(tmp_path: Path, pki: PKI) -> None:
    data = pki.ca_crl()
    outer = der.children(data)
    tbs = der.children(outer[0])
    tbs = [*tbs[:4], *tbs[5:]]
    inner = der.sequence(*tbs)
    signed = der.bit_string(pki.ca_key.sign(inner, ec.ECDSA(hashes.SHA256())))
    assert "nextUpdate" in await by_file(tmp_path, pki, der.sequence(inner, outer[1], signed))


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
HERE, ELSEWHERE = (x509.UniformResourceIdentifier(f"http://127.0.0.1:1/{name}.crl") for name in ("ca", "other"))


@pytest.mark.parametrize(
    ("extensions", "leaf", "ca"),
    [
        ([(x509.CRLNumber(7), False)], "good", "good"),
        ([(UNKNOWN, False)], "good", "good"),
        ([(UNKNOWN, True)], "unknown critical extension", "unknown critical extension"),
        ([(x509.DeltaCRLIndicator(3), True)], "delta", "delta"),
        (point(only_contains_user_certs=True), "good", "users"),
        (point(only_contains_ca_certs=True), "CAs only", "good"),
        (point(only_contains_attribute_certs=True), "attribute", "attribute"),
        (point(indirect_crl=True), "indirect", "indirect"),
        (point(only_some_reasons=frozenset([x509.ReasonFlags.key_compromise])), "some reasons", "some reasons"),
        (point(full_name=[HERE]), "good", "distribution point"),
        (point(full_name=[ELSEWHERE, HERE]), "good", "distribution point"),
        (point(full_name=[ELSEWHERE]), "distribution point", "distribution point"),
        (point(full_name=[HERE], only_contains_user_certs=True), "good", "users"),
    ],
)
async def test_the_scope_of_a_crl(tmp_path: Path, pki: PKI, extensions: Any, leaf: str, ca: str) -> None:
    """RFC 5280 §5.2: a part of the truth is told apart from all of it."""
    assert leaf in await by_file(tmp_path, pki, pki.ca_crl(extensions=extensions))
    assert ca in await by_file(tmp_path, pki, pki.root_crl(extensions=extensions), who=1)


@pytest.mark.parametrize("reason", [one for one in x509.ReasonFlags if one is not x509.ReasonFlags.unspecified])
async def test_every_reason_and_the_one_that_is_none(tmp_path: Path, pki: PKI, reason: x509.ReasonFlags) -> None:
    """RFC 5280 §5.3.1: certificateHold counts; removeFromCRL takes it back."""
    found = await by_file(tmp_path, pki, pki.ca_crl(pki.leaf, reason=reason))
    if reason is x509.ReasonFlags.remove_from_crl:
        assert found == "good"
    else:
        assert found.startswith("Revoked: CN=leaf")
        assert reason.value in found


async def test_an_entry_with_a_critical_extension_spoils_the_crl(tmp_path: Path, pki: PKI) -> None:
    """RFC 5280 §5.3: such a CRL must not be used for any certificate. certificateIssuer is one, of indirect CRLs."""
    somebody = x509.CertificateIssuer([x509.DirectoryName(x509.Name.from_rfc4514_string("CN=Another CA"))])
    for extension in (UNKNOWN, somebody):
        assert "an entry of the CRL" in await by_file(tmp_path, pki, pki.ca_crl(7, entry_extension=(extension, True)))
    assert await by_file(tmp_path, pki, pki.ca_crl(7, entry_extension=(UNKNOWN, False))) == "good"
    dated = x509.InvalidityDate(NOW.replace(tzinfo=None))
    assert await by_file(tmp_path, pki, pki.ca_crl(7, entry_extension=(dated, True))) == "good"


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x30\x00", b"\x05\x00", bytes(100), b"-----BEGIN CERTIFICATE-----\n", b"<html>no</html>",
        b"-----BEGIN X509 CRL-----\nAAA\n-----END X509 CRL-----\n", der.sequence(der.sequence(), der.sequence()),
    ],
)  # fmt: skip
async def test_junk(tmp_path: Path, pki: PKI, data: bytes) -> None:
    assert (await by_file(tmp_path, pki, data)).startswith("RevocationUnknown")


async def test_every_octet_of_a_crl_counts(pki: PKI) -> None:
    """Whatever is changed in it, it never says of a revoked certificate that it is good."""
    data = pki.ca_crl(pki.leaf)
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 0x41
        try:
            found = crl_module.read(bytes(changed))
            found.check_signature(pki.ca, Limits())
        except Unusable:
            continue
        pytest.fail(f"octet {position}")


# ------------------------------------------------------------------------------------------ files


async def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path, revocations: Revocations) -> None:
    pki = PKI()
    files = [tmp_path / "root.crl", tmp_path / "ca.crl"]
    rules = RevocationRules(crl="required", crls=tuple(map(str, files)))
    assert "cannot be read" in await outcome(revocations, pki, rules)
    files[0].write_bytes(pki.root_crl(pem=True))
    files[1].write_bytes(pki.ca_crl())
    assert await outcome(revocations, pki, rules) == "good"
    files[1].write_bytes(pki.ca_crl(pki.leaf))
    assert (await outcome(revocations, pki, rules)).startswith("revoked: CN=leaf")
    replacement = tmp_path / "new"
    replacement.write_bytes(pki.ca_crl(7))
    replacement.replace(files[1])
    assert await outcome(revocations, pki, rules) == "good"


async def test_a_configured_list_takes_the_place_of_the_certificates_own(
    tmp_path: Path, server: Server, revocations: Revocations
) -> None:
    pki = PKI(server.url)
    (tmp_path / "x.crl").write_bytes(pki.ca_crl())
    rules = RevocationRules(crl="required", crls=(str(tmp_path / "x.crl"),))
    assert "CN=CA" in await outcome(revocations, pki, rules), "none for the CA"
    await revocations.check(pki.path[:2], rules, NOW)
    assert not server.asked


async def test_of_several_configured_lists_the_one_that_revokes_counts(
    tmp_path: Path, revocations: Revocations
) -> None:
    pki = PKI()
    (tmp_path / "old").write_bytes(pki.ca_crl())
    (tmp_path / "new").write_bytes(pki.ca_crl(pki.leaf))
    rules = RevocationRules(crl="required", crls=(str(tmp_path / "old"), str(tmp_path / "new")))
    with pytest.raises(Revoked):
        await revocations.check(pki.path[:2], rules, NOW)


async def test_a_big_crl_in_a_worker_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pki = PKI()
    data = pki.ca_crl(*range(1, 5000), pki.leaf)
    assert len(data) > INLINE_SIZE
    aside: list[str] = []
    to_thread = asyncio.to_thread

    def noted(work: Any, *args: Any) -> Awaitable[Any]:
        aside.append(getattr(getattr(work, "func", work), "__name__", ""))
        return to_thread(work, *args)

    monkeypatch.setattr(asyncio, "to_thread", noted)
    assert (await by_file(tmp_path, pki, data)).startswith("Revoked: CN=leaf")
    assert aside == ["read_file", "read", "check_signature", "revoked"]


async def test_what_is_kept_is_bounded(tmp_path: Path) -> None:
    pki = PKI()
    data = pki.ca_crl()
    revocations = Revocations(lists=3, entries=5, size=len(data))
    for n in range(12):
        (tmp_path / str(n)).write_bytes(data)
        await revocations.check(pki.path[:2], RevocationRules(crl="required", crls=(str(tmp_path / str(n)),)), NOW)
    assert len(revocations._lists) == 3
    assert len(revocations._verdicts) == 5
    await revocations.close()


async def test_a_known_path_costs_next_to_nothing(server: Server, revocations: Revocations) -> None:
    """No download, no parsing, no signature: one look-up."""
    pki = PKI(server.url)
    path = pki.path
    server.files = {"/root.crl": pki.root_crl(), "/ca.crl": pki.ca_crl()}
    await revocations.check(path, CRL_ONLY, NOW)
    server.asked.clear()
    revocations._judge = None  # type: ignore[assignment, method-assign]  # nothing of it may be called
    for _ in range(1000):
        await revocations.check(path, CRL_ONLY, NOW)
    assert not server.asked


# ------------------------------------------------------------------------------------------ OCSP


@dataclass
class Responder:
    """Signs what it is told, for any certificate of one CA."""

    key: Any
    certificate: x509.Certificate
    issuer: x509.Certificate
    known: x509.Certificate
    """Whom it is about."""
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD
    reason: x509.ReasonFlags | None = None
    this: datetime = NOW - timedelta(minutes=1)
    following: datetime | None = NOW + timedelta(hours=1)
    sent: list[x509.Certificate] = field(default_factory=list)
    by_name: bool = True
    algorithm: Any = field(default_factory=hashes.SHA1)

    def __call__(self, request: bytes) -> bytes:
        asked = ocsp.load_der_ocsp_request(request)
        assert asked.serial_number
        revoked = self.status is ocsp.OCSPCertStatus.REVOKED
        builder = ocsp.OCSPResponseBuilder().add_response(
            self.known,
            self.issuer,
            self.algorithm,
            self.status,
            self.this,
            self.following,
            NOW - DAY if revoked else None,
            self.reason,
        )
        encoding = ocsp.OCSPResponderEncoding.NAME if self.by_name else ocsp.OCSPResponderEncoding.HASH
        builder = builder.responder_id(encoding, self.certificate)
        if self.sent:
            builder = builder.certificates(self.sent)
        return builder.sign(self.key, hashed(self.key)).public_bytes(Encoding.DER)


def leaf_responder(server: Server, pki: PKI, **kwargs: Any) -> Responder:
    made = Responder(pki.ca_key, pki.ca, pki.ca, pki.leaf, **kwargs)
    server.responder = made
    return made


async def by_ocsp(server: Server, pki: PKI, *, now: datetime = NOW, revocations: Revocations | None = None) -> str:
    made = revocations or Revocations()
    try:
        await made.check(pki.path[:2], OCSP_ONLY, now)
    except (Revoked, RevocationUnknown) as exc:
        return f"{type(exc).__name__}: {exc}"
    finally:
        if revocations is None:
            await made.close()
    return "good"


@pytest.mark.parametrize("by_name", [True, False], ids=["byName", "byKey"])
async def test_ocsp_signed_by_the_issuer(server: Server, by_name: bool) -> None:
    pki = PKI(server.url)
    responder = leaf_responder(server, pki, by_name=by_name)
    assert await by_ocsp(server, pki) == "good"
    responder.algorithm = hashes.SHA256()
    assert await by_ocsp(server, pki) == "good"
    responder.status = ocsp.OCSPCertStatus.REVOKED
    assert "was revoked at" in await by_ocsp(server, pki)
    responder.reason = x509.ReasonFlags.key_compromise
    found = await by_ocsp(server, pki)
    assert found.startswith("Revoked: CN=leaf")
    assert f"keyCompromise, says {server.url}/ca.ocsp" in found
    responder.status, responder.reason = ocsp.OCSPCertStatus.UNKNOWN, None
    assert "does not know the certificate" in await by_ocsp(server, pki)
    assert set(server.asked) == {"/ca.ocsp"}


@pytest.mark.parametrize("kind", ["rsa-2048", "ec-p521", "ed25519"])
async def test_ocsp_of_every_algorithm(server: Server, kind: str) -> None:
    pki = PKI(server.url, kind=kind)
    leaf_responder(server, pki)
    assert await by_ocsp(server, pki) == "good"


async def test_a_delegated_responder(server: Server) -> None:
    """RFC 6960 §4.2.2.2: issued by the very CA, with id-kp-OCSPSigning."""
    pki = PKI(server.url)
    key, purpose = new_key(), [ExtendedKeyUsageOID.OCSP_SIGNING]
    by_ca = {"issuer_key": pki.ca_key, "issuer": pki.ca}
    usage = x509.KeyUsage(False, False, True, False, False, False, False, False, False)
    no_check: list[tuple[x509.ExtensionType, bool]] = [(x509.OCSPNoCheck(), False)]
    for name, made, expected in (
        ("right", certificate(key, "R", **by_ca, eku=purpose), "good"),
        ("right, nocheck", certificate(key, "R", **by_ca, eku=purpose, extensions=no_check), "good"),
        ("without the purpose", certificate(key, "R", **by_ca), "id-kp-OCSPSigning"),
        ("another purpose", certificate(key, "R", **by_ca, eku=[ExtendedKeyUsageOID.CLIENT_AUTH]), "id-kp-OCSPSigning"),
        ("expired", certificate(key, "R", **by_ca, eku=purpose, not_after=NOW - timedelta(hours=1)), "expired"),
        ("of the root", certificate(key, "R", pki.root_key, pki.root, eku=purpose), "does not validate"),
        ("of itself", certificate(key, "R", eku=purpose), "does not validate"),
        ("no signer", certificate(key, "R", **by_ca, eku=purpose, key_usage=False, extensions=[(usage, True)]),
         "digitalSignature"),
    ):  # fmt: skip
        responder = leaf_responder(server, pki)
        responder.key, responder.certificate, responder.sent = key, made, [pki.root, made]
        found = await by_ocsp(server, pki)
        assert expected in found, name
        responder.by_name = False
        assert expected in await by_ocsp(server, pki), name
        if expected == "good":
            responder.sent = []
            assert "signed by nobody who may" in await by_ocsp(server, pki)
            responder.sent, responder.by_name = [made], True
            responder.key, responder.certificate = KEY, certificate(KEY, "R")
            assert "does not verify" in await by_ocsp(server, pki)


async def test_the_leaf_cannot_answer_for_itself(server: Server) -> None:
    """It is issued by the CA, but not for OCSP."""
    pki = PKI(server.url)
    responder = leaf_responder(server, pki)
    responder.key, responder.certificate, responder.sent = pki.leaf_key, pki.leaf, [pki.leaf]
    assert "id-kp-OCSPSigning" in await by_ocsp(server, pki)


async def test_an_answer_about_another_certificate(server: Server) -> None:
    pki = PKI(server.url)
    responder = leaf_responder(server, pki)
    responder.known = certificate(KEY, "other", pki.ca_key, pki.ca)
    assert "about another certificate" in await by_ocsp(server, pki)
    other = PKI(server.url)
    responder.known = x509.load_der_x509_certificate(pki.leaf.public_bytes(Encoding.DER))
    responder.issuer = other.ca
    assert "about another certificate" in await by_ocsp(server, pki), "the same number of another issuer"


async def test_the_times_of_an_ocsp_response(server: Server) -> None:
    pki = PKI(server.url)
    responder = leaf_responder(server, pki, this=NOW - timedelta(hours=2), following=NOW - timedelta(seconds=1))
    assert "out of date" in await by_ocsp(server, pki)
    responder.this, responder.following = NOW + timedelta(minutes=6), NOW + DAY
    assert "not valid before" in await by_ocsp(server, pki)
    responder.this, responder.following = NOW - timedelta(minutes=9), None
    assert await by_ocsp(server, pki) == "good"
    responder.this = NOW - timedelta(minutes=11)
    assert "out of date" in await by_ocsp(server, pki)


async def test_errors_of_a_responder(server: Server) -> None:
    pki = PKI(server.url)
    for status in (ocsp.OCSPResponseStatus.TRY_LATER, ocsp.OCSPResponseStatus.UNAUTHORIZED):
        made = ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)
        server.responder = lambda _, made=made: made
        assert f"answers {status.name.lower()}" in await by_ocsp(server, pki)
    for junk in (b"", b"\x30\x00", bytes(50), b"<html>", der.sequence(der.tlv(0x0A, b"\x00"))):
        server.responder = lambda _, junk=junk: junk
        assert (await by_ocsp(server, pki)).startswith("RevocationUnknown")
    server.responder = lambda _: bytes(100_000)
    assert "longer than 65536 octets" in await by_ocsp(server, pki)
    server.status = 503
    assert "HTTP 503" in await by_ocsp(server, pki)


@pytest.mark.parametrize("delegated", [False, True])
async def test_every_octet_of_an_ocsp_response_counts(pki: PKI, delegated: bool) -> None:
    responder = Responder(pki.ca_key, pki.ca, pki.ca, pki.leaf, status=ocsp.OCSPCertStatus.REVOKED)
    if delegated:
        responder.key, purpose = new_key(), [ExtendedKeyUsageOID.OCSP_SIGNING]
        responder.certificate = certificate(responder.key, "R", pki.ca_key, pki.ca, eku=purpose)
        responder.sent = [responder.certificate]
    leaf, ca = pki.path[:2]
    data = responder(ocsp_module.request(leaf, ca))
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 0x41
        try:
            answer = ocsp_module.read(bytes(changed), leaf, ca, NOW, Limits())
        except Unusable:
            continue
        assert answer.state is State.revoked, position


async def test_ocsp_answers_are_kept(server: Server, revocations: Revocations) -> None:
    pki = PKI(server.url)
    responder = leaf_responder(server, pki)
    for minutes in (0, 1, 30, 59):
        assert await by_ocsp(server, pki, now=NOW + timedelta(minutes=minutes), revocations=revocations) == "good"
    assert len(server.asked) == 1
    responder.status, responder.following = ocsp.OCSPCertStatus.REVOKED, NOW + 2 * DAY
    found = await by_ocsp(server, pki, now=NOW + timedelta(minutes=61), revocations=revocations)
    assert found.startswith("Revoked")
    assert len(server.asked) == 2


async def test_a_dead_responder_is_left_alone_for_all_certificates(server: Server, revocations: Revocations) -> None:
    pki = PKI(server.url)
    server.status, server.responder = 500, lambda _: b""
    for n in range(5):
        leaf = certificate(KEY, f"leaf {n}", pki.ca_key, pki.ca, extensions=urls(server.url, "/ca"))
        with pytest.raises(RevocationUnknown, match="HTTP 500"):
            await revocations.check((loaded(leaf), loaded(pki.ca)), OCSP_ONLY, NOW)
    assert len(server.asked) == 1


async def test_the_configured_responder_takes_the_place_of_the_named_one(
    server: Server, revocations: Revocations
) -> None:
    pki = PKI(server.url)
    leaf_responder(server, pki)
    rules = RevocationRules(crl="off", ocsp="required", ocsp_url=f"{server.url}/mine")
    await revocations.check(pki.path[:2], rules, NOW)
    assert server.asked == ["/mine"]


# ------------------------------------------------------------------------------------------ both


@pytest.mark.parametrize(
    ("ocsp_says", "crl_says", "expected"),
    [
        ("good", "good", "good"),
        ("revoked", "good", "revoked"),
        ("good", "revoked", "revoked"),
        ("unknown", "revoked", "revoked"),
        ("unknown", "good", "unknown"),
        ("good", "unknown", "unknown"),
    ],
)
async def test_either_may_revoke_and_both_must_answer(
    server: Server, revocations: Revocations, ocsp_says: str, crl_says: str, expected: str
) -> None:
    pki = PKI(server.url)
    leaf_responder(server, pki, status=getattr(ocsp.OCSPCertStatus, ocsp_says.upper()))
    lists = {"good": pki.ca_crl(), "revoked": pki.ca_crl(pki.leaf), "unknown": b"junk"}
    server.files = {"/ca.crl": lists[crl_says], "/root.crl": pki.root_crl()}
    found = await outcome(revocations, pki, RevocationRules("required", "required"))
    assert found.startswith(expected)
    assert ("CN=leaf" in found) == (expected != "good")


async def test_for_a_ca_certificate_one_kind_is_enough(server: Server, revocations: Revocations) -> None:
    """Its OCSP answer is for another certificate; without a CRL either, nothing is known of it."""
    pki = PKI(server.url)
    leaf_responder(server, pki)
    server.files = {"/ca.crl": pki.ca_crl()}
    found = await outcome(revocations, pki, RevocationRules("required", "required"))
    assert found.startswith("unknown: whether CN=CA")
    server.files["/root.crl"] = pki.root_crl()
    later = NOW + timedelta(seconds=61)
    assert await outcome(revocations, pki, RevocationRules("required", "required"), later) == "good"


async def test_best_effort_of_one_and_required_of_the_other(server: Server, revocations: Revocations) -> None:
    pki = PKI(server.url)
    server.status, server.responder = 500, lambda _: b""
    assert await outcome(revocations, pki, RevocationRules("off", "best_effort")) == "good"
    server.status = 200
    server.files = {"/ca.crl": pki.ca_crl(), "/root.crl": pki.root_crl()}
    assert await outcome(revocations, pki, RevocationRules("required", "best_effort")) == "good"


# ------------------------------------------------------------------------------------------ OpenSSL's


async def test_a_crl_and_an_ocsp_responder_of_openssl(tmp_path: Path, server: Server, revocations: Revocations) -> None:
    """`openssl ca` writes the CRL; `openssl ocsp` answers from the same index."""
    openssl = shutil.which("openssl")
    assert openssl
    pki = PKI(server.url)
    good = certificate(KEY, "good", pki.ca_key, pki.ca, extensions=urls(server.url, "/ca"))
    (tmp_path / "ca.pem").write_bytes(pki.ca.public_bytes(Encoding.PEM))
    (tmp_path / "ca.key").write_bytes(
        pki.ca_key.private_bytes(Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    lines = [
        "\t".join(
            (kind, f"{one.not_valid_after_utc:%y%m%d%H%M%SZ}", revoked, f"{one.serial_number:X}".zfill(40), "unknown",
             "/CN=x")
        )
        for kind, one, revoked in (
            ("R", pki.leaf, f"{NOW - DAY:%y%m%d%H%M%SZ},superseded"),
            ("V", good, ""),
        )
    ]  # fmt: skip
    (tmp_path / "index.txt").write_text("".join(line + "\n" for line in lines))
    (tmp_path / "index.txt.attr").write_text("unique_subject = no\n")
    (tmp_path / "crlnumber").write_text("01\n")
    (tmp_path / "ca.cnf").write_text(
        f"[ca]\ndefault_ca = x\n[x]\ndatabase = {tmp_path}/index.txt\ncrlnumber = {tmp_path}/crlnumber\n"
        f"certificate = {tmp_path}/ca.pem\nprivate_key = {tmp_path}/ca.key\ndefault_md = sha256\n"
        "default_crl_days = 1\ncrl_extensions = e\n[e]\nauthorityKeyIdentifier = keyid\n"
    )

    def run(*args: str) -> None:
        subprocess.run([openssl, *args], check=True, capture_output=True, cwd=tmp_path, timeout=30)

    run("ca", "-config", "ca.cnf", "-gencrl", "-out", "ca.crl")
    server.files["/ca.crl"] = (tmp_path / "ca.crl").read_bytes()

    def respond(request: bytes) -> bytes:
        (tmp_path / "request").write_bytes(request)
        run("ocsp", "-index", "index.txt", "-CA", "ca.pem", "-rsigner", "ca.pem", "-rkey", "ca.key",
            "-reqin", "request", "-respout", "response", "-ndays", "1")  # fmt: skip
        return (tmp_path / "response").read_bytes()

    server.responder = respond
    now = datetime.now(UTC)
    for rules in (CRL_ONLY, OCSP_ONLY):
        with pytest.raises(Revoked, match="superseded"):
            await revocations.check(pki.path[:2], rules, now)
        await revocations.check((loaded(good), loaded(pki.ca)), rules, now)
    assert sorted(server.asked) == ["/ca.crl", "/ca.ocsp", "/ca.ocsp"]
