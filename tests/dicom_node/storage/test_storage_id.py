"""The check that the storage directory belongs to the database."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from config.settings import StorageSettings
from dicom_node.journal.journal import Journal
from dicom_node.storage.migration import migrate
from dicom_node.storage.spool import Spool
from dicom_node.storage.storage_id import (
    FILE,
    NEW_FILE,
    StorageMismatchError,
    verify_storage_id,
    verify_storage_or_exit,
)
from tests.support.journals import Receive

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
    identity = (storage.directory / FILE).read_text()
    verify_storage_id(engine, storage)

    assert len(identity.strip()) == 32
    assert (storage.directory / FILE).read_text() == identity
    assert not (storage.directory / NEW_FILE).exists()


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


@pytest.mark.integration
def test_new_database_does_not_adopt_the_directory_of_another_database(
    engine: sa.Engine, storage: StorageSettings
) -> None:
    storage.directory.mkdir()
    (storage.directory / FILE).write_text("a" * 32)

    with pytest.raises(StorageMismatchError, match="belongs to another database"):
        verify_storage_id(engine, storage)

    assert (storage.directory / FILE).read_text() == "a" * 32


@pytest.mark.integration
@pytest.mark.parametrize("folder", ["spool", "results"])
def test_new_database_does_not_adopt_files_that_it_does_not_know(
    engine: sa.Engine, storage: StorageSettings, folder: str
) -> None:
    path = storage.directory / folder / "image.dcm"
    path.parent.mkdir(parents=True)
    path.touch()

    with pytest.raises(StorageMismatchError, match=f"{folder} contains files"):
        verify_storage_id(engine, storage)

    assert not (storage.directory / NEW_FILE).exists()


@pytest.mark.integration
def test_new_database_adopts_unfinished_files_of_dead_processes_only(
    engine: sa.Engine, storage: StorageSettings
) -> None:
    spool = Spool(storage)
    for folder in (spool.directory, spool.results):
        (folder / "dead.part").touch()
    alive = spool.begin(b"")

    with pytest.raises(StorageMismatchError, match="spool contains files"):
        verify_storage_id(engine, storage)
    alive.close()
    verify_storage_id(engine, storage)

    assert (storage.directory / FILE).exists()
    assert (spool.directory / "dead.part").exists()


@pytest.mark.integration
def test_database_of_an_earlier_release_that_knows_its_instances_gets_an_id(
    engine: sa.Engine, storage: StorageSettings, journal: Journal, receive: Receive
) -> None:
    journal.record(receive())
    path = storage.directory / "spool" / "image.dcm"
    path.parent.mkdir(parents=True)
    path.touch()

    verify_storage_id(engine, storage)

    assert (storage.directory / FILE).exists()


@pytest.mark.integration
def test_process_that_was_killed_before_the_commit_leaves_no_id(
    engine: sa.Engine, storage: StorageSettings
) -> None:
    storage.directory.mkdir()
    (storage.directory / NEW_FILE).write_text("a" * 32)

    verify_storage_id(engine, storage)

    assert (storage.directory / FILE).read_text().strip() != "a" * 32


@pytest.mark.integration
def test_process_that_was_killed_after_the_commit_is_completed(
    engine: sa.Engine, storage: StorageSettings
) -> None:
    verify_storage_id(engine, storage)
    identity = (storage.directory / FILE).read_text()
    (storage.directory / FILE).rename(storage.directory / NEW_FILE)

    verify_storage_id(engine, storage)

    assert (storage.directory / FILE).read_text() == identity


def test_no_sqlite_file_is_created_in_the_directory_of_another_database(
    tmp_path: Path,
) -> None:
    (tmp_path / FILE).write_text("a" * 32)
    storage = StorageSettings(directory=tmp_path, database="", min_free_mb=0)

    with pytest.raises(StorageMismatchError, match="belongs to another database"):
        migrate(storage)

    assert [path.name for path in tmp_path.iterdir()] == [FILE]
