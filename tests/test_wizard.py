"""`cmpd profile new`: at a terminal, page by page, and by options; the file is what loading accepts."""

import os
import pty
import re
import select
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd import cli
from cmpd.cli.draft import Draft, node, split
from cmpd.cli.questions import PAGES, questions
from cmpd.profile import Profile, ProfileConfig, templates
from tests.daemon import Site
from tests.http_client import WAIT
from tests.world import vendor

ROOT = Path(__file__).parents[1]
PROMPT = re.compile(r"(?m)^  (?:\[.*\] )?> $")
_BY_TEXT = {question.text: question for question in questions()}


class Terminal:
    """A command on a pseudo-terminal, read until it asks."""

    def __init__(self, *arguments: object) -> None:
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cmpd", *map(str, arguments)],
            cwd=ROOT,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.transcript = ""
        self._seen = 0

    def read(self) -> str | None:
        """What was printed since the last prompt, up to the next; None when the command has ended."""
        while True:
            fresh = self.transcript[self._seen :]
            if PROMPT.search(fresh):
                self._seen = len(self.transcript)
                return fresh
            assert select.select([self._ours], [], [], WAIT)[0], f"nothing comes: {fresh[-500:]}"
            try:
                octets = os.read(self._ours, 65536)
            except OSError:  # EIO: the other side is closed
                octets = b""
            if not octets:
                return None
            self.transcript += octets.decode().replace("\r\n", "\n")

    def write(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def end(self) -> int:
        """The exit status."""
        return self._process.wait(WAIT)

    def close(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        self._process.wait(WAIT)
        os.close(self._ours)


def drive(terminal: Terminal, answers: Mapping[str, list[str]]) -> list[str]:
    """Answer every question: with the next of its answers, else with Enter; the options asked for, in their order."""
    left = {option: list(texts) for option, texts in answers.items()}
    asked: list[str] = []
    current = ""
    while (fresh := terminal.read()) is not None:
        for line in fresh.split("\n"):
            text = line.partition(": ")[0]
            if text in _BY_TEXT and line == f"{text}: {_BY_TEXT[text].help}":
                current = _BY_TEXT[text].option
                asked.append(current)
        replies = left.get(current)
        terminal.write((replies.pop(0) if replies else "") + "\n")
    assert not any(left.values()), f"never asked: {left}\n{terminal.transcript}"
    return asked


Open = Callable[..., Terminal]


@pytest.fixture
def terminal_of(config: Path) -> Iterator[Open]:
    """`cmpd profile new` on a terminal of its own."""
    opened: list[Terminal] = []

    def start(*arguments: object) -> Terminal:
        opened.append(Terminal("profile", "new", "--config", config, *arguments))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Site.make(tmp_path_factory.mktemp("wizard") / "made").folder


@pytest.fixture
def config(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "server")) / "cmpd.toml"


@dataclass(frozen=True)
class Done:
    """What a command has printed."""

    status: int
    out: str
    err: str


New = Callable[..., Done]


@pytest.fixture
def new(config: Path, capfd: pytest.CaptureFixture[str]) -> New:
    """`cmpd profile new` without a terminal, in this process."""

    def run(*arguments: object) -> Done:
        status = 0
        try:
            cli.main(["profile", "new", "--config", str(config), *map(str, arguments)])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        return Done(status, *capfd.readouterr())

    return run


def test_a_device_profile_page_by_page(terminal_of: Open, config: Path) -> None:
    """Wrong answers are asked again with the reason, Enter keeps, and a dot keeps the rest of the page."""
    terminal = terminal_of()
    asked = drive(
        terminal,
        {
            "name": ["Sensors", "device", "sensors"],
            "template": ["generic-devices", "3"],
            "display-name": ["Sensors of plant 1"],
            "description": ["\x07", 'ü "quoted" # \\'],
            "contact": [""],
            "client-addresses": [
                "10.0.0.1/8",
                "10.0.0.0/8, 2001:db8::/32",
            ],
            "lock-after": ["0", "5"],
            "validity": ["20y", "soon", "180d"],
            "key-types": ["dsa", "ecdsa"],
            "renewal-window": ["many", "45"],
            "subject": ["common_name", "common_name=sometimes", "organization_name=fixed:Example GmbH", ""],
            "san": ["dns.allowed_domains=.plant.example.com", "."],
            "budget-per-day": ["1000"],
        },
    )
    assert terminal.end() == 0, terminal.transcript
    text = terminal.transcript
    assert "the name of a profile is 1 to 64 characters" in text
    assert "device.toml is there already" in text
    assert "it is one of certcentral-private-server, certcentral-public-server, generic-device," in text
    assert "validity.default: 7300d is more than max, 1825d" in text
    assert "'soon' is not a duration" in text
    assert "'many' is not a number" in text
    assert "'dsa' is not one of rsa, ecdsa" in text
    assert "'common_name' is not NAME=VALUE" in text
    assert "'sometimes' is not one of no, optional, required" in text
    for page in PAGES:
        assert f"\n{page.title} (" in text
    assert {"validation-type", "trusted-certificates", "service-user", "escrow"}.isdisjoint(asked)
    assert {"vendor-serial", "tls-binding", "tls-unprotected", "client", "crl"}.isdisjoint(asked)
    assert {"global-code", "give-back", "lock-max"} <= set(asked)
    assert "is not an address range such as 10.0.0.0/8" in text
    assert "rsa-min-bits" not in asked, "there are no RSA keys any more"
    path = config.parent / "profiles" / "sensors.toml"
    table = tomllib.loads(path.read_text())
    identifier = table.pop("id")
    assert table == {
        "base_template": "generic-device",
        "issuer": "local",
        "name": "Sensors of plant 1",
        "description": 'ü "quoted" # \\',
        "enrollment": {
            "client_addresses": ["10.0.0.0/8", "2001:db8::/32"],
            "code": {"lock_after": 5},
            "tls": {},
            "revocation": {},
        },
        "renewal": {"window_days": 45},
        "validity": {"default": "180d"},
        "signature": {},
        "key": {"allowed_types": ["ecdsa"]},
        "subject": {"organization_name": {"source": "fixed", "value": "Example GmbH"}},
        "san": {"dns": {"allowed_domains": [".plant.example.com"]}},
        "extensions": {"key_usage": {}, "extended_key_usage": {}},
        "seat": {},
        "budget": {"per_day": 1000},
    }
    assert f"/cmp/{identifier}\n" in text
    assert f"cmpd code create --config {config} --profile sensors" in text
    assert f"cmpd reload --config {config}" in text
    profile = Profile.load(path)
    assert (profile.display_name, profile.budget_per_day) == ("Sensors of plant 1", 1000)
    assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0


def test_a_private_mail_profile_page_by_page(terminal_of: Open, config: Path) -> None:
    """Usages per key type, own extensions, a seat mapping that the profile does not accept is asked again."""
    terminal = terminal_of("--name", "mail", "--template", "private-smime")
    asked = drive(
        terminal,
        {
            "usage": ["signing"],
            "san": ["email.allowed_domains=example.com", ""],
            "extension": ["1.2.3", "1.2.3=der:zz", "1.3.6.1.4.1.55555.7=utf8_string:mail", ""],
            "tags": ["mail, plant 1"],
            "seat-id": ["san.dns", "subject.common_name"],
            "organization": ["Example GmbH"],
            "contact": ["custom"],
            "contact-first-name": ["Ada"],
            "contact-last-name": ["Byron"],
            "contact-email": ["nobody", "ada@example.com"],
        },
    )
    assert terminal.end() == 0, terminal.transcript
    assert asked[:2] == ["display-name", "description"], "what an option answers is not asked"
    assert "seat.id_mapping: 'san.dns' is not accepted in [san]" in terminal.transcript
    assert "'nobody' is not an e-mail address" in terminal.transcript
    profile = Profile.load(config.parent / "profiles" / "mail.toml")
    assert (profile.usage, profile.tags) == ("signing", ("mail", "plant 1"))
    assert profile.contact is not None
    assert profile.contact.email == "ada@example.com"


def test_a_public_mail_profile_asks_for_what_the_template_needs(terminal_of: Open, config: Path) -> None:
    """The validation type is chosen late and needs an organization: that question must be answered then."""
    _, root = vendor()
    folder = config.parent / "profiles"
    (folder / "clients.pem").write_bytes(_pem(root))
    terminal = terminal_of()
    asked = drive(
        terminal,
        {
            "name": ["public"],
            "template": ["public-smime"],
            "validation-type": ["sponsor"],
            "generation": ["multipurpose"],
            "trusted-certificates": ["", "nothing.pem", "clients.pem"],
            "organization": ["", "Example GmbH"],
            "organization-identifier": ["", "VATDE-123456789"],
            "subject": ["country_name=fixed:DE", ""],
            "service-user": ["the gateway", "gateway"],
            "client": [
                "subject=(",
                "names=x",
                "subject=CN=gateway-[0-9]+,O=Example",
                'san=["dns:gw[0-9]{1,3}[.].*"]',
                "",
            ],
            "crl": ["required"],
            "lint": ["off"],
        },
    )
    assert terminal.end() == 0, terminal.transcript
    assert "usage" in asked
    assert "'nothing.pem' cannot be read" in terminal.transcript
    assert "This needs an answer" in terminal.transcript
    assert "cmpd code create" not in terminal.transcript
    assert "a certificate that it has already, under clients.pem." in terminal.transcript
    assert f"cmpd service-user add --config {config} gateway --certificate FILE" in terminal.transcript
    assert "global-code" not in asked
    profile = Profile.load(folder / "public.toml")
    assert (profile.validation_type, profile.generation) == ("sponsor", "multipurpose")
    assert profile.service_user == "gateway"
    assert profile.client.subject is not None
    assert profile.client.subject.matches("CN=gateway-7,O=Example")
    assert len(profile.client.san) == 1
    assert profile.revocation.crl == "required"
    assert "enrollment.client.names: unknown key" in terminal.transcript
    assert profile.organization is not None


def test_the_end_of_the_answers_writes_nothing(terminal_of: Open, config: Path) -> None:
    terminal = terminal_of()
    assert terminal.read() is not None
    terminal.write("half\n")
    assert terminal.read() is not None
    terminal.write("\x04")
    while terminal.read() is not None:
        pass
    assert terminal.end() == 1
    assert "the answers ended; nothing was written" in terminal.transcript
    assert [path.name for path in (config.parent / "profiles").iterdir()] == ["device.toml"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "--name: is missing; "),
        (("--name", "x"), "--template: is missing; it is one of certcentral-private-server, "),
        (("--name", "x", "--template", "y"), "--template y: it is one of "),
        (("--name", "../x", "--template", "generic-user"), "--name ../x: the name of a profile "),
        (("--name", "device", "--template", "generic-user"), "--name device: "),
        (("--name", "x", "--template", "generic-user", "--issuer", "y"), "--issuer y: it is one of local"),
        (("--name", "x", "--template", "public-smime"), "--trusted-certificates: is missing; "),
        (
            ("--name", "x", "--template", "certcentral-public-server", "--validation-type", "organization"),
            "--organization: is missing; ",
        ),
        (("--name", "x", "--template", "generic-user", "--escrow", "yes"), "--escrow yes: key.escrow: 'yes' is not "),
        (("--name", "x", "--template", "generic-user", "--set", "foo.bar=1"), "--set foo.bar=1: foo: unknown key; "),
        (("--name", "x", "--template", "generic-user", "--set", "foo"), "--set foo: 'foo' is not NAME=VALUE"),
        (("--name", "x", "--template", "generic-user", "--set", "id=short"), "--set id=short: id: 'short' is not 22 "),
        (
            ("--name", "x", "--template", "generic-user", "--service-user", "x"),
            "--service-user x: enrollment.service_user: ",
        ),
        (
            ("--name", "x", "--template", "generic-user", "--tls-binding", "ra", "--tls-required", "yes"),
            "--tls-binding",
        ),
        (("--name", "x", "--template", "generic-user", "--vendor-subject", "CN={serial}"), "--vendor-certificates: "),
        (
            ("--name", "x", "--template", "generic-user", "--client", "subject=("),
            "--client subject=(: enrollment.client",
        ),
        (("--name", "x", "--template", "generic-user", "--until", "never"), "--until never: 'never' is not a date "),
        (("--name", "x", "--template", "generic-user", "--lint", "a\x1b[2J"), "--lint a\\x1b[2J: has a character "),
        (
            ("--name", "x", "--template", "generic-user", "--description", "a\nid = 1"),
            "--description a\\nid = 1: has a ",
        ),
        (("--name", "x", "--template", "generic-user", "--set", "description=\udcff"), "--set description="),
    ],
)
def test_without_a_terminal_a_wrong_or_missing_answer_names_its_option(
    new: New, config: Path, arguments: tuple[str, ...], reason: str
) -> None:
    done = new(*arguments)
    assert done.status == 1
    assert done.err.startswith(f"cmpd: {reason}"), done.err
    assert [path.name for path in (config.parent / "profiles").iterdir()] == ["device.toml"]


def test_an_id_is_not_used_twice(new: New, config: Path) -> None:
    taken = tomllib.loads((config.parent / "profiles" / "device.toml").read_text())["id"]
    done = new("--name", "x", "--template", "generic-user", "--set", f"id={taken}")
    assert done.status == 1
    assert "device.toml too; each profile has its own" in done.err


def test_a_profile_is_overwritten_only_by_force(new: New, config: Path) -> None:
    """And then whole: what was there before is gone, and nothing else is in the folder."""
    path = config.parent / "profiles" / "device.toml"
    before = path.read_text()
    assert new("--name", "device", "--template", "generic-user").status == 1
    assert path.read_text() == before
    done = new("--name", "device", "--template", "generic-user", "--force", "--json")
    assert done.status == 0, done.err
    assert Profile.load(path).base_template == "generic-user"
    assert [path.name for path in path.parent.iterdir()] == ["device.toml"]


@pytest.mark.parametrize("template", templates())
def test_every_template_makes_a_profile_that_differs_in_nothing(new: New, config: Path, template: str) -> None:
    """With no more than what the template cannot know; the file then says that and no more."""
    _, root = vendor()
    (config.parent / "profiles" / "clients.pem").write_bytes(_pem(root))
    more: dict[str, tuple[str, ...]] = {
        "public-smime": ("--trusted-certificates", "clients.pem"),
        "certcentral-public-server": ("--validation-type", "domain"),
    }
    done = new("--name", "x", "--template", template, *more.get(template, ()))
    assert done.status == 0, done.err
    path = config.parent / "profiles" / "x.toml"
    table = {key: value for key, value in tomllib.loads(path.read_text()).items() if value and not _empty(value)}
    assert set(table) <= {"id", "base_template", "issuer", "enrollment", "certificate_type"}
    assert "\n# " in path.read_text()


def _empty(value: object) -> bool:
    return isinstance(value, dict) and all(_empty(one) for one in value.values())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


@pytest.mark.parametrize("template", templates())
def test_each_commented_line_is_what_the_template_says(new: New, config: Path, template: str) -> None:
    """Switched on, all of them change nothing."""
    _, root = vendor()
    folder = config.parent / "profiles"
    (folder / "clients.pem").write_bytes(_pem(root))
    options = ("--trusted-certificates", "clients.pem") if template == "public-smime" else ()
    if template == "certcentral-public-server":
        options = ("--organization", "Example GmbH")
    assert new("--name", "x", "--template", template, *options).status == 0
    text = (folder / "x.toml").read_text()
    switched_on = re.sub(r"(?m)^# (?=\S+ = )", "", text)
    assert switched_on != text
    plain, full = Draft(folder / "x.toml", tomllib.loads(text)), Draft(folder / "x.toml", tomllib.loads(switched_on))
    assert not full.faults()
    plain_config = ProfileConfig.model_validate(plain.merged().table)
    assert ProfileConfig.model_validate(full.merged().table) == plain_config


def test_every_question_is_about_a_key_that_there_is() -> None:
    for question in questions():
        assert not question.key or node(split(question.key)), question
        for key in question.when:
            assert node(split(key)), question


def test_options_are_told_apart() -> None:
    options = [question.option for question in questions()]
    assert len(options) == len(set(options))
    assert {"config", "json", "yes", "force"}.isdisjoint(options)


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        (("--key-usage", "rsa: digital_signature; ecdsa: digital_signature, key_agreement"),
         "extensions.key_usage.required_usages",
         {"rsa": ["digital_signature"], "ecdsa": ["digital_signature", "key_agreement"]}),
        (("--policies", "1.2.3.4,1.2.3.5"), "extensions.certificate_policies", ["1.2.3.4", "1.2.3.5"]),
        (("--set", 'extensions.certificate_policies=[{oid="1.2.3.4", cps="https://example.com/cps"}]'),
         "extensions.certificate_policies", [{"oid": "1.2.3.4", "cps": "https://example.com/cps"}]),
        (("--subject", "organization_name=fixed:Example, Inc."), "subject.organization_name",
         {"source": "fixed", "value": "Example, Inc."}),
        (("--subject", "common_name.pattern=[a-z]+"), "subject.common_name", {"pattern": "[a-z]+"}),
        (("--san", "1.3.6.1.5.5.7.8.7=optional"), "san.other_name", {"1.3.6.1.5.5.7.8.7": {"include": "optional"}}),
        (("--san", "ip.allowed_ranges=10.0.0.0/8, 2001:db8::/32"), "san.ip",
         {"allowed_ranges": ["10.0.0.0/8", "2001:db8::/32"]}),
        (("--requested", "ms_certificate_template=ignore"), "extensions.requested",
         {"ms_certificate_template": "ignore"}),
        (("--extension", "1.2.3.4=integer:5", "--extension", "tls_feature=der:3003020105"), "extensions.custom",
         [{"oid": "1.2.3.4", "type": "integer", "value": 5}, {"oid": "tls_feature", "der_hex": "3003020105"}]),
        (("--set", "enrollment.legacy.short_nonces=yes"), "enrollment.legacy", {"short_nonces": True}),
        (("--tls-required", "yes", "--tls-trusted-certificates", "ca.pem", "--tls-binding", "same_subject",
          "--service-user", "gw"), "enrollment.tls",
         {"required": True, "trusted_certificates": ["ca.pem"], "binding": "same_subject"}),
        (("--vendor-certificates", "ca.pem", "--vendor-subject", "CN={serial},O=Example",
          "--vendor-serial", "san.hardware_module_name", "--vendor-list", "no"), "enrollment.vendor",
         {"trusted_certificates": ["ca.pem"], "serial_from": "san.hardware_module_name", "allow_list": False,
          "subject": "CN={serial},O=Example"}),
        (("--global-code", "yes", "--give-back", "yes", "--lock-for", "2h", "--lock-max", "4h"), "enrollment.code",
         {"allow_global": True, "give_back": True, "lock_for": "2h", "lock_max": "4h"}),
        (("--client", "extended_key_usages=client_auth", "--client", "issuer=CN=Example CA,O=Example"),
         "enrollment.client", {"extended_key_usages": ["client_auth"], "issuer": "CN=Example CA,O=Example"}),
        (("--client-addresses", "10.0.0.0/8,192.0.2.7"), "enrollment.client_addresses", ["10.0.0.0/8", "192.0.2.7"]),
        (("--crl", "off", "--ocsp-check", "required"), "enrollment.revocation", {"crl": "off", "ocsp": "required"}),
        (("--organization", "Example GmbH", "--organization-id", "4711"), "organization",
         {"name": "Example GmbH", "id": 4711}),
        (("--subject", "given_name=optional", "--subject", "surname=optional",
          "--name-split", "(?P<gn>.+) (?P<sn>[^ ]+)"), "subject.name_split", "(?P<gn>.+) (?P<sn>[^ ]+)"),
        (("--description", 'a "quoted" \\ description'), "description", 'a "quoted" \\ description'),
    ],
)  # fmt: skip
def test_what_an_answer_means(new: New, config: Path, arguments: tuple[str, ...], key: str, value: object) -> None:
    _, root = vendor()
    (config.parent / "profiles" / "ca.pem").write_bytes(_pem(root))
    done = new("--name", "x", "--template", "generic-device", *arguments)
    assert done.status == 0, done.err
    found: object = tomllib.loads((config.parent / "profiles" / "x.toml").read_text())
    for part in key.split("."):
        assert isinstance(found, dict)
        found = found[part]
    assert found == value
