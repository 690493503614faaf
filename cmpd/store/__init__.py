"""The stores behind `ports.Store`: SQLite now; each is one module here and runs the suite of tests/contract/store.py.

A store has two faces. `ports.Store` is what a running server asks. `AdminStore` adds the verbs of an operator (codes
are made, listed and revoked, certificates are listed); the CLI calls them from a process of its own, beside the daemon.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol, runtime_checkable

from cmpd.exchange import CertificateStatus, EnrollmentCode, IssuedCertificate, Refusal, Seat
from cmpd.ports import Store, StoreUnavailable

REFUSALS = 500
"""How many refusals a store keeps unless it is told another number."""


class StoreRefused(StoreUnavailable):
    """The store cannot be opened as it is configured: foreign file, newer schema, wrong key … The operator must act."""


class ReferenceTaken(Exception):
    """The profile has an enrollment code of this reference already; nothing has been kept."""


@runtime_checkable
class AdminStore(Store, Protocol):
    """A store with the operator's verbs. Every method may raise `StoreUnavailable`."""

    async def create_code(
        self, profile: str, reference: str, secret: bytes, uses: int | None, expires: datetime | None, now: datetime
    ) -> EnrollmentCode:
        """Keep a new enrollment code, its secret encrypted. Raises `ReferenceTaken`."""

    async def codes(self, profile: str | None = None) -> list[EnrollmentCode]:
        """All enrollment codes, oldest first, without their secrets (`secret` is empty). Reads only."""

    async def revoke_code(self, profile: str, reference: str, now: datetime) -> bool:
        """Revoke an enrollment code; False when it is not known or was revoked before."""

    async def certificates(
        self, limit: int, profile: str | None = None, status: CertificateStatus | None = None
    ) -> Sequence[IssuedCertificate]:
        """The latest certificates, newest first, at most `limit`. Reads only."""

    async def seats(self, limit: int, profile: str | None = None) -> list[Seat]:
        """The seats, the one that was issued to last comes first, at most `limit`. Reads only."""

    async def seat(self, profile: str, id: str) -> tuple[Seat, list[IssuedCertificate]] | None:
        """One seat with all its certificates, newest first; None when nothing was issued to it. Reads only."""

    async def refusals(self, limit: int, profile: str | None = None) -> list[Refusal]:
        """The latest refusals, newest first, at most `limit`, without their requests. Reads only."""

    async def refusal_of(self, number: int) -> Refusal | None:
        """One refusal by its number, with its request. Reads only."""


async def open_store(url: str, *, base: Path, key: bytes, refusals: int = REFUSALS) -> AdminStore:
    """Open the store of `[store] url`, relative to `base`; `key` is the 32 octets in `[store] key_file`.

    So many `refusals` are kept, the latest.
    Raises `StoreRefused` when it cannot be this store, `StoreUnavailable` when it cannot be had now.
    """
    scheme, separator, rest = url.partition(":")
    if scheme != "sqlite" or not separator:
        raise StoreRefused(f"[store] url: {scheme or url!r} is not a store that cmpd knows; write sqlite:///cmpd.db")
    if not rest.startswith("///") or rest == "///":
        raise StoreRefused(
            "[store] url: write sqlite:///cmpd.db (relative) or sqlite:////var/lib/cmpd/cmpd.db (absolute)"
        )
    from cmpd.store.sqlite import SQLiteStore  # noqa: PLC0415  only the chosen store's driver is loaded

    return await SQLiteStore.open(base / rest[3:], key, refusals=refusals)
