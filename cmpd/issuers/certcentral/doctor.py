"""What of an account will hold up orders, found out by asking it: one row for each thing that was looked at.

Nothing is changed over there. A look that fails is a row too, so that one missing right does not hide all the rest.
"""

from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from cmpd.issuers.certcentral import answers
from cmpd.issuers.certcentral.answers import JSON
from cmpd.issuers.certcentral.client import CallFailed, CallRefused, CertCentralClient
from cmpd.issuers.certcentral.config import CertCentralConfig
from cmpd.issuers.certcentral.options import (
    Family,
    ProfileFacts,
    ProfileOptions,
    family,
    is_smime,
    organization_id,
    product_of,
    profile_faults,
    signature_hash,
)
from cmpd.ports import Diagnosis as Row
from cmpd.ports import DiagnosisLevel as Level

SOON: Final = timedelta(days=30)
"""A validation that ends earlier is worth a warning."""
_ISSUER: Final = ""
"""What a row is about that is about no profile."""
_APPROVERS: Final = frozenset({"administrator", "manager"})
_YEAR: Final = timedelta(days=366)
_MORE: Final = timedelta(days=92)
"""By so much an order may be longer than its whole years: S/MIME of two years is for up to 824 days."""
_T = TypeVar("_T")


@dataclass(slots=True)
class _Account:
    """What the account said; None where it would not."""

    products: list[JSON] | None = None
    containers: list[JSON] | None = None
    domains: list[JSON] | None = None
    fields: list[JSON] | None = None
    limits: JSON | None = None


async def examine(
    client: CertCentralClient,
    config: CertCentralConfig,
    profiles: Sequence[tuple[ProfileFacts, ProfileOptions]],
    *,
    now: datetime | None = None,
) -> list[Row]:
    """Look at everything that the connector and its profiles need."""
    now = now or datetime.now(UTC)
    rows = [
        Row(
            _ISSUER,
            "secrets",
            "warning",
            f"{path}: its group may read it; chmod 600 it unless only cmpd is in that group",
        )
        for path in config.readable_by_group()
    ]
    if not await _key(client, config, rows):
        return rows
    rows += await _balance(client, config)
    account = _Account()
    account.containers = await _ask(client.containers(), "divisions", rows)
    _division(account, config, rows)
    account.products = await _ask(client.products(config.division), "products", rows)
    account.fields = await _ask(client.custom_fields(), "custom fields", rows)
    _custom_fields(account, config, rows)
    if config.division is not None:
        account.limits = await _ask(client.product_limits(config.division), "product limits", rows)
    if any(facts.domains for facts, _ in profiles):
        account.domains = await _ask(client.domains(), "domains", rows)
    organizations: dict[int, JSON | None] = {}
    for facts, options in profiles:
        faults = profile_faults(facts, options)
        rows += [Row(facts.name, "profile", "problem", fault) for fault in faults]
        product = product_of(facts, options)
        kind = None if product is None else family(product)
        if product is None or kind is None:
            continue
        if not faults:
            rows.append(Row(facts.name, "profile", "ok", f"can be ordered as {product}"))
        rows += await _product(client, account, config, facts, options, product, kind)
        number = organization_id(facts)
        if number is not None and number not in organizations:
            organizations[number] = await _ask(client.organization(number), f"organization {number}", rows)
        if number is not None and organizations[number] is not None:
            rows += _organization(organizations[number] or {}, facts, kind, now)
        if kind != "private":
            rows += _domains(account, facts, kind, now)
    return rows


async def _ask(call: Awaitable[_T], what: str, rows: list[Row], about: str = _ISSUER) -> _T | None:
    """The answer, or None and a row that says why not."""
    try:
        return await call
    except CallRefused as error:
        if error.refused.of_key:
            text = f"the key may not see this ({error}); orders may be all right, ask with a key that may"
            rows.append(Row(about, what, "warning", text))
        else:
            rows.append(Row(about, what, "problem", f"the account does not tell: {error}"))
    except CallFailed as error:
        rows.append(Row(about, what, "problem", f"no answer: {error}"))
    return None


# ── the connector ───────────────────────────────────────────────────────────────────────────────────────────────────


async def _key(client: CertCentralClient, config: CertCentralConfig, rows: list[Row]) -> bool:
    try:
        me = await client.me()
    except CallRefused as error:
        advice = f"; is the one in {config.api_key_file} of the account at {config.url}, and not of the other region?"
        rows.append(Row(_ISSUER, "API key", "problem", f"is refused ({error}){advice if error.refused.of_key else ''}"))
        return False
    except CallFailed as error:
        rows.append(Row(_ISSUER, "API", "problem", f"{config.url} cannot be used: {error}"))
        return False
    roles = [answers.text(role.get("name")) for role in answers.rows(me.get("access_roles"))]
    shown = ", ".join(roles) or "no role"
    if not {role.lower() for role in roles} & _APPROVERS:
        level: Level = "problem" if config.skip_approval else "warning"
        text = f"its user is {shown}: orders wait for somebody's approval; use a key of an administrator or manager"
        rows.append(Row(_ISSUER, "API key", level, text))
    else:
        rows.append(Row(_ISSUER, "API key", "ok", f"its user is {shown}"))
    restriction = answers.number(me.get("restricted_to_role_id"))
    if restriction in {102, 103}:
        what = "looks only" if restriction == 102 else "is for users only"
        rows.append(Row(_ISSUER, "API key", "problem", f"it {what}; make one for orders, or without restriction"))
    if answers.text(me.get("status")) not in {"", "active"}:
        rows.append(Row(_ISSUER, "API key", "problem", f"its user is {answers.shown(me.get('status'))}"))
    try:
        await client.orders(limit=1)
    except CallRefused as error:
        text = f"it may not see orders ({error}); make one that is for orders, or without restriction"
        rows.append(Row(_ISSUER, "API key", "problem", text))
    except CallFailed as error:
        rows.append(Row(_ISSUER, "orders", "problem", f"no answer: {error}"))
    account = await _ask(client.account(), "account", rows)
    if account is not None:
        name = answers.shown(account.get("primary_organization_name"))
        rows.append(Row(_ISSUER, "account", "ok", f"{answers.shown(account.get('id'))} {name}".strip()))
    return True


async def _balance(client: CertCentralClient, config: CertCentralConfig) -> list[Row]:
    """What is left to pay orders from, where they are paid from it. Not every account tells: then it is a note."""
    if config.payment_method not in {None, "balance"}:
        return []
    unsure = "whether it covers the orders is for you to see to, in CertCentral under Finances"
    try:
        found = await client.balance()
    except (CallRefused, CallFailed) as error:
        return [Row(_ISSUER, "balance", "note", f"cannot be asked for ({error}); {unsure}")]
    left = answers.amount(found.get("total_available_funds"))
    left = answers.amount(found.get("balance")) if left is None else left
    if left is None:
        return [Row(_ISSUER, "balance", "note", f"the answer names none; {unsure}")]
    shown = f"{left:,.2f} {answers.shown(found.get('currency'))}".strip()
    if left > 0:
        return [Row(_ISSUER, "balance", "ok", f"{shown} to pay orders from")]
    if config.payment_method is None:
        text = f"{shown}: orders that are paid from it are refused; pay in, or set payment_method"
        return [Row(_ISSUER, "balance", "warning", text)]
    text = f"{shown}: orders are refused; pay in, or set another payment_method"
    return [Row(_ISSUER, "balance", "problem", text)]


def _division(account: _Account, config: CertCentralConfig, rows: list[Row]) -> None:
    if config.division is None or account.containers is None:
        return
    found = next((row for row in account.containers if answers.number(row.get("id")) == config.division), None)
    if found is None:
        known = ", ".join(f"{row.get('id')} {answers.shown(row.get('name'))}" for row in account.containers[:10])
        text = f"{config.division} is not there, or the key does not see it; there are: {known}"
        rows.append(Row(_ISSUER, "division", "problem", text))
    elif found.get("is_active") is False:
        rows.append(Row(_ISSUER, "division", "problem", f"{config.division} is not active"))
    else:
        rows.append(Row(_ISSUER, "division", "ok", f"{config.division} {answers.shown(found.get('name'))}"))


def _custom_fields(account: _Account, config: CertCentralConfig, rows: list[Row]) -> None:
    if account.fields is None:
        return
    known = {answers.number(row.get("id")): row for row in account.fields}
    ours = {int(number): f"custom_fields.{number}" for number in config.custom_fields}
    if config.stamp_field is not None:
        ours[config.stamp_field] = "stamp_field"
    else:
        text = "none, our mark stands in the comments; a custom field is found again more surely"
        rows.append(Row(_ISSUER, "stamp_field", "note", text))
    for number, key in ours.items():
        row = known.get(number)
        if row is None:
            rows.append(Row(_ISSUER, key, "problem", f"the account has no custom field {number}; correct the number"))
        elif row.get("is_active") is False:
            rows.append(Row(_ISSUER, key, "problem", f"the custom field {number} is not active; activate it"))
        elif key == "stamp_field" and answers.text(row.get("data_type")) not in {"", "anything", "text"}:
            text = f"the custom field {number} takes {answers.shown(row.get('data_type'))}, and our mark is a text"
            rows.append(Row(_ISSUER, key, "problem", text))
        else:
            rows.append(Row(_ISSUER, key, "ok", f"{number} {answers.shown(row.get('label'))}"))
    for given in account.fields:
        number_, needed = answers.number(given.get("id")), given.get("is_required") is True
        if needed and given.get("is_active") is not False and number_ not in ours:
            text = (
                f"orders need the custom field {number_} {answers.shown(given.get('label'))}; fill it by custom_fields"
            )
            rows.append(Row(_ISSUER, "custom fields", "problem", text))


# ── a profile ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def _product(
    client: CertCentralClient,
    account: _Account,
    config: CertCentralConfig,
    facts: ProfileFacts,
    options: ProfileOptions,
    product: str,
    kind: Family,
) -> list[Row]:
    rows: list[Row] = []
    if account.products is not None and product not in {answers.text(row.get("name_id")) for row in account.products}:
        where = "account" if config.division is None else f"division {config.division}"
        text = f"{product} cannot be ordered in this {where}; DigiCert's account manager enables products"
        return [Row(facts.name, "product", "problem", text)]
    found = await _ask(client.product(product, config.division), "product", rows, facts.name)
    if found is None:
        return rows
    faults = [*_hash(found, facts, options), *_ca(found, facts, options), *_length(found, facts, options, kind)]
    if options.renew_strategy == "duplicate" and found.get("duplicates_allowed") is False:
        faults.append("it has no duplicates; choose another issuer_options.renew_strategy")
    if found.get("csr_required") is True and config.crmf_key_submission == "public_key":
        text = (
            "it needs a CSR; whether it takes the public key alone, as ir, cr and kur bring it, the first order tells"
        )
        rows.append(Row(facts.name, "product", "note", text))
    faults += _limits(account, facts, options, product)
    rows += [Row(facts.name, "product", "problem", fault) for fault in faults]
    if not faults:
        rows.append(Row(facts.name, "product", "ok", f"{product}, {answers.shown(found.get('name'))}"))
    return rows


def _hash(found: JSON, facts: ProfileFacts, options: ProfileOptions) -> Iterable[str]:
    types = answers.rows(answers.table(found.get("signature_hash_types")).get("allowed_hash_types"))
    allowed = [answers.text(row.get("id")) for row in types]
    wanted = signature_hash(facts, options)
    if allowed and wanted not in allowed:
        yield f"{wanted} is not allowed; there are {', '.join(allowed)}; set issuer_options.signature_hash"


def _ca(found: JSON, facts: ProfileFacts, options: ProfileOptions) -> Iterable[str]:
    wanted = options.ca_cert_id or facts.issuer_ca
    known = {
        answers.text(row.get("id")): answers.shown(row.get("name"))
        for row in answers.rows(found.get("allowed_ca_certs"))
    }
    if wanted is not None and known and wanted not in known:
        shown = ", ".join(f"{number} {name}" for number, name in known.items())
        yield f"the CA {wanted} does not issue it; there are {shown}; set issuer_options.ca_cert_id"


def _length(found: JSON, facts: ProfileFacts, options: ProfileOptions, kind: Family) -> Iterable[str]:
    years = [year for year in map(answers.number, _list(found.get("allowed_order_validity_years"))) if year]
    longest = max(years, default=0) * _YEAR + _MORE
    wanted = max(facts.longest, options.order_validity or facts.longest)
    if years and wanted > longest and (is_smime(kind) or options.order_validity is not None or kind == "private"):
        yield f"orders are for {max(years)} years at most, the profile allows {wanted.days} days; correct validity.max"


def _limits(account: _Account, facts: ProfileFacts, options: ProfileOptions, product: str) -> Iterable[str]:
    limits = account.limits or {}
    if limits.get("is_limited") is not True:
        return
    rows = [row for row in answers.rows(limits.get("product_limits")) if row.get("product_name_id") == product]
    if not rows:
        yield "the division's product limits leave it out; allow it there"
    for row in rows:
        hashes, cas = answers.texts(row.get("allowed_hashes")), answers.texts(row.get("allowed_intermediates"))
        wanted_ca = options.ca_cert_id or facts.issuer_ca
        if hashes and signature_hash(facts, options) not in hashes:
            yield f"the division allows {', '.join(hashes)} only; set issuer_options.signature_hash"
        if cas and wanted_ca is not None and wanted_ca not in cas:
            yield f"the division does not allow the CA {wanted_ca}; set issuer_options.ca_cert_id"
        years = [year for year in map(answers.number, _list(row.get("allowed_order_lifetimes"))) if year]
        if years and max(facts.longest, options.order_validity or facts.longest) > max(years) * _YEAR + _MORE:
            yield f"the division allows orders of {max(years)} years at most; correct validity.max"


def _organization(found: JSON, facts: ProfileFacts, kind: Family, now: datetime) -> list[Row]:
    number, name = answers.shown(found.get("id")), answers.shown(found.get("name"))
    rows: list[Row] = []
    if found.get("is_active") is False:
        rows.append(Row(facts.name, "organization", "problem", f"{number} {name} is not active"))
    wanted = None if facts.organization is None else facts.organization.name
    if wanted is not None and " ".join(wanted.casefold().split()) != " ".join(name.casefold().split()):
        text = f"{number} is {name!r} there and {wanted!r} in organization.name; certificates would be held back"
        rows.append(Row(facts.name, "organization", "problem", text))
    needed = {"sponsor": "smime", "organization": "smime", "private": "ov", "ov": "ov", "ev": "ev"}.get(kind)
    if needed is not None:
        rows.append(_validation(found, facts, needed, now))
    contacts = {answers.text(row.get("contact_type")) for row in answers.rows(found.get("contacts"))}
    linked = facts.contact is None or facts.contact.mode == "linked"
    if linked and "organization_contact" not in contacts:
        text = f'{number} {name} has no organization contact; add one there, or set contact.mode = "custom"'
        rows.append(Row(facts.name, "contact", "problem", text))
    else:
        rows.append(Row(facts.name, "contact", "ok", "that of the organization" if linked else "that of the profile"))
    return rows


def _validation(found: JSON, facts: ProfileFacts, needed: str, now: datetime) -> Row:
    name = answers.shown(found.get("name"))
    row = next((one for one in answers.rows(found.get("validations")) if one.get("type") == needed), None)
    if row is None:
        text = f"{name} is not validated for {needed}; submit it for validation"
        return Row(facts.name, "organization", "problem", text)
    until, status = answers.moment(row.get("validated_until")), answers.text(row.get("status"))
    if status not in {"", "active"} or (until is not None and until <= now):
        text = f"{name}: the validation for {needed} is {answers.shown(status) or 'expired'}; submit it again"
        return Row(facts.name, "organization", "problem", text)
    shown = "without an end" if until is None else f"until {until:%Y-%m-%d}"
    if until is not None and until < now + SOON:
        text = f"{name} is validated for {needed} {shown} only; submit it again in time"
        return Row(facts.name, "organization", "warning", text)
    return Row(facts.name, "organization", "ok", f"{name} is validated for {needed} {shown}")


def _domains(account: _Account, facts: ProfileFacts, kind: Family, now: datetime) -> list[Row]:
    """Unattended orders need domains that are proven beforehand: else a mail waits for a human's click."""
    if not facts.domains:
        key = "san.email.allowed_domains" if is_smime(kind) else "san.dns.allowed_domains"
        return [Row(facts.name, "domains", "note", f"{key} is empty: whether domains are proven cannot be told")]
    if account.domains is None:
        return []
    rows = []
    for domain in sorted({name.removeprefix(".") for name in facts.domains}):
        covering = [row for row in account.domains if _covers(answers.text(row.get("name")), domain)]
        rows.append(_domain(domain, covering, facts, now))
    return rows


def _covers(known: str, domain: str) -> bool:
    return bool(known) and (domain.lower() == known.lower() or domain.lower().endswith("." + known.lower()))


def _domain(domain: str, covering: Sequence[JSON], facts: ProfileFacts, now: datetime) -> Row:
    ends = [end for row in covering if (end := _proven_until(row)) is not None]
    if not ends:
        words = {
            answers.text(one.get("dcv_status")) for row in covering for one in answers.rows(row.get("validations"))
        }
        state = "is not in the account" if not covering else f"is {', '.join(sorted(words - {''})) or 'not proven'}"
        text = f"{domain} {state}: orders wait; add it and prove control over it (DNS token)"
        return Row(facts.name, "domains", "problem", text)
    until = max(ends)
    if until <= now:
        return Row(facts.name, "domains", "problem", f"{domain}: the proof ended at {until:%Y-%m-%d}; prove it again")
    if until < now + SOON:
        return Row(facts.name, "domains", "warning", f"{domain} is proven until {until:%Y-%m-%d} only; prove it again")
    shown = "" if until.year >= 9999 else f" until {until:%Y-%m-%d}"
    return Row(facts.name, "domains", "ok", f"{domain} is proven{shown}")


def _proven_until(row: JSON) -> datetime | None:
    """Until when a domain's proof holds; without a date, for ever; None when it is not proven."""
    proven = any(
        answers.text(one.get("dcv_status")) in {"complete", "valid", "active"}
        for one in answers.rows(row.get("validations"))
    )
    if not proven or row.get("is_active") is False:
        return None
    days = [day for day in map(answers.day, answers.table(row.get("dcv_expiration")).values()) if day is not None]
    if not days:
        return datetime.max.replace(tzinfo=UTC)
    last = max(days)
    return datetime(last.year, last.month, last.day, 23, 59, 59, tzinfo=UTC)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
