"""What holds for all templates: complete, documented, within their own limits; how a profile is merged with one."""

import re
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cmpd.profile import Profile, ProfileConfig, ProfileError, effective, template, templates
from cmpd.profile.templates import Merged, leaves, merge
from tests.profile_cases import ID
from tests.templates.cases import NEEDS, made, table

NAMES = (
    "certcentral-private-server", "certcentral-public-server", "generic-device", "generic-user", "private-smime",
    "public-smime",
)  # fmt: skip
FILE = Path("profiles/site.toml")


def test_there_are_six() -> None:
    assert templates() == NAMES
    with pytest.raises(KeyError):
        template("none")


@pytest.mark.parametrize("one", NAMES)
def test_a_profile_needs_to_say_little(one: str) -> None:
    got = made(one)
    trust = {"public-smime": "smime", "certcentral-public-server": "tls"}.get(one)
    assert (got.base_template, got.public_trust) == (one, trust)


@pytest.mark.parametrize("one", NAMES)
def test_every_default_and_every_variant_is_explained(one: str) -> None:
    """Each key has a comment on the line before; attributes that belong together share one."""
    previous = ""
    unexplained = []
    for line in template(one).text.partition("\n[[limits]]")[0].partition("\n[[variants]]")[0].splitlines():
        if re.match(r"[a-z_]+ = ", line) and not previous.startswith("#"):
            unexplained += [] if "include" in line and "include" in previous else [line]
        previous = line
    assert unexplained == []
    for line, following in pairwise(template(one).text.splitlines()):
        assert following != "[[variants]]" or line.startswith("# ")


@pytest.mark.parametrize("one", NAMES)
def test_every_table_that_shapes_a_certificate_is_in_a_template(one: str) -> None:
    defaults = template(one).defaults
    for section in ("enrollment", "renewal", "validity", "signature", "key", "subject", "san", "extensions", "seat"):
        assert defaults[section], section
    assert {"default", "max", "backdate", "allow_request_override", "on_exceed"} == set(defaults["validity"])
    assert defaults["key"]["escrow"] == "no"
    assert defaults["key"]["same_key_elsewhere"] is False
    assert defaults["enrollment"]["method"] == "cmp"


@pytest.mark.parametrize("one", NAMES)
def test_limits_and_conditions_are_about_keys_that_there_are(one: str) -> None:
    got = template(one)
    known = _keys(ProfileConfig)
    for limit in got.limits:
        assert limit.key in known, limit.key
        assert limit.rule
        said = limit.model_dump(exclude={"key", "rule", "when"}, exclude_defaults=True)
        assert said, f"{limit.key}: a limit that limits nothing"
        assert set(limit.when) <= known
    for variant in got.variants:
        assert set(variant.when) <= known
        assert variant.defaults


@pytest.mark.parametrize("one", NAMES)
def test_a_template_keeps_its_own_limits_in_every_variant(one: str) -> None:
    for variant in template(one).variants:
        changes: dict[str, Any] = dict(variant.when)
        if changes.get("certificate_type.validation_type") in {"organization", "sponsor"}:
            changes["organization"] = {"name": "Example GmbH", "identifier": "NTRDE-HRB123456"}
        if changes.get("certificate_type.validation_type") == "domain":
            changes |= {"organization": None, "subject.locality_name": None, "subject.country_name": None}
        assert made(one, changes).base_template == one


def test_the_rule_of_every_limit_of_a_public_template_names_its_clause() -> None:
    for one in ("public-smime", "certcentral-public-server"):
        for limit in template(one).limits:
            assert re.search(r"(BR|RFC \d+|SP) ?(§|800|\()?|CertCentral|issued", limit.rule), limit.rule


def _keys(model: Any, above: str = "") -> set[str]:
    found = set()
    for key, field in model.model_fields.items():
        found.add(above + key)
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if hasattr(part, "model_fields"):
                found |= _keys(part, f"{above}{key}.")
    return found


# ── merging ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def merged(changes: dict[str, Any], one: str = "generic-device") -> Merged:
    return merge(FILE, table(one, changes))


def test_what_the_file_does_not_say_is_the_templates() -> None:
    got = merged({"san.dns.allowed_domains": [".example.com"]})
    assert got.table["san"]["dns"] == {"include": "optional", "max": 10, "allow_wildcard": False,
                                       "allowed_domains": [".example.com"]}  # fmt: skip
    assert got.table["key"] == template("generic-device").defaults["key"]


def test_an_attribute_from_elsewhere_brings_its_own_value() -> None:
    got = merged({"subject.organization_name": {"source": "fixed", "value": "Example"}})
    assert got.table["subject"]["organization_name"] == {"source": "fixed", "value": "Example"}
    got = merged({"subject.common_name": {"source": "default", "value": "x"}})
    assert got.table["subject"]["common_name"] == {"include": "required", "source": "default", "value": "x"}


def test_what_is_not_included_has_nothing_of_the_template() -> None:
    assert merged({"san.dns": {"include": "no"}}).table["san"]["dns"] == {"include": "no"}


def test_a_list_replaces_a_list() -> None:
    assert merged({"key.allowed_types": ["rsa"]}).table["key"]["allowed_types"] == ["rsa"]


def test_usages_of_key_types_that_are_no_longer_allowed_go() -> None:
    got = merged({"key.allowed_types": ["ed25519"]}, "private-smime")
    assert got.table["extensions"]["key_usage"]["required_usages"] == {"ed25519": ["digital_signature"]}
    with pytest.raises(ProfileError, match=r"this key type is not in key\.allowed_types"):
        made("private-smime", {"key.allowed_types": ["rsa"],
                               "extensions.key_usage.required_usages": {"ecdsa": ["key_agreement"]}})  # fmt: skip


def test_a_template_is_not_changed_by_a_profile() -> None:
    before = template("generic-device").model_dump_json()
    merged({"san.dns.allowed_domains": [".example.com"]}).table["key"]["allowed_types"].append("x")
    assert template("generic-device").model_dump_json() == before


def test_an_unknown_template_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ProfileError) as caught:
        Profile.from_config("site", {"id": ID, "issuer": "x", "base_template": "smime"}, Path("profiles"))
    assert str(caught.value) == f"{FILE}: base_template: 'smime' is not one of {', '.join(NAMES)}"


@pytest.mark.parametrize("wrong", [{"subject": 3}, {"subject": {"common_name": 3}}, {"san": {"dns": []}},
 {"key": "rsa"},
                                   {"certificate_type": {"usage": ["signing"]}}, {"base_template": ["generic-user"]},
                                   {"extensions": {"key_usage": {"required_usages": 7}}}])  # fmt: skip
@pytest.mark.parametrize("one", NAMES)
def test_a_wrong_type_beside_a_template_is_a_fault_and_no_crash(one: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ProfileError):
        Profile.from_config("site", {"id": ID, "issuer": "x", "base_template": one} | wrong, Path("profiles"))


def test_a_fault_of_a_value_that_is_not_in_the_file_says_so() -> None:
    with pytest.raises(ProfileError) as caught:
        made("generic-user", {"validity.max": "90d"})
    assert caught.value.faults == (
        f"{FILE}: validity.default: 365d is more than max, 90d (the value is from template generic-user)",
    )


def test_faults_and_forbidden_overrides_are_reported_together() -> None:
    with pytest.raises(ProfileError) as caught:
        made("public-smime", {"validity.max": "900d", "san.critical": True, "san.email.max": 0})
    assert [fault.split(": ")[1] for fault in caught.value.faults] == [
        "validity.max", "san.critical", "san.email.min"
    ]  # fmt: skip


# ── provenance ──────────────────────────────────────────────────────────────────────────────────────────────────────

SAMPLE = f"""
id = "{ID}"
issuer = "local"
base_template = "public-smime"
[organization]
name = "Example GmbH"
identifier = "NTRDE-HRB123456"
[certificate_type]
validation_type = "sponsor"
[enrollment]
authentication_method = "enrollment_code"
[san.email]
allowed_domains = ["example.com"]
[extensions.requested]
"1.2.3.4" = "refuse"
"""


def test_every_value_says_where_it_comes_from(tmp_path: Path) -> None:
    (tmp_path / "mail.toml").write_text(SAMPLE)
    rows = {key: (value, source) for key, value, source in effective(tmp_path / "mail.toml")}
    sponsor = "template public-smime (certificate_type.validation_type = sponsor)"
    assert rows["base_template"] == ("public-smime", "file")
    assert rows["validity.max"] == ("824d", "template public-smime")
    assert rows["san.email.allowed_domains"] == (["example.com"], "file")
    assert rows["san.email.include"] == ("required", "template public-smime")
    assert rows["subject.common_name_from"] == (["san.email", "personal_name", "pseudonym"], sponsor)
    assert rows["subject.organization_name.value"] == ("Example GmbH", "file (organization)")
    assert rows["subject.organization_name.source"] == ("fixed", "file (organization)")
    assert rows["enrollment.legacy.short_nonces"] == (False, "default")
    assert rows["extensions.key_usage.required_usages.rsa"] == (
        ["digital_signature", "key_encipherment"], "template public-smime"
    )  # fmt: skip
    assert rows['extensions.requested."1.2.3.4"'] == ("refuse", "file")
    assert len(rows) == len(effective(tmp_path / "mail.toml"))


def test_a_profile_without_a_template_has_file_and_default(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(f'id = "{ID}"\nissuer = "x"\n[subject]\ncommon_name = {{}}\n')
    sources = {key: source for key, _, source in effective(tmp_path / "a.toml")}
    assert set(sources.values()) == {"file", "default"}
    assert sources["issuer"] == "file"
    assert sources["validity.default"] == "default"


def test_the_effective_profile_is_refused_where_the_file_is(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(SAMPLE.replace('"example.com"', '"*"'))
    with pytest.raises(ProfileError):
        effective(tmp_path / "a.toml")


@pytest.mark.parametrize("one", NAMES)
def test_the_effective_values_are_a_profile_of_their_own(one: str, tmp_path: Path) -> None:
    """Written out in full, without the template, they decide the same."""
    whole = merge(FILE, table(one)).table
    del whole["base_template"]
    alone = Profile.from_config("site", whole, tmp_path)
    assert alone._subject == made(one)._subject
    assert alone._extensions == made(one)._extensions
    assert [key for key, _ in leaves(whole)]


def test_a_template_reads_as_toml() -> None:
    for one in NAMES:
        parsed = tomllib.loads(template(one).text)
        assert parsed["defaults"] == template(one).defaults
        assert one in NEEDS or parsed["title"]
