"""The real daemon on both stores."""

from collections.abc import Iterator

import pytest

from tests import postgres


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def site_store(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """The `store_url` of a site."""
    if request.param == "sqlite":
        yield None
    else:
        with postgres.empty() as url:
            yield url
