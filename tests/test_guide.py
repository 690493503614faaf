"""The guide in README from an API key to a renewed S/MIME certificate: its commands are run as they stand there.

What is replaced: the folder, the comment that stands before `base_url` (a setting of the connector), and STAMP. Orders
are asked for every five seconds, not every minute.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from cmpd.cli import setup
from tests.certcentral.process import Simulator
from tests.daemon import FreePort, Site
from tests.test_docs import README

pytestmark = pytest.mark.long

HEADING = "### How to set up a public S/MIME profile for an e-mail gateway"
SECONDS = 120


def blocks() -> list[str]:
    """The commands of each step."""
    section = README.read_text().split(f"{HEADING}\n")[1].split("\n## ")[0]
    return re.findall(r"(?ms)^```sh\n(.*?)^```$", section)


class Shell:
    """A shell of an operator: folder and environment stay from one step to the next."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._url = url
        self._state = folder.parent / "state.sh"
        self._state.write_text("")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = {"PATH": path, "HOME": str(folder.parent), "no_proxy": "127.0.0.1"}

    def try_(self, commands: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        commands = commands.replace("cd /etc/cmpd", f"cd {self._folder}")
        commands = re.sub(r"(?m)^#base_url = \S+", f'base_url = "{self._url}"\npoll_interval = "5s"', commands)
        script = f". {self._state}\nset -e\n{commands}\n(export -p; echo cd '\"$PWD\"') > {self._state}\n"
        return subprocess.run(
            ["sh", "-c", script], input=typed, capture_output=True, text=True, env=self._environment, timeout=SECONDS
        )

    def run(self, commands: str, typed: str = "") -> str:
        done = self.try_(commands, typed)
        assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def start(self, commands: str) -> subprocess.Popen[bytes]:
        """Something that goes on beside the rest."""
        script = f". {self._state}\nexec {commands}"
        null = subprocess.DEVNULL
        return subprocess.Popen(["sh", "-c", script], env=self._environment, stdin=null, stdout=null, stderr=null)


@pytest.fixture
def central() -> Iterator[Simulator]:
    with Simulator(delay=3) as running:
        yield running


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    cmp, admin = FreePort(), FreePort()
    yield Site(setup.make(tmp_path / "cmpd", listen=cmp.listen, admin_listen=admin.listen, url=None))
    cmp.close()
    admin.close()


def test_the_guide_from_an_api_key_to_a_renewed_certificate(site: Site, central: Simulator) -> None:
    """Each step does what the text beside it says."""
    key, connector, profile, code, first, held, renewal = blocks()
    folder = site.folder
    shell = Shell(folder, central.url)
    with site.serve() as daemon:
        shell.run(key, "sim-admin-key\n")
        assert (folder / "secrets" / "certcentral.key").stat().st_mode & 0o777 == 0o600
        assert "API key\tok" in shell.run(connector)
        told = shell.run(profile)
        assert "can be served" in told
        assert "domains\tok\texample.com is proven" in told
        assert "Reloaded; profiles: device, mail." in told
        shell.run(code)
        assert "starting to poll" in shell.run(first)
        certificate = x509.load_pem_x509_certificate((folder / "ada.pem").read_bytes())
        assert certificate.subject.rfc4514_string() == "CN=ada@example.com"

        central.set(misissue="key")
        (folder / "eve.cnf").write_text("[SAN]\nsubjectAltName = email:eve@example.com\n")
        other = first.replace("ada", "eve").splitlines()
        shell.run(other[1])
        gateway = shell.start("\n".join(other[2:]))
        try:
            stamp = await_held(shell)
            told = shell.run(held.replace("STAMP", stamp))
            assert gateway.wait(SECONDS) != 0, "it hears that the order is given up"
        finally:
            gateway.kill()
            gateway.wait()
        assert "eve@example.com" in told
        assert "the issuer issued something other than was approved" in told
        assert f"cmpd order cancel {stamp}" in told
        central.set(misissue="")

        early = shell.try_(renewal)
        assert early.returncode != 0
        assert "renewal" in early.stdout + early.stderr
        file = folder / "profiles" / "mail.toml"
        file.write_text(file.read_text().replace("[renewal]\n", "[renewal]\nwindow_days = 400\n", 1))
        shell.run("cmpd reload")
        shell.run(renewal)
        renewed = x509.load_pem_x509_certificate((folder / "ada-2.pem").read_bytes())
        assert renewed.subject == certificate.subject
        assert renewed.serial_number != certificate.serial_number
        daemon.stop()
    assert len(central.control("GET", "/ledger?kind=order")) == 3, "nothing was ordered twice"


def await_held(shell: Shell) -> str:
    """The order that waits for an operator, once there is one."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        found = json.loads(shell.run("cmpd order list --state held --json"))
        if found:
            return str(found[0]["stamp"])
        time.sleep(0.5)
    raise AssertionError("no order is held")


def test_the_guide_is_one_page() -> None:
    """Of 80 lines."""
    section = README.read_text().split(f"{HEADING}\n")[1].split("\n## ")[0]
    assert len(section.splitlines()) <= 80
