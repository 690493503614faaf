"""CAs of every key type, made once for all tests of this folder that only read them."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.contract.issuer")

from cmpd.issuers.local import CreatedCA, LocalIssuer, create_ca  # noqa: E402

URL = "http://cmp.example:8829"


@pytest.fixture(scope="session")
def made_ca(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], CreatedCA]:
    """The CA of a key type."""
    made: dict[str, CreatedCA] = {}

    def make(key_type: str) -> CreatedCA:
        if key_type not in made:
            made[key_type] = create_ca(tmp_path_factory.mktemp(key_type) / "ca", key_type=key_type)
        return made[key_type]

    return make


@pytest.fixture
def local_issuer(made_ca: Callable[[str], CreatedCA]) -> Callable[[str], LocalIssuer]:
    """A fresh LocalIssuer on the CA of a key type."""

    def make(key_type: str = "ec-p256") -> LocalIssuer:
        ca = made_ca(key_type)
        return LocalIssuer.from_config(ca.table(ca.directory), base=ca.directory, url=URL, name="local")

    return make


@pytest.fixture
def ca(tmp_path: Path) -> CreatedCA:
    """A CA of the test's own, to be spoilt."""
    return create_ca(tmp_path / "ca")


def openssl(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the real thing."""
    return subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
