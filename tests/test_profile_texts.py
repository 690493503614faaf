"""Every refusal of a profile says what is wrong in one form: `FIELD: what is wrong (RULE)`."""

import ast
import importlib
import inspect
import itertools
import pkgutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cmpd.profile
import tests.templates
from cmpd.errors import CMPError
from cmpd.profile.decision import Decision
from tests.profile_cases import KEYS, NOW, is_key, name, profile, request, rule_of

CASES = (
    "tests.test_profile_approve",
    "tests.test_profile_fields",
    "tests.test_profile_hostile",
    *(f"tests.templates.{one.name}" for one in pkgutil.iter_modules(tests.templates.__path__)),
)
"""The modules with tables of requests that are refused."""
SOURCE = Path(cmpd.profile.__file__).parent


def tables() -> Iterator[tuple[Callable[..., None], list[dict[str, Any]]]]:
    """The tests that need no fixture, each with the arguments of its cases."""
    for module in map(importlib.import_module, CASES):
        for key, test in inspect.getmembers(module, inspect.isfunction):
            if not key.startswith("test_") or test.__module__ != module.__name__:
                continue
            marks = [mark for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
            columns = []
            for mark in marks:
                names = mark.args[0].split(",") if isinstance(mark.args[0], str) else mark.args[0]
                rows = [row if len(names) > 1 else (row,) for row in mark.args[1]]
                columns.append([dict(zip(names, row, strict=True)) for row in rows])
            given = {name for column in columns for name in column[0]}
            if given == set(inspect.signature(test).parameters):
                yield test, [{k: v for part in row for k, v in part.items()} for row in itertools.product(*columns)]


def calls() -> set[tuple[str, int]]:
    """Where a decision refuses: file and line of each call."""
    return {
        (path.name, node.lineno)
        for path in SOURCE.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "refuse"
    }


def test_every_refusal_of_the_tables_names_field_and_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the tables reach every place that refuses, so that no text is left out."""
    texts: dict[str, tuple[str, str]] = {}
    reached: set[tuple[str, int]] = set()
    refuse = Decision.refuse

    def watched(self: Decision, rule: str, field: str, *more: Any) -> None:
        caller = sys._getframe(1)
        reached.add((Path(caller.f_code.co_filename).name, caller.f_lineno))
        try:
            refuse(self, rule, field, *more)
        except CMPError as error:
            texts[str(error)] = rule, field
            raise

    monkeypatch.setattr(Decision, "refuse", watched)
    for test, cases in tables():
        for case in cases:
            test(**case)
    for text, (rule, field) in texts.items():
        assert rule_of(text) == rule
        assert text.startswith(f"{field}: ")
    assert len(texts) > 200
    assert calls() <= reached


@pytest.mark.parametrize(
    "text",
    [
        "san.dns: is required",
        "san.dns: is required (san.dns.included)",
        "san.dns: is required (san.fax.include)",
        "san.dns: does not match (san.dns.pattern) (san.dns.pattern)",
        "is required (san.dns.include)",
        "san.dns: (san.dns.include)",
        "san.dns: is wrong (RFC 5280)",
        "san.dns: is wrong (see above)",
    ],
)
def test_the_form_can_be_missed(text: str) -> None:
    with pytest.raises(AssertionError):
        rule_of(text)


@pytest.mark.parametrize(
    "rule", ["san.dns.min", "key.rsa.max_bits", "seat.id_mapping", "extensions.requested", "validity.max",
             "san.other_name.1.2.3.pattern", "subject.common_name.include"]
)  # fmt: skip
def test_a_key_is_a_rule(rule: str) -> None:
    assert is_key(rule)


def test_what_has_no_key_is_named_with_its_oid() -> None:
    """The OID alone tells few people what they have asked for."""
    asked = request(name(("CN", "a"), ("jurisdictionC", "DE"), ("unknown", "x")), spki=KEYS["secp256k1"])
    found = profile().explain(asked, transaction_id=b"t", now=NOW)
    assert [one.text for one in found if not one.ok] == [
        "publicKey: curve 1.3.132.0.10 (secp256k1) is not accepted (key.ecdsa.allowed_curves)",
        "subject.1.3.6.1.4.1.311.60.2.1.3 (jurisdictionC): this attribute is not accepted (subject.on_unlisted)",
        "subject.1.3.6.1.4.1.55555.1: this attribute is not accepted (subject.on_unlisted)",
    ]
