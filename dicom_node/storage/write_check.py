"""Checks that the database can be written, without changing it."""

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from dicom_node.storage.database import open_engine


class ReadOnlyDatabaseError(Exception):
    """The database can be read but not written."""


class BusyDatabaseError(Exception):
    """Another process held the write lock of SQLite for longer than WAIT_S seconds."""


def check_writable(url: str) -> None:
    """Check that the database can be written, without changing it.

    Args:
        url: SQLAlchemy URL of the database.

    Raises:
        ReadOnlyDatabaseError: The database can be read but not written.
        BusyDatabaseError: Another process holds the write lock of SQLite.
        DatabaseError: The database is not available for another reason.
    """
    engine = open_engine(url)
    try:
        with engine.connect() as connection:  # rolls back at the end
            _check_writes(connection)
    except SQLAlchemyError as error:
        if _is_of_sqlite(error, "SQLITE_READONLY"):
            raise ReadOnlyDatabaseError from None
        if _is_of_sqlite(error, "SQLITE_BUSY"):
            raise BusyDatabaseError from None
        raise
    finally:
        engine.dispose()


def _check_writes(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":
        read_only = connection.execute(sa.text("SHOW transaction_read_only"))
        if read_only.scalar_one() != "off":
            raise ReadOnlyDatabaseError
        return
    # For a read-only file, SQLite changes BEGIN IMMEDIATE to a plain BEGIN, and refuses
    # only the first write. This write needs no table.
    connection.execute(sa.text("PRAGMA user_version = 1"))


def _is_of_sqlite(error: SQLAlchemyError, name: str) -> bool:
    """Return whether an error is SQLite's error `name`, or a variant of that error."""
    cause = error.orig if isinstance(error, DBAPIError) else None
    return getattr(cause, "sqlite_errorname", "").startswith(name)
