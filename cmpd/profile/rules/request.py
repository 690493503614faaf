"""The checks of a request: each takes its values from a rule and returns what is wrong with a certificate, or None."""

import ipaddress
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Final

from cmpd.profile import syntax
from cmpd.profile.rules.certificate import (
    DIRECTORY_NAME,
    DNS_NAME,
    EXTENSION_OIDS,
    IP_ADDRESS,
    OTHER_NAME,
    RFC822_NAME,
    SMTP_UTF8_MAILBOX,
    Certificate,
    policies_of,
    purposes_of,
    usages_of,
)
from cmpd.profile.rules.data import Rule, countries
from cmpd.profile.rules.public_dns import is_internal, preload, public_suffix
from cmpd.profile.syntax import quote

Test = Callable[[Certificate], str | None]
_SECOND: Final = timedelta(seconds=1)
_NOT_A_CA: Final = b"\x30\x00"
_AT_SIGNS: Final = frozenset("@\ufe6b\uff20")
"""The at sign, and two characters that look like it."""
_SAN_LABELS: Final = {
    0x81: "email",
    0x82: "dns",
    0x86: "uri",
    0x87: "ip",
    0x88: "registered_id",
    0xA0: "other_name",
    0xA3: "x400_address",
    0xA4: "directory_name",
    0xA5: "edi_party_name",
}


def _algorithm(rule: Rule) -> Test:
    accepted = frozenset(accepted_algorithms(rule))

    def test(found: Certificate) -> str | None:
        if found.algorithm in accepted:
            return None
        return f"{found.algorithm} keys are not accepted" if found.algorithm else "keys of this kind are not accepted"

    return test


def accepted_algorithms(rule: Rule) -> tuple[str, ...]:
    """The algorithms that a rule of check `algorithm` lets pass."""
    more = rule.values["post_quantum"] if rule.values["accept_post_quantum"] else ()
    return (*rule.values["allowed"], *more)


def _rsa_size(rule: Rule) -> Test:
    least, multiple = rule.values["min_bits"], rule.values["multiple_of"]

    def test(found: Certificate) -> str | None:
        bits = found.key[0].bit_length()
        if found.algorithm != "rsa" or (bits >= least and bits % multiple == 0):
            return None
        return f"the RSA modulus has {bits} bits, and must have at least {least} and a multiple of {multiple}"

    return test


def _rsa_exponent(rule: Rule) -> Test:
    least = rule.values["min"]

    def test(found: Certificate) -> str | None:
        exponent = found.key[1]
        if found.algorithm != "rsa" or (exponent >= least and exponent & 1):
            return None
        return f"the RSA exponent must be odd and at least {least}"

    return test


def _rsa_weak(rule: Rule) -> Test:
    primes = [n for n in range(2, rule.values["smallest_factor"]) if all(n % d for d in range(2, math.isqrt(n) + 1))]
    product = math.prod(primes)
    marks = _roca_marks(primes)

    def test(found: Certificate) -> str | None:
        if found.algorithm != "rsa":
            return None
        rest = found.key[0] % product
        if math.gcd(rest, product) != 1:
            return "the RSA modulus has a small factor"
        if all(rest % prime in group for prime, group in marks):
            return "the RSA key was made by a faulty generator (ROCA, CVE-2017-15361)"
        return None

    return test


def _roca_marks(primes: Sequence[int]) -> list[tuple[int, frozenset[int]]]:
    """For small primes, the powers of 65537: to all of them belongs every modulus of the faulty generator."""
    marks = []
    for prime in primes:
        if 2 < prime <= 167:
            group = frozenset(pow(65537, exponent, prime) for exponent in range(prime - 1))
            if len(group) < prime - 1:
                marks.append((prime, group))
    return marks


def _validity(rule: Rule) -> Test:
    days = rule.values["days"]
    most = timedelta(days=days)

    def test(found: Certificate) -> str | None:
        length = found.not_after - found.not_before + _SECOND
        return None if length <= most else f"{_in_days(length)} days are more than {days}"

    return test


def _in_days(length: timedelta) -> int:
    return -(-length // timedelta(days=1))


def _start(rule: Rule) -> Test:
    most = timedelta(hours=rule.values["hours"])

    def test(found: Certificate) -> str | None:
        if abs(found.not_before - found.now) <= most:
            return None
        return f"notBefore is more than {rule.values['hours']} hours from now"

    return test


def _metadata(rule: Rule) -> Test:
    fault = metadata_fault(rule)

    def test(found: Certificate) -> str | None:
        for name, value in found.subject:
            if fault(name, value):
                return f"{name} {quote(value)} says no more than that there is no value"
        return None

    return test


def metadata_fault(rule: Rule) -> Callable[[str, str], bool]:
    """Whether an attribute's value is a mere placeholder."""
    words = frozenset(rule.values["words"])
    not_for_names = words | frozenset(rule.values["words_unless_names"])
    names = frozenset(rule.values["names"])

    def fault(name: str, value: str) -> bool:
        plain = value.strip(" .-_()[]").casefold()
        if plain in (words if name in names else not_for_names):
            return True
        return not plain.isalnum() and not any(character.isalnum() for character in plain)

    return fault


def _country(_rule: Rule) -> Test:
    known = countries()

    def test(found: Certificate) -> str | None:
        for value in found.values.get("country_name", ()):
            if value not in known:
                return f"{quote(value)} is not a country"
        return None

    return test


def _not_a_ca(_rule: Rule) -> Test:
    oid = EXTENSION_OIDS["basic_constraints"]

    def test(found: Certificate) -> str | None:
        extension = found.extensions.get(oid)
        return None if extension is None or extension.value == _NOT_A_CA else "this is not a CA certificate"

    return test


def _criticality(rule: Rule) -> Test:
    wanted = [(name, EXTENSION_OIDS[name], True) for name in rule.values["critical"]]
    wanted += [(name, EXTENSION_OIDS[name], False) for name in rule.values["not_critical"]]
    san = EXTENSION_OIDS["subject_alt_name"]

    def test(found: Certificate) -> str | None:
        for name, oid, critical in wanted:
            extension = found.extensions.get(oid)
            if extension is not None and extension.critical != critical:
                return f"{name} must {'' if critical else 'not '}be critical"
        extension = found.extensions.get(san)
        if extension is not None and extension.critical != found.subject_is_empty:
            return f"subject_alt_name must {'' if found.subject_is_empty else 'not '}be critical with this subject"
        return None

    return test


def _policy(rule: Rule, validation_type: str, generation: str) -> Test:
    oid = EXTENSION_OIDS["certificate_policies"]
    fault = policy_fault(rule, validation_type, generation)

    def test(found: Certificate) -> str | None:
        extension = found.extensions.get(oid)
        return None if extension is None else fault(policies_of(extension.value))

    return test


def policy_fault(rule: Rule, validation_type: str, generation: str) -> Callable[[Iterable[str]], str | None]:
    """What is wrong with a list of policy OIDs."""
    tables: Mapping[str, Mapping[str, str]] = rule.values["reserved"]
    reserved = {oid for table in tables.values() for oid in table.values()}
    wanted = (tables.get(generation) or tables["any"])[validation_type]

    def fault(policies: Iterable[str]) -> str | None:
        found = set(policies)
        if "2.5.29.32.0" in found:
            return "anyPolicy is not for such a certificate"
        wrong = sorted((found & reserved) - {wanted})
        if wrong:
            return f"{wrong[0]} is the policy of another kind of certificate, {wanted} of this one"
        return None if wanted in found else f"the policy {wanted} is missing"

    return fault


def _generation(rule: Rule, generation: str) -> Test:
    fault = None if generation in rule.values["allowed"] else f"the {generation} generation is no longer issued"
    return lambda _found: fault


def _purposes_test(rule: Rule) -> Test:
    oid = EXTENSION_OIDS["extended_key_usage"]
    required, refused = tuple(rule.values["required"]), refused_purpose(rule)

    def test(found: Certificate) -> str | None:
        extension = found.extensions.get(oid)
        purposes = () if extension is None else purposes_of(extension.value)
        for purpose in purposes:
            if refused(purpose):
                return f"{purpose} does not belong there"
        for purpose in required:
            if purpose not in purposes:
                return f"{purpose} is missing"
        return None

    return test


def refused_purpose(rule: Rule) -> Callable[[str], bool]:
    """Whether a rule of check `purposes` refuses a key purpose."""
    only, forbidden = rule.values.get("only"), frozenset(rule.values.get("forbidden", ()))
    return lambda purpose: purpose in forbidden or (only is not None and purpose not in only)


def _key_usage(rule: Rule) -> Test:
    oid = EXTENSION_OIDS["key_usage"]
    table = {
        family: (frozenset(usages["required"]), frozenset(usages["required"]) | frozenset(usages["optional"]))
        for family, usages in rule.values["usages"].items()
    }
    may_be_absent = rule.values.get("may_be_absent", False)

    def test(found: Certificate) -> str | None:
        extension = found.extensions.get(oid)
        if extension is None:
            return None if may_be_absent else "is missing"
        usages = usages_of(extension.value)
        lists = table.get(found.family)
        if lists is None:
            return f"{found.algorithm or 'such'} keys are not for this usage"
        required, allowed = lists
        if not usages <= allowed:
            return f"{min(usages - allowed)} does not go with {found.algorithm} keys and this usage"
        if not required <= usages:
            return f"{min(required - usages)} is missing"
        if "encipher_only" in usages and "decipher_only" in usages:
            return "encipher_only and decipher_only exclude each other"
        return None

    return test


def _forbidden_extensions(rule: Rule) -> Test:
    forbidden = tuple(rule.values["forbidden"])

    def test(found: Certificate) -> str | None:
        return next((f"{oid} does not belong there" for oid in forbidden if oid in found.extensions), None)

    return test


def _mailbox_in_san(_rule: Rule) -> Test:
    def test(found: Certificate) -> str | None:
        if not found.mailboxes:
            return "there is no mailbox"
        for name, value in (*found.subject, *found.directory):
            if value in found.mailboxes:
                continue
            if name == "email_address" or not _AT_SIGNS.isdisjoint(value):
                return f"the mailbox {quote(value)} of {name} is not in the subjectAltName"
        return None

    return test


def _mail_san_types(rule: Rule) -> Test:
    any_other_name = rule.values["any_other_name"]

    def test(found: Certificate) -> str | None:
        for tag, content in found.san:
            if tag in {RFC822_NAME, DIRECTORY_NAME}:
                continue
            if tag != OTHER_NAME or not (any_other_name or content.startswith(SMTP_UTF8_MAILBOX)):
                return f"{_SAN_LABELS.get(tag, hex(tag))} does not belong there"
        for mailbox, tag in found.mailboxes.items():
            fault = (syntax.email_fault if tag == RFC822_NAME else syntax.smtp_utf8_fault)(mailbox)
            if fault:
                return f"{quote(mailbox)} {fault.text}"
        return None

    return test


def _mail_domain(_rule: Rule) -> Test:
    preload()

    def test(found: Certificate) -> str | None:
        for mailbox in found.mailboxes:
            if is_internal(mailbox):
                return f"{quote(mailbox)} is not in the public DNS"
        return None

    return test


def _attributes(rule: Rule) -> Test:
    required, one_of = tuple(rule.values["required"]), tuple(rule.values.get("one_of", ()))
    refused = refused_attribute(rule)

    def test(found: Certificate) -> str | None:
        for name in found.values:
            if refused(name):
                return f"{name} does not belong there"
        for name in required:
            if name not in found.values:
                return f"{name} is missing"
        if one_of and found.values.keys().isdisjoint(one_of):
            return f"{' or '.join(one_of)} is missing"
        for name, _ in found.directory:
            if refused(name):
                return f"{name} does not belong there, nor into a directory name"
        return None

    return test


def refused_attribute(rule: Rule) -> Callable[[str], bool]:
    """Whether a rule of check `attributes` refuses an attribute."""
    known = frozenset((*rule.values["required"], *rule.values["optional"]))
    forbidden, other = frozenset(rule.values.get("forbidden", ())), rule.values["other"]
    return lambda name: name in forbidden or (not other and name not in known)


def _person(rule: Rule) -> Test:
    required = rule.values["required"]

    def test(found: Certificate) -> str | None:
        named = "given_name" in found.values or "surname" in found.values
        if "pseudonym" in found.values:
            return "a pseudonym does not go with given_name and surname" if named else None
        return None if named or not required else "given_name, surname or a pseudonym is missing"

    return test


def _dependencies(rule: Rule) -> Test:
    needs = [(name, tuple(others)) for name, others in rule.values["needs"].items()]

    def test(found: Certificate) -> str | None:
        present = found.values.keys()
        for name, others in needs:
            if name in present and present.isdisjoint(others):
                return f"{name} goes with {' or '.join(others)} only"
        return None

    return test


_REGISTRATION: Final = re.compile(r"([A-Z]{3})([A-Z]{2})(?:\+([A-Za-z0-9]{1,3}))?(?:-(.+))?")


def _organization_identifier(rule: Rule) -> Test:
    fault = registration_fault(rule)

    def test(found: Certificate) -> str | None:
        countries = found.values.get("country_name", ())
        for value in found.values.get("organization_identifier", ()):
            wrong = fault(value, countries)
            if wrong:
                return f"{quote(value)} {wrong}"
        return None

    return test


def registration_fault(rule: Rule) -> Callable[[str, Sequence[str]], str | None]:
    """What is wrong with an organizationIdentifier, given the countries of the subject."""
    schemes, everywhere = rule.values["schemes"], rule.values["global_country"]
    same: Mapping[str, str] = rule.values["same_country"]
    known = countries()

    def fault(value: str, of_subject: Sequence[str]) -> str | None:
        match = _REGISTRATION.fullmatch(value)
        if match is None or match[1] not in schemes:
            return f"is not a registration reference of {', '.join(schemes)}"
        scheme, country = schemes[match[1]], match[2]
        is_global = scheme.get("global", False)
        if country not in ({everywhere} if is_global else known | set(scheme["countries"])):
            return f"has not a country of {match[1]}"
        if match[3] and not scheme["subdivision"]:
            return f"has a subdivision, which {match[1]} does not have"
        if bool(match[4]) != scheme["reference"]:
            return "has a reference too many" if match[4] else "has no reference"
        if match[1] == "LEI" and not _is_lei(match[4]):
            return "is not an LEI with its check digits (ISO 17442-1)"
        if not is_global and any(same.get(country, country) != one for one in of_subject):
            return "is of another country than the subject"
        return None

    return fault


def _is_lei(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9A-Z]{18}[0-9]{2}", text)) and int("".join(str(int(c, 36)) for c in text)) % 97 == 1


def _mail_common_name(rule: Rule) -> Test:
    sources, personal = tuple(rule.values["from_attributes"]), rule.values.get("personal_name", False)

    def test(found: Certificate) -> str | None:
        for value in found.values.get("common_name", ()):
            if value in found.mailboxes or any(value in found.values.get(source, ()) for source in sources):
                continue
            if not personal or not _is_name_of(value, found.values):
                return f"{quote(value)} is not taken from what is validated"
        return None

    return test


def _is_name_of(text: str, values: Mapping[str, Sequence[str]]) -> bool:
    """Whether a name is made of the words of given name and surname (and title), in any order, or their initials."""
    own = _words((*values.get("given_name", ()), *values.get("surname", ())))
    title = _words(values.get("title", ()))
    words = _words((text,))
    initials = {word[0] for word in own}
    return any(word in own for word in words) and all(
        word in own or word in title or (len(word.rstrip(".")) == 1 and word[0] in initials) for word in words
    )


def _words(texts: Iterable[str]) -> list[str]:
    return [word for text in texts for word in text.casefold().replace(",", " ").split()]


def _tls_san_types(_rule: Rule) -> Test:
    def test(found: Certificate) -> str | None:
        if not found.san:
            return "there is no DNS name or IP address"
        for tag, _ in found.san:
            if tag not in {DNS_NAME, IP_ADDRESS}:
                return f"{_SAN_LABELS.get(tag, hex(tag))} does not belong there"
        return None

    return test


def _tls_dns_syntax(_rule: Rule) -> Test:
    def test(found: Certificate) -> str | None:
        for name in found.names(DNS_NAME):
            fault = syntax.dns_fault(name, wildcard=True)
            if fault:
                return f"{quote(name)} {fault.text}"
        return None

    return test


def _tls_internal_names(_rule: Rule) -> Test:
    preload()

    def test(found: Certificate) -> str | None:
        for name in found.names(DNS_NAME):
            if is_internal(name):
                return f"{quote(name)} is an internal name"
        return None

    return test


def _tls_reverse_zones(rule: Rule) -> Test:
    zones = tuple(rule.values["zones"])
    below = tuple(f".{zone}" for zone in zones)

    def test(found: Certificate) -> str | None:
        for name in found.names(DNS_NAME):
            lower = name.lower()
            if lower in zones or lower.endswith(below):
                return f"{quote(name)} is in a zone for reverse lookups"
        return None

    return test


def _tls_reserved_addresses(_rule: Rule) -> Test:
    def test(found: Certificate) -> str | None:
        for tag, content in found.san:
            if tag != IP_ADDRESS:
                continue
            if len(content) not in {4, 16}:
                return "is not an IP address"
            address = ipaddress.ip_address(content)
            if not address.is_global or address.is_multicast or address.is_reserved:
                return f"{address} is reserved"
        return None

    return test


def _tls_wildcards(_rule: Rule) -> Test:
    preload()

    def test(found: Certificate) -> str | None:
        for name in found.names(DNS_NAME):
            if name.startswith("*."):
                domain = name[2:].lower()
                if public_suffix(domain) == domain:
                    return f"{quote(name)} is a wildcard for a whole public suffix"
        return None

    return test


def _tls_common_name(_rule: Rule) -> Test:
    def test(found: Certificate) -> str | None:
        names = found.values.get("common_name", ())
        if not names:
            return None
        entries = set(found.names(DNS_NAME))
        for tag, content in found.san:
            if tag == IP_ADDRESS and len(content) in {4, 16}:
                entries.add(str(ipaddress.ip_address(content)))
        return next((f"{quote(name)} is not in the subjectAltName" for name in names if name not in entries), None)

    return test


def _order(rule: Rule) -> Test:
    places = {name: place for place, name in enumerate(rule.values["order"])}
    repeatable = frozenset(rule.values["repeatable"])

    def test(found: Certificate) -> str | None:
        last, before = -1, ""
        for name, _ in found.subject:
            place = places.get(name, last)
            if place < last:
                return f"{name} must come before {before}"
            last, before = place, name
        for name, values in found.values.items():
            if len(values) > 1 and name not in repeatable:
                return f"{name} is there more than once"
        return None

    return test


def _single_valued(_rule: Rule) -> Test:
    return lambda found: None if found.single_valued else "a relative name has several attributes"


_CHECKS: Final[dict[str, Callable[[Rule], Test]]] = {
    "algorithm": _algorithm,
    "attributes": _attributes,
    "country": _country,
    "criticality": _criticality,
    "dependencies": _dependencies,
    "forbidden_extensions": _forbidden_extensions,
    "key_usage": _key_usage,
    "mail_common_name": _mail_common_name,
    "mail_domain": _mail_domain,
    "mail_san_types": _mail_san_types,
    "mailbox_in_san": _mailbox_in_san,
    "metadata": _metadata,
    "not_a_ca": _not_a_ca,
    "order": _order,
    "organization_identifier": _organization_identifier,
    "person": _person,
    "purposes": _purposes_test,
    "rsa_exponent": _rsa_exponent,
    "rsa_size": _rsa_size,
    "rsa_weak": _rsa_weak,
    "single_valued": _single_valued,
    "start": _start,
    "tls_common_name": _tls_common_name,
    "tls_dns_syntax": _tls_dns_syntax,
    "tls_internal_names": _tls_internal_names,
    "tls_reserved_addresses": _tls_reserved_addresses,
    "tls_reverse_zones": _tls_reverse_zones,
    "tls_san_types": _tls_san_types,
    "tls_wildcards": _tls_wildcards,
    "validity": _validity,
}


def prepare(rule: Rule, validation_type: str, generation: str) -> Test:
    """The check of a rule with its values, for certificates of a type and generation."""
    if rule.check == "generation":
        return _generation(rule, generation)
    if rule.check == "policy":
        return _policy(rule, validation_type, generation)
    return _CHECKS[rule.check](rule)
