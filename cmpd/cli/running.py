"""`cmpd reload`, and what else is asked of the daemon that runs: over its admin listener."""

import http.client
import json as json_text
from pathlib import Path
from typing import Any

from cmpd.admin import COMMAND_HEADER, COMMAND_HOST
from cmpd.cli.operation import faults, reachable
from cmpd.cli.output import OperatorError, plain, write, write_json
from cmpd.settings import Settings

SECONDS = 120.0
"""How long a reload may take."""


class NotRunning(Exception):
    """No daemon answers on the admin listener."""


def reload(path: Path, *, json: bool) -> None:
    """Have it load its configuration anew; a fault for each line that keeps it from that."""
    with faults():
        settings = Settings.load(path)
    try:
        outcome = ask(settings, "POST", "/reload")
    except NotRunning as error:
        raise OperatorError(f"not reloaded: {error}; `cmpd check` tells whether a start would succeed") from None
    wrong = [str(one) for one in outcome.get("faults", ())]
    if json:
        write_json(outcome)
    if wrong:
        raise OperatorError("\n".join(["not reloaded, the old configuration stays:", *map(plain, wrong)]))
    if not json:
        write(f"Reloaded; profiles: {plain(', '.join(outcome['profiles']))}.")
        for key in outcome["at_next_start"]:
            write(f"A change of {plain(key)} takes effect at the next start only.")


def ask(settings: Settings, method: str, target: str) -> dict[str, Any]:
    """Ask the running daemon. Raises NotRunning, OperatorError."""
    at = reachable(settings.admin.listen)
    connection = http.client.HTTPConnection(at.host, at.port, timeout=SECONDS)
    try:
        connection.request(method, target, headers={"Host": COMMAND_HOST, COMMAND_HEADER: "1"})
        answer = connection.getresponse()
        status, body = answer.status, answer.read(1 << 24)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NotRunning(f"{settings.path}: admin.listen: {at}: no daemon answers ({reason.lower()})") from None
    finally:
        connection.close()
    try:
        found = json_text.loads(body) if status in {200, 409} else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        shown = plain(body[:200].decode(errors="replace").strip())
        raise OperatorError(f"{settings.path}: admin.listen: {at}: answers with {status} {shown}; is it a cmpd?")
    return found
