"""From the body of an order to what will be issued: the semantic checks, and the shape of the certificate.

The API takes everything but the key from the JSON. What a check refuses is a 400 `invalid_<field>`; real codes differ.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID, ObjectIdentifier

from tests.certcentral import pki
from tests.certcentral.catalogue import (
    CLIENT,
    CLIENT_AUTH_ENDS,
    FAMILIES,
    HASHES,
    Account,
    Container,
    Organization,
    Product,
)
from tests.certcentral.clock import moment
from tests.certcentral.errors import ApiError, bad_format, invalid
from tests.certcentral.settings import Settings

JSON = dict[str, Any]
_MAILBOX: Final = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z][A-Za-z0-9-]{1,62}"
)
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_INDICATORS: Final = {
    "mailbox": frozenset({"email_address"}),
    "sponsor": frozenset({"email_address", "given_name_surname", "pseudonym"}),
    "organization": frozenset({"email_address", "organization_name"}),
}
_PAYMENTS: Final = frozenset({"balance", "profile", "card", "wire_transfer"})
_POLICY: Final = {"mailbox": 1, "organization": 2, "sponsor": 3}
_GENERATION: Final = {"multipurpose": 2, "strict": 3}
_TLS_POLICY: Final = {"dv": "2.23.140.1.2.1", "ov": "2.23.140.1.2.2", "ev": "2.23.140.1.1"}
_PRIVATE_POLICY: Final = ObjectIdentifier("1.3.6.1.4.1.32473.1.1")
_BUSINESS_CATEGORY: Final = ObjectIdentifier("2.5.4.15")


@dataclass(frozen=True, slots=True)
class Terms:
    """An order that is all right."""

    product: Product
    key: pki.SubmittedKey | None
    organization_id: int | None
    container_id: int
    ca_id: str
    hash: str
    order_days: int
    """From the day of the order, or of issuance, on."""
    fixed_end: bool
    """It ends on a given day, however late it is issued."""
    certificate_days: int | None
    """Only if the order says so apart from its own validity."""
    common_name: str = ""
    names: tuple[str, ...] = ()
    """Host names and addresses, the common name first."""
    emails: tuple[str, ...] = ()
    profile_type: str = ""
    usage: str = ""
    additional_usages: frozenset[str] = frozenset()
    first_name: str = ""
    last_name: str = ""
    pseudonym: str = ""
    include_email: bool = False
    client_auth: bool = False
    logged: bool = False
    server_platform: int = -1

    @property
    def title(self) -> str:
        """The common name as lists show it."""
        return self.common_name or (self.emails[0] if self.emails else "")


def read(body: JSON, product: Product, account: Account, container: Container, settings: Settings, now: float) -> Terms:
    """Check an order. Raises ApiError."""
    today = moment(now).date()
    certificate = _object(body, "certificate")
    if body.get("payment_method") not in {None, *_PAYMENTS}:
        raise invalid("payment_method", "The payment method is not known.")
    if not settings.card_on_file and body.get("payment_method") in {"card", "profile"}:
        raise bad_format()
    _custom_fields(body, account)
    organization = _organization(body, product, account)
    order_days, fixed_end = _order_days(body, product, container, settings, today)
    cert_days = _certificate_days(certificate, product, settings, today)
    family = FAMILIES[product.family]
    ca_id = certificate.get("ca_cert_id") or next(iter(family.ca_ids))
    if ca_id not in family.ca_ids:
        raise invalid("ca_cert_id", "This product is not issued by that CA.")
    digest = certificate.get("signature_hash") or ("sha256" if product.is_mail else None)
    if digest not in HASHES:
        raise invalid("signature_hash", f"The signature hash is one of {', '.join(HASHES)}.")
    terms = Terms(
        product,
        _key(certificate, product, settings),
        organization.id if organization else None,
        container.id,
        ca_id,
        str(digest),
        order_days,
        fixed_end,
        cert_days,
        logged=product.is_public_tls and not body.get("disable_ct"),
    )
    if not product.is_mail:
        return _tls(terms, certificate, account, today)
    terms = _mail(terms, body, certificate, settings)
    if product.mail_kind is not None:
        _caa([mail_domain(mail) for mail in terms.emails], account)
    return terms


def _object(body: JSON, name: str) -> JSON:
    value = body.get(name)
    if not isinstance(value, dict):
        raise invalid(name, f"{name} is missing.")
    return value


def _key(certificate: JSON, product: Product, settings: Settings) -> pki.SubmittedKey | None:
    text = certificate.get("csr")
    if text in {None, ""}:
        if product.csr_required or settings.without_csr == "reject":
            raise invalid("csr", "The CSR is missing.")
        return None
    if not isinstance(text, str):
        raise invalid("csr", "The CSR is not a string.")
    bare = settings.bare_public_key == "accept"
    return pki.read_key(text, bare_allowed=bare, check_signature=settings.check_csr_signature)


def _custom_fields(body: JSON, account: Account) -> None:
    rows = body.get("custom_fields") or []
    if not isinstance(rows, list):
        raise invalid("custom_fields", "custom_fields is a list.")
    given = set()
    for row in rows:
        field = account.metadata.get(number(row.get("metadata_id"), "custom_fields")) if isinstance(row, dict) else None
        if field is None or not field.is_active:
            raise invalid("custom_fields", "There is no such custom field.")
        given.add(field.id)
    for field in account.metadata.values():
        if field.is_required and field.is_active and field.id not in given:
            raise invalid("custom_fields", f"The custom field {field.label} is required.")


def number(value: object, field: str) -> int:
    """An id: clients send it as a number and as a string of digits."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise invalid(field, f"{field} is not an id.")
    try:
        return int(value)
    except ValueError:
        raise invalid(field, f"{field} is not an id.") from None


def _organization(body: JSON, product: Product, account: Account) -> Organization | None:
    given = body.get("organization")
    if given is None:
        if product.validation is None:
            return None
        raise invalid("organization", "The product needs an organization.")
    if not isinstance(given, dict):
        raise invalid("organization", "organization is an object.")
    found = account.organizations.get(number(given.get("id"), "organization"))
    if found is None:
        raise invalid("organization", "There is no such organization.")
    contacts(given.get("contacts") or [])
    return found


def contacts(rows: object) -> list[JSON]:
    """Check a list of contacts. Raises ApiError."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise invalid("contacts", "contacts is a list of objects.")
    types = [row.get("contact_type") for row in rows]
    if not set(types) <= {"organization_contact", "technical_contact"}:
        raise invalid("contact_type", "A contact is an organization_contact or a technical_contact.")
    if len(set(types)) < len(types):
        raise ApiError(400, "contact_type_duplicate", "There may be one contact of each type.")
    for row in rows:
        if not row.get("user_id") and not all(row.get(name) for name in ("first_name", "last_name", "email")):
            raise invalid("contacts", "A contact has a user_id, or a first_name, last_name, and email.")
    return rows


def _span(value: Mapping[str, Any], field: str, today: date) -> tuple[int, int | None]:
    """Days, and the years if they were given as such."""
    if value.get("custom_expiration_date"):
        try:
            end = date.fromisoformat(str(value["custom_expiration_date"]))
        except ValueError:
            raise invalid(field, "A custom_expiration_date is YYYY-MM-DD.") from None
        return (end - today).days + 1, None
    if value.get("days"):
        return number(value["days"], field), None
    years = number(value.get("years") or 0, field)
    return days_of_years(today, years) if 0 < years < 100 else 0, years


def days_of_years(start: date, years: int) -> int:
    """Whole years in days; from 29 February on to 28 February."""
    try:
        end = start.replace(year=start.year + years)
    except ValueError:
        end = start.replace(year=start.year + years, day=28)
    return (end - start).days


def _order_days(
    body: JSON, product: Product, container: Container, settings: Settings, today: date
) -> tuple[int, bool]:
    given = body.get("order_validity")
    if given is None:
        given = {
            "years": body.get("validity_years"),
            "days": body.get("validity_days"),
            "custom_expiration_date": body.get("custom_expiration_date"),
        }
    if not isinstance(given, dict):
        raise invalid("order_validity", "order_validity is an object.")
    days, years = _span(given, "order_validity", today)
    if days < 1:
        raise invalid("order_validity", "The order has no validity.")
    longest = product.longest_order()
    if container.years is not None:
        longest = min(longest, days_of_years(today, max(container.years)))
    if days > longest or (years is not None and years not in product.years):
        if settings.over_validity == "reject":
            raise invalid("order_validity", f"The product is sold for {longest} days at most.")
        days = min(days, longest)
    return days, bool(given.get("custom_expiration_date"))


def _certificate_days(certificate: JSON, product: Product, settings: Settings, today: date) -> int | None:
    given = certificate.get("cert_validity")
    if given is None:
        return None
    if not isinstance(given, dict):
        raise invalid("cert_validity", "cert_validity is an object.")
    days, _ = _span(given, "cert_validity", today)
    longest = product.longest_certificate(today)
    if days < 1:
        raise invalid("cert_validity", "The certificate has no validity.")
    if days > longest and settings.over_validity == "reject":
        raise invalid("cert_validity", f"Certificates are valid for {longest} days at most.")
    return min(days, longest)


def _mail(terms: Terms, body: JSON, certificate: JSON, settings: Settings) -> Terms:
    product, kind = terms.product, terms.product.mail_kind
    emails = certificate.get("emails") or []
    if not isinstance(emails, list) or not all(isinstance(mail, str) and _MAILBOX.fullmatch(mail) for mail in emails):
        raise invalid("emails", "emails is a list of addresses.")
    if kind is None:  # for clients of TLS: a name, and addresses if one likes
        name = _text(certificate, "common_name")
        if not name:
            raise invalid("common_name", "The common name is missing.")
        return replace(terms, common_name=name, emails=tuple(emails), usage="signing", client_auth=True)
    if not emails:
        raise invalid("emails", "There is no address.")
    older = product.group == CLIENT
    profile = "multipurpose" if older else certificate.get("profile_type") or settings.default_profile_type
    if profile not in _GENERATION:
        raise invalid("profile_type", "profile_type is strict or multipurpose.")
    designation = certificate.get("usage_designation") or ({"primary_usage": "dual_use"} if older else {})
    if not isinstance(designation, dict) or designation.get("primary_usage") not in {
        "signing",
        "key_management",
        "dual_use",
    }:
        raise invalid("usage_designation", "primary_usage is signing, key_management, or dual_use.")
    additional = frozenset(designation.get("additional_usages") or [])
    allowed = {"non_repudiation"} | ({"client_auth", "data_encipherment"} if profile == "multipurpose" else set())
    if not additional <= allowed:
        raise invalid("additional_usages", f"Not with {profile}: {', '.join(sorted(additional - allowed))}.")
    subject = body.get("subject") or {}
    if not isinstance(subject, dict):
        raise invalid("subject", "subject is an object.")
    terms = replace(
        terms,
        emails=tuple(dict.fromkeys(emails)),
        profile_type=profile,
        usage=designation["primary_usage"],
        additional_usages=additional,
        include_email=bool(subject.get("include_email")),
    )
    indicator = certificate.get("common_name_indicator")
    if kind == "mailbox":
        return replace(terms, common_name=emails[0])  # whatever the indicator says
    if older and indicator is None:
        indicator = "given_name_surname"
    if indicator not in _INDICATORS[kind]:
        raise invalid("common_name_indicator", f"It is one of {', '.join(sorted(_INDICATORS[kind]))}.")
    if kind == "sponsor":
        terms = _individual(terms, certificate, subject, indicator, older=older)
    return replace(
        terms,
        common_name={
            "email_address": emails[0],
            "given_name_surname": f"{terms.first_name} {terms.last_name}",
            "pseudonym": terms.pseudonym,
            "organization_name": "",
        }[indicator],
    )


def _individual(terms: Terms, certificate: JSON, subject: JSON, indicator: str, *, older: bool) -> Terms:
    """Every sponsored certificate names a person: by given name and surname, or by a pseudonym, never by both."""
    person = certificate.get("individual")
    if person is None and older:
        first, _, last = _text(certificate, "common_name").rpartition(" ")
        person = {"first_name": first, "last_name": last}
    if not isinstance(person, dict):
        raise invalid("individual", "The individual is missing.")
    first, last, pseudonym = (_text(person, name) for name in ("first_name", "last_name", "pseudonym"))
    by_pseudonym = indicator == "pseudonym" or (
        indicator == "email_address"
        and pseudonym
        and (subject.get("include_pseudonym") or not (first and last))
        and not subject.get("include_given_name_surname")
    )
    if by_pseudonym:
        if not pseudonym:
            raise invalid("individual", "The pseudonym is missing.")
        return replace(terms, pseudonym=pseudonym)
    if not first or not last:
        raise invalid("individual", "first_name or last_name is missing.")
    return replace(terms, first_name=first, last_name=last)


def _text(source: JSON, name: str) -> str:
    value = source.get(name)
    if value is not None and not isinstance(value, str):
        raise invalid(name, f"{name} is a string.")
    return (value or "").strip()


def _tls(terms: Terms, certificate: JSON, account: Account, today: date) -> Terms:
    product, common_name = terms.product, _text(certificate, "common_name").lower()
    if not common_name:
        raise invalid("common_name", "The common name is missing.")
    more = certificate.get("dns_names") or []
    if not isinstance(more, list) or not all(isinstance(name, str) for name in more):
        raise invalid("dns_names", "dns_names is a list of strings.")
    names = tuple(dict.fromkeys([common_name, *(name.strip().lower() for name in more)]))
    if product.names and len(names) > product.names:
        raise invalid("dns_names", f"The product takes {product.names} names.")
    for name in names:
        _host(name, product)
    if product.is_public_tls:
        _caa(names, account)
    option = certificate.get("profile_option")
    if option not in {None, "", "server_client_auth_eku", "kdc_smart_card"}:
        raise invalid("profile_option", "The profile option is not known.")
    if option == "kdc_smart_card" and product.kind != "private":
        raise invalid("profile_option", "kdc_smart_card is for private products.")
    client_auth = option == "server_client_auth_eku"
    if client_auth and product.is_public_tls and today >= CLIENT_AUTH_ENDS:
        raise invalid("profile_option", "Public TLS certificates are for servers only.")
    platform = certificate.get("server_platform")
    number_ = number(platform.get("id", -1), "server_platform") if isinstance(platform, dict) else -1
    return replace(terms, common_name=common_name, names=names, client_auth=client_auth, server_platform=number_)


def _caa(names: Iterable[str], account: Account) -> None:
    """Refuse names under a domain whose CAA records forbid issuance."""
    for name in names:
        for domain in account.caa_failures:
            if name == domain or name.endswith("." + domain):
                message = f"The CAA records of {domain} do not allow issuance."
                raise ApiError(400, f"caa_check_failed|{domain}", message)


def _host(name: str, product: Product) -> None:
    if address(name) is not None:
        if product.kind != "private":
            raise invalid("dns_names", f"{name}: addresses are for private products.")
        return
    host = name
    if name.startswith("*."):
        if not product.wildcard:
            raise invalid("dns_names", f"{name}: the product has no wildcards.")
        host = name[2:]
    labels = host.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise invalid("dns_names", f"{name} is no host name.")
    if product.is_public_tls and (len(labels) < 2 or labels[-1].isdigit() or labels[-1] in {"local", "internal"}):
        raise invalid("dns_names", f"{name} is an internal name.")


def address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address, if it is one."""
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def mail_domain(mail: str) -> str:
    """The domain of an address."""
    return mail.rpartition("@")[2].lower()


def hosts(terms: Terms) -> Iterable[str]:
    """The domains whose control must be proven; none for private certificates."""
    if terms.product.is_public_tls:
        return [name.removeprefix("*.") for name in terms.names]
    return []


# The shape of the certificate


def shape(terms: Terms, organization: Organization | None, at: float, until: float, *, wrong: str = "") -> pki.Shape:
    """What the certificate says that is issued `at`; it ends with the order (`until`) at the latest."""
    assert terms.key is not None
    start, _ = pki.lifetime(at, 1)
    longest = terms.product.longest_certificate(start.date())
    days = min(terms.certificate_days or longest, longest)
    not_after = min(pki.lifetime(at, days)[1], moment(until))
    made = pki.Shape(
        terms.product.family,
        terms.ca_id,
        terms.key.spki,
        tuple(_subject(terms, organization)),
        tuple(_san(terms)),
        pki.usages(*_usage(terms)),
        tuple(_purposes(terms)),
        (_policy(terms),),
        terms.hash,
        start,
        not_after,
        terms.logged,
    )
    return _spoilt(made, terms, wrong)


def _subject(terms: Terms, organization: Organization | None) -> Iterable[tuple[ObjectIdentifier, str]]:
    kind = terms.product.mail_kind or terms.product.kind
    if organization is not None and kind not in {"mailbox", "dv"}:
        if kind == "ev":
            yield NameOID.JURISDICTION_COUNTRY_NAME, organization.country.upper()
            yield _BUSINESS_CATEGORY, "Private Organization"
            yield NameOID.SERIAL_NUMBER, organization.registration_number
        yield NameOID.COUNTRY_NAME, organization.country.upper()
        yield NameOID.STATE_OR_PROVINCE_NAME, organization.state
        yield NameOID.LOCALITY_NAME, organization.city
        yield NameOID.ORGANIZATION_NAME, organization.name
        if kind in {"sponsor", "organization"}:
            yield NameOID.ORGANIZATION_IDENTIFIER, organization.organization_identifier
    if terms.last_name:
        yield NameOID.SURNAME, terms.last_name
        yield NameOID.GIVEN_NAME, terms.first_name
    if terms.pseudonym:
        yield NameOID.PSEUDONYM, terms.pseudonym
    common_name = terms.common_name
    if kind == "organization" and not common_name and organization is not None:
        common_name = organization.name
    if common_name and len(common_name) <= 64:  # a longer address stands in the SAN alone
        yield NameOID.COMMON_NAME, common_name
    if terms.include_email:
        yield NameOID.EMAIL_ADDRESS, terms.emails[0]


def _san(terms: Terms) -> Iterable[x509.GeneralName]:
    for name in terms.names:
        ip = address(name)
        yield x509.DNSName(name) if ip is None else x509.IPAddress(ip)
    for mail in terms.emails:
        yield x509.RFC822Name(mail)


def _usage(terms: Terms) -> set[str]:
    assert terms.key is not None
    encryption = "key_encipherment" if terms.key.kind == "rsa" else "key_agreement"
    if not terms.product.is_mail:
        return {"digital_signature"} | ({encryption} if terms.key.kind == "rsa" else set())
    bits = set()
    if terms.usage in {"signing", "dual_use"}:
        bits.add("digital_signature")
        if "non_repudiation" in terms.additional_usages:
            bits.add("content_commitment")
    if terms.usage in {"key_management", "dual_use"}:
        bits.add(encryption)
        if "data_encipherment" in terms.additional_usages and terms.key.kind == "rsa":
            bits.add("data_encipherment")
    return bits


def _purposes(terms: Terms) -> Iterable[ObjectIdentifier]:
    if not terms.product.is_mail:
        yield pki.SERVER_AUTH
    elif terms.product.mail_kind is not None:
        yield pki.EMAIL_PROTECTION
    if terms.client_auth or "client_auth" in terms.additional_usages:
        yield pki.CLIENT_AUTH


def _policy(terms: Terms) -> ObjectIdentifier:
    product = terms.product
    if product.mail_kind is not None:
        return ObjectIdentifier(f"2.23.140.1.5.{_POLICY[product.mail_kind]}.{_GENERATION[terms.profile_type]}")
    return ObjectIdentifier(_TLS_POLICY[product.kind]) if product.is_public_tls else _PRIVATE_POLICY


@cache
def _foreign_key() -> bytes:
    return pki.spki_of(ec.generate_private_key(ec.SECP256R1()).public_key())


def _spoilt(made: pki.Shape, terms: Terms, wrong: str) -> pki.Shape:
    """The certificate that nobody has ordered."""
    if wrong == "key":
        return replace(made, spki=_foreign_key())
    if wrong == "san":
        mail = terms.product.is_mail
        other = x509.RFC822Name("stranger@example.com") if mail else x509.DNSName("stranger.example.com")
        return replace(made, san=(*made.san[1:], other))
    if wrong == "subject":
        kept = tuple(pair for pair in made.subject if pair[0] != NameOID.COMMON_NAME)
        return replace(made, subject=(*kept, (NameOID.COMMON_NAME, "Somebody Else")))
    if wrong == "policy":
        return replace(made, policies=(ObjectIdentifier("2.23.140.1.5.4.2"),))
    if wrong == "usage":
        return replace(made, usage=pki.usages("digital_signature", "content_commitment", "key_cert_sign"))
    return made
