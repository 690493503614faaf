"""The load test itself: its client notices every wrong answer, and a short run against the real daemon has figures."""

import hashlib
import hmac
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench import floor, report
from bench.end_entity import (
    ECDSA_SHA256,
    AnswerError,
    Credential,
    MacCredential,
    Operation,
    SignatureCredential,
    derive,
    mailbox,
    want,
)
from bench.load import LoadProcess, Measured, Work, cpu_seconds, median, percentile
from bench.server import BareServer
from cmpd import asn1
from cmpd.asn1 import BodyType, der
from cmpd.limits import Limits

pytestmark = pytest.mark.long

ROOT = Path(__file__).parent.parent
REFERENCE, SECRET = "4711", "a secret for the load test"


def certificate(
    subject: str | x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    extensions: Sequence[asn1.Extension] = (),
) -> bytes:
    name = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) if isinstance(each, str) else each
        for each in (subject, issuer)
    ]
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name[1], name[0], key, x509.random_serial_number(), now, now + timedelta(days=1))
    for each in extensions:
        builder = builder.add_extension(x509.UnrecognizedExtension(each.extnID, each.extnValue), bool(each.critical))
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def name(encoded: bytes) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value.decode()) for ((oid, _, value),) in asn1.name_rdns(encoded)])


class Service:
    """As much of a CMP server as it takes to answer a client, rightly or in one thing wrongly."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.root = certificate("root", self.key.public_key(), "root", self.key)
        self.issued = b""
        self.transactionID: Callable[[bytes], bytes] = lambda right: right
        self.recipNonce: Callable[[bytes], bytes] = lambda right: right
        self.protection: Callable[[bytes], bytes] = lambda right: right
        self.body_type: BodyType | None = None
        self.status = 0
        self.other_key = False
        self.other_subject = False
        self.no_extensions = False
        self.grant_implicit_confirm = False
        self.extra_certs: tuple[bytes, ...] | None = None
        self.other_salt = False
        self.waits = False
        self.check_after = 5
        self.polled_id = 0

    def certify(self, request: asn1.PKIMessage) -> tuple[BodyType, bytes]:
        wire = request.decode_body()[0]
        template = asn1.parse(asn1.CertRequest, asn1.raw(wire.certReq)).certTemplate
        spki = asn1.dump(template.publicKey)
        public = serialization.load_der_public_key(spki)
        assert isinstance(public, ec.EllipticCurvePublicKey)
        public.verify(wire.popo.value.signature.as_bytes(), asn1.raw(wire.certReq), ECDSA_SHA256)
        if self.other_key:
            public = ec.generate_private_key(ec.SECP256R1()).public_key()
        assert template.subject is not None
        subject: str | x509.Name = "somebody else" if self.other_subject else name(asn1.raw(template.subject))
        extensions = [] if self.no_extensions else template.extensions or []
        self.issued = certificate(subject, public, "root", self.key, extensions)
        info = der.sequence(der.integer(self.status))
        if self.waits:
            response = der.sequence(der.integer(0), der.sequence(der.integer(3)))
            return BodyType.ip, der.explicit(BodyType.ip, der.sequence(der.sequence(response)))
        response = der.sequence(der.integer(0), info, der.sequence(der.explicit(0, self.issued)))
        kind = BodyType(request.body_type + 1)
        return kind, der.explicit(self.body_type or kind, der.sequence(der.sequence(response)))

    def confirm(self, request: asn1.PKIMessage) -> tuple[BodyType, bytes]:
        status = request.decode_body()[0]
        assert status.certHash == hashlib.sha256(self.issued).digest()
        assert (status.certReqId, status.statusInfo.status, status.hashAlg) == (0, 0, None)
        return BodyType.pkiconf, der.explicit(self.body_type or BodyType.pkiconf, der.null())

    def poll(self, request: asn1.PKIMessage) -> tuple[BodyType, bytes]:
        assert [one.certReqId for one in request.decode_body()] == [0]
        one = der.sequence(der.integer(self.polled_id), der.integer(self.check_after))
        return BodyType.pollRep, der.explicit(BodyType.pollRep, der.sequence(one))

    def answer(self, octets: bytes) -> bytes:
        request = asn1.decode(octets, Limits())
        header = request.header
        answers = {BodyType.certConf: self.confirm, BodyType.pollReq: self.poll}
        kind, body = answers.get(request.body_type, self.certify)(request)
        assert header.transactionID is not None
        assert header.senderNonce is not None
        assert request.protection is not None
        algorithm = asn1.dump(header.protectionAlg)
        signed = der.children(algorithm)[0] == der.oid("1.2.840.10045.4.3.2")
        if signed:
            signer = x509.load_der_x509_certificate(request.extraCerts[0]).public_key()
            assert isinstance(signer, ec.EllipticCurvePublicKey)
            signer.verify(request.protection, request.protected_part(), ECDSA_SHA256)
            protect: Callable[[bytes], bytes] = self.sign
        else:
            if self.other_salt:
                algorithm = MacCredential(REFERENCE, SECRET).begin()[0]
            protect = self.mac(algorithm)
            assert self.mac(asn1.dump(header.protectionAlg))(request.protected_part()) == request.protection
        implicit = der.explicit(8, der.sequence(der.sequence(der.oid("1.3.6.1.5.5.7.4.13"), der.null())))
        answered = der.sequence(
            der.integer(2),
            der.explicit(4, der.sequence()),
            asn1.raw(header.sender),
            der.explicit(1, algorithm),
            der.explicit(4, der.octet_string(self.transactionID(header.transactionID))),
            der.explicit(5, der.octet_string(os.urandom(16))),
            der.explicit(6, der.octet_string(self.recipNonce(header.senderNonce))),
            implicit if self.grant_implicit_confirm and kind is not BodyType.pkiconf else b"",
        )
        protection = self.protection(protect(asn1.protected_part(answered, body)))
        extra = (self.root,) if self.extra_certs is None else self.extra_certs
        return asn1.encode(answered, body, protection, extra if signed else ())

    def sign(self, part: bytes) -> bytes:
        return self.key.sign(part, ECDSA_SHA256)

    @staticmethod
    def mac(algorithm: bytes) -> Callable[[bytes], bytes]:
        values = asn1.parse(asn1.PBMParameter, der.children(algorithm)[1])
        key = derive(SECRET.encode(), values.salt, values.iterationCount)
        return lambda part: hmac.digest(key, part, "sha256")


@pytest.fixture
def service() -> Service:
    return Service()


def mac() -> MacCredential:
    return MacCredential(REFERENCE, SECRET)


def signer(service: Service) -> SignatureCredential:
    key = ec.generate_private_key(ec.SECP256R1())
    return SignatureCredential(key, certificate("old", key.public_key(), "root", service.key), (), (service.root,))


def run(
    service: Service,
    credential: Credential,
    operation: BodyType = BodyType.ir,
    *,
    implicit: bool = False,
    person: bool = False,
) -> bytes:
    wanted = want(ready=operation is BodyType.ir, person=person)
    done = Operation(credential, operation, wanted, implicit=implicit)
    done.certified(service.answer(done.request()))
    if not done.confirmed:
        done.ended(service.answer(done.confirmation()))
    return done.certificate


def test_right_answers_are_taken(service: Service) -> None:
    assert run(service, mac()) == service.issued
    assert run(service, signer(service)) == service.issued
    assert run(service, signer(service), BodyType.kur) == service.issued
    assert run(service, mac(), person=True) == service.issued
    service.grant_implicit_confirm = True
    assert run(service, mac(), implicit=True) == service.issued


def test_an_answer_with_a_salt_of_its_own_is_verified_with_its_own_key(service: Service) -> None:
    service.other_salt = True
    assert run(service, mac()) == service.issued


def flipped(right: bytes) -> bytes:
    return right[:-1] + bytes((right[-1] ^ 1,))


WRONG = {
    "transactionID": lambda service: setattr(service, "transactionID", flipped),
    "recipNonce": lambda service: setattr(service, "recipNonce", flipped),
    "(MAC|signature) of the answer": lambda service: setattr(service, "protection", flipped),
    "not (ip|kup)": lambda service: setattr(service, "body_type", BodyType.cp),
    "PKIStatus 2": lambda service: setattr(service, "status", 2),
    "another public key": lambda service: setattr(service, "other_key", True),
    "granted unasked": lambda service: setattr(service, "grant_implicit_confirm", True),
}


@pytest.mark.parametrize("text", WRONG)
@pytest.mark.parametrize("kind", ["mac", "signature", "kur"])
def test_every_wrong_answer_is_noticed(service: Service, text: str, kind: str) -> None:
    credential = mac() if kind == "mac" else signer(service)
    WRONG[text](service)
    with pytest.raises(AnswerError, match=text):
        run(service, credential, BodyType.kur if kind == "kur" else BodyType.ir)


@pytest.mark.parametrize("person", [False, True])
def test_another_subject_is_noticed(service: Service, person: bool) -> None:
    service.other_subject = True
    with pytest.raises(AnswerError, match="another subject"):
        run(service, mac(), person=person)


def test_an_extension_that_is_left_out_is_noticed(service: Service) -> None:
    service.no_extensions = True
    with pytest.raises(AnswerError, match="lacks an extension"):
        run(service, mac(), person=True)


def test_a_wrong_pkiconf_is_noticed(service: Service) -> None:
    done = Operation(mac(), BodyType.ir, want(ready=True))
    done.certified(service.answer(done.request()))
    service.recipNonce = flipped
    with pytest.raises(AnswerError, match="recipNonce"):
        done.ended(service.answer(done.confirmation()))


def test_an_answer_signed_by_a_stranger_is_noticed(service: Service) -> None:
    credential = signer(service)
    service.key = ec.generate_private_key(ec.SECP256R1())
    service.extra_certs = (certificate("stranger", service.key.public_key(), "stranger", service.key),)
    with pytest.raises(AnswerError, match="does not chain"):
        run(service, credential)


def test_an_answer_without_its_signers_certificate_is_noticed(service: Service) -> None:
    credential = signer(service)
    service.extra_certs = ()
    with pytest.raises(AnswerError, match="does not carry"):
        run(service, credential)


def test_no_salt_is_used_twice() -> None:
    credential = mac()
    credential.prepare(50)
    assert len({credential.begin()[0] for _ in range(60)}) == 60


def test_the_cpu_time_of_a_process_holds_its_ended_threads() -> None:
    program = (
        "import threading, time\n"
        "def work():\n"
        "    started = time.thread_time()\n"
        "    while time.thread_time() - started < 0.2: pass\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()\n"
        "print(time.process_time(), flush=True); input()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        own = float(child.stdout.readline())
        seen = cpu_seconds(child.pid)
        child.communicate("\n")
    assert own >= 0.2
    assert own <= seen < own + 0.1


def test_the_load_client_reports_a_server_that_talks_nonsense() -> None:
    with BareServer(600) as server, LoadProcess() as load:
        work = Work(server.port, server.pid, 2, 0, 1, mac_path="/", reference=REFERENCE, secret=SECRET)
        with pytest.raises(asn1.MalformedError):
            load.perform(work)
        empty = load.perform(Work(server.port, server.pid, 64, 16, operation="empty"))
    assert (empty.transactions, empty.requests, len(empty.latencies)) == (64, 64, 64)
    assert 0 < empty.cpu < 1


def test_the_floor_is_the_sum_of_its_parts(tmp_path: Path, service: Service) -> None:
    sizes = Measured(request_sizes=(450, 330), answer_sizes=(2000, 330), certificate_size=len(service.root))
    costs = floor.crypto(sizes, service.root, times=10)
    commit = floor.commits(tmp_path, sizes, groups=3)
    assert not list(tmp_path.iterdir())
    pbm = floor.parts(costs, "mac", 2, 50e-6, commit)
    assert all(part.seconds > 0 for part in pbm)
    once = costs.load_spki + costs.verify + costs.sign + 3 * costs.digest
    assert floor.total(pbm) == pytest.approx(once + 2 * costs.derivation + 4 * costs.mac + 100e-6 + commit)
    signed = once + 2 * (costs.verify + costs.sign) + 100e-6 + commit
    known = floor.parts(costs, "known signer", 2, 50e-6, commit)
    assert floor.total(known) == pytest.approx(signed)
    new = floor.parts(costs, "new signer", 2, 50e-6, commit)
    assert floor.total(new) == pytest.approx(signed + costs.load_certificate + costs.verify)


def test_median_and_percentile() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert percentile([float(n) for n in range(100)], 0.99) == 99.0


def test_the_table_marks_what_is_over_its_limit() -> None:
    slow = Measured(transactions=10, server_cpu=0.013, latencies=[0.05], elapsed=1)
    found = report.Report({"date": "today"}, 10, 16, rows={"pbm": [slow]}, floors={"pbm": [[floor.Part("all", 1e-3)]]})
    found.served["pbm"] = [0.00125]
    table = report.markdown(found)
    assert "| 1.20 ms | 1.30 ms (over) |" in re.sub(r" +", " ", table)
    assert "| 1.00 ms | 1.30 | 1.25 ms | 1.04 | 1.7 |" in re.sub(r" +", " ", table)
    assert "50.00 ms (over)" in table


def compared(**costs: float) -> str:
    """The tables of rows that took so many seconds a transaction, with single spaces."""
    rows = {
        name: [Measured(transactions=1, server_cpu=cost, latencies=[0.01], elapsed=1)] for name, cost in costs.items()
    }
    found = report.Report({"date": "today"}, 1, 16, rows=rows, floors={}, served={})
    if "pbm" in rows:
        found.floors["pbm"], found.served["pbm"] = [[floor.Part("all", 1e-3)]], [1.25e-3]
    found.share_floor()
    return re.sub(r" +", " ", report.markdown(found))


def test_what_is_compared_with_pbm_shows_what_it_costs_more() -> None:
    table = compared(pbm=1.0e-3, smime=1.15e-3, connections=1.25e-3)
    assert "| +15.0 % | +15.0 % | +15.0 % | 1.00 ms | 1.15 | 1.25 ms | 0.92 | |" in table
    assert "| +0.25 ms | +0.25 ms | +0.25 ms | | | | | |" in table
    assert "| the floor, CPU µs a transaction | pbm |" in table
    table = compared(pbm=1.0e-3, smime=1.16e-3, connections=1.26e-3)
    assert "| +15.0 % | +16.0 % (over) |" in table
    assert "| +0.25 ms | +0.26 ms (over) |" in table


def test_handshakes_are_shown_apart() -> None:
    slow = [
        Measured(transactions=1, server_cpu=3.0e-3, handshake=1.92e-3, unasked=2.92e-3, latencies=[0.01], elapsed=1)
    ]
    plain = [Measured(transactions=1, server_cpu=1.0e-3, latencies=[0.01], elapsed=1)]
    found = report.Report({"date": "today"}, 1, 16, rows={"pbm": plain, "tls": slow})
    table = re.sub(r" +", " ", report.markdown(found))
    assert "client certificate adds | +10.0 % | +8.0 % | +8.0 % |" in table
    assert "| the PBM transaction with such a connection, all in all | | 3.00 ms | 3.00 ms |" in table
    assert "| a TLS 1.3 connection with a client certificate, handshake to end | | 1.92 ms | 1.92 ms |" in table
    del found.rows["pbm"]
    assert "client certificate adds | +10.0 % | 1.08 ms |" in re.sub(r" +", " ", report.markdown(found))


def test_without_pbm_nothing_is_compared() -> None:
    table = compared(smime=9e-3, connections=9e-3)
    assert "| +15.0 % | 9.00 ms | 9.00 ms | | | | | |" in table
    assert "| +0.25 ms | 9.00 ms | 9.00 ms | | | | | |" in table


def waiting(service: Service) -> Operation:
    """An operation that has been told to wait."""
    service.waits = True
    asked = Operation(mac(), BodyType.ir, mailbox(ready=True), implicit=True)
    answer = service.answer(asked.request())
    assert asked.is_waiting(answer)
    asked.waits(answer)
    return asked


def test_a_mailbox_that_is_waited_for(service: Service) -> None:
    asked = waiting(service)
    asked.polled(service.answer(asked.poll()))
    asked.polled(service.answer(asked.poll()))


def test_an_answer_that_does_not_say_to_wait(service: Service) -> None:
    asked = Operation(mac(), BodyType.ir, mailbox(ready=True))
    answer = service.answer(asked.request())
    assert not asked.is_waiting(answer)
    with pytest.raises(AnswerError, match="not waiting"):
        asked.waits(answer)
    asked.certified(answer)


@pytest.mark.parametrize("change", [{"polled_id": 1}, {"check_after": 0}])
def test_a_wrong_poll_rep(service: Service, change: dict[str, int]) -> None:
    asked = waiting(service)
    for name, value in change.items():
        setattr(service, name, value)
    with pytest.raises(AnswerError, match="the pollRep is for another"):
        asked.polled(service.answer(asked.poll()))


def test_a_poll_rep_with_a_wrong_mac(service: Service) -> None:
    asked = waiting(service)
    service.protection = lambda right: right[:-1] + bytes([right[-1] ^ 1])
    with pytest.raises(AnswerError, match="MAC"):
        asked.polled(service.answer(asked.poll()))


def test_figures_that_are_missed_say_so() -> None:
    found = report.Report({}, 1, 1)
    found.ordering = [
        report.Figure("open: polls", 3.0, "ms", most=2.0),
        report.Figure("open: memory", 150.0, "MB", most=200.0),
        report.Figure("open: beside", 7.5, "ms"),
        report.Figure("new: placed", 199.0, "", least=200.0, column="quick"),
        report.Figure("new: placed", 201.0, "", least=200.0, column="slow"),
    ]
    table = re.sub(r" +", " ", report.markdown(found))
    assert "| open | wanted | measured |" in table
    assert "| polls | at most 2 ms | 3 ms (missed) |" in table
    assert "| memory | at most 200 MB | 150 MB |" in table
    assert "| beside | | 7.50 ms |" in table
    assert "| new | wanted | quick | slow |" in table
    assert "| placed | at least 200 | 199 (missed) | 201 |" in table


def test_a_short_run_with_certificates_on_order(tmp_path: Path) -> None:
    """Daemon and simulator are real; every answer is checked by the client."""
    options = ["--quick", "--rows", "open-orders,new-orders", "--dir", str(tmp_path), "--json"]
    done = subprocess.run([sys.executable, "-m", "bench", *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {(one["text"], one["column"]): one["value"] for one in json.loads(done.stdout)["ordering"]}
    assert found["400 open orders: server CPU of a pollReq and its answer", "measured"] > 0
    for column in ("the CA answers at once", "it takes 3 s"):
        assert found["200 new orders a minute: API calls an order", column] >= 1
        answered = found["200 new orders a minute: answers with the certificate", column]
        assert (answered > 0) == (column != "it takes 3 s")
    assert not list(tmp_path.iterdir())


def test_a_short_run_against_the_real_daemon(tmp_path: Path) -> None:
    """All rows, every answer checked by the client; nothing is asserted about the time it takes."""
    started = time.time()
    rows = ",".join(row.name for row in report.ROWS)
    options = ["--quick", "--transactions", "16", "--rows", rows, "--dir", str(tmp_path), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["rows"]) == {row.name for row in report.ROWS}
    for name, row in found["rows"].items():
        assert 0 < row["cpu_median"] < time.time() - started
        assert len(row["request_sizes"]) == (1 if name == "implicit" else 2)
        assert bool(row["ratios"]) == (name != "connections")
        assert len(row["extra"]) == (name in {"smime", "code", "tls", "workers", "connections"})
        assert (row["handshake"][0] > 0) == (name == "tls")
    assert found["rows"]["smime"]["floor"] == found["rows"]["pbm"]["floor"]
    assert found["decode"] > 0
    assert not list(tmp_path.iterdir())


def test_the_profile_shows_where_the_time_goes(tmp_path: Path) -> None:
    options = ["--profile", "--rows", "implicit", "--transactions", "16", "--dir", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "bench", *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cmpd/protection/mac.py" in done.stdout
