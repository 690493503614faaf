"""The secrets of enrollment codes: made at random, typed by people, with a check character against slips.

32 of the 36 digits and capital letters are used, 5 bits each; a smaller alphabet would make the secret longer, which
costs more slips than it saves. Left out are 0, O, 1 and I, which many typefaces do not tell apart. 2 and Z, 5 and S,
8 and B, U and V are told apart by any monospaced typeface and stay; who takes one for the other is caught by the check
character.

The last character makes the whole a multiple of x + α in GF(32): read as the coefficients of a polynomial, the
characters have the value 0 at α, a primitive element. The weights of the 28 characters are different powers of α (which
has 31 of them), so every single wrong character and every two that have changed places are found, neighbours or not.
"""

import re
import secrets
from typing import Final

ALPHABET: Final = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
"""32 characters that are not easily mistaken for one another, 5 bits each."""
GROUPS: Final = 7
GROUP: Final = 4
RANDOM_BITS: Final = 5 * (GROUPS * GROUP - 1)
"""135: RFC 9810 §8.7 wants shared secrets that are as strong as the keys; 128 is what cmpd promises."""
GIVEN_SIZE: Final = 16
"""The fewest characters of a secret that an operator brings: random ones are worth some 94 bits (RFC 9045 §6)."""
_REFERENCE_SIZE: Final = 10

_VALUES: Final = {character: value for value, character in enumerate(ALPHABET)}
_TIMES_ALPHA: Final = tuple((value << 1) ^ (0b100101 if value & 16 else 0) for value in range(32))
"""α·v in GF(32) with α⁵ = α² + 1."""
_FORM: Final = re.compile(rf"(?:[{ALPHABET}]{{{GROUP}}}-){{{GROUPS - 1}}}[{ALPHABET}]{{{GROUP}}}")


def new_secret() -> str:
    """A secret of 135 random bits and a check character: seven groups of four; the hyphens belong to it."""
    number = secrets.randbits(RANDOM_BITS)
    characters = [ALPHABET[number >> shift & 31] for shift in range(0, RANDOM_BITS, 5)]
    return _grouped("".join(characters) + ALPHABET[_TIMES_ALPHA[_value(characters)]])


def new_reference() -> str:
    """A reference that no other code has, as good as certainly: 50 random bits."""
    return "".join(secrets.choice(ALPHABET) for _ in range(_REFERENCE_SIZE))


def is_of_own_form(secret: str) -> bool:
    """Whether a secret is written as `new_secret` writes them, whatever its check character."""
    return _FORM.fullmatch(secret) is not None


def check_fits(secret: str) -> bool:
    """Whether the check character fits the rest of a secret of cmpd's own form."""
    return is_of_own_form(secret) and not _value(secret.replace("-", ""))


def rewritten(typed: str) -> str | None:
    """What was typed in capital letters and groups of four with hyphens; None when it cannot be a secret of cmpd."""
    characters = re.sub(r"[\s\u2010-\u2015-]", "", typed).upper()
    if len(characters) != GROUPS * GROUP or not _VALUES.keys() >= set(characters):
        return None
    return _grouped(characters)


def _grouped(characters: str) -> str:
    return "-".join(characters[at : at + GROUP] for at in range(0, len(characters), GROUP))


def _value(characters: str | list[str]) -> int:
    """The polynomial at α."""
    value = 0
    for character in characters:
        value = _TIMES_ALPHA[value] ^ _VALUES[character]
    return value
