"""Base templates: what a profile starts from, and how far it may go from there.

A template is a TOML file of the package with `defaults` (a profile, as an operator would write it), `variants`
(further defaults when a key has a value) and `limits` (what a profile may make of a key, each with the rule behind
it). A profile's own values win over the template's, table by table, attribute by attribute.
"""

import copy
import functools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel, ConfigDict

from cmpd.profile.config import ProfileConfig
from cmpd.profile.vocabulary import EXTENDED_KEY_USAGES, KeyType, ProfileError, parse_duration

_FOLDER: Final = "data", "templates"
_PER_KEY_TYPE: Final = ("required_usages", "optional_usages")
_SHOWN: Final = 80
Table = dict[str, Any]


class Limit(BaseModel):
    """What a profile may make of one key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    rule: str
    """Why, with the clause where there is one."""
    when: dict[str, Any] = {}
    """Keys and the value, or list of values, that they must have for the limit to hold."""
    locked: bool = False
    """The template's value and no other."""
    required: bool = False
    """There must be a value."""
    min: str | int | None = None
    """The least number or duration."""
    max: str | int | None = None
    """The greatest number or duration."""
    one_of: list[Any] | None = None
    within: list[Any] | None = None
    """Of a list: nothing but these. Of a table of lists: of each of them."""
    contains: list[Any] | None = None
    """Of a list: all of these."""
    without: list[Any] | None = None
    """Of a list: none of these."""
    keys: list[str] | None = None
    """Of a table: nothing but these; what has include = "no" does not count."""


class Variant(BaseModel):
    """Further defaults when keys have certain values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    when: dict[str, Any]
    defaults: Table


class Template(BaseModel):
    """A template as it is in its file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """As in `base_template`."""
    text: str
    """The whole file, with its comments."""
    title: str
    """What it is for, in a line."""
    seat: str
    """Who a certificate of it is for: user, device or server."""
    defaults: Table
    variants: tuple[Variant, ...] = ()
    limits: tuple[Limit, ...] = ()


def templates() -> tuple[str, ...]:
    """The names of all templates."""
    return tuple(sorted(one.name.removesuffix(".toml") for one in _folder().iterdir() if one.name.endswith(".toml")))


@functools.cache
def template(name: str) -> Template:
    """Read a template. Raises KeyError when there is none of the name."""
    if name not in templates():
        raise KeyError(name)
    text = (_folder() / f"{name}.toml").read_text(encoding="utf-8")
    return Template(name=name, text=text, **tomllib.loads(text))


def _folder() -> Any:
    folder = resources.files("cmpd")
    for part in _FOLDER:
        folder /= part
    return folder


@dataclass(slots=True)
class Merged:
    """A profile's table with what it has from its template."""

    table: Table
    template: Template | None = None
    from_template: dict[tuple[str, ...], str] = field(default_factory=dict)
    """Where a value comes from, by its path, for those that are not the file's."""
    base: Table = field(default_factory=dict)
    """The template's own values, those of the variants that hold among them."""

    def traced(self, faults: Sequence[str]) -> list[str]:
        """Say of a fault that it is about a value of the template's."""
        known = {_dotted(path) for path in self.from_template}
        return [
            f"{fault} (the value is from template {self.template.name})"
            if self.template and fault.split(": ")[1] in known
            else fault
            for fault in faults
        ]

    def forbidden(self, path: Path) -> list[str]:
        """What the file makes of the template that the template does not allow, one line each."""
        if self.template is None:
            return []
        faults = []
        for limit in self.template.limits:
            if not _holds(limit.when, self.table):
                continue
            value = _get(self.table, limit.key)
            fault = _broken(limit, value, _get(self.base, limit.key))
            if fault is not None:
                shown = repr(value)[:_SHOWN] if value is not None else ""
                faults.append(
                    f"{path}: {limit.key}: {shown} {fault}: {limit.rule} (template {self.template.name})".replace(
                        ":  ", ": "
                    )
                )
        return faults


def merge(path: Path, table: Mapping[str, Any]) -> Merged:
    """Merge a file's table with its base template. Raises ProfileError when there is no such template."""
    name = table.get("base_template")
    if name is None:
        return Merged(copy.deepcopy(dict(table)))
    if not isinstance(name, str) or name not in templates():
        raise ProfileError([f"{path}: base_template: {name!r} is not one of {', '.join(templates())}"])
    base = template(name)
    defaults = copy.deepcopy(base.defaults)
    sources = {place: f"template {name}" for place, _ in leaves(defaults)}
    for variant in base.variants:
        if _holds(variant.when, _over(defaults, table)):
            defaults = _over(defaults, variant.defaults)
            cause = ", ".join(f"{key} = {_get(_over(defaults, table), key)}" for key in variant.when)
            sources |= {place: f"template {name} ({cause})" for place, _ in leaves(variant.defaults)}
    merged = _over(defaults, table)
    _prune(merged, table)
    own = {place for place, _ in leaves(table)}
    left = {place: source for place, source in sources.items() if place not in own and _has(merged, place)}
    return Merged(merged, base, left, defaults)


def effective(path: Path) -> list[tuple[str, Any, str]]:
    """Every key that takes effect in a profile file, its value as TOML has it, and where it is from.

    The last is `template NAME` (with the key and value that the template made it depend on), `file` or `default`.
    Raises ProfileError.
    """
    from cmpd.profile.profile import Profile, read_file  # noqa: PLC0415  the profile is made of this module

    table = read_file(path)
    Profile.from_config(path.stem, table, path.parent)
    merged = merge(path, table)
    config = ProfileConfig.model_validate(merged.table)
    rows = []
    bound: dict[str, str] = {}
    if config.organization is not None:
        for key, attribute in (("name", "organization_name"), ("identifier", "organization_identifier")):
            value = getattr(config.organization, key)
            listed = getattr(config.subject, attribute)
            if value is not None and (key == "name" if listed is None else listed.include != "no"):
                keys = {"include": "required", "source": "fixed", "value": value}
                bound |= {f"subject.{attribute}.{key}": one for key, one in keys.items()}
    for place, value in leaves(config.model_dump(mode="json")):
        given = _find(merged.table, place)
        if given is not None:
            place, value = given, _at(merged.table, given)  # noqa: PLW2901  as it is written
            source = merged.from_template.get(given) or "file"
        elif value is None or (isinstance(value, list | dict) and not value):
            continue
        else:
            source = "default"
        key = _dotted(place)
        if key not in bound:
            rows.append((key, value, source))
    rows.extend((key, value, "file (organization)") for key, value in bound.items())
    return rows


def _find(table: Table, place: tuple[str, ...]) -> tuple[str, ...] | None:
    """Where a value of the checked profile is in the table that it was made from."""
    if _has(table, place):
        return place
    if place[-1:] == ("all",) and _has(table, place[:-1]):
        return place[:-1]
    return None


def _at(table: Any, place: tuple[str, ...]) -> Any:
    for part in place:
        table = table[part]
    return table


def leaves(table: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The values of a table with their paths; a table without keys is a value."""
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*above, key))
        else:
            yield (*above, key), value


def _dotted(place: tuple[str, ...]) -> str:
    return ".".join(part if "." not in part else f'"{part}"' for part in place)


def _has(table: Any, place: tuple[str, ...]) -> bool:
    for part in place:
        if not isinstance(table, Mapping) or part not in table:
            return False
        table = table[part]
    return True


def _get(table: Any, key: str) -> Any:
    """The value of a dotted key; None when there is none."""
    for part in key.split("."):
        if not isinstance(table, Mapping):
            return None
        table = table.get(part)
    return table


def _over(below: Mapping[str, Any], above: Mapping[str, Any], place: tuple[str, ...] = ()) -> Table:
    """Lay one table over another."""
    merged = dict(copy.deepcopy(below))
    if len(place) == 2 and place[0] in {"subject", "san"}:
        if above.get("include") == "no":
            merged = {}
        elif "source" in above:  # what went with the other source does not go with this one
            merged = {key: value for key, value in merged.items() if key not in {"value", "pattern"}}
            if merged.get("include") == "optional":
                del merged["include"]
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            merged[key] = _over(old, value, (*place, key))
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _prune(merged: Table, own: Mapping[str, Any]) -> None:
    """Take out the template's usages for key types that the profile does not allow."""
    allowed = _get(merged, "key.allowed_types")
    if not isinstance(allowed, list):
        return
    for section in ("key_usage", "extended_key_usage"):
        for key in _PER_KEY_TYPE:
            lists = _get(merged, f"extensions.{section}.{key}")
            written = _get(own, f"extensions.{section}.{key}")
            if isinstance(lists, dict):
                for type_ in set(lists).intersection(get_args(KeyType)).difference(allowed):
                    if not isinstance(written, Mapping) or type_ not in written:
                        del lists[type_]


def _holds(when: Mapping[str, Any], table: Mapping[str, Any]) -> bool:
    for key, wanted in when.items():
        value = _get(table, key)
        if value not in wanted if isinstance(wanted, list) else value != wanted:
            return False
    return True


def _broken(limit: Limit, value: Any, base: Any) -> str | None:
    """What a value breaks of a limit; None when it keeps it. A value of the wrong type has been refused before."""
    if limit.required and value in (None, "", [], {}):
        return "is required"
    if limit.locked and value != base:
        return f"cannot be changed from {base!r}" if base is not None else "cannot be set"
    if value is None:
        return None
    if limit.one_of is not None and value not in limit.one_of:
        return f"is not one of {_words(limit.one_of)}"
    if limit.min is not None and _number(value) < _number(limit.min):
        return f"is less than {limit.min}"
    if limit.max is not None and _number(value) > _number(limit.max):
        return f"is more than {limit.max}"
    if limit.within is not None or limit.contains is not None or limit.without is not None:
        for part in value.values() if isinstance(value, Mapping) else [value]:
            have = {_plain(one) for one in part}
            extra = sorted(have.difference(map(_plain, limit.within))) if limit.within is not None else []
            if extra:
                return f"has {_words(extra)}, and allowed are {_words(limit.within or []) or 'none'}"
            wrong = sorted(have.intersection(map(_plain, limit.without or [])))
            if wrong:
                return f"has {_words(wrong)}"
            missing = sorted(set(map(_plain, limit.contains or [])) - have)
            if missing:
                return f"lacks {_words(missing)}"
    if limit.keys is not None:
        extra = [
            key
            for key, inner in value.items()
            if key not in limit.keys and not (isinstance(inner, Mapping) and inner.get("include") == "no")
        ]
        if extra:
            return f"has {_words(extra)}, and allowed are {_words(limit.keys)}"
    return None


def _plain(value: Any) -> Any:
    return _PURPOSES.get(value, value)


_PURPOSES: Final = {oid: name for name, oid in EXTENDED_KEY_USAGES.items()}


def _number(value: Any) -> Any:
    return parse_duration(value).total_seconds() if isinstance(value, str) else value


def _words(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
