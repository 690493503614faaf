"""/_control: the same switches for a simulator that runs in another process. No key, no rate limit, not in the journal.

GET    /_control                          time, counts, open orders, faults to come
POST   /_control/settings                 {"key", "product", "order", "times", "set": {…}}
POST   /_control/faults                   {"kind", "endpoint", "method", "key", "order", "times", "skip",
                                          "seconds", "status"}
POST   /_control/faults/random            {"seed", "probability", "kinds", "endpoint", "seconds"}
POST   /_control/faults/release           lets go of all who wait
DELETE /_control/faults
POST   /_control/clock                    {"freeze": TIME|true} | {"run": true} | {"set": TIME} | {"advance": seconds}
GET    /_control/ledger?kind&spki&stamp   /_control/journal?since&endpoint&key
GET    /_control/busiest?seconds&key      the most calls in any window of so many real seconds
GET    /_control/orders/{id}              status, own settings, what it waits for, validation mails
POST   /_control/orders/{id}/{action}     approve, reject, issue, cancel, revoke, click
POST   /_control/domains/{name}/{action}  validate, invalidate, publish, caa
POST   /_control/organizations/{id}/{type}  {"days": 825}; 0 takes the validation away
GET    /_control/roots                    PEM
"""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.certcentral.errors import ApiError
from tests.certcentral.faults import BY_CHANCE
from tests.certcentral.journal import as_json

if TYPE_CHECKING:
    from tests.certcentral.central import CertCentral

Answer = Callable[[web.Request, dict[str, Any]], Any]


def control(central: "CertCentral", app: web.Application) -> None:
    """Add the control path to an application."""
    panel = _Panel(central)
    for method, path, answer in (
        ("GET", "", panel.state),
        ("POST", "/settings", panel.settings),
        ("POST", "/faults", panel.fault),
        ("DELETE", "/faults", panel.no_faults),
        ("POST", "/faults/random", panel.random),
        ("POST", "/faults/release", panel.release),
        ("POST", "/clock", panel.clock),
        ("GET", "/ledger", panel.ledger),
        ("GET", "/journal", panel.journal),
        ("GET", "/busiest", panel.busiest),
        ("GET", "/orders/{order}", panel.order),
        ("POST", "/orders/{order}/{action}", panel.order_action),
        ("POST", "/domains/{name}/{action}", panel.domain_action),
        ("POST", "/organizations/{organization}/{type}", panel.organization),
        ("GET", "/roots", panel.roots),
    ):
        app.router.add_route(method, f"/_control{path}", _handler(answer))


def _handler(answer: Answer) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        try:
            body = await request.json() if request.can_read_body else {}
            made = answer(request, body)
        except (KeyError, TypeError, ValueError, ApiError) as error:
            return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=400)
        if isinstance(made, bytes):
            return web.Response(body=made, content_type=PEM)
        if isinstance(made, str):
            return web.Response(text=made, content_type="application/json")
        return web.json_response(made)

    return handle


PEM = "application/x-pem-file"


class _Panel:
    def __init__(self, central: "CertCentral") -> None:
        self._central = central

    def state(self, request: web.Request, body: dict[str, Any]) -> Any:
        central = self._central
        central.desk.settle()
        counts: dict[str, int] = {}
        for order in central.desk.register.orders.values():
            counts[order.status] = counts.get(order.status, 0) + 1
        return {
            "now": central.clock.now().isoformat(),
            "frozen": central.clock.frozen,
            "orders": counts,
            "ledger": len(central.ledger),
            "calls": len(central.journal.calls()),
            "faults": [asdict(fault) for fault in central.faults.pending()],
            "waiting": central.faults.waiting.is_set(),
            "keys": {key.name: key.value for key in central.account.keys.values()},
        }

    def settings(self, request: web.Request, body: dict[str, Any]) -> Any:
        scope = {name: body[name] for name in ("key", "product", "order", "times") if name in body}
        changes = dict(body["set"])
        if "rate_windows" in changes:
            changes["rate_windows"] = tuple((int(most), float(seconds)) for most, seconds in changes["rate_windows"])
        self._central.set(**scope, **changes)
        return {}

    def fault(self, request: web.Request, body: dict[str, Any]) -> Any:
        return asdict(self._central.faults.add(body.pop("kind"), **body))

    def no_faults(self, request: web.Request, body: dict[str, Any]) -> Any:
        self._central.faults.clear()
        return {}

    def random(self, request: web.Request, body: dict[str, Any]) -> Any:
        kinds = tuple(body.get("kinds") or BY_CHANCE)
        self._central.faults.randomly(
            int(body["seed"]),
            float(body["probability"]),
            kinds,
            endpoint=body.get("endpoint"),
            seconds=float(body.get("seconds", 0.05)),
        )
        return {}

    def release(self, request: web.Request, body: dict[str, Any]) -> Any:
        self._central.faults.release()
        return {}

    def clock(self, request: web.Request, body: dict[str, Any]) -> Any:
        central = self._central
        if "advance" in body:
            central.advance(float(body["advance"]))
        if "set" in body:
            central.clock.set(datetime.fromisoformat(body["set"]))
        if "freeze" in body:
            central.clock.freeze(None if body["freeze"] is True else datetime.fromisoformat(body["freeze"]))
        if body.get("run"):
            central.clock.run()
        central.desk.settle()
        return {"now": central.clock.now().isoformat(), "frozen": central.clock.frozen}

    def ledger(self, request: web.Request, body: dict[str, Any]) -> Any:
        query = request.query
        kind: Any = query.get("kind")
        return as_json(self._central.ledger.entries(kind=kind, spki=query.get("spki"), stamp=query.get("stamp")))

    def journal(self, request: web.Request, body: dict[str, Any]) -> Any:
        query = request.query
        since = int(query.get("since", "0"))
        return as_json(self._central.journal.calls(endpoint=query.get("endpoint"), key=query.get("key"), since=since))

    def busiest(self, request: web.Request, body: dict[str, Any]) -> Any:
        seconds = float(request.query["seconds"])
        return {"calls": self._central.journal.busiest(seconds, key=request.query.get("key"), real=True)}

    def order(self, request: web.Request, body: dict[str, Any]) -> Any:
        central = self._central
        central.desk.settle()
        order = central.order(int(request.match_info["order"]))
        at = central.clock.timestamp()
        return {
            "id": order.id,
            "status": order.status,
            "settings": order.own,
            "certificates": [
                {"id": one.id, "kind": one.kind, "status": one.status, "serial_number": one.serial}
                for one in order.certificates
            ],
            "missing": [what for one in order.certificates if one.is_open for what in central.desk.missing(one, at)],
            "mails": central.mails(order.id),
        }

    def order_action(self, request: web.Request, body: dict[str, Any]) -> Any:
        action = request.match_info["action"]
        if action not in {"approve", "reject", "issue", "cancel", "revoke", "click"}:
            raise ValueError(f"no such action: {action}")
        getattr(self._central, action)(int(request.match_info["order"]))
        return self.order(request, body)

    def domain_action(self, request: web.Request, body: dict[str, Any]) -> Any:
        central, name = self._central, request.match_info["name"]
        actions = {
            "validate": central.validate_domain,
            "invalidate": central.invalidate_domain,
            "publish": central.publish,
            "caa": central.forbid_by_caa,
        }
        actions[request.match_info["action"]](name)
        return {}

    def organization(self, request: web.Request, body: dict[str, Any]) -> Any:
        number, type_, days = int(request.match_info["organization"]), request.match_info["type"], body.get("days", 825)
        if days:
            self._central.validate_organization(number, type_, int(days))
        else:
            self._central.invalidate_organization(number, type_)
        return {}

    def roots(self, request: web.Request, body: dict[str, Any]) -> Any:
        return self._central.roots_pem()
