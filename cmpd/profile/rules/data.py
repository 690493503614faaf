"""rules.toml, read once: each rule with the clause it comes from, when it holds and what it is about."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from importlib import resources
from typing import Any, Final, Literal

Kind = Literal["smime", "tls"]
VALIDATION_TYPES: Final[dict[str, tuple[str, ...]]] = {
    "smime": ("mailbox", "organization", "sponsor", "individual"),
    "tls": ("domain", "organization", "individual"),
}
"""What each kind of certificate can be validated as."""
GENERATIONS: Final = ("strict", "multipurpose", "legacy")
USAGES: Final = ("signing", "key_management", "dual_use")


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of rules.toml."""

    id: str
    """Such as PT-VAL-MAX; the same id may be there for several times and types."""
    clause: str
    """Such as `S/MIME BR §7.1.4.2.5`."""
    field: str
    """The field of the request that it looks at."""
    text: str
    """What it asks for."""
    check: str
    """The function of this module that reads `values`."""
    kind: str
    validation_type: tuple[str, ...]
    """Empty: for all; so are the next two."""
    generation: tuple[str, ...]
    usage: tuple[str, ...]
    since: date
    """The first day."""
    until: date
    """The first day on which it no longer holds."""
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Id and clause, as findings carry them."""
        return f"{self.id}, {self.clause}"

    @property
    def is_dated(self) -> bool:
        """Whether it has a beginning or an end."""
        return self.since != date.min or self.until != date.max

    def is_for(self, kind: str, validation_type: str, generation: str, usage: str) -> bool:
        """Whether it is about such certificates."""
        return (
            self.kind == kind
            and (not self.validation_type or validation_type in self.validation_type)
            and (not self.generation or generation in self.generation)
            and (not self.usage or usage in self.usage)
        )


@dataclass(frozen=True, slots=True)
class _Data:
    rules: tuple[Rule, ...]
    countries: frozenset[str]
    """ISO 3166-1 alpha-2, and XX."""
    changes: tuple[date, ...]
    """The days on which a rule begins or ends, ascending."""


@cache
def _data() -> _Data:
    table = tomllib.loads(resources.files("cmpd").joinpath("data/rules.toml").read_text("utf-8"))
    common = {"id", "clause", "field", "text", "check", "kind"}
    others = {"validation_type", "generation", "usage", "from", "until"}
    rules = tuple(
        Rule(
            **{key: entry[key] for key in common},
            validation_type=tuple(entry.get("validation_type", ())),
            generation=tuple(entry.get("generation", ())),
            usage=tuple(entry.get("usage", ())),
            since=entry.get("from", date.min),
            until=entry.get("until", date.max),
            values={key: value for key, value in entry.items() if key not in common | others},
        )
        for entry in table["rule"]
    )
    days = {day for rule in rules for day in (rule.since, rule.until)} - {date.min, date.max}
    return _Data(rules, frozenset(table["countries"]["codes"]), tuple(sorted(days)))


def rules(kind: str, validation_type: str, generation: str, usage: str, day: date) -> tuple[Rule, ...]:
    """The rules that hold on a day (UTC) for such certificates, in the order in which they are checked."""
    return tuple(
        rule
        for rule in _data().rules
        if rule.since <= day < rule.until and rule.is_for(kind, validation_type, generation, usage)
    )


def countries() -> frozenset[str]:
    """The country codes that a subject may have: ISO 3166-1 alpha-2, and XX."""
    return _data().countries


def changes() -> tuple[date, ...]:
    """The days on which a rule begins or ends, ascending."""
    return _data().changes


def max_validity(kind: Kind, generation: str | None, day: date) -> timedelta:
    """The longest that a certificate decided on a day (UTC) may be valid, notBefore and notAfter both included."""
    days = (
        rule.values["days"]
        for rule in _data().rules
        if rule.check == "validity"
        and rule.since <= day < rule.until
        and rule.kind == kind
        and (not rule.generation or (generation or "strict") in rule.generation)
    )
    return timedelta(days=min(days))
