"""`cmpd explain`: what would come of a request, without anything coming of it; and what the server then really says."""

import json
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cmpd import cli
from cmpd.asn1 import BodyType
from tests.daemon import SECRET, Site
from tests.ee import EE, Answer, Draft, new_key, san
from tests.http_client import WAIT
from tests.world import certificate, vendor


@dataclass(frozen=True)
class Explained:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def step(self, name: str) -> tuple[bool, str]:
        """Whether a step is passed, and what is said of it."""
        (found,) = [one for one in self.json["steps"] if one["step"] == name]
        return found["ok"], found["text"]

    @property
    def broken(self) -> list[str]:
        """The fields about which a rule is not kept."""
        return [one["field"] for findings in self.json["rules"] for one in findings if not one["ok"]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Site.make(tmp_path_factory.mktemp("explain") / "made").folder


@pytest.fixture
def site(made: Path, tmp_path: Path) -> Site:
    """A server that is all there; device accepts what the sample accepts."""
    return Site(Path(shutil.copytree(made, tmp_path / "server")) / "cmpd.toml")


Explain = Callable[..., Explained]


@pytest.fixture
def explain(site: Site, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Explain:
    """Explain octets, and see that nothing has changed by it."""

    def run(data: bytes | Path, *arguments: object, profile: str = "device", as_json: bool = True) -> Explained:
        file = data if isinstance(data, Path) else tmp_path / "message.der"
        if isinstance(data, bytes):
            file.write_bytes(data)
        before = rows(site)
        status = 0
        words = ["explain", file, "--profile", profile, "--config", site.config, *arguments]
        try:
            cli.main([str(word) for word in [*words, *(["--json"] if as_json else [])]])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        assert rows(site) == before
        done = Explained(status, *capfd.readouterr())
        assert SECRET not in done.out + done.err
        return done

    return run


def rows(site: Site) -> list[str]:
    """All that is in the database."""
    connection = sqlite3.connect(site.folder / "cmpd.db")
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


def real_answer(site: Site, ee: EE, draft: Draft, data: bytes, profile: str = "device") -> Answer:
    """What the server says to the same octets."""
    with site.serve() as daemon:
        return ee.read(daemon.ask(data, f"/.well-known/cmp/p/{profile}"), draft)


def test_a_request_that_is_granted(site: Site, explain: Explain) -> None:
    ee = site.code("device-1")
    draft = ee.ir(subject="CN=device-1", extensions=[san("a.example.com")])
    data = ee.seal(draft)
    done = explain(data)
    assert (done.status, done.err) == (0, "")
    found = done.json
    assert found["accepted"] is True
    assert done.step("authentication") == (True, "MAC of enrollment code device-1: verifies")
    assert done.step("enrollment code") == (True, "used 0 of 1 times")
    assert done.step("proof of possession") == (True, "verifies")
    assert done.broken == []
    (certificate,) = found["certificates"]
    assert certificate["subject"] == "CN=device-1"
    assert {"subjectAltName": ["DNS:a.example.com"]} in certificate["extensions"]
    assert found["answer"] == {"body": "ip", "outcome": "accepted"}
    answer = real_answer(site, ee, draft, data)
    issued, shown = answer.certificate(), x509.load_pem_x509_certificate(certificate["pem"].encode())
    assert issued.subject == shown.subject
    assert issued.serial_number != shown.serial_number
    assert list(issued.extensions)[2:] == list(shown.extensions)[2:]
    assert issued.issuer == shown.issuer
    root = x509.load_pem_x509_certificate((site.folder / "ca" / "issuing.pem").read_bytes())
    issued.verify_directly_issued_by(root)
    with pytest.raises(Exception):  # noqa: B017  whatever it is: nobody accepts the preview
        shown.verify_directly_issued_by(root)


def test_in_words(site: Site, explain: Explain) -> None:
    ee = site.code("device-1")
    done = explain(ee.seal(ee.ir(subject="CN=device-1", extensions=[san("*.example.com")])), as_json=False)
    assert done.status == 1
    assert "  ok    authentication: MAC of enrollment code device-1: verifies\n" in done.out
    assert "  FAIL  san.dns: '*.example.com' is a wildcard, which is not allowed (san.dns.allow_wildcard)\n" in done.out
    assert "\nanswer          ip: badCertTemplate: san.dns: '*.example.com' is a wildcard" in done.out
    assert done.err.startswith("cmpd: ")
    assert "message.der: refused: badCertTemplate: san.dns: " in done.err


def test_every_broken_rule_is_named_and_the_first_is_what_the_client_sees(site: Site, explain: Explain) -> None:
    ee = site.code("device-1")
    draft = ee.ir(new_key("rsa-1024"), subject="OU=x,C=Germany", extensions=[san("-bad-")])
    data = ee.seal(draft)
    done = explain(data)
    assert done.status == 1
    assert len(done.broken) >= 4
    assert done.json["certificates"] == []
    answer = real_answer(site, ee, draft, data)
    assert done.json["refusal"] == f"{answer.fail_info}: {answer.text}"


def test_a_wrong_secret_does_not_hide_what_else_is_wrong(site: Site, explain: Explain) -> None:
    site.code("device-1")
    liar = EE.with_code("device-1", "wrong")
    done = explain(liar.seal(liar.ir(subject="CN=device-1,C=Germany")))
    assert done.status == 1
    assert done.step("authentication")[0] is False
    assert done.json["private"] == "wrong secret, or the message was changed; reference device-1"
    assert done.broken == ["subject.country_name"]
    assert done.json["refusal"].startswith("badMessageCheck: ")


def test_a_wrong_secret_with_a_good_request_shows_the_certificate(site: Site, explain: Explain) -> None:
    nobody = EE.with_code("nobody", "wrong")
    done = explain(nobody.seal(nobody.ir(subject="CN=device-1")))
    assert done.status == 1
    assert done.json["private"] == "unknown reference nobody"
    assert done.step("proof of possession") == (True, "verifies")
    assert done.json["certificates"][0]["subject"] == "CN=device-1"


def test_an_expired_code(site: Site, explain: Explain) -> None:
    """And when it had not expired yet."""
    ee = site.code("device-1", valid=timedelta(hours=1))
    data = ee.seal(ee.ir(subject="CN=device-1"))
    assert explain(data).status == 0
    later = datetime.now(UTC) + timedelta(hours=2)
    done = explain(data, "--at", f"{later:%Y-%m-%dT%H:%M:%SZ}")
    assert done.status == 1
    assert done.step("authentication")[0] is True
    assert done.step("enrollment code")[1].startswith("enrollment code expired at ")
    assert done.broken == []


def test_a_proof_of_possession_that_is_none(site: Site, explain: Explain) -> None:
    ee = site.code("device-1")
    done = explain(ee.seal(ee.ir(subject="CN=device-1", popo=b"")))
    assert done.step("proof of possession") == (False, "the proof-of-possession is missing")
    assert done.json["refusal"] == "badPOP: the proof-of-possession is missing"
    assert done.broken == []


def test_a_message_that_is_late(site: Site, explain: Explain) -> None:
    """Explained as of now it is too old; as of its own time it is not."""
    ee = site.code("device-1")
    data = ee.seal(ee.ir(subject="CN=device-1", header={"message_time": datetime.now(UTC) - timedelta(days=3)}))
    done = explain(data)
    assert done.status == 1
    assert done.json["refusal"].startswith("badTime: ")
    assert done.step("request")[1].startswith("messageTime ")
    assert len(done.json["certificates"]) == 1
    assert explain(data, "--at", "message").status == 0


def test_what_was_answered_before_is_said_and_explained_all_the_same(site: Site, explain: Explain) -> None:
    ee = site.code("device-1", uses=None)
    draft = ee.ir(subject="CN=device-1,C=Germany")
    data = ee.seal(draft)
    assert real_answer(site, ee, draft, data).fail_info == "badCertTemplate"
    done = explain(data)
    assert done.status == 1
    assert done.json["answered_before"].startswith("refused, begun ")
    assert done.broken == ["subject.country_name"]


def test_a_key_that_has_a_certificate(site: Site, explain: Explain) -> None:
    """No rule of the profile: the store's."""
    profile = site.folder / "profiles" / "device.toml"
    profile.write_text(re.sub("(?m)^same_key_elsewhere = .*$", "same_key_elsewhere = false", profile.read_text()))
    ee = site.code("device-1", uses=None)
    key = new_key()
    draft = ee.ir(key, subject="CN=device-1")
    real_answer(site, ee, draft, ee.seal(draft))
    draft = ee.ir(key, subject="CN=device-2")
    data = ee.seal(draft)
    done = explain(data)
    assert done.status == 1
    assert done.broken == []
    assert done.step("state")[1].startswith("publicKey: already has a certificate")
    answer = real_answer(site, ee, draft, data)
    assert done.json["refusal"] == f"{answer.fail_info}: {answer.text}"


def renewed(site: Site) -> EE:
    """An end entity with a confirmed certificate."""
    ee = site.code("device-1")
    draft = ee.ir(subject="CN=device-1")
    with site.serve() as daemon:
        answer = ee.read(daemon.ask(ee.seal(draft)), draft)
        confirmation = ee.cert_conf(answer)
        assert ee.read(daemon.ask(ee.seal(confirmation)), confirmation).type is BodyType.pkiconf
    return EE.with_certificate(draft.key, answer.certificate_der())


def test_an_update_signed_with_the_old_certificate(site: Site, explain: Explain) -> None:
    ee = renewed(site)
    done = explain(ee.seal(ee.kur(subject="CN=device-1")))
    assert done.status == 0
    assert done.step("authentication") == (True, "signature with the certificate of CN=device-1: verifies")
    assert done.json["answer"]["body"] == "kup"


def test_an_update_before_its_time(site: Site, explain: Explain) -> None:
    profile = site.folder / "profiles" / "device.toml"
    profile.write_text(profile.read_text().replace("# window_days = 90", "window_days = 90"))
    ee = renewed(site)
    done = explain(ee.seal(ee.kur(subject="CN=device-1")))
    assert done.status == 1
    assert "renewal: the certificate can be updated from " in done.step("request")[1]
    assert len(done.json["certificates"]) == 1


def test_a_signer_that_nobody_knows(explain: Explain) -> None:
    stranger, _ = vendor()
    done = explain(stranger.seal(stranger.cr(subject="CN=device-1")))
    assert done.status == 1
    ok, text = done.step("authentication")
    assert not ok
    assert text.startswith("signature with the certificate of CN=IDevID 0815: ")


def test_what_is_no_message(explain: Explain) -> None:
    done = explain(b"\x30\x03abc")
    assert done.status == 1
    assert done.json["message"] is None
    assert done.json["refusal"].startswith("badDataFormat: the message cannot be read: ")
    assert "message         cannot be read\n" in explain(b"\x30\x03abc", as_json=False).out


def test_what_begins_nothing_has_no_rules(site: Site, explain: Explain) -> None:
    ee = site.code("device-1")
    done = explain(ee.seal(ee.draft(BodyType.genm, b"\x30\x00")))
    assert done.status == 1
    assert done.json["rules"] == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--profile", "nobody"), "--profile nobody: there is none; there are: device"),
        (("--at", "noon"), "--at noon: not a time; "),
    ],
)
def test_what_the_operator_has_mistyped(site: Site, explain: Explain, arguments: tuple[str, ...], reason: str) -> None:
    ee = site.code("device-1")
    done = explain(ee.seal(ee.ir(subject="CN=device-1")), *arguments)
    assert done.status == 1
    assert done.err.startswith(f"cmpd: {reason}")


def openssl(*arguments: object) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=WAIT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("operation", ["ir", "p10cr"])
@pytest.mark.parametrize("good", [True, False], ids=["granted", "refused"])
def test_a_request_that_openssl_has_saved(
    site: Site, explain: Explain, tmp_path: Path, operation: str, good: bool
) -> None:
    """-reqout of a request that never arrived anywhere, explained against a profile with names."""
    site.code("device-1")
    key, saved, request = tmp_path / "key.pem", tmp_path / "request.der", tmp_path / "request.csr"
    host = "a.example.com" if good else "a_b.example.com"
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
    what: list[object] = ["-newkey", key, "-subject", "/CN=device-1", "-sans", host]
    if operation == "p10cr":
        openssl(
            "req",
            "-new",
            "-key",
            key,
            "-subj",
            "/CN=device-1",
            "-addext",
            f"subjectAltName=DNS:{host}",
            "-out",
            request,
        )
        what = ["-csr", request]
    server = ["-server", "http://127.0.0.1:1/cmp", "-ref", "device-1", "-secret", f"pass:{SECRET}"]
    subprocess.run(
        ["openssl", "cmp", "-cmd", operation, *server, *map(str, what), "-certout", tmp_path / "x", "-reqout", saved],
        capture_output=True,
        timeout=WAIT,
    )
    done = explain(saved)
    assert done.json["message"]["message"] == operation
    if good:
        assert done.status == 0, done.err
        assert {"subjectAltName": [f"DNS:{host}"]} in done.json["certificates"][0]["extensions"]
    else:
        assert done.status == 1
        assert done.broken == ["san.dns"]
        assert "is not a DNS name" in done.json["refusal"]


def test_a_template_with_lint(site: Site, explain: Explain) -> None:
    """The preview is linted whatever the profile says, and what the linter finds is shown."""
    profile = site.folder / "profiles" / "mail.toml"
    profile.write_text(f'id = "{"m" * 22}"\nissuer = "local"\nbase_template = "private-smime"\nlint = "enforce"\n')
    ee = site.code("mail-1", profile="mail")
    mailbox = der_san("ada@example.com")
    done = explain(ee.seal(ee.ir(subject="CN=Ada Byron", extensions=[mailbox])), profile="mail")
    assert done.status == 0, done.err
    (certificate,) = done.json["certificates"]
    assert certificate["seat"] == "ada@example.com"
    assert not [finding for finding in certificate["lint"] if finding.startswith(("error", "fatal"))]


def der_san(mailbox: str) -> bytes:
    """The extension subjectAltName with one rfc822Name."""
    names = x509.SubjectAlternativeName([x509.RFC822Name(mailbox)])
    from cmpd.asn1 import oids
    from tests.ee import extension

    return extension(oids.SUBJECT_ALT_NAME, names.public_bytes())


def test_signature_protection_by_a_trusted_vendor(site: Site, explain: Explain) -> None:
    ee, root = vendor()
    folder = site.folder / "profiles"
    (folder / "vendor.pem").write_bytes(root.public_bytes(Encoding.PEM))
    (folder / "gateway.toml").write_text(
        f'id = "{"g" * 22}"\nissuer = "local"\nbase_template = "generic-device"\n[enrollment]\n'
        'authentication_method = "tls_certificate"\ntrusted_certificates = ["vendor.pem"]\n'
    )
    done = explain(ee.seal(ee.ir(subject="CN=device-1")), profile="gateway")
    assert done.status == 0, done.err
    assert done.step("authentication") == (True, "signature with the certificate of CN=IDevID 0815: verifies")


def test_as_if_it_came_from_elsewhere(site: Site, explain: Explain) -> None:
    """The address is what the profile sees of it."""
    site.profile("plant", ('method = "cmp"\n', 'method = "cmp"\nclient_addresses = ["10.0.0.0/8", "127.0.0.77/32"]\n'))
    ee = site.code("device-1", profile="plant")
    data = ee.seal(ee.ir(subject="CN=device-1"))
    done = explain(data, profile="plant")
    assert done.status == 1
    assert "requests from this address are not accepted (enrollment.client_addresses)" in done.json["refusal"]
    assert explain(data, "--address", "10.1.2.3", profile="plant").json["accepted"]
    assert "--address here: not an address; write 192.0.2.1" in explain(data, "--address", "here").err


def test_as_if_the_url_named_the_code(site: Site, explain: Explain) -> None:
    """For a client whose reference cannot be set."""
    site.code("device-1")
    ee = EE.with_code("factory-default", SECRET)
    data = ee.seal(ee.ir(subject="CN=device-1"))
    assert explain(data).status == 1
    done = explain(data, "--code", "device-1")
    assert done.json["accepted"], done.err
    assert done.step("enrollment code") == (True, "used 0 of 1 times")


def test_as_if_it_came_over_tls(site: Site, explain: Explain, tmp_path: Path) -> None:
    """As the profile asks for it; the chain follows the client's certificate in the file."""
    client, root = vendor("CN=gateway")
    other, _ = vendor("CN=gateway")
    folder = site.folder / "profiles"
    (folder / "clients.pem").write_bytes(root.public_bytes(Encoding.PEM))
    tls = '[enrollment.tls]\ntrusted_certificates = ["clients.pem"]\nrequired = true\n'
    site.profile("plant", ("[enrollment.tls]\n", tls), ("\nrequired = false\n", "\n"))
    site.append(server_tls(tmp_path))
    ee = site.code("device-1", profile="plant")
    data = ee.seal(ee.ir(subject="CN=device-1"))
    done = explain(data, profile="plant")
    assert done.step("TLS client")[0] is False
    assert "the profile asks for a TLS client certificate" in done.json["refusal"]
    for number, (one, good) in enumerate(((client, True), (other, False))):
        file = tmp_path / f"{number}.pem"
        file.write_bytes(b"".join(pem(found) for found in (one.certificate, *one.chain) if found is not None))
        done = explain(data, "--tls-certificate", file, profile="plant")
        assert done.json["accepted"] is good, done.err
        assert not good or done.step("TLS client") == (True, "certificate of CN=CN\\=gateway")
    done = explain(data, "--tls-certificate", site.config, profile="plant")
    assert "cmpd.toml: not a PEM file with a certificate" in done.err


def test_a_code_that_is_locked(site: Site, explain: Explain) -> None:
    ee = site.code("device-1")
    data = ee.seal(ee.ir(subject="CN=device-1"))
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    found = site.store(lambda store: store.code("device", b"device-1"))
    assert found is not None
    site.store(lambda store: store.lock_code(found.id, until=until, locks=1))
    done = explain(data)
    assert done.status == 1
    assert done.step("enrollment code") == (False, f"locked after wrong MACs until {until:%Y-%m-%dT%H:%M:%SZ}")
    assert "too many wrong MACs with this reference" in done.json["refusal"]


def pem(found: bytes) -> bytes:
    return x509.load_der_x509_certificate(found).public_bytes(Encoding.PEM)


def server_tls(folder: Path) -> str:
    """A section [server.tls] with a certificate of its own."""
    key = new_key()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "tls.key").write_bytes(private)
    (folder / "tls.pem").write_bytes(certificate(key, "127.0.0.1").public_bytes(Encoding.PEM))
    return f'[server.tls]\nlisten = "127.0.0.1:0"\ncertificate = "{folder}/tls.pem"\nkey = "{folder}/tls.key"'
