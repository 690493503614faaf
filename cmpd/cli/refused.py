"""`cmpd refusals`: the last requests that were refused, from the store and from the memory of the running daemon."""

import asyncio
import base64
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from cmpd.cli.operation import faults, store_of
from cmpd.cli.output import OperatorError, plain, write, write_json, write_table
from cmpd.cli.running import NotRunning, ask
from cmpd.daemon import public_refusal
from cmpd.exchange import Refusal
from cmpd.settings import Settings


def show_all(path: Path, *, profile: str | None, limit: int, json: bool) -> None:
    """Print the last ones, newest first."""

    async def read() -> list[Refusal]:
        async with store_of(settings) as store:
            return await store.refusals(limit, profile)

    with faults():
        settings = Settings.load(path)
        stored = asyncio.run(read())
        remembered, missing = _remembered(settings)
    found = [public_refusal(one) for one in stored]
    found += [one for one in remembered if profile in {None, one["profile"]}]
    found = sorted(found, key=lambda one: str(one["at"]), reverse=True)[:limit]
    if json:
        write_json(found)
        return
    write_table(
        ("ID", "AT", "PROFILE", "OPERATION", "WHO", "FAILINFO", "REASON"),
        (
            (
                str(one["id"] or one["transaction_id"] or "-"),
                one["at"],
                plain(one["profile"] or "-"),
                plain(one["operation"]),
                plain(one["credential"] or one["address"]),
                plain(one["fail_info"]),
                plain(one["reason"]),
            )
            for one in found
        ),
        empty="No request has been refused.",
    )
    if missing:
        sys.stderr.write(f"cmpd: without those of senders that could not be authenticated: {plain(missing)}\n")


def show(path: Path, which: str, *, json: bool) -> None:
    """Print one refusal with the rules that were held against the request."""

    async def read() -> Refusal | None:
        async with store_of(settings) as store:
            if which.isdecimal() and len(which) < 19:
                return await store.refusal_of(int(which))
            numbers = [one.id for one in await store.refusals(1_000_000) if one.transaction_id == which.lower()]
            return await store.refusal_of(numbers[0]) if numbers and numbers[0] is not None else None

    with faults():
        settings = Settings.load(path)
        stored = asyncio.run(read())
        if stored is not None:
            found, request = public_refusal(stored), stored.request
        else:
            remembered = [one for one in _remembered(settings)[0] if one["transaction_id"] == which.lower()]
            if not remembered:
                raise OperatorError(f"{plain(which)}: no such refusal; see `cmpd refusals`")
            found, request = remembered[0], None
    if json:
        write_json(found | {"request": None if request is None else base64.b64encode(request).decode()})
        return
    findings = found.pop("findings")
    write(*(f"{key:<14} {plain(str(value))}" for key, value in found.items() if value not in {None, ""}))
    write_findings(findings)
    if request is not None:
        write("", "The request, for `cmpd show -` and `cmpd explain -`:", base64.b64encode(request).decode())


def write_findings(findings: list[dict[str, Any]]) -> None:
    """Print the rules that were held against a request, one a line."""
    if findings:
        write("", "rules")
    for one in findings:
        rule = f" ({one['rule']})"
        text = one["text"] if one["text"].endswith(rule) else one["text"] + rule
        write(f"  {'ok  ' if one['ok'] else 'FAIL'}  {plain(text)}")


def _remembered(settings: Settings) -> tuple[list[dict[str, Any]], str]:
    """What the running daemon has in memory; and why nothing can be had of it."""
    try:
        return list(ask(settings, "GET", f"/refusals?{urlencode({'limit': 1000})}")["refusals"]), ""
    except (NotRunning, OperatorError) as error:
        return [], str(error)
