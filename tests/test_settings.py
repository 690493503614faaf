"""cmpd.toml: what is read, and that every fault is named with file, key, value, reason and remedy."""

import base64
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from cmpd.limits import Limits
from cmpd.settings import Listen, Settings, SettingsError, parse_url, read_key

Write = Callable[[str | bytes], Path]
File = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write cmpd.toml; its path."""

    def write(text: str | bytes) -> Path:
        path = tmp_path / "cmpd.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def faults_of(path: Path) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        Settings.load(path)
    return [fault.removeprefix(f"{path}: ") for fault in caught.value.faults]


def test_an_empty_file_is_all_defaults(write: Write, tmp_path: Path) -> None:
    settings = Settings.load(write(""))
    assert settings.server.listen == Listen("127.0.0.1", 8829)
    assert settings.server.url == "http://127.0.0.1:8829"
    assert settings.server.tls is None
    assert settings.admin.listen == Listen("127.0.0.1", 9829)
    assert settings.store.path == tmp_path / "cmpd.db"
    assert settings.store.key_file == tmp_path / "secrets" / "store.key"
    assert settings.store.retention == timedelta(days=7)
    assert settings.profiles.directory == tmp_path / "profiles"
    assert settings.profiles.default is None
    assert settings.limits == Limits()
    assert settings.issuers == {}


def test_relative_paths_start_at_the_folder_of_the_file(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the file itself is named by a relative path."""
    path = write(
        '[store]\nurl = "sqlite:///data/x.db"\nkey_file = "/run/key"\n[profiles]\ndirectory = "p"\n'
        '[server.tls]\nlisten = "[::1]:8443"\ncertificate = "tls.pem"\nkey = "/etc/tls.key"\n'
    )
    monkeypatch.chdir(tmp_path.parent)
    settings = Settings.load(path.relative_to(tmp_path.parent))
    assert settings.path == path
    assert settings.store.url == f"sqlite:///{tmp_path}/data/x.db"
    assert str(settings.store.key_file) == "/run/key"
    assert settings.profiles.directory == tmp_path / "p"
    assert settings.server.tls is not None
    assert settings.server.tls.certificate == tmp_path / "tls.pem"
    assert str(settings.server.tls.key) == "/etc/tls.key"


def test_an_absolute_store_has_four_slashes(write: Write) -> None:
    settings = Settings.load(write('[store]\nurl = "sqlite:////var/lib/cmpd/cmpd.db"\n'))
    assert str(settings.store.path) == "/var/lib/cmpd/cmpd.db"


def test_a_systemd_credential_is_expanded(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write('[store]\nkey_file = "${CREDENTIALS_DIRECTORY}/store.key"\n')
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/cmpd.service")
    assert str(Settings.load(path).store.key_file) == "/run/credentials/cmpd.service/store.key"
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    assert "store.key_file: " in faults_of(path)[0]
    assert "CREDENTIALS_DIRECTORY is not set; " in faults_of(path)[0]


def test_an_issuers_own_keys_are_passed_on_as_written(write: Write) -> None:
    settings = Settings.load(write('[issuers.main]\ntype = "local"\ncertificate = "ca.pem"\nn = [1, {a = 2}]\n'))
    assert settings.issuer_table("main") == {"type": "local", "certificate": "ca.pem", "n": [1, {"a": 2}]}


def test_every_fault_is_reported_at_once(write: Write) -> None:
    faults = faults_of(
        write(
            '[server]\nlisten = "127.0.0.1:88299"\nlsten = "x"\n[server.tls]\nlisten = "[::1]:1"\n'
            '[store]\nurl = "mysql://x"\nretention = 7\n[limits]\nbody_size = 5\nnestin = 3\n'
            '[issuers.local]\ntyp = "x"\n[log]\nformat = "xml"\n'
        )
    )
    assert [fault.split(": ")[0] for fault in sorted(faults)] == [
        "issuers.local.type",
        "limits.body_size",
        "limits.nestin",
        "log.format",
        "server.listen",
        "server.lsten",
        "server.tls.certificate",
        "server.tls.key",
        "store.retention",
        "store.url",
    ]
    assert all("; " in fault for fault in faults)
    assert "server.listen: value '127.0.0.1:88299': no such port; ports are 0 to 65535" in faults
    assert "limits.nestin: unknown key; did you mean nesting?" in faults


def test_the_value_of_an_unknown_key_is_not_shown(write: Write) -> None:
    """It may be a secret that somebody put into the wrong place."""
    (fault,) = faults_of(write('[store]\nsecret = "hunter2"\n'))
    assert fault == (
        "store.secret: unknown key; known here: certificate_retention, connections, key_file, migrate, order_retention,"
        " password_file, refusals, retention, statement_cache, statement_timeout, url"
    )


def test_a_path_key_at_the_top_is_refused(write: Write) -> None:
    assert faults_of(write('path = "x"\n')) == ["path: unknown key; remove it"]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[server]\nlisten = \n", "line 2, column 10: "),
        ("[server]\n[server]\n", "line 2, column "),
        ("a = 1\na = 2\n", "line 2, column "),
        ('a = "', "end of document: "),
    ],
)
def test_a_syntax_error_names_its_line(write: Write, text: str, where: str) -> None:
    (fault,) = faults_of(write(text))
    assert fault.startswith(where)
    assert "; correct the line" in fault


def test_a_file_that_is_not_utf8_is_named(write: Write) -> None:
    assert faults_of(write(b"a = '\xff'")) == ["octet 5 is not UTF-8; save the file as UTF-8"]


def test_a_missing_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path / "none.toml")
    assert fault.startswith("no such file; make one with `cmpd init")


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path)
    assert fault.startswith("cannot be read: ")


@pytest.mark.parametrize("name", ['"a b"', '""', '"../x"', '"-a"', f'"{"a" * 65}"'])
def test_an_issuer_needs_a_usable_name(write: Write, name: str) -> None:
    (fault,) = faults_of(write(f'[issuers.{name}]\ntype = "local"\n'))
    assert "not a usable name" in fault


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8829", "127.0.0.1", 8829),
        ("0.0.0.0:0", "0.0.0.0", 0),
        ("[::1]:65535", "::1", 65535),
        ("[2001:DB8:0::1]:80", "2001:db8::1", 80),
        ("localhost:1", "localhost", 1),
        ("pki.example.com:80", "pki.example.com", 80),
    ],
)
def test_listen_is_host_and_port(text: str, host: str, port: int) -> None:
    listen = Listen.parse(text)
    assert (listen.host, listen.port) == (host, port)
    assert Listen.parse(str(listen)) == listen


@pytest.mark.parametrize(
    "text",
    ["", "8829", ":8829", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "1.2.3:1", "256.0.0.1:1",
     "::1:8829", "[::1]", "[::g]:1", "[127.0.0.1]:1", "a b:1", "-a:1", "a..b:1", "x:1 ", "x:٣", 8829, None, ["x:1"]],
)  # fmt: skip
def test_anything_else_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match=";"):
        Listen.parse(text)


@pytest.mark.parametrize(
    ("listen", "local"),
    [
        ("127.0.0.1:1", True),
        ("127.99.0.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("192.0.2.1:1", False),
        ("[2001:db8::1]:1", False),
        ("[::ffff:192.0.2.1]:1", False),
    ],
)
def test_which_addresses_only_this_machine_reaches(listen: str, local: bool) -> None:
    assert Listen.parse(listen).is_local() is local


def test_a_host_that_is_none_has_no_addresses() -> None:
    with pytest.raises(OSError, match=r"not known|No address"):
        Listen.parse("no-such-host.invalid:1").is_local()


class TestProxy:
    """[server.proxy] says who may speak for clients, and never everybody."""

    def test_its_defaults(self, write: Write) -> None:
        settings = Settings.load(write('[server.proxy]\naddresses = ["127.0.0.1", "10.0.0.0/8", "fd00::/64"]\n'))
        proxy = settings.server.proxy
        assert proxy is not None
        assert [str(network) for network in proxy.addresses] == ["127.0.0.1/32", "10.0.0.0/8", "fd00::/64"]
        assert (proxy.certificate, proxy.certificate_header, proxy.chain_header) == ("off", None, None)
        assert proxy.client_address == "X-Forwarded-For"

    @pytest.mark.parametrize(
        ("key", "reason"),
        [
            ("addresses = []", "server.proxy.addresses: value []: names nobody; "),
            ('addresses = ["0.0.0.0/0"]', "everybody could speak for every client; "),
            ('addresses = ["10.0.0.0/8", "::/0"]', "everybody could speak for every client; "),
            ('addresses = ["proxy.example.com"]', "server.proxy.addresses.0: value 'proxy.example.com': no IP address"),
            ('addresses = ["10.0.0.1/8"]', "no IP address or network; "),
            ('certificate = "off"', "server.proxy.addresses: missing; set it"),
            ('addresses = ["::1"]\ncertificate = "envoy"', "server.proxy.certificate: value 'envoy': "),
            (
                'addresses = ["::1"]\nchain_header = "a b"',
                "server.proxy.chain_header: value 'a b': no name of a header",
            ),
            ('addresses = ["::1"]\ncertificate_header = ""', "server.proxy.certificate_header: no name of a header"),
            (
                'addresses = ["::1"]\nclient_address = "a:"',
                "server.proxy.client_address: value 'a:': no name of a header",
            ),
        ],
    )
    def test_what_is_wrong_with_it(self, write: Write, key: str, reason: str) -> None:
        (fault,) = faults_of(write(f"[server.proxy]\n{key}\n"))
        assert reason in fault
        assert "; " in fault


def test_the_oldest_tls_version_is_one_of_two(write: Write) -> None:
    (fault,) = faults_of(
        write('[server.tls]\nlisten = "[::1]:1"\ncertificate = "a"\nkey = "b"\nminimum_version = "1.1"\n')
    )
    assert fault.startswith("server.tls.minimum_version: value '1.1': ")


@pytest.mark.parametrize("listen", ["0.0.0.0:8829", "[::]:8829"])
def test_listening_everywhere_needs_a_url(write: Write, listen: str) -> None:
    """No client can connect to 0.0.0.0, and the URL goes into certificates."""
    (fault,) = faults_of(write(f'[server]\nlisten = "{listen}"\n'))
    assert fault.startswith("server.url: not set, ")
    settings = Settings.load(write(f'[server]\nlisten = "{listen}"\nurl = "https://pki.example.com/base/"\n'))
    assert settings.server.url == "https://pki.example.com/base"


@pytest.mark.parametrize(
    "url",
    ["", "pki.example.com", "ftp://x", "http://", "http://x:99999", "http://[::1", "http://a b", "http://x?y",
     "http://x#y", "http://user@x", "http://x\n", "http://ü"],
)  # fmt: skip
def test_a_url_that_no_client_can_use_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=";"):
        parse_url(url)


@pytest.mark.parametrize("url", ["cmpd.db", "sqlite://cmpd.db", "sqlite:///", "sqlite:////", "sqlite:///x?mode=ro"])
def test_a_store_url_that_is_none_is_refused(write: Write, url: str) -> None:
    (fault,) = faults_of(write(f'[store]\nurl = "{url}"\n'))
    assert fault.startswith(f"store.url: value '{url}': ")


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("postgresql://cmpd:hunter2@db:x/cmpd", "a port is a number"),
        ("postgresql://cmpd:hunt@er2@db/cmpd", "%40"),
        ("postgresql://cmpd:hunt/er2@db/cmpd", "%40"),
        ("postgresql://cmpd:hunt#er2@db/cmpd", "%40"),
        ("postgresql://cmpd:hunt?er2@db/cmpd", "%40"),
        ("postgresql://cmpd:hunter2@db/cmpd?connect_timeout=soon", "connect_timeout"),
        ("postgresql://cmpd:hunter2@db/cmpd?keepalives=1", "keepalives"),
    ],
)
def test_a_server_url_that_is_none_is_refused_and_no_password_shown(write: Write, url: str, fault: str) -> None:
    (said,) = faults_of(write(f'[store]\nurl = "{url}"\n'))
    assert said.startswith("store.url: value ")
    assert fault in said
    assert "hunt" not in said
    assert "er2" not in said


def test_a_server_url_is_taken_as_it_is_and_not_shown(write: Write) -> None:
    url = "postgresql://cmpd:hunter2@a:5432,b:5433/cmpd?target_session_attrs=read-write&sslmode=verify-full"
    settings = Settings.load(write(f'[store]\nurl = "{url}"\n'))
    assert settings.store.url == url
    assert settings.store.path is None
    assert "hunter2" not in repr(settings)


class TestPasswordFile:
    """The password of the database role is in a file that not everybody can read."""

    def test_it_is_read_without_the_end_of_its_line(self, write: Write, tmp_path: Path) -> None:
        (tmp_path / "pw").write_text("hunter2\n")
        (tmp_path / "pw").chmod(0o600)
        settings = Settings.load(write('[store]\nurl = "postgresql://c@db/c"\npassword_file = "pw"\n'))
        assert settings.store.database().password == "hunter2"
        assert "hunter2" not in repr(settings.store.database())

    @pytest.mark.parametrize(
        ("content", "mode", "fault"),
        [
            (b"hunter2", 0o644, "chmod 600"),
            (b"\n", 0o600, "is empty"),
            (b"\xff", 0o600, "not UTF-8"),
            (None, 0, "no such"),
        ],
    )
    def test_one_that_is_not_right_is_refused(
        self, write: Write, tmp_path: Path, content: bytes | None, mode: int, fault: str
    ) -> None:
        if content is not None:
            (tmp_path / "pw").write_bytes(content)
            (tmp_path / "pw").chmod(mode)
        settings = Settings.load(write('[store]\nurl = "postgresql://c@db/c"\npassword_file = "pw"\n'))
        with pytest.raises(SettingsError, match=fault) as refused:
            settings.store.database()
        assert "store.password_file" in str(refused.value)
        assert "hunter2" not in str(refused.value)


class TestKeyFile:
    """The store key is 32 octets in base64 in a file that not everybody can read."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> File:
        def file(content: bytes, mode: int = 0o600) -> Path:
            path = tmp_path / "store.key"
            path.write_bytes(content)
            path.chmod(mode)
            return path

        return file

    def test_is_read(self, file: File) -> None:
        assert read_key(file(base64.b64encode(bytes(range(32))) + b"\n")) == bytes(range(32))

    def test_may_be_readable_for_its_group(self, file: File) -> None:
        assert len(read_key(file(base64.b64encode(bytes(32)), 0o440))) == 32

    @pytest.mark.parametrize("size", [0, 16, 31, 33, 900])
    def test_has_exactly_32_octets(self, file: File, size: int) -> None:
        with pytest.raises(SettingsError, match=rf"key_file: {min(size, 768)} octets, not 32; "):
            read_key(file(base64.b64encode(bytes(size))))

    @pytest.mark.parametrize("content", [b"not base64!", b"\xff" * 44, b"AAA"])
    def test_is_base64_and_never_quoted_in_an_error(self, file: File, content: bytes) -> None:
        with pytest.raises(SettingsError, match="not base64; ") as caught:
            read_key(file(content))
        assert "not base64!" not in str(caught.value)

    @pytest.mark.parametrize("mode", [0o604, 0o644, 0o602])
    def test_is_refused_when_open_to_everybody(self, file: File, mode: int) -> None:
        with pytest.raises(SettingsError, match=f"mode {mode:04o} opens it to every user; "):
            read_key(file(base64.b64encode(bytes(32)), mode))

    def test_is_missed_by_name(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"store\.key: store\.key_file: no such file; "):
            read_key(tmp_path / "store.key")

    def test_is_read_on_demand_only(self, write: Write) -> None:
        """Listing profiles needs no secret."""
        settings = Settings.load(write(""))
        with pytest.raises(SettingsError):
            settings.store.key()

    def test_does_not_appear_in_the_settings(self, write: Write, tmp_path: Path) -> None:
        key = base64.b64encode(os.urandom(32))
        (tmp_path / "secrets").mkdir()
        (tmp_path / "secrets" / "store.key").write_bytes(key)
        (tmp_path / "secrets" / "store.key").chmod(0o600)
        settings = Settings.load(write(""))
        assert settings.store.key() == base64.b64decode(key)
        assert key.decode() not in repr(settings)
