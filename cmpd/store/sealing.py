"""Enrollment codes at rest: AES-256-GCM under a key that is not in the database.

MAC-based protection (RFC 9483 §4.1.5) needs the secret itself, so it is encrypted and not hashed. A sealed value is 12
octets of random nonce followed by ciphertext and tag. Profile and reference are authenticated with it, so that nobody
who can write to the database can hang one code's secret on another code. With random nonces one key is good for some
2³² codes (NIST SP 800-38D §8.3).
"""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_SIZE = 32
NONCE_SIZE = 12


class WrongKey(Exception):
    """The key is not the one the value was sealed with, or the value has been tampered with."""


class Sealing:
    """Seals and opens secrets with one key; keeps the key out of repr and errors."""

    __slots__ = ("_aead",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_SIZE:
            raise ValueError(f"the key has {len(key)} octets and must have {KEY_SIZE}")
        self._aead = AESGCM(key)

    def seal(self, secret: bytes, profile: str, reference: str) -> bytes:
        """Encrypt a secret for one profile and reference."""
        nonce = os.urandom(NONCE_SIZE)
        return nonce + self._aead.encrypt(nonce, secret, _bound_to(profile, reference))

    def unseal(self, sealed: bytes, profile: str, reference: str) -> bytes:
        """Decrypt what `seal` made for the same profile and reference. Raises `WrongKey`."""
        try:
            return self._aead.decrypt(sealed[:NONCE_SIZE], sealed[NONCE_SIZE:], _bound_to(profile, reference))
        except (InvalidTag, ValueError):
            raise WrongKey from None


def _bound_to(profile: str, reference: str) -> bytes:
    """The additional authenticated data: the length of the first part keeps the two apart."""
    name = profile.encode()
    return b"cmpd code %d:%b:%b" % (len(name), name, reference.encode())
