"""The database of the journal and the work queues: SQLite by default, or PostgreSQL.

A process opens its own engines. A transaction that writes to SQLite starts with BEGIN
IMMEDIATE. Therefore other transactions cannot change the data after this transaction
has read them and before it writes. Reads do not block writers (WAL). All waits are
limited, so that a receiver responds with 0xA700 (Out of Resources) instead of hanging.
There are waits of up to WAIT_S seconds for the lock between threads (only for writers
and with SQLite), for a free connection, and for the response to a statement. If the
connection to PostgreSQL is lost, the wait is up to GONE_AFTER_S seconds.

Only the packages `storage`, `journal` and `queries` import SQLAlchemy. Other packages
use the names that this module gives to SQLAlchemy's engine, connections and errors. The
errors are those of SQLAlchemy itself, because DBOS raises the same classes for its own
queries.

`_replace_error` replaces some errors of PostgreSQL. It does this for all engines of the
process, because DBOS opens an engine of its own.
"""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

logger = logging.getLogger(__name__)

Engine: TypeAlias = sa.Engine
"""The connections of one process to the database. Safe to share between threads."""

Connection: TypeAlias = sa.Connection
"""A connection in a transaction, which `reading` and `writing` yield."""

DatabaseError: TypeAlias = sa.exc.SQLAlchemyError
"""A failure of the database or of a query."""

UNAVAILABLE = sa.exc.OperationalError, sa.exc.TimeoutError
"""The errors of a database that cannot be reached, is busy, or cannot be written."""

DriverError: TypeAlias = sa.exc.InterfaceError
"""The driver could not use its connection. UNAVAILABLE does not contain this class."""

WAIT_S = 3
# Seconds after which a silent peer of a PostgreSQL connection is assumed to be gone.
GONE_AFTER_S = 20
# TCP keepalive of an idle connection: seconds until the first probe, seconds between
# probes, and the number of probes without a response before the connection is dropped.
KEEPALIVE = MappingProxyType(
    {"keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": 3}
)
LIMITS: Mapping[str, int] = MappingProxyType(
    {"statement_timeout": 1000 * WAIT_S, "lock_timeout": 1000 * WAIT_S}
)
"""The limits of PostgreSQL for the roles of the node, in milliseconds."""

# SQLSTATE of a write that a server refuses because it accepts only reads. Such a server
# is a standby, or its disk is full.
READ_ONLY_TRANSACTION = "25006"
NO_LIMITS: Mapping[str, int] = MappingProxyType({})
_write_lock = threading.Lock()


def open_engine(url: str, limits: Mapping[str, int] = LIMITS) -> Engine:
    """Return a new engine for this process. The engine does not connect yet.

    Args:
        url: URL of the database.
        limits: Settings of sessions on PostgreSQL, as for `connect_arguments`.
    """
    if url.startswith("sqlite"):
        arguments: dict[str, Any] = {"timeout": WAIT_S, "isolation_level": None}
    else:
        arguments = connect_arguments(limits)
    engine = sa.create_engine(
        url,
        connect_args=arguments,
        pool_timeout=WAIT_S,
        pool_pre_ping=True,
        poolclass=sa.QueuePool,
        # The texts of errors must not quote values: some name the patient.
        hide_parameters=True,
    )
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def connect_arguments(limits: Mapping[str, int] = NO_LIMITS) -> dict[str, Any]:
    """Return connection arguments for PostgreSQL that detect a lost connection.

    Client and server probe each other. Without probes, a cut cable would have an effect
    for hours: the client would wait for a response, and the server would keep the locks
    of the client. The server also ends a session that is idle in a transaction for
    GONE_AFTER_S seconds.

    Args:
        limits: Further session settings, such as `lock_timeout`, by their PostgreSQL
            names.
    """
    keepalive = {f"tcp_{name}": value for name, value in KEEPALIVE.items()}
    idle_limit = {"idle_in_transaction_session_timeout": 1000 * GONE_AFTER_S}
    options = {**keepalive, **idle_limit, **limits}
    return {
        "connect_timeout": WAIT_S,
        **KEEPALIVE,
        "tcp_user_timeout": 1000 * GONE_AFTER_S,
        "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
    }


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that only reads, and yield its connection.

    The transaction never waits for a writer.
    """
    with engine.connect() as connection:
        yield connection.execution_options(reads_only=True)


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that writes, and yield its connection.

    The transaction is committed at the end of the block, or undone on an exception.

    SQLite allows one writer at a time. A connection that finds the database busy sleeps
    up to 0.1 s before it tries again. Threads of one process wait for a lock instead,
    because they then continue as soon as the lock is free.

    Raises:
        DatabaseError: The lock was not free within WAIT_S seconds, or the database
            failed.
    """
    is_sqlite = engine.dialect.name == "sqlite"
    if is_sqlite and not _write_lock.acquire(timeout=WAIT_S):
        raise sa.exc.TimeoutError(f"The database was busy for {WAIT_S} s")
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        if is_sqlite:
            _write_lock.release()


def check_responds(engine: Engine) -> None:
    """Check that the database responds.

    The function opens a transaction as `writing` does, and changes nothing. Such a
    transaction may succeed even if the database accepts no changes.

    Raises:
        DatabaseError: The database cannot be reached or is busy.
    """
    with writing(engine) as connection:
        connection.execute(sa.select(1))


def try_lock(connection: Connection, number: int) -> bool:
    """Take an advisory lock until the transaction ends; return whether it was free.

    SQLite has no advisory locks. The function then returns True.

    Args:
        connection: A connection in a transaction.
        number: The number of the lock.
    """
    if connection.dialect.name == "sqlite":
        return True
    lock = sa.select(sa.func.pg_try_advisory_xact_lock(number))
    return bool(connection.execute(lock).scalar_one())


@sa.event.listens_for(sa.Engine, "handle_error", retval=True)
def _replace_error(context: sa.ExceptionContext) -> sa.exc.OperationalError | None:
    """Return an error of the class OperationalError if PostgreSQL is not available.

    psycopg raises InternalError if a server accepts only reads, or if it ended a
    session that was idle in a transaction. But UNAVAILABLE does not contain that class,
    because other errors of that class are bugs.

    If the server accepts only reads, the connection is dropped. A new connection may
    lead to another server that accepts writes. DBOS repeats a call if the error says
    that the connection was dropped.

    Returns:
        The error that SQLAlchemy raises instead; None if it raises its own error.
    """
    if not context.dialect or context.dialect.name != "postgresql":
        return None
    error = context.original_exception
    if getattr(error, "sqlstate", None) == READ_ONLY_TRANSACTION:
        context.is_disconnect = True
    is_unavailable = isinstance(context.sqlalchemy_exception, sa.exc.OperationalError)
    if is_unavailable or not context.is_disconnect:
        return None
    return sa.exc.OperationalError(
        context.statement,
        None,  # parameters may name the patient
        error,
        hide_parameters=True,
        connection_invalidated=True,
    )


def _prepare_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - DBAPI
    connection.execute("PRAGMA foreign_keys = ON")
    # An acknowledged commit must survive a power failure.
    connection.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: Connection) -> None:
    reads_only = connection.get_execution_options().get("reads_only", False)
    connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")


def upsert(
    connection: Connection,
    table: sa.Table,
    values: Mapping[str, Any],
    change: Mapping[str, Any],
    key: Sequence[sa.Column[Any]] = (),
) -> sa.RowMapping:
    """Insert a row, or update the row that has the same key.

    Args:
        connection: Connection in a transaction.
        table: A table with a primary key.
        values: Values of a new row, by column name.
        change: New values of an existing row, by column name. A value may be an SQL
            expression that uses the columns of that row.
        key: Columns with a unique index; if empty, the primary key.

    Returns:
        The inserted or updated row.
    """
    statement = upsert_statement(connection.dialect, table, values, change, key=key)
    return connection.execute(statement).mappings().one()


def upsert_statement(  # noqa: PLR0913 - the parts of one statement
    dialect: sa.Dialect,
    table: sa.Table,
    values: Mapping[str, Any],
    change: Mapping[str, Any],
    where: sa.ColumnElement[bool] | None = None,
    *,
    key: Sequence[sa.Column[Any]] = (),
) -> sa.UpdateBase:
    """Return the statement of `upsert`. The arguments have the same meaning.

    If `where` is given and an existing row does not match it, the statement changes
    nothing, and returns no row.
    """
    module = postgresql if dialect.name == "postgresql" else sqlite
    insert = module.insert(table).values(**values)
    elements = list(key or table.primary_key.columns)
    statement: sa.UpdateBase = insert.on_conflict_do_update(
        index_elements=elements, set_=dict(change), where=where
    ).returning(table)
    return statement
