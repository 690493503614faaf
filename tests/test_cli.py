"""The command `cmpd`, as an operator meets it: output, exit status, one line for a fault, secrets kept."""

import base64
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from cmpd import cli
from cmpd.cli import message
from cmpd.settings import Settings

VECTORS = Path(__file__).parent / "vectors"
PBM_CR = VECTORS / "openssl" / "65-test_cmp_server_data" / "CR_protected_PBM_1234.der"


@dataclass(frozen=True)
class Done:
    """What a command has printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process."""
    monkeypatch.delenv("CMPD_CONFIG", raising=False)

    def run(*arguments: object) -> Done:
        status = 0
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        return Done(status, *capfd.readouterr())

    return run


def spawn(*arguments: object) -> Done:
    """Run a command in a process of its own: one that serves changes its process."""
    done = subprocess.run(
        [sys.executable, "-m", "cmpd", *map(str, arguments)], capture_output=True, text=True, timeout=60
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `cmpd init` has made, to be copied."""
    folder = tmp_path_factory.mktemp("init") / "made"
    with pytest.raises(SystemExit) as end:
        cli.main(["init", "--dir", str(folder), "--json"])
    assert not end.value.code
    return folder


@pytest.fixture
def config(made: Path, tmp_path: Path) -> Path:
    """cmpd.toml of a server that is all there and serves nothing."""
    return Path(shutil.copytree(made, tmp_path / "server")) / "cmpd.toml"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestInit:
    """`cmpd init` makes everything once."""

    def test_makes_what_a_server_needs_and_says_what_comes_next(self, run: Run, tmp_path: Path) -> None:
        folder = tmp_path / "a folder" / "new"
        done = run("init", "--dir", folder)
        assert done.status == 0
        assert f"cmpd serve --config '{folder}/cmpd.toml'" in done.out
        settings = Settings.load(folder / "cmpd.toml")
        assert str(settings.server.listen) == "127.0.0.1:8829"
        assert str(settings.admin.listen) == "127.0.0.1:9829"
        assert settings.profiles.default == "device"
        assert len(settings.store.key()) == 32
        assert settings.store.path is not None
        assert settings.store.path.is_file()

    def test_keeps_secrets_to_their_owner(self, made: Path) -> None:
        """Whatever the umask is."""
        assert mode(made) == 0o700
        assert mode(made / "secrets" / "store.key") == 0o600
        assert mode(made / "cmpd.db") == 0o600
        assert mode(made / "ca" / "issuing.key") == 0o600
        assert mode(made / "ca" / "passphrase") == 0o600

    def test_each_has_keys_of_its_own(self, run: Run, made: Path, tmp_path: Path) -> None:
        run("init", "--dir", tmp_path / "other")
        for name in ("secrets/store.key", "ca/passphrase", "ca/root.pem", "profiles/device.toml"):
            assert (made / name).read_bytes() != (tmp_path / "other" / name).read_bytes()

    def test_json_names_the_files(self, run: Run, tmp_path: Path) -> None:
        done = run("init", "--dir", tmp_path / "x", "--json")
        assert done.json == {
            "directory": str(tmp_path / "x"),
            "config": str(tmp_path / "x" / "cmpd.toml"),
            "root_certificate": str(tmp_path / "x" / "ca" / "root.pem"),
        }

    def test_writes_the_addresses_it_is_given(self, run: Run, tmp_path: Path) -> None:
        arguments = (
            "--listen",
            "[::]:80",
            "--allow-http",
            "--admin-listen",
            "[::1]:81",
            "--url",
            'https://pki.example.com/"x"/',
        )
        assert run("init", "--dir", tmp_path / "x", *arguments).status == 0
        settings = Settings.load(tmp_path / "x" / "cmpd.toml")
        assert (str(settings.server.listen), str(settings.admin.listen)) == ("[::]:80", "[::1]:81")
        assert settings.server.url == 'https://pki.example.com/"x"'
        assert settings.server.allow_http

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (("--listen", "8829"), "--listen 8829: not HOST:PORT; "),
            (("--listen", "0.0.0.0:8829"), "--listen 0.0.0.0:8829: does not say how clients reach the service; "),
            (
                ("--listen", "0.0.0.0:8829", "--url", "http://pki.example.com"),
                "--listen 0.0.0.0:8829: other machines reach it, and without TLS ",
            ),
            (("--admin-listen", "x:y"), "--admin-listen x:y: not HOST:PORT; "),
            (("--url", "pki.example.com"), "--url pki.example.com: not a URL "),
            (("--url", "http://a\x1b[2J"), "--url http://a\\x1b[2J: not a URL "),
        ],
    )
    def test_makes_nothing_of_a_wrong_address(
        self, run: Run, tmp_path: Path, arguments: Sequence[str], reason: str
    ) -> None:
        done = run("init", "--dir", tmp_path / "x", *arguments)
        assert (done.status, done.out) == (1, "")
        assert done.err.startswith(f"cmpd: {reason}")
        assert done.err.count("\n") == 1
        assert not (tmp_path / "x").exists()

    @pytest.mark.parametrize("name", ["cmpd.toml", "secrets/store.key", "profiles/device.toml", "cmpd.db", "ca"])
    def test_overwrites_nothing(self, run: Run, tmp_path: Path, name: str) -> None:
        """Also a link that leads nowhere is something."""
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to("nowhere")
        before = sorted(tmp_path.rglob("*"))
        done = run("init", "--dir", tmp_path)
        assert done.status == 1
        assert done.err == f"cmpd: {tmp_path / name}: exists already and is not overwritten; choose another --dir\n"
        assert sorted(tmp_path.rglob("*")) == before

    def test_leaves_nothing_when_it_fails_midway(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So that it can be run again."""
        from cmpd.cli import setup

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device", "cmpd.db")

        with monkeypatch.context() as patch:
            patch.setattr(setup, "_make_database", full)
            done = run("init", "--dir", tmp_path / "x")
        assert (done.status, done.err) == (1, "cmpd: cmpd.db: No space left on device\n")
        assert [path for path in (tmp_path / "x").rglob("*") if path.is_file()] == []
        assert run("init", "--dir", tmp_path / "x").status == 0


class TestConfig:
    """Which configuration a command is about."""

    def test_before_or_after_the_command_or_in_the_environment(
        self, run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        after = run("profile", "list", "--json", "--config", config)
        before = run("--config", config, "profile", "list", "--json")
        monkeypatch.setenv("CMPD_CONFIG", str(config))
        environment = run("profile", "list", "--json")
        assert after.json == before.json == environment.json

    def test_what_is_said_on_the_command_line_counts(
        self, run: Run, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CMPD_CONFIG", str(tmp_path / "none.toml"))
        assert run("profile", "list", "--config", config).status == 0
        assert run("--config", config, "profile", "list").status == 0
        assert run("--config", tmp_path / "none.toml", "profile", "list", "--config", config).status == 0
        assert run("profile", "list").status == 1

    def test_is_in_etc_by_default(self, run: Run) -> None:
        assert Path("/etc/cmpd/cmpd.toml") == cli.DEFAULT_CONFIG
        assert "/etc/cmpd/cmpd.toml" in run("--help").out

    @pytest.mark.parametrize(
        "command",
        [
            ("check",),
            ("serve",),
            ("code", "create", "--profile", "device"),
            ("code", "list"),
            ("code", "show", "--profile", "device", "--reference", "x"),
            ("code", "unlock", "--profile", "device", "--reference", "x"),
            ("code", "export"),
            ("code", "import", "/dev/null", "--profile", "device"),
            ("code", "revoke", "--profile", "device", "--reference", "x"),
            ("profile", "list"),
            ("ca", "chain"),
            ("cert", "list"),
            ("cert", "show", "1"),
            ("cert", "revoke", "1", "--yes"),
            ("service-user", "add", "x", "--fingerprint", "0" * 64),
            ("service-user", "list"),
            ("service-user", "remove", "x", "--all"),
            ("device", "add", "x", "--profile", "device"),
            ("device", "import", "/dev/null", "--profile", "device"),
            ("device", "list", "--profile", "device"),
            ("device", "remove", "x", "--profile", "device"),
        ],
    )
    def test_faults_of_it_are_one_line_each_for_every_command(
        self, run: Run, tmp_path: Path, command: Sequence[str]
    ) -> None:
        path = tmp_path / "cmpd.toml"
        path.write_text('[server]\nlisten = "x"\nzone = 1\n')
        done = spawn(*command, "--config", path) if command == ("serve",) else run(*command, "--config", path)
        assert (done.status, done.out) == (1, "")
        unknown, listen = sorted(done.err.splitlines(), reverse=True)
        assert listen.startswith(f"cmpd: {path}: server.listen: value 'x': not HOST:PORT; write \"127.0.0.1:8829\", ")
        assert (
            unknown == f"cmpd: {path}: server.zone: unknown key; "
            "known here: allow_http, cmp_signer, listen, proxy, tls, url, workers"
        )

    def test_a_fault_of_a_profile_names_its_file(self, run: Run, config: Path) -> None:
        profile = config.parent / "profiles" / "device.toml"
        profile.write_text(profile.read_text().replace("[renewal]", "[renewals]"))
        done = run("profile", "list", "--config", config)
        assert done.status == 1
        assert done.err.startswith(f"cmpd: {profile}: renewals: unknown key")


class TestCode:
    """`cmpd code`."""

    def create(self, run: Run, config: Path, *arguments: str) -> Any:
        return run("code", "create", "--config", config, "--profile", "device", "--json", *arguments).json

    def test_create_prints_reference_secret_and_url(self, run: Run, config: Path) -> None:
        code = self.create(run, config)
        (profile,) = run("profile", "list", "--config", config, "--json").json
        assert code["url"] == profile["url"]
        assert re.fullmatch(r"[2-9A-HJ-NP-Z]{10}", code["reference"])
        assert re.fullmatch(r"([2-9A-HJ-NP-Z]{4}-){6}[2-9A-HJ-NP-Z]{4}", code["secret"])
        assert (code["uses"], code["used"], code["state"]) == (1, 0, "usable")

    def test_create_says_all_of_it_to_people_too(self, run: Run, config: Path) -> None:
        done = run("code", "create", "--config", config, "--profile", "device", "--reference", "pump 7", "--uses", "3")
        assert re.search(r"(?m)^reference  pump 7$", done.out)
        assert re.search(r"(?m)^secret     [2-9A-Z-]{34}$", done.out)
        assert re.search(r"(?m)^url        http://127\.0\.0\.1:8829/cmp/[\w-]{22}$", done.out)
        assert re.search(r"(?m)^good for   3 certificates, until \d{4}-", done.out)

    def test_unlimited_and_never(self, run: Run, config: Path) -> None:
        code = self.create(run, config, "--uses", "unlimited", "--expires", "never")
        assert (code["uses"], code["expires"]) == (None, None)

    def test_a_reference_is_taken_once(self, run: Run, config: Path) -> None:
        assert self.create(run, config, "--reference", "pump-7")["reference"] == "pump-7"
        done = run("code", "create", "--config", config, "--profile", "device", "--reference", "pump-7")
        assert done.status == 1
        assert done.err == "cmpd: --reference pump-7: profile device has a code of this reference; choose another\n"

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (("--profile", "dev"), "--profile dev: no such profile; there are: device"),
            (("--uses", "0"), "--uses 0: not a count; "),
            (("--uses", "-1"), "--uses -1: not a count; "),
            (("--uses", "٣"), "--uses ٣: not a count; "),
            (("--uses", "9" * 5000), f"--uses {'9' * 5000}: not a count; "),
            (("--expires", "7"), "--expires 7: neither a duration nor a time; "),
            (("--expires", "99999y"), "--expires 99999y: neither a duration nor a time; "),
            (("--reference", ""), "--reference (empty): not usable; "),
            (("--reference", "a\nb"), "--reference a\\nb: not usable; "),
            (("--reference", "x" * 65), f"--reference {'x' * 65}: not usable; "),
        ],
    )
    def test_create_refuses(self, run: Run, config: Path, arguments: Sequence[str], reason: str) -> None:
        done = run("code", "create", "--config", config, "--profile", "device", *arguments)
        assert (done.status, done.out) == (1, "")
        assert done.err.startswith(f"cmpd: {reason}")
        assert run("code", "list", "--config", config, "--json").json == []

    def test_create_refuses_a_profile_without_codes(self, run: Run, config: Path) -> None:
        folder = config.parent / "profiles"
        shutil.copy(config.parent / "ca" / "root.pem", folder)
        text = (folder / "device.toml").read_text()
        (folder / "signed.toml").write_text(
            re.sub('(?m)^id = ".*"', f'id = "{"a" * 22}"', text).replace(
                'authentication_method = "enrollment_code"',
                'authentication_method = "tls_certificate"\ntrusted_certificates = ["root.pem"]',
            )
        )
        done = run("code", "create", "--config", config, "--profile", "signed")
        assert done.status == 1
        assert done.err.startswith("cmpd: --profile signed: takes no enrollment codes; ")

    def test_list_and_revoke(self, run: Run, config: Path) -> None:
        code = self.create(run, config)
        revoke = ("code", "revoke", "--config", config, "--profile", "device", "--reference", code["reference"])
        assert run(*revoke, "--json").json == {"profile": "device", "reference": code["reference"], "revoked": True}
        (listed,) = run("code", "list", "--config", config, "--json").json
        assert listed == {key: value for key, value in code.items() if key not in {"secret", "url", "code_url"}} | {
            "state": "revoked"
        }
        again = run(*revoke)
        assert again.status == 1
        assert again.err == (
            f"cmpd: profile device has no code {code['reference']} that is not revoked; see `cmpd code list`\n"
        )

    def test_list_of_one_profile(self, run: Run, config: Path) -> None:
        self.create(run, config)
        assert len(run("code", "list", "--config", config, "--profile", "device", "--json").json) == 1
        assert run("code", "list", "--config", config, "--profile", "other", "--json").json == []

    def test_into_a_pipe_a_list_has_tabs_and_whole_values(self, run: Run, config: Path) -> None:
        code = self.create(run, config, "--reference", "a" * 64)
        head, row = run("code", "list", "--config", config).out.splitlines()
        assert head == "PROFILE\tREFERENCE\tUSED\tEXPIRES\tSTATE\tFOR"
        assert row == f"device\t{'a' * 64}\t0/1\t{code['expires']}\tusable\t-"

    def test_the_secret_is_nowhere_on_disk(self, run: Run, config: Path) -> None:
        secret = self.create(run, config)["secret"].encode()
        files = [path for path in config.parent.rglob("*") if path.is_file()]
        assert config.parent / "cmpd.db" in files
        assert not [
            path for path in files if secret in path.read_bytes() or secret.replace(b"-", b"") in path.read_bytes()
        ]

    def test_a_lost_key_is_told(self, run: Run, config: Path) -> None:
        (config.parent / "secrets" / "store.key").write_text(base64.b64encode(bytes(32)).decode())
        self_made = run("code", "list", "--config", config)
        assert self_made.status == 1
        assert "key_file" in self_made.err
        (config.parent / "secrets" / "store.key").unlink()
        assert "store.key: store.key_file: no such file; " in run("code", "list", "--config", config).err


class TestCertificates:
    """`cmpd ca` and `cmpd cert`; what they show of issued certificates is in TestQuickstart."""

    def test_chain_is_issuing_ca_then_root(self, run: Run, config: Path) -> None:
        done = run("ca", "chain", "--config", config)
        issuing, root = x509.load_pem_x509_certificates(done.out.encode())
        root.verify_directly_issued_by(root)
        issuing.verify_directly_issued_by(root)
        assert issuing.subject != root.subject
        assert run("ca", "chain", "--config", config, "--issuer", "local", "--json").json == {
            "issuer": "local",
            "certificates": [
                one + "-----END CERTIFICATE-----\n" for one in done.out.split("-----END CERTIFICATE-----\n")
            ][:2],
        }

    def test_chain_of_several_issuers_needs_a_choice(self, run: Run, config: Path) -> None:
        text = config.read_text()
        section = text[text.index("[issuers.local]") : text.index("[profiles]")]
        config.write_text(text + section.replace("issuers.local", "issuers.other"))
        done = run("ca", "chain", "--config", config)
        assert (done.status, done.err) == (
            1,
            f"cmpd: {config}: issuers: there are local, other; choose one with --issuer\n",
        )
        assert run("ca", "chain", "--config", config, "--issuer", "other").status == 0
        assert run("ca", "chain", "--config", config, "--issuer", "x").err == (
            "cmpd: --issuer x: no such issuer; there are: local, other\n"
        )

    def test_there_are_none_yet(self, run: Run, config: Path) -> None:
        assert run("cert", "list", "--config", config, "--json").json == []
        assert run("cert", "show", "1f", "--config", config).err == (
            "cmpd: 1f: no certificate of this serial number; see `cmpd cert list`\n"
        )

    def test_serial_number_and_status_are_checked(self, run: Run, config: Path) -> None:
        assert run("cert", "show", "xyz", "--config", config).err.startswith("cmpd: xyz: not a serial number; ")
        assert run("cert", "list", "--status", "good", "--config", config).err == (
            "cmpd: --status good: not a status; write unconfirmed, valid, kept, revoked\n"
        )


class TestShow:
    """`cmpd show`."""

    def test_der_pem_and_base64_are_the_same(self, run: Run, tmp_path: Path) -> None:
        text = base64.encodebytes(PBM_CR.read_bytes())
        (tmp_path / "b64").write_bytes(text)
        (tmp_path / "pem").write_bytes(
            b"A message\n-----BEGIN PKIMESSAGE-----\n" + text + b"-----END PKIMESSAGE-----\n"
        )
        shown = run("show", PBM_CR)
        assert shown.status == 0
        assert "message: cr" in shown.out
        assert "transactionID: a431a5fc193316a6602704150e8c508b" in shown.out
        assert run("show", tmp_path / "b64").out == run("show", tmp_path / "pem").out == shown.out

    def test_standard_input(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "cmpd", "show", "-", "--json"], input=PBM_CR.read_bytes(), capture_output=True
        )
        assert json.loads(done.stdout)["message"] == "cr"

    @pytest.mark.parametrize("source", ["pass:1234", "env:CMPD_TEST_SECRET", "file:{}"])
    def test_a_mac_is_checked_with_the_secret(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
    ) -> None:
        monkeypatch.setenv("CMPD_TEST_SECRET", "1234")
        (tmp_path / "secret").write_text("1234\nsecond line\n")
        secret = source.format(tmp_path / "secret")
        done = run("show", PBM_CR, "--secret", secret)
        assert done.status == 0
        assert done.out.endswith("The protection is right.\n")
        assert run("show", PBM_CR, "--secret", secret, "--json").json["verified"] is True

    def test_a_wrong_secret_is_said_and_exits_with_1(self, run: Run) -> None:
        done = run("show", PBM_CR, "--secret", "pass:hunter2", "--json")
        assert done.status == 1
        assert done.json["verified"] is False
        assert "the protection is not right: " in done.err
        assert "hunter2" not in done.out + done.err

    def test_a_signature_is_checked_up_to_a_trusted_certificate(self, run: Run, config: Path, tmp_path: Path) -> None:
        """Our own CMP signer under our own root; a stranger's root does not do."""
        signed, root = _signed_by(config, tmp_path)
        assert run("show", signed, "--trusted", root).out.endswith("The protection is right.\n")
        run("init", "--dir", tmp_path / "other")
        done = run("show", signed, "--trusted", tmp_path / "other" / "ca" / "root.pem")
        assert done.status == 1
        assert "the protection is not right: " in done.err

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (("--secret", "1234"), "--secret: no source; "),
            (("--secret", "env:CMPD_TEST_UNSET"), "--secret env:CMPD_TEST_UNSET: no such environment variable; "),
            (("--secret", "file:/nonexistent"), "/nonexistent: No such file or directory"),
            (("--secret", "pass:1", "--trusted", "x"), "--secret and --trusted: "),
            (("--trusted", "/nonexistent"), "/nonexistent: No such file or directory"),
            (("--trusted", str(PBM_CR)), f"--trusted {PBM_CR}: not a certificate; "),
        ],
    )
    def test_a_source_that_is_none_is_named_without_its_value(
        self, run: Run, arguments: Sequence[str], reason: str
    ) -> None:
        done = run("show", PBM_CR, *arguments)
        assert (done.status, done.out) == (1, "")
        assert done.err.startswith(f"cmpd: {reason}")

    @pytest.mark.parametrize(
        "data", [b"", b"hello", b"0", b"\x30\x80", b"=", b"-----BEGIN X-----\n-----END X-----", bytes(99)]
    )
    def test_anything_else_is_one_line(self, run: Run, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "file").write_bytes(data)
        done = run("show", tmp_path / "file")
        assert (done.status, done.out) == (1, "")
        assert done.err.startswith(f"cmpd: {tmp_path}/file: not a CMP message: ")
        assert done.err.count("\n") == 1

    def test_a_huge_file_is_not_read(self, run: Run, tmp_path: Path) -> None:
        with (tmp_path / "file").open("wb") as file:
            file.truncate(message.LARGEST + 1)
        assert "larger than" in run("show", tmp_path / "file").err

    def test_a_missing_file_is_named(self, run: Run, tmp_path: Path) -> None:
        assert run("show", tmp_path / "none").err == f"cmpd: {tmp_path}/none: No such file or directory\n"


def _signed_by(config: Path, folder: Path) -> tuple[Path, Path]:
    """A message signed by the CMP signer of a CA, made by the openssl command; and the root's certificate."""
    authority = config.parent / "ca"
    message = folder / "signed.der"
    port = free_port()
    subprocess.run(
        ["openssl", "cmp", "-cmd", "genm", "-server", f"127.0.0.1:{port}", "-reqout", message, "-msg_timeout", "1",
         "-cert", authority / "cmp.pem", "-key", authority / "cmp.key", "-keypass", f"file:{authority}/passphrase",
         "-untrusted", authority / "issuing.pem", "-recipient", "/CN=x"],
        capture_output=True,
    )  # fmt: skip
    return message, authority / "root.pem"


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@dataclass
class Server:
    """A running `cmpd quickstart --json`."""

    process: subprocess.Popen[str]
    told: dict[str, str]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> str:
        """End it; what it has logged."""
        self.process.send_signal(number)
        _, log = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return log


Start = Callable[..., Server]


@pytest.fixture
def quickstart(tmp_path: Path) -> Iterator[Start]:
    """Start `cmpd quickstart` on free ports in a process of its own."""
    processes = []

    def start(*arguments: object) -> Server:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "cmpd",
                "quickstart",
                "--json",
                "--dir",
                str(tmp_path / "data"),
                *map(str, arguments),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        text = ""
        while not text.endswith("\n}\n"):
            line = process.stdout.readline()
            assert line, f"ended: {process.communicate()}"
            text += line
        return Server(process, json.loads(text))

    yield start
    for process in processes:
        process.kill()
        process.communicate()


FREE = ("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")


def paste(folder: Path, text: str, *, good: bool = True) -> str:
    """What happens in a second terminal; what is printed there."""
    done = subprocess.run(
        ["bash", "-e", "-c", text],
        env={"PATH": os.environ["PATH"], "TMPDIR": str(folder)},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert (done.returncode == 0) == good, done.stdout
    return done.stdout


class TestQuickstart:
    """`cmpd quickstart`: what it prints can be pasted as it stands."""

    def test_the_printed_commands_enroll_and_renew(self, run: Run, quickstart: Start, tmp_path: Path) -> None:
        server = quickstart(*FREE)
        printed = paste(tmp_path, f"{server.told['enroll']}\n{server.told['renew']}\n")
        assert re.search(r"(?m)^subject=CN ?= ?device-1$", printed)
        (folder,) = tmp_path.glob("tmp.*")
        first, second = (
            x509.load_pem_x509_certificate((folder / name).read_bytes())
            for name in ("device-1.pem", "device-1-new.pem")
        )
        assert first.subject == second.subject
        assert first.public_key() != second.public_key()
        root = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
        assert root == x509.load_pem_x509_certificate((tmp_path / "data" / "ca" / "root.pem").read_bytes())

        config = ("--config", tmp_path / "data" / "cmpd.toml")
        issued = run("cert", "list", *config, "--json").json
        assert [one["serial"] for one in issued] == [f"{second.serial_number:x}", f"{first.serial_number:x}"]
        assert {(one["subject"], one["profile"], one["issuer"]) for one in issued} == {
            ("CN=device-1", "device", "local")
        }
        assert [one["serial"] for one in run("cert", "list", *config, "--limit", "1", "--json").json] == [
            issued[0]["serial"]
        ]
        assert run("cert", "list", *config, "--status", "revoked", "--json").json == []
        shown = run("cert", "show", issued[0]["serial"], *config, "--json").json
        assert x509.load_pem_x509_certificate(shown.pop("pem").encode()) == second
        assert shown == issued[0]
        text = run("cert", "show", issued[0]["serial"].upper(), *config).out
        assert x509.load_pem_x509_certificate(text[text.index("-----BEGIN") :].encode()) == second
        (code,) = run("code", "list", *config, "--json").json
        assert (code["used"], code["state"]) == (1, "used up")

        log = server.stop()
        assert server.told["reference"] in log
        assert server.told["secret"] not in log

    def test_the_code_is_good_once(self, quickstart: Start, tmp_path: Path) -> None:
        server = quickstart(*FREE)
        paste(tmp_path, server.told["enroll"])
        assert "used up" in paste(tmp_path, server.told["enroll"], good=False)

    def test_a_second_run_goes_on_with_a_fresh_code(self, quickstart: Start, tmp_path: Path) -> None:
        """And its options leave the configuration as it is."""
        first = quickstart("--listen", f"127.0.0.1:{free_port()}", "--admin-listen", "127.0.0.1:0")
        first.stop()
        files = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.[pt][eo]m*")}
        assert tmp_path / "data" / "cmpd.toml" in files
        second = quickstart("--listen", "[::1]:0", "--admin-listen", "[::1]:0")
        assert second.told["url"].startswith("http://[::1]:")
        assert {path: path.read_bytes() for path in files} == files
        assert first.told["secret"] != second.told["secret"]
        assert first.told["url"].partition("/cmp/")[2] == second.told["url"].partition("/cmp/")[2]
        paste(tmp_path, second.told["enroll"])

    def test_listening_everywhere_prints_what_this_machine_can_reach(self, quickstart: Start, tmp_path: Path) -> None:
        server = quickstart("--listen", "0.0.0.0:0", "--allow-http", "--admin-listen", "127.0.0.1:0")
        assert server.told["url"].startswith("http://127.0.0.1:")
        assert Settings.load(tmp_path / "data" / "cmpd.toml").server.url == f"http://{socket.gethostname()}:0"
        paste(tmp_path, server.told["enroll"])

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_it_stops_when_it_is_told(self, quickstart: Start, number: signal.Signals) -> None:
        assert "stopped" in quickstart(*FREE).stop(number)

    def test_to_people_it_says_the_same(self, tmp_path: Path) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "cmpd", "quickstart", "--dir", "data", *FREE],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("Ctrl-C"):
                    break
            text = "".join(lines)
            assert f"configuration    {tmp_path}/data/cmpd.toml\n" in text
            enroll = text[text.index('cd "') : text.index("And this")]
            paste(tmp_path, enroll)
        finally:
            process.terminate()
            process.communicate()
        assert process.returncode == 0

    def test_an_address_in_use_is_one_line(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            listen = f"127.0.0.1:{taken.getsockname()[1]}"
            done = spawn("quickstart", "--dir", tmp_path / "data", "--listen", listen, "--admin-listen", "127.0.0.1:0")
        assert (done.status, done.out) == (1, "")
        fault = f"cmpd: {tmp_path}/data/cmpd.toml: server.listen: {listen}: address already in use; "
        assert [line for line in done.err.splitlines() if line.startswith("cmpd: ")] == [
            fault + "choose another, or stop what uses it"
        ]


class TestCheck:
    """`cmpd check` loads as `serve` does."""

    def test_says_what_would_be_served(self, run: Run, config: Path) -> None:
        done = run("check", "--config", config)
        assert done.status == 0
        assert done.out.splitlines()[0] == f"{config} can be served."
        no_code = (
            f"{config.parent}/profiles/device.toml: enrollment.authentication_method: there is no enrollment code that "
            "can be used; `cmpd code create --profile device` makes one"
        )
        assert run("check", "--config", config, "--json").json == {
            "config": str(config),
            "listen": "127.0.0.1:8829",
            "tls": None,
            "admin": "127.0.0.1:9829",
            "issuers": ["local"],
            "profiles": ["device"],
            "notices": [no_code],
        }

    def test_names_every_fault_with_file_key_and_reason(self, run: Run, config: Path) -> None:
        folder = config.parent
        config.write_text(config.read_text().replace("ca/issuing.key", "ca/none.key").replace('"device"', '"other"'))
        profile = folder / "profiles" / "device.toml"
        profile.write_text(profile.read_text().replace('issuer = "local"', 'issuer = "loca"'))
        (folder / "secrets" / "store.key").chmod(0o644)
        done = run("check", "--config", config)
        assert (done.status, done.out) == (1, "")
        faults = done.err.splitlines()
        assert [fault for fault in faults if not fault.startswith("cmpd: ")] == []
        for expected in (
            f"{folder}/secrets/store.key: store.key_file: mode 0644 ",
            f"issuers.local.key: {folder}/ca/none.key: no such file; ",
            f"{profile}: issuer: 'loca' ",
            "profiles.default: 'other' ",
        ):
            assert any(expected in fault for fault in faults), expected

    def test_changes_nothing(self, run: Run, config: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in config.parent.rglob("*")}
        assert run("check", "--config", config).status == 0
        assert {path: path.stat().st_mtime_ns for path in config.parent.rglob("*")} == before


class TestProgram:
    """The program as a whole."""

    def test_version(self, run: Run) -> None:
        done = run("--version")
        assert done.status == 0
        assert re.fullmatch(r"cmpd \d+\.\d+\.\d+\S*\n", done.out)

    def test_help_imports_nothing_heavy(self) -> None:
        """What makes `cmpd --help` slow is imports."""
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "cmpd", "--help"], capture_output=True, text=True, check=True
        )
        loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "cmpd.cli" in loaded
        assert not loaded & {"aiohttp", "pydantic", "cryptography", "rich", "structlog", "prometheus_client", "asyncio"}

    def test_misuse_exits_with_2(self, run: Run) -> None:
        assert run("code", "create").status == 2
        assert run("nonsense").status == 2
        assert run("cert", "list", "--limit", "0").status == 2

    @pytest.mark.parametrize("command", [("code", "list"), ("cert", "list"), ("code", "create")])
    def test_an_argument_that_is_not_utf8_is_one_line(self, run: Run, config: Path, command: Sequence[str]) -> None:
        done = run(*command, "--config", config, "--profile", os.fsdecode(b"a\xff"))
        assert done.status == 1
        assert done.err.startswith("cmpd: ")
        assert "a\\udcff" in done.err
        assert done.err.count("\n") == 1

    def test_a_fault_cannot_steer_the_terminal(self, run: Run, tmp_path: Path) -> None:
        """Whatever is in the file."""
        (tmp_path / "cmpd.toml").write_text('[server]\n"a\\u001b[2J\\n" = 1\n')
        done = run("code", "list", "--config", tmp_path / "cmpd.toml")
        assert done.status == 1
        assert "\x1b" not in done.err

    def test_a_fault_of_our_own_shows_no_local_variables(self, tmp_path: Path) -> None:
        """A traceback may come from a bug; the values of variables, which may be secrets, never."""
        script = (
            "import cmpd.cli.message as m, cmpd.cli\n"
            "def broken(source):\n    value = source[5:]\n    raise KeyError('bug')\n"
            "m.secret_of = broken\n"
            f"cmpd.cli.main(['show', {str(PBM_CR)!r}, '--secret', 'pass:hunter2'])\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode != 0
        assert "KeyError: 'bug'" in done.stderr
        assert "hunter2" not in done.stdout + done.stderr.replace(script, "")
