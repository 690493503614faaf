"""The JSON of the API, from what is remembered; and the downloads."""

import io
import zipfile
from collections.abc import Sequence
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from tests.certcentral import pki
from tests.certcentral.catalogue import (
    FAMILIES,
    HASHES,
    PRODUCTS,
    SERVER_PLATFORMS,
    Account,
    ApiKey,
    Contact,
    Container,
    Domain,
    Organization,
    Product,
    User,
    reuse_days,
)
from tests.certcentral.clock import moment, stamp
from tests.certcentral.errors import invalid
from tests.certcentral.orders import Desk
from tests.certcentral.settings import Settings
from tests.certcentral.state import Certificate, Order, Request
from tests.certcentral.terms import JSON

PEM_FILE: Final = "application/x-pem-file"
PKCS7: Final = "application/x-pkcs7-certificates"
ZIP: Final = "application/zip"
_PLATFORM_PEM: Final = 29
_DAY: Final = 86_400


def page(rows: Sequence[Any], name: str, offset: int, limit: int) -> JSON:
    """One page of a list."""
    shown = rows[offset : offset + limit]
    return {name: list(shown), "page": {"total": len(rows), "limit": limit, "offset": offset}}


def _person(user: User) -> JSON:
    return {"id": user.id, "first_name": user.first_name, "last_name": user.last_name, "email": user.email}


def placed(certificate: Certificate, settings: Settings) -> JSON:
    """The answer to an order, a reissue, or a duplicate.

    Issued at once: with certificate_id and chain; approved only: with certificate_id; else the id and requests[] alone.
    """
    answer: JSON = {"id": certificate.order.id, "requests": []}
    if certificate.request is not None:
        answer["requests"] = [{"id": certificate.request.id, "status": certificate.request.status}]
    if certificate.id is None:
        return answer
    if not settings.hide_certificate_id:
        answer["certificate_id"] = certificate.id
    if certificate.leaf is not None:
        if not settings.hide_chain:
            answer["certificate_chain"] = chain(certificate, settings)
    elif certificate.order.product.is_public_tls:
        answer["dcv_random_value"] = certificate.order.dcv_token
    return answer


def chain(certificate: Certificate, settings: Settings) -> list[JSON]:
    """Leaf, issuing CA, root, with the common name of each."""
    rows = [{"subject_common_name": _common_name(one), "pem": pki.pem(one)} for one in certificate.chain()]
    return rows if settings.chain_order == "leaf-first" else rows[::-1]


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def status(order: Order, settings: Settings) -> str:
    """The order's status as it is shown."""
    return settings.status_word or order.status


def _certificate(desk: Desk, certificate: Certificate, settings: Settings) -> JSON:
    order, agreed = certificate.order, certificate.terms
    ca = pki.by_id(agreed.product.family, agreed.ca_id)
    answer: JSON = {
        "common_name": agreed.title,
        "dns_names": list(agreed.names),
        "date_created": stamp(certificate.created),
        "csr": str(certificate.body.get("csr") or ""),
        "signature_hash": agreed.hash,
        "key_size": agreed.key.bits if agreed.key else 0,
        "ca_cert": {"id": ca.id, "name": ca.name},
    }
    if agreed.organization_id is not None:
        answer["organization"] = {"id": agreed.organization_id}
    if agreed.product.is_mail:
        answer["emails"] = list(agreed.emails)
        answer["profile_type"] = agreed.profile_type
        for name in ("common_name_indicator", "individual", "usage_designation"):
            if certificate.body.get(name) is not None:
                answer[name] = certificate.body[name]
    else:
        platform = agreed.server_platform
        answer["server_platform"] = {
            "id": platform,
            "name": SERVER_PLATFORMS.get(platform, "OTHER"),
            "install_url": "https://www.example.com/install",
            "csr_url": "https://www.example.com/csr",
        }
        if certificate.body.get("profile_option"):
            answer["profile_option"] = certificate.body["profile_option"]
    if certificate.body.get("cert_validity"):
        answer["cert_validity"] = certificate.body["cert_validity"]
    if certificate.id is not None and not settings.hide_certificate_id:
        answer["id"] = certificate.id
    if certificate.leaf is not None:
        answer |= _issued(desk, certificate)
    if settings.hide_csr:
        del answer["csr"]
    if order.status == "revoked":
        answer["status"] = "revoked"
    return answer


def _issued(desk: Desk, certificate: Certificate) -> JSON:
    made = certificate.leaf
    assert made is not None
    assert certificate.issued is not None
    left = (made.not_valid_after_utc - desk.clock.now()).days
    return {
        "thumbprint": certificate.thumbprint,
        "serial_number": certificate.serial,
        "date_issued": stamp(certificate.issued),
        "valid_from": made.not_valid_before_utc.date().isoformat(),
        "valid_till": made.not_valid_after_utc.date().isoformat(),
        "days_remaining": max(0, left),
    }


def certificate_row(desk: Desk, certificate: Certificate, settings: Settings) -> JSON:
    """A certificate in the lists of reissues and duplicates; its status is `approved` while it is good."""
    shown = {"issued": "approved"}.get(certificate.status, certificate.status)
    row = _certificate(desk, certificate, settings) | {"status": shown, "sub_id": certificate.sub_id}
    row["ca_cert_id"] = certificate.terms.ca_id
    return row


def order_row(desk: Desk, order: Order) -> JSON:
    """An order in the list of orders."""
    settings, certificate = desk.settings(order), order.certificate
    shown: JSON = {
        "common_name": certificate.terms.title,
        "dns_names": list(certificate.terms.names),
        "signature_hash": certificate.terms.hash,
    }
    if certificate.id is not None and not settings.hide_certificate_id:
        shown["id"] = certificate.id
    if certificate.leaf is not None:
        shown |= _issued(desk, certificate)
    row: JSON = {
        "id": order.id,
        "certificate": shown,
        "status": status(order, settings),
        "is_renewed": bool(order.renewed_by),
        "date_created": stamp(order.created),
        "disable_renewal_notifications": bool(order.body.get("disable_renewal_notifications")),
        "container": _container_brief(desk.account, order.container_id),
        "product": _product_brief(order.product),
        "duplicates_count": sum(one.kind == "duplicate" for one in order.certificates),
    }
    if order.organization_id is not None:
        found = desk.account.organizations[order.organization_id]
        row["organization"] = {"id": found.id, "name": found.name}
    return row


def order_info(desk: Desk, order: Order, *, caa: bool) -> JSON:
    """All of an order."""
    settings, account = desk.settings(order), desk.account
    answer: JSON = {
        "id": order.id,
        "status": status(order, settings),
        "is_renewal": bool(order.renewal_of),
        "is_renewed": bool(order.renewed_by),
        "renewed_order_id": order.renewed_by,
        "date_created": stamp(order.created),
        "order_valid_till": moment(order.until).date().isoformat(),
        "certificate": _certificate(desk, order.certificate, settings),
        "disable_renewal_notifications": bool(order.body.get("disable_renewal_notifications")),
        "container": _container_brief(account, order.container_id),
        "product": _product_brief(order.product),
        "user": _person(order.user),
        "requests": [_request_brief(request) for request in order.requests],
        "receipt_id": order.id - 1000,
        "cs_provisioning_method": "none",
        **{f"send_{when}": True for when in ("minus_90", "minus_60", "minus_30", "minus_7", "minus_3", "plus_7")},
        "allow_duplicates": order.product.duplicates,
        "user_assignments": [],
        "payment_method": order.body.get("payment_method") or "balance",
        "notes": [],
    }
    if not order.product.is_mail:
        answer["dcv_method"] = order.body.get("dcv_method") or "email"
    if order.renewal_of:
        answer["renewal_of_order_id"] = order.renewal_of
    if order.body.get("custom_fields") and not settings.hide_custom_fields:
        answer["custom_fields"] = [
            {**row, "label": account.metadata[int(row["metadata_id"])].label} for row in order.body["custom_fields"]
        ]
    if order.organization_id is not None:
        answer |= _organization_of(account.organizations[order.organization_id], order.body)
    waits = order.certificates[0].is_open and order.product.kind != "private"
    if caa and waits:
        names = [*order.certificate.terms.names, *(mail.rpartition("@")[2] for mail in order.certificate.terms.emails)]
        answer["caa_status_message"] = dict.fromkeys(names, "No CAA record forbids issuance.")
    return answer


def _organization_of(found: Organization, body: JSON) -> JSON:
    answer: JSON = {
        "organization": {
            "id": found.id,
            "name": found.name,
            "display_name": found.name,
            "is_active": True,
            "city": found.city,
            "state": found.state,
            "country": found.country,
        }
    }
    given = {row["contact_type"]: row for row in (body.get("organization") or {}).get("contacts") or []}
    for contact in found.contacts:
        mine = given.get(contact.contact_type, {})
        answer[contact.contact_type] = {
            name: mine.get(name) or getattr(contact, name) for name in ("first_name", "last_name", "email", "telephone")
        }
    return answer


def _product_brief(product: Product) -> JSON:
    kind = product.validation or ("dv" if product.kind == "dv" else "email")
    name = {"smime": "SMIME Organization Validation", "ov": "OV", "ev": "EV", "dv": "DV", "email": "Email"}[kind]
    return {
        "name_id": product.name_id,
        "name": product.name,
        "type": product.type,
        "validation_type": kind,
        "validation_name": name,
        "validation_description": f"{name} (simulated)",
    }


def _container_brief(account: Account, number: int) -> JSON:
    return {"id": number, "name": account.containers[number].name}


def _request_brief(request: Request) -> JSON:
    return {
        "id": request.id,
        "date": stamp(request.created),
        "type": request.type,
        "status": request.status,
        "comments": request.comments,
    }


def request_info(desk: Desk, request: Request) -> JSON:
    """All of a request."""
    order, settings = request.order, desk.settings(request.order)
    certificate = order.certificates[0] if settings.stale_request else request.certificate or order.certificate
    answer = _request_brief(request) | {
        "requester": _person(request.requester),
        "order": {
            "id": order.id,
            "status": status(order, settings),
            "certificate": _certificate(desk, certificate, settings),
            "container": _container_brief(desk.account, order.container_id),
            "product": _product_brief(order.product),
        },
    }
    if order.organization_id is not None:
        answer["order"] |= _organization_of(desk.account.organizations[order.organization_id], order.body)
    if request.processor is not None and request.processed is not None:
        answer |= {
            "processor": _person(request.processor),
            "processor_comment": request.processor_comment,
            "date_processed": stamp(request.processed),
        }
    return answer


def revocation_asked(request: Request) -> JSON:
    """The answer to a revocation that somebody has to approve."""
    return _request_brief(request) | {"requester": _person(request.requester)}


def download(certificates: Sequence[x509.Certificate], form: str) -> tuple[str, bytes]:
    """Content type and content of a download. Raises ApiError for formats that do not exist."""
    leaf = certificates[:1]
    chosen = {
        "pem_all": certificates,
        "pem": certificates,
        "pem_noroot": certificates[:2],
        "pem_nointermediate": leaf,
        "crt": leaf,
    }
    if form in chosen:
        return PEM_FILE, "".join(pki.pem(one) for one in chosen[form]).encode()
    if form in {"p7b", "cer"}:
        return PKCS7, pki.bundle(certificates).replace(b"\n", b"\r\n")
    if form in {"default", "apache", "default_cer", "default_pem"}:
        ending = {"default_cer": "cer", "default_pem": "pem"}.get(form, "crt")
        return ZIP, _zip(certificates, ending)
    raise invalid("format", f"There is no format {form}.")


def platform_download(certificates: Sequence[x509.Certificate], platform: int) -> tuple[str, bytes]:
    """The same by the number of a server platform."""
    return download(certificates, "pem_all" if platform == _PLATFORM_PEM else "default")


def _zip(certificates: Sequence[x509.Certificate], ending: str) -> bytes:
    names = ("certificate", "SimulatedCA", "TrustedRoot")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, certificate in zip(names, certificates, strict=False):
            content = certificate.public_bytes(serialization.Encoding.PEM).replace(b"\n", b"\r\n")
            archive.writestr(f"{name}.{ending}", content)
    return packed.getvalue()


# The account


def me(account: Account, key: ApiKey) -> JSON:
    """The user of the key."""
    return user_row(account, key.user) | {"account_id": account.id}


def user_row(account: Account, user: User) -> JSON:
    """A user."""
    number, role = user.access_role
    row: JSON = {
        **_person(user),
        "username": user.username,
        "account_id": account.id,
        "job_title": "",
        "telephone": "",
        "status": "active",
        "last_login_date": "2026-01-02T03:04:05+00:00",
        "container": container_row(account.containers[user.container_id]),
        "access_roles": [{"id": number, "name": role}],
        "type": "api_only" if user.api_only else "standard",
        "has_container_assignments": user.containers is not None,
    }
    if user.containers is not None:
        row["container_id_assignments"] = list(user.containers)
    return row


def account_info(account: Account) -> JSON:
    """The account."""
    primary = next(iter(account.organizations.values()))
    return {
        "id": account.id,
        "primary_organization_id": primary.id,
        "primary_organization_name": primary.name,
        "primary_organization_country": primary.country,
        "make_renewal_calls": True,
        "express_install_enabled": False,
        "balance_negative_limit": 0,
        "root_container_id": next(iter(account.containers)),
        "cert_transparency": "embed",
        "cert_central_type": "retail",
        "billing_account_id": account.id,
    }


def contact_row(contact: Contact) -> JSON:
    """A contact of an organization."""
    row: JSON = {
        "contact_type": contact.contact_type,
        "first_name": contact.first_name,
        "last_name": contact.last_name,
        "email": contact.email,
        "job_title": contact.job_title,
        "telephone": contact.telephone,
        "telephone_extension": contact.telephone_extension,
    }
    return row | ({"user_id": contact.user_id} if contact.user_id else {})


_VALIDATIONS: Final = {
    "ov": "Normal Organization Validation",
    "ev": "Extended Organization Validation",
    "smime": "SMIME Organization Validation",
    "cs": "Code Signing Organization Validation",
    "ds": "Document Signing Validation",
    "ev_cs": "Extended Code Signing Validation",
}


def organization_row(desk: Desk, found: Organization, *, validations: bool) -> JSON:
    """An organization."""
    container = desk.account.containers[found.container_id]
    row: JSON = {
        "id": found.id,
        "status": "active",
        "name": found.name,
        "assumed_name": "",
        "display_name": found.name,
        "is_active": True,
        "address": found.address,
        "address2": "",
        "zip": found.zip,
        "city": found.city,
        "state": found.state,
        "country": found.country,
        "telephone": found.telephone,
        "container": {"id": container.id, "name": container.name, "is_active": True},
        "ev_approvers": [],
        "contacts": [contact_row(contact) for contact in found.contacts],
    }
    if validations:
        row["validations"] = organization_validations(desk, found)
    return row


def organization_validations(desk: Desk, found: Organization) -> list[JSON]:
    """The validations of an organization: active, pending, or expired."""
    now, rows = desk.clock.now(), []
    for validation in found.validations.values():
        row: JSON = {
            "type": validation.type,
            "name": validation.type.upper(),
            "description": _VALIDATIONS.get(validation.type, validation.type),
            "date_created": validation.created.isoformat(timespec="seconds"),
            "status": "active" if validation.active(now) else "pending" if validation.until is None else "expired",
            "verified_users": [],
        }
        if validation.until is not None:
            row["validated_until"] = validation.until.isoformat(timespec="seconds")
        rows.append(row)
    return rows


def container_row(container: Container) -> JSON:
    """A division."""
    return {
        "id": container.id,
        "public_id": f"simulated{container.id}",
        "name": container.name,
        "description": "",
        "parent_id": container.parent_id,
        "template_id": 5,
        "ekey": f"{container.id:x}",
        "has_logo": False,
        "is_active": True,
        "allowed_domain_names": list(container.allowed_domains),
    }


def product_limits(account: Account, container: Container) -> JSON:
    """What may be ordered in a division, and how."""
    limited = container.products is not None or container.years is not None
    rows = []
    for name in sorted(account.enabled & (container.products or account.enabled)) if limited else ():
        product = PRODUCTS[name]
        years = [str(year) for year in product.years if container.years is None or year in container.years]
        rows.append(
            {
                "container_id": container.id,
                "role_id": 0,
                "product_name_id": name,
                "allowed_hashes": list(HASHES),
                "allowed_intermediates": list(FAMILIES[product.family].ca_ids),
                "allowed_lifetimes": years,
                "allowed_order_lifetimes": years,
                "allow_auto_renew": True,
                "allow_auto_reissue": True,
                "allowed_wildcards": product.wildcard,
            }
        )
    return {"is_limited": limited, "product_limits": rows}


def product_row(product: Product, container: Container | None = None) -> JSON:
    """A product."""
    years = [year for year in product.years if container is None or container.years is None or year in container.years]
    family = FAMILIES[product.family]
    return {
        "group_name": product.group,
        "name_id": product.name_id,
        "name": product.name,
        "type": product.type,
        "validation_type": product.validation or ("dv" if product.kind == "dv" else "email"),
        "duplicates_allowed": product.duplicates,
        "allowed_validity_years": years,
        "allowed_order_validity_years": years,
        "signature_hash_types": {
            "allowed_hash_types": [{"id": name, "name": f"SHA-{name[3:]}"} for name in HASHES],
            "default_hash_type_id": "sha256",
        },
        "allowed_container_ids": [],
        "allowed_ca_certs": [
            {"id": one, "name": family.ca_name(algorithm)} for one, algorithm in family.ca_ids.items()
        ],
        "additional_dns_names_allowed": not product.is_mail and product.names != 1,
        "increased_compatibility_allowed": False,
        "custom_expiration_date_allowed": True,
        "csr_required": product.csr_required,
        "allow_auto_renew": True,
        "server_platforms": [{"id": number, "name": name} for number, name in SERVER_PLATFORMS.items()],
        "license_agreement": "…",
        "replacement_product_name_id": "",
    }


def domain_row(desk: Desk, domain: Domain) -> JSON:
    """A domain with the state of its proof."""
    now = desk.clock.now()
    days = reuse_days(PRODUCTS["ssl_basic"], now.date())
    until = None if domain.validated is None else moment(domain.validated.timestamp() + days * _DAY)
    state = "pending" if until is None else "complete" if until > now else "expired"
    organization = desk.account.organizations.get(domain.organization_id)
    row: JSON = {
        "id": domain.id,
        "name": domain.name,
        "is_active": True,
        "status": "active" if state == "complete" else state,
        "date_created": "2026-01-02T03:04:05+00:00",
        "organization": {"id": domain.organization_id, "name": organization.name if organization else ""},
        "container": _container_brief(desk.account, domain.container_id),
        "validations": [
            {"type": type_, "name": type_.upper(), "status": "active", "dcv_status": state} for type_ in domain.types
        ],
        "dcv_method": domain.dcv_method,
    }
    if until is not None:
        row["dcv_expiration"] = {type_: until.date().isoformat() for type_ in domain.types}
    return row | token_row(domain)


def token_row(domain: Domain) -> JSON:
    """The token that has to stand in the DNS."""
    if not domain.token or domain.token_expires is None:
        return {}
    expires = domain.token_expires.isoformat(timespec="seconds")
    return {"dcv_token": {"token": domain.token, "status": "pending", "expiration_date": expires}}


# Quirks that hit every answer


def quirky(value: Any, settings: Settings, within: str = "") -> Any:
    """Ids as strings for organizations and requests, and a field that nobody knows in every object."""
    if isinstance(value, list):
        return [quirky(one, settings, within) for one in value]
    if not isinstance(value, dict):
        return value
    made = {name: quirky(one, settings, name) for name, one in value.items()}
    stringy = within in {"organization", "organizations", "requests"}
    if settings.ids_as_strings and stringy and isinstance(made.get("id"), int):
        made["id"] = str(made["id"])
    if settings.extra_fields and made:
        made["x_added_later"] = {"nobody": ["has", "heard", "of", "this"]}
    return made
