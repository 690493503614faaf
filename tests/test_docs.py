"""README, the sample configuration and `--help` say what the code does: nothing in them can drift.

The tables between `<!-- table: NAME -->` and `<!-- end -->` in README.md are made from the code;
`python -m tests.test_docs` writes them anew, and what is made in config/.
"""

import ast
import inspect
import re
import tempfile
import textwrap
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.core
import typer.main
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import cmpd.cli
from cmpd import observe, settings
from cmpd.cli.questions import PAGES, SET, questions
from cmpd.cli.setup import enroll_commands
from cmpd.exchange import Exchange
from cmpd.issuers.certcentral import CertCentralConfig
from cmpd.issuers.local import LocalIssuerConfig
from cmpd.limits import Limits
from cmpd.profile import ProfileConfig
from cmpd.settings import Settings
from tests import test_samples

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
SAMPLE = ROOT / "config" / "cmpd.toml"

MISSING = object()
SECTIONS: dict[str, type[BaseModel]] = {
    "server": settings.Server,
    "server.tls": settings.ServerTLS,
    "server.proxy": settings.ServerProxy,
    "admin": settings.Admin,
    "store": settings.StoreSettings,
    "issuers.NAME": LocalIssuerConfig,
    "profiles": settings.ProfilesSettings,
    "log": settings.Log,
}


OTHER_ISSUERS: dict[str, type[BaseModel]] = {"issuers.digicert": CertCentralConfig}
"""Sections of the sample that are commented out as a whole."""


def default_of(field: FieldInfo) -> Any:
    """A key's default as TOML has it; MISSING when it must be set, None when there is none."""
    if field.is_required():
        return MISSING
    return None if field.default_factory is not None else plain(field.default)


def plain(value: Any) -> Any:
    """A default in the types of TOML."""
    if isinstance(value, timedelta):
        seconds = int(value.total_seconds())
        return next(f"{seconds // size}{unit}" for size, unit in UNITS if seconds % size == 0)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return value


UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def toml(value: Any) -> str:
    """A value as it is written in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + "}"
    return f'"{value}"' if isinstance(value, str) else f"{value:_}" if isinstance(value, int) else f"{value}"


def meaning(text: str | None) -> str:
    """A docstring on one line."""
    return " ".join((text or "").split())


def attribute_meanings(kind: type) -> dict[str, str]:
    """The docstrings under the attributes of a class."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    body = definition.body
    found = {}
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name)
            assert isinstance(text.value, ast.Constant)
            found[field.target.id] = meaning(str(text.value.value))
    return found


def submodel(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a field that is a table, else None."""
    choices = getattr(field.annotation, "__args__", (field.annotation,))
    return next((one for one in choices if isinstance(one, type) and issubclass(one, BaseModel)), None)


Row = tuple[str, str, str]


def leaves(model: type[BaseModel]) -> list[Row]:
    """A row (key, default, meaning) for every key below a model; tables of the same keys are written as one."""
    rows: list[Row] = []
    tables: dict[str, list[Row]] = {}
    for name, field in model.model_fields.items():
        below = submodel(field)
        if below is not None and field.description is None and field.default is None:
            tables[name] = leaves(below)
        elif below is not None:
            rows += [(f"{name}.{key}", default, text) for key, default, text in leaves(below)]
        else:
            default = default_of(field)
            shown = "required" if default is MISSING else "" if default is None else f"`{toml(default)}`"
            rows.append((name, shown, meaning(field.description)))
    shared: dict[Row, list[str]] = defaultdict(list)
    for name, found in tables.items():
        for row in found:
            shared[row].append(name)
    for (key, default, text), names in shared.items():
        where = "*NAME*" if len(names) == len(tables) else names[0] if len(names) == 1 else "{" + ",".join(names) + "}"
        rows.append((f"{where}.{key}", default, text))
    if tables:
        rows.append(("*NAME*", "", f"one of {', '.join(f'`{name}`' for name in tables)}"))
    return rows


def settings_table() -> Iterator[Row]:
    """README's table of cmpd.toml."""
    for section, model in SECTIONS.items():
        for name, field in model.model_fields.items():
            if f"{section}.{name}" not in SECTIONS:
                default = default_of(field)
                shown = "required" if default is MISSING else "" if default is None else f"`{toml(default)}`"
                yield f"`{section}.{name}`", shown, meaning(field.description)


def certcentral_table() -> Iterator[Row]:
    """README's table of an issuer of type certcentral."""
    for name, field in CertCentralConfig.model_fields.items():
        default = default_of(field)
        shown = "required" if default is MISSING else "" if default is None else f"`{toml(default)}`"
        yield f"`{name}`", shown, meaning(field.description)


def limits_table() -> Iterator[Row]:
    """README's table of [limits]."""
    defaults = Limits()
    for name, text in attribute_meanings(Limits).items():
        yield f"`{name}`", f"{getattr(defaults, name):,}", text


def profile_table() -> Iterator[Row]:
    """README's table of a profile file."""
    for key, default, text in leaves(ProfileConfig):
        yield f"`{key}`".replace("*", ""), default, text


def walk(group: Any, path: str = "cmpd") -> Iterator[tuple[str, Any]]:
    """All commands below a group."""
    for name, command in group.commands.items():
        if getattr(command, "invoke_without_command", False):
            yield f"{path} {name}", command
        if hasattr(command, "commands"):
            yield from walk(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def commands() -> list[tuple[str, Any]]:
    """Every command with its path."""
    return list(walk(typer.main.get_command(cmpd.cli.app)))


ASKED = {question.parameter for question in questions()}
"""The options that answer the wizard's questions: they have a table of their own."""


def commands_table() -> Iterator[tuple[str, str]]:
    """README's table of commands."""
    for path, command in commands():
        words = [path]
        for parameter in command.params:
            if parameter.name in {"help", "config", "json"} or parameter.name in ASKED:
                continue
            if parameter.param_type_name == "argument":
                words.append(str(parameter.metavar))
                continue
            value = "" if getattr(parameter, "is_flag", False) else f" {parameter.metavar}"
            words.append(f"{parameter.opts[0]}{value}" if parameter.required else f"[{parameter.opts[0]}{value}]")
        if {parameter.name for parameter in command.params} >= ASKED:
            words.append("[answers]")
        yield f"`{' '.join(words)}`", meaning(command.help).split(". ")[0].removesuffix(".")


def wizard_table() -> Iterator[Row]:
    """README's table of the wizard's questions."""
    for page in PAGES:
        for question in page.questions:
            key = f"`{question.key}`" if question.key else "the file's name"
            yield f"`--{question.option}`", key, question.help
    yield f"`--{SET.option}`", "any", SET.help


def log_table() -> Iterator[tuple[str, str]]:
    """README's table of what is in the log record of an exchange."""
    meanings = attribute_meanings(Exchange) | {
        "profile": "The profile's name.",
        "address": "The client's IP address.",
        "reason": "The statusString of a refusal: what the client was told.",
    }
    for name in (*observe._FIELDS, "ms"):
        yield f"`{name}`", meanings[name]
    yield "`worker`", "Which worker it was, where there are several; in every record of it."
    yield "`event` `level` `timestamp`", "In every record; `event` is `exchange` here, `timestamp` is UTC."


def metrics_table() -> Iterator[Row]:
    """README's table of metrics."""
    registry = CollectorRegistry()
    observe.Metrics(registry)
    service = CollectorRegistry()
    observe.ServiceMetrics(service)
    own = [
        one for one, names in service._collector_to_names.items() if not set(names) & set(registry._names_to_collectors)
    ]
    for collector in (*registry._collector_to_names, *own):
        if isinstance(collector, MetricWrapperBase):
            (family,) = collector.describe()
            suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
            labels = ", ".join(f"`{label}`" for label in collector._labelnames)
            yield f"`{family.name}{suffix}`", labels, f"{meaning(family.documentation)} ({family.type})"
    yield "`process_…`", "", "CPU time, memory and file descriptors of the process."


TABLES: dict[str, tuple[tuple[str, ...], Callable[[], Iterable[tuple[str, ...]]]]] = {
    "commands": (("Command", "What it does"), commands_table),
    "wizard": (("Option", "Key", "What it means"), wizard_table),
    "settings": (("Key", "Default", "Meaning"), settings_table),
    "certcentral": (("Key of `[issuers.NAME]`", "Default", "Meaning"), certcentral_table),
    "limits": (("Key of `[limits]`", "Default", "Meaning"), limits_table),
    "profile": (("Key", "Default", "Meaning"), profile_table),
    "log": (("Field", "Meaning"), log_table),
    "metrics": (("Metric", "Labels", "Meaning"), metrics_table),
}


def rendered(name: str) -> str:
    """A table in Markdown."""
    head, rows = TABLES[name]
    lines = [head, tuple("---" for _ in head), *rows()]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def marked(name: str) -> re.Pattern[str]:
    """Where a table is in README.md."""
    return re.compile(rf"(?s)(<!-- table: {name} -->\n)(.*?)(\n<!-- end -->)")


@pytest.mark.parametrize("name", TABLES)
def test_readme_table_is_what_the_code_says(name: str) -> None:
    """When this fails, `python -m tests.test_docs` writes the table anew."""
    found = marked(name).search(README.read_text())
    assert found is not None
    assert found[2] == rendered(name)


@pytest.mark.parametrize("name", TABLES)
def test_every_row_has_a_meaning(name: str) -> None:
    """Whatever is new in the code brings its description."""
    rows = list(TABLES[name][1]())
    assert rows
    assert [row for row in rows if not row[-1]] == []


def test_the_settings_table_has_every_section() -> None:
    """A new section of cmpd.toml is a new line of SECTIONS."""
    sections = {name for name in Settings.model_fields if name not in {"path", "limits"}}
    assert {section.partition(".")[0] for section in SECTIONS} == sections


def test_every_limit_has_a_meaning() -> None:
    """The docstrings are complete."""
    assert set(attribute_meanings(Limits)) == set(Limits.__dataclass_fields__)


def test_readme_shows_the_commands_that_quickstart_prints() -> None:
    """Line by line, for the example's address and code."""
    text = README.read_text()
    (url,) = re.findall("(?m)^cmpd is serving  (.*)$", text)
    ((reference, secret),) = re.findall(r"-ref (\S+) -secret pass:(\S+)", text)
    assert "\n".join(enroll_commands(url, reference, secret)) in text


def uncommented(text: str) -> str:
    """The sample with every key switched on: `#key = value` and `#[section]`, unlike `# prose`."""
    return re.sub(r"(?m)^#(?=[a-z\[])", "", text)


def sample_entries() -> dict[str, tuple[Any, str]]:
    """Every key of the sample: its value and the comment above it."""
    entries: dict[str, tuple[Any, str]] = {}
    section, comment = "", ""
    for line in uncommented(SAMPLE.read_text()).splitlines():
        if heading := re.fullmatch(r"\[(.+)\]", line):
            section, comment = heading[1], ""
        elif line.startswith("# "):
            comment += line.removeprefix("#")
        elif entry := re.match(r"(\w+) = ", line):
            entries[f"{section}.{entry[1]}"] = (tomllib.loads(line)[entry[1]], meaning(comment))
            comment = ""
        else:
            comment = ""
    return entries


def test_sample_has_every_key_with_its_default_and_meaning() -> None:
    """config/cmpd.toml and the models name the same keys, defaults and meanings."""
    entries = sample_entries()
    expected: dict[str, tuple[Any, str]] = {}
    for section, model in (SECTIONS | OTHER_ISSUERS).items():
        where = section.replace("NAME", "local")
        for name, field in model.model_fields.items():
            if f"{section}.{name}" in SECTIONS:
                continue
            default = default_of(field)
            if default is MISSING or default is None:
                default = entries[f"{where}.{name}"][0]  # an example
            expected[f"{where}.{name}"] = (default, meaning(field.description))
    for name, text in attribute_meanings(Limits).items():
        expected[f"limits.{name}"] = (getattr(Limits(), name), text)
    assert entries == expected


def test_sample_loads_as_it_stands_and_with_every_key_switched_on(tmp_path: Path) -> None:
    """As it stands it means the defaults."""
    for text in (SAMPLE.read_text(), uncommented(SAMPLE.read_text())):
        (tmp_path / "cmpd.toml").write_text(text)
        loaded = Settings.load(tmp_path / "cmpd.toml")
        assert loaded.server.listen == settings.Listen("127.0.0.1", 8829)
        assert loaded.limits == Limits()
        LocalIssuerConfig.model_validate(loaded.issuer_table("local"), context={"base": tmp_path})
    table = loaded.issuer_table("digicert")
    del table["base_url"]  # in place of `region`
    CertCentralConfig.model_validate(table, context={"base": tmp_path})


def test_every_command_and_option_has_a_help_text() -> None:
    """`--help` leaves nothing open."""
    for path, command in commands():
        assert command.help, path
        assert all(getattr(option, "help", None) for option in command.params), path


WITHOUT_CONFIGURATION = {
    "cmpd quickstart", "cmpd init", "cmpd show", "cmpd schema", "cmpd template list", "cmpd template show",
}  # fmt: skip


def test_every_command_that_prints_has_json_and_every_command_on_a_configuration_has_config() -> None:
    """`--json` and `--config` are everywhere."""
    for path, command in commands():
        options = {name for option in command.params for name in option.opts}
        assert "--json" in options or path in {"cmpd serve", "cmpd schema"}, path
        assert "--config" in options or path in WITHOUT_CONFIGURATION, path


def write_tables() -> None:
    """Write the tables of README.md anew."""
    text = README.read_text()
    for name in TABLES:
        found = marked(name).search(text)
        assert found is not None, name
        text = f"{text[: found.end(1)]}{rendered(name)}{text[found.start(3) :]}"
    README.write_text(text)


def write_samples() -> None:
    """Write the schemas and samples of config/ anew."""
    with tempfile.TemporaryDirectory() as folder:
        for path, text in test_samples.generated(Path(folder)):
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_tables()
    write_samples()
