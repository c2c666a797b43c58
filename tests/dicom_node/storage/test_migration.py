"""The migration of a database: access to a new file, and a file that is in use."""

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from config.settings import load
from dicom_node.commands import migrate as command
from dicom_node.storage import migration
from dicom_node.storage.migration import migrate, writing_or_exit

pytestmark = pytest.mark.integration


def test_other_users_cannot_read_a_new_database(tmp_path: Path) -> None:
    settings = load(None, {"FRACTURE_NODE__STORAGE__DIRECTORY": f"{tmp_path}/node"})
    before = os.umask(0o022)
    try:
        migrate(settings.storage)
    finally:
        os.umask(before)

    folder = tmp_path / "node"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert any(each.is_file() for each in folder.iterdir())


def test_database_that_another_program_writes_to_ends_the_process_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration, "WAIT_S", 0.1)
    storage = load(None, {"FRACTURE_NODE__STORAGE__DIRECTORY": f"{tmp_path}"}).storage
    path = storage.database_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SystemExit, match="database is locked"):  # noqa: SIM117
            with writing_or_exit(storage):
                migrate(storage)


@pytest.mark.postgresql
def test_a_migration_on_postgresql_may_take_long(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = dict[str, str]()

    def read_limits(connection: sa.Connection) -> None:
        for name in ("statement_timeout", "lock_timeout"):
            limits[name] = connection.exec_driver_sql(f"SHOW {name}").scalar_one()

    monkeypatch.setattr(migration, "_apply", read_limits)
    monkeypatch.setattr(migration.DBOS, "migrate", lambda _: None)
    variables = {"FRACTURE_NODE__STORAGE__DATABASE": postgresql}
    migrate(load(None, variables).storage)

    assert limits == {"statement_timeout": "0", "lock_timeout": "1min"}


@pytest.mark.postgresql
def test_migrate_explains_that_the_database_is_in_use(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration, "MIGRATION_LIMITS", {"lock_timeout": 100})
    monkeypatch.setattr(migration.DBOS, "migrate", lambda _: None)
    monkeypatch.setenv("FRACTURE_NODE__STORAGE__DATABASE", postgresql)
    monkeypatch.setattr("sys.argv", ["migrate"])
    for changes_the_process in ("configure_logging", "keep_files_private"):
        monkeypatch.setattr(command, changes_the_process, lambda *_: None)
    lock = f"SELECT pg_advisory_xact_lock({migration.MIGRATING})"
    with psycopg.connect(postgresql) as other:
        other.execute(lock)
        with pytest.raises(SystemExit, match=r"lock timeout\. If .* another migration"):
            command.main()
