"""Issuers: whoever puts the signature under a certificate. One package or file each, found by entry point.

An issuer is a class with `from_config(table, base, url, name)` that returns a `cmpd.ports.Issuer`, registered in the
entry-point group `cmpd.issuers` under the name that `[issuers.NAME] type` gives. It raises `IssuerConfigError` when
its keys do not make a working issuer.
"""

import difflib
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from cmpd.ports import Issuer

GROUP = "cmpd.issuers"
"""The entry-point group."""

Model = TypeVar("Model", bound=BaseModel)


class IssuerConfigError(Exception):
    """The keys of an issuer, or the files they name, cannot be used: one line per fault, `key: reason; what to do`."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def load(name: str, table: Mapping[str, Any], *, base: Path, url: str) -> Issuer:
    """Make the issuer that `[issuers.NAME]` describes.

    `table` has the section's keys with `type`; relative paths in it start at `base`; `url` is how clients reach the
    server. Raises `IssuerConfigError`, each fault beginning with `issuers.NAME`.
    """
    kind = table.get("type")
    known = {point.name: point for point in entry_points(group=GROUP)}
    if not isinstance(kind, str) or kind not in known:
        raise IssuerConfigError(f"issuers.{name}.type: {_unknown_type(kind, sorted(known))}")
    point = known[kind]
    try:
        factory = point.load()
    except Exception as error:  # whatever a foreign package raises while it is imported
        raise IssuerConfigError(
            f"issuers.{name}.type: {kind!r} ({_origin(point)}) cannot be imported: {error}; repair that package"
        ) from error
    try:
        issuer = factory.from_config(dict(table), base=base, url=url, name=name)
    except IssuerConfigError as error:
        raise IssuerConfigError(*(f"issuers.{name}.{fault}" for fault in error.faults)) from None
    if not isinstance(issuer, Issuer):
        raise IssuerConfigError(
            f"issuers.{name}.type: {kind!r} ({_origin(point)}) made something without issue() and chain(); "
            "repair that package"
        )
    return issuer


def validate(model: type[Model], table: Mapping[str, Any], *, base: Path) -> Model:
    """Check a section's keys against the issuer's model; validators find `base` in their context.

    Raises `IssuerConfigError` with one fault for every key that is wrong; no value is repeated in it.
    """
    try:
        return model.model_validate(dict(table), context={"base": base})
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        raise IssuerConfigError(
            *(_fault(model, fault["type"], fault["loc"], fault["msg"]) for fault in faults)
        ) from None


def _fault(model: type[BaseModel], kind: str, location: tuple[int | str, ...], text: str) -> str:
    key = ".".join(str(part) for part in location)
    if kind == "missing":
        return f"{key}: missing; set it"
    if kind == "extra_forbidden":
        known = sorted(model.model_fields)
        near = difflib.get_close_matches(key, known, n=1)
        return f"{key}: unknown key; {f'did you mean {near[0]}?' if near else 'known here: ' + ', '.join(known)}"
    reason = text.removeprefix("Value error, ")
    return f"{key}: {reason}" if "; " in reason else f"{key}: {reason[:1].lower()}{reason[1:]}; correct the value"


def _unknown_type(kind: object, known: Sequence[str]) -> str:
    if not known:
        return f"no issuer is registered under the entry-point group {GROUP}; install cmpd as a package (pip install)"
    what = "missing" if kind is None else f"{kind!r} is no issuer that is installed"
    near = difflib.get_close_matches(str(kind), known, n=1)
    return f"{what}; {f'did you mean {near[0]}? ' if near else ''}there are: {', '.join(known)}"


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value
