"""The stock `openssl cmp` client against a daemon with a profile from each template: granted, refused, renewed, linted.

None of the templates says what type of issuer it is for, so that all six work with the local CA, the public ones too.
What comes out is verified by `openssl verify`, and linted under the rules that it has to keep.
"""

import contextlib
import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from cmpd import asn1, cli
from cmpd.exchange import CertificateStatus
from cmpd.limits import Limits
from cmpd.lint import Kind, lint
from cmpd.profile.rules import max_validity
from tests.daemon import ROOT, SECRET, FreePort, Site
from tests.ee import new_key
from tests.interop.openssl import Client, Done, OpenSSL, Service, key_pem
from tests.lint.noted import NOTED, TLS_NOTED
from tests.world import certificate as certificate_of

PLACES = """
        crl_distribution_points = ["http://crl.example.com/issuing.crl"]
        authority_information_access = { ca_issuers = ["http://ca.example.com/issuing.cer"] }
"""
"""URLs that a public CA would have: 127.0.0.1, where the daemon's CRL is, is an internal name to the linter."""
PROFILES = {
    "user": """
        base_template = "generic-user"
        [organization]
        name = "Example GmbH"
        [subject]
        name_split = "last-word-is-surname"
        [san]
        email = { allowed_domains = ["example.com"] }
        upn = { allowed_domains = ["corp.example.com"] }
    """,
    "device": """
        base_template = "generic-device"
        [subject]
        serial_number = { pattern = "[0-9]{4,8}" }
        [san]
        dns = { allowed_domains = [".plant.example.com"] }
        ip = { allowed_ranges = ["10.0.0.0/8"] }
        uri = { allowed_schemes = ["urn"] }
        [extensions.requested]
        tls_feature = "honour"
        ms_sid = "refuse"
    """,
    "mail": f"""
        base_template = "private-smime"
        [organization]
        name = "Example GmbH"
        identifier = "VATDE-123456789"
        [subject]
        order = ["country_name", "organization_name", "organization_identifier", "given_name", "surname", "common_name"]
        [san]
        email = {{ allowed_domains = ["example.com", ".example.com"], max = 2 }}
        [extensions]{PLACES}
    """,
    "mail-signing": """
        base_template = "private-smime"
        [certificate_type]
        usage = "signing"
        [san]
        email = { pattern = '[a-z]+@example\\.com' }
    """,
    "server": """
        base_template = "certcentral-private-server"
        [organization]
        name = "Example GmbH"
        [san]
        dns = { allowed_domains = ["example.com", ".example.com"] }
        ip = { allowed_ranges = ["192.0.2.0/24"] }
    """,
    "server-short": """
        base_template = "certcentral-private-server"
        [validity]
        default = "20d"
    """,
    "public-mail": f"""
        base_template = "public-smime"
        lint = "enforce"
        [certificate_type]
        validation_type = "sponsor"
        [organization]
        name = "Example GmbH"
        identifier = "VATDE-123456789"
        [enrollment]
        trusted_certificates = ["vendor-root.pem"]
        [subject]
        name_split = "last-word-is-surname"
        country_name = {{ source = "fixed", value = "DE" }}
        [san]
        email = {{ allowed_domains = ["example.com"] }}
        [extensions]{PLACES}
    """,
    "public-server": f"""
        base_template = "certcentral-public-server"
        lint = "enforce"
        [organization]
        name = "Example GmbH"
        [subject]
        country_name = {{ source = "fixed", value = "DE" }}
        locality_name = {{ source = "fixed", value = "Bonn" }}
        [san]
        dns = {{ allowed_domains = ["example.com", ".example.com"] }}
        [extensions]{PLACES}
    """,
    "public-domain": f"""
        base_template = "certcentral-public-server"
        lint = "enforce"
        [certificate_type]
        validation_type = "domain"
        [validity]
        default = "20d"
        [extensions]{PLACES}
    """,
    "public-unclean": """
        base_template = "certcentral-public-server"
        lint = "enforce"
        [certificate_type]
        validation_type = "domain"
    """,
}
"""What a profile says beside its id and its issuer, by its name."""

PUBLIC = min(199, max_validity("tls", None, datetime.now(UTC).date()).days)
"""Days of a server's certificate, which by the TLS BR become fewer year by year."""
EMAIL = "subjectAltName = email:ada@example.com"
REQUESTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "user": ("/CN=Ada Byron", EMAIL, ()),
    "device": ("/CN=press-1", "", ()),
    "mail": ("/CN=Ada Byron", EMAIL, ()),
    "server": ("/CN=www.example.com", "", ("-sans", "www.example.com")),
    "server-short": ("/CN=www.example.com", "", ("-sans", "www.example.com")),
    "public-mail": ("/CN=Ada Byron", EMAIL, ()),
    "public-server": ("/CN=www.example.com", "", ("-sans", "www.example.com")),
    "public-domain": ("/CN=www.example.com", "", ("-sans", "www.example.com")),
}
"""A request that a profile grants: subject, extensions and options."""


class Enrollee(Client):
    """An end entity that asks the profiles of this module."""

    def ask(
        self,
        profile: str,
        subject: str,
        wanted: str = "",
        options: Sequence[str] = (),
        *,
        kind: str = "P-256",
    ) -> Done:
        """Ask for new.pem; `wanted` are the extensions, as in a section of openssl's configuration."""
        if wanted:
            (self.folder / "req.cnf").write_text(f"[wanted]\n{wanted}\n")
            options = ("-config", "req.cnf", "-reqexts", "wanted", *options)
        return self.cmp(
            self.url(profile), "ir", *self.by_what_it_has(profile), *self.wanted("new", subject, kind), *options
        )

    def url(self, profile: str) -> str:
        return f"{self.service.url}/.well-known/cmp/p/{profile}"

    def by_what_it_has(self, profile: str) -> tuple[str, ...]:
        """Options for the profile's way to authenticate: the badge that its vendor made, or the code."""
        if profile != "public-mail":
            return self.by_secret(f"code-{profile}")
        shared = self.service.shared.folder
        return ("-cert", str(shared / "vendor.pem"), "-key", str(shared / "vendor.key"), "-trusted", self.root)

    def renew(self, profile: str, *options: str) -> Done:
        """Update new.pem to newer.pem."""
        wanted = ("-newkey", self.key("newer"), "-certout", "newer.pem")
        return self.cmp(self.url(profile), "kur", *self.by_certificate("new"), *wanted, *options)

    def refused_in_words(self, done: Done, text: str, fail_info: str, **fields: str) -> None:
        """As `refused`; in the text there may be a DATE."""
        found = re.search(r'StatusString: "(.*)"; cannot extract', done.text)
        assert found is not None, done
        assert re.sub(r"\d{4}-\d\d-\d\dT[0-9:]{8}Z", "DATE", found[1]) == text
        self.refused(done, found[1], fail_info, **fields)

    def findings(self, kind: Kind, name: str = "new") -> set[str]:
        """What the linter says of a certificate."""
        found = lint(self.certificate(f"{name}.pem").public_bytes(serialization.Encoding.DER), kind)
        return {one.code for one in found}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, site_store: str | None) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("templates")
    port = FreePort()
    site = Site.make(folder / "cmpd", port.listen, site_store)
    root_key, key = new_key(), new_key()
    root = certificate_of(root_key, "Vendor Root", ca=True)
    vendor = certificate_of(key, "badge 0815", root_key, root)
    (site.folder / "profiles" / "vendor-root.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    for name, text in PROFILES.items():
        identity = f'id = "an-id-for-{name}-{"x" * 22}"\nissuer = "local"'
        (site.folder / "profiles" / f"{name}.toml").write_text(f"{identity}\n{text}")
        site.code(f"code-{name}", profile=name, uses=None)
    shared = OpenSSL(folder)
    shared.write("vendor.pem", vendor)
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
        yield Service(site, daemon, shared, vendor)
        daemon.stop()
    assert [record for record in daemon.records if record["level"] != "info"] == []
    assert SECRET not in json.dumps(daemon.records)


@pytest.fixture
def client(service: Service, tmp_path: Path) -> Enrollee:
    service.daemon.catch_up()
    return Enrollee(tmp_path, service)


# ---------------------------------------------------------------------------------------------------------- granted


@dataclass(frozen=True, slots=True)
class Granted:
    """A request and the certificate that comes of it."""

    profile: str
    subject: str
    """As requested, in the words of `-subject`."""
    wanted: str
    """The requested extensions."""
    got: str
    """The subject that is issued."""
    names: tuple[str, ...]
    usages: str
    purposes: str
    kind: Kind
    """The linter."""
    options: tuple[str, ...] = ()
    key: str = "P-256"
    modified: str = ""
    """The statusString of grantedWithMods; empty when all is as requested."""
    noted: frozenset[str] = frozenset(NOTED)
    """All that the linter may say."""
    verify: tuple[str, ...] = ()


GRANTED = (
    Granted(
        "user",
        "/C=DE/O=Example GmbH/OU=West/OU=Research/UID=ada/CN=Ada Byron",
        "keyUsage = critical, digitalSignature, keyAgreement\n"
        "extendedKeyUsage = clientAuth, emailProtection, msSmartcardLogin\n"
        "subjectAltName = email:ada@example.com, otherName:msUPN;UTF8:ada@corp.example.com, URI:https://example.com/a",
        "C=DE,O=Example GmbH,OU=West,OU=Research,SN=Byron,GN=Ada,CN=Ada Byron,UID=ada",
        ("ada@example.com", "ada@corp.example.com", "https://example.com/a"),
        "Digital Signature, Key Agreement",
        "TLS Web Client Authentication, E-mail Protection, Microsoft Smartcard Login",
        "pkix",
        modified="subject.given_name added; subject.surname added",
        verify=("-purpose", "sslclient", "-verify_email", "ada@example.com"),
    ),
    Granted(
        "user",
        "/O=Example GmbH/serialNumber=0815/GN=Grace/SN=Hopper/title=Dr/CN=G. B. M. Hopper",
        "keyUsage = digitalSignature, nonRepudiation\nextendedKeyUsage = clientAuth",
        "O=Example GmbH,serialNumber=0815,GN=Grace,SN=Hopper,title=Dr,CN=G. B. M. Hopper",
        (),
        "Digital Signature, Non Repudiation",
        "TLS Web Client Authentication",
        "pkix",
        key="ed25519",
        verify=("-purpose", "sslclient"),
    ),
    Granted(
        "device",
        "/C=DE/ST=NRW/L=Bonn/OU=Halle 7/serialNumber=4711/CN=press-2",
        "keyUsage = critical, digitalSignature, keyAgreement\n"
        "extendedKeyUsage = clientAuth, serverAuth\n"
        "tlsfeature = status_request",
        "C=DE,ST=NRW,L=Bonn,OU=Halle 7,serialNumber=4711,CN=press-2",
        ("press-2.plant.example.com", "10.1.2.3", "urn:dev:7"),
        "Digital Signature, Key Agreement",
        "TLS Web Client Authentication, TLS Web Server Authentication",
        "pkix",
        ("-sans", "press-2.plant.example.com,10.1.2.3,urn:dev:7"),
        noted=frozenset(NOTED | {"pkix.invalid_uri_syntax"}),  # pkilint knows the syntax of URLs, and this is a URN
        verify=("-purpose", "sslserver", "-verify_ip", "10.1.2.3"),
    ),
    Granted(
        "device",
        "/CN=press-3",
        "keyUsage = critical, digitalSignature\nnsComment = hello",
        "CN=press-3",
        (),
        "Digital Signature, Key Encipherment",
        "TLS Web Client Authentication",
        "pkix",
        key="rsa",
        modified="extension 2.16.840.1.113730.1.13 (netscape_comment) left out; key usage key_encipherment added",
    ),
    Granted(
        "mail",
        "/CN=Ada Byron/GN=Ada/SN=Byron/C=DE/O=Example GmbH/organizationIdentifier=VATDE-123456789",
        "keyUsage = critical, digitalSignature, keyAgreement\n"
        "extendedKeyUsage = emailProtection\n"
        "subjectAltName = email:ada@example.com, email:a.byron@west.example.com",
        "C=DE,O=Example GmbH,organizationIdentifier=VATDE-123456789,GN=Ada,SN=Byron,CN=Ada Byron",
        ("ada@example.com", "a.byron@west.example.com"),
        "Digital Signature, Key Agreement",
        "E-mail Protection",
        "smime",
        modified="subject put in order",
        # a private CA has no policy of the S/MIME BR
        noted=frozenset(NOTED | {"cabf.smime.certificate_policies_extension_missing"}),
        verify=("-purpose", "smimesign", "-verify_email", "a.byron@west.example.com"),
    ),
    Granted(
        "mail-signing",
        "/CN=Ada Byron/GN=Ada/SN=Byron/emailAddress=ada@example.com",
        f"keyUsage = critical, digitalSignature, nonRepudiation, dataEncipherment\n{EMAIL}",
        "CN=Ada Byron,GN=Ada,SN=Byron,emailAddress=ada@example.com",
        ("ada@example.com",),
        "Digital Signature, Non Repudiation",
        "E-mail Protection",
        "pkix",
        key="ed25519",
        modified="key usage data_encipherment left out",
        verify=("-purpose", "smimesign", "-verify_email", "ada@example.com"),
    ),
    Granted(
        "server",
        "/C=DE/ST=NRW/L=Bonn/O=Example GmbH/OU=Web/CN=www.example.com",
        "keyUsage = critical, digitalSignature, keyEncipherment\nextendedKeyUsage = serverAuth, clientAuth",
        "C=DE,ST=NRW,L=Bonn,O=Example GmbH,OU=Web,CN=www.example.com",
        ("www.example.com", "example.com", "192.0.2.7"),
        "Digital Signature, Key Encipherment",
        "TLS Web Server Authentication, TLS Web Client Authentication",
        "pkix",
        ("-sans", "www.example.com,example.com,192.0.2.7"),
        key="rsa",
        verify=("-purpose", "sslserver", "-verify_hostname", "www.example.com"),
    ),
    Granted(
        "server",
        "/O=Example GmbH/CN=192.0.2.8",
        "keyUsage = critical, digitalSignature, keyEncipherment\nextendedKeyUsage = serverAuth, emailProtection",
        "O=Example GmbH,CN=192.0.2.8",
        ("api.example.com", "192.0.2.8"),
        "Digital Signature",
        "TLS Web Server Authentication",
        "pkix",
        ("-sans", "api.example.com,192.0.2.8"),
        key="P-384",
        modified="key usage key_encipherment left out; extended key usage email_protection left out",
        verify=("-purpose", "sslserver", "-verify_ip", "192.0.2.8"),
    ),
    Granted(
        "public-mail",
        "/C=DE/O=Example GmbH/organizationIdentifier=VATDE-123456789/GN=Ada/SN=Byron/CN=Ada Byron",
        f"keyUsage = critical, digitalSignature, keyAgreement\nextendedKeyUsage = emailProtection\n{EMAIL}",
        "C=DE,O=Example GmbH,organizationIdentifier=VATDE-123456789,GN=Ada,SN=Byron,CN=Ada Byron",
        ("ada@example.com",),
        "Digital Signature, Key Agreement",
        "E-mail Protection",
        "smime",
        verify=("-purpose", "smimesign", "-verify_email", "ada@example.com"),
    ),
    Granted(
        "public-mail",
        "/CN=Ada Byron",
        EMAIL,
        "C=DE,O=Example GmbH,organizationIdentifier=VATDE-123456789,SN=Byron,GN=Ada,CN=Ada Byron",
        ("ada@example.com",),
        "Digital Signature, Key Encipherment",
        "E-mail Protection",
        "smime",
        key="rsa",
        modified="subject.given_name added; subject.surname added; subject.country_name added; "
        "subject.organization_name added; subject.organization_identifier added",
        verify=("-purpose", "smimeencrypt", "-verify_email", "ada@example.com"),
    ),
    Granted(
        "public-server",
        "/C=DE/L=Bonn/O=Example GmbH/CN=www.example.com",
        "keyUsage = critical, digitalSignature\nextendedKeyUsage = serverAuth",
        "C=DE,L=Bonn,O=Example GmbH,CN=www.example.com",
        ("www.example.com", "example.com"),
        "Digital Signature",
        "TLS Web Server Authentication",
        "tls",
        ("-sans", "www.example.com,example.com"),
        noted=frozenset(TLS_NOTED),
        verify=("-purpose", "sslserver", "-verify_hostname", "example.com"),
    ),
    Granted(
        "public-domain",
        "/CN=www.example.com",
        "extendedKeyUsage = serverAuth, clientAuth",
        "CN=www.example.com",
        ("www.example.com",),
        "Digital Signature",
        "TLS Web Server Authentication",
        "tls",
        ("-sans", "www.example.com"),
        key="rsa",
        modified="extended key usage client_auth left out",
        noted=frozenset(TLS_NOTED),
        verify=("-purpose", "sslserver", "-verify_hostname", "www.example.com"),
    ),
)


@pytest.mark.parametrize("case", GRANTED, ids=lambda case: f"{case.profile} {case.key} {case.subject}")
def test_what_is_requested_is_what_is_issued(client: Enrollee, case: Granted) -> None:
    """Or what the profile makes of it, and then openssl is told grantedWithMods, and what they are."""
    done = client.ask(case.profile, case.subject, case.wanted, (*case.options, "-rspout", "ip.der"), kind=case.key)
    assert done.ok, done
    assert (done.sent, done.received) == (["IR", "CERTCONF"], ["IP", "PKICONF"])
    assert subject_of(client) == case.got
    assert names_of(client.certificate("new.pem")) == case.names
    assert usages_of(client) == (case.usages, case.purposes)
    assert ('received "grantedWithMods"' in done.text) == bool(case.modified)
    assert modified_in(client) == case.modified
    outcome = "grantedWithMods" if case.modified else "accepted"
    client.daemon.exchange(operation="ir", profile=case.profile, outcome=outcome)
    assert client.verify("new", *case.verify) == "new.pem: OK\n"
    assert client.findings(case.kind) <= case.noted
    assert client.status("new") is CertificateStatus.valid


def modified_in(client: Enrollee) -> str:
    """The statusString of the certificate in ip.der; openssl shows no more of it than that there are changes."""
    message = asn1.decode((client.folder / "ip.der").read_bytes(), Limits())
    (response,) = asn1.decode_body(message.body_type, message.body_der).response
    return "; ".join(response.status.statusString or ())


def subject_of(client: Enrollee, name: str = "new") -> str:
    """As openssl says it."""
    text = client.right("x509", "-in", f"{name}.pem", "-noout", "-subject", "-nameopt", "sep_comma_plus,utf8")
    return text.strip().removeprefix("subject=")


def usages_of(client: Enrollee, name: str = "new") -> tuple[str, str]:
    """Key usage and extended key usage as openssl says them; the former is critical, the latter not."""
    extensions = "keyUsage,extendedKeyUsage"
    lines = client.right("x509", "-in", f"{name}.pem", "-noout", "-ext", extensions).splitlines()
    assert [line.strip() for line in lines[::2]] == ["X509v3 Key Usage: critical", "X509v3 Extended Key Usage:"]
    usages, purposes = (line.strip() for line in lines[1::2])
    return usages, purposes


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The subjectAltName, which must not be critical; an otherName is a UTF8String."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    assert not extension.critical
    values = [name.value for name in extension.value]
    return tuple(value[2:].decode() if isinstance(value, bytes) else str(value) for value in values)


@pytest.mark.parametrize("profile", ["user", "mail", "server", "public-mail", "public-server"])
def test_the_organization_is_the_profiles_whatever_is_requested(client: Enrollee, profile: str) -> None:
    """[organization] is bound: another O is replaced, and so is another organizationIdentifier where there is one."""
    subject, wanted, options = REQUESTS[profile]
    done = client.ask(profile, f"/O=Evil Ltd{subject}", wanted, (*options, "-rspout", "ip.der"))
    assert done.ok, done
    assert 'received "grantedWithMods"' in done.text
    assert "subject.organization_name replaced" in modified_in(client)
    (organization,) = client.certificate("new.pem").subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    assert organization.value == "Example GmbH"


@pytest.mark.parametrize(("profile", "days"), [("user", 100), ("device", 1000), ("mail", 30)])
def test_the_validity_that_is_requested(client: Enrollee, profile: str, days: int) -> None:
    """`-days`, where the template lets a request ask."""
    subject, wanted, options = REQUESTS[profile]
    done = client.ask(profile, subject.replace("press-1", "press-4"), wanted, (*options, "-days", str(days)))
    assert done.ok, done
    certificate = client.certificate("new.pem")
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == timedelta(days=days)


@pytest.mark.parametrize(
    ("profile", "days"), [("server", 365), ("public-mail", 365), ("public-server", PUBLIC), ("public-domain", 20)]
)
def test_the_validity_is_the_profiles(client: Enrollee, profile: str, days: int) -> None:
    """`-days`, where the template does not let a request ask: it gets what the profile says, and is told."""
    subject, wanted, options = REQUESTS[profile]
    done = client.ask(profile, subject, wanted, (*options, "-days", "7", "-rspout", "ip.der"))
    assert done.ok, done
    assert modified_in(client).endswith("validity.notBefore replaced; validity.notAfter replaced")
    certificate = client.certificate("new.pem")
    lasts = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert lasts == timedelta(days=days, seconds=-1)


def test_p10cr(client: Enrollee) -> None:
    """RFC 9483 §4.1.4 for a server: names and usages are those of the PKCS #10 request, within the profile."""
    (client.folder / "req.cnf").write_text(
        "[wanted]\nsubjectAltName = DNS:www.example.com, DNS:*.example.com\nextendedKeyUsage = serverAuth, clientAuth\n"
    )
    csr = ("req", "-new", "-key", client.key("new", "rsa"), "-config", "req.cnf", "-reqexts", "wanted")
    client.right(*csr, "-subj", "/C=DE/O=Example GmbH/CN=www.example.com", "-out", "wild.csr")
    (client.folder / "req.cnf").write_text(
        "[wanted]\nsubjectAltName = DNS:www.example.com, DNS:a.example.com\nextendedKeyUsage = serverAuth, clientAuth\n"
    )
    client.right(*csr, "-subj", "/C=DE/O=Example GmbH/CN=www.example.com", "-out", "new.csr")
    by = client.by_what_it_has("server")
    done = client.cmp(client.url("server"), "p10cr", *by, "-csr", "wild.csr", "-certout", "new.pem")
    client.refused(done, WILDCARD, "badCertTemplate")
    done = client.cmp(client.url("server"), "p10cr", *by, "-csr", "new.csr", "-certout", "new.pem")
    assert done.ok, done
    assert subject_of(client) == "C=DE,O=Example GmbH,CN=www.example.com"
    assert names_of(client.certificate("new.pem")) == ("www.example.com", "a.example.com")
    purposes = "TLS Web Server Authentication, TLS Web Client Authentication"
    assert usages_of(client) == ("Digital Signature, Key Encipherment", purposes)
    assert client.verify("new", "-verify_hostname", "a.example.com") == "new.pem: OK\n"
    assert client.findings("pkix") <= NOTED


# ---------------------------------------------------------------------------------------------------------- refused

ADA = "/CN=Ada Byron"
PRESS = "/CN=press-5"
WWW = "/CN=www.example.com"
CN, KU, EKU = "subject.common_name", "extensions.key_usage", "extensions.extended_key_usage"
NAME = "this type of name is not accepted (san.on_unlisted)"
ATTRIBUTE = "this attribute is not accepted (subject.on_unlisted)"
WILDCARD = "san.dns: '*.example.com' is a wildcard, which is not allowed (san.dns.allow_wildcard)"
UNCLEAN = (
    "cRLDistributionPoints.0 (cabf.internal_domain_name), "
    "extensions (cabf.serverauth.subscriber.authority_info_access_extension_absent)"
)


@pytest.mark.parametrize(
    ("profile", "subject", "wanted", "options", "text"),
    [
        ("user", "/C=DE", EMAIL, "", f"{CN}: is required ({CN}.include)"),
        ("user", "/CN=Ada Byron/jurisdictionC=DE", "", "",
         f"subject.1.3.6.1.4.1.311.60.2.1.3 (jurisdictionC): {ATTRIBUTE}"),
        ("user", ADA, "subjectAltName = email:ada@example.org", "",
         "san.email: 'ada@example.org' is not in an allowed domain (san.email.allowed_domains)"),
        ("user", ADA, "subjectAltName = otherName:msUPN;UTF8:ada@example.com", "",
         "san.upn: 'ada@example.com' is not in an allowed domain (san.upn.allowed_domains)"),
        ("user", ADA, "", "-sans ada.example.com", f"san.dns: {NAME}"),
        ("user", ADA, "extendedKeyUsage = serverAuth", "",
         f"{EKU}: server_auth is not accepted ({EKU}.on_unlisted)"),
        ("user", ADA, "", "-days 1096", "validity.notAfter: is after DATE (validity.max)"),
        ("device", PRESS, "", "-sans plant.example.com",
         "san.dns: 'plant.example.com' is not in an allowed domain (san.dns.allowed_domains)"),
        ("device", PRESS, "", "-sans *.plant.example.com",
         "san.dns: '*.plant.example.com' is a wildcard, which is not allowed (san.dns.allow_wildcard)"),
        ("device", PRESS, "", "-sans 11.1.2.3",
         "san.ip: '11.1.2.3' is not in an allowed range (san.ip.allowed_ranges)"),
        ("device", PRESS, "", "-sans https://press.plant.example.com/",
         "san.uri: 'https://press.plant.example.com/' has a scheme that is not allowed (san.uri.allowed_schemes)"),
        ("device", PRESS, EMAIL, "", f"san.email: {NAME}"),
        ("device", "/CN=press-5/serialNumber=A1", "", "",
         "subject.serial_number: 'A1' does not match the pattern (subject.serial_number.pattern)"),
        ("device", PRESS, "keyUsage = nonRepudiation", "",
         f"{KU}: non_repudiation is not accepted for ecdsa keys ({KU}.on_unlisted)"),
        ("device", PRESS, "", "-days 1826", "validity.notAfter: is after DATE (validity.max)"),
        ("mail", ADA, "", "", "san.email: is required (san.email.include)"),
        ("mail", ADA, "subjectAltName = email:ada@example.org", "",
         "san.email: 'ada@example.org' is not in an allowed domain (san.email.allowed_domains)"),
        ("mail", ADA, "subjectAltName = email:a@example.com, email:b@example.com, email:c@example.com", "",
         "san.email: more than 2 of this type (san.email.max)"),
        ("mail", ADA, "subjectAltName = email:ada@example.com, DNS:example.com", "", f"san.dns: {NAME}"),
        ("mail", "/O=Example GmbH", EMAIL, "", f"{CN}: is required ({CN}.include)"),
        ("mail", ADA, EMAIL, "-days 1096", "validity.notAfter: is after DATE (validity.max)"),
        ("mail-signing", ADA, "subjectAltName = email:Ada@example.com", "",
         "san.email: 'Ada@example.com' does not match the pattern (san.email.pattern)"),
        ("server", WWW, "", "", "san.dns: is required (san.dns.include)"),
        ("server", "/O=Example GmbH", "", "-sans www.example.com", f"{CN}: is required ({CN}.include)"),
        ("server", WWW, "", "-sans www.example.com,*.example.com",
         WILDCARD),
        ("server", WWW, "", "-sans www.example.com,example.org",
         "san.dns: 'example.org' is not in an allowed domain (san.dns.allowed_domains)"),
        ("server", WWW, "", "-sans www.example.com,198.51.100.1",
         "san.ip: '198.51.100.1' is not in an allowed range (san.ip.allowed_ranges)"),
        ("server", WWW, "", "-sans api.example.com",
         f"{CN}: is not one of the names in san.dns, san.ip ({CN}_from)"),
        ("public-mail", ADA, "", "", "san.email: is required (san.email.include)"),
        ("public-mail", ADA, "subjectAltName = email:ada@example.org", "",
         "san.email: 'ada@example.org' is not in an allowed domain (san.email.allowed_domains)"),
        ("public-mail", "/CN=Grace Hopper/GN=Ada/SN=Byron", EMAIL, "",
         f"{CN}: is not one of the names in san.email, personal_name, pseudonym ({CN}_from)"),
        ("public-mail", "/CN=Ada Byron/GN=Ada/SN=Byron/pseudonym=Enchantress", EMAIL, "",
         "subject: a pseudonym does not go with given_name and surname (SM-IND, S/MIME BR §7.1.4.2.5)"),
        ("public-mail", "/CN=Ada Byron/UID=ada", EMAIL, "", f"subject.user_id: {ATTRIBUTE}"),
        ("public-server", WWW, "", "-sans www.example.com,*.example.com",
         WILDCARD),
        ("public-server", WWW, "", "-sans www.example.com,192.0.2.7", f"san.ip: {NAME}"),
        ("public-server", "/OU=Web/CN=www.example.com", "", "-sans www.example.com",
         f"subject.organizational_unit_name: {ATTRIBUTE}"),
        ("public-domain", "/CN=www.local", "", "-sans www.local",
         "san.dns: 'www.local' is an internal name (TLS-SAN-INTERNAL, TLS BR §4.2.2)"),
        ("public-domain", "/O=Example GmbH/CN=www.example.com", "", "-sans www.example.com",
         f"subject.organization_name: {ATTRIBUTE}"),
        ("public-unclean", WWW, "", "-sans www.example.com", f"lint: {UNCLEAN}"),
    ],
)  # fmt: skip
def test_a_refusal_names_field_and_rule(
    client: Enrollee, profile: str, subject: str, wanted: str, options: str, text: str
) -> None:
    """openssl shows the statusString to whoever asks; nothing is issued, and the log has the same words."""
    done = client.ask(profile, subject, wanted, options.split())
    client.refused_in_words(done, text, "badCertTemplate", operation="ir", profile=profile)


@pytest.mark.parametrize(
    ("profile", "kind", "text"),
    [
        ("user", "ed448", "publicKey: ed448 keys are not accepted (key.allowed_types)"),
        ("server", "P-521", "publicKey: curve P-521 is not accepted (key.ecdsa.allowed_curves)"),
        ("server", "ed25519", "publicKey: ed25519 keys are not accepted (key.allowed_types)"),
        ("public-mail", "ed25519", "publicKey: ed25519 keys are not accepted (key.allowed_types)"),
        ("public-server", "ed25519", "publicKey: ed25519 keys are not accepted (key.allowed_types)"),
    ],
)
def test_a_key_that_is_refused(client: Enrollee, profile: str, kind: str, text: str) -> None:
    subject, wanted, options = REQUESTS[profile]
    done = client.ask(profile, subject, wanted, options, kind=kind)
    client.refused_in_words(done, text, "badCertTemplate", profile=profile)


def test_an_extension_that_is_refused(client: Enrollee) -> None:
    done = client.ask("device", PRESS, "1.3.6.1.4.1.311.25.2 = ASN1:UTF8:S-1-5-21")
    text = "extensions: 1.3.6.1.4.1.311.25.2 (ms_sid) is not accepted (extensions.requested)"
    client.refused_in_words(done, text, "unacceptedExtension")


def test_what_the_linter_will_refuse_is_noticed_before(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    """`cmpd check` speaks of the one profile that has no URLs of its own, and passes."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["check", "--config", str(service.site.config)])
    assert ended.value.code == 0
    notices = [line.split(": ", 2) for line in capsys.readouterr().out.splitlines() if ": lint: " in line]
    assert {Path(path.split()[-1]).name for path, _, _ in notices} == {"public-unclean.toml"}
    crl, issuer = (text for _, _, text in notices)
    assert crl.startswith("'enforce' will find that the CRL's URL, http://127.0.0.1:")
    assert "the URL of the CA certificate is missing" in issuer


def test_a_key_that_has_a_certificate_gets_no_other(client: Enrollee) -> None:
    """key.same_key_elsewhere is false in every template."""
    assert client.ask("user", ADA).ok
    (client.folder / "new.pem").unlink()
    again = ("-newkey", "new.key", "-subject", ADA, "-certout", "new.pem")
    done = client.cmp(client.url("user"), "ir", *client.by_what_it_has("user"), *again)
    text = "publicKey: already has a certificate; make a new key (key.same_key_elsewhere)"
    client.refused_in_words(done, text, "badCertTemplate", profile="user")


def test_a_device_that_has_a_certificate_gets_no_other(client: Enrollee) -> None:
    """generic-device has seat.allow_duplicates = false; an update is no duplicate."""
    assert client.ask("device", "/CN=press-6", options=("-days", "30")).ok
    assert client.renew("device").ok
    (client.folder / "new.pem").unlink()
    done = client.ask("device", "/CN=press-6")
    text = "seat press-6: has a valid certificate already (seat.allow_duplicates); it ends at DATE"
    client.refused_in_words(done, text, "duplicateCertReq", profile="device")


# ---------------------------------------------------------------------------------------------------------- renewed


@pytest.mark.parametrize(
    ("profile", "days"),
    [("user", 90), ("device", 90), ("mail", 90), ("server", 30), ("public-mail", 30), ("public-server", 30)],
)
def test_kur_before_the_renewal_window_is_refused_with_the_date(client: Enrollee, profile: str, days: int) -> None:
    """renewal.window_days of the template: notAfter less so many days, to the second."""
    subject, wanted, options = REQUESTS[profile]
    assert client.ask(profile, subject.replace("press-1", "press-7"), wanted, options).ok
    opens = client.certificate("new.pem").not_valid_after_utc - timedelta(days=days)
    done = client.renew(profile)
    text = f"renewal: the certificate can be updated from {opens:%Y-%m-%dT%H:%M:%SZ} on (renewal.window_days)"
    assert f'PKIFailureInfo: badRequest; StatusString: "{text}"' in done.text, done
    assert (done.status, client.has("newer.pem")) == (1, False)
    record = client.daemon.exchange(operation="kur", profile=profile)
    assert (record["fail_info"], record["reason"]) == ("badRequest", text)


@pytest.mark.parametrize(
    ("profile", "kind", "noted"),
    [
        ("user", "pkix", NOTED),
        ("device", "pkix", NOTED),
        ("mail", "pkix", NOTED),
        ("server-short", "pkix", NOTED),
        ("public-domain", "tls", TLS_NOTED),
    ],
)
def test_kur_within_the_renewal_window(client: Enrollee, profile: str, kind: Kind, noted: set[str]) -> None:
    """A certificate that is short enough to be in the window at once: the update has its names, and a new key."""
    subject, wanted, options = REQUESTS[profile]
    options = (*options, "-days", "60")
    assert client.ask(profile, subject.replace("press-1", "press-8"), wanted, options).ok
    done = client.renew(profile)
    assert done.ok, done
    assert (done.sent, done.received) == (["KUR", "CERTCONF"], ["KUP", "PKICONF"])
    old, new = client.certificate("new.pem"), client.certificate("newer.pem")
    assert (new.subject, names_of(new), usages_of(client, "newer")) == (old.subject, names_of(old), usages_of(client))
    assert new.public_key() != old.public_key()
    assert client.verify("newer") == "newer.pem: OK\n"
    assert client.findings(kind, "newer") <= noted
    client.daemon.exchange(operation="kur", profile=profile, outcome="accepted")


# ------------------------------------------------------------------------------------------ profiles of the wizard

WIZARD: dict[str, tuple[str, ...]] = {
    "generic-user": (
        *("--organization", "Example GmbH", "--name-split", "last-word-is-surname"),
        *("--san", "email.allowed_domains=example.com", "--renewal-window", "30"),
    ),
    "generic-device": ("--san", "dns.allowed_domains=.plant.example.com", "--duplicates", "yes", "--validity", "30d"),
    "private-smime": ("--usage", "signing", "--organization", "Example GmbH", "--san", "email=required"),
    "certcentral-private-server": ("--key-types", "ecdsa", "--subject", "country_name=fixed:DE"),
    "public-smime": (
        *(
            "--authentication",
            "enrollment_code",
            "--validation-type",
            "sponsor",
            "--name-split",
            "last-word-is-surname",
        ),
        *("--organization", "Example GmbH", "--organization-identifier", "VATDE-123456789"),
    ),
    "certcentral-public-server": (
        *("--validation-type", "organization", "--organization", "Example GmbH"),
        *("--subject", "country_name=fixed:DE", "--subject", "locality_name=fixed:Bonn"),
    ),
}
"""The options of `cmpd profile new`, by template."""
OF_WIZARD: dict[str, tuple[str, tuple[str, ...], str, Kind, set[str]]] = {
    "generic-user": (ADA, ("-reqexts", "mail"), "O=Example GmbH,SN=Byron,GN=Ada,CN=Ada Byron", "pkix", NOTED),
    "generic-device": (PRESS, ("-sans", "press.plant.example.com"), "CN=press-5", "pkix", NOTED),
    "private-smime": (ADA, ("-reqexts", "mail"), "O=Example GmbH,CN=Ada Byron", "pkix", NOTED),
    "certcentral-private-server": (WWW, ("-sans", "www.example.com"), "C=DE,CN=www.example.com", "pkix", NOTED),
    "public-smime": (
        *(
            ADA,
            ("-reqexts", "mail"),
            "O=Example GmbH,organizationIdentifier=VATDE-123456789,SN=Byron,GN=Ada,CN=Ada Byron",
        ),
        *("smime", NOTED),
    ),
    "certcentral-public-server": (
        *(WWW, ("-sans", "www.example.com"), "C=DE,L=Bonn,O=Example GmbH,CN=www.example.com", "tls", TLS_NOTED),
    ),
}
"""What is requested of the profile, and what comes out."""


@pytest.fixture(scope="module")
def wizard(service: Service) -> dict[str, str]:
    """Profiles by the command line alone, put into use by SIGHUP; the URL to copy, by template."""
    urls = {}
    for template, options in WIZARD.items():
        places = (
            *("--crl-distribution-points", "http://crl.example.com/issuing.crl"),
            *("--ca-issuers", "http://ca.example.com/issuing.cer"),
        )
        arguments = ("--name", f"w-{template}", "--template", template, *options, *places, "--lint", "warn")
        with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit) as ended:
            cli.main(("profile", "new", *arguments, "--yes", "--json", "--config", str(service.site.config)))
        assert ended.value.code == 0
        urls[template] = json.loads(out.getvalue())["url"]
    service.daemon.catch_up()
    service.daemon.signal(signal.SIGHUP)
    service.daemon.until("reloaded")
    return urls


@pytest.mark.parametrize("template", WIZARD)
def test_a_profile_of_the_wizard(client: Enrollee, wizard: dict[str, str], template: str) -> None:
    subject, options, got, kind, noted = OF_WIZARD[template]
    (client.folder / "req.cnf").write_text(f"[mail]\n{EMAIL}\n")
    by = client.by_secret(profile=f"w-{template}")
    options = ("-config", "req.cnf", *options)
    done = client.cmp(wizard[template], "ir", *by, *client.wanted("new", subject), *options)
    assert done.ok, done
    assert subject_of(client) == got
    assert client.verify("new") == "new.pem: OK\n"
    assert client.findings(kind) <= noted
    record = client.daemon.exchange(operation="ir", profile=f"w-{template}")
    assert record["outcome"] in {"accepted", "grantedWithMods"}
