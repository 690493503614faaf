"""What the local issuer says of itself when it is examined (`ports.Examinable`)."""

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd.exchange import RevocationReason
from cmpd.issuers.local import CreatedCA, LocalIssuer
from cmpd.ports import Diagnosis, Examinable, Revocation, StoreUnavailable

NOW = datetime.now(UTC)
Make = Callable[[str], LocalIssuer]


class Revoked:
    """The part of the store that is asked."""

    def __init__(self, *revoked: Revocation, fault: Exception | None = None) -> None:
        self._revoked = revoked
        self._fault = fault

    async def revoked(self, issuer: str, /) -> tuple[Revocation, ...]:
        assert issuer == "local"
        if self._fault is not None:
            raise self._fault
        return self._revoked


@contextmanager
def published(octets: bytes) -> Iterator[str]:
    """A web server that has one file."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(octets)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/local.crl"
        finally:
            server.shutdown()
            thread.join()


def issuer_of(ca: CreatedCA, **keys: str) -> LocalIssuer:
    return LocalIssuer.from_config(ca.table(ca.directory) | keys, base=ca.directory, url="", name="local")


def crl(issuer: LocalIssuer, *revoked: Revocation, at: datetime = NOW) -> bytes:
    return issuer._authority.crl(revoked, 1, at, at + timedelta(days=1))


async def examined(ca: CreatedCA, octets: bytes, store: Any = None, now: datetime = NOW) -> Diagnosis:
    """What is said of a CRL that is published."""
    with published(octets) as url:
        (found,) = [one for one in await issuer_of(ca, crl_url=url).examine(store, now) if one.check == "CRL"]
    assert found.text.startswith(url)
    return replace(found, text=found.text.removeprefix(url + " "))


REVOKED = Revocation(4711, RevocationReason.superseded, NOW)


async def test_all_is_well(ca: CreatedCA) -> None:
    issuer = issuer_of(ca)
    assert isinstance(issuer, Examinable)
    with published(crl(issuer, REVOKED)) as url:
        rows = await issuer_of(ca, crl_url=url).examine(Revoked(REVOKED), NOW)  # type: ignore[arg-type]
    assert [(one.check, one.level) for one in rows] == [
        ("CMP protection certificate", "ok"),
        ("CA certificate", "ok"),
        ("CA certificate", "ok"),
        ("secrets", "ok"),
        ("CRL", "ok"),
    ]
    assert rows[-1].text == f"{url} is current until {NOW + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}, with 1 entries"


async def test_certificates_that_end_soon(ca: CreatedCA) -> None:
    """The file is named; the CMP signer's certificate is the first to end."""
    rows = await issuer_of(ca, crl_url="").examine(None, NOW + timedelta(days=2 * 365 - 10))
    (soon,) = [one for one in rows if one.level == "warning"]
    assert soon.check == "CMP protection certificate"
    assert soon.text.startswith(f"{ca.directory / 'cmp.pem'} ends at ")


async def test_a_secret_that_a_group_can_read(ca: CreatedCA) -> None:
    (ca.directory / "passphrase").chmod(0o640)
    rows = await issuer_of(ca, crl_url="").examine(None, NOW)
    assert [one.text for one in rows if one.check == "secrets"] == [
        f"{ca.directory / 'passphrase'}: its group may read it; chmod 600 it unless only cmpd is in that group"
    ]


async def test_a_crl_that_lacks_a_revocation(ca: CreatedCA) -> None:
    found = await examined(ca, crl(issuer_of(ca)), Revoked(REVOKED))
    assert (found.level, found.text) == ("problem", "lacks 1 of 1 certificates that are revoked; publish it anew")


async def test_a_crl_that_has_ended(ca: CreatedCA) -> None:
    found = await examined(ca, crl(issuer_of(ca), at=NOW - timedelta(days=2)))
    assert found.level == "problem"
    assert found.text.startswith("has ended at ")


async def test_a_crl_of_another_ca(ca: CreatedCA, local_issuer: Make) -> None:
    found = await examined(ca, crl(local_issuer("ec-p256")))
    assert (found.level, found.text) == ("problem", "has the CRL of another CA; correct crl_url")


async def test_what_is_no_crl(ca: CreatedCA) -> None:
    found = await examined(ca, b"<html>not found</html>")
    assert (found.level, found.text) == ("problem", "is no CRL in DER; correct what is published there, or crl_url")
    (pem,) = [await examined(ca, _pem(crl(issuer_of(ca))))]
    assert pem.level == "problem"


def _pem(der: bytes) -> bytes:
    from cryptography import x509

    return x509.load_der_x509_crl(der).public_bytes(Encoding.PEM)


async def test_a_store_that_does_not_tell(ca: CreatedCA) -> None:
    with published(crl(issuer_of(ca))) as url:
        rows = await issuer_of(ca, crl_url=url).examine(Revoked(fault=StoreUnavailable("locked")), NOW)  # type: ignore[arg-type]
    assert (rows[-1].level, rows[-1].text) == ("problem", "the store does not tell what is revoked: locked")


@pytest.mark.parametrize(
    ("url", "level", "text"),
    [
        ("", "note", 'crl_url is "": certificates do not say where their CRL is'),
        ("ldap://example.com/crl", "note", "ldap://example.com/crl is not looked at, for it is neither http nor https"),
        ("http://127.0.0.1:9/x.crl", "warning", "http://127.0.0.1:9/x.crl cannot be fetched from here ("),
    ],
)
async def test_a_crl_that_is_not_looked_at(ca: CreatedCA, url: str, level: str, text: str) -> None:
    rows = await issuer_of(ca, crl_url=url).examine(None, NOW)
    assert rows[-1].level == level
    assert rows[-1].text.startswith(text)


async def test_keys_of_every_kind(local_issuer: Make, tmp_path: Path) -> None:
    """ML-DSA is not verified by `cryptography` everywhere; the CRL's issuer has to do then."""
    del tmp_path
    issuer = local_issuer("ml-dsa-44")
    with published(crl(issuer)) as url:
        issuer.crl_url = url
        rows = await issuer.examine(None, NOW)
    assert rows[-1].level == "ok", rows[-1]
