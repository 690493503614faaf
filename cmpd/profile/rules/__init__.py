"""The rules of public trust: S/MIME BR, TLS BR, and the dates of CAs and root programmes.

The rules are data (`cmpd/data/rules.toml`): an id, the clause, from when until when, and the values that a check reads.
`check` holds them against a request after the profile has resolved it, `check_profile` against a profile before it
serves. A day is 86,400 seconds, any excess counts as a day more, and notAfter belongs to the validity.
"""

from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache

from cmpd.errors import BadAlg, BadCertTemplate, CMPError
from cmpd.exchange import Approved, Finding
from cmpd.profile.rules.certificate import Certificate
from cmpd.profile.rules.data import (
    GENERATIONS,
    USAGES,
    VALIDATION_TYPES,
    Kind,
    Rule,
    changes,
    max_validity,
    rules,
)
from cmpd.profile.rules.profile import check_profile, notices, url_notices
from cmpd.profile.rules.request import Test, prepare

__all__ = [
    "Kind",
    "Rule",
    "changes",
    "check",
    "check_profile",
    "max_validity",
    "notices",
    "refusal",
    "rules",
    "url_notices",
]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A rule, ready to be applied."""

    rule: Rule
    test: Test
    passed: Finding
    """The finding when there is nothing wrong, the same every time."""


@cache
def _prepared(kind: str, validation_type: str, generation: str, usage: str, era: int) -> tuple[_Prepared, ...]:
    """The rules between two days on which one changes, ready to be applied."""
    days = changes()
    day = days[era - 1] if era else date.min
    return tuple(
        _Prepared(rule, prepare(rule, validation_type, generation), Finding(rule.name, rule.field, True, rule.text))
        for rule in rules(kind, validation_type, generation, usage, day)
    )


def _era(day: date) -> int:
    return bisect_right(changes(), day)


def check(
    approved: Approved,
    *,
    kind: Kind,
    validation_type: str | None,
    generation: str | None,
    usage: str | None,
    now: datetime,
) -> list[Finding]:
    """Hold what is approved against every rule that holds at `now` (aware); one finding each, in the order of the file.

    `validation_type` None of a TLS certificate is told from its subject; `generation` None is strict, `usage` None
    dual_use. Raises MalformedError for octets that are not what they should be, ValueError for an unknown type.
    """
    found = Certificate(approved, now)
    if validation_type is None and kind == "tls":
        named = "given_name" in found.values or "surname" in found.values
        validation_type = "individual" if named else "organization" if "organization_name" in found.values else "domain"
    generation, usage = generation or "strict", usage or "dual_use"
    if (
        validation_type is None
        or validation_type not in VALIDATION_TYPES.get(kind, ())
        or generation not in GENERATIONS
        or usage not in USAGES
    ):
        raise ValueError(f"there are no rules for {kind} {validation_type} {generation} {usage}")
    day = now.date() if now.tzinfo is UTC else now.astimezone(UTC).date()
    findings = []
    for one in _prepared(kind, validation_type, generation, usage, _era(day)):
        fault = one.test(found)
        findings.append(one.passed if fault is None else Finding(one.rule.name, one.rule.field, False, fault))
    return findings


def refusal(finding: Finding) -> type[CMPError]:
    """How a finding that is not ok is told to the peer: badAlg for an algorithm, badCertTemplate for all else."""
    return BadAlg if finding.rule.startswith("PT-KEY-ALG") else BadCertTemplate
