"""Rules about imports that import-linter cannot say; the layers themselves are in pyproject.toml."""

import ast
from pathlib import Path

import cmpd

PACKAGE = Path(cmpd.__file__).parent


def test_only_the_codec_knows_the_unstable_asn1_api() -> None:
    """`cryptography.hazmat.asn1` is documented as unstable: one folder, and the pin in pyproject.toml, follow it."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            if any(f"{module}.{name}".lstrip(".").startswith("cryptography.hazmat.asn1") for name in names):
                found.add(path.relative_to(PACKAGE).parts[0])
    assert found == {"asn1"}


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    names = {path.stem for path in PACKAGE.rglob("*.py")} | {path.name for path in PACKAGE.rglob("*") if path.is_dir()}
    assert not {name for name in names if name.strip("_") in {"utils", "util", "helpers", "helper", "common", "misc"}}
