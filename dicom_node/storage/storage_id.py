"""Checks that the storage directory is the one that belongs to the database.

Several machines may mount one shared directory. If the mount is missing on a machine,
the worker of this machine finds an empty folder, and would treat all files as lost.
Therefore the same id is stored in the database and in a file in the directory.
"""

import sys
from pathlib import Path
from uuid import uuid4

import sqlalchemy as sa

from config.settings import StorageSettings
from dicom_node.storage.database import reading, writing
from dicom_node.storage.durable_files import write_durably
from dicom_node.storage.tables import storage as storage_table

FILE = "storage.id"


class StorageMismatchError(Exception):
    """The storage directory is not the one that belongs to the database."""


def verify_storage_or_exit(engine: sa.Engine, storage: StorageSettings) -> None:
    """Call `verify_storage_id`; exit with a message if the storage directory is wrong.

    The process also exits if the directory cannot be read or written. An error of the
    database is raised.
    """
    try:
        verify_storage_id(engine, storage)
    except (StorageMismatchError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


def verify_storage_id(engine: sa.Engine, storage: StorageSettings) -> None:
    """Check that the storage directory belongs to the database.

    If the database has no id yet, the id of the directory is stored in the database. If
    the directory has no id, either, a new id is stored in both. With SQLite nothing is
    checked, because the database is a file in the directory.

    Raises:
        StorageMismatchError: The directory does not belong to the database.
        OSError: The directory cannot be read, or a new id cannot be written to it.
        SQLAlchemyError: The database does not respond.
    """
    if not storage.database:
        return
    directory = storage.directory.absolute()
    with reading(engine) as connection:
        expected = connection.execute(sa.select(storage_table.c.id)).scalar()
    if expected is None:
        expected = _create_shared_id(engine, directory)
    found = _read(directory)
    if found != expected:
        content = "does not exist" if found is None else f"contains {found}"
        raise StorageMismatchError(
            f"{directory} is not the storage of this database: the file {FILE} "
            f"{content}, {expected} was expected. Check that the file system is "
            f"mounted. If this directory is a copy that the node is to use from now "
            f"on, write {expected} into {directory / FILE}."
        )


def _create_shared_id(engine: sa.Engine, directory: Path) -> str:
    """Store one id in the directory and in the database, and return it.

    If the database already has an id, that id is returned. Otherwise the id of the
    directory is stored in the database. If the directory has no id, either, a new id is
    stored in both. If two processes call this function at the same time, a table lock
    makes the second process wait.
    """
    with writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("LOCK TABLE storage IN EXCLUSIVE MODE")
        expected = connection.execute(sa.select(storage_table.c.id)).scalar()
        if expected is None:
            expected = _read(directory) or _create_storage_id(directory)
            connection.execute(storage_table.insert().values(id=expected))
    return str(expected)


def _read(directory: Path) -> str | None:
    path = directory / FILE
    return path.read_text("ascii").strip() if path.exists() else None


def _create_storage_id(directory: Path) -> str:
    """Create an id, write it durably to the directory, and return it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    identity, path = uuid4().hex, directory / FILE
    write_durably(path, f"{identity}\n".encode())
    return identity
