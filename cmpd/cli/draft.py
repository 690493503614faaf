"""A profile file in the making: answers as text in, checks as those of loading, TOML with comments out."""

import copy
import json
import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from cmpd.cli.output import plain
from cmpd.cli.questions import ANY, Question
from cmpd.profile import Profile, ProfileConfig, ProfileError, template
from cmpd.profile.templates import Merged, leaves, merge

_HEADINGS: tuple[tuple[str, ...], ...] = (
    ("enrollment", "code"),
    ("enrollment", "client"),
    ("enrollment", "tls"),
    ("enrollment", "revocation"),
    ("enrollment", "vendor"),
    ("enrollment", "legacy"),
    ("extensions", "key_usage"),
    ("extensions", "extended_key_usage"),
    ("extensions", "authority_information_access"),
)
"""Tables that have a heading of their own; other tables of tables are written as dotted keys."""
_NAMED = {"subject", "san"}
"""Tables whose keys have tables of the same keys each."""
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_PART = re.compile(r'"([^"]*)"|([^."=]+)')
_OID = re.compile(r"[0-2](\.[0-9]+)+")
_WORDS = {"yes": True, "y": True, "true": True, "no": False, "n": False, "false": False}
_WIDTH = 118

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """What loading would refuse."""

    key: str
    """Dotted; empty when it is about the file."""
    text: str

    def __str__(self) -> str:
        return f"{self.key}: {self.text}" if self.key else self.text


class Draft:
    """The table of a profile file, filled answer by answer."""

    def __init__(self, path: Path, table: dict[str, Any]) -> None:
        self.path = path
        self.table = table

    # ------------------------------------------------------------------------------------------------- what it says

    def merged(self) -> Merged:
        """The table with what its template adds."""
        return merge(self.path, self.table)

    def inherited(self, key: str) -> Any:
        """What a key has when the file does not say it: the template's value, else the default."""
        parts = split(key)
        found = _get(self.merged().base, parts)
        return node(parts).get("default") if found is None else found

    def value(self, key: str) -> Any:
        """What a key has; None when its table is not there and need not be."""
        parts, table = split(key), self.merged().table
        found = _get(table, parts)
        if found is None and (parts[0] in table or node(parts[:1]).get("default", ...) is not None):
            return node(parts).get("default")
        return found

    def asks(self, question: Question) -> bool:
        """Whether there is something to ask, after the answers so far."""
        for key, wanted in question.when.items():
            value = self.value(key)
            found = set(value) if isinstance(value, list) else {value}
            if found <= {None} or (wanted != (ANY,) and not found.intersection(wanted)):
                return False
        return True

    def faults(self) -> list[Fault]:
        """Everything for which loading would refuse the file."""
        try:
            Profile.from_config(self.path.stem, copy.deepcopy(self.table), self.path.parent)
        except ProfileError as error:
            return [_fault(line.removeprefix(f"{self.path}: ")) for line in error.faults]
        return []

    # --------------------------------------------------------------------------------------------------- answering

    def attempt(self, question: Question, text: str) -> list[str]:
        """Take an answer; when it is wrong, say why and forget it."""
        if not text.isprintable():
            return ["has a character that does not print"]
        before, known = copy.deepcopy(self.table), self.faults()
        try:
            self._take(question, text)
            faults = [
                str(fault)
                for fault in self.faults()
                if concerns(question, fault) and not (question.repeats and fault in known)
            ]
        except ValueError as error:
            faults = [str(error)]
        except ProfileError as error:
            faults = [line.removeprefix(f"{self.path}: ") for line in error.faults]
        if faults:
            self.table = before
        return faults

    def choices(self, question: Question) -> list[str]:
        """What a question can be answered with, where that is one of a few words."""
        before = self.table
        about = node(split(question.key))
        words = ["yes", "no"] if about.get("type") == "boolean" else about.get("enum", [])
        words = [about["const"]] if "const" in about else words
        found = []
        for word in words:
            self.table = copy.deepcopy(before)
            if not self.attempt(question, str(word)):
                found.append(str(word))
        self.table = before
        return found

    def _take(self, question: Question, text: str) -> None:
        if not question.repeats:
            self.put(split(question.key), read(text, node(split(question.key))))
            return
        name, sign, value = text.partition("=")
        name, value = name.strip(), value.strip()
        if not sign or not name:
            raise ValueError(f"{text!r} is not NAME=VALUE")
        if question.key == "extensions.custom":
            self.put(split(question.key), [*_get(self.table, split(question.key), []), _extension(name, value)])
        elif question.key == "extensions.requested":
            self.put((*split(question.key), name), value)
        elif question.key in _NAMED:
            self._name(question.key, name, value)
        else:
            key = (*split(question.key), *split(name))
            self.put(key, read(value, node(key)))

    def _name(self, section: str, name: str, value: str) -> None:
        """Take `common_name=required`, `country_name=fixed:DE`, `email.max=3`, `1.3.6.1.4.1.5=optional`."""
        place: Key = ("other_name", name) if _OID.fullmatch(name) else split(name)
        kind, colon, fixed = value.partition(":")
        key = (section, *place)
        if not isinstance(node(key).get("properties"), dict):
            self.put(key, read(value, node(key)))
        elif colon and kind in {"fixed", "default"}:
            self.put((*key, "source"), kind)
            self.put((*key, "value"), read(fixed, node((*key, "value"))))
        else:
            self.put((*key, "include"), value)

    def put(self, key: Key, value: Any) -> None:
        """Set a key of the file."""
        table = self.table
        for part in key[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ValueError(f"{dotted(key)}: {part} is not a table")  # noqa: TRY004  it is the answer's fault
        table[key[-1]] = value

    # ----------------------------------------------------------------------------------------------------- writing

    def differences(self) -> dict[str, Any]:
        """The table without what the template says as well."""
        base = self.merged().base
        kept: dict[str, Any] = {}
        for key, value in leaves(self.table):
            bound = key[0] in _NAMED and "source" in _get(self.table, key[:2], {})
            if not bound and len(key) > 1 and _get(base, key) == value:
                continue
            table = kept
            for part in key[:-1]:
                table = table.setdefault(part, {})
            table[key[-1]] = value
        return kept

    def toml(self) -> str:
        """The file: what differs from the template as keys, what the template has as comments."""
        self.table = self.differences()
        merged = self.merged()
        rows: dict[Key, list[str]] = {}
        base = None if merged.template is None else merged.template.name
        own = dict(leaves(self.table))
        for key, value in sorted(leaves(merged.table), key=lambda row: _order(row[0])):
            heading = _heading(key)
            lines = rows.setdefault(heading, [])
            assignment = f"{dotted(key[len(heading) :])} = {literal(value)}"
            if key not in own:
                lines.append(f"# {assignment}")
                continue
            about = "" if key[0] in _NAMED else node(key).get("description", "")
            theirs = _get(merged.base, key)
            if theirs is not None:
                about = f"{about} Template: {literal(theirs)}."
            lines += comment(about)
            lines.append(assignment)
        title = self.table.get("description") or (merged.template.title if merged.template else "")
        text = comment(f"Profile {json.dumps(self.path.stem)}: {title}".removesuffix(": "))
        text.append("#")
        text += comment(
            f"Made by `cmpd profile new` from the template {base}. Only what differs from the template is set; a key "
            "that is commented out shows what the template has, and is switched on to change it. "
            f"`cmpd profile show {self.path.stem}` prints all that is in effect, and from where."
        )
        for heading, lines in rows.items():
            text.append("")
            if heading:
                text.append(f"[{dotted(heading)}]")
            text += lines
        return "\n".join(text) + "\n"


# --------------------------------------------------------------------------------------------------------- the schema


@cache
def _schema() -> dict[str, Any]:
    return ProfileConfig.model_json_schema()


def _resolved(found: Mapping[str, Any]) -> dict[str, Any]:
    """A part of the schema with its reference followed, and without the null of what may be left out."""
    around = {key: value for key, value in found.items() if key not in {"$ref", "anyOf"}}
    if "$ref" in found:
        return _resolved(_schema()["$defs"][found["$ref"].rpartition("/")[2]]) | around
    choices = [one for one in found.get("anyOf", ()) if one.get("type") != "null"]
    if len(choices) == 1:
        return _resolved(choices[0]) | around
    return around | ({"anyOf": choices} if choices else {})


def node(key: Key) -> dict[str, Any]:
    """What the schema says of a key: type, choices, description; empty when there is no such key."""
    found = _schema()
    for part in key:
        below = found.get("properties", {}).get(part, found.get("additionalProperties"))
        if not isinstance(below, dict):
            return {}
        found = _resolved(below)
    return found


def read(text: str, about: Mapping[str, Any]) -> Any:
    """An answer as a value of TOML. Raises ValueError."""
    text = text.strip()
    kinds = about.get("anyOf", [about])
    types = [kind.get("type") for kind in kinds]
    if text[:1] in ({'"'} if "string" in types and "array" not in types else {'"', "[", "{"}):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            raise ValueError(f"{text!r} is not TOML") from None
    if "array" in types and "string" not in types:
        if "object" in types and ":" in text:
            return {
                name.strip(): _list(rest) for name, _, rest in (part.partition(":") for part in text.split(";")) if name
            }
        return _list(text)
    if types == ["boolean"]:
        if text.lower() not in _WORDS:
            raise ValueError(f"{text!r} is neither yes nor no")
        return _WORDS[text.lower()]
    if "integer" in types:
        if text.isascii() and text.removeprefix("-").isdecimal() and len(text) < 19:
            return int(text)
        if types == ["integer"]:
            raise ValueError(f"{text!r} is not a number")
    if about.get("format") == "date":
        try:
            return date.fromisoformat(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a date such as 2027-12-31") from None
    return text


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def shown(value: Any) -> str:
    """A value as it would be answered."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value)) or "none"
    if isinstance(value, dict):
        return "; ".join(f"{key}: {shown(one)}" for key, one in value.items()) or "none"
    return "none" if value is None or value == "" else str(value)


def _extension(name: str, value: str) -> dict[str, Any]:
    """A custom extension out of OID=TYPE:VALUE or OID=der:HEX."""
    kind, colon, rest = value.partition(":")
    if not colon and kind != "null":
        raise ValueError(f"{value!r} is neither TYPE:VALUE nor der:HEX")
    if kind == "der":
        return {"oid": name, "der_hex": rest}
    if kind == "null":
        return {"oid": name, "type": kind}
    kinds = {"integer": {"type": "integer"}, "boolean": {"type": "boolean"}}
    return {"oid": name, "type": kind, "value": read(rest, kinds.get(kind, {}))}


# --------------------------------------------------------------------------------------------------------------- keys


def split(key: str) -> Key:
    """The parts of a dotted key. Raises ValueError."""
    parts = tuple(quoted or bare.strip() for quoted, bare in _PART.findall(key))
    if key and dotted(parts) != key.replace(" ", ""):
        raise ValueError(f"{key!r} is not a key")
    return parts


def dotted(key: Key) -> str:
    """A key as TOML has it."""
    return ".".join(part if _BARE.fullmatch(part) else json.dumps(part) for part in key)


def concerns(question: Question, fault: Fault) -> bool:
    """Whether a fault is about what a question asks."""
    if not question.key:
        return question.repeats or not fault.key
    return f"{fault.key}.".startswith(f"{question.key}.") or (
        bool(fault.key) and f"{question.key}.".startswith(f"{fault.key}.")
    )


def _fault(line: str) -> Fault:
    key, colon, text = line.partition(": ")
    if not colon or " " in key:
        return Fault("", line)
    return Fault(key, text)


def _get(table: Any, key: Key, default: Any = None) -> Any:
    for part in key:
        if not isinstance(table, Mapping) or part not in table:
            return default
        table = table[part]
    return table


def _heading(key: Key) -> Key:
    return key[:2] if key[:2] in _HEADINGS and len(key) > 2 else key[:1] if len(key) > 1 else ()


def _order(key: Key) -> tuple[int, int, int]:
    """Keys without a heading first, then tables in the order of the schema, each before those below it."""
    heading, known = _heading(key), list(ProfileConfig.model_fields)
    below = _HEADINGS.index(heading) + 1 if heading in _HEADINGS else 0
    return len(heading[:1]), known.index(key[0]) if key[0] in known else len(known), below


# --------------------------------------------------------------------------------------------------------------- TOML


def literal(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, Mapping):
        inside = ", ".join(f"{dotted((key,))} = {literal(one)}" for key, one in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    return str(value) if isinstance(value, int) else json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def comment(text: str) -> list[str]:
    """Lines of a comment."""
    return [f"# {line}" for line in textwrap.wrap(plain(" ".join(text.split())), _WIDTH, break_on_hyphens=False)]


def titles() -> Iterator[tuple[str, str]]:
    """The templates and what each is for."""
    from cmpd.profile import templates  # noqa: PLC0415  read when asked for

    for name in templates():
        yield name, template(name).title
