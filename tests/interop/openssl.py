"""The stock `openssl` command as an end entity and as a relying party, and the daemon that it asks."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd.exchange import CertificateStatus
from tests.daemon import DEVICE, SECRET, Daemon, Site

WAIT = 60.0
"""How long a command may take, in seconds; those that wait for a server have their own limit."""
CMP = ("cmp", "-config", os.devnull, "-batch", "-no_proxy", "127.0.0.1", "-total_timeout", "20")
KEYS = {
    "rsa": ("RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
    "P-256": ("EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "P-384": ("EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
    "P-521": ("EC", "-pkeyopt", "ec_paramgen_curve:P-521"),
    "ed25519": ("ED25519",),
    "ed448": ("ED448",),
}


class Done:
    """A command that has ended."""

    def __init__(self, done: subprocess.CompletedProcess[bytes]) -> None:
        self.ok = done.returncode == 0
        self.status = done.returncode
        self.text = done.stdout.decode(errors="replace")
        """All that it has said, in its order."""
        self.sent = re.findall(r"CMP info: sending (\w+)", self.text)
        self.received = re.findall(r"CMP info: received (\w+)$", self.text, re.MULTILINE)

    def __repr__(self) -> str:
        return f"exit status {self.status}\n{self.text}"


class OpenSSL:
    """Commands in a folder of their own; file names are relative to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *arguments: str, data: bytes = b"") -> Done:
        """Run one command."""
        return Done(
            subprocess.run(
                ["openssl", *arguments],
                cwd=self.folder,
                input=data,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=WAIT,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            )
        )

    def right(self, *arguments: str, data: bytes = b"") -> str:
        """Run a command that must succeed; what it prints."""
        done = self.run(*arguments, data=data)
        assert done.ok, done
        return done.text

    def key(self, name: str, kind: str = "P-256") -> str:
        """Make a private key; its file."""
        self.right("genpkey", "-algorithm", *KEYS[kind], "-out", f"{name}.key")
        return f"{name}.key"

    def cmp(self, server: str, command: str, *arguments: str) -> Done:
        """Run `openssl cmp -cmd COMMAND`."""
        return self.run(*CMP, "-server", server, "-cmd", command, *arguments)

    def secret(self, secret: str) -> str:
        """Put a secret where no process list shows it."""
        path = self.folder / f"secret-{abs(hash(secret)):x}"
        path.write_text(secret)
        return f"file:{path.name}"

    def write(self, name: str, *certificates: x509.Certificate) -> str:
        """Write certificates as PEM; the file's name."""
        (self.folder / name).write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in certificates))
        return name

    def certificate(self, name: str) -> x509.Certificate:
        """Read a certificate that a command has written."""
        return x509.load_pem_x509_certificate((self.folder / name).read_bytes())

    def has(self, name: str) -> bool:
        """Whether a command has written a file."""
        return (self.folder / name).exists()


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class Service:
    """The running daemon, its site, and what an end entity gets from an operator."""

    def __init__(self, site: Site, daemon: Daemon, shared: OpenSSL, vendor: x509.Certificate) -> None:
        self.site = site
        self.daemon = daemon
        self.shared = shared
        """Where ca.pem (root), chain.pem (issuing CA and root), vendor.key and vendor.pem are."""
        self.vendor = vendor
        self.url = f"http://{daemon.cmp}"
        self._count = 0

    def reference(self, **options: Any) -> str:
        """Make an enrollment code."""
        self._count += 1
        reference = f"ref-{self._count}"
        self.site.code(reference, **options)
        return reference


class Client(OpenSSL):
    """An end entity in a folder of its own, with what it was given."""

    def __init__(self, folder: Path, service: Service) -> None:
        super().__init__(folder)
        self.service = service
        self.daemon = service.daemon
        self.device = f"{service.url}{DEVICE}"
        self.root = str(service.shared.folder / "ca.pem")
        self.chain = str(service.shared.folder / "chain.pem")

    def by_secret(self, reference: str | None = None, secret: str = SECRET, **code: Any) -> tuple[str, ...]:
        """Options of an end entity with an enrollment code."""
        return ("-ref", reference or self.service.reference(**code), "-secret", self.secret(secret))

    def by_certificate(self, name: str = "old") -> tuple[str, ...]:
        """Options of an end entity with a certificate."""
        return ("-cert", f"{name}.pem", "-key", f"{name}.key", "-trusted", self.root)

    def wanted(self, name: str = "new", subject: str = "/CN=device-1", kind: str = "P-256") -> tuple[str, ...]:
        """Options of a request; the certificate comes to NAME.pem."""
        return ("-newkey", self.key(name, kind), "-subject", subject, "-certout", f"{name}.pem")

    def enroll(
        self,
        name: str = "old",
        *options: str,
        profile: str = "device",
        subject: str = "/CN=device-1",
        kind: str = "P-256",
    ) -> x509.Certificate:
        """Get NAME.key and NAME.pem."""
        done = self.cmp(
            f"{self.service.url}/.well-known/cmp/p/{profile}",
            "ir",
            *self.by_secret(profile=profile),
            *self.wanted(name, subject, kind),
            *options,
        )
        assert done.ok, done
        return self.certificate(f"{name}.pem")

    def verify(self, name: str, *options: str) -> str:
        """`openssl verify` against the root that the operator gave, with the chain from `cmpd ca chain`."""
        trust = ("-CAfile", self.root, "-untrusted", self.chain)
        return self.right("verify", "-x509_strict", *trust, *options, f"{name}.pem")

    def status(self, name: str) -> CertificateStatus | None:
        return self.service.site.status(self.certificate(f"{name}.pem"))

    def refused(self, done: Done, text: str, fail_info: str, outcome: str = "rejection", **fields: str) -> None:
        """It failed, openssl itself has read our refusal, and the log has it."""
        assert done.status == 1, done
        assert not self.has("new.pem")
        assert f'PKIFailureInfo: {fail_info}; StatusString: "{text}"' in done.text, done
        record = self.daemon.exchange(outcome=outcome, fail_info=fail_info, **fields)
        assert record["reason"] == text
