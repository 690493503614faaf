"""What an operator writes about an enrollment code, read: the same for options of `code create` and columns of a CSV.

Every function raises ValueError with the end of a sentence: what is wrong, and what to write instead.
"""

import hashlib
import re
import unicodedata
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from cmpd.cli.secret import GIVEN_SIZE
from cmpd.http_transfer import OPERATIONS
from cmpd.profile import parse_duration
from cmpd.profile.syntax import Pattern

_LONGEST_SEAT: Final = 256
_LONGEST_EXPRESSION: Final = 1000
_LONGEST_SECRET: Final = 256
_MOST_USES: Final = 1_000_000_000
_TIMES: Final = "write 90s, 10m, 12h, 7d, 2y, 2027-01-31T12:00:00Z"


def uses_of(text: str) -> int | None:
    """How many certificates a code is good for; None is without limit."""
    if text == "unlimited":
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:12]) <= _MOST_USES):
        raise ValueError("not a count; write 1 or more, or `unlimited`")
    return int(text)


def valid_from_of(text: str, now: datetime) -> datetime:
    """When it begins to be good: a time, or so long from now."""
    return _moment(text, now, f"{_TIMES}")


def expires_of(text: str, now: datetime, valid_from: datetime | None) -> datetime | None:
    """When it ends: a time, or so long from its beginning; None is never."""
    if text == "never":
        return None
    moment = _moment(text, valid_from or now, f"{_TIMES} or `never`")
    if moment <= now:
        raise ValueError("is over already; write a time to come")
    if valid_from is not None and moment <= valid_from:
        raise ValueError(f"is over before it begins, at {valid_from:%Y-%m-%dT%H:%M:%SZ}; write a later time")
    return moment


def _moment(text: str, since: datetime, advice: str) -> datetime:
    try:
        return since + parse_duration(text)
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(microsecond=0, tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"neither a duration nor a time; {advice}") from None


def reference_of(text: str) -> str:
    """What the client sends, and what may be the last part of the URL."""
    if not (1 <= len(text) <= 64 and text.isprintable() and text == text.strip()):  # ub-common-name, RFC 5280 A.1
        raise ValueError("not usable; write 1 to 64 printable characters, no space at either end")
    if text in OPERATIONS:
        raise ValueError("is the label of an operation in URLs (RFC 9483 §6.1); write another")
    if text in {".", ".."}:
        raise ValueError("cannot be part of a URL (RFC 3986 §5.2.4); write another")
    return text


def secret_of(text: str) -> bytes:
    """A secret that the operator brings; the texts do not show it."""
    if not (text.isprintable() and text == text.strip()):
        raise ValueError("not usable; write printable characters, no space at either end")
    if not GIVEN_SIZE <= len(text) <= _LONGEST_SECRET:
        raise ValueError(
            f"has {len(text)} characters; write {GIVEN_SIZE} to {_LONGEST_SECRET} random ones, or nothing for a new one"
        )
    return text.encode()


def seat_of(text: str) -> str:
    """The only seat that a code is good for; written as the seats are kept."""
    if not (1 <= len(text) <= _LONGEST_SEAT and text.isprintable() and text == text.strip()):
        raise ValueError(f"not usable; write 1 to {_LONGEST_SEAT} printable characters, no space at either end")
    return unicodedata.normalize("NFC", text)


@lru_cache(maxsize=4096)
def expression_of(text: str) -> str:
    """An expression that a whole value must match, compiled to see that it can be."""
    if not text or len(text) > _LONGEST_EXPRESSION or not text.isprintable():
        raise ValueError(f"not a regular expression; write 1 to {_LONGEST_EXPRESSION} printable characters")
    try:
        Pattern(text)
    except ValueError as error:
        raise ValueError(
            f"not a regular expression in RE2 syntax ({error}); write one such as CN=pump-[0-9]+"
        ) from None
    return text


def san_of(text: str) -> str:
    """One expression for entries of subjectAltName; in a CSV several of them share a cell."""
    if " " in text or ";" in text:
        raise ValueError(r"has a space or a semicolon; write \x20 or \x3b in place of it")
    return expression_of(text)


def san_list_of(text: str) -> tuple[str, ...]:
    """Several expressions, separated by spaces or semicolons."""
    return tuple(map(expression_of, re.split("[ ;]+", text.strip(" ;"))))


def fingerprint_of(text: str) -> str:
    """SHA-256 of a SubjectPublicKeyInfo, lower-case hexadecimal."""
    digits = text.replace(":", "").lower()
    if not re.fullmatch("[0-9a-f]{64}", digits):
        raise ValueError(
            "not a SHA-256 fingerprint of a public key; write 64 hexadecimal digits, as of"
            " `openssl pkey -pubin -outform DER | openssl sha256`"
        )
    return digits


def fingerprint_in(file: Path) -> str:
    """The fingerprint of the public key in a PEM file: a public key, a PKCS #10 request or a certificate.

    Raises OSError too.
    """
    pem = file.read_bytes()
    key: PublicKeyTypes
    try:
        if b"-----BEGIN CERTIFICATE-----" in pem:
            key = x509.load_pem_x509_certificate(pem).public_key()
        elif re.search(b"-----BEGIN (NEW )?CERTIFICATE REQUEST-----", pem):
            key = x509.load_pem_x509_csr(pem).public_key()
        elif b"-----BEGIN PUBLIC KEY-----" in pem:
            key = load_pem_public_key(pem)
        else:
            raise ValueError("has neither a public key, nor a certificate request, nor a certificate in PEM")
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{error}; write a PEM file with one of them") from None
    return hashlib.sha256(spki).hexdigest()
