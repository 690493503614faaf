"""`cmpd service-user`: a set of certificates is filled, listed and emptied beside a running daemon."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd import cli
from cmpd.cli.names import encodings
from cmpd.profile import parse_name
from cmpd.store import AdminStore
from tests.daemon import Site
from tests.ee import new_key
from tests.world import certificate, vendor


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Site.make(tmp_path_factory.mktemp("service-user") / "made").folder


@pytest.fixture
def site(made: Path, tmp_path: Path) -> Site:
    return Site(Path(shutil.copytree(made, tmp_path / "server")) / "cmpd.toml")


@pytest.fixture
def run(site: Site, capfd: pytest.CaptureFixture[str]) -> Run:
    """`cmpd service-user`, in this process."""

    def command(verb: str, *arguments: object) -> Done:
        status = 0
        try:
            cli.main(["service-user", verb, "--config", str(site.config), *map(str, arguments)])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        return Done(status, *capfd.readouterr())

    return command


@pytest.fixture
def client(tmp_path: Path) -> tuple[Path, x509.Certificate]:
    """A client's certificate in a file."""
    ee, _ = vendor("gateway")
    assert ee.certificate is not None
    found = x509.load_der_x509_certificate(ee.certificate)
    path = tmp_path / "gateway.pem"
    path.write_bytes(found.public_bytes(Encoding.PEM))
    return path, found


def is_one(site: Site, found: x509.Certificate, user: str = "gateway") -> bool:
    """What the running daemon asks."""

    async def ask(store: AdminStore) -> bool:
        digest = found.fingerprint(hashes.SHA256()).hex()
        return await store.is_service_user(user, digest, found.issuer.public_bytes(), found.subject.public_bytes())

    return site.store(ask)


def of(site: Site, name: str = "gateway") -> None:
    """Have a profile that is for the service user only."""
    _, root = vendor()
    (site.folder / "profiles" / "clients.pem").write_bytes(root.public_bytes(Encoding.PEM))
    trust = 'trusted_certificates = ["clients.pem"]'
    method = 'authentication_method = "enrollment_code"'
    site.profile("mail", (method, f'authentication_method = "tls_certificate"\n{trust}\nservice_user = "{name}"'))


def renewed(found: x509.Certificate) -> x509.Certificate:
    """Another certificate of the same issuer and subject."""
    key = new_key()
    issuer = certificate(key, found.issuer.rfc4514_string().removeprefix("CN="), ca=True)
    return certificate(new_key(), found.subject.rfc4514_string().removeprefix("CN="), key, issuer)


def test_by_fingerprint(run: Run, site: Site, client: tuple[Path, x509.Certificate]) -> None:
    path, found = client
    of(site)
    done = run("add", "gateway", "--certificate", path)
    digest = found.fingerprint(hashes.SHA256()).hex()
    assert done.status == 0, done.err
    assert done.out.splitlines()[0] == f"{digest} (CN=gateway): is one of gateway"
    assert "add its successor before, or use --by name" in done.out
    assert "profile mail is for this service user only" in done.out
    assert is_one(site, found)
    assert not is_one(site, renewed(found))
    assert not is_one(site, found, "other")
    again = run("add", "gateway", "--certificate", path)
    assert (again.status, again.out.splitlines()[0].rpartition(": ")[2]) == (
        0, "was there already, and stays one of gateway",
    )  # fmt: skip
    assert [one["label"] for one in run("list", "--json").json] == ["CN=gateway"]


def test_by_name_survives_a_renewal(run: Run, site: Site, client: tuple[Path, x509.Certificate]) -> None:
    path, found = client
    done = run("add", "gateway", "--certificate", path, "--by", "name", "--json")
    assert done.status == 0, done.err
    (added,) = done.json["certificates"]
    assert (added["by"], added["issuer"], added["subject"], added["added"]) == (
        "name", "CN=Vendor Root", "CN=gateway", True,
    )  # fmt: skip
    assert done.json["notices"] == [
        f"no profile is for this service user; set enrollment.service_user = 'gateway' in one of {site.folder}/profiles"
    ]
    assert is_one(site, found)
    assert is_one(site, renewed(found))


def test_by_fingerprint_and_by_names_without_a_file(
    run: Run, site: Site, client: tuple[Path, x509.Certificate]
) -> None:
    _, found = client
    colons = found.fingerprint(hashes.SHA256()).hex(":").upper()
    assert run("add", "gateway", "--fingerprint", colons, "--label", "the old one").status == 0
    assert is_one(site, found)
    assert [one["label"] for one in run("list", "gateway", "--json").json] == ["the old one"]
    assert run("remove", "gateway", "--fingerprint", colons).status == 0
    assert not is_one(site, found)
    done = run("add", "gateway", "--issuer", "CN=Vendor Root", "--subject", "CN=gateway")
    assert done.status == 0, done.err
    assert is_one(site, found)
    assert len(run("list", "--json").json) == 1
    assert run("remove", "gateway", "--issuer", "CN=vendor root", "--subject", "CN=gateway").status == 0
    assert not is_one(site, found)


def test_names_in_text_are_known_in_both_encodings(run: Run, site: Site) -> None:
    """CAs write UTF8Strings or PrintableStrings, and nobody sees which (RFC 5280 §4.1.2.4)."""
    name = parse_name("CN=gateway,serialNumber=7,emailAddress=a@b.example,O=Example,C=DE")
    utf8, printable = encodings(name)
    assert b"\x13\x07gateway" in printable
    assert b"\x0c\x07gateway" in utf8
    (only,) = encodings(parse_name("O=Ü,C=DE"))
    done = run(
        "add", "gateway", "--issuer", "O=Ü,C=DE", "--subject", "CN=gateway,serialNumber=7,O=Example,C=DE", "--json"
    )
    assert len(done.json["certificates"]) == 1

    async def ask(store: AdminStore) -> list[bool]:
        names = encodings(parse_name("CN=gateway,serialNumber=7,O=Example,C=DE"))
        return [await store.is_service_user("gateway", "0" * 64, only, one) for one in names]

    assert site.store(ask) == [True, True]
    assert len(run("list", "--json").json) == 1
    assert run("remove", "gateway", "--all").status == 0
    assert site.store(ask) == [False, False]


def test_removing_a_certificate_leaves_no_way_in(run: Run, site: Site, client: tuple[Path, x509.Certificate]) -> None:
    """Whatever it was known by; and what is left empty is said."""
    path, found = client
    of(site)
    run("add", "gateway", "--certificate", path)
    run("add", "gateway", "--certificate", path, "--by", "name")
    done = run("remove", "gateway", "--certificate", path)
    assert done.status == 0, done.err
    assert len(done.out.splitlines()) == 3
    assert "profile mail is for this service user only, which has no certificate now" in done.out
    assert not is_one(site, found)
    done = run("remove", "gateway", "--certificate", path)
    assert (done.status, done.out) == (1, "")
    assert "service user gateway has no such certificate; see `cmpd service-user list gateway`" in done.err


def test_several_certificates_at_once(run: Run, site: Site, tmp_path: Path) -> None:
    files: list[object] = []
    now = datetime.now(UTC)
    for number, end in enumerate((now + timedelta(days=9), now - timedelta(hours=1))):
        path = tmp_path / f"{number}.pem"
        found = certificate(new_key(), f"gateway-{number}", not_before=now - timedelta(days=3), not_after=end)
        path.write_bytes(found.public_bytes(Encoding.PEM) * (number + 1))
        files += ["--certificate", path]
    done = run("add", "gateways", *files, "--json")
    assert done.status == 0, done.err
    assert [one["label"] for one in done.json["certificates"]] == ["CN=gateway-0", "CN=gateway-1"]
    text = "\n".join(done.json["notices"])
    assert "1.pem: has 2 certificates; the first is the client's" in text
    assert "1.pem: expired at " in text
    assert run("list", "gateways").out.count("fingerprint\t") == 2
    done = run("remove", "gateways", "--all")
    assert done.out.count("is no longer one of gateways") == 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("the gateway", "--fingerprint", "0" * 64), "the gateway: not a name of a service user; write 1 to 64 "),
        (("gateway",), "name the certificate in one way: --certificate FILE, --fingerprint HEX, or --issuer DN "),
        (
            ("gateway", "--fingerprint", "0" * 64, "--issuer", "CN=a", "--subject", "CN=b"),
            "name the certificate in one",
        ),
        (
            ("gateway", "--issuer", "CN=a"),
            "--subject: is missing; a certificate is known by issuer and subject together",
        ),
        (("gateway", "--fingerprint", "00ff"), "--fingerprint 00ff: not a SHA-256 fingerprint; write 64 hexadecimal "),
        (("gateway", "--issuer", "nobody", "--subject", "CN=b"), "--issuer nobody: is not a name such as CN=gateway"),
        (("gateway", "--issuer", "CN=a", "--subject", ""), "--subject : is empty; write a name such as CN=gateway"),
        (("gateway", "--certificate", "nothing.pem"), "nothing.pem: No such file"),
        (
            ("gateway", "--certificate", "server/cmpd.toml"),
            "--certificate server/cmpd.toml: not a PEM file with a cert",
        ),
        (("gateway", "--fingerprint", "0" * 64, "--label", "a\nb"), "--label: write up to 200 printable characters"),
    ],
)
def test_a_fault_says_what_to_do(
    run: Run, site: Site, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], reason: str
) -> None:
    monkeypatch.chdir(site.folder.parent)
    done = run("add", *arguments)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"cmpd: {reason}"), done.err
    assert run("list", "--json").json == []


def test_all_is_for_itself(run: Run) -> None:
    assert "--all: takes all certificates away" in run("remove", "x", "--all", "--fingerprint", "0" * 64).err
    assert "or --all" in run("remove", "x").err


def test_profiles_that_cannot_be_read_do_not_stand_in_the_way(run: Run, site: Site) -> None:
    """A service user can be locked out whatever is wrong with the profiles."""
    run("add", "gateway", "--fingerprint", "0" * 64)
    (site.folder / "profiles" / "device.toml").write_text("nonsense = ")
    done = run("remove", "gateway", "--all", "--json")
    assert done.status == 0, done.err
    assert done.json["notices"] == ["the profiles cannot be read; `cmpd check` says why"]


def test_the_running_daemon_takes_it_up_at_once(run: Run, site: Site, tmp_path: Path) -> None:
    """And lets go of it at once."""
    ee, root = vendor("gateway")
    (tmp_path / "gateway.pem").write_bytes(
        x509.load_der_x509_certificate(ee.certificate or b"").public_bytes(Encoding.PEM)
    )
    of(site)
    (site.folder / "profiles" / "clients.pem").write_bytes(root.public_bytes(Encoding.PEM))
    with site.serve() as daemon:

        def ask() -> str:
            draft = ee.ir(subject="CN=device-1")
            return ee.read(daemon.ask(ee.seal(draft), "/.well-known/cmp/p/mail"), draft).text

        assert "the profile is for its service user only" in ask()
        run("add", "gateway", "--certificate", tmp_path / "gateway.pem")
        assert ask() == ""
        run("remove", "gateway", "--all")
        assert "the profile is for its service user only" in ask()
