"""The stores behind `ports.Store`: SQLite and PostgreSQL; each runs the suite of tests/contract/store.py.

A store has two faces. `ports.Store` is what a running server asks. `AdminStore` adds the verbs of an operator (codes
are made, listed and revoked, service users and devices are listed …); the CLI calls them from a process of its own,
beside the daemon.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Protocol, runtime_checkable

from cmpd.exchange import (
    CertificateStatus,
    Device,
    EnrollmentCode,
    IssuedCertificate,
    NewCode,
    Order,
    OrderState,
    OutsideState,
    Refusal,
    Seat,
    ServiceUserCertificate,
)
from cmpd.ports import NodeStore, OrderStore, OutsideStore, Store, StoreUnavailable

REFUSALS = 500
"""How many refusals a store keeps unless it is told another number."""


class StoreRefused(StoreUnavailable):
    """The store cannot be opened as it is configured: foreign file, newer schema, wrong key … The operator must act."""


class ReferenceTaken(Exception):
    """The profile has an enrollment code of this reference already; nothing has been kept."""


class ReferencesTaken(ReferenceTaken):
    """Some of many references are taken already, or twice among the many; nothing has been kept."""

    def __init__(self, taken: Sequence[tuple[str, str]]) -> None:
        super().__init__(", ".join(f"profile {profile}: {reference!r}" for profile, reference in taken))
        self.taken = tuple(taken)
        """Profile and reference of each, in the order of the call."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """How much `AdminStore.prune` has deleted."""

    certificates: int = 0
    orders: int = 0
    counters: int = 0


@dataclass(frozen=True, slots=True)
class OutsideWaiting:
    """Certificates that are revoked here and not yet over there."""

    state: OutsideState
    certificates: int
    oldest: datetime
    """When the first of them was revoked here."""


@runtime_checkable
class AdminStore(Store, OrderStore, OutsideStore, NodeStore, Protocol):
    """A store with the operator's verbs. Every method may raise `StoreUnavailable`."""

    async def create_code(
        self,
        profile: str,
        reference: str,
        secret: bytes,
        uses: int | None,
        expires: datetime | None,
        now: datetime,
        *,
        valid_from: datetime | None = None,
        seat: str | None = None,
        subject: str | None = None,
        san: Sequence[str] = (),
        key: str | None = None,
        is_global: bool = False,
    ) -> EnrollmentCode:
        """Keep a new enrollment code, its secret encrypted; see `EnrollmentCode`. Raises `ReferenceTaken`."""

    async def create_codes(
        self, codes: Sequence[NewCode], now: datetime, *, progress: Callable[[int], None] | None = None
    ) -> None:
        """Keep many new enrollment codes in one commit, all or none; `progress` hears how many are done.

        Raises `ReferencesTaken`, which names every one that is in the way.
        """

    async def codes(self, profile: str | None = None) -> list[EnrollmentCode]:
        """All enrollment codes, oldest first, without their secrets (`secret` is empty). Reads only."""

    async def codes_with_secrets(
        self, profile: str | None = None, *, wanted: Callable[[EnrollmentCode], bool] | None = None
    ) -> list[EnrollmentCode]:
        """Enrollment codes with their secrets, oldest first, for export: those that are `wanted`. Reads only.

        `wanted` is asked before the secret is decrypted.
        """

    async def revoke_code(self, profile: str, reference: str, now: datetime) -> bool:
        """Revoke an enrollment code; False when it is not known or was revoked before."""

    async def unlock_code(self, profile: str, reference: str) -> bool:
        """Forget the locks of an enrollment code; False when it is not known or has none."""

    async def add_service_user(self, entry: ServiceUserCertificate) -> bool:
        """Add a certificate to a service user; False when it is there already. Raises ValueError for an empty one."""

    async def remove_service_user(
        self,
        user: str,
        fingerprint: str | None = None,
        *,
        issuer: bytes | None = None,
        subject: bytes | None = None,
    ) -> int:
        """Remove one certificate of a service user (fingerprint, or issuer and subject), else all; return how many."""

    async def service_users(self, user: str | None = None) -> list[ServiceUserCertificate]:
        """The certificates of service users, by user and oldest first. Reads only."""

    async def import_devices(self, profile: str, devices: Sequence[Device]) -> tuple[int, int]:
        """Add devices to a profile's list, or change their seat and subject, in one commit: how many added, changed.

        `profile` counts, not that of the devices; of a serial number that is there twice, the last one counts.
        """

    async def devices(self, profile: str, limit: int) -> list[Device]:
        """The devices of a profile by serial number, at most `limit`. Reads only."""

    async def remove_device(self, profile: str, serial: str) -> bool:
        """Take a device from a profile's list; False when it is not there."""

    async def certificates(
        self, limit: int, profile: str | None = None, status: CertificateStatus | None = None
    ) -> Sequence[IssuedCertificate]:
        """The latest certificates, newest first, at most `limit`. Reads only."""

    async def orders(
        self,
        limit: int,
        states: Iterable[OrderState] | None = None,
        profile: str | None = None,
        issuer: str | None = None,
    ) -> list[Order]:
        """The latest orders, newest first, at most `limit`; `states` None: of every state. Reads only."""

    async def order_of(self, stamp: str) -> Order | None:
        """The order of this stamp, or the only one whose stamp begins so. Reads only."""

    async def outside_waiting(self, issuer: str) -> list[OutsideWaiting]:
        """How many revocations of an issuer are due, asked for and held over there; without those that are none."""

    async def seats(self, limit: int, profile: str | None = None) -> list[Seat]:
        """The seats, the one that was issued to last comes first, at most `limit`. Reads only."""

    async def seat(self, profile: str, id: str) -> tuple[Seat, list[IssuedCertificate]] | None:
        """One seat with all its certificates, newest first; None when nothing was issued to it. Reads only."""

    async def refusals(self, limit: int, profile: str | None = None) -> list[Refusal]:
        """The latest refusals, newest first, at most `limit`, without their requests. Reads only."""

    async def refusal_of(self, number: int) -> Refusal | None:
        """One refusal by its number, with its request. Reads only."""

    async def prune(
        self, *, certificates: datetime | None = None, orders: datetime | None = None, counters: datetime | None = None
    ) -> Pruned:
        """Delete what has ended long ago, in steps that let others have their turn; None keeps all of a kind.

        Certificates that expired before `certificates`, but for those whose key was compromised; orders that ended
        before `orders` and whose transaction is forgotten; the counts of days before `counters`.
        """

    async def size(self) -> int:
        """How many octets it has on the disk. Reads only."""


@dataclass(frozen=True, slots=True)
class Database:
    """What a store on a database server is told beside its URL."""

    password: str | None = field(default=None, repr=False)
    """The role's password; None: as the URL, PGPASSFILE and the like say."""
    connections: int = 8
    """The most connections to the server."""
    statement_timeout: float = 5.0
    """Seconds after which the server gives a statement up."""
    statement_cache: bool = True
    """Whether statements are prepared once for each connection; not by way of pgbouncer in transaction mode."""
    migrate: bool = True
    """Whether an older schema is brought up to date when the store is opened; else it is refused."""


_DEFAULT = Database()


async def open_store(
    url: str, *, base: Path, key: bytes, refusals: int = REFUSALS, database: Database = _DEFAULT
) -> AdminStore:
    """Open the store of `[store] url`, relative to `base`; `key` is the 32 octets in `[store] key_file`.

    So many `refusals` are kept, the latest.
    Raises `StoreRefused` when it cannot be this store, `StoreUnavailable` when it cannot be had now.
    """
    scheme, separator, rest = url.partition(":")
    if scheme in {"postgresql", "postgres"} and separator:
        from cmpd.store.postgres import PostgresStore  # noqa: PLC0415  only the chosen store's driver is loaded

        return await PostgresStore.open(url, key, refusals=refusals, database=database)
    if scheme != "sqlite" or not separator:
        raise StoreRefused(
            f"[store] url: {scheme or url!r} is not a store that cmpd knows;"
            " write sqlite:///cmpd.db or postgresql://cmpd@db.example.com/cmpd"
        )
    if not rest.startswith("///") or rest == "///":
        raise StoreRefused(
            "[store] url: write sqlite:///cmpd.db (relative) or sqlite:////var/lib/cmpd/cmpd.db (absolute)"
        )
    from cmpd.store.sqlite import SQLiteStore  # noqa: PLC0415  only the chosen store's driver is loaded

    return await SQLiteStore.open(base / rest[3:], key, refusals=refusals)


async def migrate_store(url: str, *, base: Path, key: bytes, database: Database = _DEFAULT) -> None:
    """Bring a store up to date, or make it, whatever `database.migrate` says; raises as `open_store` does."""
    store = await open_store(url, base=base, key=key, database=replace(database, migrate=True))
    await store.close()
