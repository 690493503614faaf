"""The stock `openssl cmp` client against the real daemon over HTTP, and `openssl verify` on what it was given."""

import contextlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from cmpd import cli
from cmpd.exchange import CertificateStatus, RevocationReason
from tests.daemon import DEVICE, ROOT, SECRET, FreePort, Site
from tests.ee import new_key
from tests.interop.openssl import Client, OpenSSL, Service, key_pem
from tests.world import certificate as certificate_of

ABANDONED = "abandoned"
"""Reference of a code whose client never confirms, in the profile `hasty`."""

REQUEST_EXTENSIONS = """
[usages]
keyUsage = critical, digitalSignature, keyAgreement
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = DNS:printer.example.com, IP:10.0.0.7, URI:urn:dev:7, email:it@example.com
[ca]
basicConstraints = critical, CA:TRUE
[signing]
keyUsage = critical, keyCertSign
"""


class Command:
    """`cmpd` in this process: exit status and what it prints."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert isinstance(ended.value.code, int)
        return ended.value.code, *self._capsys.readouterr()


@pytest.fixture
def cmpd(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, site_store: str | None) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("openssl")
    port = FreePort()
    site = Site.make(folder / "cmpd", port.listen, site_store)
    site.append('[server.tls]\nlisten = "127.0.0.1:0"\ncertificate = "tls.pem"\nkey = "tls.key"')
    tls_key = new_key()
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    tls = certificate_of(tls_key, "cmp.example.com", extensions=[(address, False)])
    (site.folder / "tls.pem").write_bytes(tls.public_bytes(serialization.Encoding.PEM))
    (site.folder / "tls.key").write_bytes(key_pem(tls_key))
    root_key, key = new_key(), new_key()
    root = certificate_of(root_key, "Vendor Root", ca=True)
    vendor = certificate_of(key, "IDevID 0815", root_key, root)
    (site.folder / "profiles" / "vendor-root.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    site.profile("hasty", ('confirm_wait = "10m"', 'confirm_wait = "1s"'))
    site.profile("strict", ("implicit_confirm = true", "implicit_confirm = false"))
    site.profile("samekey", ("require_new_key = true", "require_new_key = false"))
    site.profile("legacy", ("sha1_signatures = false", "sha1_signatures = true"))
    site.profile(
        "vendor",
        ('"enrollment_code"\n', '"tls_certificate"\ntrusted_certificates = ["vendor-root.pem"]\n'),
    )
    shared = OpenSSL(folder)
    shared.write("vendor.pem", vendor)
    shared.write("tls.pem", tls)
    (folder / "vendor.key").write_bytes(key_pem(key))
    chain = subprocess.run(
        [sys.executable, "-m", "cmpd", "ca", "chain", "--config", site.config],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    )
    (folder / "chain.pem").write_bytes(chain.stdout)
    shared.write("ca.pem", x509.load_pem_x509_certificates(chain.stdout)[-1])
    with contextlib.closing(port), site.serve() as daemon:
        service = Service(site, daemon, shared, vendor)
        (folder / ABANDONED).mkdir()
        abandoning = Client(folder / ABANDONED, service)
        abandoning.enroll("new", "-disable_confirm", profile="hasty")
        yield service
        daemon.stop()
    assert [record for record in daemon.records if record["level"] != "info"] == []
    assert SECRET not in json.dumps(daemon.records)


@pytest.fixture
def client(service: Service, tmp_path: Path) -> Client:
    service.daemon.catch_up()
    return Client(tmp_path, service)


# -------------------------------------------------------------------------------------------------- first certificate


def test_ir_with_an_enrollment_code(client: Client) -> None:
    """RFC 9483 §4.1.1 with §4.1.5: certificate, its chain and the root, confirmed."""
    done = client.cmp(
        client.device, "ir", *client.by_secret(), *client.wanted(), "-cacertsout", "ca.pem", "-chainout", "chain.pem"
    )
    assert done.ok, done
    assert (done.sent, done.received) == (["IR", "CERTCONF"], ["IP", "PKICONF"])
    assert client.verify("new") == "new.pem: OK\n"
    issuing, root = x509.load_pem_x509_certificates(Path(client.chain).read_bytes())
    assert client.certificate("ca.pem") == root
    assert x509.load_pem_x509_certificates((client.folder / "chain.pem").read_bytes()) == [issuing]
    assert client.status("new") is CertificateStatus.valid
    serial = f"{client.certificate('new.pem').serial_number:x}"
    client.daemon.exchange(operation="ir", profile="device", outcome="accepted", serial=serial)
    client.daemon.exchange(operation="certConf", profile="device", outcome="confirmed", serial=serial)


@pytest.mark.parametrize("kind", ["rsa", "P-384", "P-521", "ed25519", "ed448"])
def test_ir_for_keys_of_every_type_that_openssl_can_request(client: Client, kind: str) -> None:
    certificate = client.enroll("new", kind=kind)
    assert client.verify("new", "-purpose", "sslclient") == "new.pem: OK\n"
    public = client.right("pkey", "-in", "new.key", "-pubout").encode()
    assert certificate.public_key() == serialization.load_pem_public_key(public)


@pytest.mark.parametrize(
    "options",
    [
        ("-digest", "sha224", "-mac", "hmacWithSHA224"),
        ("-digest", "sha256", "-mac", "hmacWithSHA256"),
        ("-digest", "sha384", "-mac", "hmacWithSHA384"),
        ("-digest", "sha512", "-mac", "hmacWithSHA512"),
        ("-digest", "sha512", "-mac", "hmacWithSHA1"),
    ],
    ids=lambda options: f"{options[1]} {options[3]}",
)
def test_ir_with_each_mac(client: Client, options: tuple[str, ...]) -> None:
    """RFC 9481 §6.1: one-way function and HMAC in all sizes; both ends verify."""
    client.enroll("new", *options)


def test_ir_with_sha1_only_where_the_profile_says_so(client: Client) -> None:
    """`-digest sha1` is the one-way function of the MAC, which is let through, and the POP's hash, which is not."""
    options = (*client.wanted(), "-digest", "sha1")
    done = client.cmp(client.device, "ir", *client.by_secret(), *options)
    text = "proof-of-possession: signature algorithm ecdsa-with-SHA1 is not allowed here"
    client.refused(done, text, "badPOP")
    client.enroll("new", "-digest", "sha1", profile="legacy")


@pytest.mark.parametrize("options", [("-mac", "hmac-md5"), ("-digest", "sha3-256")])
def test_a_mac_algorithm_that_is_not_supported_is_refused(client: Client, options: tuple[str, ...]) -> None:
    """badAlg; nobody could have verified an answer with that MAC."""
    reference = client.service.reference()
    done = client.cmp(client.device, "ir", *client.by_secret(reference), *client.wanted(), *options)
    assert (done.status, done.received) == (1, ["ERROR"])
    client.daemon.exchange(outcome="error", fail_info="badAlg")
    assert client.service.site.used(reference) == 0


def test_ir_signed_with_a_vendors_certificate(client: Client) -> None:
    """RFC 9483 §4.1.1 by signature: a certificate of another PKI that the profile trusts."""
    shared = client.service.shared.folder
    done = client.cmp(
        f"{client.service.url}/.well-known/cmp/p/vendor",
        "ir",
        *("-cert", str(shared / "vendor.pem"), "-key", str(shared / "vendor.key"), "-trusted", client.root),
        *client.wanted(subject="/CN=0815"),
    )
    assert done.ok, done
    assert client.verify("new") == "new.pem: OK\n"
    record = client.daemon.exchange(operation="ir", profile="vendor", outcome="accepted")
    assert record["credential"] == "cert:CN=IDevID 0815"


def test_ir_signed_with_a_certificate_of_nobody(client: Client) -> None:
    """signerNotTrusted, signed by us, so that openssl shows the reason."""
    root_key, key = new_key(), new_key()
    root = certificate_of(root_key, "Vendor Root", ca=True)
    client.write("old.pem", certificate_of(key, "IDevID 0815", root_key, root))
    (client.folder / "old.key").write_bytes(key_pem(key))
    url = f"{client.service.url}/.well-known/cmp/p/vendor"
    done = client.cmp(url, "ir", *client.by_certificate(), *client.wanted())
    record = client.daemon.exchange(outcome="error", fail_info="signerNotTrusted")
    assert done.status == 1
    assert f'PKIFailureInfo: signerNotTrusted; StatusString: "{record["reason"]}"' in done.text, done


def test_cr(client: Client) -> None:
    """RFC 9483 §4.1.2: a further certificate, asked for with the one that it has."""
    client.enroll()
    done = client.cmp(client.device, "cr", *client.by_certificate(), *client.wanted())
    assert done.ok, done
    assert (done.sent, done.received) == (["CR", "CERTCONF"], ["CP", "PKICONF"])
    assert client.verify("new") == "new.pem: OK\n"
    assert [client.status(name) for name in ("old", "new")] == [CertificateStatus.valid] * 2


@pytest.mark.parametrize("by", ["secret", "certificate"])
def test_p10cr(client: Client, by: str) -> None:
    """RFC 9483 §4.1.4: names and usages out of a PKCS #10 request."""
    (client.folder / "req.cnf").write_text(REQUEST_EXTENSIONS)
    client.right(
        *("req", "-new", "-key", client.key("new"), "-subj", "/O=Example/CN=printer", "-out", "new.csr"),
        *("-config", "req.cnf", "-reqexts", "usages"),
    )
    if by == "certificate":
        client.enroll("old", "-config", "req.cnf", "-reqexts", "usages", subject="/O=Example/CN=printer")
        options = client.by_certificate()
    else:
        options = client.by_secret()
    done = client.cmp(client.device, "p10cr", *options, "-csr", "new.csr", "-certout", "new.pem")
    assert done.ok, done
    assert (done.sent, done.received) == (["P10CR", "CERTCONF"], ["CP", "PKICONF"])
    assert client.verify("new", "-verify_hostname", "printer.example.com") == "new.pem: OK\n"
    names = client.certificate("new.pem").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["printer.example.com", "10.0.0.7", "urn:dev:7", "it@example.com"]


# -------------------------------------------------------------------------------------------------- what is requested


def test_names_are_taken_over_as_requested(client: Client) -> None:
    """A subject of several RDNs in its order, with characters beyond ASCII; SANs of several types."""
    certificate = client.enroll(
        "new",
        *("-sans", "a.example.com,10.1.2.3,2001:db8::1,urn:dev:1"),
        subject="/C=DE/O=Müller & Söhne/OU=West/OU=Halle 7/serialNumber=0815/CN=device-1",
    )
    assert [(part.oid, part.value) for part in certificate.subject] == [
        (NameOID.COUNTRY_NAME, "DE"),
        (NameOID.ORGANIZATION_NAME, "Müller & Söhne"),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "West"),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "Halle 7"),
        (NameOID.SERIAL_NUMBER, "0815"),
        (NameOID.COMMON_NAME, "device-1"),
    ]
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["a.example.com", "10.1.2.3", "2001:db8::1", "urn:dev:1"]
    assert client.verify("new", "-verify_ip", "10.1.2.3") == "new.pem: OK\n"


def test_usages_are_taken_over_as_requested(client: Client) -> None:
    (client.folder / "req.cnf").write_text(REQUEST_EXTENSIONS)
    certificate = client.enroll("new", "-config", "req.cnf", "-reqexts", "usages")
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert (usage.critical, usage.value.digital_signature, usage.value.key_agreement) == (True, True, True)
    assert client.verify("new", "-purpose", "sslserver") == "new.pem: OK\n"
    assert client.verify("new", "-purpose", "sslclient") == "new.pem: OK\n"


@pytest.mark.parametrize("section", ["ca", "signing"])
def test_nobody_becomes_a_ca_by_asking(client: Client, section: str) -> None:
    (client.folder / "req.cnf").write_text(REQUEST_EXTENSIONS)
    reference = client.service.reference()
    options = ("-config", "req.cnf", "-reqexts", section)
    done = client.cmp(client.device, "ir", *client.by_secret(reference), *client.wanted(), *options)
    record = client.daemon.exchange(operation="ir", outcome="rejection")
    assert done.status == 1
    assert f'StatusString: "{record["reason"]}"' in done.text, done
    assert client.service.site.used(reference) == 0


def test_a_subject_that_the_profile_does_not_accept(client: Client) -> None:
    """A refusal by MAC that openssl can read names field and rule; the code may be used for a better request."""
    reference = client.service.reference()
    done = client.cmp(client.device, "ir", *client.by_secret(reference), *client.wanted(subject="/CN=x/title=Dr"))
    client.refused(done, "subject.title: this attribute is not accepted (subject.on_unlisted)", "badCertTemplate")
    done = client.cmp(client.device, "ir", *client.by_secret(reference), *client.wanted())
    assert done.ok, done


# ---------------------------------------------------------------------------------------------------------- renewal


def test_kur(client: Client) -> None:
    """RFC 9483 §4.1.3: a new key under the old names; openssl names the old certificate in oldCertID."""
    old = client.enroll(subject="/O=Example/CN=device-1")
    done = client.cmp(
        client.device, "kur", *client.by_certificate(), "-newkey", client.key("new"), "-certout", "new.pem"
    )
    assert done.ok, done
    assert (done.sent, done.received) == (["KUR", "CERTCONF"], ["KUP", "PKICONF"])
    new = client.certificate("new.pem")
    assert (new.subject, new.public_key() == old.public_key()) == (old.subject, False)
    assert client.verify("new") == "new.pem: OK\n"
    record = client.daemon.exchange(operation="kur", outcome="accepted")
    assert record["credential"] == "cert:CN=device-1,O=Example"


@pytest.mark.parametrize("options", [(), ("-san_nodefault",)], ids=["SANs repeated", "SANs left out"])
def test_kur_of_a_certificate_with_sans(client: Client, options: tuple[str, ...]) -> None:
    old = client.enroll("old", "-sans", "a.example.com,10.1.2.3")
    wanted = ("-newkey", client.key("new"), "-certout", "new.pem")
    done = client.cmp(client.device, "kur", *client.by_certificate(), *wanted, *options)
    assert done.ok, done
    found = [
        one.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        for one in (old, client.certificate("new.pem"))
    ]
    assert list(found[0]) == list(found[1])


def test_kur_for_other_names_is_refused(client: Client) -> None:
    client.enroll()
    done = client.cmp(client.device, "kur", *client.by_certificate(), *client.wanted(subject="/CN=another"))
    text = "subject: differs from that of the certificate which signs the request"
    client.refused(done, text, "badCertTemplate", operation="kur")


def test_kur_with_the_old_key_only_where_the_profile_says_so(client: Client) -> None:
    client.enroll()
    done = client.cmp(client.device, "kur", *client.by_certificate(), "-certout", "new.pem")
    text = "publicKey: the profile asks for a new key in an update (renewal.require_new_key)"
    client.refused(done, text, "badCertTemplate")
    old = client.enroll(profile="samekey")
    url = f"{client.service.url}/.well-known/cmp/p/samekey"
    done = client.cmp(url, "kur", *client.by_certificate(), "-certout", "new.pem")
    assert done.ok, done
    assert client.certificate("new.pem").public_key() == old.public_key()


def test_kur_with_an_rsa_key(client: Client) -> None:
    client.enroll(kind="rsa")
    wanted = ("-newkey", client.key("new", "rsa"), "-certout", "new.pem")
    done = client.cmp(client.device, "kur", *client.by_certificate(), *wanted, "-digest", "sha512")
    assert done.ok, done
    assert client.verify("new") == "new.pem: OK\n"


def test_kur_twice_in_a_row(client: Client) -> None:
    client.enroll("a")
    for before, after in (("a", "b"), ("b", "c")):
        wanted = ("-newkey", client.key(after), "-certout", f"{after}.pem")
        done = client.cmp(client.device, "kur", *client.by_certificate(before), *wanted)
        assert done.ok, done
    assert client.verify("c") == "c.pem: OK\n"


def test_kur_with_a_revoked_certificate(client: Client) -> None:
    old = client.enroll()
    client.service.site.revoke(old, RevocationReason.keyCompromise)
    done = client.cmp(
        client.device, "kur", *client.by_certificate(), "-newkey", client.key("new"), "-certout", "new.pem"
    )
    client.refused(done, "the CMP protection certificate has been revoked", "certRevoked", "error", operation="kur")


# ----------------------------------------------------------------------------------------------------- confirmation


def test_implicit_confirmation(client: Client) -> None:
    """RFC 9483 §4.1.1: granted, so one exchange is all, and the certificate is valid."""
    done = client.cmp(client.device, "ir", *client.by_secret(), *client.wanted(), "-implicit_confirm")
    assert done.ok, done
    assert done.sent == ["IR"]
    assert client.status("new") is CertificateStatus.valid


def test_implicit_confirmation_that_the_profile_does_not_grant(client: Client) -> None:
    url = f"{client.service.url}/.well-known/cmp/p/strict"
    done = client.cmp(url, "ir", *client.by_secret(profile="strict"), *client.wanted(), "-implicit_confirm")
    assert done.ok, done
    assert done.sent == ["IR", "CERTCONF"]
    assert client.status("new") is CertificateStatus.valid


def test_a_certificate_that_the_client_rejects_is_revoked(client: Client) -> None:
    """openssl cannot verify it with the trust anchor it is told to use, and says so in its certConf."""
    shared = client.service.shared.folder
    options = ("-out_trusted", str(shared / "tls.pem"))
    done = client.cmp(client.device, "ir", *client.by_secret(), *client.wanted(), *options)
    assert (done.status, done.sent, done.received) == (1, ["IR", "CERTCONF"], ["IP", "PKICONF"])
    record = client.daemon.exchange(operation="certConf", outcome="rejected")
    found = client.service.site.certificates(status=CertificateStatus.revoked)
    assert record["serial"] in {f"{certificate.serial:x}" for certificate in found}


# --------------------------------------------------------------------------------------------------------- refusals


def test_a_wrong_secret(client: Client) -> None:
    """Nothing that the client could verify is to be had; the operator sees why, and no state has changed."""
    reference = client.service.reference()
    before = client.service.site.certificates()
    done = client.cmp(client.device, "ir", *client.by_secret(reference, "wrong"), *client.wanted())
    assert (done.status, done.received) == (1, ["ERROR"])
    assert "CMP error: missing protection" in done.text
    record = client.daemon.exchange(operation="ir", outcome="error", fail_info="badMessageCheck")
    assert record["private"] == f"wrong secret, or the message was changed; reference {reference}"
    transaction_id = bytes.fromhex(record["transaction_id"])
    assert client.service.site.store(lambda store: store.transaction(transaction_id)) is None
    assert client.service.site.certificates() == before
    assert client.service.site.used(reference) == 0
    done = client.cmp(client.device, "ir", *client.by_secret(reference), *client.wanted())
    assert done.ok, done


def test_an_unknown_reference_looks_like_a_wrong_secret(client: Client) -> None:
    refusals = []
    for reference in ("nobody", client.service.reference()):
        options = (*client.by_secret(reference, "wrong"), *client.wanted(), "-unprotected_errors")
        done = client.cmp(client.device, "ir", *options)
        assert done.status == 1
        refusals.append(done.text[done.text.index("CMP info: sending") :])
        client.daemon.exchange(outcome="error", fail_info="badMessageCheck")
    assert refusals[0] == refusals[1]


def test_an_expired_code(client: Client) -> None:
    reference = client.service.reference(valid=timedelta(seconds=-1))
    done = client.cmp(client.device, "ir", *client.by_secret(reference), *client.wanted())
    record = client.daemon.exchange(operation="ir", fail_info="notAuthorized")
    assert record["reason"].startswith("enrollment code expired at ")
    assert done.status == 1
    assert f'PKIFailureInfo: notAuthorized; StatusString: "{record["reason"]}"' in done.text, done


def test_a_revoked_code(client: Client, cmpd: Command) -> None:
    reference = client.service.reference()
    config = str(client.service.site.config)
    assert cmpd("code", "revoke", "--config", config, "--profile", "device", "--reference", reference)[0] == 0
    done = client.cmp(client.device, "ir", *client.by_secret(reference), *client.wanted())
    client.refused(done, "enrollment code has been revoked", "notAuthorized", "error")


def test_a_code_that_has_been_used(client: Client) -> None:
    reference = client.service.reference()
    done = client.cmp(client.device, "ir", *client.by_secret(reference), *client.wanted("first"))
    assert done.ok, done
    done = client.cmp(client.device, "ir", *client.by_secret(reference), *client.wanted())
    client.refused(done, "enrollment code has been used up", "notAuthorized", "error")
    assert client.service.site.used(reference) == 1


def test_a_code_of_another_profile(client: Client) -> None:
    reference = client.service.reference(profile="strict")
    done = client.cmp(client.device, "ir", *client.by_secret(reference), *client.wanted())
    assert done.status == 1
    client.daemon.exchange(profile="device", fail_info="badMessageCheck")


def test_unprotected_requests_are_refused(client: Client) -> None:
    before = client.service.site.certificates()
    done = client.cmp(client.device, "ir", "-unprotected_requests", *client.wanted(), "-unprotected_errors")
    client.refused(done, "the message is not protected", "badMessageCheck", "error")
    assert client.service.site.certificates() == before


def test_a_request_for_revocation_is_not_supported_yet_and_says_so(client: Client) -> None:
    client.enroll()
    done = client.cmp(client.device, "rr", *client.by_certificate(), "-oldcert", "old.pem")
    assert done.status == 1
    record = client.daemon.exchange(operation="rr")
    assert f'PKIFailureInfo: {record["fail_info"]}; StatusString: "{record["reason"]}"' in done.text, done
    assert client.status("old") is CertificateStatus.valid


def test_an_unknown_profile_is_404(client: Client) -> None:
    url = f"{client.service.url}/.well-known/cmp/p/nobody"
    done = client.cmp(url, "ir", *client.by_secret(), *client.wanted())
    assert done.status == 1
    assert "code=404" in done.text
    client.daemon.until("refused", status=404, target="/.well-known/cmp/p/nobody")


# ------------------------------------------------------------------------------------------------------------- HTTP


@pytest.mark.parametrize(
    "path",
    [
        "/.well-known/cmp",
        "/.well-known/cmp/initialization",
        "/.well-known/cmp/p/device/initialization",
        "/cmp/{id}",
        "/cmp/{id}/initialization",
    ],
)
def test_every_path_of_a_profile(client: Client, path: str) -> None:
    """RFC 9811 §3.4, RFC 9483 §6.1: with and without profile and operation, and the profile's own URL."""
    profile = (client.service.site.folder / "profiles" / "device.toml").read_text()
    path = path.format(id=tomllib.loads(profile)["id"])
    done = client.cmp(f"{client.service.url}{path}", "ir", *client.by_secret(), *client.wanted())
    assert done.ok, done
    client.daemon.exchange(operation="ir", profile="device", outcome="accepted")


def test_an_operation_in_the_path_must_be_that_of_the_request(client: Client) -> None:
    done = client.cmp(f"{client.device}/keyupdate", "ir", *client.by_secret(), *client.wanted())
    record = client.daemon.exchange(operation="ir")
    assert done.status == 1
    assert f'PKIFailureInfo: {record["fail_info"]}; StatusString: "{record["reason"]}"' in done.text, done


def test_the_same_octets_again_get_the_same_certificate_again(client: Client) -> None:
    """A recorded ir, sent once more by the same client: nothing is issued, and the code is used once."""
    reference = client.service.reference()
    options = (*client.by_secret(reference), *client.wanted(), "-implicit_confirm")
    assert client.cmp(client.device, "ir", *options, "-reqout", "recorded.der").ok
    first = client.certificate("new.pem")
    (client.folder / "new.pem").unlink()
    done = client.cmp(client.device, "ir", *options, "-reqin", "recorded.der")
    assert done.ok, done
    assert client.certificate("new.pem") == first
    client.daemon.exchange(operation="ir", outcome="repeated")
    assert client.service.site.used(reference) == 1


@pytest.mark.parametrize("keep_alive", ["0", "1", "2"])
def test_connections_kept_and_not(client: Client, keep_alive: str) -> None:
    """openssl speaks HTTP/1.0; with 2 it insists that the connection is kept for the certConf."""
    done = client.cmp(client.device, "ir", *client.by_secret(), *client.wanted(), "-keep_alive", keep_alive)
    assert done.ok, done
    assert done.sent == ["IR", "CERTCONF"]


def test_tls(client: Client) -> None:
    shared = client.service.shared.folder
    url = f"https://{client.daemon.tls}{DEVICE}"
    options = ("-tls_used", "-tls_trusted", str(shared / "tls.pem"), "-keep_alive", "2")
    done = client.cmp(url, "ir", *client.by_secret(), *client.wanted(), *options)
    assert done.ok, done
    assert client.verify("new") == "new.pem: OK\n"
    done = client.cmp(url, "ir", *client.by_secret(), *client.wanted("other"), "-tls_used", "-tls_trusted", client.root)
    assert (done.status, done.received) == (1, [])


# -------------------------------------------------------------------------------------------------- what is known of it


def test_a_revoked_certificate_is_on_the_crl_that_it_names(client: Client) -> None:
    """The CRL comes from the running daemon, at the URL in the certificate; `openssl verify` believes it."""
    revoked, kept = client.enroll("revoked"), client.enroll("kept")
    (point,) = kept.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    url = point.full_name[0].value
    assert url.startswith(f"{client.service.url}/")

    def crl() -> str:
        status, data = client.daemon.http("GET", url.removeprefix(client.service.url))
        assert status == 200
        (client.folder / "crl.der").write_bytes(data)
        client.right("crl", "-inform", "DER", "-in", "crl.der", "-out", "crl.pem")
        return client.right("crl", "-in", "crl.pem", "-noout", "-text")

    check = ("-crl_check", "-CRLfile", "crl.pem")
    assert f"{revoked.serial_number:X}" not in crl()
    assert client.verify("revoked", *check) == "revoked.pem: OK\n"
    client.service.site.revoke(revoked, RevocationReason.keyCompromise)
    text = crl()
    assert f"{revoked.serial_number:X}" in text
    assert "Key Compromise" in text
    assert client.verify("kept", *check) == "kept.pem: OK\n"
    done = client.run("verify", "-CAfile", client.root, "-untrusted", client.chain, *check, "revoked.pem")
    assert done.status == 2
    assert "error 23 at 0 depth lookup: certificate revoked" in done.text
    issuing = x509.load_pem_x509_certificates(Path(client.chain).read_bytes())[0]
    client.write("issuing.pem", issuing)
    assert "verify OK" in client.run("crl", "-in", "crl.pem", "-noout", "-CAfile", "issuing.pem").text


@pytest.mark.parametrize("by", ["secret", "certificate"])
def test_cmpd_show_reads_and_verifies_what_went_over_the_wire(client: Client, cmpd: Command, by: str) -> None:
    """`-reqout` and `-rspout` files given to `cmpd show`, with the secret or the trust anchor, and with wrong ones."""
    files = ("-reqout", "q1.der,q2.der", "-rspout", "r1.der,r2.der")
    if by == "secret":
        source = client.secret(SECRET)
        done = client.cmp(client.device, "ir", *client.by_secret(), *client.wanted(), *files)
        right = ("--secret", f"file:{client.folder / source.removeprefix('file:')}")
        wrong = ("--secret", "pass:wrong")
    else:
        client.enroll()
        wanted = ("-newkey", client.key("new"), "-certout", "new.pem")
        done = client.cmp(client.device, "kur", *client.by_certificate(), *wanted, *files)
        right, wrong = ("--trusted", client.root), ("--trusted", str(client.service.shared.folder / "tls.pem"))
    assert done.ok, done
    bodies = ["ir", "ip"] if by == "secret" else ["kur", "kup"]
    for name, body in zip(["q1", "r1", "q2", "r2"], [*bodies, "certConf", "pkiconf"], strict=True):
        # the client has not sent the certificate of the CA that issued its own, since it was not told to
        trust = ("--trusted", client.chain) if by == "certificate" and name.startswith("q") else right
        status, out, err = cmpd("show", str(client.folder / f"{name}.der"), "--json", *trust)
        assert status == 0, err
        found = json.loads(out)
        assert (found["message"], found["verified"]) == (body, True)
    status, _, err = cmpd("show", str(client.folder / "r1.der"), *wrong)
    assert status == 1
    assert "the protection is not right" in err


def test_a_certificate_that_is_never_confirmed_is_revoked(service: Service) -> None:
    """RFC 9483 §4.1.1: the client of the fixture left without a certConf; the sweep has ended its transaction."""
    client = Client(service.shared.folder / ABANDONED, service)
    certificate = client.certificate("new.pem")
    serial = f"{certificate.serial_number:x}"
    while not any(r["event"] == "transaction expired" and r["serial"] == serial for r in service.daemon.records):
        service.daemon.until("transaction expired")
    assert client.status("new") is CertificateStatus.revoked
    _, data = service.daemon.http("GET", "/crl/local.crl")
    crl = x509.load_der_x509_crl(data)
    assert crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
