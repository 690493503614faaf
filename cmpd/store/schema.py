"""The SQLite schema as numbered migrations: `PRAGMA user_version` says how many of them a database has had.

Migrations are never edited once released, only added. No STRICT tables and no RETURNING: the SQLite 3.26 of RHEL 8 is
enough. Times are whole seconds since 1970, UTC. A serial number is 20 octets, big-endian: the longest that
RFC 5280 §4.1.2.2 allows. Rows are kept in the order of their arrival (rowid): they are appended, and only the two
indexes over random values (transactionID, serial number) are written all over the place.
"""

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from cmpd.store import StoreRefused
from cmpd.store.sealing import Sealing, WrongKey

LOCK_SECONDS = 5.0
"""How long another process may hold the write lock before callers are told that the store is unavailable."""
CACHE_KIB = 8192
"""The page cache of the writing connection; the reading one has a quarter of it."""
CHECKPOINT_PAGES = 2000
"""The WAL is copied into the database file when it has grown to so many pages (8 MB)."""
APPLICATION_ID = 0x636D7064
"""`PRAGMA application_id`: "cmpd" in ASCII."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE store (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
        "INSERT INTO store (name, value) VALUES ('ready', 0)",
        """
        CREATE TABLE cmp_transaction (
            id INTEGER PRIMARY KEY,
            transaction_id BLOB NOT NULL UNIQUE,
            state TEXT NOT NULL,
            created INTEGER NOT NULL,
            confirm_by INTEGER,
            profile TEXT NOT NULL,
            operation TEXT NOT NULL,
            credential TEXT NOT NULL,
            serials BLOB NOT NULL,            -- 20 octets each, in the order of certReqId
            nonce BLOB NOT NULL,
            first_request BLOB NOT NULL,
            first_reply BLOB NOT NULL,
            last_request BLOB,
            last_reply BLOB
        )
        """,
        "CREATE INDEX unconfirmed_transaction ON cmp_transaction (confirm_by) WHERE state = 'unconfirmed'",
        """
        CREATE TABLE certificate (
            serial BLOB NOT NULL PRIMARY KEY,
            status TEXT NOT NULL,
            issuer TEXT NOT NULL,
            profile TEXT NOT NULL,
            issued_at INTEGER NOT NULL,
            not_after INTEGER NOT NULL,
            transaction_id BLOB NOT NULL,
            cert_req_id INTEGER NOT NULL,
            revoked_at INTEGER,
            reason INTEGER,
            spki_sha256 BLOB,                 -- SHA-256 of the SubjectPublicKeyInfo
            der BLOB NOT NULL
        )
        """,
        "CREATE INDEX revoked_certificate ON certificate (issuer, not_after) WHERE status = 'revoked'",
        """
        CREATE TABLE issuer (
            name TEXT PRIMARY KEY,
            revocations INTEGER NOT NULL DEFAULT 0,
            crl_number INTEGER NOT NULL DEFAULT 0
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE enrollment_code (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            profile TEXT NOT NULL,
            reference TEXT NOT NULL,
            sealed BLOB NOT NULL,
            uses INTEGER,
            used INTEGER NOT NULL DEFAULT 0,
            created INTEGER NOT NULL,
            expires INTEGER,
            revoked_at INTEGER,
            UNIQUE (profile, reference)
        )
        """,
    ),
    (
        "ALTER TABLE certificate ADD COLUMN seat TEXT",
        # eight octets tell keys apart as well as 32 and make an index a third of the size
        "CREATE INDEX key_of_certificate ON certificate (substr(spki_sha256, 1, 8)) WHERE spki_sha256 IS NOT NULL",
        "CREATE INDEX seat_of_certificate ON certificate (profile, seat) WHERE seat IS NOT NULL",
        """
        CREATE TABLE issued_per_day (
            profile TEXT NOT NULL,
            day INTEGER NOT NULL,             -- days since 1970, UTC
            certificates INTEGER NOT NULL,
            PRIMARY KEY (profile, day)
        ) WITHOUT ROWID
        """,
        "INSERT INTO issued_per_day SELECT profile, issued_at / 86400, count(*) FROM certificate GROUP BY 1, 2",
        """
        CREATE TABLE refusal (
            id INTEGER PRIMARY KEY,
            at INTEGER NOT NULL,
            profile TEXT NOT NULL,
            operation TEXT NOT NULL,
            transaction_id TEXT NOT NULL,     -- hexadecimal
            credential TEXT NOT NULL,
            address TEXT NOT NULL,
            fail_info TEXT NOT NULL,
            reason TEXT NOT NULL,
            private TEXT NOT NULL,
            findings TEXT NOT NULL,           -- JSON: [[rule, field, ok, text], …]
            request BLOB
        )
        """,
    ),
    (
        "ALTER TABLE enrollment_code ADD COLUMN valid_from INTEGER",
        "ALTER TABLE enrollment_code ADD COLUMN seat TEXT",
        "ALTER TABLE enrollment_code ADD COLUMN subject TEXT",
        "ALTER TABLE enrollment_code ADD COLUMN san TEXT",  # JSON: [expression, …]
        "ALTER TABLE enrollment_code ADD COLUMN spki_sha256 BLOB",
        "ALTER TABLE enrollment_code ADD COLUMN is_global INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE enrollment_code ADD COLUMN locked_until INTEGER",
        "ALTER TABLE enrollment_code ADD COLUMN locks INTEGER NOT NULL DEFAULT 0",
        "CREATE INDEX global_code ON enrollment_code (profile) WHERE is_global = 1 AND revoked_at IS NULL",
        """
        CREATE TABLE service_user (
            id INTEGER PRIMARY KEY,
            user TEXT NOT NULL,
            fingerprint BLOB,                 -- SHA-256 of the certificate; else issuer and subject say which
            issuer BLOB,                      -- Name, DER
            subject BLOB,                     -- Name, DER
            label TEXT NOT NULL,
            added INTEGER NOT NULL,
            CHECK (fingerprint IS NOT NULL OR (issuer IS NOT NULL AND subject IS NOT NULL))
        )
        """,
        """
        CREATE UNIQUE INDEX fingerprint_of_service_user ON service_user (user, fingerprint)
            WHERE fingerprint IS NOT NULL
        """,
        "CREATE UNIQUE INDEX names_of_service_user ON service_user (user, issuer, subject) WHERE fingerprint IS NULL",
        """
        CREATE TABLE device (
            profile TEXT NOT NULL,
            serial TEXT NOT NULL,             -- as the vendor's certificate names it
            seat TEXT,
            subject TEXT,                     -- RFC 4514 style
            added INTEGER NOT NULL,
            PRIMARY KEY (profile, serial)
        ) WITHOUT ROWID
        """,
    ),
    (
        """
        CREATE TABLE cert_order (
            id INTEGER PRIMARY KEY,
            stamp TEXT NOT NULL UNIQUE,
            transaction_row INTEGER REFERENCES cmp_transaction (id) ON DELETE SET NULL,
            transaction_id BLOB NOT NULL,
            cert_req_id INTEGER NOT NULL,
            profile TEXT NOT NULL,
            issuer TEXT NOT NULL,
            credential TEXT NOT NULL,
            seat TEXT,
            spki_sha256 BLOB NOT NULL,
            state TEXT NOT NULL,
            collected INTEGER NOT NULL,       -- 1: it has ended, and a final answer has said so
            created INTEGER NOT NULL,
            updated INTEGER NOT NULL,
            due INTEGER NOT NULL,
            ticket TEXT NOT NULL,
            attempts INTEGER NOT NULL,
            serial BLOB,
            implicit INTEGER NOT NULL,
            text TEXT NOT NULL,
            fail_info TEXT NOT NULL,
            private TEXT NOT NULL,
            chain BLOB NOT NULL,              -- SHA-256 of each CA certificate, 32 octets each
            approved TEXT NOT NULL            -- JSON
        )
        """,
        # Finished orders stay for good: but for the stamp, no index holds them longer than somebody may ask for them.
        """
        CREATE INDEX order_of_transaction ON cert_order (transaction_row, cert_req_id)
            WHERE transaction_row IS NOT NULL
        """,
        "CREATE INDEX order_of_key ON cert_order (spki_sha256) WHERE collected = 0",
        """
        CREATE INDEX order_of_seat ON cert_order (profile, seat)
            WHERE seat IS NOT NULL AND state NOT IN ('issued', 'failed')
        """,
        "CREATE INDEX open_order ON cert_order (issuer, state) WHERE state NOT IN ('issued', 'failed')",
        """
        CREATE INDEX due_order ON cert_order (issuer, due)
            WHERE state IN ('intended', 'submitting', 'unknown', 'ordered')
        """,
        # The chains of a great many certificates are few.
        "CREATE TABLE ca_certificate (sha256 BLOB PRIMARY KEY, der BLOB NOT NULL) WITHOUT ROWID",
    ),
    (
        "ALTER TABLE cert_order ADD COLUMN note TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE cert_order ADD COLUMN step INTEGER NOT NULL DEFAULT 0",
        """
        CREATE INDEX uncollected_order ON cert_order (issuer, updated) WHERE collected = 0 AND state = 'issued'
        """,
        # What there is of a certificate that was ordered; nothing of it in those of a local issuer.
        "ALTER TABLE certificate ADD COLUMN ticket TEXT",
        "ALTER TABLE certificate ADD COLUMN outside_state TEXT",
        "ALTER TABLE certificate ADD COLUMN outside_due INTEGER",
        "ALTER TABLE certificate ADD COLUMN outside_attempts INTEGER",
        "ALTER TABLE certificate ADD COLUMN outside_ticket TEXT",
        "ALTER TABLE certificate ADD COLUMN outside_private TEXT",
        "CREATE INDEX serial_of_order ON cert_order (serial) WHERE serial IS NOT NULL",
        """
        UPDATE certificate SET ticket =
            (SELECT nullif(ticket, '') FROM cert_order o WHERE o.serial = certificate.serial)
            WHERE serial IN (SELECT serial FROM cert_order WHERE serial IS NOT NULL)
        """,
        "DROP INDEX serial_of_order",
        "CREATE INDEX certificate_of_ticket ON certificate (issuer, ticket) WHERE ticket IS NOT NULL",
        """
        CREATE INDEX outside_revocation ON certificate (issuer, outside_due)
            WHERE outside_state IN ('due', 'asked')
        """,
        "ALTER TABLE issuer ADD COLUMN looked INTEGER",
    ),
    (
        # However many certificates a seat has had, only those in force are looked at.
        "DROP INDEX seat_of_certificate",
        "CREATE INDEX seat_of_certificate ON certificate (profile, seat, not_after) WHERE seat IS NOT NULL",
        # All that a CRL needs, so that no certificate is read for it.
        "DROP INDEX revoked_certificate",
        """
        CREATE INDEX revoked_certificate ON certificate (issuer, not_after, revoked_at, reason, serial, status)
            WHERE status = 'revoked'
        """,
        # For lists, and for what retention deletes: never a certificate whose key was compromised.
        "CREATE INDEX profile_of_certificate ON certificate (profile)",
        "CREATE INDEX unsettled_certificate ON certificate (status) WHERE status IN ('unconfirmed', 'kept')",
        """
        CREATE INDEX end_of_certificate ON certificate (not_after)
            WHERE status <> 'unconfirmed' AND reason IS NOT 1
        """,
    ),
    (
        "ALTER TABLE enrollment_code ADD COLUMN wrong_macs INTEGER NOT NULL DEFAULT 0",
        """
        CREATE TABLE lease (
            name TEXT PRIMARY KEY,
            holder TEXT NOT NULL,
            ends INTEGER NOT NULL             -- milliseconds since 1970
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE node (
            id TEXT PRIMARY KEY,
            host TEXT NOT NULL,
            pid INTEGER NOT NULL,
            place TEXT NOT NULL,
            version TEXT NOT NULL,
            started INTEGER NOT NULL,
            seen INTEGER NOT NULL,            -- milliseconds since 1970
            configuration TEXT NOT NULL,
            profiles TEXT NOT NULL,           -- JSON: {name: hash, …}
            counts TEXT NOT NULL              -- JSON: {what: number, …}
        ) WITHOUT ROWID
        """,
    ),
    (
        """
        CREATE TABLE crl (
            issuer TEXT NOT NULL,
            ca BLOB NOT NULL,                 -- SHA-256 of the issuing certificate
            number INTEGER NOT NULL,
            revocations INTEGER NOT NULL,     -- of the issuer, when it was made
            this_update INTEGER NOT NULL,
            next_update INTEGER NOT NULL,
            der BLOB NOT NULL,
            PRIMARY KEY (issuer, ca)
        )
        """,
        "CREATE INDEX held_revocation ON certificate (issuer) WHERE outside_state = 'held'",
    ),
)


def connect(path: Path, cache_kib: int) -> sqlite3.Connection:
    """One connection, set up; it waits for nobody unless told to."""
    connection = sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        for pragma in (
            "synchronous = FULL",
            "foreign_keys = ON",
            f"cache_size = {-cache_kib}",
            f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
            f"journal_size_limit = {CHECKPOINT_PAGES * 4096}",
            "busy_timeout = 0",
        ):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def open_database(
    path: Path, sealing: Sealing, *, unfinished: bool = False
) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    """Make the file if there is none, migrate it, check the key; return the writing and the reading connection.

    `unfinished` takes a database too that a copy has not been finished into.
    Raises `StoreRefused`, sqlite3.Error and OSError.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return _open(path, sealing, unfinished=unfinished)
        except sqlite3.OperationalError as exc:
            # SQLite does not wait by itself when another process switches to WAL at the same moment.
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _open(path: Path, sealing: Sealing, *, unfinished: bool) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    writer = connect(path, CACHE_KIB)
    try:
        writer.execute(f"PRAGMA busy_timeout = {LOCK_SECONDS * 1000:.0f}")
        writer.execute("BEGIN")
        refuse_foreign(path, writer)
        writer.execute("ROLLBACK")
        if writer.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
            raise StoreRefused(f"{path}: its file system cannot do what SQLite's WAL needs: use a local file system")
        writer.execute("BEGIN IMMEDIATE")
        refuse_foreign(path, writer)
        migrate(writer, sealing)
        check_key(path, writer, sealing)
        if not unfinished:
            _refuse_unfinished(path, writer)
        writer.execute("COMMIT")
        writer.execute("PRAGMA busy_timeout = 0")
        reader = connect(path, CACHE_KIB // 4)
        reader.execute("PRAGMA query_only = ON")
    except BaseException:
        writer.close()
        raise
    return writer, reader


def refuse_foreign(path: Path, connection: sqlite3.Connection) -> None:
    """Refuse a file of another program or of a newer cmpd, before anything in it is touched."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application or version or tables):
        raise StoreRefused(f"{path}: an SQLite database of another program: [store] url must name a file of cmpd's own")
    if version > len(MIGRATIONS):
        raise StoreRefused(
            f"{path}: written by a newer cmpd (schema {version}; this one knows up to {len(MIGRATIONS)}): run that cmpd"
        )


def migrate(connection: sqlite3.Connection, sealing: Sealing) -> int:
    """Bring the schema up to date; inside the caller's transaction, so wholly or not at all; the version before."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    for migration in MIGRATIONS[version:]:
        for statement in migration:
            connection.execute(statement)
    if version == 0:
        connection.execute("INSERT INTO store (name, value) VALUES ('key', ?)", (sealing.seal(b"cmpd", "", ""),))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    if version != len(MIGRATIONS):
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    return version


def check_key(path: Path, connection: sqlite3.Connection, sealing: Sealing) -> None:
    """Refuse a key that is not the one the enrollment codes of this database are sealed with."""
    row = connection.execute("SELECT value FROM store WHERE name = 'key'").fetchone()
    try:
        sealing.unseal(row[0], "", "")
    except WrongKey:
        raise StoreRefused(
            f"{path}: [store] key_file is not the key that this database was made with: put the old key file back"
        ) from None


def _refuse_unfinished(path: Path, connection: sqlite3.Connection) -> None:
    """Refuse a store that is being filled by a copy, or by a restore that was cut off."""
    if connection.execute("SELECT 1 FROM store WHERE name = 'unfinished'").fetchone() is not None:
        raise StoreRefused(
            f"{path}: is not all there: a copy into it has not been finished; run the same `cmpd store copy` again, "
            "without --allow-running"
        )


def size_of(path: Path) -> int | None:
    """Octets that a database and its write-ahead log have on the disk; None when there is none."""
    size = octets_on_disk(path)
    return None if size is None else size + (octets_on_disk(path.with_name(f"{path.name}-wal")) or 0)


def octets_on_disk(path: Path) -> int | None:
    """The size of a file; None when there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return None
