"""`cmpd schema`: the JSON Schemas that editors complete profile files and cmpd.toml from."""

from datetime import timedelta
from typing import Any

from pydantic import TypeAdapter

from cmpd.cli.output import write_json
from cmpd.issuers.local import LocalIssuerConfig
from cmpd.profile import Duration, ProfileConfig, templates
from cmpd.profile.vocabulary import duration_text
from cmpd.settings import Settings

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_DURATION = TypeAdapter(Duration).json_schema()
_BY_NAME = {"properties", "$defs"}
"""Parts of a schema whose keys are names."""


def show(*, settings: bool) -> None:
    """Print one of the two."""
    write_json(settings_schema() if settings else profile_schema())


def profile_schema() -> dict[str, Any]:
    """The JSON Schema of a profile file."""
    schema = ProfileConfig.model_json_schema()
    schema["properties"]["base_template"] = {
        "description": schema["properties"]["base_template"]["description"],
        "enum": list(templates()),
    }
    return _of_file("A certificate profile of cmpd", schema)


def settings_schema() -> dict[str, Any]:
    """The JSON Schema of cmpd.toml; the keys of a local issuer are known, those of others are open."""
    schema = Settings.model_json_schema()
    local = LocalIssuerConfig.model_json_schema()
    definitions = schema["$defs"] | local.pop("$defs", {}) | {"LocalIssuer": local}
    definitions["IssuerSettings"] |= {
        "if": {"properties": {"type": {"const": "local"}}},
        "then": {"$ref": "#/$defs/LocalIssuer"},
    }
    del schema["properties"]["path"], schema["required"]
    return _of_file("The configuration of cmpd", schema | {"$defs": definitions})


def _of_file(title: str, schema: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = _toml(schema)
    return {"$schema": DIALECT} | plain | {"title": title}


def _toml(schema: Any) -> Any:
    """A schema for TOML, which has no null: neither as a type nor as a default; texts on one line, no titles."""
    if isinstance(schema, list):
        return [_toml(one) for one in schema]
    if not isinstance(schema, dict):
        return " ".join(schema.split()) if isinstance(schema, str) and "\n" in schema else schema
    found = {
        key: {name: _toml(one) for name, one in value.items()} if key in _BY_NAME else _toml(value)
        for key, value in schema.items()
        if key != "title" and not (key == "default" and (value is None or isinstance(value, dict)))
    }
    if found.get("format") == "duration":
        default = TypeAdapter(timedelta).validate_python(found["default"])
        return {"description": found["description"], "default": duration_text(default)} | _DURATION
    choices = found.get("anyOf")
    if isinstance(choices, list) and {"type": "null"} in choices:
        left = [one for one in choices if one != {"type": "null"}]
        del found["anyOf"]
        found = (left[0] if len(left) == 1 else {"anyOf": left}) | found
    return found
