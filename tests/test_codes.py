"""`cmpd code`, as an operator meets it: what codes are bound to, how they stand, in bulk and on paper."""

import asyncio
import base64
import csv
import html
import io
import os
import pty
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Coroutine
from contextlib import closing
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, TypeVar

import pytest
import segno
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cmpd import cli
from cmpd.cli.secret import check_fits
from cmpd.http_transfer import OPERATIONS
from cmpd.settings import Settings
from cmpd.store import AdminStore, open_store
from cmpd.store.sqlite import SQLiteStore
from tests.contract.store import issue
from tests.test_cli import Done

T = TypeVar("T")
Run = Callable[..., Done]
COST = "a global code is one secret for the whole fleet: whoever learns it can enroll any name that the profile allows"


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
    return Path(shutil.copytree(made, tmp_path / "server")) / "cmpd.toml"


@pytest.fixture
def run(config: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `cmpd code` in this process, standard input and the configuration given."""
    monkeypatch.setenv("CMPD_CONFIG", str(config))

    def run(*arguments: object, stdin: bytes | str = b"") -> Done:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        status = 0
        try:
            cli.main(["code", *map(str, arguments)])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        return Done(status, *capfd.readouterr())

    return run


def create(run: Run, *arguments: object) -> Any:
    done = run("create", "--profile", "device", "--json", *arguments)
    assert done.status == 0, done.err
    return done.json


def listed(run: Run, *arguments: object) -> Any:
    return run("list", "--json", *arguments).json


def in_store(config: Path, use: Callable[[AdminStore], Coroutine[Any, Any, T]]) -> T:
    """Do something with the store from outside, as the daemon would."""

    async def main() -> T:
        settings = Settings.load(config)
        store = await open_store(settings.store.url, base=settings.base, key=settings.store.key())
        try:
            return await use(store)
        finally:
            await store.close()

    return asyncio.run(main())


def change_profile(config: Path, *changes: tuple[str, str]) -> None:
    path = config.parent / "profiles" / "device.toml"
    text = path.read_text()
    for old, new in changes:
        found = re.search(f"(?m)^{old}", text)
        assert found, old
        text = text[: found.start()] + new + text[found.end() :]
    path.write_text(text)


def allow_global(config: Path) -> None:
    change_profile(config, (r"allow_global = false", "allow_global = true"))


def to_the_end(terminal: int) -> bytes:
    """What is shown on a terminal until nobody has it open any more."""
    shown = b""
    try:
        while part := os.read(terminal, 65536):
            shown += part
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(terminal)
    return shown


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def seconds(text: str) -> datetime:
    return datetime.fromisoformat(text)


class TestCreate:
    """What a code can be bound to."""

    def test_everything_it_is_bound_to_is_shown_and_kept(self, run: Run) -> None:
        bound = (
            "--seat",
            "Gerät 7",
            "--subject",
            "CN=pump-[0-9]+,O=X",
            "--san",
            r"dns:[a-z]+\.example",
            "--san",
            "ip:.*",
        )
        code = create(run, "--reference", "pump 7/a", *bound, "--key-fingerprint", "AB:" * 31 + "AB")
        assert (code["seat"], code["subject"]) == ("Gerät 7", "CN=pump-[0-9]+,O=X")
        assert code["san"] == [r"dns:[a-z]+\.example", "ip:.*"]
        assert code["key_fingerprint"] == "ab" * 32
        assert code["code_url"] == f"{code['url']}/pump%207%2Fa"
        assert (code["global"], code["locked_until"], code["locks"]) == (False, None, 0)
        shown = run("show", "--profile", "device", "--reference", "pump 7/a", "--json").json
        assert shown == {key: value for key, value in code.items() if key != "secret"}
        text = run("show", "--profile", "device", "--reference", "pump 7/a").out
        for line in ("bound to   seat Gerät 7", "bound to   subjectAltName ip:.*", f"{' ' * 11}{code['code_url']}"):
            assert f"{line}\n" in text
        assert code["secret"] not in text

    def test_the_url_with_the_code_is_for_clients_without_a_reference_value(self, run: Run) -> None:
        out = run("create", "--profile", "device", "--reference", "é").out
        assert re.search(r"(?m)^url +http://127\.0\.0\.1:8829/cmp/[\w-]{22}$", out)
        assert re.search(r"(?m)^ +http://127\.0\.0\.1:8829/cmp/[\w-]{22}/%C3%A9$", out)
        assert "for clients whose reference value cannot be set" in out

    def test_the_secret_has_a_check_character(self, run: Run) -> None:
        assert check_fits(create(run)["secret"])

    def test_times_and_durations(self, run: Run) -> None:
        code = create(run, "--from", "2090-01-31T12:00:00+02:00", "--expires", "2d")
        assert (code["valid_from"], code["expires"]) == ("2090-01-31T10:00:00Z", "2090-02-02T10:00:00Z")
        assert code["state"] == "not yet valid"
        code = create(run, "--from", "1d", "--expires", "2090-01-31")
        assert code["expires"] == "2090-01-31T00:00:00Z"
        assert seconds(code["valid_from"]) - seconds(code["created"]) <= timedelta(days=1)
        past = create(run, "--from", "2020-01-01T00:00:00Z", "--expires", "never")
        assert (past["valid_from"], past["expires"], past["state"]) == ("2020-01-01T00:00:00Z", None, "usable")

    @pytest.mark.parametrize("kind", ["public key", "request", "certificate"])
    def test_a_key_from_a_file(self, run: Run, tmp_path: Path, kind: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        name = x509.Name([])
        at = datetime(2026, 1, 1, tzinfo=UTC)
        pem = {
            "public key": lambda: key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "request": lambda: (
                x509.CertificateSigningRequestBuilder(name).sign(key, SHA256()).public_bytes(Encoding.PEM)
            ),
            "certificate": lambda: (
                x509.CertificateBuilder(name, name, key.public_key(), 7, at, at + timedelta(days=1))
                .sign(key, SHA256())
                .public_bytes(Encoding.PEM)
            ),
        }[kind]()
        (tmp_path / "key.pem").write_bytes(b"some text\n" + pem)
        assert create(run, "--key", tmp_path / "key.pem")["key_fingerprint"] == sha256(spki).hexdigest()

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (("--from", "soon"), "--from soon: neither a duration nor a time; write 90s, "),
            (("--expires", "2020-01-01"), "--expires 2020-01-01: is over already; "),
            (
                ("--from", "2090-01-02", "--expires", "2090-01-01"),
                "--expires 2090-01-01: is over before it begins, at 2090-",
            ),
            (("--seat", ""), "--seat (empty): not usable; "),
            (("--seat", "a\x1b[2J"), "--seat a\\x1b[2J: not usable; "),
            (("--subject", "CN=(a"), "--subject CN=(a: not a regular expression in RE2 syntax (missing ): "),
            (("--subject", "(?=a)"), "--subject (?=a): not a regular expression in RE2 syntax ("),
            (("--subject", "x" * 1001), f"--subject {'x' * 1001}: not a regular expression; "),
            (("--san", "ip:.*", "--san", "dns:["), "--san dns:[: not a regular expression in RE2 syntax ("),
            (("--san", "dns:a b"), "--san dns:a b: has a space or a semicolon; write \\x20 or \\x3b "),
            (("--key-fingerprint", "ab"), "--key-fingerprint ab: not a SHA-256 fingerprint of a public key; "),
            (("--reference", " a"), "--reference  a: not usable; "),
            (("--reference", ".."), "--reference ..: cannot be part of a URL "),
            (("--global",), f"--global: profile device does not allow it, because {COST}"),
        ],
    )
    def test_what_is_wrong_is_named_with_what_to_write(self, run: Run, arguments: tuple[str, ...], reason: str) -> None:
        done = run("create", "--profile", "device", *arguments)
        assert (done.status, done.out) == (1, "")
        assert done.err.startswith(f"cmpd: {reason}")
        assert done.err.count("\n") == 1
        assert listed(run) == []

    @pytest.mark.parametrize("operation", sorted(OPERATIONS))
    def test_no_reference_is_taken_for_an_operation_in_a_url(self, run: Run, operation: str) -> None:
        done = run("create", "--profile", "device", "--reference", operation)
        assert done.err.startswith(f"cmpd: --reference {operation}: is the label of an operation in URLs ")

    def test_files_without_a_key_are_refused(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "x.pem"
        assert run("create", "--profile", "device", "--key", path).err == f"cmpd: {path}: No such file or directory\n"
        for content in (b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
            path.write_bytes(content)
            done = run("create", "--profile", "device", "--key", path)
            assert done.err.startswith(f"cmpd: --key {path}: ")
            assert done.err.endswith("; write a PEM file with one of them\n")

    def test_a_global_code_says_what_it_costs(self, run: Run, config: Path) -> None:
        allow_global(config)
        done = run("create", "--profile", "device", "--global")
        assert done.status == 0
        assert done.err == f"cmpd: {COST}, until it is revoked\n"
        assert "good for   any number of certificates, until " in done.out
        (code,) = listed(run)
        assert (code["global"], code["uses"]) == (True, None)
        assert create(run, "--global", "--uses", "5")["uses"] == 5
        for option in (("--seat", "x"), ("--key-fingerprint", "ab" * 32)):
            done = run("create", "--profile", "device", "--global", *option)
            assert done.err.startswith("cmpd: --global: is for a whole fleet, ")


class TestStates:
    """How codes stand, and are put right."""

    @pytest.fixture
    def codes(self, run: Run, config: Path) -> dict[str, Any]:
        """One of each state, by its reference."""
        create(run, "--reference", "usable")
        create(run, "--reference", "not-yet-valid", "--from", "1d")
        create(run, "--reference", "revoked")
        create(run, "--reference", "locked")
        create(run, "--reference", "used-up")
        run("revoke", "--profile", "device", "--reference", "revoked")

        async def change(store: AdminStore) -> None:
            now = datetime.now(UTC)
            by_name = {code.reference: code for code in await store.codes()}
            await store.lock_code(by_name["locked"].id, until=now + timedelta(hours=1), locks=3)
            await store.lock_code(by_name["usable"].id, until=now - timedelta(hours=1), locks=1)
            await issue(store, by_name["used-up"].id)
            past = now - timedelta(days=1)
            await store.create_code("device", "expired", b"x" * 20, 1, past, past - timedelta(days=1))

        in_store(config, change)
        return {code["reference"]: code for code in listed(run)}

    def test_each_is_listed_with_its_state(self, run: Run, codes: dict[str, Any]) -> None:
        assert {name: code["state"] for name, code in codes.items()} == {name: name.replace("-", " ") for name in codes}
        assert len(codes) == 6
        for name in codes:
            assert [code["reference"] for code in listed(run, "--state", name)] == [name]
        assert len(listed(run, "--state", "revoked", "--state", "used up")) == 2
        assert run("list", "--state", "odd").err == (
            "cmpd: --state odd: not a state; write usable, not-yet-valid, locked, used-up, expired, revoked\n"
        )

    def test_show_says_until_when(self, run: Run, codes: dict[str, Any]) -> None:
        for name, words in (
            ("locked", f"locked until {codes['locked']['locked_until']}; locks in a row: 3"),
            ("not-yet-valid", f"not valid before {codes['not-yet-valid']['valid_from']}"),
            ("expired", f"expired at {codes['expired']['expires']}"),
            ("used-up", "used up"),
        ):
            assert f"state      {words}\n" in run("show", "--profile", "device", "--reference", name).out
        assert run("show", "--profile", "device", "--reference", "none").err == (
            "cmpd: profile device has no code none; see `cmpd code list`\n"
        )

    def test_a_locked_code_is_unlocked(self, run: Run, codes: dict[str, Any]) -> None:
        unlock = ("unlock", "--profile", "device", "--reference", "locked")
        assert run(*unlock, "--json").json == {"profile": "device", "reference": "locked", "unlocked": True}
        assert run("show", *unlock[1:], "--json").json["state"] == "usable"
        assert run(*unlock).err == (
            "cmpd: profile device has no code locked that has been locked; see `cmpd code list`\n"
        )


class TestVerify:
    """`cmpd code verify`."""

    def test_a_secret_is_read_from_standard_input(self, run: Run) -> None:
        code = create(run)
        which = ("--profile", "device", "--reference", code["reference"])
        done = run("verify", stdin=code["secret"] + "\n")
        assert (done.status, done.out) == (0, "The check character fits.\n")
        done = run("verify", *which, stdin=code["secret"])
        assert (done.status, done.out.splitlines()[1:]) == (
            0,
            [f"It is the secret of {code['reference']} of profile device."],
        )
        assert run("verify", *which, "--json", stdin=code["secret"]).json == {
            "form": True,
            "check_character": True,
            "code": True,
        }

    def test_a_slip_is_found(self, run: Run) -> None:
        secret = create(run)["secret"]
        wrong = secret[:-1] + ("2" if secret[-1] != "2" else "3")
        done = run("verify", stdin=wrong)
        assert (done.status, done.out) == (1, "The check character does not fit: it is mistyped.\n")
        assert run("verify", "--json", stdin=wrong).json == {"form": True, "check_character": False, "code": None}

    def test_the_secret_of_another_code_is_not_it(self, run: Run) -> None:
        one, other = create(run), create(run)
        done = run("verify", "--profile", "device", "--reference", one["reference"], stdin=other["secret"])
        assert done.status == 1
        assert done.out.endswith(f"It is not the secret of {one['reference']} of profile device.\n")
        assert one["secret"] not in done.out + done.err

    def test_another_writing_is_not_good_but_told(self, run: Run) -> None:
        code = create(run)
        which = ("--profile", "device", "--reference", code["reference"])
        done = run("verify", *which, stdin=code["secret"].replace("-", "").lower())
        assert done.status == 1
        assert "in capital letters, in groups of four with the hyphens" in done.out
        assert "but it is not entered that way" in done.out

    def test_a_secret_of_the_operator_s_own_has_no_check_character(self, run: Run) -> None:
        run("import", "-", "--profile", "device", stdin="reference,secret\nown,correct horse battery\n")
        which = ("--profile", "device", "--reference", "own")
        done = run("verify", *which, stdin="correct horse battery")
        assert done.status == 0
        assert done.out.startswith("It has no check character: ")
        assert run("verify", stdin="correct horse battery").status == 1

    def test_it_says_when_the_code_is_not_usable(self, run: Run) -> None:
        code = create(run)
        which = ("--profile", "device", "--reference", code["reference"])
        run("revoke", *which)
        assert run("verify", *which, stdin=code["secret"]).out.endswith("The code is revoked.\n")

    def test_on_a_terminal_it_is_asked_for_unseen(self, run: Run) -> None:
        secret = create(run)["secret"]
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "cmpd", "code", "verify"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        ) as process:
            os.close(theirs)
            shown = b""
            while b"Secret: " not in shown:
                shown += os.read(ours, 4096)
            os.write(ours, secret.encode() + b"\n")
            shown += to_the_end(ours)
        assert process.returncode == 0
        assert shown.split() == b"Secret: The check character fits.".split()

    def test_never_an_argument(self, run: Run) -> None:
        assert run("verify", "SECRET").status == 2
        assert run("verify", "--profile", "device").err.startswith("cmpd: --profile and --reference: go together; ")
        assert run("verify", stdin=b"\xff\xfe").err == "cmpd: standard input: not UTF-8; write it in UTF-8\n"


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


class TestImport:
    """`cmpd code import`."""

    def test_ten_thousand_in_one_commit(self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        commits: list[int] = []
        close = SQLiteStore.close

        async def counted(store: SQLiteStore) -> None:
            commits.append(store.commits)
            await close(store)

        monkeypatch.setattr(SQLiteStore, "close", counted)
        rows = [f"pump-{number},seat-{number},CN=pump-{number},dns:pump-{number}" for number in range(10_000)]
        (tmp_path / "in.csv").write_text("\n".join(["reference,seat,subject,san", *rows]))
        output = tmp_path / "out.csv"
        done = run("import", tmp_path / "in.csv", "--profile", "device", "--output", output, "--json")
        assert done.json == {
            "profile": "device",
            "codes": 10_000,
            "new_references": 0,
            "new_secrets": 10_000,
            "dry_run": False,
            "output": str(output),
        }
        assert commits == [1]
        codes = listed(run)
        assert len(codes) == 10_000
        assert [code["reference"] for code in codes] == [f"pump-{number}" for number in range(10_000)]
        written = table(output.read_text())
        assert len({row["secret"] for row in written}) == 10_000
        assert all(check_fits(row["secret"]) for row in written)

    def test_of_ten_thousand_none_is_made_when_two_are_wrong(self, run: Run, tmp_path: Path) -> None:
        rows = [f"pump-{number},{'x' if number in {16, 9000} else '1'}" for number in range(10_000)]
        (tmp_path / "in.csv").write_text("\n".join(["reference,uses", *rows]))
        output = tmp_path / "out.csv"
        done = run("import", tmp_path / "in.csv", "--profile", "device", "--output", output)
        assert (done.status, done.out) == (1, "")
        assert done.err.splitlines() == [
            f"cmpd: {tmp_path / 'in.csv'}: line 18: uses: x: not a count; write 1 or more, or `unlimited`",
            f"cmpd: {tmp_path / 'in.csv'}: line 9002: uses: x: not a count; write 1 or more, or `unlimited`",
            f"cmpd: {tmp_path / 'in.csv'}: no code has been made",
        ]
        assert listed(run) == []
        assert not output.exists()

    def test_all_columns(self, run: Run) -> None:
        key = "ab" * 32
        text = (
            "reference;secret;uses;valid_from;expires;seat;subject;san;key_fingerprint\r\n"
            f'p1;0123456789abcdef;unlimited;2090-01-01;never;"s;1";CN=a b;dns:.* ip:.*;{key.upper()}\r\n'
            ";;;;;;;;\r\n"
            ";;7;;2090-01-01T00:00:00Z;;;;\r\n"
        )
        done = run("import", "-", "--profile", "device", "--uses", "2", stdin=b"\xef\xbb\xbf" + text.encode())
        assert done.out.splitlines() == [
            "2 enrollment codes of profile device made, 1 of them with a new secret.",
            "`cmpd code export` writes them with secrets, as CSV or as letters.",
        ]
        first, second = listed(run)
        assert (first["reference"], first["uses"], first["expires"]) == ("p1", None, None)
        assert (first["valid_from"], first["seat"]) == ("2090-01-01T00:00:00Z", "s;1")
        assert (first["subject"], first["san"], first["key_fingerprint"]) == ("CN=a b", ["dns:.*", "ip:.*"], key)
        assert re.fullmatch("[2-9A-HJ-NP-Z]{10}", second["reference"])
        assert (second["uses"], second["expires"], second["san"]) == (7, "2090-01-01T00:00:00Z", [])
        assert run("verify", "--profile", "device", "--reference", "p1", stdin="0123456789abcdef").status == 0

    def test_defaults_are_options(self, run: Run) -> None:
        run("import", "-", "--profile", "device", "--uses", "3", "--expires", "never", stdin="seat\na\nb\n")
        assert [(code["seat"], code["uses"], code["expires"]) for code in listed(run)] == [
            ("a", 3, None),
            ("b", 3, None),
        ]

    def test_every_fault_of_every_line_is_named(self, run: Run) -> None:
        create(run, "--reference", "taken")
        lines = [
            "profile,reference,secret,uses,valid_from,expires,seat,subject,san,key_fingerprint,global",
            "device,good,,1,,,,,,,no",
            ",good,,1,,,,,,,",  # 3
            ",taken,,1,,,,,,,",
            ",nested,,1,,,,,,,",  # 5
            ",a,short secret,0,soon,7d,,(,dns:( ip:.*,xyz,yes",
            ",b,0123456789abcdef,1,,2020-01-01,,,,,maybe",  # 7
            "other,c,0123456789abcdef,1,,,,,,,",
            ",d,1,,",  # 9
            '"two',
            'lines",,,1,,,,,,,',  # 10 begins there
            ",e,0123456789abcdef,1,2090-01-02,2090-01-01,,,,,",  # 12
        ]
        done = run("import", "-", "--profile", "device", stdin="\n".join(lines))
        assert done.status == 1
        found = [line.removeprefix("cmpd: standard input: ") for line in done.err.splitlines()]
        expected = [
            "line 3: reference: good: is on line 2 too; write another, ",
            "line 4: reference: taken: profile device has a code of this reference; write another, ",
            "line 5: reference: nested: is the label of an operation in URLs ",
            "line 6: global: yes: the profile device does not allow it; write no, ",
            "line 6: key_fingerprint: xyz: not a SHA-256 fingerprint of a public key; write ",
            "line 6: san: dns:( ip:.*: not a regular expression in RE2 syntax (missing ): dns:(); write ",
            "line 6: secret: has 12 characters; write 16 to 256 random ones, ",
            "line 6: subject: (: not a regular expression in RE2 syntax (",
            "line 6: uses: 0: not a count; write 1 or more, ",
            "line 6: valid_from: soon: neither a duration nor a time; write ",
            "line 7: expires: 2020-01-01: is over already; write ",
            "line 7: global: maybe: neither yes nor no; write ",
            "line 8: profile: other: is not the profile of --profile; write device or nothing",
            "line 8: secret: is that of line 7 too; write another, ",
            "line 9: has 5 cells and the header 11; write one for each column",
            "line 10: profile: two\\nlines: is not the profile of --profile; ",
            "line 12: expires: 2090-01-01: is over before it begins, ",
            "line 12: secret: is that of line 7 too; ",
            "no code has been made",
        ]
        for line, begin in zip(found, expected, strict=True):
            assert line.startswith(begin), (line, begin)
        assert "short secret" not in done.err
        assert "0123456789abcdef" not in done.err
        assert [code["reference"] for code in listed(run)] == ["taken"]

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "line 1: no codes; write a header such as reference,secret,uses,"),
            (b"reference\n", "line 1: no codes; "),
            (b"name,uses\na,1\n", "line 1: name: unknown column; known here: reference, secret, "),
            (b"uses,reference,uses\n1,a,1\n", "line 1: uses: is there twice; "),
            (b"reference\na\n\xff\n", "line 3: not UTF-8; save it as CSV in UTF-8"),
            (b'reference\n"a" b\n', "line 2: not CSV ("),
            (b'reference\na\n"b\n', "line 3: not CSV ("),
        ],
    )
    def test_what_is_no_table_of_codes_is_refused(self, run: Run, data: bytes, reason: str) -> None:
        done = run("import", "-", "--profile", "device", stdin=data)
        assert done.status == 1
        assert done.err.startswith(f"cmpd: standard input: {reason}")
        assert listed(run) == []

    def test_a_wrong_default_is_named_once(self, run: Run) -> None:
        done = run("import", "-", "--profile", "device", "--uses", "many", stdin="seat\na\nb\n")
        assert done.err == "cmpd: --uses many: not a count; write 1 or more, or `unlimited`\n"

    def test_dry_run_makes_nothing(self, run: Run, tmp_path: Path) -> None:
        create(run, "--reference", "taken")
        arguments = ("import", "-", "--profile", "device", "--dry-run", "--output", tmp_path / "out.csv")
        done = run(*arguments, stdin="reference\na\nb\n")
        assert done.out == "standard input is good for 2 enrollment codes of profile device. Nothing has been made.\n"
        assert run(*arguments, "--json", stdin="reference\na\n").json["dry_run"] is True
        assert "line 2: reference: taken: " in run(*arguments, stdin="reference\ntaken\n").err
        assert len(listed(run)) == 1
        assert not (tmp_path / "out.csv").exists()

    def test_the_output_is_its_owner_s_and_overwrites_nothing(self, run: Run, tmp_path: Path) -> None:
        output = tmp_path / "out.csv"
        old = os.umask(0)
        try:
            assert run("import", "-", "--profile", "device", "--output", output, stdin="reference\na\n").status == 0
        finally:
            os.umask(old)
        assert mode(output) == 0o600
        before = output.read_bytes()
        done = run("import", "-", "--profile", "device", "--output", output, stdin="reference\nb\n")
        assert done.err == f"cmpd: {output}: exists already and is not overwritten; choose another --output\n"
        assert output.read_bytes() == before
        assert [code["reference"] for code in listed(run)] == ["a"]

    def test_a_reference_that_somebody_takes_meanwhile_is_told(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Between the look at the store and the commit; the file with the secrets is taken back."""
        make = SQLiteStore.create_codes

        async def late(store: SQLiteStore, codes: Any, now: Any, **options: Any) -> None:
            await store.create_code("device", "b", b"x" * 20, 1, None, now)
            await make(store, codes, now, **options)

        monkeypatch.setattr(SQLiteStore, "create_codes", late)
        output = tmp_path / "out.csv"
        done = run("import", "-", "--profile", "device", "--output", output, stdin="reference\na\nb\n")
        assert "line 3: reference: b: profile device has a code of this reference; " in done.err
        assert [code["reference"] for code in listed(run)] == ["b"]
        assert not output.exists()

    def test_profiles_without_codes_take_none(self, run: Run) -> None:
        assert run("import", "-", "--profile", "dev", stdin="seat\na\n").err.startswith("cmpd: --profile dev: no such ")

    def test_a_missing_file_is_named(self, run: Run, tmp_path: Path) -> None:
        done = run("import", tmp_path / "none.csv", "--profile", "device")
        assert done.err == f"cmpd: {tmp_path / 'none.csv'}: No such file or directory\n"

    def test_a_terminal_sees_a_progress_bar_on_standard_error(self, config: Path, tmp_path: Path) -> None:
        (tmp_path / "in.csv").write_text("seat\n" + "".join(f"seat-{number}\n" for number in range(1000)))
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "cmpd", "code", "import", str(tmp_path / "in.csv"), "--profile", "device"]
        with subprocess.Popen(
            [*command, "--config", str(config)],
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "80"},
        ) as process:
            os.close(theirs)
            shown = to_the_end(ours)
            assert process.stdout is not None
            out = process.stdout.read()
        assert process.returncode == 0
        assert b"Reading" in shown
        assert b"Writing" in shown
        assert b"100%" in shown
        assert out.startswith(b"1000 enrollment codes of profile device made")


HOSTILE = ("=1+1", "+49", "-x", "@SUM(A1)", "'=quoted", "''", "'", "'plain", "a,b;c", 'say "hi"', "＝x", "<b>&amp;</b>")


class TestExport:
    """`cmpd code export --format csv`."""

    def test_secrets_only_when_asked_for(self, run: Run) -> None:
        code = create(run, "--reference", "a")
        done = run("export")
        (row,) = table(done.out)
        assert "secret" not in row
        assert code["secret"] not in done.out
        assert (row["reference"], row["url"], row["code_url"]) == ("a", code["url"], code["code_url"])
        (row,) = table(run("export", "--with-secrets").out)
        assert row["secret"] == code["secret"]

    def test_into_a_new_file_of_its_owner(self, run: Run, tmp_path: Path) -> None:
        create(run)
        output = tmp_path / "codes.csv"
        done = run("export", "--output", output, "--with-secrets", "--json")
        assert done.json == {"format": "csv", "codes": 1, "output": str(output), "secrets": True}
        assert mode(output) == 0o600
        before = output.read_bytes()
        again = run("export", "--output", output)
        assert again.err == f"cmpd: {output}: exists already and is not overwritten; choose another --output\n"
        assert output.read_bytes() == before

    def test_those_that_are_good_unless_others_are_asked_for(self, run: Run) -> None:
        create(run, "--reference", "a")
        create(run, "--reference", "b", "--from", "1d")
        create(run, "--reference", "c")
        run("revoke", "--profile", "device", "--reference", "c")

        def references(*arguments: object) -> list[str]:
            return [row["reference"] for row in table(run("export", *arguments).out)]

        assert references() == ["a", "b"]
        assert references("--state", "revoked") == ["c"]
        assert references("--reference", "b") == ["b"]
        assert references("--profile", "device", "--state", "usable") == ["a"]
        assert run("export", "--reference", "none").err == (
            "cmpd: --reference none: there is no such code; see `cmpd code list`\n"
        )
        assert run("export", "--reference", "c").err == (
            "cmpd: no enrollment codes that are locked, not yet valid, usable; see `cmpd code list`\n"
        )

    def test_only_what_is_exported_is_decrypted(self, run: Run, config: Path) -> None:
        create(run, "--reference", "a")
        create(run, "--reference", "b")
        with closing(sqlite3.connect(config.parent / "cmpd.db")) as database, database:
            database.execute("UPDATE enrollment_code SET sealed = x'00' WHERE reference = 'a'")
        assert run("export", "--with-secrets", "--reference", "b").status == 0
        assert run("export").status == 0
        assert "key_file" in run("export", "--with-secrets").err

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (("--format", "pdf"), "--format pdf: not a format; write csv or letters"),
            (
                ("--format", "letters"),
                "--output: is missing: letters carry secrets and are for a file; write --output FILE",
            ),
            (("--json",), "--output: is missing: --json says what is in the file; write --output FILE"),
        ],
    )
    def test_what_cannot_be_is_refused(self, run: Run, arguments: tuple[str, ...], reason: str) -> None:
        assert run("export", *arguments).err == f"cmpd: {reason}\n"

    def test_no_cell_is_a_formula_and_all_come_back(
        self, run: Run, config: Path, tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Exported with secrets, imported by another server: the same codes."""
        allow_global(config)
        for number, text in enumerate(HOSTILE):
            create(run, "--reference", f"{text}", "--seat", f"{text}", "--uses", number + 1)
        secrets = [f"{text}{'x' * 20}" for text in HOSTILE]
        rows = io.StringIO()
        csv.writer(rows).writerows([["secret"], *([f"'{secret}"] for secret in secrets if secret[0] in "=+-@")])
        assert run("import", "-", "--profile", "device", stdin=rows.getvalue()).status == 0
        create(run, "--global", "--reference", "fleet", "--subject", "CN=.*", "--san", r"dn:a\x20b", "--san", "dns:.*")
        create(
            run, "--reference", "later", "--from", "2090-01-01", "--expires", "never", "--key-fingerprint", "ab" * 32
        )
        output = tmp_path / "out.csv"
        assert run("export", "--with-secrets", "--output", output).status == 0
        for row in csv.reader(io.StringIO(output.read_text())):
            assert not [cell for cell in row if cell[:1] in set("=+-@\t\r＝＋－＠")]
        before = listed(run)

        other = Path(shutil.copytree(made, tmp_path / "other")) / "cmpd.toml"
        allow_global(other)
        monkeypatch.setenv("CMPD_CONFIG", str(other))
        done = run("import", output, "--profile", "device", "--output", tmp_path / "again.csv")
        assert done.status == 0, done.err
        assert ", 0 of them with a new secret" in done.out
        after = listed(run)
        strip = {"created"}
        assert [{k: v for k, v in one.items() if k not in strip} for one in after] == [
            {k: v for k, v in one.items() if k not in strip} for one in before
        ]
        assert (tmp_path / "again.csv").read_text() == output.read_text()
        assert run("export", "--with-secrets").out == output.read_text()

    def test_what_is_used_is_not_good_again_elsewhere(self, run: Run, config: Path) -> None:
        """An import of what was exported has the uses that are left; what is not good any more is refused."""
        create(run, "--reference", "a", "--uses", "3")
        in_store(config, lambda store: issue(store, 1))
        (row,) = table(run("export").out)
        assert (row["uses"], row["used"]) == ("3", "1")
        done = run("import", "-", "--profile", "device", stdin="reference,uses,used,state\nb,3,1,usable\n")
        assert done.status == 0
        assert listed(run)[1]["uses"] == 2
        done = run("import", "-", "--profile", "device", stdin="uses,used,state\n1,1,\n1,0,revoked\n1,x,\n")
        assert [line.partition("standard input: ")[2][:30] for line in done.err.splitlines()] == [
            "line 2: used: 1: there is no u",
            "line 3: state: revoked: the co",
            "line 4: used: x: not a count; ",
            "no code has been made",
        ]


class Page(HTMLParser):
    """What is in an HTML file: elements, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def matrix(path: str, size: int, border: int = 4) -> list[list[int]]:
    """The dark modules of a QR code that is drawn in horizontal lines: M x y, then h length and m dx dy."""
    found = [[0] * size for _ in range(size)]
    x = y = 0.0
    for command, numbers in re.findall(r"([Mmh])([^Mmh]*)", path):
        values = [float(number) for number in re.findall(r"-?[\d.]+", numbers)]
        if command == "M":
            x, y = values
        elif command == "m":
            x, y = x + values[0], y + values[1]
        else:
            for column in range(int(values[0])):
                found[int(y - 0.5) - border][int(x) + column - border] = 1
            x += values[0]
    return found


class TestLetters:
    """`cmpd code export --format letters`."""

    def export(self, run: Run, output: Path, *arguments: object) -> Done:
        done = run("export", "--format", "letters", "--output", output, *arguments)
        assert done.status == 0, done.err
        return done

    def test_one_page_each_with_all_that_a_device_needs(self, run: Run, tmp_path: Path, config: Path) -> None:
        change_profile(config, ("id = ", 'name = "Pumps <of> Éire"\nid = '))
        codes = [create(run, "--reference", f"pump-{number}", "--uses", number) for number in (1, 2, 3)]
        done = self.export(run, tmp_path / "letters.html")
        assert done.out == f"{tmp_path / 'letters.html'} has 3 enrollment codes with secrets.\n"
        assert mode(tmp_path / "letters.html") == 0o600
        text = (tmp_path / "letters.html").read_text()
        page = Page(text)
        assert len(page.all("article")) == 3
        assert "break-after: page" in text
        for code in codes:
            for value in (code["reference"], code["secret"], code["url"], code["code_url"], f"until {code['expires']}"):
                assert value in page.text
        assert "Pumps <of> Éire" in page.text
        assert "one certificate, until" in page.text
        assert "3 certificates, until" in page.text

    def test_the_square_code_is_the_url(self, run: Run, tmp_path: Path) -> None:
        code = create(run, "--reference", "pump 7")
        self.export(run, tmp_path / "letter.html")
        page = Page((tmp_path / "letter.html").read_text())
        (picture,) = page.all("svg")
        lines = [one for one in page.all("path") if one.get("class") == "qrline"]
        expected = segno.make(code["code_url"], error="m", micro=False)
        rows = [list(map(int, row)) for row in expected.matrix]
        drawn = lines[0]["d"]
        assert drawn is not None
        assert matrix(drawn, len(rows)) == rows
        assert picture["viewbox"] == f"0 0 {len(rows) + 8} {len(rows) + 8}"

    def test_it_stands_alone(self, run: Run, tmp_path: Path) -> None:
        """Nothing is fetched, nothing is run."""
        create(run)
        self.export(run, tmp_path / "letter.html")
        page = Page((tmp_path / "letter.html").read_text())
        tags = {tag for tag, _ in page.elements}
        assert not tags & {"script", "link", "img", "iframe", "object", "a", "form", "image", "use"}
        names = {name for _, attributes in page.elements for name in attributes}
        assert not {name for name in names if name.startswith("on")} | names & {"src", "href", "style"}
        policy = next(one for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy")
        assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"

    def test_what_is_hostile_is_text(self, run: Run, tmp_path: Path, config: Path) -> None:
        evil = "<script>alert(1)</script>\"'&{0}"
        change_profile(config, ("id = ", "name = '''</title><img src=x>'''\nid = "))
        create(run, "--reference", evil, "--seat", evil, "--subject", evil.replace("(", "[").replace(")", "]"))
        self.export(run, tmp_path / "letter.html")
        text = (tmp_path / "letter.html").read_text()
        page = Page(text)
        assert not page.all("script") + page.all("img")
        assert evil in page.text
        assert f"seat {evil}" in page.text
        assert html.escape(evil) in text
        assert "<script" not in text

    def test_a_folder_has_a_file_for_each(self, run: Run, tmp_path: Path) -> None:
        for name in ("pump-1", "../../etc/passwd", "a b"):
            create(run, "--reference", name)
        folder = tmp_path / "letters"
        self.export(run, folder)
        assert mode(folder) == 0o700
        files = sorted(folder.iterdir())
        assert [file.name for file in files] == [
            "1-device-pump-1.html",
            "2-device-.._.._etc_passwd.html",
            "3-device-a_b.html",
        ]
        for file in files:
            assert mode(file) == 0o600
            assert len(Page(file.read_text()).all("article")) == 1
        again = run("export", "--format", "letters", "--output", folder)
        assert again.err == f"cmpd: {folder}: exists already and is not overwritten; choose another --output\n"

    def test_a_global_code_warns(self, run: Run, tmp_path: Path, config: Path) -> None:
        allow_global(config)
        create(run, "--global")
        self.export(run, tmp_path / "letter.html")
        assert "This secret is the same for all devices" in Page((tmp_path / "letter.html").read_text()).text

    def test_a_code_of_a_profile_that_is_gone_has_no_letter(self, run: Run, tmp_path: Path, config: Path) -> None:
        async def other(store: AdminStore) -> None:
            await store.create_code("gone", "x", b"y" * 20, 1, None, datetime.now(UTC))
            await store.create_code("gone", "z", b"\xff" * 20, 1, None, datetime.now(UTC))

        in_store(config, other)
        done = run("export", "--format", "letters", "--output", tmp_path / "letter.html")
        assert done.err.startswith("cmpd: profile gone: is not configured, and x is a code of it; ")
        assert not (tmp_path / "letter.html").exists()
        (row,) = table(run("export", "--reference", "x").out)
        assert (row["url"], row["code_url"]) == ("", "")
        done = run("export", "--reference", "z", "--with-secrets")
        assert done.err == "cmpd: profile gone: the secret of z is not text; choose others with --reference\n"


def test_no_secret_is_on_disk(run: Run, config: Path) -> None:
    run("import", "-", "--profile", "device", stdin="secret\ncorrect horse battery staple\n")
    secrets = [row["secret"].encode() for row in table(run("export", "--with-secrets").out)]
    assert secrets == [b"correct horse battery staple"]
    for path in config.parent.rglob("*"):
        if path.is_file():
            assert secrets[0] not in path.read_bytes()
            assert base64.b64encode(secrets[0]) not in path.read_bytes()
