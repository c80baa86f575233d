"""The database: opening, transactions, paths; what is done in them stands in reception, analysis, outbox and queries.

SQLite allows one writer. A transaction that reads first and writes later can fail with "database is locked" however
long it would be ready to wait, so every writer begins with BEGIN IMMEDIATE; within this process writers queue for a
lock instead of polling SQLite's. Readers see one snapshot and wait for nobody (WAL).
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Engine, Table, create_engine, event, insert, make_url
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from triage.errors import ConfigError, NoResources
from triage.store.migrate import upgrade

BUSY_S = 10.0
"""Time a writer waits for the others; below the 30 s after which senders give an instance up."""

POOL_SIZE = 16
"""Connections kept open: receivers, worker, deliveries, clock."""

POOL_OVERFLOW = 256
"""Further ones in a rush; more than reception.max_associations allows."""


class Database:
    """An open database and the folder that its paths are relative to."""

    def __init__(self, engine: Engine, root: Path) -> None:
        """Take over an engine.

        Args:
            engine: On a database whose schema is up to date.
            root: node.data_dir.
        """
        self.root = root.absolute()
        self._reader = engine
        self._writer = engine.execution_options(writing=True)
        self._is_single_writer = engine.dialect.name == "sqlite"
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection that is not in use."""
        self._reader.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads, all of it from one state.

        Raises:
            NoResources: The database does not answer.
        """
        with _told(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that may write: committed and on the disk at the end, or undone when an exception leaves it.

        Raises:
            NoResources: The database is locked, full or does not answer.
        """
        if not self._is_single_writer:
            with _told(), self._writer.begin() as connection:
                yield connection
            return
        if not self._turn.acquire(timeout=BUSY_S):
            raise NoResources(f"the database was busy for {BUSY_S:.0f} s")
        try:
            with _told(), self._writer.begin() as connection:
                yield connection
        finally:
            self._turn.release()

    def relative(self, path: Path) -> str:
        """A path as it is stored.

        Args:
            path: Absolute, below the root.
        """
        return path.absolute().relative_to(self.root).as_posix()

    def absolute(self, stored: str) -> Path:
        """A stored path as it is used.

        Args:
            stored: Relative to the root.
        """
        return self.root / stored


def open_database(url: str, root: Path) -> Database:
    """Open a database and bring its schema up to date.

    Args:
        url: SQLAlchemy URL.
        root: Folder that stored paths are relative to: node.data_dir.

    Returns:
        The open database.

    Raises:
        ConfigError: The URL is none, its driver is missing, the database cannot be opened or is newer than this node.
    """
    try:
        engine = _engine(url)
    except (SQLAlchemyError, ImportError) as e:
        raise ConfigError(f"database.url: {_one_line(e)}; correct it or leave it empty for SQLite in data_dir") from e
    try:
        if engine.dialect.name == "sqlite":
            _use_write_ahead_log(engine)
        upgrade(engine)
    except SQLAlchemyError as e:
        engine.dispose()
        raise ConfigError(
            f"database.url: {engine.url.render_as_string(hide_password=True)} cannot be opened ({_one_line(e)}); "
            "check that it exists, is a database and may be written"
        ) from e
    except ConfigError:
        engine.dispose()
        raise
    return Database(engine, root)


def insert_row(connection: Connection, table: Table, **values: Any) -> int:
    """Insert one row.

    Args:
        connection: In a transaction that writes.
        table: Whose primary key is one number that the database gives.
        **values: By column.

    Returns:
        Its id.
    """
    key = connection.execute(insert(table).values(values)).inserted_primary_key
    assert key is not None
    return int(key[0])


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, hide_parameters=True, pool_pre_ping=True)
    if parsed.database in (None, "", ":memory:") or "memory" in str(parsed.query.get("mode", "")):
        raise ConfigError("database.url: a database in memory forgets what it has acknowledged; name a file")
    engine = create_engine(
        parsed, hide_parameters=True, pool_size=POOL_SIZE, max_overflow=POOL_OVERFLOW, connect_args={"timeout": BUSY_S}
    )
    event.listen(engine, "connect", _set_up_connection)
    event.listen(engine, "begin", _begin)
    return engine


def _set_up_connection(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # the driver must begin no transaction of its own: `_begin` does
    connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk, also after a power cut
    connection.execute("PRAGMA foreign_keys = ON")


def _begin(connection: Connection) -> None:
    writing = connection.get_execution_options().get("writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN DEFERRED")


def _use_write_ahead_log(engine: Engine) -> None:
    """Switch the file to WAL, once for its life; outside a transaction, as SQLite wants it."""
    try:
        with closing(engine.raw_connection()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute("PRAGMA journal_mode = WAL")
    except sqlite3.Error as e:
        raise OperationalError("PRAGMA journal_mode = WAL", None, e) from e


@contextmanager
def _told() -> Iterator[None]:
    """Say in the terms of this project that the database cannot be used now."""
    try:
        yield
    except (OperationalError, PoolTimeout) as e:
        raise NoResources(f"the database cannot be used now: {_one_line(e)}") from e


def _one_line(error: Exception) -> str:
    """The driver's own words, without statement and values."""
    cause = getattr(error, "orig", None) or error
    return (str(cause).splitlines() or [type(cause).__name__])[0].rstrip(".")
