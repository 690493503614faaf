"""Issuers are found by entry point, and what is wrong with one is said in one line."""

from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest

from cmpd import issuers
from cmpd.issuers import IssuerConfigError, load
from cmpd.issuers.local import CreatedCA, LocalIssuer

BROKEN = "tests.issuers.test_load"


class NoIssuer:
    """A factory whose product is nothing."""

    @staticmethod
    def from_config(table: dict[str, Any], base: Path, url: str, name: str) -> object:
        return object()


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Entry points as an installed cmpd has them, and those that a test adds."""

    def register(**points: str) -> None:
        found = EntryPoints(EntryPoint(name, value, issuers.GROUP) for name, value in points.items())
        monkeypatch.setattr(issuers, "entry_points", lambda group: found.select(group=group))

    register(local="cmpd.issuers.local:LocalIssuer", other="nowhere:Issuer", odd=f"{BROKEN}:NoIssuer")
    return register


def refused(table: dict[str, Any], base: Path = Path()) -> str:
    with pytest.raises(IssuerConfigError) as caught:
        load("ca", table, base=base, url="http://cmp.example")
    return str(caught.value)


def test_the_project_registers_its_issuers() -> None:
    """pyproject.toml names what exists."""
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][issuers.GROUP] == {
        "local": "cmpd.issuers.local:LocalIssuer",
        "certcentral": "cmpd.issuers.certcentral:CertCentralIssuer",
    }


def test_the_local_issuer_is_loaded_by_its_type(ca: CreatedCA) -> None:
    issuer = load("ca", ca.table(ca.directory), base=ca.directory, url="http://cmp.example/")
    assert isinstance(issuer, LocalIssuer)
    assert issuer.name == "ca"
    assert issuer.crl_url == "http://cmp.example/crl/ca.crl"


def test_an_unknown_type_names_those_that_exist() -> None:
    assert refused({"type": "vault"}) == (
        "issuers.ca.type: 'vault' is no issuer that is installed; there are: local, odd, other"
    )
    assert "did you mean local? there are: local, odd, other" in refused({"type": "locale"})


@pytest.mark.parametrize("table", [{}, {"type": None}])
def test_a_missing_type_names_those_that_exist(table: dict[str, Any]) -> None:
    assert refused(table) == "issuers.ca.type: missing; there are: local, odd, other"


def test_nothing_registered_at_all(registered: Callable[..., None]) -> None:
    registered()
    assert "no issuer is registered under the entry-point group cmpd.issuers; install cmpd" in refused(
        {"type": "local"}
    )


def test_a_package_that_cannot_be_imported_is_named() -> None:
    assert "issuers.ca.type: 'other' (nowhere:Issuer) cannot be imported: No module named 'nowhere'" in refused(
        {"type": "other"}
    )


def test_something_that_is_no_issuer_is_refused() -> None:
    assert "made something without issue() and chain()" in refused({"type": "odd"})


def test_every_wrong_key_is_named(tmp_path: Path) -> None:
    """Unknown, missing and of the wrong type, each with what to do, and without the value."""
    text = refused(
        {"type": "local", "certificat": "x", "zzz": 1, "key": 7, "crl_validity": "7 days", "crl_url": "pki/ca.crl"},
        tmp_path,
    )
    assert sorted(text.splitlines()) == sorted(
        [
            "issuers.ca.certificat: unknown key; did you mean certificate?",
            (
                "issuers.ca.zzz: unknown key; known here: ca_issuers_url, certificate, chain, "
                "cmp_certificate, cmp_key, crl_url, crl_validity, key, passphrase_file, type"
            ),
            "issuers.ca.certificate: missing; set it",
            "issuers.ca.passphrase_file: missing; set it",
            "issuers.ca.cmp_certificate: missing; set it",
            "issuers.ca.cmp_key: missing; set it",
            "issuers.ca.key: not a path; write the path of a file",
            (
                'issuers.ca.crl_validity: is not a duration such as "90s", "10m", "12h", "7d", "6mo" or "2y"; '
                "correct the value"
            ),
            'issuers.ca.crl_url: not a URL that clients can use; write for instance "http://pki.example.com/ca.crl"',
        ]
    )
