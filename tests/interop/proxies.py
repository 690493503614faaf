"""The real nginx and HAProxy with the samples of config/: those of PATH, or those of Debian's packages."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.daemon import ROOT, FreePort
from tests.http_client import WAIT

PEM = Encoding.PEM
PACKAGES = {
    "nginx": ("nginx",),
    "haproxy": ("haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"),
}
SAMPLES = {"nginx": ROOT / "config" / "nginx.conf", "haproxy": ROOT / "config" / "haproxy.cfg"}


@dataclass(frozen=True)
class Program:
    """A command that can be run."""

    path: Path
    environment: dict[str, str]


def program(name: str, cache: Path) -> Program:
    """Find a proxy, or take it from its Debian package into `cache`; skip the test when it is not to be had."""
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if found is not None:
        return Program(Path(found), environment)
    folder = cache / name
    binary = folder / "usr" / "sbin" / name
    libraries = ":".join(str(path) for path in folder.glob("usr/lib/*-linux-*"))
    if not binary.exists():
        reason = _unpack(name, folder)
        if reason is not None:
            pytest.skip(f"{name} is not installed ({reason}); apt-get install {name}")
        libraries = ":".join(str(path) for path in folder.glob("usr/lib/*-linux-*"))
    ready = Program(binary, environment | {"LD_LIBRARY_PATH": libraries})
    if subprocess.run([binary, "-v"], env=ready.environment, capture_output=True).returncode != 0:
        pytest.skip(f"{name} is not installed (Debian's package does not run here); apt-get install {name}")
    return ready


def _unpack(name: str, folder: Path) -> str | None:
    """Take the packages apart; the reason when that cannot be done."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return "and this is no Debian"
    work = folder.with_name(f"{name}.{os.getpid()}")
    work.mkdir(parents=True)
    try:
        download = subprocess.run(
            ["apt-get", "download", "-qq", *PACKAGES[name]], cwd=work, capture_output=True, timeout=WAIT
        )
        if download.returncode != 0:
            return "and its package cannot be downloaded"
        for package in work.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, work], check=True, capture_output=True, timeout=WAIT)
            package.unlink()
        with contextlib.suppress(OSError):  # somebody else was faster
            work.rename(folder)
    except (OSError, subprocess.SubprocessError):
        return "and its package cannot be taken apart"
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return None


def sample(name: str, *changes: tuple[str, str]) -> str:
    """The sample with other ports and paths; everything else is as it is shipped."""
    text = SAMPLES[name].read_text()
    for before, after in changes:
        assert before in text, before
        text = text.replace(before, after)
    return text


def run(
    name: str, ready: Program, folder: Path, upstream: str, *, certificate: Path, key: Path, cas: Path
) -> contextlib.AbstractContextManager[str]:
    """Run one of them before `upstream`; its address."""
    if name == "nginx":
        return nginx(ready, folder, upstream, certificate, key)
    return haproxy(ready, folder, upstream, certificate, key, cas)


@contextlib.contextmanager
def nginx(ready: Program, folder: Path, upstream: str, certificate: Path, key: Path) -> Iterator[str]:
    """Run nginx before `upstream`; its address."""
    folder.mkdir()
    temporary = "".join(
        f"    {kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    with contextlib.closing(FreePort()) as port:
        text = sample(
            "nginx",
            ("127.0.0.1:8829;\n        keepalive", f"{upstream};\n        keepalive"),
            ("        listen 443 ssl;\n        listen [::]:443 ssl;\n", f"        listen {port.listen} ssl;\n"),
            ("/etc/nginx/tls/server.pem", str(certificate)),
            ("/etc/nginx/tls/server.key", str(key)),
            ("    access_log off;\n", f"    access_log off;\n{temporary}"),
        )
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(f"{user}\ndaemon off;\npid {folder}/nginx.pid;\n{text}")
        command = [ready.path, "-p", folder, "-e", "stderr", "-c", folder / "nginx.conf"]
        with _running(command, ready, str(port.listen)):
            yield str(port.listen)


@contextlib.contextmanager
def haproxy(ready: Program, folder: Path, upstream: str, certificate: Path, key: Path, cas: Path) -> Iterator[str]:
    """Run HAProxy before `upstream`; its address."""
    folder.mkdir()
    (folder / "server.pem").write_bytes(certificate.read_bytes() + key.read_bytes())
    with contextlib.closing(FreePort()) as port:
        text = sample(
            "haproxy",
            ("server cmpd 127.0.0.1:8829", f"server cmpd {upstream}"),
            ("bind :443 ", f"bind {port.listen} "),
            ("/etc/haproxy/tls/server.pem", str(folder / "server.pem")),
            ("/etc/haproxy/tls/clients.pem", str(cas)),
        )
        (folder / "haproxy.cfg").write_text(text)
        with _running([ready.path, "-db", "-f", folder / "haproxy.cfg"], ready, str(port.listen)):
            yield str(port.listen)


@contextlib.contextmanager
def _running(command: list[object], ready: Program, address: str) -> Iterator[None]:
    log = Path(str(command[-1])).with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command], env=ready.environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait_for(address, process, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(WAIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until it listens: neither says so itself."""
    host, _, port = address.rpartition(":")
    end = time.monotonic() + WAIT
    while True:
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection((host, int(port)), 1).close()
        except OSError:
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.02)
        else:
            return
