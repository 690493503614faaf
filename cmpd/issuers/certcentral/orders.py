"""What is ordered: the bodies of orders, reissues and duplicates, written from what was approved. Nothing is called.

The API reads no more than the key from the CSR: names, usages and validity are fields of the order (Services API,
"Order Secure Email certificate", "Order Private SSL", "Order Basic OV"). What was approved and no field can express is
refused with the profile key that let it through, never left out.
"""

import base64
import hashlib
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Final, Literal

from cmpd.exchange import Approved, Order
from cmpd.issuers.certcentral.answers import JSON, OrderInfo, Standing
from cmpd.issuers.certcentral.config import CertCentralConfig
from cmpd.issuers.certcentral.content import Content
from cmpd.issuers.certcentral.options import (
    NAMES,
    SUBJECT,
    Family,
    ProfileFacts,
    ProfileOptions,
    additional_usages,
    family,
    is_smime,
    organization_id,
    product_of,
    signature_hash,
)

_DAY: Final = timedelta(days=1)
_SECOND: Final = timedelta(seconds=1)
_YEAR: Final = timedelta(days=365)
_LATEST_START: Final = timedelta(hours=1)
_ENCRYPTION: Final = {"rsa": "key_encipherment", "ec": "key_agreement"}
_SIGNING: Final = frozenset({"digital_signature", "non_repudiation"})
_MAIL_POLICIES: Final = {
    (kind, generation): f"2.23.140.1.5.{type_}.{number}"
    for type_, kind in ((1, "mailbox"), (2, "organization"), (3, "sponsor"))
    for generation, number in (("multipurpose", 2), ("strict", 3))
}
_TLS_POLICIES: Final = {"dv": "2.23.140.1.2.1", "ov": "2.23.140.1.2.2", "ev": "2.23.140.1.1"}


class Unorderable(Exception):
    """What was approved cannot be ordered: `KEY: reason`, the key being the profile's; for the peer too."""


class NotNow(Unorderable):
    """It cannot be ordered now and perhaps can be later; the text is of the same form."""


@dataclass(frozen=True, slots=True)
class PreparedOrder:
    """A new order, ready to be placed."""

    product: str
    """The product_name_id of the path."""
    body: JSON
    stamp: str
    """Our mark in it."""


def mark_of(order: Order) -> str:
    """Our mark on what is ordered: it stays when another transaction takes the order over, as the stamp does."""
    return f"cmpd:{hashlib.sha256(order.stamp.encode()).hexdigest()[:40]}"


def spki_sha256(spki: bytes) -> str:
    """SHA-256 of a SubjectPublicKeyInfo, lower-case hexadecimal."""
    return hashlib.sha256(spki).hexdigest()


def kind_of(profile: ProfileFacts, options: ProfileOptions) -> tuple[str, Family]:
    """The product and how it is ordered. Raises Unorderable."""
    product = product_of(profile, options)
    kind = None if product is None else family(product)
    if product is None or kind is None:
        raise Unorderable("issuer_options.product: names no product that can be ordered")
    return product, kind


def order(
    approved: Approved,
    profile: ProfileFacts,
    options: ProfileOptions,
    config: CertCentralConfig,
    *,
    mark: str,
    now: datetime,
    csr: bytes | None = None,
    renewal_of: int | None = None,
) -> PreparedOrder:
    """A new order with our mark; `csr` is the PKCS #10 of a p10cr, `renewal_of` the order that it follows.

    Raises Unorderable.
    """
    product, kind = kind_of(profile, options)
    if approved.not_before > now + _LATEST_START:
        raise Unorderable("validity.allow_request_override: CertCentral issues at once, and not for a later notBefore")
    days = certificate_days(approved)
    body: JSON = {"certificate": _certificate(approved, profile, options, config, kind, csr)}
    length = options.order_validity or max(days * _DAY, _YEAR if kind in {"dv", "ov", "ev"} else _DAY)
    if length < days * _DAY:
        raise Unorderable(f"issuer_options.order_validity: is shorter than the certificate, {days} days")
    body["order_validity"] = {"days": length // _DAY}
    if is_smime(kind):
        body["subject"] = _attributes_beside(Content.of_approved(approved), kind)
    else:
        body["certificate"]["cert_validity"] = {"days": days}
        if options.dcv_method is not None:
            body["dcv_method"] = options.dcv_method
    organization = _organization(profile, kind)
    if organization is not None:
        body["organization"] = organization
    if config.division is not None:
        body["container"] = {"id": config.division}
    if config.payment_method is not None:
        body["payment_method"] = config.payment_method
    body["skip_approval"] = config.skip_approval
    body["disable_renewal_notifications"] = options.disable_renewal_notifications
    if renewal_of is not None:
        body["renewal_of_order_id"] = renewal_of
    fields = _custom_fields(approved, profile, config)
    if config.stamp_field is not None:
        fields.append({"metadata_id": config.stamp_field, "value": mark})
    else:
        body["comments"] = mark
    if fields:
        body["custom_fields"] = fields
    return PreparedOrder(product, body, mark)


def reissue(
    approved: Approved,
    profile: ProfileFacts,
    options: ProfileOptions,
    config: CertCentralConfig,
    *,
    mark: str,
    csr: bytes | None = None,
) -> JSON:
    """The body of a reissue (Services API, "Reissue certificate"). Raises Unorderable."""
    _, kind = kind_of(profile, options)
    certificate = _certificate(approved, profile, options, config, kind, csr)
    if not is_smime(kind):
        certificate["cert_validity"] = {"days": certificate_days(approved)}
    return {"certificate": certificate, "skip_approval": config.skip_approval, "comments": mark}


def duplicate(
    approved: Approved,
    profile: ProfileFacts,
    options: ProfileOptions,
    config: CertCentralConfig,
    original: OrderInfo,
    *,
    mark: str,
    csr: bytes | None = None,
) -> JSON:
    """The body of a duplicate: the original but for its key (Services API, "Duplicate certificate").

    Raises Unorderable, also when the names are not those of the original.
    """
    body = reissue(approved, profile, options, config, mark=mark, csr=csr)
    certificate = body["certificate"]
    given = {name.lower() for name in (*certificate.get("dns_names", ()), *certificate.get("emails", ()))}
    known = {name.lower() for name in (*original.dns_names, *original.emails)}
    if original.dns_names:
        given.add(str(certificate.get("common_name", "")).lower())
        known.add(original.common_name.lower())
    if given != known:
        raise Unorderable(
            "issuer_options.renew_strategy: a duplicate has the names of its original; "
            f"these differ: {', '.join(sorted(given ^ known))}"
        )
    return body


# ── what a kur becomes ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Renewal:
    """What an update of a certificate is at CertCentral."""

    way: Literal["order", "reissue", "duplicate"]
    order_id: int | None = None
    """Of `order`: the order that it is the renewal of, None when there is none; else the order that it belongs to."""


def renewal(approved: Approved, kind: Family, options: ProfileOptions, old: OrderInfo | None, now: datetime) -> Renewal:
    """What a kur becomes, from what is known of the old certificate's order. Raises Unorderable, NotNow."""
    strategy = options.renew_strategy
    live = old is not None and old.standing is Standing.issued
    if old is not None and old.standing is Standing.waiting and strategy != "renew" and not is_smime(kind):
        # one reissue takes the place of another that is pending, and a new order would cost what a reissue does not
        raise NotNow(
            f"issuer_options.renew_strategy: order {old.order_id} is {old.status}; another reissue is under way"
        )
    if strategy == "renew" or (strategy == "auto" and (is_smime(kind) or not live)):
        follows = old is not None and (live or old.status == "expired")
        return Renewal("order", old.order_id if old is not None and follows else None)
    if old is None or not live:
        what = "is not known" if old is None else f"is {old.status}"
        raise Unorderable(f"issuer_options.renew_strategy: {strategy} needs the old certificate's order, which {what}")
    covered = _covers(old, approved, options, now) if strategy == "auto" else _until(old, now) > now
    if not covered:
        if strategy == "auto":
            return Renewal("order", old.order_id)
        raise Unorderable(f"issuer_options.renew_strategy: {strategy} is too late, for order {old.order_id} has ended")
    return Renewal("duplicate" if strategy == "duplicate" else "reissue", old.order_id)


def _until(old: OrderInfo, now: datetime) -> datetime:
    """The last second of an order; where it does not say, now: nothing is built upon it."""
    till = old.order_valid_till
    return now if till is None else datetime.combine(till, time(23, 59, 59), UTC)


def _covers(old: OrderInfo, approved: Approved, options: ProfileOptions, now: datetime) -> bool:
    """Whether the order runs long enough for a certificate that is worth it."""
    until = _until(old, now)
    return until >= approved.not_after or until - options.renew_window > now


# ── the parts of an order ───────────────────────────────────────────────────────────────────────────────────────────


def certificate_days(approved: Approved) -> int:
    """The validity in whole days, notBefore and notAfter included. Raises Unorderable when it is less than one."""
    days = (approved.not_after - approved.not_before + _SECOND) // _DAY
    if days < 1:
        raise Unorderable("validity.default: is less than a day, and orders are for whole days")
    return days


def _certificate(
    approved: Approved,
    profile: ProfileFacts,
    options: ProfileOptions,
    config: CertCentralConfig,
    kind: Family,
    csr: bytes | None,
) -> JSON:
    content = Content.of_approved(approved)
    for name in content.attributes.keys() - SUBJECT[kind]:
        raise Unorderable(f"subject.{name}: an order cannot express this attribute")
    for name in content.names.keys() - NAMES[kind]:
        raise Unorderable(f"san.{name}: an order cannot express this type of name")
    for oid in content.others.keys() - {"2.5.29.19"}:
        raise Unorderable(f"extensions: an order cannot express {oid}")
    expected = expected_policy(kind, profile)
    if content.policies and (expected is None or content.policies != {expected}):
        raise Unorderable(
            f"extensions.certificate_policies: {', '.join(sorted(content.policies))} is not what this product has"
        )
    body: JSON = {"csr": _key_text(approved, config, csr), "signature_hash": signature_hash(profile, options)}
    ca = options.ca_cert_id or profile.issuer_ca
    if ca is not None:
        body["ca_cert_id"] = ca
    return body | (_mail(content, profile, options, config, kind) if is_smime(kind) else _tls(content, options, kind))


def expected_policy(kind: Family, profile: ProfileFacts) -> str | None:
    """The policy of the Baseline Requirements that certificates have; None for private ones."""
    if is_smime(kind):
        return _MAIL_POLICIES[kind, profile.generation or "strict"]
    return _TLS_POLICIES.get(kind)


def _key_text(approved: Approved, config: CertCentralConfig, csr: bytes | None) -> str:
    if csr is not None:
        return _pem("CERTIFICATE REQUEST", csr)
    if config.crmf_key_submission == "reject":
        raise Unorderable("enrollment.allowed_operations: only p10cr brings the CSR that CertCentral wants")
    return _pem("PUBLIC KEY", approved.spki)


def _pem(label: str, content: bytes) -> str:
    lines = textwrap.wrap(base64.b64encode(content).decode(), 64)
    return "\n".join((f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""))


def _mail(
    content: Content, profile: ProfileFacts, options: ProfileOptions, config: CertCentralConfig, kind: Family
) -> JSON:
    emails = list(content.names.get("email", ()))
    if not emails:
        raise Unorderable("san.email: an order has at least one mailbox")
    indicator = _indicator(content, options, kind, emails)
    if indicator == "email_address" and content.one("common_name") is not None:
        _to_front(emails, content.one("common_name"))
    if content.one("email_address") is not None:
        _to_front(emails, content.one("email_address"))
        if indicator == "email_address" and not _same(content.one("common_name") or emails[0], emails[0]):
            raise Unorderable("subject.email_address: is another mailbox than the common name, and an order has one")
    body: JSON = {
        "emails": emails,
        "profile_type": profile.generation or "strict",
        "usage_designation": _designation(content, profile, options, config),
    }
    if kind != "mailbox":
        body["common_name_indicator"] = indicator
    if kind == "sponsor":
        body["individual"] = _individual(content)
    return body


def _indicator(content: Content, options: ProfileOptions, kind: Family, emails: list[str]) -> str:
    """What becomes the common name: what the approved subject says, or the options where it has none."""
    common, pseudonym = content.one("common_name"), content.one("pseudonym")
    given, surname = content.one("given_name"), content.one("surname")
    if common is None:
        if options.common_name_indicator is not None:
            return options.common_name_indicator
        usual = "pseudonym" if pseudonym is not None else "given_name_surname"
        return {"mailbox": "email_address", "organization": "organization_name"}.get(kind, usual)
    if any(_same(common, mail) for mail in emails):
        return "email_address"
    if kind == "sponsor" and pseudonym is not None and common == pseudonym:
        return "pseudonym"
    if kind == "sponsor" and common == f"{given} {surname}":
        return "given_name_surname"
    if kind == "organization" and common == content.one("organization_name"):
        return "organization_name"
    can_be = {
        "mailbox": "one of the mailboxes",
        "sponsor": "'given name surname', the pseudonym or one of the mailboxes",
    }.get(kind, "the organization's name or one of the mailboxes")
    raise Unorderable(f"subject.common_name: an order can make it {can_be}, and it is none of these")


def _individual(content: Content) -> JSON:
    """Every sponsored certificate names a person: by given name and surname, or by a pseudonym."""
    given, surname, pseudonym = (content.one(name) for name in ("given_name", "surname", "pseudonym"))
    if pseudonym is not None:
        if given is not None or surname is not None:
            raise Unorderable("subject.pseudonym: goes without given name and surname (S/MIME BR §7.1.4.2.2)")
        return {"pseudonym": pseudonym}
    if given is None or surname is None:
        missing = "given_name" if given is None else "surname"
        raise Unorderable(f"subject.{missing}: an order names a person by given name and surname, or by a pseudonym")
    return {"first_name": given, "last_name": surname}


def _attributes_beside(content: Content, kind: Family) -> JSON:
    """Which attributes are in the subject beside the common name."""
    return {
        "include_email": "email_address" in content.attributes,
        "include_given_name_surname": kind == "sponsor" and "given_name" in content.attributes,
        "include_pseudonym": kind == "sponsor" and "pseudonym" in content.attributes,
    }


def _designation(content: Content, profile: ProfileFacts, options: ProfileOptions, config: CertCentralConfig) -> JSON:
    """keyUsage and extKeyUsage in the API's words (S/MIME BR §7.1.2.3 (e), (f))."""
    usage, encryption = content.key_usage, _ENCRYPTION.get(content.key, "")
    signs, encrypts = "digital_signature" in usage, encryption in usage
    more = usage - {"digital_signature", encryption}
    for name in more - {"non_repudiation", "data_encipherment"}:
        raise Unorderable(f"extensions.key_usage: an order cannot express {name} for this key")
    if not signs and not encrypts:
        raise Unorderable("extensions.key_usage: an order is for signing, key management, or both")
    if "email_protection" not in content.purposes:
        raise Unorderable("extensions.extended_key_usage: e-mail certificates have email_protection")
    for name in content.purposes - {"email_protection", "client_auth"}:
        raise Unorderable(f"extensions.extended_key_usage: an order cannot express {name}")
    if ("non_repudiation" in more and not signs) or ("data_encipherment" in more and not encrypts):
        raise Unorderable("extensions.key_usage: non_repudiation is for signing, data_encipherment for encryption")
    asked = sorted(more | (content.purposes - {"email_protection"}))
    for name in asked:
        if name not in additional_usages(profile, options):
            section = "extended_key_usage" if name == "client_auth" else "key_usage"
            raise Unorderable(f"extensions.{section}: issuer_options.additional_usages does not have {name}")
    words: Mapping[str, str] = config.usage_words  # type: ignore[assignment]  # its keys are Literals
    made: JSON = {"primary_usage": "dual_use" if signs and encrypts else "signing" if signs else "key_management"}
    if asked:
        made["additional_usages"] = [words.get(name, name) for name in asked]
    return made


def _tls(content: Content, options: ProfileOptions, kind: Family) -> JSON:
    names = [*content.names.get("dns", ()), *content.names.get("ip", ())]
    if not names:
        raise Unorderable("san.dns: an order has at least one name")
    common = content.one("common_name")
    if common is None:
        common = names[0]
    elif not any(_same(common, name) for name in names):
        raise Unorderable("subject.common_name: is not one of the names, and CertCentral makes it one")
    for name in content.key_usage - {"digital_signature", "key_encipherment" if content.key == "rsa" else ""}:
        raise Unorderable(f"extensions.key_usage: an order for a server cannot express {name} for this key")
    if "server_auth" not in content.purposes:
        raise Unorderable("extensions.extended_key_usage: certificates for servers have server_auth")
    wanted = {"server_auth"} | ({"client_auth"} if "client_auth" in content.purposes else set())
    option = options.profile_option or ("server_client_auth_eku" if "client_auth" in wanted else None)
    if option == "server_client_auth_eku":
        wanted |= {"client_auth"}
    elif option == "kdc_smart_card":
        wanted = set(content.purposes)  # whatever goes with it is held against the certificate
    if content.purposes != wanted:
        differing = ", ".join(sorted(content.purposes ^ wanted))
        raise Unorderable(f"extensions.extended_key_usage: an order with these options differs in {differing}")
    body: JSON = {"common_name": common, "dns_names": names}
    if option is not None:
        body["profile_option"] = option
    if options.server_platform is not None:
        body["server_platform"] = {"id": options.server_platform}
    if kind == "dv" and content.names.get("ip"):
        raise Unorderable("san.ip: an order for a public server cannot express addresses")
    return body


def _organization(profile: ProfileFacts, kind: Family) -> JSON | None:
    number = organization_id(profile)
    if number is None:
        if kind in {"mailbox", "dv"}:
            return None
        raise Unorderable("organization.id: the organization's number in CertCentral is missing")
    body: JSON = {"id": number}
    contact = profile.contact
    if contact is not None and contact.mode == "custom":
        person = {
            "contact_type": "organization_contact",
            "first_name": contact.first_name,
            "last_name": contact.last_name,
            "email": contact.email,
            "telephone": contact.telephone,
            "job_title": contact.job_title,
        }
        body["contacts"] = [{name: value for name, value in person.items() if value is not None}]
    return body


def _custom_fields(approved: Approved, profile: ProfileFacts, config: CertCentralConfig) -> list[JSON]:
    values = {
        "profile": profile.name,
        "transaction": approved.transaction_id.hex(),
        "seat": approved.seat or "",
        "tags": ", ".join(profile.tags),
        "business_unit": profile.business_unit,
    }
    filled = ((int(number), template.format_map(values)) for number, template in config.custom_fields.items())
    return [{"metadata_id": number, "value": value} for number, value in filled if value]


def _same(one: str, other: str) -> bool:
    """Mailboxes and hosts are the same in capital and small letters, but for a mailbox's local part."""
    local, at, domain = one.rpartition("@")
    other_local, other_at, other_domain = other.rpartition("@")
    return (local, at, domain.lower()) == (other_local, other_at, other_domain.lower())


def _to_front(emails: list[str], mail: str | None) -> None:
    """Put a mailbox first: that is the one that CertCentral puts into the subject. Raises Unorderable."""
    for place, one in enumerate(emails):
        if mail is not None and _same(one, mail):
            emails.insert(0, emails.pop(place))
            return
    raise Unorderable("subject.email_address: is not one of the mailboxes, and CertCentral makes it one")
