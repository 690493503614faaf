"""The CertCentral simulator does what it says: endpoints, state machines, faults, ledger, clock, certificates."""

import asyncio
import base64
import hashlib
import io
import json
import signal
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pkilint import finding_filter, loader
from pkilint.cabf import serverauth, smime
from pkilint.cabf.serverauth.serverauth_constants import CertificateType
from pkilint.pkix import certificate as pkix_certificate

from tests.certcentral import CertCentral
from tests.certcentral.__main__ import parser, run
from tests.certcentral.catalogue import (
    DIVISION,
    EXAMPLE_GMBH,
    EXAMPLE_INC,
    FAMILIES,
    PRODUCTS,
    STALE_LTD,
    STAMP_FIELD,
)
from tests.certcentral.faults import BY_CHANCE, KINDS
from tests.certcentral.journal import most_within

NOW = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)
JSON = dict[str, Any]


@pytest.fixture
async def central() -> AsyncIterator[CertCentral]:
    """A simulator whose clock stands still."""
    async with CertCentral(at=NOW).running() as made:
        yield made


@dataclass
class Api:
    """A client: no repeats, no opinions."""

    central: CertCentral
    session: aiohttp.ClientSession
    key: str = "admin"
    base: str = ""

    def with_key(self, name: str) -> "Api":
        return Api(self.central, self.session, name, self.base)

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        headers = {"X-DC-DEVKEY": self.central.key(self.key) if self.key else "nonsense", **headers}
        data = None if body is None else json.dumps(body)
        return self.session.request(method, (self.base or self.central.url) + path, data=data, headers=headers)

    async def __call__(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        async with self.call(method, path, body, **headers) as answer:
            if answer.status == 204:
                assert "Content-Type" not in answer.headers
                assert await answer.read() == b""
                return 204, None
            if answer.content_type != "application/json":
                return answer.status, await answer.read()
            assert answer.headers["Content-Type"] == "application/json"
            return answer.status, json.loads(await answer.text())

    async def ok(self, method: str, path: str, body: object = None) -> Any:
        status, answer = await self(method, path, body)
        assert status < 300, answer
        return answer

    async def refused(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        status, answer = await self(method, path, body)
        assert status >= 400, answer
        return status, answer["errors"][0]["code"]


@pytest.fixture
async def api(central: CertCentral) -> AsyncIterator[Api]:
    """A client with the administrator's key; each call has its own connection, for nothing must be repeated."""
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Api(central, session)


@cache
def key_of(kind: str, number: int = 0) -> Any:
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    if kind == "weak":
        return rsa.generate_private_key(65537, 1024)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key({"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}[kind])


@cache
def csr(kind: str = "P-256", number: int = 0) -> str:
    """PEM; its subject and SAN are those of somebody else."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "from the CSR")])
    )
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("csr.invalid")]), critical=False)
    digest = None if kind == "ed25519" else hashes.SHA256()
    return builder.sign(key_of(kind, number), digest).public_bytes(serialization.Encoding.PEM).decode()


def spki(kind: str = "P-256", number: int = 0) -> bytes:
    made: bytes = (
        key_of(kind, number)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return made


def spki_hash(kind: str = "P-256", number: int = 0) -> str:
    return hashlib.sha256(spki(kind, number)).hexdigest()


def mailbox(**changes: Any) -> JSON:
    return order(
        {
            "emails": ["a@example.com"],
            "csr": csr(),
            "profile_type": "strict",
            "common_name_indicator": "email_address",
            "signature_hash": "sha256",
            "usage_designation": {"primary_usage": "dual_use"},
        },
        **changes,
    )


def sponsor(**changes: Any) -> JSON:
    person = {"first_name": "Ada", "last_name": "Byron"}
    return mailbox(**({"common_name_indicator": "given_name_surname", "individual": person} | changes))


def server(**changes: Any) -> JSON:
    return order(
        {"common_name": "www.example.com", "dns_names": ["example.com"], "csr": csr(), "signature_hash": "sha256"},
        **changes,
    )


ROOT_FIELDS = {
    "organization",
    "order_validity",
    "validity_years",
    "custom_expiration_date",
    "payment_method",
    "skip_approval",
    "container",
    "custom_fields",
    "comments",
    "renewal_of_order_id",
    "subject",
}


def order(certificate: JSON, **changes: Any) -> JSON:
    body: JSON = {
        "order_validity": {"days": 365},
        "payment_method": "balance",
        "skip_approval": True,
        "organization": {"id": EXAMPLE_GMBH},
    }
    for name, value in changes.items():
        target = body if name in ROOT_FIELDS else certificate
        if value is None:
            target.pop(name, None)
        else:
            target[name] = value
    return body | {"certificate": certificate}


def split(pem: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem)


def leaf(central: CertCentral, order_id: int) -> x509.Certificate:
    made = central.order(order_id).certificate.leaf
    assert made is not None
    return made


def names(certificate: x509.Certificate) -> list[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in found]


def purposes(certificate: x509.Certificate) -> set[x509.ObjectIdentifier]:
    return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def policies(certificate: x509.Certificate) -> list[str]:
    found = certificate.extensions.get_extension_for_class(x509.CertificatePolicies).value
    return [policy.policy_identifier.dotted_string for policy in found]


def usage(certificate: x509.Certificate) -> set[str]:
    found = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    bits = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    return {bit for bit in bits if getattr(found, bit)}


def subject(certificate: x509.Certificate) -> dict[str, str]:
    return {attribute.rfc4514_attribute_name: str(attribute.value) for attribute in certificate.subject}


# Keys, rights, errors, rates


@pytest.mark.parametrize("key", ["", "revoked", "eu"])
async def test_a_wrong_key_is_answered_as_recorded(api: Api, key: str) -> None:
    status, answer = await api.with_key(key)("GET", "/user/me")
    assert status == 403
    assert answer == {
        "errors": [
            {
                "code": "access_denied|access_denied_invalid_key",
                "message": "Access denied due to access_denied_invalid_key.",
            }
        ]
    }


async def test_the_eu_host_takes_its_own_keys(api: Api, central: CertCentral) -> None:
    europe = Api(central, api.session, "eu", central.eu_url)
    assert (await europe.ok("GET", "/user/me"))["id"] == 153208
    assert (await europe.with_key("admin").refused("GET", "/user/me"))[0] == 403
    by_host = {"Host": "certcentral.digicert.eu"}
    assert (await api.with_key("eu")("GET", "/user/me", **by_host))[0] == 200
    central.set(region_bound_keys=False)
    assert (await europe.with_key("admin").ok("GET", "/user/me"))["username"] == "admin"


async def test_an_eu_simulator_is_the_eu_host(api: Api) -> None:
    async with CertCentral(region="eu").running() as europe:
        assert (await Api(europe, api.session, "eu")("GET", "/user/me"))[0] == 200
        assert (await Api(europe, api.session, "admin")("GET", "/user/me"))[0] == 403


@pytest.mark.parametrize(
    ("key", "method", "path"),
    [
        ("view", "POST", "/order/certificate/secure_email_mailbox"),
        ("users", "GET", "/order/certificate"),
        ("orders", "GET", "/organization"),
        ("orders", "POST", "/user"),
        ("manager", "POST", "/user"),
    ],
)
async def test_a_key_without_the_right(api: Api, key: str, method: str, path: str) -> None:
    refused = await api.with_key(key).refused(method, path, mailbox())
    assert refused == (403, "access_denied|missing_permission")
    assert not api.central.ledger.entries()


async def test_a_view_key_reads(api: Api) -> None:
    assert (await api.with_key("view").ok("GET", "/order/certificate"))["orders"] == []


async def test_a_division_sees_only_its_own(api: Api, central: CertCentral) -> None:
    division = api.with_key("division")
    foreign = (await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox()))["id"]
    own = (await division.ok("POST", "/order/certificate/secure_email_mailbox", mailbox()))["id"]
    assert central.order(own).container_id == DIVISION
    assert await division.refused("GET", f"/order/certificate/{foreign}") == (404, "not_found|order")
    rows = (await division.ok("GET", "/order/certificate/status-changes?minutes=1"))["orders"]
    assert [row["order_id"] for row in rows] == [own]
    root = mailbox(container={"id": 406222})
    path = "/order/certificate/secure_email_mailbox"
    assert await division.refused("POST", path, root) == (403, "access_denied|missing_permission")
    refused = await division.refused("POST", "/order/certificate/ssl_ev_basic", server())
    assert refused == (400, "invalid_product")
    assert len((await division.ok("GET", "/container"))["containers"]) == 1
    assert (await division.refused("GET", "/container/406222"))[0] == 404


async def test_unknown_things_are_404(api: Api) -> None:
    for path, code in (
        ("/nowhere", "not_found|route"),
        ("/order/certificate/1", "not_found|order"),
        ("/certificate/1/chain", "not_found|certificate"),
        ("/request/1", "not_found|request"),
        ("/product/nothing", "not_found|product"),
        ("/organization/1", "not_found|organization"),
        ("/container/1", "not_found|container"),
        ("/domain/1", "not_found|domain"),
    ):
        assert await api.refused("GET", path) == (404, code)
    assert await api.refused("POST", "/order/certificate/nothing", mailbox()) == (404, "not_found|product")


async def test_errors_can_be_an_object(api: Api, central: CertCentral) -> None:
    central.set(errors_as_object=True)
    assert (await api("GET", "/nowhere"))[1]["errors"]["code"] == "not_found|route"


async def test_a_body_that_is_no_json_object(api: Api) -> None:
    path = "/order/certificate/secure_email_mailbox"
    assert await api.refused("POST", path, [1]) == (400, "bad_request_format")
    headers = {"X-DC-DEVKEY": "sim-admin-key"}
    async with api.session.post(api.central.url + path, data=b"{", headers=headers) as answer:
        assert answer.status == 400


async def test_rolling_windows(api: Api, central: CertCentral) -> None:
    central.set(rate_windows=((3, 5.0), (5, 180.0)))

    async def me(key: str = "admin") -> int:
        return (await api.with_key(key)("GET", "/user/me"))[0]

    assert [await me() for _ in range(4)] == [200, 200, 200, 429]
    assert await me("manager") == 200, "windows belong to a key"
    central.advance(4.9)
    assert await me() == 429
    central.advance(0.1)
    assert [await me() for _ in range(3)] == [200, 200, 429], "five in three minutes"
    central.advance(180)
    assert await me() == 200
    assert central.journal.busiest(5, key="manager") == 1


async def test_retry_after_is_a_switch(api: Api, central: CertCentral) -> None:
    central.set(rate_windows=((0, 5.0),))
    async with api.call("GET", "/user/me") as answer:
        assert answer.status == 429
        assert "Retry-After" not in answer.headers
        assert await answer.json() == {
            "errors": [
                {
                    "code": "request_limit_exceeded",
                    "message": "Service unavailable, please limit request volume",
                }
            ]
        }
    central.set(retry_after=7)
    async with api.call("GET", "/user/me") as answer:
        assert answer.headers["Retry-After"] == "7"


async def test_refused_calls_may_count(api: Api, central: CertCentral) -> None:
    central.set(rate_windows=((1, 5.0),), count_refused=True)
    seen = []
    for _ in range(4):
        seen.append((await api("GET", "/user/me"))[0])
        central.advance(3)
    assert seen == [200, 429, 429, 429]


def test_the_most_in_a_window() -> None:
    assert most_within([0, 1, 2, 10, 10.5, 11, 12.4], 2.5) == 4
    assert most_within([0, 5, 10], 5) == 1
    assert most_within([], 5) == 0


# Orders


async def test_an_order_that_is_issued_at_once(api: Api, central: CertCentral) -> None:
    status, answer = await api("POST", "/order/certificate/secure_email_mailbox", mailbox())
    assert status == 201
    assert answer["requests"][0]["status"] == "approved"
    chain = answer["certificate_chain"]
    assert chain[0]["subject_common_name"] == "a@example.com"
    assert all("\r\n" in row["pem"] for row in chain)
    made = [x509.load_pem_x509_certificate(row["pem"].encode()) for row in chain]
    for one, issuer in zip(made, [*made[1:], made[-1]], strict=True):
        one.verify_directly_issued_by(issuer)
    assert made[0] == leaf(central, answer["id"])
    assert spki() == made[0].public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    info = await api.ok("GET", f"/order/certificate/{answer['id']}")
    assert info["status"] == "issued"
    assert info["certificate"]["id"] == answer["certificate_id"]
    assert info["certificate"]["csr"] == csr()
    assert int(info["certificate"]["serial_number"], 16) == made[0].serial_number
    assert len(info["certificate"]["serial_number"]) == 32
    assert info["certificate"]["valid_till"] == "2027-11-01"
    assert info["order_valid_till"] == "2027-11-01"
    assert info["product"]["validation_type"] == "email"
    for name in (info["certificate"]["serial_number"].lower(), info["certificate"]["thumbprint"]):
        assert (await api.ok("GET", f"/order/certificate/{name}"))["id"] == answer["id"]


async def test_approval(api: Api, central: CertCentral) -> None:
    """The key of a standard user cannot skip approval, nor approve."""
    orders = api.with_key("orders")
    answer = await orders.ok("POST", "/order/certificate/secure_email_mailbox", mailbox(comments="please"))
    assert set(answer) == {"id", "requests"}
    request = answer["requests"][0]
    assert request["status"] == "pending"
    info = await api.ok("GET", f"/order/certificate/{answer['id']}")
    assert info["status"] == "needs_approval"
    assert info["requests"][0]["comments"] == "please"
    assert not {"id", "thumbprint", "serial_number", "valid_from"} & set(info["certificate"])
    approve = {"status": "approved", "processor_comment": "fine"}
    path = f"/request/{request['id']}/status"
    assert await orders.refused("PUT", path, approve) == (403, "access_denied|invalid_approver")
    assert await api("PUT", path, approve) == (204, None)
    assert central.order(answer["id"]).status == "issued"
    shown = await api.ok("GET", f"/request/{request['id']}")
    assert (shown["status"], shown["processor_comment"], shown["order"]["id"]) == ("approved", "fine", answer["id"])
    assert await api.refused("PUT", path, approve) == (400, "invalid_request_status")
    assert [row["id"] for row in (await api.ok("GET", "/request?filters[status]=approved"))["requests"]] == [
        request["id"]
    ]


async def test_rejection(api: Api, central: CertCentral) -> None:
    answer = await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox(skip_approval=False))
    assert await api("PUT", f"/request/{answer['requests'][0]['id']}/status", {"status": "rejected"}) == (204, None)
    assert (await api.ok("GET", f"/order/certificate/{answer['id']}"))["status"] == "rejected"
    assert await api.refused("PUT", f"/order/certificate/{answer['id']}/status", {"status": "canceled"}) == (
        400,
        "invalid_status",
    )


@pytest.mark.parametrize("mode", ["none", "auto"])
async def test_accounts_without_approval(api: Api, central: CertCentral, mode: str) -> None:
    central.set(approval=mode)
    answer = await api.with_key("orders").ok("POST", "/order/certificate/secure_email_mailbox", mailbox())
    assert "certificate_chain" in answer
    assert [row["status"] for row in answer["requests"]] == ([] if mode == "none" else ["approved"])


async def test_delay(api: Api, central: CertCentral) -> None:
    central.set(times=1, delay=3600)
    answer = await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox())
    assert set(answer) == {"id", "requests", "certificate_id"}
    central.advance(3599)
    assert (await api.ok("GET", f"/order/certificate/{answer['id']}"))["status"] == "processing"
    central.advance(2)
    rows = (await api.ok("GET", "/order/certificate/status-changes?seconds=1"))["orders"]
    assert rows == [{"order_id": answer["id"], "certificate_id": answer["certificate_id"], "status": "issued"}]
    assert central.order(answer["id"]).certificate.issued == (NOW + timedelta(seconds=3600)).timestamp()
    second = await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox())
    assert "certificate_chain" in second, "only the next order was to be late"


@pytest.mark.parametrize("path", ["/order/certificate/{}", "/order/certificate/status-changes?minutes=5"])
async def test_issued_after_some_looks(api: Api, central: CertCentral, path: str) -> None:
    central.set(polls=3, waiting_status="pending")
    number = (await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox()))["id"]
    seen = []
    for _ in range(4):
        await api.ok("GET", path.format(number))
        seen.append(central.order(number).status)
    assert seen == ["pending", "pending", "issued", "issued"]


async def test_issued_by_hand(api: Api, central: CertCentral) -> None:
    central.set(by_hand=True)
    number = (await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox()))["id"]
    central.advance(timedelta(days=30))
    assert (await api.ok("GET", f"/order/certificate/{number}"))["status"] == "processing"
    central.issue(number)
    assert (await api.ok("GET", f"/order/certificate/{number}"))["status"] == "issued"


async def test_the_ca_rejects(api: Api, central: CertCentral) -> None:
    central.set(by_hand=True)
    number = (await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox()))["id"]
    central.reject(number)
    assert (await api.ok("GET", f"/order/certificate/{number}"))["status"] == "rejected"
    central.issue(number)
    assert central.order(number).certificate.leaf is None


async def test_cancel(api: Api, central: CertCentral) -> None:
    number = (await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox(emails=["a@far.example"])))["id"]
    path = f"/order/certificate/{number}/status"
    assert await api.refused("PUT", path, {"status": "CANCELED"}) == (400, "invalid_status")
    assert await api("PUT", path, {"status": "canceled", "note": "no"}) == (204, None)
    assert (await api.ok("GET", f"/order/certificate/{number}"))["status"] == "canceled"
    issued = (await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox()))["id"]
    assert (await api.refused("PUT", f"/order/certificate/{issued}/status", {"status": "canceled"}))[0] == 400


async def test_an_order_expires(api: Api, central: CertCentral) -> None:
    number = (await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox()))["id"]
    central.advance(timedelta(days=366))
    rows = (await api.ok("GET", "/order/certificate/status-changes?minutes=10080"))["orders"]
    assert [(row["order_id"], row["status"]) for row in rows] == [(number, "expired")]


async def test_an_email_order_without_a_csr(api: Api, central: CertCentral) -> None:
    path = "/order/certificate/secure_email_mailbox"
    number = (await api.ok("POST", path, mailbox(csr=None)))["id"]
    assert central.order(number).status == "waiting_pickup"
    assert (await api("PUT", f"/order/certificate/{number}/status", {"status": "canceled"}))[0] == 204
    central.set(without_csr="needs_csr")
    assert central.order((await api.ok("POST", path, mailbox(csr=None)))["id"]).status == "needs_csr"
    central.set(without_csr="reject")
    assert await api.refused("POST", path, mailbox(csr=None)) == (400, "invalid_csr")
    assert await api.refused("POST", "/order/certificate/ssl_basic", server(csr=None)) == (400, "invalid_csr")


async def test_lists_filters_and_pages(api: Api, central: CertCentral) -> None:
    for _ in range(3):
        await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox())
    tls = (await api.ok("POST", "/order/certificate/ssl_basic", server()))["id"]
    waiting = (await api.ok("POST", "/order/certificate/private_ssl_flex", server(skip_approval=False)))["id"]

    async def ids(query: str) -> list[int]:
        return [row["id"] for row in (await api.ok("GET", f"/order/certificate?{query}"))["orders"]]

    everything = sorted(central.desk.register.orders)
    assert await ids("") == everything[::-1]
    assert await ids("sort=order_id") == everything
    assert await ids("limit=2&offset=1&sort=order_id") == everything[1:3]
    page = (await api.ok("GET", "/order/certificate?limit=2&offset=1"))["page"]
    assert page == {"total": 5, "limit": 2, "offset": 1}
    assert await ids("filters[product_name_id]=ssl_basic") == [tls]
    assert await ids("filters[status]=needs_approval") == [waiting]
    assert await ids("filters[status][0]=needs_approval&filters[status][1]=issued&sort=order_id") == everything
    assert await ids(f"filters[organization_id]={EXAMPLE_INC}") == []
    assert await ids("filters[container_id]=406222&filters[valid_till]=2027-05-01...2027-06-30") == [tls]
    assert await ids("filters[valid_till]=>2027-06-30&sort=order_id") == everything[:3]
    assert (await ids("sort=-status,order_id"))[0] == waiting
    assert (await api.refused("GET", "/order/certificate?filters[nothing]=1"))[0] == 400
    assert (await api.refused("GET", "/order/certificate?sort=nothing"))[0] == 400
    assert (await api.refused("GET", "/order/certificate?limit=x"))[0] == 400
    row = (await api.ok("GET", "/order/certificate?sort=order_id"))["orders"][0]
    assert "csr" not in row["certificate"]


async def test_status_changes(api: Api, central: CertCentral) -> None:
    path = "/order/certificate/status-changes"
    assert await api.ok("GET", f"{path}?minutes=10") == {}
    first = (await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox(skip_approval=False)))["id"]
    assert (await api.ok("GET", f"{path}?minutes=10"))["orders"] == [{"order_id": first, "status": "needs_approval"}]
    central.advance(601)
    assert await api.ok("GET", f"{path}?minutes=10") == {}
    assert (await api.ok("GET", f"{path}?minutes=10&seconds=1"))["orders"][0]["order_id"] == first
    central.approve(first)
    shown = (await api.ok("GET", f"{path}?minutes=10080"))["orders"]
    assert [row["status"] for row in shown] == ["issued"], "an order is told once, as it is"
    for query in ("minutes=10081", "seconds=604801", "filters[status_last_updated]=2026-01-01...2026-01-09"):
        assert await api.refused("GET", f"{path}?{query}") == (400, "time_frame_too_long")
    for query in ("", "minutes=x", "filters[status_last_updated]=yesterday...today"):
        assert (await api.refused("GET", f"{path}?{query}"))[0] == 400


async def test_status_changes_between_dates(api: Api, central: CertCentral) -> None:
    """Dates are Mountain Daylight Time, and an order that changed again after the window is left out."""
    path = "/order/certificate/status-changes?filters[status_last_updated]="
    number = (await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox(skip_approval=False)))["id"]
    for window in ("2026-11-01...2026-11-02", "26-11-02+05:59:00...26-11-02+06:01:00", "2026-11-02"):
        assert (await api.ok("GET", path + window))["orders"][0]["order_id"] == number
    assert await api.ok("GET", path + "26-11-02+12:00:00...26-11-02+12:01:00") == {}, "that is noon in Utah"
    central.advance(timedelta(days=2))
    central.approve(number)
    assert await api.ok("GET", path + "2026-11-01...2026-11-02") == {}


async def test_two_orders_of_the_same_moment_are_told_once_each(api: Api) -> None:
    numbers = [(await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox()))["id"] for _ in range(2)]
    rows = (await api.ok("GET", "/order/certificate/status-changes?seconds=1"))["orders"]
    assert [row["order_id"] for row in rows] == numbers


# What is refused


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"emails": []}, "invalid_emails"),
        ({"emails": ["nobody"]}, "invalid_emails"),
        ({"csr": "!"}, "invalid_csr"),
        ({"csr": csr("weak")}, "invalid_csr"),
        ({"csr": csr("ed25519")}, "invalid_csr"),
        ({"csr": csr().replace("CERTIFICATE REQUEST", "CERTIFICATE")}, "invalid_csr"),
        ({"profile_type": "legacy"}, "invalid_profile_type"),
        ({"usage_designation": None}, "invalid_usage_designation"),
        (
            {"usage_designation": {"primary_usage": "dual_use", "additional_usages": ["client_auth"]}},
            "invalid_additional_usages",
        ),
        ({"common_name_indicator": "organization_name"}, "invalid_common_name_indicator"),
        ({"common_name_indicator": None}, "invalid_common_name_indicator"),
        ({"individual": None}, "invalid_individual"),
        ({"individual": {"first_name": "Ada"}}, "invalid_individual"),
        ({"individual": {"pseudonym": "x"}}, "invalid_individual"),
        ({"common_name_indicator": "pseudonym"}, "invalid_individual"),
        ({"signature_hash": "sha1"}, "invalid_signature_hash"),
        ({"ca_cert_id": FAMILIES["tls"].ca_id("rsa")}, "invalid_ca_cert_id"),
        ({"organization": None}, "invalid_organization"),
        ({"organization": {"id": 1}}, "invalid_organization"),
        ({"organization": {"id": "x"}}, "invalid_organization"),
        ({"order_validity": {"days": 825}}, "invalid_order_validity"),
        ({"order_validity": {"years": 3}}, "invalid_order_validity"),
        ({"order_validity": None}, "invalid_order_validity"),
        ({"payment_method": "shells"}, "invalid_payment_method"),
        ({"container": {"id": 1}}, "invalid_container"),
        ({"custom_fields": [{"metadata_id": 1002, "value": "inactive"}]}, "invalid_custom_fields"),
        ({"renewal_of_order_id": 1}, "invalid_renewal_of_order_id"),
        (
            {
                "organization": {
                    "id": EXAMPLE_GMBH,
                    "contacts": [{"contact_type": "organization_contact", "user_id": 1}] * 2,
                }
            },
            "contact_type_duplicate",
        ),
    ],
)
async def test_orders_that_are_refused(api: Api, changes: JSON, code: str) -> None:
    refused = await api.refused("POST", "/order/certificate/secure_email_sponsor", sponsor(**changes))
    assert refused == (400, code)
    assert not api.central.ledger.entries()


@pytest.mark.parametrize(
    ("product", "changes", "code"),
    [
        ("ssl_basic", {"common_name": None}, "invalid_common_name"),
        ("ssl_basic", {"dns_names": ["10.0.0.1"]}, "invalid_dns_names"),
        ("ssl_basic", {"dns_names": ["intranet"]}, "invalid_dns_names"),
        ("ssl_basic", {"dns_names": ["a_b.example.com"]}, "invalid_dns_names"),
        ("ssl_plus", {"dns_names": ["a.example.com", "b.example.com"]}, "invalid_dns_names"),
        ("ssl_ev_basic", {"common_name": "*.example.com"}, "invalid_dns_names"),
        ("ssl_basic", {"signature_hash": None}, "invalid_signature_hash"),
        ("ssl_basic", {"profile_option": "kdc_smart_card"}, "invalid_profile_option"),
        ("ssl_basic", {"order_validity": {"years": 2}}, "invalid_order_validity"),
        ("ssl_basic", {"cert_validity": {"days": 200}}, "invalid_cert_validity"),
        ("private_ssl_flex", {"ca_cert_id": FAMILIES["tls"].ca_id("ec")}, "invalid_ca_cert_id"),
        ("ssl_ev_plus", {}, "invalid_product"),
    ],
)
async def test_server_orders_that_are_refused(api: Api, product: str, changes: JSON, code: str) -> None:
    assert await api.refused("POST", f"/order/certificate/{product}", server(**changes)) == (400, code)


async def test_required_custom_fields(api: Api, central: CertCentral) -> None:
    central.account.metadata[STAMP_FIELD].is_required = True
    path = "/order/certificate/secure_email_mailbox"
    assert await api.refused("POST", path, mailbox()) == (400, "invalid_custom_fields")
    body = mailbox(custom_fields=[{"metadata_id": STAMP_FIELD, "value": "tx-1"}])
    answer = await api.ok("POST", path, body)
    info = await api.ok("GET", f"/order/certificate/{answer['id']}")
    assert info["custom_fields"] == [{"metadata_id": STAMP_FIELD, "value": "tx-1", "label": "Client reference"}]
    assert [one.id for one in central.orders(stamp="tx-1")] == [answer["id"]]
    central.set(order=answer["id"], hide_custom_fields=True, hide_csr=True)
    info = await api.ok("GET", f"/order/certificate/{answer['id']}")
    assert "custom_fields" not in info
    assert "csr" not in info["certificate"]


async def test_no_card_on_file(api: Api, central: CertCentral) -> None:
    central.set(card_on_file=False)
    path = "/order/certificate/secure_email_mailbox"
    assert await api.refused("POST", path, mailbox(payment_method="profile")) == (400, "bad_request_format")
    await api.ok("POST", path, mailbox())


async def test_caa(api: Api, central: CertCentral) -> None:
    central.forbid_by_caa("example.com")
    for path, body in (("ssl_basic", server()), ("secure_email_mailbox", mailbox())):
        refused = await api.refused("POST", f"/order/certificate/{path}", body)
        assert refused == (400, "caa_check_failed|example.com")
    await api.ok("POST", "/order/certificate/private_ssl_flex", server())
    number = (await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox(emails=["a@far.example"])))["id"]
    info = await api.ok("GET", f"/order/certificate/{number}?include_caa_status=true")
    assert list(info["caa_status_message"]) == ["far.example"]


@pytest.mark.parametrize(
    "spelling",
    [
        lambda pem: pem,
        lambda pem: pem.replace("\n", ""),
        lambda pem: pem.replace("\n", "\r\n"),
        lambda pem: "".join(pem.split("-----")[2].split()),
        lambda pem: pem.split("-----")[2],
    ],
)
async def test_spellings_of_a_csr(api: Api, spelling: Callable[[str], str]) -> None:
    answer = await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox(csr=spelling(csr())))
    assert api.central.ledger.orders(spki=spki_hash())[0].order_id == answer["id"]


@pytest.mark.parametrize("armour", [True, False])
async def test_a_bare_public_key_is_a_switch(api: Api, central: CertCentral, armour: bool) -> None:
    text = base64.b64encode(spki()).decode()
    if armour:
        text = f"-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n"
    path, body = "/order/certificate/secure_email_mailbox", mailbox(csr=text)
    number = (await api.ok("POST", path, body))["id"]
    assert central.ledger.orders()[0].spki == spki_hash()
    assert names(leaf(central, number)) == ["a@example.com"]
    central.set(bare_public_key="reject")
    assert await api.refused("POST", path, body) == (400, "invalid_csr")


async def test_a_csr_that_is_not_signed_by_its_key(api: Api, central: CertCentral) -> None:
    der = base64.b64decode("".join(csr().split("-----")[2].split())).replace(b"from the CSR", b"from the csr")
    body = mailbox(csr=base64.b64encode(der).decode())
    path = "/order/certificate/secure_email_mailbox"
    assert await api.refused("POST", path, body) == (400, "invalid_csr")
    central.set(check_csr_signature=False)
    await api.ok("POST", path, body)


async def test_too_long_orders_may_be_truncated(api: Api, central: CertCentral) -> None:
    central.set(over_validity="truncate")
    mail = (await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox(order_validity={"years": 3})))["id"]
    tls = (await api.ok("POST", "/order/certificate/ssl_basic", server(cert_validity={"days": 365})))["id"]
    assert days_of(leaf(central, mail)) == 824
    assert days_of(leaf(central, tls)) == 199


def days_of(certificate: x509.Certificate) -> int:
    length = certificate.not_valid_after_utc - certificate.not_valid_before_utc + timedelta(seconds=1)
    assert length.seconds == 0
    return length.days


@pytest.mark.parametrize(
    ("validity", "days"),
    [
        ({"order_validity": {"years": 2}}, 731),
        ({"order_validity": {"days": 824}}, 824),
        ({"order_validity": {"custom_expiration_date": "2026-11-30"}}, 29),
        ({"order_validity": None, "validity_years": 1}, 365),
        ({"order_validity": None, "custom_expiration_date": "2027-01-01"}, 61),
        ({"cert_validity": {"days": 30}}, 30),
    ],
)
async def test_spellings_of_validity(api: Api, validity: JSON, days: int) -> None:
    number = (await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox(**validity)))["id"]
    assert days_of(leaf(api.central, number)) == days


@pytest.mark.parametrize(
    ("on", "days"),
    [("2026-02-23", 365), ("2026-02-24", 199), ("2027-03-14", 199), ("2027-03-15", 99), ("2029-03-15", 46)],
)
async def test_public_tls_gets_shorter_by_date(api: Api, central: CertCentral, on: str, days: int) -> None:
    central.clock.set(datetime.fromisoformat(f"{on}T10:00:00+00:00"))
    central.validate_domain("example.com")
    number = (await api.ok("POST", "/order/certificate/ssl_basic", server()))["id"]
    assert days_of(leaf(central, number)) == days
    assert (await api.ok("GET", f"/order/certificate/{number}"))["order_valid_till"] > on


async def test_client_authentication_ends(api: Api, central: CertCentral) -> None:
    body = server(profile_option="server_client_auth_eku")
    central.clock.set(datetime(2027, 2, 28, 23, tzinfo=UTC))
    central.validate_domain("example.com")
    number = (await api.ok("POST", "/order/certificate/ssl_basic", body))["id"]
    both = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert purposes(leaf(central, number)) == both
    central.clock.set(datetime(2027, 3, 1, tzinfo=UTC))
    refused = await api.refused("POST", "/order/certificate/ssl_basic", body)
    assert refused == (400, "invalid_profile_option")
    number = (await api.ok("POST", "/order/certificate/private_ssl_flex", body))["id"]
    assert purposes(leaf(central, number)) == both


# Validations


async def test_an_organization_without_the_validation(api: Api, central: CertCentral) -> None:
    for organization in (EXAMPLE_INC, STALE_LTD):
        body = sponsor(organization={"id": str(organization)})
        answer = await api.ok("POST", "/order/certificate/secure_email_sponsor", body)
        assert central.order(answer["id"]).status == "pending"
        assert "certificate_id" in answer
        central.validate_organization(organization, "smime")
        assert central.order(answer["id"]).status == "issued"
    central.set(unvalidated_organization="reject")
    central.invalidate_organization(EXAMPLE_INC, "smime")
    body = sponsor(organization={"id": EXAMPLE_INC})
    assert (await api.refused("POST", "/order/certificate/secure_email_sponsor", body))[0] == 400


async def test_email_validation(api: Api, central: CertCentral) -> None:
    body = mailbox(emails=["a@far.example", "b@example.com"])
    answer = await api.ok("POST", "/order/certificate/secure_email_mailbox", body)
    number = answer["id"]
    path = f"/order/certificate/{number}/email-validation"
    row = {"email": "a@far.example", "date_emailed": "2026-11-02"}
    assert (await api.ok("GET", path))["emails"] == [row | {"status": "unvalidated"}]
    assert central.order(number).status == "pending"
    token = central.mails(number)["a@far.example"]
    assert (await api.refused("PUT", "/email-validation/nonsense"))[0] == 404
    assert await api("PUT", f"/email-validation/{token}?email=a@far.example") == (204, None)
    assert (await api.ok("GET", path))["emails"] == [row | {"status": "validated"}]
    assert central.order(number).status == "issued"
    central.advance(timedelta(days=29))
    again = (await api.ok("POST", "/order/certificate/secure_email_mailbox", body))["id"]
    assert central.order(again).status == "issued", "a mailbox is good for thirty days"
    central.advance(timedelta(days=2))
    late = (await api.ok("POST", "/order/certificate/secure_email_mailbox", body))["id"]
    assert central.order(late).status == "pending"
    central.advance(timedelta(hours=25))
    assert (await api.refused("PUT", f"/email-validation/{central.mails(late)['a@far.example']}"))[0] == 400


async def test_domain_control_runs_out(api: Api, central: CertCentral) -> None:
    central.clock.set(datetime(2026, 11, 2, 12, tzinfo=UTC) + timedelta(days=250))
    mail = (await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox()))["id"]
    tls = await api.ok("POST", "/order/certificate/ssl_basic", server())
    assert central.order(mail).status == "issued", "398 days for e-mail"
    assert central.order(tls["id"]).status == "pending", "200 days for TLS"
    assert "dcv_random_value" in tls
    path = f"/order/certificate/{tls['id']}/check-dcv"
    assert await api.ok("PUT", path) == {"dcv_status": "pending", "order_status": "pending"}
    central.publish("example.com")
    assert await api.ok("PUT", path) == {"dcv_status": "valid", "order_status": "issued"}


async def test_domains(api: Api, central: CertCentral) -> None:
    body = {
        "name": "new.example",
        "organization": {"id": EXAMPLE_GMBH},
        "validations": [{"type": "ov"}],
        "dcv_method": "dns-txt-token",
    }
    status, answer = await api("POST", "/domain", body)
    assert status == 201
    assert answer["dcv_token"]["expiration_date"].startswith("2026-12-02")
    assert await api.refused("POST", "/domain", body) == (400, "invalid_name")
    path = f"/domain/{answer['id']}"
    assert (await api.ok("GET", path))["validations"][0]["dcv_status"] == "pending"
    assert (await api.refused("PUT", f"{path}/dcv/validate-token"))[0] == 400
    central.publish("new.example")
    central.advance(timedelta(days=31))
    assert (await api.refused("PUT", f"{path}/dcv/validate-token"))[0] == 400, "the token has expired"
    assert (await api("POST", f"{path}/validation", {"dcv_method": "dns-txt-token"}))[0] == 201
    assert await api("PUT", f"{path}/dcv/validate-token") == (204, None)
    info = await api.ok("GET", path)
    assert info["status"] == "active"
    assert info["dcv_expiration"] == {"ov": "2027-06-21"}
    rows = (await api.ok("GET", "/domain?filters[name]=new.example"))["domains"]
    assert [row["id"] for row in rows] == [answer["id"]]
    waiting = (await api.ok("POST", "/order/certificate/ssl_basic", server(common_name="w.unproven.example")))["id"]
    assert central.order(waiting).status == "pending"
    central.validate_domain("unproven.example")
    assert central.order(waiting).status == "issued"


# Downloads


async def test_downloads(api: Api, central: CertCentral) -> None:
    answer = await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox())
    number, made = answer["certificate_id"], leaf(central, answer["id"])
    for form, count in (("pem_all", 3), ("pem_noroot", 2), ("pem_nointermediate", 1), ("pem", 3), ("crt", 1)):
        async with api.call("GET", f"/certificate/{number}/download/format/{form}") as got:
            assert got.headers["Content-Type"] == "application/x-pem-file"
            content = await got.read()
        assert b"\r\n" in content
        found = split(content)
        assert len(found) == count
        assert found[0] == made
    for form in ("p7b", "cer"):
        async with api.call("GET", f"/certificate/download/order/{answer['id']}/format/{form}") as got:
            assert got.headers["Content-Type"] == "application/x-pkcs7-certificates"
            assert made in pkcs7.load_pem_pkcs7_certificates(await got.read())
    for form in ("default", "apache", "default_cer", "default_pem"):
        async with api.call("GET", f"/certificate/{number}/download/format/{form}") as got:
            assert got.headers["Content-Type"] == "application/zip"
            assert len(zipfile.ZipFile(io.BytesIO(await got.read())).namelist()) == 3
    status, content = await api("GET", f"/certificate/{number}/download/platform/29")
    assert (status, len(split(content))) == (200, 3)
    assert (await api.refused("GET", f"/certificate/{number}/download/format/exe"))[0] == 400
    rows = (await api.ok("GET", f"/certificate/{number}/chain"))["intermediates"]
    assert rows == answer["certificate_chain"]


async def test_a_download_before_issuance(api: Api, central: CertCentral) -> None:
    central.set(by_hand=True)
    number = (await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox()))["certificate_id"]
    assert (await api.refused("GET", f"/certificate/{number}/download/format/pem_all"))[0] == 404
    assert (await api.refused("GET", f"/certificate/{number}/chain"))[0] == 404
    central.set(not_issued_status=400)
    assert (await api.refused("GET", f"/certificate/{number}/download/format/pem_all"))[0] == 400


# Reissue, duplicate, renewal, revocation


async def test_reissue(api: Api, central: CertCentral) -> None:
    first = await api.ok("POST", "/order/certificate/ssl_basic", server())
    body = {
        "certificate": {
            "common_name": "mail.example.com",
            "dns_names": [],
            "csr": csr("P-384"),
            "signature_hash": "sha384",
            "server_platform": {"id": 45},
        },
        "skip_approval": True,
    }
    central.advance(timedelta(days=40))
    status, answer = await api("POST", f"/order/certificate/{first['id']}/reissue", body)
    assert status == 201
    assert answer["id"] == first["id"]
    assert answer["certificate_id"] != first["certificate_id"]
    made = leaf(central, first["id"])
    assert names(made) == ["mail.example.com"]
    assert days_of(made) == 199
    info = await api.ok("GET", f"/order/certificate/{first['id']}")
    assert (info["status"], info["certificate"]["id"]) == ("issued", answer["certificate_id"])
    rows = (await api.ok("GET", f"/order/certificate/{first['id']}/reissue"))["certificates"]
    assert [(row["id"], row["status"]) for row in rows] == [(answer["certificate_id"], "approved")]
    old = central.desk.register.certificates[first["certificate_id"]]
    assert (await api.refused("GET", f"/order/certificate/{old.serial}"))[0] == 404
    central.set(old_serials_find_order=True)
    assert (await api.ok("GET", f"/order/certificate/{old.serial}"))["id"] == first["id"]
    assert [entry.kind for entry in central.ledger.entries()] == ["order", "reissue"]
    assert not central.ledger.paid_twice()
    central.advance(timedelta(days=290))
    central.validate_domain("example.com")
    await api.ok("POST", f"/order/certificate/{first['id']}/reissue", body)
    assert leaf(central, first["id"]).not_valid_after_utc.date().isoformat() == "2027-11-01", "the order ends then"


async def test_a_reissue_that_waits(api: Api, central: CertCentral) -> None:
    first = await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox())
    number, path = first["id"], f"/order/certificate/{first['id']}/reissue"
    body = {"certificate": {"csr": csr("P-384"), "profile_type": "multipurpose"}}
    answer = await api.ok("POST", path, body)
    assert set(answer) == {"id", "requests"}, "nothing tells which certificate it will be"
    info = await api.ok("GET", f"/order/certificate/{number}")
    assert (info["status"], info["certificate"]["id"]) == ("reissue_pending", first["certificate_id"])
    assert (await api.refused("PUT", f"/certificate/{first['certificate_id']}/revoke", {}))[0] == 400
    second = await api.ok("POST", path, body)
    assert central.desk.register.requests[answer["requests"][0]["id"]].status == "canceled", "replaced"
    central.set(second_reissue="reject")
    assert (await api.refused("POST", path, body))[0] == 400
    assert (await api("PUT", f"/order/certificate/{number}/status", {"status": "canceled"}))[0] == 204
    assert central.order(number).status == "issued"
    third = await api.ok("POST", path, body)
    await api("PUT", f"/request/{third['requests'][0]['id']}/status", {"status": "rejected"})
    assert central.order(number).status == "issued"
    fourth = await api.ok("POST", path, body)
    central.set(order=number, stale_request=True)
    request = f"/request/{fourth['requests'][0]['id']}"
    await api("PUT", f"{request}/status", {"status": "approved"})
    assert policies(leaf(central, number)) == ["2.23.140.1.5.1.2"]
    assert (await api.ok("GET", request))["order"]["certificate"]["id"] == first["certificate_id"], "stale"
    central.set(order=number, stale_request=False)
    assert (await api.ok("GET", request))["order"]["certificate"]["id"] != first["certificate_id"]
    assert second["id"] == number


async def test_a_reissue_downloads_as_the_wrong_certificate(api: Api, central: CertCentral) -> None:
    first = await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox())
    body = {"certificate": {"csr": csr("P-384")}, "skip_approval": True}
    again = await api.ok("POST", f"/order/certificate/{first['id']}/reissue", body)
    path = f"/certificate/{again['certificate_id']}/download/format/pem_noroot"
    right = split((await api("GET", path))[1])[0]
    assert right == leaf(central, first["id"])
    central.set(wrong_pem=True)
    wrong = split((await api("GET", path))[1])[0]
    assert wrong.serial_number != right.serial_number
    assert wrong == central.desk.register.certificates[first["certificate_id"]].leaf


async def test_duplicates(api: Api, central: CertCentral) -> None:
    first = await api.ok("POST", "/order/certificate/ssl_basic", server())
    path = f"/order/certificate/{first['id']}/duplicate"
    same = {"common_name": "example.com", "dns_names": ["www.example.com"], "csr": csr("P-384")}
    answer = await api.ok("POST", path, {"certificate": same, "skip_approval": True})
    rows = (await api.ok("GET", path))["certificates"]
    assert [(row["id"], row["sub_id"], row["status"]) for row in rows] == [
        (answer["certificate_id"], "001", "approved")
    ]
    assert (await api.ok("GET", f"/order/certificate/{first['id']}"))["certificate"]["id"] == first["certificate_id"]
    assert (await api.refused("GET", f"/order/certificate/{rows[0]['serial_number']}"))[0] == 404
    other = {"certificate": same | {"dns_names": ["other.example.com"]}, "skip_approval": True}
    assert (await api.refused("POST", path, other))[0] == 400
    assert [entry.kind for entry in central.ledger.entries()] == ["order", "duplicate"]


async def test_duplicates_of_wildcards_and_of_email(api: Api, central: CertCentral) -> None:
    first = await api.ok("POST", "/order/certificate/ssl_wildcard", server(common_name="*.example.com"))
    more = {"dns_names": ["example.com", "a.example.com"], "csr": csr("P-384")}
    await api.ok("POST", f"/order/certificate/{first['id']}/duplicate", {"certificate": more, "skip_approval": True})
    mail = await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox())
    path, body = f"/order/certificate/{mail['id']}/duplicate", {"certificate": {"csr": csr()}, "skip_approval": True}
    assert await api.refused("POST", path, body) == (400, "invalid_product")
    central.set(smime_duplicates=True)
    assert "certificate_chain" in await api.ok("POST", path, body)


@pytest.mark.parametrize("told", [True, False])
async def test_whether_a_duplicate_is_a_status_change(api: Api, central: CertCentral, told: bool) -> None:
    central.set(duplicates_in_status_changes=told)
    first = await api.ok("POST", "/order/certificate/ssl_basic", server())
    central.advance(3600)
    body = {"certificate": {"csr": csr("P-384")}, "skip_approval": True}
    await api.ok("POST", f"/order/certificate/{first['id']}/duplicate", body)
    assert bool(await api.ok("GET", "/order/certificate/status-changes?minutes=5")) is told


async def test_renewal_is_a_new_order(api: Api, central: CertCentral) -> None:
    first = (await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox()))["id"]
    body = mailbox(renewal_of_order_id=first)
    second = (await api.ok("POST", "/order/certificate/secure_email_mailbox", body))["id"]
    assert (await api.ok("GET", f"/order/certificate/{second}"))["is_renewal"] is True
    old = await api.ok("GET", f"/order/certificate/{first}")
    assert (old["is_renewed"], old["renewed_order_id"]) == (True, second)
    assert [entry.is_renewal for entry in central.ledger.orders()] == [False, True]
    assert central.ledger.paid_twice() == {spki_hash(): [first, second]}


async def test_revocation_without_approval(api: Api, central: CertCentral) -> None:
    first = await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox())
    body = {"comments": "gone", "skip_approval": True, "revocation_reason": "superseded"}
    path = f"/certificate/{first['certificate_id']}/revoke"
    assert (await api.refused("PUT", path, body | {"revocation_reason": "boredom"}))[0] == 400
    assert await api("PUT", path, body) == (204, None)
    assert (await api.ok("GET", f"/order/certificate/{first['id']}"))["status"] == "revoked"
    assert (await api.refused("PUT", path, body))[0] == 400
    rows = (await api.ok("GET", "/order/certificate/status-changes?minutes=1"))["orders"]
    assert rows[0]["status"] == "revoked"


async def test_revocation_in_two_steps(api: Api, central: CertCentral) -> None:
    first = await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox())
    serial = central.order(first["id"]).certificate.serial
    status, asked = await api("PUT", f"/certificate/{serial.lower()}/revoke", {"comment": "gone"})
    assert (status, asked["type"], asked["status"], asked["comments"]) == (201, "revoke", "pending", "gone")
    assert central.order(first["id"]).status == "issued"
    await api("PUT", f"/request/{asked['id']}/status", {"status": "approved"})
    assert central.order(first["id"]).status == "revoked"
    central.set(revoke_request_status="submitted")
    second = await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox())
    orders = api.with_key("orders")  # its skip_approval is not heeded
    asked = await orders.ok("PUT", f"/certificate/{second['certificate_id']}/revoke", {"skip_approval": True})
    assert asked["status"] == "submitted"
    await api("PUT", f"/request/{asked['id']}/status", {"status": "rejected"})
    assert central.order(second["id"]).status == "issued"


async def test_revoking_an_order_revokes_everything(api: Api, central: CertCentral) -> None:
    first = await api.ok("POST", "/order/certificate/ssl_basic", server())
    body = {"certificate": {"csr": csr("P-384")}, "skip_approval": True}
    for path in ("duplicate", "reissue"):
        await api.ok("POST", f"/order/certificate/{first['id']}/{path}", body)
    one = f"/certificate/{first['certificate_id']}/revoke"
    assert (await api("PUT", one, {"skip_approval": True}))[0] == 204
    assert central.order(first["id"]).status == "issued"
    assert (await api("PUT", f"/order/certificate/{first['id']}/revoke", {"skip_approval": True}))[0] == 204
    assert {one.status for one in central.order(first["id"]).certificates} == {"revoked"}
    assert central.order(first["id"]).status == "revoked"


async def test_an_order_may_outlive_its_certificate(api: Api, central: CertCentral) -> None:
    central.set(order_follows_revocation=False)
    first = await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox())
    await api("PUT", f"/certificate/{first['certificate_id']}/revoke", {"skip_approval": True})
    assert central.order(first["id"]).status == "issued"


# The account


async def test_users(api: Api, central: CertCentral) -> None:
    me = await api.ok("GET", "/user/me")
    assert me["access_roles"] == [{"id": 1, "name": "Administrator"}]
    assert me["container"]["id"] == 406222
    body = {
        "is_api_only": True,
        "email": "s@example.com",
        "api_name": "gateway",
        "restricted_to_role_id": 100,
        "container_id_assignments": [DIVISION],
    }
    status, answer = await api("POST", "/user", body)
    assert status == 201
    assert central.key("gateway") == answer["api_key"]
    answer = await api.with_key("gateway").ok("POST", "/order/certificate/secure_email_mailbox", mailbox())
    assert central.order(answer["id"]).container_id == DIVISION
    assert (await api.ok("GET", "/user"))["page"]["total"] == 5
    assert (await api.refused("POST", "/user", {}))[0] == 400


async def test_account_products_and_divisions(api: Api) -> None:
    assert (await api.ok("GET", "/account"))["primary_organization_id"] == EXAMPLE_GMBH
    products = {row["name_id"]: row for row in (await api.ok("GET", "/product"))["products"]}
    assert "ssl_ev_plus" not in products
    assert products["ssl_basic"]["duplicates_allowed"] is True
    one = await api.ok("GET", f"/product/secure_email_sponsor?container_id={DIVISION}")
    assert one["allowed_order_validity_years"] == [1]
    assert {row["id"] for row in one["allowed_ca_certs"]} == set(FAMILIES["smime"].ca_ids)
    assert (await api.refused("GET", f"/product/ssl_ev_basic?container_id={DIVISION}"))[0] == 404
    assert await api.ok("GET", "/container/406222/product-limits") == {"is_limited": False, "product_limits": []}
    limits = await api.ok("GET", f"/container/{DIVISION}/product-limits")
    assert limits["is_limited"] is True
    assert {row["product_name_id"] for row in limits["product_limits"]} == set(products) - {
        "ssl_ev_basic",
        "private_ssl_wildcard",
    }
    assert [row["id"] for row in (await api.ok("GET", "/account/metadata"))["metadata"]] == [1001, 1002]
    assert (await api.ok("GET", "/container"))["containers"][1]["parent_id"] == 406222


async def test_organizations(api: Api, central: CertCentral) -> None:
    rows = (await api.ok("GET", "/organization?include_validation=true&limit=2"))["organizations"]
    assert len(rows) == 2
    states = {row["type"]: row["status"] for row in rows[0]["validations"]}
    assert states == {"ov": "active", "ev": "active", "smime": "active"}
    assert "validations" not in (await api.ok("GET", "/organization"))["organizations"][0]
    stale = await api.ok("GET", f"/organization/{STALE_LTD}")
    assert {row["status"] for row in stale["validations"]} == {"expired"}
    path = f"/organization/{EXAMPLE_INC}/validation"
    assert (await api("POST", path, {"validations": [{"type": "smime"}]}))[0] == 201
    assert [row["status"] for row in (await api.ok("GET", path))["validations"]] == ["active", "pending"]
    person = {"first_name": "New", "last_name": "Person", "email": "n@example.com"}
    path = f"/organization/{EXAMPLE_INC}/contact"
    assert (await api("PUT", path, {"contact_type": "technical_contact", **person}))[0] == 204
    found = {row["contact_type"]: row for row in (await api.ok("GET", f"/organization/{EXAMPLE_INC}"))["contacts"]}
    assert found["technical_contact"]["first_name"] == "New"
    assert found["technical_contact"]["telephone"] == "", "what is not given is erased"
    assert found["organization_contact"]["first_name"] == "Max"
    twice = {"contacts": [{"contact_type": "technical_contact", **person}] * 2}
    assert await api.refused("PUT", path, twice) == (400, "contact_type_duplicate")


async def test_contacts_of_an_order(api: Api) -> None:
    person = {"first_name": "Own", "last_name": "Contact", "email": "own@example.com"}
    organization = {"id": EXAMPLE_GMBH, "contacts": [{"contact_type": "organization_contact", **person}]}
    number = (await api.ok("POST", "/order/certificate/ssl_basic", server(organization=organization)))["id"]
    info = await api.ok("GET", f"/order/certificate/{number}")
    assert info["organization_contact"]["email"] == "own@example.com"
    assert info["technical_contact"]["email"] == "tech@example.com"


# Quirks


async def test_an_unknown_status_word(api: Api, central: CertCentral) -> None:
    central.set(times=1, status_word="pondering")
    number = (await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox()))["id"]
    assert (await api.ok("GET", f"/order/certificate/{number}"))["status"] == "pondering"
    assert (await api.ok("GET", "/order/certificate"))["orders"][0]["status"] == "pondering"
    rows = (await api.ok("GET", "/order/certificate/status-changes?minutes=1"))["orders"]
    assert rows[0]["status"] == "pondering"
    central.set(order=number, status_word=None)
    assert (await api.ok("GET", f"/order/certificate/{number}"))["status"] == "issued"


async def test_issued_without_chain_or_id(api: Api, central: CertCentral) -> None:
    central.set(hide_chain=True)
    answer = await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox())
    assert set(answer) == {"id", "requests", "certificate_id"}
    assert central.order(answer["id"]).status == "issued"
    path = f"/certificate/{answer['certificate_id']}/chain"
    assert await api.ok("GET", path) == {"intermediates": []}
    central.set(hide_chain=False, hide_certificate_id=True)
    info = await api.ok("GET", f"/order/certificate/{answer['id']}")
    assert info["status"] == "issued"
    assert "id" not in info["certificate"]
    assert "certificate_id" not in await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox())


async def test_strings_for_ids_and_unknown_fields(api: Api, central: CertCentral) -> None:
    central.set(key="admin", ids_as_strings=True, extra_fields=True)
    answer = await api.ok("POST", "/order/certificate/ssl_basic", server())
    assert isinstance(answer["requests"][0]["id"], str)
    assert isinstance(answer["id"], int)
    info = await api.ok("GET", f"/order/certificate/{answer['id']}")
    assert info["organization"]["id"] == str(EXAMPLE_GMBH)
    assert "x_added_later" in info["certificate"]
    assert "x_added_later" not in await api.with_key("manager").ok("GET", f"/order/certificate/{answer['id']}")
    assert (await api.ok("GET", "/organization"))["organizations"][0]["id"] == str(EXAMPLE_GMBH)


async def test_the_chain_may_come_the_other_way_round(api: Api, central: CertCentral) -> None:
    central.set(chain_order="root-first")
    answer = await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox())
    assert answer["certificate_chain"][2]["subject_common_name"] == "a@example.com"
    path = f"/certificate/{answer['certificate_id']}/download/format/pem_all"
    assert split((await api("GET", path))[1])[2] == leaf(central, answer["id"])


@pytest.mark.parametrize("what", ["key", "san", "subject", "policy", "usage"])
async def test_the_ca_issues_something_else(api: Api, central: CertCentral, what: str) -> None:
    right = leaf(central, (await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox()))["id"])
    central.set(times=1, misissue=what)
    wrong = leaf(central, (await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox()))["id"])

    def parts(certificate: x509.Certificate) -> JSON:
        return {
            "key": certificate.public_key(),
            "san": names(certificate),
            "subject": subject(certificate),
            "policy": policies(certificate),
            "usage": certificate.extensions.get_extension_for_class(x509.KeyUsage).value,
        }

    assert [name for name in parts(right) if parts(right)[name] != parts(wrong)[name]] == [what]


def test_a_misspelt_switch_is_told() -> None:
    with pytest.raises(ValueError, match="no such setting: dealy"):
        CertCentral().set(dealy=1)
    with pytest.raises(ValueError, match="no such fault: commit_then_sing"):
        CertCentral().faults.add("commit_then_sing")
    with pytest.raises(ValueError, match="no such fault"):
        CertCentral().faults.randomly(1, 0.5, ["sing"])
    with pytest.raises(ValueError, match="need `times`"):
        CertCentral().set(key="admin", product="ssl_basic", delay=1)


async def test_switches_by_key_product_and_order(api: Api, central: CertCentral) -> None:
    path = "/order/certificate/secure_email_mailbox"
    central.set(product="secure_email_mailbox", by_hand=True)
    central.set(key="manager", approval="none")
    assert (await api.ok("POST", path, mailbox()))["requests"]
    held = await api.with_key("manager").ok("POST", path, mailbox())
    assert held["requests"] == []
    assert central.order(held["id"]).status == "processing"
    await api.ok("POST", "/order/certificate/secure_email_sponsor", sponsor())
    central.set(order=held["id"], by_hand=False)
    central.issue(held["id"])
    assert central.order(held["id"]).status == "issued"
    central.set(key="admin", product="secure_email_sponsor", times=1, status_word="later")
    first = (await api.ok("POST", path, mailbox()))["id"]
    assert (await api.ok("GET", f"/order/certificate/{first}"))["status"] == "processing"
    central.switches.reset()
    assert "certificate_chain" in await api.ok("POST", path, mailbox())


async def test_settings_of_the_next_order_hold_for_its_checks(api: Api, central: CertCentral) -> None:
    path, long = "/order/certificate/secure_email_mailbox", mailbox(order_validity={"days": 1000})
    central.set(times=1, over_validity="truncate", status_word="once")
    assert (await api.refused("POST", path, mailbox(emails=[])))[0] == 400, "a refused order uses nothing up"
    number = (await api.ok("POST", path, long))["id"]
    assert central.order(number).own == {"over_validity": "truncate", "status_word": "once"}
    assert (await api.refused("POST", path, long))[0] == 400


async def test_orders_issued_late(api: Api, central: CertCentral) -> None:
    """The year begins with issuance; a given last day does not move, and there is nothing to issue after it."""
    central.set(by_hand=True)
    path = "/order/certificate/secure_email_mailbox"
    year = (await api.ok("POST", path, mailbox()))["id"]
    ends = mailbox(order_validity={"custom_expiration_date": "2026-12-31"})
    early, late = [(await api.ok("POST", path, ends))["id"] for _ in range(2)]
    central.advance(timedelta(days=10))
    for number in (year, early):
        central.issue(number)
    assert days_of(leaf(central, year)) == 365
    assert leaf(central, early).not_valid_after_utc.date().isoformat() == "2026-12-31"
    central.advance(timedelta(days=60))
    central.issue(late)
    assert (await api.ok("GET", f"/order/certificate/{late}"))["status"] == "rejected"


@pytest.mark.parametrize("end", ["revoked", "expired"])
async def test_an_order_that_ends_takes_its_reissue_with_it(api: Api, central: CertCentral, end: str) -> None:
    number = (await api.ok("POST", "/order/certificate/secure_email_mailbox", mailbox()))["id"]
    asked = await api.ok("POST", f"/order/certificate/{number}/reissue", {"certificate": {"csr": csr("P-384")}})
    if end == "revoked":
        central.revoke(number)
    else:
        central.advance(timedelta(days=366))
    assert (await api.ok("GET", f"/order/certificate/{number}"))["status"] == end
    path = f"/request/{asked['requests'][0]['id']}"
    assert (await api.refused("PUT", f"{path}/status", {"status": "approved"}))[0] == 400
    assert (await api.ok("GET", path))["status"] == "canceled"


# Faults

ORDER = "/order/certificate/secure_email_mailbox"


@pytest.mark.parametrize("kind", ["drop", "commit_then_drop", "commit_then_half"])
async def test_dropped_connections(api: Api, central: CertCentral, kind: str) -> None:
    central.faults.add(kind, endpoint="order")
    with pytest.raises(aiohttp.ClientError):
        await api("POST", ORDER, mailbox())
    committed = kind.startswith("commit")
    assert len(central.orders(spki_hash())) == committed
    if committed:
        assert central.orders(spki_hash())[0].status == "issued"
    assert central.journal.calls(endpoint="order")[0].fault == kind
    assert central.faults.pending() == []
    await api.ok("POST", ORDER, mailbox())


async def test_a_drop_is_a_reset(central: CertCentral) -> None:
    """The client sees ECONNRESET, not the end of the stream."""
    central.faults.add("commit_then_drop")
    host, port = central.origin.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps(mailbox()).encode()
    writer.write(
        b"POST /services/v2/order/certificate/secure_email_mailbox HTTP/1.1\r\nHost: x\r\n"
        b"X-DC-DEVKEY: sim-admin-key\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    assert len(central.ledger.orders(spki=spki_hash())) == 1
    assert central.journal.calls(endpoint="order")[0].status == 0


@pytest.mark.parametrize(
    ("kind", "status", "html"),
    [
        ("error_500", 500, False),
        ("html", 200, True),
        ("html", 403, True),
        ("rate_limited", 429, False),
        ("commit_then_500", 500, False),
        ("commit_then_html", 200, True),
        ("commit_then_html", 403, True),
    ],
)
async def test_wrong_answers(api: Api, central: CertCentral, kind: str, status: int, html: bool) -> None:
    central.faults.add(kind, endpoint="order", status=status)
    seen, answer = await api("POST", ORDER, mailbox())
    assert seen == status
    assert isinstance(answer, bytes) is html
    if html:
        assert answer.startswith(b"<html>")
    assert len(central.ledger.orders(spki=spki_hash())) == kind.startswith("commit")


async def test_a_slow_answer_to_a_prompt_order(api: Api, central: CertCentral) -> None:
    central.faults.add("slow_answer", endpoint="order", seconds=None)
    asked = asyncio.create_task(api.ok("POST", ORDER, mailbox()))
    await central.faults.waiting.wait()
    assert len(central.ledger.orders()) == 1
    assert not asked.done()
    central.faults.release()
    assert "certificate_chain" in await asked


async def test_an_order_that_comes_into_being_after_the_client_has_gone(api: Api, central: CertCentral) -> None:
    central.faults.add("slow_commit", endpoint="order", seconds=None)
    asked = asyncio.create_task(api.ok("POST", ORDER, mailbox()))
    await central.faults.waiting.wait()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert len(central.ledger.orders()) == 0
    central.journal.noted.clear()
    central.faults.release()
    await central.journal.noted.wait()
    assert len(central.ledger.orders()) == 1


async def test_slow_loris(api: Api, central: CertCentral) -> None:
    central.faults.add("slow_loris", endpoint="order", seconds=None)
    async with api.call("POST", ORDER, mailbox()) as answer:
        start = await answer.content.readany()
        assert 0 < len(start) < int(answer.headers["Content-Length"])
        rest = asyncio.create_task(answer.content.read())
        pauses = 0
        while not rest.done():
            held = asyncio.create_task(central.faults.waiting.wait())
            await asyncio.wait({rest, held}, return_when=asyncio.FIRST_COMPLETED)
            pauses += held.done()
            held.cancel()
            central.faults.release()
        assert pauses >= 8
        assert json.loads(start + await rest)["id"] == central.ledger.orders()[0].order_id


async def test_whom_faults_hit(api: Api, central: CertCentral) -> None:
    number = (await api.ok("POST", ORDER, mailbox()))["id"]
    other = (await api.ok("POST", ORDER, mailbox()))["id"]
    central.faults.add("error_500", order=number, times=2, skip=1)
    central.faults.add("error_500", key="manager", method="GET", times=None)
    seen = [(await api("GET", f"/order/certificate/{one}"))[0] for one in (number, other, number, number, number)]
    assert seen == [200, 200, 500, 500, 200]
    manager = api.with_key("manager")
    assert [(await manager("GET", "/user/me"))[0] for _ in range(3)] == [500] * 3
    assert (await manager("POST", ORDER, mailbox()))[0] == 201
    central.faults.clear()
    assert (await manager("GET", "/user/me"))[0] == 200


async def outcomes(api: Api, count: int) -> list[object]:
    seen: list[object] = []
    for number in range(count):
        try:
            seen.append((await api("POST", ORDER, mailbox(csr=csr("P-256", number % 5))))[0])
        except aiohttp.ClientError:
            seen.append("lost")
    return seen


async def test_random_faults_are_the_same_for_the_same_seed(api: Api, central: CertCentral) -> None:
    central.set(rate_windows=())
    central.faults.randomly(seed=11, probability=0.5)
    first = await outcomes(api, 60)
    before = len(central.ledger)
    central.faults.randomly(seed=11, probability=0.5)
    assert await outcomes(api, 60) == first
    assert len(central.ledger) == 2 * before
    hit = {call.fault for call in central.journal.calls()} - {""}
    assert hit == set(BY_CHANCE)
    done = [call for call in central.journal.calls() if call.fault not in {"drop", "error_500", "html"}]
    assert len(done) == len(central.ledger), "every call that had its effect is on the bill, and no other"
    central.faults.randomly(seed=11, probability=0)
    assert await outcomes(api, 10) == [201] * 10
    assert set(KINDS) > set(BY_CHANCE)


# Ledger, journal, clock, control


async def test_ledger_and_journal(api: Api, central: CertCentral) -> None:
    await api.ok("POST", ORDER, mailbox(comments="tx-7"))
    await api.with_key("orders").ok("POST", ORDER, mailbox(csr=csr("P-384")))
    first, second = central.ledger.entries()
    assert (first.key, first.product, first.time) == ("admin", "secure_email_mailbox", NOW.timestamp())
    assert first.body["certificate"]["emails"] == ["a@example.com"]
    assert central.ledger.orders(stamp="tx-7") == [first]
    assert central.ledger.entries(key="orders") == [second]
    assert second.spki == spki_hash("P-384")
    calls = central.journal.calls()
    assert [(call.method, call.endpoint, call.status, call.key) for call in calls] == [
        ("POST", "order", 201, "admin"),
        ("POST", "order", 201, "orders"),
    ]
    assert central.journal.calls(since=calls[0].number) == calls[1:]
    assert central.journal.busiest(1) == central.journal.busiest(60, real=True) == 2


async def test_a_running_clock() -> None:
    central = CertCentral()
    assert abs(central.clock.timestamp() - datetime.now(UTC).timestamp()) < 60
    central.clock.set(NOW)
    central.advance(timedelta(days=3))
    assert not central.clock.frozen
    assert NOW + timedelta(days=3) <= central.clock.now() < NOW + timedelta(days=3, minutes=1)
    central.clock.freeze()
    assert central.clock.now() == central.clock.now()
    central.clock.set(NOW)
    assert central.clock.now() == NOW
    central.clock.run()
    assert central.clock.now() >= NOW


async def test_control_over_http(api: Api, central: CertCentral) -> None:
    async def control(method: str, path: str, body: object = None, status: int = 200) -> Any:
        async with api.session.request(method, f"{central.origin}/_control{path}", json=body) as answer:
            assert answer.status == status, await answer.text()
            return await answer.read() if "roots" in path else await answer.json()

    await control("POST", "/settings", {"times": 1, "set": {"by_hand": True}})
    number = (await api.ok("POST", ORDER, mailbox(emails=["a@far.example"], skip_approval=False)))["id"]
    assert (await control("POST", f"/orders/{number}/approve"))["status"] == "pending"
    assert (await control("GET", f"/orders/{number}"))["missing"] == ["email:a@far.example"]
    assert (await control("POST", f"/orders/{number}/click"))["status"] == "processing"
    assert (await control("POST", f"/orders/{number}/issue"))["status"] == "issued"
    assert (await control("POST", f"/orders/{number}/revoke"))["status"] == "revoked"
    await control("POST", f"/orders/{number}/sing", status=400)
    await control("GET", "/orders/1", status=400)
    await control("POST", "/faults", {"kind": "error_500", "endpoint": "order", "times": 1})
    assert len((await control("GET", ""))["faults"]) == 1
    assert (await api("POST", ORDER, mailbox()))[0] == 500
    await control("POST", "/faults/random", {"seed": 1, "probability": 1, "kinds": ["error_500"]})
    assert (await api("POST", ORDER, mailbox()))[0] == 500
    await control("POST", "/faults/release")
    await control("DELETE", "/faults")
    await control("POST", "/settings", {"set": {"rate_windows": [[1, 5]]}})
    assert (await api("POST", ORDER, mailbox()))[0] == 429
    assert (await control("POST", "/clock", {"advance": 60}))["now"] == "2026-11-02T12:01:00+00:00"
    assert (await api("POST", ORDER, mailbox()))[0] == 201
    assert (await control("POST", "/clock", {"set": "2027-01-01T00:00:00+00:00"}))["frozen"] is True
    assert (await control("POST", "/clock", {"run": True}))["frozen"] is False
    assert (await control("POST", "/clock", {"freeze": "2027-01-02T00:00:00+00:00"}))["frozen"] is True
    assert [row["order_id"] for row in await control("GET", f"/ledger?kind=order&spki={spki_hash()}")] == list(
        central.desk.register.orders
    )
    assert len(await control("GET", "/journal?endpoint=order&since=1")) == 4
    assert (await control("GET", "/busiest?seconds=60"))["calls"] == 5
    for path in ("domains/far.example/validate", "domains/far.example/invalidate", "domains/x.example/publish"):
        await control("POST", f"/{path}")
    await control("POST", "/domains/example.com/caa")
    assert central.account.caa_failures == {"example.com"}
    await control("POST", f"/organizations/{EXAMPLE_INC}/smime", {"days": 5})
    assert "smime" in central.account.organizations[EXAMPLE_INC].validations
    await control("POST", f"/organizations/{EXAMPLE_INC}/smime", {"days": 0})
    assert "smime" not in central.account.organizations[EXAMPLE_INC].validations
    assert len(split(await control("GET", "/roots"))) == 2
    assert not central.journal.calls(endpoint="nowhere")


async def test_in_a_process_of_its_own(api: Api) -> None:
    """By hand it prints its base URL, and ends on SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.certcentral",
        "--port=0",
        "--set=delay=60",
        "--at=2026-11-02T12:00:00Z",
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().strip()
    api.base = url
    answer = await api.ok("POST", ORDER, mailbox())
    assert set(answer) == {"id", "requests", "certificate_id"}
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0


async def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    stop = asyncio.Event()
    stop.set()
    options = parser().parse_args(["--port", "0", "--set", "approval=auto", "--faults", "0.5", "--seed", "3"])
    await run(options, stop)
    assert capsys.readouterr().out.endswith("/services/v2\n")
    assert "sim-admin-key" in parser().format_help()


async def test_ten_thousand_open_orders_are_cheap(central: CertCentral) -> None:
    """A look at what changed reads the changes, not the orders."""
    central.set(by_hand=True)
    desk, key = central.desk, central.account.key("admin")
    for _ in range(10_000):
        desk.place(key, "secure_email_mailbox", mailbox())
    central.advance(600)
    last = next(reversed(desk.register.orders))
    central.issue(last)
    read: list[int] = []
    kept = desk.register.orders

    class Counting(dict[int, Any]):
        def __getitem__(self, number: int) -> Any:
            read.append(number)
            return kept[number]

    desk.register.orders = Counting()
    now = central.clock.timestamp()
    assert [order.id for order in desk.register.changed(now - 60, now)] == [last]
    assert len(read) < 5


# The certificates


@cache
def tls_linter(type_: CertificateType) -> Any:
    return pkix_certificate.create_pkix_certificate_validator_container(
        serverauth.create_decoding_validators(), serverauth.create_validators(type_)
    )


@cache
def mail_linter(level: Any, generation: Any) -> Any:
    return pkix_certificate.create_pkix_certificate_validator_container(
        smime.create_decoding_validators(), smime.create_subscriber_validators(level, generation)
    )


def serious(certificate: x509.Certificate, *, mail: bool) -> list[str]:
    """What pkilint finds that breaks a MUST."""
    der = certificate.public_bytes(serialization.Encoding.DER)
    document = loader.RFC5280CertificateDocumentLoader().load_der_document(der, "certificate")
    if mail:
        found = smime.determine_validation_level_and_generation(document)
        assert found is not None
        results = mail_linter(*found).validate(document.root)
    else:
        type_ = serverauth.determine_certificate_type(document)
        results = tls_linter(type_).validate(document.root)
        results, _ = finding_filter.filter_results(serverauth.create_serverauth_finding_filters(type_), results)
    return [
        f"{one.finding.code} {one.message or ''}"
        for result in results
        for one in result.finding_descriptions
        if one.finding.severity.name in {"ERROR", "FATAL"}
    ]


@pytest.mark.parametrize("profile", ["strict", "multipurpose"])
@pytest.mark.parametrize("primary", ["signing", "key_management", "dual_use"])
@pytest.mark.parametrize("key", ["rsa", "P-256", "P-384"])
async def test_email_certificates(central: CertCentral, profile: str, primary: str, key: str) -> None:
    """Clean under the S/MIME BR, and as ordered: all kinds, by the order alone."""
    encryption = "key_encipherment" if key == "rsa" else "key_agreement"
    bits = {
        "signing": {"digital_signature"},
        "key_management": {encryption},
        "dual_use": {"digital_signature", encryption},
    }[primary]
    common: JSON = {"csr": csr(key), "profile_type": profile, "usage_designation": {"primary_usage": primary}}
    person = {"first_name": "Ada", "last_name": "Byron"}
    made: tuple[tuple[str, str, JSON, dict[str, str]], ...] = (
        ("secure_email_mailbox", "1", {}, {"CN": "a@example.com"}),
        (
            "secure_email_sponsor",
            "3",
            {"common_name_indicator": "given_name_surname", "individual": person},
            {"CN": "Ada Byron", "2.5.4.42": "Ada", "2.5.4.4": "Byron"},
        ),
        ("secure_email_sponsor", "3", {"common_name_indicator": "email_address", "individual": person}, {}),
        (
            "secure_email_sponsor",
            "3",
            {"common_name_indicator": "pseudonym", "individual": {"pseudonym": "Countess"}},
            {"CN": "Countess", "2.5.4.65": "Countess"},
        ),
        ("secure_email_organization", "2", {"common_name_indicator": "organization_name"}, {"CN": "Example GmbH"}),
        ("secure_email_organization", "2", {"common_name_indicator": "email_address"}, {"CN": "a@example.com"}),
    )
    for algorithm in ("rsa", "ec"):
        for product, level, changes, expected in made:
            ca_id = FAMILIES["smime"].ca_id(algorithm)
            body = mailbox(**common, **changes, ca_cert_id=ca_id) if changes else mailbox(**common, ca_cert_id=ca_id)
            placed = central.desk.place(central.account.key("admin"), product, body)
            certificate = leaf(central, placed.order.id)
            assert serious(certificate, mail=True) == []
            assert usage(certificate) == bits
            assert purposes(certificate) == {ExtendedKeyUsageOID.EMAIL_PROTECTION}
            assert policies(certificate) == [f"2.23.140.1.5.{level}.{3 if profile == 'strict' else 2}"]
            assert names(certificate) == ["a@example.com"]
            assert expected.items() <= subject(certificate).items()
            if product != "secure_email_mailbox":
                assert subject(certificate)["2.5.4.97"] == "VATDE-123456789"


async def test_more_usages_and_mail_in_the_subject(central: CertCentral) -> None:
    more = {"primary_usage": "dual_use", "additional_usages": ["non_repudiation", "client_auth", "data_encipherment"]}
    body = sponsor(csr=csr("rsa"), profile_type="multipurpose", usage_designation=more, subject={"include_email": True})
    body["certificate"]["emails"] = ["a@example.com", "b@example.com"]
    certificate = leaf(central, central.desk.place(central.account.key("admin"), "secure_email_sponsor", body).order.id)
    assert serious(certificate, mail=True) == []
    assert usage(certificate) == {"digital_signature", "content_commitment", "key_encipherment", "data_encipherment"}
    assert purposes(certificate) == {ExtendedKeyUsageOID.EMAIL_PROTECTION, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert names(certificate) == ["a@example.com", "b@example.com"]
    assert subject(certificate)["1.2.840.113549.1.9.1"] == "a@example.com"


async def test_an_address_too_long_for_a_common_name(central: CertCentral) -> None:
    address = f"{'a' * 60}@example.com"
    placed = central.desk.place(central.account.key("admin"), "secure_email_mailbox", mailbox(emails=[address]))
    certificate = leaf(central, placed.order.id)
    assert len(certificate.subject) == 0
    assert certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical
    assert serious(certificate, mail=True) == []


@pytest.mark.parametrize("name_id", sorted(name for name, row in PRODUCTS.items() if row.group == "client_certificate"))
async def test_older_client_products(central: CertCentral, name_id: str) -> None:
    central.account.enabled.add(name_id)
    body = order({"common_name": "Ada Byron", "emails": ["a@example.com"], "csr": csr(), "signature_hash": "sha256"})
    certificate = leaf(central, central.desk.place(central.account.key("admin"), name_id, body).order.id)
    if name_id == "client_authentication_plus":
        assert purposes(certificate) == {ExtendedKeyUsageOID.CLIENT_AUTH}
    else:
        assert serious(certificate, mail=True) == []
        assert policies(certificate)[0].endswith(".2"), "always multipurpose"


@pytest.mark.parametrize("key", ["rsa", "P-256", "P-384"])
@pytest.mark.parametrize("name_id", ["ssl_basic", "ssl_ev_basic", "ssl_dv_geotrust", "ssl_securesite_flex"])
async def test_public_server_certificates(central: CertCentral, name_id: str, key: str) -> None:
    for algorithm in ("rsa", "ec"):
        ca_id = FAMILIES[PRODUCTS[name_id].family].ca_id(algorithm)
        body = server(csr=csr(key), ca_cert_id=ca_id)
        certificate = leaf(central, central.desk.place(central.account.key("admin"), name_id, body).order.id)
        assert serious(certificate, mail=False) == []
        assert names(certificate) == ["www.example.com", "example.com"]
        assert usage(certificate) == {"digital_signature"} | ({"key_encipherment"} if key == "rsa" else set())
        assert purposes(certificate) == {ExtendedKeyUsageOID.SERVER_AUTH}
        assert days_of(certificate) == 199
        scts = certificate.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps).value
        assert len(list(scts)) == 2


async def test_private_server_certificates(central: CertCentral) -> None:
    body = server(common_name="intranet", dns_names=["10.1.2.3", "*.corp.local"], order_validity={"years": 3})
    placed = central.desk.place(central.account.key("admin"), "private_ssl_flex", body)
    certificate = leaf(central, placed.order.id)
    assert names(certificate) == ["intranet", "10.1.2.3", "*.corp.local"]
    assert days_of(certificate) == 1096
    assert placed.chain()[2].subject.rfc4514_string().startswith("CN=Simulated Private Root")
    for one, issuer in zip(placed.chain(), placed.chain()[1:], strict=False):
        one.verify_directly_issued_by(issuer)
