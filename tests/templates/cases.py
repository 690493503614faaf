"""Profiles made from a template by as little as it needs, and what becomes of requests and overrides."""

import copy
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from cmpd.errors import CMPError
from cmpd.exchange import Approved, CertificateRequest, Finding
from cmpd.profile import Profile, ProfileError
from tests.profile_cases import ID, KEYS, NOW, name, request, rule_of

ORGANIZATION = {"name": "Example GmbH", "identifier": "NTRDE-HRB123456"}
SERVER, CLIENT, EMAIL_PROTECTION = "1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2", "1.3.6.1.5.5.7.3.4"
SAN, KU, EKU, POLICIES = "2.5.29.17", "2.5.29.15", "2.5.29.37", "2.5.29.32"
CODE = {"enrollment.authentication_method": "enrollment_code"}
NEEDS: dict[str, dict[str, Any]] = {
    "public-smime": CODE,
    "certcentral-public-server": {
        "organization": {"name": "Example GmbH"},
        "subject.country_name": {"source": "fixed", "value": "DE"},
        "subject.locality_name": {"source": "fixed", "value": "Bonn"},
    },
}
"""What a profile must say where the template cannot."""


def table(template: str, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A profile's TOML, keys in dotted spelling."""
    made: dict[str, Any] = {"id": ID, "issuer": "local", "base_template": template}
    for key, value in (NEEDS.get(template, {}) | dict(changes or {})).items():
        *path, last = key.split(".")
        place = made
        for part in path:
            place = place.setdefault(part, {})
        if value is None:
            place.pop(last, None)
        else:
            place[last] = copy.deepcopy(value)
    return made


def made(template: str, changes: Mapping[str, Any] | None = None, *, today: date | None = None) -> Profile:
    return Profile.from_config("site", table(template, changes), Path("profiles"), today=today or NOW.date())


def approve(profile: Profile, asked: CertificateRequest, *, now: datetime = NOW) -> Approved:
    return profile.approve(asked, transaction_id=b"t" * 16, now=now)


def refused(profile: Profile, asked: CertificateRequest, *words: str, now: datetime = NOW) -> Finding:
    """The request is refused with all words, and `explain` finds the same first."""
    with pytest.raises(CMPError) as caught:
        approve(profile, asked, now=now)
    text = str(caught.value)
    for word in words:
        assert word in text, text
    assert text.isprintable()
    first = next(one for one in profile.explain(asked, transaction_id=b"t" * 16, now=now) if not one.ok)
    assert first.text == text
    assert rule_of(text) == first.rule
    return first


def forbidden(template: str, changes: Mapping[str, Any], key: str, *words: str) -> None:
    """The override is refused in a line with file, key, value and rule."""
    with pytest.raises(ProfileError) as caught:
        made(template, changes)
    lines = [fault for fault in caught.value.faults if fault.startswith(f"profiles/site.toml: {key}: ")]
    assert lines, caught.value.faults
    assert any(all(word in line for word in (*words, f"(template {template})")) for line in lines), lines


def ask(
    *attributes: tuple[str, str], extensions: tuple[Any, ...] = (), key: str = "rsa", **more: Any
) -> CertificateRequest:
    return request(name(*attributes), *extensions, spki=KEYS[key], **more)
