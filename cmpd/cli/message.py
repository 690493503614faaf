"""`cmpd show`: a CMP message in words, its protection checked when a secret or a trust anchor is given."""

import base64
import binascii
import getpass
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd import asn1
from cmpd.asn1.text import describe, render
from cmpd.cli.operation import faults
from cmpd.cli.output import OperatorError, plain, write, write_json
from cmpd.errors import CMPError
from cmpd.limits import Limits
from cmpd.protection import check_mac, check_signature

LARGEST = 16 * 1024 * 1024
"""Octets of a file that are read."""
LIMITS = Limits(
    ber_size=1024 * 1024, nesting=100, list_length=100_000, extra_certs=1000, mac_iterations=10_000_000, rsa_bits=16384
)
"""Wide: whoever looks at a message has asked for the work."""

_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n(.*?)-----END \1-----", re.DOTALL)


def show(file: str, *, secret: str | None, trusted: list[Path], json: bool) -> None:
    """Print the message; exit status 1 when its protection was to be checked and is not right."""
    with faults():
        try:
            message = asn1.decode(unwrap(read(file)), LIMITS)
        except ValueError as error:
            raise OperatorError(f"{plain(file)}: not a CMP message: {plain(str(error))}") from None
        verdict = _verdict(message, secret, trusted)
    if json:
        write_json(describe(message) | ({} if verdict is None else {"verified": verdict == "", "reason": verdict}))
    else:
        write(*render(message))
    if verdict:
        raise OperatorError(f"{plain(file)}: the protection is not right: {plain(verdict)}")
    if verdict is not None and not json:
        write("The protection is right.")


def read(file: str) -> bytes:
    """The octets of a file, or of standard input for `-`. Raises OperatorError or OSError."""
    if file == "-":
        data = sys.stdin.buffer.read(LARGEST + 1)
    else:
        with Path(file).open("rb") as source:
            data = source.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise OperatorError(f"{plain(file)}: larger than {LARGEST} octets; that is no CMP message")
    return data


def unwrap(data: bytes) -> bytes:
    """DER or BER out of PEM (of any label) or base64; anything else as it stands. Raises ValueError."""
    if found := _PEM.search(data):
        data = found[2]
    elif data[:1] == b"\x30" and not data.isascii():
        return data
    if not re.fullmatch(rb"[A-Za-z0-9+/=\s]+", data):
        return data
    try:
        return base64.b64decode(b"".join(data.split()), validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from None


def _verdict(message: asn1.PKIMessage, secret: str | None, trusted: list[Path]) -> str | None:
    """Why the protection is not right, "" when it is, None when nobody asked."""
    if secret is None and not trusted:
        return None
    try:
        if secret is not None and trusted:
            raise OperatorError("--secret and --trusted: a message has one protection; give one of the two")
        if secret is not None:
            check_mac(message, secret_of(secret), LIMITS)
        else:
            check_signature(message, _certificates(trusted), LIMITS, _time(message))
    except CMPError as error:
        return str(error) or error.fail_info.name
    return ""


def secret_of(source: str) -> bytes:
    """The secret that `env:NAME`, `file:PATH` (its first line), `pass:TEXT` or `prompt` gives. Raises OperatorError."""
    kind, _, rest = source.partition(":")
    if source == "prompt":
        return getpass.getpass("Secret: ").encode()
    if kind == "pass":
        return rest.encode("utf-8", "surrogateescape")
    if kind == "env" and rest:
        value = os.environb.get(os.fsencode(rest))
        if value is None:
            raise OperatorError(f"--secret env:{plain(rest)}: no such environment variable; export it")
        return value
    if kind == "file" and rest:
        with Path(rest).open("rb") as file:
            return file.readline(65536).rstrip(b"\r\n")
    raise OperatorError("--secret: no source; write env:NAME, file:PATH, pass:TEXT or prompt")


def _certificates(files: list[Path]) -> list[bytes]:
    found = []
    for file in files:
        data = file.read_bytes()
        try:
            several = (
                x509.load_pem_x509_certificates(data)
                if b"-----BEGIN" in data
                else [x509.load_der_x509_certificate(data)]
            )
        except ValueError:
            raise OperatorError(f"--trusted {file}: not a certificate; give PEM or DER") from None
        found += [certificate.public_bytes(Encoding.DER) for certificate in several]
    return found


def _time(message: asn1.PKIMessage) -> datetime:
    """When the message says it was made, which is when its certificates had to be valid; else now."""
    moment = message.header.messageTime
    try:
        return datetime.now(UTC) if moment is None else asn1.read_time(asn1.raw(moment))
    except ValueError:
        return datetime.now(UTC)
