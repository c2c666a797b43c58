"""Migrated databases for tests that need an empty one each."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import make_url

from config.settings import StorageSettings
from dicom_node.storage.migration import migrate


def create_migrated(storage: StorageSettings) -> None:
    """Create a database with the schema of this release.

    An SQLite database is a copy of a migrated file, because a copy takes much less
    processor time than the migration.
    """
    if storage.database:
        migrate(storage)
        return
    storage.directory.mkdir(parents=True, exist_ok=True)
    _file(storage).write_bytes(_migrated_file())


@cache
def _migrated_file() -> bytes:
    with TemporaryDirectory() as folder:
        storage = StorageSettings(directory=Path(folder), database="", min_free_mb=0)
        migrate(storage)
        return _file(storage).read_bytes()


def _file(storage: StorageSettings) -> Path:
    path = make_url(storage.database_url).database
    assert path is not None
    return Path(path)
