"""A backup: one plain SQLite file of cmpd's own schema, made from a store of any kind and read back into any.

It is made beside its name, checked, flushed and then named, for its owner only. It holds enrollment codes as the store
does: encrypted, so that it is worth nothing without the key of [store] key_file.
"""

import os
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from cmpd.store import StoreRefused
from cmpd.store.copying import MOMENTARY, UNFINISHED
from cmpd.store.group_commit import unavailable
from cmpd.store.maintenance import Kept, Progress, Restored
from cmpd.store.rows import datetime_of, seconds_of, serials_of
from cmpd.store.schema import APPLICATION_ID, check_key, migrate, refuse_foreign
from cmpd.store.sealing import Sealing

PAGES = 2048
"""Pages that are copied between two reports (8 MB)."""
TAKEN_AT = "backup"
"""The name in the table `store` of a backup that says when it was taken, in seconds since 1970."""
SIDE_FILES = ("-wal", "-shm")
"""What SQLite puts beside a database in WAL mode."""


def seal(target: sqlite3.Connection, part: Path, now: datetime, progress: Progress) -> Kept:
    """Make one plain file of what has been copied, and see that it is sound."""
    target.execute("PRAGMA synchronous = OFF")  # it is flushed as a whole in the end
    target.execute("PRAGMA journal_mode = DELETE")
    target.execute("INSERT OR REPLACE INTO store (name, value) VALUES (?, ?)", (TAKEN_AT, seconds_of(now)))
    progress("verify", 0, 1)
    found = [row[0] for row in target.execute("PRAGMA integrity_check(5)")]
    if found != ["ok"]:
        raise StoreRefused(f"{part}: the copy is damaged, and so the store may be: {'; '.join(found)}")
    progress("verify", 1, 1)
    (certificates,) = target.execute("SELECT count(*) FROM certificate").fetchone()
    size = pragma(target, "page_count") * pragma(target, "page_size")
    return Kept(now, pragma(target, "user_version"), certificates, size)


@contextmanager
def opened(file: Path, key: bytes, *, check: Progress) -> Iterator[sqlite3.Connection]:
    """A backup, sound and of this key, to be read."""
    if not file.is_file():
        raise StoreRefused(f"{file}: no such file; name one that `cmpd store backup` has made")
    mode = "ro&immutable=1" if not file.with_name(f"{file.name}-wal").exists() else "rw"
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode={mode}", uri=True)) as source:
            source.isolation_level = None
            refuse_foreign(file, source)
            if pragma(source, "application_id") != APPLICATION_ID or pragma(source, "user_version") == 0:
                raise StoreRefused(f"{file}: is empty; name a file that `cmpd store backup` has made")
            check("verify", 0, 1)
            found = [row[0] for row in source.execute("PRAGMA integrity_check(5)")]
            if found != ["ok"]:
                raise StoreRefused(f"{file}: damaged: {'; '.join(found)}; take another backup")
            check("verify", 1, 1)
            if note(source, UNFINISHED) is not None:
                raise StoreRefused(f"{file}: a copy into it has not been finished; it is no backup")
            try:
                check_key(file, source, Sealing(key))
            except StoreRefused:
                raise StoreRefused(
                    f"{file}: [store] key_file is not the key that this backup was made with: put back the"
                    " secrets/store.key that was kept with it"
                ) from None
            yield source
    except sqlite3.Error as error:
        raise unavailable(file, error, StoreRefused) from error


def _provide(connection: sqlite3.Connection, now: datetime, issuers: Sequence[str], *, revoke_codes: bool) -> Restored:
    """Provide for what has happened after the backup, of which it knows nothing.

    CRL numbers go on above all that can have been given out: with milliseconds since 1970; no CRL of before is served
    any more. A certificate whose certConf was awaited counts as confirmed: the sweep would revoke what the client may
    use. An order that was about to be placed is looked for at its issuer first, and not placed twice.
    """
    seconds = seconds_of(now)
    taken_at = note(connection, TAKEN_AT)
    connection.execute("DELETE FROM store WHERE name IN (?, ?)", (TAKEN_AT, UNFINISHED))
    for table in MOMENTARY:
        connection.execute(f"DELETE FROM {table}")  # noqa: S608  constants only
    number = seconds * 1000
    connection.executemany(
        "INSERT INTO issuer (name, crl_number) VALUES (?, ?) ON CONFLICT (name) DO NOTHING",
        [(name, number) for name in issuers],
    )
    connection.execute("UPDATE issuer SET crl_number = max(crl_number, ?)", (number,))
    confirmed = 0
    for row, serials in connection.execute(
        "SELECT id, serials FROM cmp_transaction WHERE state = 'unconfirmed' AND confirm_by IS NOT NULL"
    ).fetchall():
        for serial in serials_of(serials):
            confirmed += connection.execute(
                "UPDATE certificate SET status = 'valid' WHERE serial = ? AND status = 'unconfirmed'", (serial,)
            ).rowcount
        connection.execute("UPDATE cmp_transaction SET state = 'confirmed' WHERE id = ?", (row,))
    orders = connection.execute(
        "UPDATE cert_order SET state = 'unknown', updated = ?1, due = ?1 WHERE state IN ('intended', 'submitting')",
        (seconds,),
    ).rowcount
    codes = 0
    if revoke_codes:
        codes = connection.execute(
            "UPDATE enrollment_code SET revoked_at = ? WHERE revoked_at IS NULL AND (expires IS NULL OR expires > ?)"
            " AND (uses IS NULL OR used < uses)",
            (seconds, seconds),
        ).rowcount
    (certificates,) = connection.execute("SELECT count(*) FROM certificate").fetchone()
    return Restored(
        None if taken_at is None else datetime_of(taken_at), certificates, confirmed, orders, codes, replaced=None
    )


def unpack(
    file: Path,
    part: Path,
    key: bytes,
    now: datetime,
    issuers: Sequence[str],
    *,
    revoke_codes: bool,
    progress: Progress,
) -> Restored:
    """Make a database of a backup, in a file that is there and empty: migrated, and ready to serve from."""
    try:
        with opened(file, key, check=progress) as source, closing(_plain(part)) as target:
            copy_pages(source, target, progress)
        with closing(_plain(part)) as target:
            target.execute("PRAGMA synchronous = OFF")  # it is flushed as a whole in the end
            target.execute("BEGIN IMMEDIATE")
            migrate(target, Sealing(key))
            restored = _provide(target, now, issuers, revoke_codes=revoke_codes)
            target.execute("COMMIT")
            target.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise unavailable(part, error) from error
    return restored


def copy_pages(source: sqlite3.Connection, target: sqlite3.Connection, progress: Progress) -> None:
    """Copy a whole database, as of now or of the transaction that the source has begun."""
    source.backup(target, pages=PAGES, progress=lambda _, left, total: progress("copy", total - left, total))


def _plain(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


@contextmanager
def new_file(file: Path) -> Iterator[Path]:
    """A file for its owner only that appears under its name when it is whole and on the disk; overwrites nothing."""
    if os.path.lexists(file):
        raise StoreRefused(f"{file}: exists already and is not overwritten; choose another name")
    with beside(file) as part:
        yield part
        sync(part)
        try:
            os.link(part, file)
        except FileExistsError:
            raise StoreRefused(f"{file}: exists already and is not overwritten; choose another name") from None
        except OSError:  # a file system without links
            part.rename(file)
        sync(file.parent)


@contextmanager
def beside(file: Path) -> Iterator[Path]:
    """A new file beside one, for its owner only; away in the end if it is still there."""
    try:
        descriptor, name = tempfile.mkstemp(".part", f".{file.name}.", file.parent)
    except OSError as error:
        raise StoreRefused(f"{file}: cannot be written: {error.strerror}; name a folder that is yours") from None
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        for side in ("", *SIDE_FILES, "-journal"):
            Path(f"{name}{side}").unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def own_as(path: Path, other: Path) -> None:
    """Give a file to the owner of another one, where we may: root restores what the user cmpd will open."""
    status = other.stat()
    with suppress(PermissionError):
        os.chown(path, status.st_uid, status.st_gid)


def pragma(connection: sqlite3.Connection, name: str) -> int:
    """A number that a PRAGMA tells."""
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def note(connection: sqlite3.Connection, name: str) -> Any:
    """A value of the table `store`; None when there is none."""
    row = connection.execute("SELECT value FROM store WHERE name = ?", (name,)).fetchone()
    return None if row is None else row[0]
