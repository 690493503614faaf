"""The stock `openssl` command as an end entity and as a relying party."""

import os
import re
import subprocess
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

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
