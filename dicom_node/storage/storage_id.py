"""Checks that the storage directory is the one that belongs to the database.

A worker deletes files that its database does not know, and treats files that it does
not find as lost. Both would be wrong if the directory is that of another database, for
example because a setting is missing, or if a shared directory is not mounted. Therefore
the same id is stored in the database and in a file in the directory.
"""

import sys
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import sqlalchemy as sa

from config.settings import StorageSettings
from dicom_node.storage.database import reading, writing
from dicom_node.storage.durable_files import fsync_directory, write_durably
from dicom_node.storage.orphans import is_abandoned
from dicom_node.storage.tables import instance
from dicom_node.storage.tables import storage as storage_table

FILE = "storage.id"
NEW_FILE = "storage.id.new"


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

    If neither has an id yet, a new id is stored in both. Otherwise a worker with a new
    database would treat the files of another database as lost, and delete them.

    Raises:
        StorageMismatchError: The directory does not belong to the database.
        OSError: The directory cannot be read, or a new id cannot be written to it.
        SQLAlchemyError: The database does not respond.
    """
    directory = storage.directory.absolute()
    with reading(engine) as connection:
        expected = connection.execute(sa.select(storage_table.c.id)).scalar()
    if expected is None:
        expected = _create_shared_id(engine, directory)
    found = _read(directory / FILE)
    if found is None and _read(directory / NEW_FILE) == expected:
        _complete(directory)
        found = _read(directory / FILE)
    if found != expected:
        content = "does not exist" if found is None else f"contains {found}"
        raise StorageMismatchError(
            f"{directory} is not the storage of this database: the file {FILE} "
            f"{content}, {expected} was expected. Check that the file system is "
            f"mounted. If this directory is a copy that the node is to use from now "
            f"on, write {expected} into {directory / FILE}."
        )


def check_new_database(storage: StorageSettings) -> None:
    """Check that the storage directory belongs to no database, except a SQLite file.

    Call this function before a SQLite file is created in the directory.

    Raises:
        StorageMismatchError: The directory belongs to another database, and has no
            SQLite file.
        OSError: The directory cannot be read.
    """
    directory = storage.directory.absolute()
    if not storage.sqlite_file.exists():
        _require_no_id(directory)


def _create_shared_id(engine: sa.Engine, directory: Path) -> str:
    """Store a new id in the directory and in the database, and return it.

    If the database already has an id, that id is returned. If two processes call this
    function at the same time, the second process waits.

    The id is written to NEW_FILE. The file is renamed to FILE after the id is
    committed. So FILE never contains an id that no database has, also if the process is
    killed in between.
    """
    with writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("LOCK TABLE storage IN EXCLUSIVE MODE")
        expected = connection.execute(sa.select(storage_table.c.id)).scalar()
        if expected is not None:
            return str(expected)
        _require_no_id(directory)
        if not _knows_instances(connection):
            _require_no_files(directory)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        created = uuid4().hex
        write_durably(directory / NEW_FILE, f"{created}\n".encode())
        connection.execute(storage_table.insert().values(id=created))
    _complete(directory)
    return created


def _complete(directory: Path) -> None:
    # Another process may have renamed the file at the same moment.
    with suppress(FileNotFoundError):
        (directory / NEW_FILE).rename(directory / FILE)
    fsync_directory(directory)


def _knows_instances(connection: sa.Connection) -> bool:
    return connection.execute(sa.select(instance.c.id).limit(1)).first() is not None


def _require_no_id(directory: Path) -> None:
    """Raise StorageMismatchError if the directory belongs to a database."""
    found = _read(directory / FILE)
    if found is not None:
        raise StorageMismatchError(
            f"{directory} belongs to another database: the file {FILE} contains "
            f"{found}, and this database is new. Check `directory` and `database` "
            f"under [storage]. A new database needs a new directory."
        )


def _require_no_files(directory: Path) -> None:
    """Raise StorageMismatchError if the directory contains instances or results.

    Unfinished files of dead processes do not count: no sender got a success response
    for them, and the receivers remove them at their start.
    """
    for folder in (directory / "spool", directory / "results"):
        files = (path for path in folder.rglob("*") if path.is_file())
        if not all(is_abandoned(path) for path in files):
            raise StorageMismatchError(
                f"{folder} contains files, but this database is new and knows none of "
                f"them. Check `directory` and `database` under [storage]. A new "
                f"database needs a new directory. If no other database knows these "
                f"files, move the folders spool and results away, start the node, and "
                f"send the images in spool again."
            )


def _read(path: Path) -> str | None:
    return path.read_text("ascii").strip() if path.exists() else None
