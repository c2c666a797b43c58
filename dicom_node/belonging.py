"""Whether the storage directory is the one that the database speaks of.

Several machines see one directory, which is mounted, or by mistake is not: an empty
folder in its place would have a worker find that every file is gone. So the directory
holds an id in a file, and the database the same.
"""

import os
import sys
from pathlib import Path
from uuid import uuid4

import sqlalchemy as sa

from config.settings import StorageSettings
from dicom_node.database import reading, writing
from dicom_node.spool import make_names_durable
from dicom_node.tables import storage as known

FILE = "storage.id"


class StrangeStorageError(Exception):
    """The directory is not the one that the database speaks of."""


def belong_or_exit(engine: sa.Engine, storage: StorageSettings) -> None:
    """End the process in words where the directory is another than the database's."""
    try:
        check_belonging(engine, storage)
    except (StrangeStorageError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


def check_belonging(engine: sa.Engine, storage: StorageSettings) -> None:
    """See that the directory is the one that the database speaks of.

    The first process of all says which it is. SQLite lies in the directory itself.

    Raises:
        StrangeStorageError: It is another.
        OSError: It cannot be read, or, by the first, not be written.
        SQLAlchemyError: The database does not answer.
    """
    if not storage.database:
        return
    directory = storage.directory.absolute()
    with reading(engine) as connection:
        expected = connection.execute(sa.select(known.c.id)).scalar()
    if expected is None:
        expected = _begin(engine, directory)
    found = _read(directory)
    if found != expected:
        has = "has no such file" if found is None else f"has {found}"
        raise StrangeStorageError(
            f"{directory} is not the storage of this database: that has {expected} in "
            f"its file {FILE}, this {has}. Is it mounted? If it is a copy to be "
            f"used from now on, write {expected} into {directory / FILE}."
        )


def _begin(engine: sa.Engine, directory: Path) -> str:
    """Have directory and database know each other; of two that begin, one waits."""
    with writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("LOCK TABLE storage IN EXCLUSIVE MODE")
        expected = connection.execute(sa.select(known.c.id)).scalar()
        if expected is None:
            expected = _read(directory) or _mark(directory)
            connection.execute(known.insert().values(id=expected))
    return str(expected)


def _read(directory: Path) -> str | None:
    path = directory / FILE
    return path.read_text("ascii").strip() if path.exists() else None


def _mark(directory: Path) -> str:
    """Write a new id into the directory, durably."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    identity, path = uuid4().hex, directory / FILE
    part = path.with_suffix(".part")
    with part.open("w") as file:
        file.write(f"{identity}\n")
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    make_names_durable(directory)
    return identity
