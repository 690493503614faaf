"""What a value in a name may look like, and how it is quoted in a refusal.

Each `…_fault` returns None for a good value and otherwise what is wrong with it, as the end of a sentence, and the rule
that says so.
"""

import ipaddress
import re
import unicodedata
import uuid
from functools import lru_cache
from typing import Any, Final, NamedTuple

import idna
import re2  # type: ignore[import-untyped]  # the package has no types
from cryptography import x509

from cmpd.asn1 import oids

_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS: Final = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")
_RESERVED_LABEL: Final = re.compile(r"(?:^|\.)(?![Xx][Nn])[^.]{2}--")
_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LOCAL: Final = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")
_AUTHORITY: Final = re.compile(r"[^/?#]*")
_QUOTED: Final = 64
"""So many characters of a peer's value are shown back to it."""
_PATTERN_MEMORY: Final = 1 << 20
"""Octets that one compiled pattern may use; what needs more is refused when the profile is loaded."""
_LOOKS_LATIN: Final = frozenset("асԁеһіјӏорԛѕԝхуъьҽпгѵѡԍкмтвнαικνορτυχγωօսոցհ")
"""Letters of other scripts that a reader takes for Latin ones; a label of nothing but these is a disguise."""
_TOGETHER: Final = (
    frozenset({"LATIN", "HAN", "HIRAGANA", "KATAKANA"}),
    frozenset({"LATIN", "HAN", "BOPOMOFO"}),
    frozenset({"LATIN", "HAN", "HANGUL"}),
)
"""Scripts that are written together ("highly restrictive" of Unicode Technical Standard 39 §5.2)."""
_PRINTABLE_STRING: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 '()+,-./:=?"

_BY_NAME: Final = {
    oids.name(oid): oid
    for oid in (
        oids.SURNAME,
        oids.SERIAL_NUMBER,
        oids.TITLE,
        oids.BUSINESS_CATEGORY,
        oids.POSTAL_CODE,
        oids.GIVEN_NAME,
        oids.INITIALS,
        oids.GENERATION_QUALIFIER,
        oids.DN_QUALIFIER,
        oids.PSEUDONYM,
        oids.ORGANIZATION_IDENTIFIER,
        oids.EMAIL_ADDRESS,
    )
}
"""Attributes beyond those of RFC 4514 §3, by the names that cmpd shows them with."""


class Fault(NamedTuple):
    """What is wrong with a value."""

    text: str
    """The end of a sentence that begins with the value."""
    rule: str
    """The key of the profile, or the section of the standard, that says so."""

    def __str__(self) -> str:
        return f"{self.text} ({self.rule})"


def quote(value: str) -> str:
    r"""Quote a peer's value for a message: at most 64 characters, nothing that does not print, `\u{…}` instead."""
    shown = ""
    for character in value[:_QUOTED]:
        plain = character.isprintable() and character not in "'\\"
        shown += character if plain else f"\\u{{{ord(character):x}}}"
    if len(shown) > _QUOTED or len(value) > _QUOTED:
        shown = f"{shown[:_QUOTED]}…"
    return f"'{shown}'"


def is_printable_string(octets: bytes) -> bool:
    """Whether all octets are in the alphabet of PrintableString (X.680 §41.4)."""
    return not octets.translate(None, _PRINTABLE_STRING)


def text_fault(text: str) -> Fault | None:
    """No empty value, no control, bidirectional, zero-width or unassigned character, no space at either end."""
    if not text:
        return Fault("is empty", "RFC 5280 appendix A.1")
    if not text.isprintable():
        first = next(character for character in text if not character.isprintable())
        return Fault(f"has the character U+{ord(first):04X}, which does not print", "RFC 4518 §2")
    if text[0] == " " or text[-1] == " ":
        return Fault("begins or ends with a space", "RFC 4518 §2")
    return None


def dns_fault(name: str, *, wildcard: bool = False) -> Fault | None:
    """A host name in the preferred syntax, letters, digits and hyphens (RFC 5280 §4.2.1.6, RFC 1034 §3.5).

    With `wildcard`, `*` may be the whole leftmost label of a name with at least two others (RFC 6125 §6.4.3).
    """
    host = name
    if name.startswith("*."):
        if not wildcard:
            return Fault("is a wildcard, which is not allowed", "san.dns.allow_wildcard")
        host = name[2:]
        if "." not in host:
            return Fault("is a wildcard for a whole top-level domain", "san.dns.allow_wildcard")
    if len(name) > 253 or _DNS.fullmatch(host) is None:
        return Fault("is not a DNS name", "RFC 5280 §4.2.1.6")
    if host.rpartition(".")[2].isdecimal():
        return Fault("is not a DNS name: its last label is a number", "RFC 5280 §4.2.1.6")
    if "--" in host:
        if _RESERVED_LABEL.search(host) is not None:
            return Fault("has a reserved label, with hyphens in third and fourth place", "RFC 5890 §2.3.1")
        for label in host.lower().split("."):
            fault = _a_label_fault(label) if label.startswith("xn--") else None
            if fault is not None:
                return fault
    return None


@lru_cache(maxsize=4096)
def _a_label_fault(label: str) -> Fault | None:
    """An A-label of IDNA 2008 (RFC 5891 §5.4), of one script and not a disguise of Latin letters."""
    try:
        unicode = idna.ulabel(label)
        valid = idna.alabel(unicode).decode() == label
    except (idna.IDNAError, UnicodeError):
        valid = False
    if not valid:
        return Fault(f"has the label {label[:_QUOTED]}, which is not valid in IDNA 2008", "RFC 5891 §5.4")
    if mixes_scripts(unicode) or _LOOKS_LATIN.issuperset(unicode.replace("-", "")):
        return Fault(f"has the label {label}, which can be taken for another name", "UTS 39 §5")
    return None


def mixes_scripts(text: str) -> bool:
    """Whether letters of scripts stand together that are not written together, such as Latin and Cyrillic."""
    if text.isascii():
        return False
    scripts = {_script(character) for character in text if character.isalpha()}
    return len(scripts) > 1 and not any(scripts <= together for together in _TOGETHER)


def _script(letter: str) -> str:
    """The script of a letter, which is how its name in Unicode begins."""
    word = unicodedata.name(letter, "UNKNOWN").partition(" ")[0]
    return {"CJK": "HAN", "IDEOGRAPHIC": "HAN", "FULLWIDTH": "LATIN"}.get(word, word)


def smtp_utf8_fault(mailbox: str) -> Fault | None:
    """A SmtpUTF8Mailbox: a local part that is not ASCII only, a domain of A-labels (RFC 9598 §3)."""
    local, at, domain = mailbox.rpartition("@")
    if not at or not local or len(mailbox.encode()) > 254 or len(local.encode()) > 64 or dns_fault(domain):
        return Fault("is not an internationalised e-mail address", "RFC 9598 §3")
    if local.isascii():
        return Fault("has a local part in ASCII, which belongs into rfc822Name", "RFC 9598 §3")
    rest = "".join("x" if not character.isascii() else character for character in local)
    if _LOCAL.fullmatch(rest) is None or unicodedata.normalize("NFC", local) != local:
        return Fault("is not an internationalised e-mail address", "RFC 9598 §3")
    if mixes_scripts(local):
        return Fault("mixes scripts that are not written together", "UTS 39 §5.2")
    return text_fault(mailbox)


def guid_text(octets: bytes) -> str:
    """A Microsoft GUID in the usual spelling (MS-DTYP §2.3.4). Raises ValueError."""
    return str(uuid.UUID(bytes_le=octets))


def guid_octets(text: str) -> bytes:
    """The 16 octets of a GUID in the usual spelling. Raises ValueError."""
    return uuid.UUID(text).bytes_le


def email_fault(mailbox: str) -> Fault | None:
    """An RFC 5321 §4.1.2 Mailbox with a dot-string and a domain, ASCII only (RFC 5280 §4.2.1.6)."""
    local, at, domain = mailbox.rpartition("@")
    if not at or len(mailbox) > 254 or len(local) > 64 or _LOCAL.fullmatch(local) is None or dns_fault(domain):
        return Fault("is not an e-mail address", "RFC 5321 §4.1.2")
    return None


def uri_host(uri: str) -> str | None:
    """The host of a URI that has an authority, lower case; None without one."""
    scheme, _, rest = uri.partition(":")
    if not scheme or not rest.startswith("//"):
        return None
    authority = _AUTHORITY.match(rest, 2)
    host = authority[0] if authority else ""
    if host.startswith("["):
        return host.partition("]")[0][1:].lower()
    return host.partition(":")[0].lower()


def uri_fault(uri: str) -> Fault | None:
    """An absolute URI; an authority has a host name or IP address and no user name (RFC 5280 §4.2.1.6)."""
    if len(uri) > 2048 or _URI.fullmatch(uri) is None:
        return Fault("is not an absolute URI", "RFC 5280 §4.2.1.6")
    rest = uri.partition(":")[2]
    if not rest.startswith("//"):
        return None
    authority = _AUTHORITY.match(rest, 2)
    text = authority[0] if authority else ""
    host, colon, port = text.rpartition(":") if re.search(r":[0-9]*$", text) else (text, "", "")
    if colon and not (port.isdecimal() and int(port[:6]) < 65536):
        return Fault("is not an absolute URI: its port is not a port", "RFC 5280 §4.2.1.6")
    if dns_fault(host) is None or _is_ip_literal(host):
        return None
    return Fault("is not an absolute URI: its host is neither a host name nor an IP address", "RFC 5280 §4.2.1.6")


def upn_fault(name: str) -> Fault | None:
    """A Microsoft user principal name: user@domain, the user part in any script."""
    user, at, domain = name.rpartition("@")
    if not at or not user or "@" in user or len(name) > 256 or dns_fault(domain):
        return Fault("is not a user principal name", "RFC 822 §6.1")
    if mixes_scripts(user):
        return Fault("mixes scripts that are not written together", "UTS 39 §5.2")
    return text_fault(name)


def _is_ip_literal(host: str) -> bool:
    """Whether the host of a URI is an IPv4 address, or an IPv6 address in brackets (RFC 3986 §3.2.2)."""
    try:
        if host.startswith("[") and host.endswith("]") and "%" not in host:
            ipaddress.IPv6Address(host[1:-1])
        else:
            ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def oid_text(content: bytes) -> str:
    """Dotted decimal of an OBJECT IDENTIFIER's content octets; hexadecimal when they are not one (X.690 §8.19)."""
    arcs: list[int] = []
    value = 0
    for position, octet in enumerate(content):
        if (octet == 0x80 and value == 0 and (position == 0 or content[position - 1] < 0x80)) or len(content) > 64:
            return content[:32].hex()
        value = value << 7 | octet & 0x7F
        if octet < 0x80:
            arcs.append(value)
            value = 0
    if not arcs or content[-1] >= 0x80:
        return content[:32].hex()
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))


def named_oid(dotted: str) -> str:
    """Add an OID's name, where there is one, for people: `2.5.4.41 (name)`."""
    name = oids.name(dotted)
    return dotted if name == dotted else f"{dotted} ({name})"


def in_domains(host: str, exact: frozenset[str], below: tuple[str, ...]) -> bool:
    """Whether a host is one of `exact`, or ends with one of `below` (each with its leading dot); lower case both."""
    host = host.lower()
    return host in exact or host.endswith(below)


class Pattern:
    """An operator's regular expression that a whole value must match, in time linear in the value's length (RE2)."""

    __slots__ = ("_match", "groups", "text")

    def __init__(self, text: str) -> None:
        """Compile. Raises ValueError saying what is wrong."""
        options = re2.Options()
        options.log_errors = False
        options.max_mem = _PATTERN_MEMORY
        try:
            compiled: Any = re2.compile(text, options=options)
        except re2.error as error:
            reason = error.args[0] if error.args else ""
            raise ValueError(reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)) from None
        self._match: Any = compiled.fullmatch
        self.groups: frozenset[str] = frozenset(compiled.groupindex)
        """The names of its groups."""
        self.text = text

    def split(self, value: str) -> dict[str, str]:
        """What the named groups match, the names in lower case; empty when the whole value does not match."""
        match = self._match(value)
        return {} if match is None else {key.lower(): text or "" for key, text in match.groupdict().items()}

    def matches(self, value: str) -> bool:
        """Whether the whole value matches."""
        return self._match(value) is not None

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"


def parse_name(text: str) -> x509.Name:
    """Read a name in RFC 4514 style, most specific part first: `CN=gateway,O=Example`. Raises ValueError."""
    try:
        name = x509.Name.from_rfc4514_string(text, _BY_NAME)
    except ValueError as error:
        raise ValueError(
            f"is not a name such as CN=gateway,O=Example in RFC 4514 style{f' ({error})' if str(error) else ''}"
        ) from None
    if not name.rdns:
        raise ValueError("is empty; write a name such as CN=gateway,O=Example")
    return name
