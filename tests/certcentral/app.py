"""The HTTP side: routes, keys and rights, rate limits, faults, and one function for each call.

A call runs without a pause from its checks to its effect; only then does a fault hold it up or take its answer away.
"""

import contextlib
import json
import operator
import re
import secrets
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from tests.certcentral import answers
from tests.certcentral.catalogue import PRODUCTS, ApiKey, Contact, Container, Domain, Organization, User, Validation
from tests.certcentral.clock import moment
from tests.certcentral.errors import ApiError, bad_format, invalid, invalid_key, missing_permission, not_found, too_many
from tests.certcentral.faults import BEFORE, Fault
from tests.certcentral.settings import Settings
from tests.certcentral.state import Certificate, Order, Request
from tests.certcentral.terms import JSON, contacts, number

if TYPE_CHECKING:
    from tests.certcentral.central import CertCentral

PREFIX: Final = "/services/v2"
EU_PREFIX: Final = "/eu/services/v2"
EU_HOST: Final = "certcentral.digicert.eu"
WEEK: Final = 7 * 86_400
_MDT: Final = timezone(timedelta(hours=-6))
_HTML: Final = (
    b"<html><head><title>Request unsuccessful</title></head><body>"
    b'<iframe src="/_Incapsula_Resource?incident_id=1">Request unsuccessful. Incident ID: 1</iframe></body></html>'
)
_AREAS: Final = {0: None, 100: {"order"}, 101: {"order", "organization", "domain"}, 102: None, 103: {"user"}}
"""What a restricted key may use besides /user/me, /product and /account; None: everything."""
_FILTER: Final = re.compile(r"filters\[(\w+)\](?:\[\w*\])?")
_ORDERS: Final = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


@dataclass(slots=True)
class Reply:
    """An answer before it is written."""

    status: int = 200
    json: Any = None
    content: bytes | None = None
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Call:
    """A call that has passed the door."""

    central: "CertCentral"
    key: ApiKey
    path: Mapping[str, str]
    query: Mapping[str, str]
    queries: list[tuple[str, str]]
    raw: bytes

    def body(self) -> JSON:
        """The JSON object that was sent. Raises ApiError."""
        try:
            body = json.loads(self.raw or b"{}")
        except ValueError:
            raise bad_format() from None
        if not isinstance(body, dict):
            raise bad_format()
        return body

    def integer(self, name: str, default: int) -> int:
        """A number of the query. Raises ApiError."""
        text = self.query.get(name)
        if text is None:
            return default
        if not text.isdecimal():
            raise invalid(name, f"{name} is a number.")
        return int(text)

    def page(self, rows: list[Any], name: str, most: int = 1000) -> JSON:
        """The page that was asked for."""
        limit = min(self.integer("limit", most) or most, most)
        return answers.page(rows, name, self.integer("offset", 0), limit)

    def sees(self, container_id: int) -> bool:
        """Whether the key's user may see what belongs to a division."""
        return self.key.user.containers is None or container_id in self.key.user.containers

    def order(self) -> Order:
        """The order of the path. Raises ApiError."""
        old = self.central.switches.of(self.key.name).old_serials_find_order
        found = self.central.desk.register.find_order(self.path["order"], old_serials=old)
        if found is None or not self.sees(found.container_id):
            raise not_found("order")
        return found

    def certificate(self) -> Certificate:
        """The certificate of the path. Raises ApiError."""
        found = self.central.desk.register.find_certificate(self.path["certificate"])
        if found is None or not self.sees(found.order.container_id):
            raise not_found("certificate")
        return found

    def request(self) -> Request:
        """The request of the path. Raises ApiError."""
        text = self.path["request"]
        found = self.central.desk.register.requests.get(int(text)) if text.isdecimal() else None
        if found is None or not self.sees(found.order.container_id):
            raise not_found("request")
        return found

    def settings(self, order: Order) -> Settings:
        """The settings of an order."""
        return self.central.desk.settings(order)


Handler = Callable[[Call], Reply]


# Orders


def order_place(call: Call) -> Reply:
    certificate = call.central.desk.place(call.key, call.path["product"], call.body())
    return _placed(call, certificate)


def _placed(call: Call, certificate: Certificate) -> Reply:
    settings = call.settings(certificate.order)
    if not certificate.order.dcv_token:
        certificate.order.dcv_token = secrets.token_hex(8)
    return Reply(settings.placed_status, answers.placed(certificate, settings))


def order_info(call: Call) -> Reply:
    order = call.order()
    call.central.desk.looked(order)
    return Reply(json=answers.order_info(call.central.desk, order, caa=call.query.get("include_caa_status") == "true"))


def order_list(call: Call) -> Reply:
    desk = call.central.desk
    orders = [order for order in desk.register.orders.values() if call.sees(order.container_id)]
    for name, wanted in _filters(call):
        read = _ORDER_FIELDS.get(name)
        if read is None:
            raise invalid("filters", f"There is no filter {name}.")
        orders = [order for order in orders if any(_fits(read(call, order), test) for test in wanted)]
    for name in reversed(call.query.get("sort", "-order_id").split(",")):
        read = _ORDER_FIELDS.get(name.removeprefix("-"))
        if read is None:
            raise invalid("sort", f"There is no field {name}.")
        if name.removeprefix("-") in {"order_id", "id"}:  # ids grow with time: they are in order
            orders.sort(key=lambda order: order.id, reverse=name.startswith("-"))
        else:
            orders.sort(key=lambda order: read(call, order), reverse=name.startswith("-"))
    limit = min(call.integer("limit", 1000) or 1000, 1000)
    offset = call.integer("offset", 0)
    shown = [answers.order_row(desk, order) for order in orders[offset : offset + limit]]
    return Reply(json={"orders": shown, "page": {"total": len(orders), "limit": limit, "offset": offset}})


_ORDER_FIELDS: Final[dict[str, Callable[[Call, Order], str]]] = {
    "order_id": lambda _, order: str(order.id),
    "id": lambda _, order: str(order.id),
    "status": lambda call, order: answers.status(order, call.settings(order)),
    "organization_id": lambda _, order: str(order.organization_id or ""),
    "product_name_id": lambda _, order: order.product.name_id,
    "container_id": lambda _, order: str(order.container_id),
    "valid_till": lambda _, order: _till(order),
    "date_created": lambda _, order: moment(order.created).date().isoformat(),
    "common_name": lambda _, order: order.certificate.terms.title,
    "serial_number": lambda _, order: order.certificate.serial,
}


def _till(order: Order) -> str:
    made = order.certificate.leaf
    return "" if made is None else made.not_valid_after_utc.date().isoformat()


def _filters(call: Call) -> Iterable[tuple[str, list[str]]]:
    wanted: dict[str, list[str]] = {}
    for name, value in call.queries:
        matched = _FILTER.fullmatch(name)
        if matched:
            wanted.setdefault(matched[1], []).append(value)
    return wanted.items()


def _fits(value: str, test: str) -> bool:
    """A filter: the value itself, a range `a...b`, or a comparison."""
    low, dots, high = test.partition("...")
    if dots:
        return low <= value <= high and bool(value)
    for sign, compare in _ORDERS.items():
        if test.startswith(sign):
            return bool(value) and compare(value, test.removeprefix(sign))
    return value.lower() == test.lower()


def status_changes(call: Call) -> Reply:
    desk = call.central.desk
    desk.looked()
    start, end = _window(call)
    rows = []
    for order in desk.register.changed(start, end):
        if not call.sees(order.container_id):
            continue
        settings = call.settings(order)
        row: JSON = {"order_id": order.id, "status": answers.status(order, settings)}
        if order.certificate.id is not None and not settings.hide_certificate_id:
            row["certificate_id"] = order.certificate.id
        rows.append(row)
    return Reply(json={"orders": rows} if rows else {})


def _window(call: Call) -> tuple[float, float]:
    """The time that is asked about: up to now, or between two dates in Mountain Daylight Time; seven days at most."""
    now = call.central.clock.timestamp()
    given = call.query.get("filters[status_last_updated]")
    if given is not None:
        first, dots, last = given.partition("...")
        start = _mdt(first, end=False)
        end = _mdt(last, end=True) if dots else now
    elif {"minutes", "seconds"} & set(call.query):
        start, end = now - 60 * call.integer("minutes", 0) - call.integer("seconds", 0), now
    else:
        raise invalid("filters", "minutes, seconds, or filters[status_last_updated] is required.")
    if end - start > WEEK:
        raise ApiError(400, "time_frame_too_long", "The time frame is seven days at most.")
    return start, end


def _mdt(text: str, *, end: bool) -> float:
    """`2026-01-07` (as an end: all of that day too), or `26-01-07+13:00:00`, whose plus a URL may have made a space."""
    try:
        if len(text) == len("2026-01-07"):
            at = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=_MDT)
            return at.timestamp() + (86_399 if end else 0)
        return datetime.strptime(text.replace(" ", "+"), "%y-%m-%d+%H:%M:%S").replace(tzinfo=_MDT).timestamp()
    except ValueError:
        raise invalid("status_last_updated", "A date is yyyy-MM-dd or yy-MM-dd+HH:mm:ss.") from None


def order_status(call: Call) -> Reply:
    call.central.desk.cancel(call.order(), call.body().get("status"))
    return Reply(204)


def reissue(call: Call) -> Reply:
    return _placed(call, call.central.desk.reissue(call.key, call.order(), call.body()))


def duplicate(call: Call) -> Reply:
    return _placed(call, call.central.desk.duplicate(call.key, call.order(), call.body()))


def reissue_list(call: Call) -> Reply:
    return _certificates(call, "reissue")


def duplicate_list(call: Call) -> Reply:
    return _certificates(call, "duplicate")


def _certificates(call: Call, kind: str) -> Reply:
    order, desk = call.order(), call.central.desk
    rows = [
        answers.certificate_row(desk, one, call.settings(order))
        for one in order.certificates
        if one.kind == kind and one.id is not None
    ]
    return Reply(json={"certificates": rows})


def check_dcv(call: Call) -> Reply:
    order = call.order()
    proven = call.central.desk.check_order(order)
    shown = answers.status(order, call.settings(order))
    return Reply(json={"dcv_status": "valid" if proven else "pending", "order_status": shown})


def email_list(call: Call) -> Reply:
    rows = [
        {
            "email": proof.email,
            "status": "unvalidated" if proof.validated is None else "validated",
            "date_emailed": moment(proof.sent).date().isoformat(),
        }
        for proof in call.order().emails
    ]
    return Reply(json={"emails": rows})


def email_click(call: Call) -> Reply:
    found = call.central.desk.register.tokens.get(call.path["token"])
    if found is None or call.query.get("email", found[1].email) != found[1].email:
        raise not_found("token")
    call.central.desk.click(*found)
    return Reply(204)


# Certificates


def download(call: Call) -> Reply:
    return _file(call, call.certificate(), call.path["format"])


def download_order(call: Call) -> Reply:
    return _file(call, call.order().certificate, call.path["format"])


def download_platform(call: Call) -> Reply:
    return _file(call, call.certificate(), "", number(call.path["platform"], "platform"))


def _file(call: Call, certificate: Certificate, form: str, platform: int | None = None) -> Reply:
    settings = call.settings(certificate.order)
    if certificate.leaf is None:
        raise ApiError(settings.not_issued_status, "not_found|certificate", "The certificate is not issued.")
    if settings.wrong_pem:
        certificate = certificate.order.certificates[0]
    chain = certificate.chain()
    if settings.chain_order == "root-first":
        chain = chain[::-1] if form in {"pem_all", "p7b"} else chain
    made = answers.download(chain, form) if platform is None else answers.platform_download(chain, platform)
    return Reply(content=made[1], content_type=made[0])


def chain(call: Call) -> Reply:
    certificate = call.certificate()
    settings = call.settings(certificate.order)
    if certificate.leaf is None:
        raise not_found("certificate")
    rows = [] if settings.hide_chain else answers.chain(certificate, settings)
    return Reply(json={"intermediates": rows})


def revoke(call: Call) -> Reply:
    certificate = call.certificate()
    return _revoked(call, certificate.order, certificate)


def revoke_order(call: Call) -> Reply:
    return _revoked(call, call.order(), None)


def _revoked(call: Call, order: Order, certificate: Certificate | None) -> Reply:
    asked = call.central.desk.revoke(call.key, order, certificate, call.body())
    return Reply(204) if asked is None else Reply(201, answers.revocation_asked(asked))


# Requests


def request_list(call: Call) -> Reply:
    desk = call.central.desk
    found = [request for request in desk.register.requests.values() if call.sees(request.order.container_id)]
    for name, wanted in _filters(call):
        if name not in {"status", "type"}:
            raise invalid("filters", f"There is no filter {name}.")
        found = [request for request in found if any(_fits(str(getattr(request, name)), test) for test in wanted)]
    shown = call.page(found[::-1], "requests")
    return Reply(json=shown | {"requests": [answers.request_info(desk, request) for request in shown["requests"]]})


def request_info(call: Call) -> Reply:
    return Reply(json=answers.request_info(call.central.desk, call.request()))


def request_status(call: Call) -> Reply:
    request, body = call.request(), call.body()
    call.central.desk.may_decide(call.key)
    call.central.desk.decide(request, str(body.get("status")), call.key.user, str(body.get("processor_comment") or ""))
    return Reply(204)


# The account


def organization_list(call: Call) -> Reply:
    desk, container = call.central.desk, call.query.get("container_id")
    rows = [
        answers.organization_row(desk, one, validations=call.query.get("include_validation") == "true")
        for one in desk.account.organizations.values()
        if container in {None, str(one.container_id)}
    ]
    return Reply(json=call.page(rows, "organizations"))


def _organization(call: Call) -> Organization:
    text = call.path["organization"]
    found = call.central.account.organizations.get(int(text)) if text.isdecimal() else None
    if found is None:
        raise not_found("organization")
    return found


def organization_info(call: Call) -> Reply:
    return Reply(json=answers.organization_row(call.central.desk, _organization(call), validations=True))


def organization_validations(call: Call) -> Reply:
    return Reply(json={"validations": answers.organization_validations(call.central.desk, _organization(call))})


def organization_contact(call: Call) -> Reply:
    found, body = _organization(call), call.body()
    rows = contacts(body.get("contacts") if "contacts" in body else [body])
    if not rows:
        raise invalid("contacts", "There is no contact.")
    for row in rows:
        person: JSON = {name: str(row.get(name) or "") for name in ("first_name", "last_name", "email", "telephone")}
        person |= {name: str(row.get(name) or "") for name in ("job_title", "telephone_extension")}
        user = next((one for one in call.central.account.users if one.id == row.get("user_id")), None)
        if user is not None:
            person |= {"first_name": user.first_name, "last_name": user.last_name, "email": user.email}
        kept = [contact for contact in found.contacts if contact.contact_type != row["contact_type"]]
        found.contacts = [
            *kept,
            Contact(contact_type=row["contact_type"], user_id=user.id if user else None, **person),
        ]
    return Reply(204)


def organization_validate(call: Call) -> Reply:
    found, now = _organization(call), call.central.clock.now()
    rows = call.body().get("validations")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and row.get("type") for row in rows):
        raise invalid("validations", "validations is a list of types.")
    for row in rows:
        known = found.validations.get(row["type"])
        if known is None or not known.active(now):
            found.validations[row["type"]] = Validation(row["type"], now, None)
    return Reply(201, {"validations": [{"type": row["type"]} for row in rows]})


def container_list(call: Call) -> Reply:
    rows = [answers.container_row(one) for one in call.central.account.containers.values() if call.sees(one.id)]
    return Reply(json=call.page(rows, "containers"))


def _container(call: Call, text: str) -> Container:
    found = call.central.account.containers.get(int(text)) if text.isdecimal() else None
    if found is None or not call.sees(found.id):
        raise not_found("container")
    return found


def container_info(call: Call) -> Reply:
    return Reply(json=answers.container_row(_container(call, call.path["container"])))


def product_limits(call: Call) -> Reply:
    return Reply(json=answers.product_limits(call.central.account, _container(call, call.path["container"])))


def product_list(call: Call) -> Reply:
    wanted = call.query.get("container_id")
    container = None if wanted is None else _container(call, wanted)
    rows = [
        answers.product_row(product, container)
        for name, product in PRODUCTS.items()
        if name in call.central.account.enabled
        and (container is None or container.products is None or name in container.products)
    ]
    return Reply(json={"products": rows})


def product_info(call: Call) -> Reply:
    wanted, name = call.query.get("container_id"), call.path["product"]
    container = None if wanted is None else _container(call, wanted)
    product = PRODUCTS.get(name)
    allowed = container is None or container.products is None or name in container.products
    if product is None or name not in call.central.account.enabled or not allowed:
        raise not_found("product")
    return Reply(json=answers.product_row(product, container))


def metadata(call: Call) -> Reply:
    rows = [
        {
            "id": one.id,
            "label": one.label,
            "is_required": one.is_required,
            "is_active": one.is_active,
            "data_type": one.data_type,
            "description": one.description,
        }
        for one in call.central.account.metadata.values()
    ]
    return Reply(json={"metadata": rows})


def domain_list(call: Call) -> Reply:
    desk = call.central.desk
    domains = [one for one in desk.account.domains.values() if call.sees(one.container_id)]
    for name, wanted in _filters(call):
        if name != "name":
            raise invalid("filters", f"There is no filter {name}.")
        domains = [one for one in domains if any(_fits(one.name, test) for test in wanted)]
    return Reply(json=call.page([answers.domain_row(desk, one) for one in domains], "domains"))


def domain_add(call: Call) -> Reply:
    desk, body = call.central.desk, call.body()
    name, organization = str(body.get("name") or "").lower(), body.get("organization")
    if not name or "." not in name:
        raise invalid("name", "The name of the domain is missing.")
    if not isinstance(organization, dict) or number(organization.get("id"), "organization") not in (
        desk.account.organizations
    ):
        raise invalid("organization", "There is no such organization.")
    if any(one.name == name for one in desk.account.domains.values()):
        raise invalid("name", "The domain exists.")
    domain = desk.add_domain(name, int(organization["id"]), call.key.user.container_id)
    domain.types = tuple(row["type"] for row in body.get("validations") or [{"type": "ov"}])
    desk.new_token(domain, str(body.get("dcv_method") or "dns-txt-token"))
    return Reply(201, {"id": domain.id, **answers.token_row(domain)})


def _domain(call: Call) -> Domain:
    text = call.path["domain"]
    found = call.central.account.domains.get(int(text)) if text.isdecimal() else None
    if found is None or not call.sees(found.container_id):
        raise not_found("domain")
    return found


def domain_info(call: Call) -> Reply:
    return Reply(json=answers.domain_row(call.central.desk, _domain(call)))


def domain_submit(call: Call) -> Reply:
    domain, body = _domain(call), call.body()
    call.central.desk.new_token(domain, str(body.get("dcv_method") or domain.dcv_method))
    return Reply(201, {"id": domain.id, **answers.token_row(domain)})


def domain_check(call: Call) -> Reply:
    if not call.central.desk.check_dns(_domain(call)):
        raise invalid("dcv", "The token was not found.")
    return Reply(204)


def user_list(call: Call) -> Reply:
    account = call.central.account
    return Reply(json=call.page([answers.user_row(account, user) for user in account.users], "users"))


def user_me(call: Call) -> Reply:
    return Reply(json=answers.me(call.central.account, call.key))


def user_add(call: Call) -> Reply:
    account, body = call.central.account, call.body()
    if call.key.user.access_role[0] != 1:
        raise missing_permission()
    if not body.get("is_api_only") or not body.get("api_name") or not body.get("email"):
        raise invalid("user", "Only API-only users with an api_name and an email can be added here.")
    restriction = number(body.get("restricted_to_role_id") or 0, "restricted_to_role_id")
    if restriction not in _AREAS:
        raise invalid("restricted_to_role_id", "There is no such role.")
    divisions = tuple(number(one, "container_id_assignments") for one in body.get("container_id_assignments") or ())
    if not set(divisions) <= account.containers.keys():
        raise invalid("container_id_assignments", "There is no such division.")
    name = str(body["api_name"])
    user = User(1 + max(one.id for one in account.users), name, name, "", str(body["email"]), api_only=True)
    if divisions:
        user.containers, user.container_id = divisions, divisions[0]
    account.users.append(user)
    key = ApiKey(name, secrets.token_hex(24).upper(), user, restriction, call.key.region)
    account.keys[key.value] = key
    return Reply(201, {"id": user.id, "api_key": key.value})


def account_info(call: Call) -> Reply:
    return Reply(json=answers.account_info(call.central.account))


def balance(call: Call) -> Reply:
    left = call.central.settings(call.key.name).balance
    if left is None:
        raise not_found("route")
    shown = f"{left:.2f}"
    return Reply(json={"balance": shown, "currency": "EUR", "total_available_funds": shown})


@dataclass(frozen=True, slots=True)
class Route:
    """A call of the API."""

    name: str
    method: str
    path: str
    area: str
    handler: Handler


ROUTES: Final = tuple(
    Route(*row)
    for row in (
        ("status_changes", "GET", "/order/certificate/status-changes", "order", status_changes),
        ("order", "POST", "/order/certificate/{product}", "order", order_place),
        ("order_list", "GET", "/order/certificate", "order", order_list),
        ("order_info", "GET", "/order/certificate/{order}", "order", order_info),
        ("order_status", "PUT", "/order/certificate/{order}/status", "order", order_status),
        ("reissue", "POST", "/order/certificate/{order}/reissue", "order", reissue),
        ("reissue_list", "GET", "/order/certificate/{order}/reissue", "order", reissue_list),
        ("duplicate", "POST", "/order/certificate/{order}/duplicate", "order", duplicate),
        ("duplicate_list", "GET", "/order/certificate/{order}/duplicate", "order", duplicate_list),
        ("revoke_order", "PUT", "/order/certificate/{order}/revoke", "order", revoke_order),
        ("check_dcv", "PUT", "/order/certificate/{order}/check-dcv", "order", check_dcv),
        ("email_list", "GET", "/order/certificate/{order}/email-validation", "order", email_list),
        ("email_click", "PUT", "/email-validation/{token}", "order", email_click),
        ("download_order", "GET", "/certificate/download/order/{order}/format/{format}", "order", download_order),
        ("download", "GET", "/certificate/{certificate}/download/format/{format}", "order", download),
        (
            "download_platform",
            "GET",
            "/certificate/{certificate}/download/platform/{platform}",
            "order",
            download_platform,
        ),
        ("chain", "GET", "/certificate/{certificate}/chain", "order", chain),
        ("revoke", "PUT", "/certificate/{certificate}/revoke", "order", revoke),
        ("request_list", "GET", "/request", "order", request_list),
        ("request_info", "GET", "/request/{request}", "order", request_info),
        ("request_status", "PUT", "/request/{request}/status", "order", request_status),
        ("organization_list", "GET", "/organization", "organization", organization_list),
        ("organization_info", "GET", "/organization/{organization}", "organization", organization_info),
        ("organization_contact", "PUT", "/organization/{organization}/contact", "organization", organization_contact),
        (
            "organization_validations",
            "GET",
            "/organization/{organization}/validation",
            "organization",
            organization_validations,
        ),
        (
            "organization_validate",
            "POST",
            "/organization/{organization}/validation",
            "organization",
            organization_validate,
        ),
        ("container_list", "GET", "/container", "container", container_list),
        ("container_info", "GET", "/container/{container}", "container", container_info),
        ("product_limits", "GET", "/container/{container}/product-limits", "container", product_limits),
        ("product_list", "GET", "/product", "any", product_list),
        ("product_info", "GET", "/product/{product}", "any", product_info),
        ("metadata", "GET", "/account/metadata", "any", metadata),
        ("account", "GET", "/account", "any", account_info),
        ("balance", "GET", "/finance/balance", "finance", balance),
        ("domain_list", "GET", "/domain", "domain", domain_list),
        ("domain_add", "POST", "/domain", "domain", domain_add),
        ("domain_info", "GET", "/domain/{domain}", "domain", domain_info),
        ("domain_submit", "POST", "/domain/{domain}/validation", "domain", domain_submit),
        ("domain_check", "PUT", "/domain/{domain}/dcv/validate-token", "domain", domain_check),
        ("user_me", "GET", "/user/me", "any", user_me),
        ("user_list", "GET", "/user", "user", user_list),
        ("user_add", "POST", "/user", "user", user_add),
    )
)
_NOWHERE: Final = Route("nowhere", "*", "/{tail:.*}", "any", lambda _: _refuse(not_found("route")))


def _refuse(error: ApiError) -> Reply:
    raise error


def application(central: "CertCentral") -> web.Application:
    """The API under both prefixes."""
    app = web.Application(client_max_size=1 << 20)
    for prefix, region in ((PREFIX, ""), (EU_PREFIX, "eu")):
        for route in (*ROUTES, _NOWHERE):
            app.router.add_route(route.method, prefix + route.path, _Door(central, route, region).answer)
    return app


class _Door:
    """One route: from the request to the answer, or to the fault."""

    def __init__(self, central: "CertCentral", route: Route, region: str) -> None:
        self._central = central
        self._route = route
        self._region = region

    async def answer(self, request: web.Request) -> web.StreamResponse:
        central, route = self._central, self._route
        raw = await request.read()
        key = central.account.keys.get(request.headers.get("X-DC-DEVKEY", ""))
        name = key.name if key is not None else ""
        fault = central.faults.pick(route.name, request.method, name, request.match_info.get("order", ""))
        if fault is not None and fault.kind == "slow_commit":
            await central.faults.wait(fault.seconds)
        reply = self._before(fault) if fault is not None else None
        if reply is None and not (fault is not None and fault.kind == "drop"):
            reply = self._answer(request, key, raw)
        after = fault.kind if fault is not None and fault.kind not in BEFORE else ""
        if after == "commit_then_500":
            reply = _error(ApiError(500, "internal_error", "An error occurred."))
        elif after == "commit_then_html":
            reply = _page(fault)
        dropped = reply is None or after == "commit_then_drop"
        status = 0 if dropped or reply is None else reply.status
        kind = fault.kind if fault is not None else ""
        now = central.clock.timestamp()
        central.journal.add(now, request.method, request.path_qs, route.name, status, name, kind)
        if after == "slow_answer" and fault is not None:
            await central.faults.wait(fault.seconds)
        if dropped or reply is None:
            return _reset(request)
        response = self._write(reply, name)
        if after in {"slow_loris", "commit_then_half"} and fault is not None:
            return await self._dribble(request, response, fault)
        return response

    def _before(self, fault: Fault) -> Reply | None:
        """The answers of faults that keep the call from having any effect."""
        if fault.kind == "error_500":
            return _error(ApiError(500, "internal_error", "An error occurred."))
        if fault.kind == "rate_limited":
            return _error(too_many(), self._retry_after(self._central.switches.base))
        return _page(fault) if fault.kind == "html" else None

    @staticmethod
    def _retry_after(settings: Settings) -> dict[str, str]:
        return {} if settings.retry_after is None else {"Retry-After": str(settings.retry_after)}

    def _answer(self, request: web.Request, key: ApiKey | None, raw: bytes) -> Reply:
        central = self._central
        settings = central.switches.of(key.name if key is not None else "")
        try:
            central.desk.settle()
            self._admit(request, key, settings)
            assert key is not None
            queries = list(request.query.items())
            return self._route.handler(Call(central, key, request.match_info, dict(queries), queries, raw))
        except ApiError as error:
            headers = self._retry_after(settings) if error.status == 429 else {}
            return _error(error, headers, as_object=settings.errors_as_object)

    def _admit(self, request: web.Request, key: ApiKey | None, settings: Settings) -> None:
        """Key, rate, and rights. Raises ApiError."""
        host = request.host.partition(":")[0]
        region = self._region or ("eu" if host == EU_HOST else self._central.region)
        if key is None or not key.valid or (settings.region_bound_keys and key.region != region):
            raise invalid_key()
        central, windows = self._central, settings.rate_windows
        now = central.clock.timestamp()
        if not central.rates.admit(key.name, now, windows, count_refused=settings.count_refused):
            raise too_many()
        areas = _AREAS[key.restriction]
        if request.method != "GET" and key.restriction == 102:
            raise missing_permission()
        if areas is not None and self._route.area not in {*areas, "any"}:
            raise missing_permission()
        manages = {"organization_contact", "organization_validate", "domain_add", "domain_submit", "domain_check"}
        if self._route.name in manages and not key.may_manage:
            raise missing_permission()

    def _write(self, reply: Reply, key: str) -> web.Response:
        settings = self._central.switches.of(key)
        content = reply.content
        if content is None:
            value = reply.json
            if settings.ids_as_strings or settings.extra_fields:
                value = answers.quirky(value, settings)
            content = b"" if reply.status == 204 else json.dumps(value, separators=(",", ":")).encode()
        headers = {"Cache-Control": "private,no-cache", "X-CDN": "Imperva", "X-Iinfo": "1-1-0 NNNN", **reply.headers}
        response = web.Response(status=reply.status, body=content, headers=headers)
        if reply.status != 204:
            response.headers["Content-Type"] = reply.content_type
        for name in ("visid", "nlbi", "session"):
            response.set_cookie(name, "simulated")
        return response

    async def _dribble(self, request: web.Request, whole: web.Response, fault: Fault) -> web.StreamResponse:
        """The answer in eight pieces with pauses, or only its first half."""
        content = whole.body
        assert isinstance(content, bytes)
        response = web.StreamResponse(status=whole.status, headers=whole.headers)
        response.content_length = len(content)
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            if fault.kind == "commit_then_half":
                await response.write(content[: len(content) // 2])
                return _reset(request, gently=True)
            size = max(1, len(content) // 8)
            for start in range(0, len(content), size):
                await response.write(content[start : start + size])
                await self._central.faults.wait(fault.seconds)
            await response.write_eof()
        return response


def _error(error: ApiError, headers: dict[str, str] | None = None, *, as_object: bool = False) -> Reply:
    row = {"code": error.code, "message": error.message}
    return Reply(error.status, {"errors": row if as_object else [row]}, headers=headers or {})


def _page(fault: Fault | None) -> Reply:
    return Reply(fault.status if fault is not None else 200, content=_HTML, content_type="text/html")


def _reset(request: web.Request, *, gently: bool = False) -> web.Response:
    """Close the connection: with RST, or `gently` after what was written has gone out."""
    transport = request.transport
    if transport is not None:
        raw = transport.get_extra_info("socket")
        if gently:
            transport.close()
        else:
            if raw is not None:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
    return web.Response()
