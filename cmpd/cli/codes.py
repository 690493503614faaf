"""`cmpd code`: enrollment codes are made, listed and revoked in the store, beside a running daemon."""

import asyncio
import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

from cmpd.cli.operation import faults, now, profiles_of, store_of, url_of
from cmpd.cli.output import OperatorError, plain, time_text, write, write_json, write_table
from cmpd.exchange import EnrollmentCode
from cmpd.profile import parse_duration
from cmpd.settings import Settings
from cmpd.store import ReferenceTaken

ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
"""32 characters that are not mistaken for one another, 5 bits each."""
_SECRET_GROUPS = 7
_REFERENCE_SIZE = 10


def new_secret() -> str:
    """A secret of 140 random bits: seven groups of four characters; the hyphens belong to it."""
    return "-".join("".join(secrets.choice(ALPHABET) for _ in range(4)) for _ in range(_SECRET_GROUPS))


def new_reference() -> str:
    """A reference that no other code has, as good as certainly."""
    return "".join(secrets.choice(ALPHABET) for _ in range(_REFERENCE_SIZE))


def create(path: Path, *, profile: str, uses: str, expires: str, reference: str | None, json: bool) -> None:
    """Make a code and print it with its secret, once."""
    with faults():
        settings = Settings.load(path)
        code, secret, url = asyncio.run(
            make(settings, profile=profile, uses=_uses(uses), expires=_expires(expires), reference=reference)
        )
    if json:
        write_json(_public(code) | {"secret": secret, "url": url})
        return
    write(
        f"reference  {code.reference}",
        f"secret     {secret}",
        f"url        {url}",
        f"good for   {_uses_text(code)}, {f'until {time_text(code.expires)}' if code.expires else 'for ever'}",
        "The secret is not shown again.",
    )


async def make(
    settings: Settings, *, profile: str, uses: int | None, expires: datetime | None, reference: str | None
) -> tuple[EnrollmentCode, str, str]:
    """Keep a new code; the code, its secret and the URL to use it at. Raises OperatorError."""
    known = profiles_of(settings)
    if profile not in known:
        raise OperatorError(
            f"--profile {plain(profile)}: no such profile; there are: {', '.join(sorted(known)) or 'none'}"
        )
    if known[profile].authentication_method != "enrollment_code":
        raise OperatorError(
            f'--profile {profile}: takes no enrollment codes; its authentication_method is "tls_certificate"'
        )
    if reference is None:
        reference = new_reference()
    elif not (1 <= len(reference) <= 64 and reference.isprintable()):  # ub-common-name, RFC 5280 appendix A.1
        raise OperatorError("--reference: not usable; write 1 to 64 printable characters")
    secret = new_secret()
    async with store_of(settings) as store:
        try:
            code = await store.create_code(profile, reference, secret.encode(), uses, expires, now())
        except ReferenceTaken:
            raise OperatorError(
                f"--reference {reference}: profile {profile} has a code of this reference; choose another"
            ) from None
    return code, secret, url_of(settings, known[profile])


def show_all(path: Path, *, profile: str | None, json: bool) -> None:
    """Print the codes, oldest first."""

    async def read() -> list[EnrollmentCode]:
        async with store_of(Settings.load(path)) as store:
            return await store.codes(profile)

    with faults():
        codes = asyncio.run(read())
    if json:
        write_json([_public(code) for code in codes])
        return
    write_table(
        ("PROFILE", "REFERENCE", "USED", "EXPIRES", "STATE"),
        (
            (
                code.profile,
                plain(code.reference),
                f"{code.used}/{'∞' if code.uses is None else code.uses}",
                time_text(code.expires) or "never",
                _state(code),
            )
            for code in codes
        ),
        empty="There are no enrollment codes.",
    )


def revoke(path: Path, *, profile: str, reference: str, json: bool) -> None:
    """Revoke a code; a fault when there is none to revoke."""

    async def change() -> bool:
        async with store_of(Settings.load(path)) as store:
            return await store.revoke_code(profile, reference, now())

    with faults():
        if not asyncio.run(change()):
            raise OperatorError(
                f"profile {plain(profile)} has no code {plain(reference)} that is not revoked; see `cmpd code list`"
            )
    if json:
        write_json({"profile": profile, "reference": reference, "revoked": True})
    else:
        write(f"{plain(reference)} of profile {plain(profile)} is revoked.")


def _uses(text: str) -> int | None:
    if text == "unlimited":
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:12]) <= 1_000_000_000):
        raise OperatorError(f"--uses {plain(text)}: not a count; write 1 or more, or `unlimited`")
    return int(text)


def _expires(text: str) -> datetime | None:
    if text == "never":
        return None
    try:
        moment = now() + parse_duration(text)
    except (ValueError, OverflowError):
        raise OperatorError(
            f"--expires {plain(text)}: not a duration; write 90s, 10m, 12h, 7d, 2y or `never`"
        ) from None
    return moment


def _uses_text(code: EnrollmentCode) -> str:
    if code.uses is None:
        return "any number of certificates"
    return "one certificate" if code.uses == 1 else f"{code.uses} certificates"


def _state(code: EnrollmentCode) -> str:
    refusal = code.refusal(now())
    if refusal is None:
        return "usable"
    return "revoked" if code.revoked else "used up" if "used up" in refusal else "expired"


def _public(code: EnrollmentCode) -> dict[str, Any]:
    return {
        "profile": code.profile,
        "reference": code.reference,
        "uses": code.uses,
        "used": code.used,
        "created": time_text(code.created),
        "expires": time_text(code.expires) or None,
        "state": _state(code),
    }
