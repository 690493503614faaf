"""Whether two processes have the same configuration, without saying what it is.

A fingerprint is keyed with the store key, which all processes on one store share, so that nobody else can try values
against it. Paths are left out, and so are comments and the order of keys: what was read from the files counts.
"""

import enum
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import BaseModel

_HEXADECIMAL = 16
"""Digits of a fingerprint: two configurations that differ have the same one once in 10^19."""
_PURPOSE = b"cmpd configuration"


def fingerprint(key: bytes, value: object) -> str:
    """The fingerprint of a value: dataclasses and models, mappings, sequences, sets and what is in them."""
    text = json.dumps(_plain(value), sort_keys=True)
    return hmac.digest(hashlib.sha256(_PURPOSE + key).digest(), text.encode(), "sha256").hex()[:_HEXADECIMAL]


def _plain(value: object) -> Any:
    """A value as JSON that is the same in every process."""
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, PurePath):
        return None
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return sorted(([_plain(name), _plain(one)] for name, one in value.items()), key=json.dumps)
    if isinstance(value, AbstractSet):
        return sorted(map(_plain, value), key=json.dumps)
    if isinstance(value, list | tuple):
        return list(map(_plain, value))
    if isinstance(value, re.Pattern):
        return value.pattern
    if isinstance(value, x509.Certificate):
        return value.public_bytes(Encoding.DER).hex()
    if isinstance(value, x509.ObjectIdentifier):
        return value.dotted_string
    shown = str(value)  # a time span, a date, an address, a network: what says what it is
    return type(value).__qualname__ if " at 0x" in shown or shown.startswith("<") else shown
