"""`cmpd profile show` and `cmpd template`: what is in effect in a profile, and what it starts from."""

from pathlib import Path

from cmpd.cli.draft import literal
from cmpd.cli.operation import faults, profile_of, url_of, well_known_url_of
from cmpd.cli.output import OperatorError, plain, write, write_json, write_table
from cmpd.profile import Template, effective, template, templates
from cmpd.settings import Settings


def show(path: Path, name: str, *, json: bool) -> None:
    """Print every key with its value and where that comes from."""
    with faults():
        settings = Settings.load(path)
        profile = profile_of(settings, name)
        file = settings.profiles.directory / f"{profile.name}.toml"
        rows = effective(file)
    if json:
        write_json(
            {
                "name": profile.name,
                "file": str(file),
                "base_template": profile.base_template,
                "url": url_of(settings, profile),
                "well_known_url": well_known_url_of(settings, profile),
                "values": [
                    {"key": key, "value": value if _is_json(value) else str(value), "source": source}
                    for key, value, source in rows
                ],
            }
        )
        return
    write_table(
        ("KEY", "VALUE", "FROM"),
        ((plain(key), plain(literal(value)), source) for key, value, source in rows),
        empty="",
    )


def _is_json(value: object) -> bool:
    return isinstance(value, str | int | float | list | dict | None)


def show_templates(*, json: bool) -> None:
    """Print the templates' names and what each is for."""
    found = [template(name) for name in templates()]
    if json:
        write_json([{"name": one.name, "title": one.title, "seat": one.seat} for one in found])
    else:
        write_table(("NAME", "SEAT", "FOR"), ((one.name, one.seat, one.title) for one in found), empty="")


def show_template(name: str, *, json: bool) -> None:
    """Print a template's file, or what is in it as JSON."""
    if name not in templates():
        raise OperatorError(f"template {plain(name)}: there is none; there are: {', '.join(templates())}")
    found: Template = template(name)
    if json:
        write_json(found.model_dump(mode="json", exclude={"text"}, exclude_none=True, exclude_defaults=True))
    else:
        write(found.text.rstrip("\n"))
