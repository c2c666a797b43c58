"""The check that the storage directory belongs to the database."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from config.settings import StorageSettings
from dicom_node.storage.storage_id import (
    FILE,
    StorageMismatchError,
    verify_storage_id,
    verify_storage_or_exit,
)

on_postgresql = pytest.mark.parametrize(
    "create", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True
)


@pytest.fixture
def storage(migrated: StorageSettings, tmp_path: Path) -> StorageSettings:
    return migrated.model_copy(update={"directory": tmp_path / "spool's"})


@pytest.mark.integration
def test_first_check_writes_the_id_and_later_checks_accept_it(
    engine: sa.Engine, storage: StorageSettings
) -> None:
    verify_storage_id(engine, storage)
    verify_storage_id(engine, storage)

    marked = (storage.directory / FILE).exists()
    # With SQLite, nothing is checked: the database is a file in the directory.
    assert marked == (engine.dialect.name == "postgresql")


@on_postgresql
def test_command_exits_if_the_storage_directory_has_no_id_file(
    engine: sa.Engine,
    storage: StorageSettings,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    verify_storage_id(engine, storage)
    identity = (storage.directory / FILE).read_text().strip()
    empty = storage.model_copy(update={"directory": tmp_path / "empty"})

    with pytest.raises(SystemExit) as ended:
        verify_storage_or_exit(engine, empty)

    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert f"the file {FILE} does not exist, {identity} was expected" in message
    assert "Check that the file system is mounted" in message
    assert not (tmp_path / "empty").exists()


@on_postgresql
def test_storage_directory_of_another_database_is_rejected(
    engine: sa.Engine, storage: StorageSettings
) -> None:
    verify_storage_id(engine, storage)
    (storage.directory / FILE).write_text("f" * 32)

    with pytest.raises(StorageMismatchError, match=f"contains {'f' * 32}, "):
        verify_storage_id(engine, storage)


@on_postgresql
def test_new_database_adopts_the_id_of_an_existing_directory(
    engine: sa.Engine, storage: StorageSettings
) -> None:
    storage.directory.mkdir()
    (storage.directory / FILE).write_text("a" * 32)

    verify_storage_id(engine, storage)

    assert (storage.directory / FILE).read_text() == "a" * 32
