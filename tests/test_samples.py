"""config/: the schemas are those of the code, and every sample is what loads and what the schemas accept.

The schemas and the samples of the templates are made: `python -m tests.test_docs` writes them anew.
"""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd.cli import main, schemas
from cmpd.cli.wizard import Wizard
from cmpd.profile import Profile, enrollment, load_directory, templates
from cmpd.profile.access import Surroundings, access_faults
from cmpd.settings import Settings
from tests.world import vendor

CONFIG = Path(__file__).parents[1] / "config"
PROFILES = CONFIG / "profiles"
CLIENTS = "gateways-ca.pem"
"""A file that a sample names and that is not there: whoever uses the sample has their own."""

ANSWERS: dict[str, dict[str, str | list[str]]] = {
    "generic-user": {
        "description": "people, to log in and for TLS",
        "organization": "Example GmbH",
        "san": ["email.allowed_domains=example.com", "upn.allowed_domains=example.com"],
    },
    "generic-device": {
        "description": "machines of plant 1, by enrollment code",
        "business_unit": "Plant 1",
        "tags": "floor-2, sensors",
        "validity": "180d",
        "renewal_window": "60",
        "san": ["dns.allowed_domains=.plant.example.com", "ip.allowed_ranges=10.0.0.0/8", "uri=no"],
        "budget_per_day": "1000",
    },
    "private-smime": {
        "description": "e-mail inside the company",
        "organization": "Example GmbH",
        "san": ["email.allowed_domains=example.com, .example.com"],
        "name_split": "last-word-is-surname",
        "duplicates": "no",
    },
    "public-smime": {
        "description": "e-mail with everybody, through the mail gateway",
        "validation_type": "sponsor",
        "trusted_certificates": CLIENTS,
        "service_user": "mail-gateway",
        "organization": "Example GmbH",
        "organization_identifier": "VATDE-123456789",
        "contact": "custom",
        "contact_first_name": "Ada",
        "contact_last_name": "Byron",
        "contact_email": "ada@example.com",
        "subject": ["country_name=fixed:DE", "organizational_unit_name=no"],
        "san": ["email.allowed_domains=example.com"],
        "budget_per_seat": "2",
    },
    "certcentral-private-server": {
        "description": "servers inside the company",
        "san": ["dns.allowed_domains=.internal.example.com"],
        "renewal_grace": "7d",
    },
    "certcentral-public-server": {
        "description": "servers that the world can reach",
        "organization": "Example GmbH",
        "subject": ["country_name=fixed:DE", "locality_name=fixed:Berlin"],
        "san": ["dns.allowed_domains=example.com, .example.com", "dns.allow_wildcard=yes"],
        "budget_per_day": "50",
    },
}
"""What the wizard is told for the sample of each template."""


def generated(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file of config/ that is made, with its text; `folder` is a place to work in."""
    yield CONFIG / "profile.schema.json", _json(schemas.profile_schema())
    yield CONFIG / "cmpd.schema.json", _json(schemas.settings_schema())
    work = folder / "profiles"
    work.mkdir()
    _, root = vendor()
    (work / CLIENTS).write_bytes(root.public_bytes(Encoding.PEM))
    (folder / "cmpd.toml").write_text((CONFIG / "cmpd.toml").read_text())
    settings = Settings.load(folder / "cmpd.toml")
    for name, answers in ANSWERS.items():
        given = answers | {
            "name": name,
            "template": name,
            "set": [f"id=an-example-of-{name}-make-your-own"],
        }
        draft = Wizard(settings, given, ask=False, force=False).run()
        yield PROFILES / f"{name}.toml", f"#:schema ../profile.schema.json\n{draft.toml()}"


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def test_what_is_made_is_up_to_date(tmp_path: Path) -> None:
    """When this fails, `python -m tests.test_docs` writes them anew."""
    for path, text in generated(tmp_path):
        assert path.read_text(encoding="utf-8") == text, path


def test_there_is_a_sample_for_each_template() -> None:
    assert set(ANSWERS) == set(templates())
    assert {path.stem for path in PROFILES.iterdir()} == {*templates(), "device"}


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """A copy of the samples, with the file that one of them names."""
    for path in PROFILES.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    _, root = vendor()
    (tmp_path / CLIENTS).write_bytes(root.public_bytes(Encoding.PEM))
    return tmp_path


def test_all_samples_load_together(samples: Path) -> None:
    loaded = load_directory(samples)
    assert {name: profile.base_template for name, profile in loaded.items()} == {
        "device": None,
        **{name: name for name in templates()},
    }
    assert [fault for profile in loaded.values() for fault in access_faults(profile, Surroundings())] == []


def test_the_device_sample_with_every_key_switched_on(samples: Path) -> None:
    """Its examples of who may enroll are a profile too."""
    text = (samples / "device.toml").read_text()
    assert '# base_template = "generic-device"' in text
    part = re.search(r"(?ms)^\[enrollment\]$.*?(?=^\[renewal\]$)", text)
    assert part is not None
    table = tomllib.loads(re.sub(r"(?m)^# (?=[a-z_]+ = |\[)", "", part[0]))["enrollment"]
    for model, keys in (
        (enrollment.EnrollmentConfig, table),
        (enrollment.CodeConfig, table["code"]),
        (enrollment.ClientConfig, table["client"]),
        (enrollment.TLSConfig, table["tls"]),
        (enrollment.RevocationConfig, table["revocation"]),
        (enrollment.VendorConfig, table["vendor"]),
        (enrollment.LegacyConfig, table["legacy"]),
    ):
        assert set(keys) == set(model.model_fields), model
        model.model_validate(keys)


@pytest.mark.parametrize("name", ANSWERS)
def test_a_sample_says_only_what_differs(samples: Path, name: str) -> None:
    """Without one of its keys it is another profile, or none."""
    text = (samples / f"{name}.toml").read_text()
    whole = Profile.load(samples / f"{name}.toml")
    assert whole.description
    lines = [line for line in text.splitlines() if line and not line.startswith(("#", "["))]
    assert 4 <= len(lines) <= 25
    assert sum(line.startswith("# ") for line in text.splitlines()) > 40


SCHEMA_LINE = re.compile(r"(?m)^#:schema (\S+)$")


def test_editors_find_the_schema_of_each_sample() -> None:
    """The first line names a file that is there."""
    for path in (CONFIG / "cmpd.toml", *(PROFILES / f"{name}.toml" for name in ANSWERS)):
        found = SCHEMA_LINE.match(path.read_text())
        assert found is not None, path
        assert json.loads((path.parent / found[1]).read_text())["type"] == "object"


def test_the_schemas_accept_all_samples(tmp_path: Path) -> None:
    profile, settings = schemas.profile_schema(), schemas.settings_schema()
    for path in PROFILES.iterdir():
        assert faults(tomllib.loads(path.read_text()), profile) == []
    text = (CONFIG / "cmpd.toml").read_text()
    assert faults(tomllib.loads(text), settings) == []
    assert faults(tomllib.loads(re.sub(r"(?m)^#(?=[a-z\[])", "", text)), settings) == []


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ('lint = "sometimes"', "lint"),
        ('base_template = "mine"', "base_template"),
        ('id = "short"', "id"),
        ("unknown = 1", "unknown"),
        ('[validity]\ndefault = "a year"', "validity.default"),
        ('[enrollment.tls]\nbinding = "any"', "enrollment.tls.binding"),
        ("[enrollment.code]\nlock_after = 0", "enrollment.code.lock_after"),
        ("[enrollment.vendor]\nallow_list = 1", "enrollment.vendor.allow_list"),
        ('[enrollment]\nservice_user = "the gateway"', "enrollment.service_user"),
        ("[renewal]\nwindow_days = 0", "renewal.window_days"),
        ("[subject]\ncommon_name.include = true", "subject.common_name.include"),
        ("[san]\nemail.domains = []", "san.email.domains"),
        ('[extensions.key_usage]\nrequired_usages = ["sign"]', "extensions.key_usage.required_usages"),
    ],
)
def test_the_schema_finds_what_loading_refuses(tmp_path: Path, change: str, where: str) -> None:
    """So that an editor underlines it before `cmpd check` does."""
    table = {"id": "x" * 22, "issuer": "local"} | tomllib.loads(change)
    assert [fault for fault in faults(table, schemas.profile_schema()) if fault.startswith(where)]
    with pytest.raises(Exception, match=where.rpartition(".")[2]):
        Profile.from_config("x", table, tmp_path)


@pytest.mark.parametrize("options", [(), ("--settings",)])
def test_the_command_prints_the_schema(options: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["schema", *options])
    assert not end.value.code
    made = schemas.settings_schema() if options else schemas.profile_schema()
    assert json.loads(capfd.readouterr().out) == json.loads(json.dumps(made))


_KNOWN = {
    "$schema", "$defs", "$ref", "type", "enum", "const", "anyOf", "properties", "additionalProperties", "required",
    "items", "propertyNames", "pattern", "format", "minLength", "maxLength", "minItems", "maxItems", "minimum",
    "maximum", "exclusiveMinimum", "default", "description", "examples", "title", "if", "then",
}  # fmt: skip
_TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float),
}  # fmt: skip


def faults(value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None, where: str = "") -> list[str]:
    """Hold a value of TOML against a JSON Schema, as far as ours go; the places of what is wrong."""
    root = root or schema
    assert set(schema) <= _KNOWN, set(schema) - _KNOWN
    if "$ref" in schema:
        rest = {key: one for key, one in schema.items() if key != "$ref"}
        return faults(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, where) + faults(
            value, rest, root, where
        )
    found: list[str] = []
    if "anyOf" in schema and not any(not faults(value, one, root, where) for one in schema["anyOf"]):
        found.append(where)
    if "if" in schema and not faults(value, schema["if"], root, where):
        found += faults(value, schema["then"], root, where)
    kind = schema.get("type")
    if schema.get("format") == "date":
        return found if hasattr(value, "isoformat") else [*found, where]
    if kind is not None and (
        not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind in {"integer", "number"})
    ):
        return [*found, f"{where}: {kind}"]
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        found.append(f"{where}: {value}")
    if isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"], value):
            found.append(f"{where}: pattern")
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            found.append(f"{where}: length")
    if isinstance(value, int | float):
        if value < schema.get("minimum", value) or value > schema.get("maximum", value):
            found.append(f"{where}: range")
        if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
            found.append(f"{where}: range")
    if isinstance(value, list):
        for one in value:
            found += faults(one, schema.get("items", {}), root, where)
    if isinstance(value, dict):
        found += [f"{where}{name}: missing" for name in schema.get("required", ()) if name not in value]
        known = schema.get("properties", {})
        for name, one in value.items():
            place = f"{where}.{name}" if where else name
            below = known.get(name, schema.get("additionalProperties", True))
            if below is False:
                found.append(f"{place}: unknown")
            elif isinstance(below, dict):
                found += faults(one, below, root, place)
            found += faults(name, schema.get("propertyNames", {}), root, place)
    return found
