"""kill -9 at each step of a transaction: the client goes on with the same octets and gets one certificate.

Requirement: "the same bytes again get the stored answer again, also after kill -9 and restart".
"""

import itertools
import signal
import threading
from contextlib import AbstractContextManager
from http.client import HTTPException, IncompleteRead
from pathlib import Path

import pytest
from cryptography import x509

from cmpd.asn1 import BodyType, PKIStatus
from cmpd.exchange import CertificateStatus, IssuedCertificate, Transaction
from cmpd.exchange import TransactionState as State
from tests.daemon import Daemon, Site
from tests.ee import EE, Answer, Draft
from tests.faults.crashing import DECIDED, UNDECIDED, Crashing

LOST = (OSError, HTTPException)
"""What a client meets whose server has gone."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site.make(tmp_path_factory.mktemp("crash") / "cmpd")


@pytest.fixture
def site(made: Site, tmp_path: Path) -> Site:
    return made.copy(tmp_path / "cmpd")


def crashing(site: Site, step: str, body: str) -> AbstractContextManager[Daemon]:
    """A daemon that dies at a step of a message."""
    return site.serve(Crashing(site.config, step, body))


def unanswered(daemon: Daemon, message: bytes, error: type[Exception] | tuple[type[Exception], ...] = LOST) -> None:
    """Send a message at which the daemon dies."""
    with pytest.raises(error):
        daemon.ask(message)
    assert daemon.wait() == -signal.SIGKILL


class Journey:
    """An end entity whose every message meets a crash at every step; it sends each again until it is answered."""

    def __init__(self, site: Site, ee: EE, first: Draft, held: int, codes: dict[str, int]) -> None:
        self.site = site
        self.ee = ee
        self.first = first
        self.held = held
        """How many certificates there are before."""
        self.codes = codes
        """How often each code is to be used in the end."""

    def found(self, draft: Draft) -> tuple[Transaction | None, list[IssuedCertificate]]:
        """The transaction and its certificates, as the database has them after a crash."""
        transaction_id = draft.transaction_id or b""
        transaction = self.site.store(lambda store: store.transaction(transaction_id))
        certificates = [one for one in self.site.certificates() if one.transaction_id == transaction_id]
        assert len(self.site.certificates()) == self.held + len(certificates)
        return transaction, certificates

    def used(self) -> dict[str, int]:
        return {reference: self.site.used(reference) for reference in self.codes}

    def request(self) -> Answer:
        """The first message, through all crashes; its answer, which the next crashing daemon has given."""
        message = self.ee.seal(self.first)
        body = self.first.body_type.name
        unused = self.used()
        for step in UNDECIDED:
            with crashing(self.site, step, body) as daemon:
                unanswered(daemon, message)
            assert self.found(self.first) == (None, []), step
            assert self.used() == unused
        serials = set()
        for step in DECIDED:
            with crashing(self.site, step, body) as daemon:
                unanswered(daemon, message, IncompleteRead if step == "half-sent" else LOST)
            transaction, (certificate,) = self.found(self.first)
            assert transaction is not None
            assert (transaction.state, certificate.status) == (State.unconfirmed, CertificateStatus.unconfirmed), step
            assert self.used() == self.codes
            serials.add(certificate.serial)
        assert len(serials) == 1
        with crashing(self.site, "received", "certConf") as daemon:
            data = daemon.ask(message)
            assert transaction is not None
            assert data == transaction.first_reply
            assert daemon.exchange()["outcome"] == "repeated"
            answer = self.ee.read(data, self.first)
            assert answer.protected
            assert {answer.certificate().serial_number} == serials
            self.confirmation = self.ee.cert_conf(answer)
            self.sealed = self.ee.seal(self.confirmation)
            unanswered(daemon, self.sealed)
        return answer

    def confirm(self) -> None:
        """The certConf, through the other crashes, to its pkiconf."""
        for step in UNDECIDED[1:]:
            with crashing(self.site, step, "certConf") as daemon:
                unanswered(daemon, self.sealed)
            transaction, (certificate,) = self.found(self.first)
            assert transaction is not None
            assert (transaction.state, certificate.status) == (State.unconfirmed, CertificateStatus.unconfirmed), step
        for step in DECIDED:
            with crashing(self.site, step, "certConf") as daemon:
                unanswered(daemon, self.sealed)
            transaction, (certificate,) = self.found(self.first)
            assert transaction is not None
            assert (transaction.state, certificate.status) == (State.confirmed, CertificateStatus.valid), step
        with self.site.serve() as daemon:
            answer = self.ee.read(daemon.ask(self.sealed), self.confirmation)
            assert (answer.type, answer.protected) == (BodyType.pkiconf, True)
            assert transaction is not None
            assert answer.raw == transaction.last_reply
            assert daemon.exchange(operation="certConf")["outcome"] == "repeated"
            daemon.stop()
        _, (certificate,) = self.found(self.first)
        assert certificate.status is CertificateStatus.valid
        assert self.used() == self.codes


def test_enrollment_with_a_code_survives_a_crash_at_every_step(site: Site) -> None:
    """ir and certConf by MAC (RFC 9483 §4.1.1): one certificate, valid, and the single-use code used once."""
    ee = site.code("ref-1")
    journey = Journey(site, ee, ee.ir(subject="CN=device-1"), 0, {"ref-1": 1})
    certificate = journey.request().certificate()
    journey.confirm()
    assert site.status(certificate) is CertificateStatus.valid


def enrolled(daemon: Daemon, ee: EE, subject: str = "CN=device-1") -> EE:
    """Enroll over HTTP; an end entity with the certificate."""
    draft = ee.ir(subject=subject)
    answer = ee.read(daemon.ask(ee.seal(draft)), draft)
    confirmation = ee.cert_conf(answer)
    assert ee.read(daemon.ask(ee.seal(confirmation)), confirmation).type is BodyType.pkiconf
    return EE.with_certificate(draft.key, answer.certificate_der())


def test_renewal_with_the_certificate_survives_a_crash_at_every_step(site: Site) -> None:
    """kur and certConf by signature (RFC 9483 §4.1.3); the certificate that was renewed stays valid."""
    with site.serve() as daemon:
        ee = enrolled(daemon, site.code("ref-1"))
        daemon.kill()
    assert ee.certificate is not None
    old = x509.load_der_x509_certificate(ee.certificate)
    journey = Journey(site, ee, ee.kur(subject="CN=device-1"), 1, {"ref-1": 1})
    new = journey.request().certificate()
    journey.confirm()
    assert new.subject == old.subject
    assert new.public_key() != old.public_key()
    assert {site.status(old), site.status(new)} == {CertificateStatus.valid}


def test_a_crash_does_not_let_a_code_be_used_twice(site: Site) -> None:
    """The certificate was made durable, its answer lost: another request by the same code gets nothing."""
    ee = site.code("ref-1")
    first, other = ee.ir(subject="CN=device-1"), ee.ir(subject="CN=device-1")
    message = ee.seal(first)
    with crashing(site, "after-commit", "ir") as daemon:
        unanswered(daemon, message)
    with site.serve() as daemon:
        refused = ee.read(daemon.ask(ee.seal(other)), other)
        assert (refused.fail_info, refused.protected) == ("notAuthorized", True)
        assert ee.read(daemon.ask(message), first).status is PKIStatus.accepted
    assert len(site.certificates()) == 1
    assert site.used("ref-1") == 1


def test_other_octets_after_a_crash_do_not_take_a_transaction_over(site: Site) -> None:
    """transactionIdInUse after the restart too; the first client still gets its certificate and confirms it."""
    ee = site.code("ref-1", uses=2)
    first = ee.ir(subject="CN=device-1")
    message = ee.seal(first)
    with crashing(site, "answered", "ir") as daemon:
        unanswered(daemon, message)
    with site.serve() as daemon:
        other = ee.ir(subject="CN=device-1", header={"transaction_id": first.transaction_id})
        assert ee.read(daemon.ask(ee.seal(other)), other).fail_info == "transactionIdInUse"
        answer = ee.read(daemon.ask(message), first)
        confirmation = ee.cert_conf(answer)
        assert ee.read(daemon.ask(ee.seal(confirmation)), confirmation).type is BodyType.pkiconf
    assert site.used("ref-1") == 1


def test_a_crl_number_that_was_taken_is_not_given_again(site: Site) -> None:
    """RFC 5280 §5.2.3: the next CRL has a greater number, whatever became of the last."""
    for _ in range(2):
        with crashing(site, "numbered", "crl") as daemon:
            with pytest.raises(LOST):
                daemon.http("GET", "/crl/local.crl")
            assert daemon.wait() == -signal.SIGKILL
    with site.serve() as daemon:
        status, data = daemon.http("GET", "/crl/local.crl")
        assert status == 200
        number = x509.load_der_x509_crl(data).extensions.get_extension_for_class(x509.CRLNumber).value
        assert number.crl_number == 3


def test_what_was_acknowledged_under_load_is_there_after_a_kill(site: Site) -> None:
    """Eight clients at once, killed in the midst of it: every answer that was received is given again, to the octet."""
    ee = site.code("ref-1", uses=None)
    acknowledged: list[tuple[Draft, bytes, bytes]] = []
    lost: list[tuple[Draft, bytes]] = []
    enough = threading.Event()

    def client(daemon: Daemon, number: int) -> None:
        for count in itertools.count():
            draft = ee.ir(subject=f"CN=device-{number}-{count}")
            message = ee.seal(draft)
            try:
                acknowledged.append((draft, message, daemon.ask(message)))
            except LOST:
                lost.append((draft, message))
                return
            if len(acknowledged) >= 40:
                enough.set()

    with site.serve() as daemon:
        clients = [threading.Thread(target=client, args=(daemon, number)) for number in range(8)]
        for thread in clients:
            thread.start()
        assert enough.wait(20)
        daemon.signal(signal.SIGKILL)
        for thread in clients:
            thread.join()
    assert len(lost) == 8
    with site.serve() as daemon:
        for _, message, answer in acknowledged:
            assert daemon.ask(message) == answer
        serials = {
            ee.read(daemon.ask(message), draft).certificate().serial_number
            for draft, message in [*lost, *(one[:2] for one in acknowledged)]
        }
        daemon.stop()
    assert {certificate.serial for certificate in site.certificates()} == serials
    assert len(serials) == len(acknowledged) + len(lost) == site.used("ref-1")
