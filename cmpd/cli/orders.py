"""`cmpd order`: certificates on order, and what an operator decides about them, beside a running daemon.

Nothing is taken from the daemon: an order changes only from the state in which it was seen, and the daemon takes it up
from there at its next look. What was done, by whom and why, is kept in the order's `note`.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from cmpd import asn1
from cmpd.asn1 import PKIFailureInfo, certificate, der
from cmpd.asn1.text import extensions_tree, public_key_text, tree_lines
from cmpd.cli.operation import confirm, faults, issuer_of, now, store_of, who
from cmpd.cli.output import OperatorError, plain, time_text, write, write_json, write_table
from cmpd.enrollment.binding import san_entries
from cmpd.exchange import OPEN_ORDERS, Approved, Order, OrderState, Transaction
from cmpd.ordering import IDLE_SECONDS, LOST_SECONDS
from cmpd.ports import (
    Approving,
    Issuer,
    IssuerFailure,
    IssuerUnavailable,
    Ordering,
    OrderMoved,
    OrderNotDone,
    OrderRefused,
    OrderUnknown,
)
from cmpd.settings import Settings
from cmpd.store import AdminStore

CANCELLED = "the order has been cancelled by an operator"
"""What the EE is told unless the operator says something else."""
LONGEST_REASON = 300
LONGEST_TICKET = 200
LONGEST_NOTE = 2000
PREFIX = "cmpd-"
"""How every stamp begins."""
_ALL = 1_000_000
"""More open orders than there ever are."""
_NEXT = f"A running daemon takes it up within about {IDLE_SECONDS:.0f} seconds."


def show_all(
    path: Path,
    *,
    states: Sequence[str],
    profile: str | None,
    issuer: str | None,
    everything: bool,
    limit: int,
    json: bool,
) -> None:
    """Print orders, newest first: those that are open, unless others are asked for."""
    for text in states:
        if text not in list(OrderState):
            raise OperatorError(f"--state {plain(text)}: not a state; write {', '.join(OrderState)}")
    if states and everything:
        raise OperatorError("--all: is given beside --state; leave one of them")
    wanted = (
        None if everything else [one for one in OrderState if (one.value in states if states else one in OPEN_ORDERS)]
    )

    async def read() -> list[Order]:
        async with store_of(Settings.load(path)) as store:
            return await store.orders(limit, wanted, profile, issuer)

    with faults():
        found = asyncio.run(read())
    if json:
        write_json([public(one) for one in found])
        return
    at = now()
    write_table(
        ("STAMP", "STATE", "AGE", "TICKET", "PROFILE", "SEAT", "SUBJECT", "WAITS FOR"),
        (
            (
                one.stamp,
                one.state.value,
                age_text(at - one.created),
                plain(one.ticket or "-"),
                one.approved.profile,
                plain(one.approved.seat or "-"),
                plain(_subject(one.approved)),
                plain(waits_for(one)),
            )
            for one in found
        ),
        empty="There are no such orders." if states or everything or profile or issuer else "There are no open orders.",
    )


def show(path: Path, stamp: str, *, json: bool) -> None:
    """Print everything about an order, and what an operator can do about it now."""

    async def read(settings: Settings) -> tuple[Order, Transaction | None]:
        async with store_of(settings) as store:
            order = await _find(store, stamp)
            return order, await store.transaction(order.transaction_id)

    with faults():
        settings = Settings.load(path)
        order, transaction = asyncio.run(read(settings))
    known = order.issuer in settings.issuers
    document = _everything(order, transaction)
    if json:
        commands = [{"command": command, "effect": effect} for command, effect in can(order)]
        write_json(document | {"issuer_configured": known, "can": commands})
        return
    approved = document["approved"]
    line: dict[str, Any] = {
        "stamp": order.stamp,
        "state": f"{order.state.value} since {time_text(order.updated)}",
        "waits for": waits_for(order),
        "issuer": order.issuer if known else f"{order.issuer}, which is not configured: nobody works on it",
        "ticket": order.ticket,
        "told": order.text,
        "private": "" if order.private in waits_for(order) else order.private,
        "note": order.note,
        "created": f"{time_text(order.created)}, {age_text(now() - order.created)} ago",
        "looked at": f"{order.attempts} times since the last change" if order.attempts else "",
        "next look": time_text(order.due) if order.state in OPEN_ORDERS - {OrderState.held} else "",
        "profile": order.approved.profile,
        "seat": order.approved.seat,
        "subject": approved["subject"],
        "san": ", ".join(approved["san"]),
        "key": f"{approved['key']}, SHA-256 {approved['spki_sha256']}",
        "validity": f"{approved['not_before']} to {approved['not_after']}",
        "changed": "; ".join(approved["modified"]),
        "updates": approved["updates"],
        "serial": document["serial"],
        "chain": " < ".join(document["chain"]),
        "transaction": order.transaction_id.hex(),
        "": _transaction_text(transaction, order),
    }
    write(*(f"{key:<12} {plain(str(value))}" for key, value in line.items() if value))
    if approved["extensions"]:
        write("extensions", *(plain(one) for one in tree_lines(approved["extensions"], "  ")))
    if can(order):
        write("", "what can be done now", *(f"  {command}\n      {effect}" for command, effect in can(order)))
    else:
        write("", "Nothing can be done now: the client is told why it has failed, and must begin anew.")


def release(path: Path, stamp: str, *, yes: bool, json: bool) -> None:
    """Have a held or unknown order submitted again, or only looked at again when the issuer has it."""

    async def read() -> Order:
        async with store_of(settings) as store:
            order = await _find(store, stamp)
        _may(order, "released", {OrderState.held, OrderState.unknown})
        return order

    async def change(seen: Order) -> Order:
        async with store_of(settings) as store:
            order = await _find(store, seen.stamp)
            if order.step != seen.step:
                raise _moved(order)
            if _is_placed(order):
                return await _move(store, order, OrderState.ordered, "released, to be looked at again")
            return await _move(store, order, OrderState.intended, "released, to be submitted again")

    with faults():
        settings = Settings.load(path)
        seen = asyncio.run(read())
        if not _is_placed(seen) and not yes:
            _confirm_release(seen)
        order = asyncio.run(change(seen))
    what = f"is looked at again at the issuer, as {plain(order.ticket)}" if _is_placed(seen) else "is submitted again"
    _done(order, f"{order.stamp} {what}. {_NEXT}", json=json)


def adopt(path: Path, stamp: str, ticket: str, *, json: bool) -> None:
    """Keep the ticket under which the operator has found an order at the issuer."""
    ticket = ticket.strip()
    if not ticket or len(ticket) > LONGEST_TICKET or not ticket.isprintable():
        raise OperatorError(f"TICKET {plain(ticket[:LONGEST_TICKET]) or '(empty)'}: not what an issuer calls an order")

    async def change() -> Order:
        async with store_of(settings) as store:
            order = await _find(store, stamp)
            _may(order, "adopted", {OrderState.intended, OrderState.unknown, OrderState.held})
            others = await store.orders(_ALL, OPEN_ORDERS, issuer=order.issuer)
            for other in others:
                if other.ticket == ticket and other.stamp != order.stamp:
                    raise OperatorError(
                        f"TICKET {ticket}: is that of order {other.stamp}; see `cmpd order show {other.stamp}`"
                    )
            return await _move(store, order, OrderState.ordered, f"adopted as {ticket}", ticket=ticket, text="")

    with faults():
        settings = Settings.load(path)
        order = asyncio.run(change())
    _done(order, f"{order.stamp} is on order at {plain(order.issuer)} as {ticket}. {_NEXT}", json=json)


def cancel(path: Path, stamp: str, *, reason: str | None, local: bool, json: bool) -> None:
    """Give an order up, first at its issuer if that may have it; the EE hears the reason when it polls."""
    text = CANCELLED if reason is None else reason.strip()
    if not text or len(text) > LONGEST_REASON or not text.isprintable():
        raise OperatorError(
            f"--reason {plain(text[:LONGEST_REASON]) or '(empty)'}: the client is to read it;"
            f" write 1 to {LONGEST_REASON} printable characters"
        )

    async def change() -> tuple[Order, Order, bool]:
        async with store_of(settings) as store:
            seen = order = await _find(store, stamp)
            _may(order, "cancelled", OPEN_ORDERS - {OrderState.submitting})
            withdrawn = False
            if not local and (order.ticket or order.state is not OrderState.intended):
                async with _issuer_of(settings, order) as issuer:
                    if not isinstance(issuer, Ordering):
                        raise OperatorError(
                            f"issuer {order.issuer}: takes no orders now; cancel order {order.ticket or order.stamp}"
                            " there if it has one, and then here with --local"
                        )
                    order = await _move(store, order, OrderState.held, "is being cancelled; if it stays so, try again")
                    order, withdrawn = await _withdraw(store, seen, order, issuer)
            what = "cancelled and withdrawn" if withdrawn else "cancelled here only" if local else "cancelled"
            changes = {
                "text": text,
                "fail_info": PKIFailureInfo.notAuthorized.name,
                "note": _noted(seen, what),
            }
            return seen, await _move(store, order, OrderState.failed, what, **changes), withdrawn

    with faults():
        settings = Settings.load(path)
        seen, order, withdrawn = asyncio.run(change())
    at = f"{plain(order.issuer)} as {plain(order.ticket)}"
    if withdrawn:
        where = f" It has been withdrawn from {at}."
    elif order.ticket:
        where = f" It is still at {at}: cancel it there."
    elif seen.state is not OrderState.intended:
        where = f" Should it turn up at {plain(order.issuer)} later, cancel it there."
    else:
        where = ""
    _done(order, f"{order.stamp} is cancelled; the client is told: {text}.{where}", json=json, withdrawn=withdrawn)


def approve(path: Path, stamp: str, *, json: bool) -> None:
    """Approve an order at its issuer, where it offers that."""

    async def change() -> Order:
        async with store_of(settings) as store:
            order = await _find(store, stamp)
            _may(order, "approved", {OrderState.ordered})
            async with _issuer_of(settings, order) as issuer:
                if not isinstance(issuer, Approving):
                    raise OperatorError(
                        f"issuer {order.issuer}: nothing can be approved there from here;"
                        f" approve order {plain(order.ticket)} at the issuer itself"
                    )
                try:
                    await issuer.approve(order)
                except (OrderRefused, OrderNotDone, OrderUnknown) as error:
                    raise OperatorError(f"order {order.stamp} is not approved: {_why(error)}") from None
            latest = await _find(store, order.stamp)
            if latest.state is OrderState.ordered:
                noted = replace(latest, due=now(), note=_noted(latest, "approved"))
                try:
                    return await store.move_order(noted, seen=OrderState.ordered)
                except OrderMoved:  # the daemon has gone on with it already, which is what was wanted
                    return await _find(store, order.stamp)
            return latest

    with faults():
        settings = Settings.load(path)
        order = asyncio.run(change())
    _done(order, f"{order.stamp} is approved at {plain(order.issuer)} as {plain(order.ticket)}. {_NEXT}", json=json)


# What the commands share


async def _find(store: AdminStore, stamp: str) -> Order:
    """The order of a stamp, or of its beginning, with or without `cmpd-`. Raises OperatorError."""
    wanted = stamp.strip()
    found = None
    for beginning in dict.fromkeys((wanted, f"{PREFIX}{wanted.removeprefix(PREFIX)}")):
        if found is None and wanted.removeprefix(PREFIX):
            found = await store.order_of(beginning)
    if found is None:
        raise OperatorError(
            f"order {plain(stamp) or '(empty)'}: there is none, or more than one that begins so;"
            " see `cmpd order list --all`"
        )
    return found


def _may(order: Order, done: str, states: frozenset[OrderState] | set[OrderState]) -> None:
    """Raise OperatorError when an order is in no state in which it may be changed so."""
    if order.state in states:
        return
    match order.state:
        case OrderState.issued:
            why = f"its certificate has been issued; see `cmpd cert show {order.serial or 0:x}`"
        case OrderState.failed:
            why = f"it has failed: {order.text or order.private or 'cancelled'}; the client must begin anew"
        case OrderState.submitting:
            why = f"it is just being submitted; wait until it is ordered or unknown, at most {LOST_SECONDS:.0f} seconds"
        case OrderState.intended:
            why = "it waits to be submitted, and has not been"
        case OrderState.unknown:
            why = "nobody knows whether the issuer has it; adopt it first"
        case OrderState.ordered:
            why = f"the issuer has it as {order.ticket}; if that is wrong, cancel it with --local"
        case OrderState.held:
            why = "it is held; release it first"
    raise OperatorError(f"order {order.stamp}: cannot be {done}: {plain(why)}")


def _is_placed(order: Order) -> bool:
    """Whether the issuer has it; the ticket of one that is unknown only says where to look for it."""
    return bool(order.ticket) and order.state is not OrderState.unknown


def _moved(order: Order) -> OperatorError:
    return OperatorError(
        f"order {order.stamp}: somebody else has moved it meanwhile, and nothing was changed;"
        f" see `cmpd order show {order.stamp}`, and try again"
    )


async def _move(store: AdminStore, order: Order, state: OrderState, what: str, **changes: Any) -> Order:
    """Keep an order in its new state, due now, and say in it what was done. Raises OperatorError when it has moved."""
    at = now()
    usual: dict[str, Any] = {"updated": at, "due": at, "attempts": 0, "note": _noted(order, what)}
    try:
        return await store.move_order(replace(order, state=state, **usual | changes), seen=order.state)
    except OrderMoved:
        raise _moved(order) from None


def _noted(order: Order, what: str) -> str:
    """What was done, by whom and when, before what was done and known before."""
    before = f"; before, {order.state.value}: {order.private}" if order.private else f"; before, {order.state.value}"
    earlier = f"; {order.note}" if order.note else ""
    return f"{what} (by {who()} at {time_text(now())}){before}{earlier}"[:LONGEST_NOTE]


@asynccontextmanager
async def _issuer_of(settings: Settings, order: Order) -> AsyncIterator[Issuer]:
    """The order's issuer, for one command. Raises OperatorError, IssuerConfigError."""
    if order.issuer not in settings.issuers:
        raise OperatorError(
            f"order {order.stamp}: its issuer {order.issuer} is not configured in {settings.path};"
            " configure it again, or cancel the order with --local"
        )
    async with issuer_of(settings, order.issuer) as issuer:
        yield issuer


async def _withdraw(store: AdminStore, seen: Order, held: Order, issuer: Ordering) -> tuple[Order, bool]:
    """Withdraw an order from its issuer, if that has it; it is `held` for that, and was `seen` before.

    Raises OperatorError when the issuer does not do it; the daemon sees to the order again then, as before.
    """
    try:
        if not held.ticket or seen.state is OrderState.unknown:  # then what is there says where to look, no more
            known = {ticket for _, ticket in await store.tickets(held.issuer)}
            found = (await issuer.reconcile([held], known)).get(held.stamp)
            if found is None:
                return held, False
            if isinstance(found, OrderRefused | OrderUnknown):
                raise found
            held = replace(held, ticket=found.ticket)
        await issuer.withdraw(held)
    except (OrderRefused, OrderNotDone, OrderUnknown, IssuerUnavailable, IssuerFailure) as error:
        was_unknown = seen.state is OrderState.unknown
        back = OrderState.ordered if was_unknown and held.ticket != seen.ticket else seen.state
        await _move(store, held, back, "", note=_noted(seen, f"not cancelled: {_why(error)}"))
        raise OperatorError(
            f"order {seen.stamp} is not cancelled, for the issuer does not withdraw it: {_why(error)};"
            " try again, or see to it at the issuer and cancel it here with --local"
        ) from None
    return held, True


def _why(error: Exception) -> str:
    private = error.private if isinstance(error, OrderRefused) else ""
    return plain(f"{error} ({private})" if private else str(error))


def _confirm_release(order: Order) -> None:
    """Have the operator type `release`. Raises OperatorError for anything else."""
    sys.stderr.write(
        f"cmpd: {plain(order.issuer)} may have order {order.stamp} already ({plain(_subject(order.approved))}).\n"
        "cmpd: Submitted again, the certificate may be bought and paid for a second time. Look for it at the issuer\n"
        f"cmpd: first; if it is there: cmpd order adopt {order.stamp} TICKET\n"
        "To submit it again type `release`: "
    )
    if not confirm("release"):
        raise OperatorError(f"order {order.stamp} is not released; type `release` when asked, or write --yes")


def _done(order: Order, text: str, *, json: bool, **more: Any) -> None:
    if json:
        write_json(public(order) | more)
    else:
        write(text)


# What is said of an order


def can(order: Order) -> list[tuple[str, str]]:
    """What an operator can do about an order now: commands, and what comes of each."""
    it = order.stamp
    again = (f"cmpd order release {it}", "submit it again; it may be bought a second time, so look at the issuer first")
    look = (f"cmpd order release {it}", "have it looked at again at the issuer")
    adopted = (f"cmpd order adopt {it} TICKET", "it is at the issuer, under this name")
    there = (f"cmpd order cancel {it}", "withdraw it from the issuer, and tell the client")
    here = (f"cmpd order cancel {it}", "do not submit it, and tell the client")
    approved = (f"cmpd order approve {it}", "approve it, where the issuer lets us")
    match order.state:
        case OrderState.intended:
            return [(adopted[0], "it is at the issuer already, under this name"), here]
        case OrderState.submitting:
            return [(f"cmpd order show {it}", f"wait: after at most {LOST_SECONDS:.0f} s it is ordered or unknown")]
        case OrderState.unknown:
            return [adopted, again, there]
        case OrderState.ordered:
            return [approved, there]
        case OrderState.held:
            return [look if order.ticket else again, adopted, there]
        case OrderState.issued:
            return [(f"cmpd cert show {order.serial or 0:x}", "show its certificate; the order is done")]
        case OrderState.failed:
            return []


def waits_for(order: Order) -> str:
    """What an order waits for, or what has become of it; for the operator."""
    match order.state:
        case OrderState.intended:
            return f"to be submitted{f': {order.private}' if order.private else ''}"
        case OrderState.submitting:
            return "the issuer's answer"
        case OrderState.unknown:
            return f"being found at the issuer{f': {order.private}' if order.private else ''}"
        case OrderState.ordered:
            return order.text or order.private or "the issuer"
        case OrderState.held:
            return f"an operator{f': {order.private}' if order.private else ''}"
        case OrderState.issued:
            return f"nothing: issued as {order.serial or 0:x}"
        case OrderState.failed:
            return f"nothing: {order.text or order.private or 'failed'}"


def age_text(age: timedelta) -> str:
    """How long ago, in its largest unit and the next: `3d 4h`, `12m 5s`."""
    left = max(int(age.total_seconds()), 0)
    parts = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        number, left = divmod(left, size)
        parts.append((number, unit))
    while len(parts) > 1 and not parts[0][0]:
        parts.pop(0)
    return " ".join(f"{number}{unit}" for at, (number, unit) in enumerate(parts[:2]) if number or not at)


def public(order: Order) -> dict[str, Any]:
    """An order as it is printed in lists."""
    return {
        "stamp": order.stamp,
        "state": order.state.value,
        "issuer": order.issuer,
        "ticket": order.ticket or None,
        "profile": order.approved.profile,
        "seat": order.approved.seat,
        "subject": _subject(order.approved),
        "created": time_text(order.created),
        "updated": time_text(order.updated),
        "due": time_text(order.due) if order.state in OPEN_ORDERS - {OrderState.held} else None,
        "waits_for": waits_for(order),
        "text": order.text,
        "private": order.private,
        "note": order.note,
        "serial": None if order.serial is None else f"{order.serial:x}",
        "transaction_id": order.transaction_id.hex(),
    }


def _everything(order: Order, transaction: Transaction | None) -> dict[str, Any]:
    """All of an order, with what was approved and who waits for it."""
    return public(order) | {
        "cert_req_id": order.cert_req_id,
        "implicit_confirm": order.implicit,
        "attempts": order.attempts,
        "fail_info": order.fail_info or None,
        "chain": [asn1.name_text(certificate.subject(one)) for one in order.chain],
        "approved": _approved(order.approved),
        "history": _history(order),
        "transaction": None
        if transaction is None
        else {
            "operation": transaction.operation,
            "state": transaction.state.value,
            "credential": transaction.credential,
            "created": time_text(transaction.created),
            "confirm_by": time_text(transaction.confirm_by) or None,
        },
    }


def _history(order: Order) -> list[dict[str, str]]:
    """The states that are known: the first, and the one that it is in."""
    first = {"at": time_text(order.created), "state": OrderState.intended.value, "why": "asked for"}
    latest = {"at": time_text(order.updated), "state": order.state.value, "why": order.private or order.text}
    return [first] if order.state is OrderState.intended and order.updated == order.created else [first, latest]


def _approved(approved: Approved) -> dict[str, Any]:
    return {
        "subject": _subject(approved),
        "san": san_entries(approved),
        "key": public_key_text(asn1.parse(asn1.SubjectPublicKeyInfo, approved.spki)),
        "spki_sha256": sha256(approved.spki).hexdigest(),
        "not_before": time_text(approved.not_before),
        "not_after": time_text(approved.not_after),
        "extensions": _extensions(approved),
        "modified": list(approved.modified),
        "updates": None if approved.updates is None else f"{approved.updates:x}",
        "pkcs10": approved.request is not None,
    }


def _extensions(approved: Approved) -> list[object]:
    """The approved extensions, read as those of a certificate that has nothing else."""
    extensions = [
        der.sequence(der.oid(one.oid), *([der.boolean(True)] if one.critical else []), der.octet_string(one.value))
        for one in approved.extensions
    ]
    return extensions_tree(der.sequence(der.sequence(der.explicit(3, der.sequence(*extensions))))) if extensions else []


def _subject(approved: Approved) -> str:
    return asn1.name_text(approved.subject) or "(empty)"


def _transaction_text(transaction: Transaction | None, order: Order) -> str:
    if transaction is None:
        return "is not kept any more"
    return (
        f"{transaction.operation} of {transaction.credential}, {transaction.state.value}, certReqId {order.cert_req_id}"
    )
