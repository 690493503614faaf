"""The checks of a profile: what in it can never satisfy a rule, so that it is found before the first request."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from cmpd.profile.config import AttributeConfig, ProfileConfig, SanTypeConfig
from cmpd.profile.rules import request
from cmpd.profile.rules.certificate import EXTENSION_OIDS, FAMILIES
from cmpd.profile.rules.data import USAGES, VALIDATION_TYPES, Rule, changes, countries, rules
from cmpd.profile.rules.public_dns import is_internal
from cmpd.profile.vocabulary import EXTENDED_KEY_USAGES

_Faults = Iterator[tuple[str, str]]
"""A key of the profile, and what is wrong with it."""
_PURPOSE_NAMES: Final = {oid: name for name, oid in EXTENDED_KEY_USAGES.items()}
_SAN_TYPES: Final = (
    "dns", "email", "uri", "ip", "directory_name", "registered_id", "upn", "guid", "smtp_utf8_mailbox"
)  # fmt: skip
_OTHER_NAMES: Final = frozenset({"upn", "guid", "other_name"})


def check_profile(config: ProfileConfig, today: date) -> list[str]:
    """What in a profile of public trust cannot satisfy the rules of a day (UTC): `key: text (rule)`, one line each."""
    kind, about = config.public_trust, config.certificate_type
    if kind is None:
        return []
    missing = []
    if about.validation_type not in VALIDATION_TYPES[kind]:
        choices = ", ".join(VALIDATION_TYPES[kind])
        missing.append(f"certificate_type.validation_type: with public_trust = '{kind}' it is one of {choices}")
    if kind == "smime" and about.generation is None:
        missing.append("certificate_type.generation: with public_trust = 'smime' it is strict or multipurpose")
    if kind == "smime" and about.usage is None:
        missing.append(f"certificate_type.usage: with public_trust = 'smime' it is one of {', '.join(USAGES)}")
    if missing or about.validation_type is None:
        return missing
    generation, usage = about.generation or "strict", about.usage or "dual_use"
    faults: dict[str, None] = {}
    for rule in rules(kind, about.validation_type, generation, usage, today):
        if rule.check == "policy":
            found = _policy(rule, config, about.validation_type, generation)
        else:
            found = _CHECKS[rule.check](rule, config) if rule.check in _CHECKS else iter(())
        faults |= dict.fromkeys(f"{key}: {text} ({rule.name})" for key, text in found)
        # so that what the first request needs is there
        request.prepare(rule, about.validation_type, generation)
    return list(faults)


def notices(config: ProfileConfig, today: date, ahead: timedelta = timedelta(days=60)) -> list[str]:
    """What `check_profile` does not say yet, and will within `ahead`, each with the day of the change."""
    now = set(check_profile(config, today))
    found: list[str] = []
    for day in changes():
        if today < day <= today + ahead:
            later = [fault for fault in check_profile(config, day) if fault not in now]
            now.update(later)
            found.extend(f"from {day:%Y-%m-%d} on: {fault}" for fault in later)
    return found


def url_notices(config: ProfileConfig, crl_url: str, ca_issuers_url: str) -> list[str]:
    """What the linter will say of the URLs that an issuer puts into certificates, one line each without the file.

    Empty for a profile that is not linted under rules of public trust, or that has URLs of its own.
    """
    if config.lint == "off" or config.public_trust is None:
        return []
    found: list[str] = []
    extensions, finds = config.extensions, f"lint: {config.lint!r} will find that"
    host = urlsplit(crl_url).hostname or ""
    if host and not extensions.crl_distribution_points and is_internal(host):
        found.append(
            f"{finds} the CRL's URL, {crl_url}, has no public name; set crl_url of the issuer {config.issuer!r},"
            " or extensions.crl_distribution_points"
        )
    if not ca_issuers_url and not extensions.authority_information_access.ca_issuers:
        found.append(
            f"{finds} the URL of the CA certificate is missing; set ca_issuers_url of the issuer {config.issuer!r},"
            " or extensions.authority_information_access.ca_issuers"
        )
    return found


def _attributes_of(config: ProfileConfig) -> dict[str, AttributeConfig]:
    """The attributes that a subject can have."""
    found = ((name, getattr(config.subject, name)) for name in type(config.subject).model_fields)
    return {name: one for name, one in found if isinstance(one, AttributeConfig) and one.include != "no"}


def _is_required(one: AttributeConfig | SanTypeConfig) -> bool:
    fixed = getattr(one, "source", "cmp") == "fixed"
    return one.include == "required" or (one.include is None and fixed)


def _values(config: ProfileConfig, name: str) -> tuple[str, ...]:
    """What the profile itself puts into an attribute."""
    if config.organization is not None:
        bound = {
            "organization_name": config.organization.name,
            "organization_identifier": config.organization.identifier,
        }
        if bound.get(name):
            return (str(bound[name]),)
    one = _attributes_of(config).get(name)
    return one.value if one is not None else ()


def _san_of(config: ProfileConfig) -> dict[str, SanTypeConfig]:
    """The types of name that a subjectAltName can have; all otherNames by OID as other_name."""
    found = {name: getattr(config.san, name) for name in _SAN_TYPES}
    types: dict[str, SanTypeConfig] = {
        name: one for name, one in found.items() if isinstance(one, SanTypeConfig) and one.include != "no"
    }
    for oid, one in config.san.other_name.items():
        if one.include != "no":
            types[f'other_name."{oid}"'] = one
    return types


def _algorithm(rule: Rule, config: ProfileConfig) -> _Faults:
    accepted = request.accepted_algorithms(rule)
    for key_type in config.key.allowed_types:
        if key_type == "ecdsa":
            for curve in config.key.ecdsa.allowed_curves:
                if curve not in accepted:
                    yield "key.ecdsa.allowed_curves", f"{curve} is not accepted"
        elif key_type not in accepted:
            yield "key.allowed_types", f"{key_type} is not accepted"


def _rsa_size(rule: Rule, config: ProfileConfig) -> _Faults:
    if "rsa" in config.key.allowed_types:
        for bits in config.key.rsa.allowed_bits:
            if bits % rule.values["multiple_of"] or bits < rule.values["min_bits"]:
                yield "key.rsa.allowed_bits", f"{bits} is not accepted"


def _validity(rule: Rule, config: ProfileConfig) -> _Faults:
    days = rule.values["days"]
    for key in ("default", "min"):
        length: timedelta | None = getattr(config.validity, key)
        if length is not None and length > timedelta(days=days):
            yield f"validity.{key}", f"is longer than the {days} days that are allowed"


def _metadata(rule: Rule, config: ProfileConfig) -> _Faults:
    fault = request.metadata_fault(rule)
    for name in _attributes_of(config):
        if any(fault(name, value) for value in _values(config, name)):
            yield f"subject.{name}.value", "says no more than that there is no value"


def _country(_rule: Rule, config: ProfileConfig) -> _Faults:
    for value in _values(config, "country_name"):
        if value not in countries():
            yield "subject.country_name.value", f"{value!r} is not a country"


def _organization_identifier(rule: Rule, config: ProfileConfig) -> _Faults:
    fault = request.registration_fault(rule)
    for value in _values(config, "organization_identifier"):
        wrong = fault(value, _values(config, "country_name"))
        if wrong:
            bound = config.organization is not None and config.organization.identifier is not None
            yield "organization.identifier" if bound else "subject.organization_identifier.value", f"{value!r} {wrong}"


def _criticality(rule: Rule, config: ProfileConfig) -> _Faults:
    for name, critical in (("key_usage", True), ("extended_key_usage", False)):
        wanted = name in rule.values["critical" if critical else "not_critical"]
        if wanted and getattr(config.extensions, name).critical != critical:
            yield f"extensions.{name}.critical", f"must be {str(critical).lower()}"
    if config.san.critical:
        yield "san.critical", "must be false"


def _policy(rule: Rule, config: ProfileConfig, validation_type: str, generation: str) -> _Faults:
    policies = [policy.oid for policy in config.extensions.certificate_policies]
    fault = request.policy_fault(rule, validation_type, generation)(policies) if policies else None
    if fault:
        yield "extensions.certificate_policies", fault


def _generation(rule: Rule, config: ProfileConfig) -> _Faults:
    if config.certificate_type.generation not in rule.values["allowed"]:
        yield "certificate_type.generation", "is no longer issued"


def _listed(lists: Mapping[Any, Sequence[str]], key_type: str) -> tuple[str, ...]:
    return tuple(lists.get(key_type, lists.get("all", ())))


def _purposes(rule: Rule, config: ProfileConfig) -> _Faults:
    key, section = "extensions.extended_key_usage", config.extensions.extended_key_usage
    refused = request.refused_purpose(rule)
    for key_type in config.key.allowed_types:
        required = [_PURPOSE_NAMES.get(oid, oid) for oid in _listed(section.required_usages, key_type)]
        optional = [_PURPOSE_NAMES.get(oid, oid) for oid in _listed(section.optional_usages, key_type)]
        for purpose in required:
            if refused(purpose):
                yield f"{key}.required_usages", f"{purpose} is not accepted"
        for purpose in optional:
            if refused(purpose) and not rule.is_dated:
                yield f"{key}.optional_usages", f"{purpose} is not accepted"
        for purpose in rule.values["required"]:
            if purpose not in required:
                yield f"{key}.required_usages", f"{purpose} is missing"


def _key_usage(rule: Rule, config: ProfileConfig) -> _Faults:
    key, section, table = "extensions.key_usage", config.extensions.key_usage, rule.values["usages"]
    allowed_by_all: set[str] = set()
    optional: set[str] = set()
    for key_type in config.key.allowed_types:
        lists = table.get("ec" if key_type == "ecdsa" else FAMILIES.get(key_type, ""))
        if lists is None:
            yield "key.allowed_types", f"{key_type} keys are not for this usage"
            continue
        allowed = {*lists["required"], *lists["optional"]}
        allowed_by_all |= allowed
        optional.update(_listed(section.optional_usages, key_type))
        required = _listed(section.required_usages, key_type)
        for usage in required:
            if usage not in allowed:
                yield f"{key}.required_usages", f"{usage} is not accepted for {key_type} keys"
        for usage in lists["required"]:
            if usage not in required:
                yield f"{key}.required_usages", f"{usage} is missing for {key_type} keys"
    for usage in sorted(optional - allowed_by_all):
        yield f"{key}.optional_usages", f"{usage} is not accepted"


def _forbidden_extensions(rule: Rule, config: ProfileConfig) -> _Faults:
    forbidden = rule.values["forbidden"]
    for one in config.extensions.custom:
        if EXTENSION_OIDS.get(one.oid, one.oid) in forbidden:
            yield "extensions.custom", f"{one.oid} is not accepted"
    for name, what in config.extensions.requested.items():
        if what == "honour" and EXTENSION_OIDS.get(name, name) in forbidden:
            yield f"extensions.requested.{name}", "cannot be honoured"


def _mailbox_in_san(_rule: Rule, config: ProfileConfig) -> _Faults:
    if not {"email", "smtp_utf8_mailbox"} & _san_of(config).keys():
        yield "san.email", "is missing"


def _mail_san_types(rule: Rule, config: ProfileConfig) -> _Faults:
    for name in _san_of(config):
        plain = name.partition(".")[0]
        if plain in _OTHER_NAMES:
            if not rule.values["any_other_name"]:
                yield f"san.{name}", "is not accepted"
        elif plain not in {"email", "smtp_utf8_mailbox", "directory_name"}:
            yield f"san.{name}", "is not accepted"


def _tls_san_types(_rule: Rule, config: ProfileConfig) -> _Faults:
    types = _san_of(config)
    if not {"dns", "ip"} & types.keys():
        yield "san.dns", "is missing"
    for name in types:
        if name not in {"dns", "ip"}:
            yield f"san.{name}", "is not accepted"


def _attributes(rule: Rule, config: ProfileConfig) -> _Faults:
    configured, refused = _attributes_of(config), request.refused_attribute(rule)
    for name in configured:
        if refused(name):
            yield f"subject.{name}", "is not accepted"
    for name in rule.values["required"]:
        if name not in configured:
            yield f"subject.{name}", "is missing"
    one_of = rule.values.get("one_of", ())
    if one_of and configured.keys().isdisjoint(one_of):
        yield f"subject.{one_of[0]}", f"is missing, and so is {' and '.join(one_of[1:])}"


def _person(rule: Rule, config: ProfileConfig) -> _Faults:
    configured = _attributes_of(config)
    names = [name for name in ("given_name", "surname") if name in configured]
    if rule.values["required"] and not names and "pseudonym" not in configured:
        yield "subject.surname", "is missing, and so are given_name and pseudonym"
    if "pseudonym" in configured and _is_required(configured["pseudonym"]):
        for name in names:
            if _is_required(configured[name]):
                yield f"subject.{name}.include", "cannot be required together with a pseudonym"


def _dependencies(rule: Rule, config: ProfileConfig) -> _Faults:
    configured = _attributes_of(config)
    for name, others in rule.values["needs"].items():
        if name in configured and _is_required(configured[name]) and configured.keys().isdisjoint(others):
            yield f"subject.{name}", f"goes with {' or '.join(others)} only"


def _order(rule: Rule, config: ProfileConfig) -> _Faults:
    places = {name: place for place, name in enumerate(rule.values["order"])}
    order = [places[name] for name in config.subject.order if name in places]
    if order != sorted(order):
        yield "subject.order", f"must be {', '.join(rule.values['order'])}"


def _single_valued(_rule: Rule, config: ProfileConfig) -> _Faults:
    if config.subject.multi_valued_rdn:
        yield "subject.multi_valued_rdn", "must be false"


_CHECKS: Final[dict[str, Callable[[Rule, ProfileConfig], _Faults]]] = {
    "algorithm": _algorithm,
    "attributes": _attributes,
    "country": _country,
    "criticality": _criticality,
    "dependencies": _dependencies,
    "forbidden_extensions": _forbidden_extensions,
    "generation": _generation,
    "key_usage": _key_usage,
    "mail_san_types": _mail_san_types,
    "mailbox_in_san": _mailbox_in_san,
    "metadata": _metadata,
    "order": _order,
    "organization_identifier": _organization_identifier,
    "person": _person,
    "purposes": _purposes,
    "rsa_size": _rsa_size,
    "single_valued": _single_valued,
    "tls_san_types": _tls_san_types,
    "validity": _validity,
}
