"""Databases with the schema of this release and without data, for tests."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import psycopg
from sqlalchemy import URL, make_url

from config.settings import StorageSettings
from dicom_node.storage.migration import migrate


def create_migrated(storage: StorageSettings) -> None:
    """Create a database with the schema of this release.

    It is a copy of a migrated database, because a copy takes much less processor time
    than the migration. A PostgreSQL database must exist already, and is replaced.
    """
    if storage.database:
        _copy_on_postgresql(make_url(storage.database))
        return
    storage.directory.mkdir(parents=True, exist_ok=True)
    _file(storage).write_bytes(_migrated_file())


def _copy_on_postgresql(url: URL) -> None:
    name = url.database
    administration = url.set(database="postgres").render_as_string(hide_password=False)
    with psycopg.connect(administration, autocommit=True) as connection:
        template = _template(administration)
        connection.execute(f"DROP DATABASE {name}")
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")


@cache
def _template(administration: str) -> str:
    """Create a migrated database on a server, once per process; return its name.

    `administration` is the URL of the database "postgres" of the server.
    """
    name = f"template_{uuid4().hex}"
    with psycopg.connect(administration, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = make_url(administration).set(database=name)
    database = url.render_as_string(hide_password=False)
    migrate(StorageSettings(directory=Path(), database=database, min_free_mb=0))
    return name


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
