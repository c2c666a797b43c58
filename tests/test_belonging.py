"""Whether the storage directory is the one that the database speaks of."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from config.settings import StorageSettings
from dicom_node.belonging import (
    FILE,
    StrangeStorageError,
    belong_or_exit,
    check_belonging,
)

on_postgresql = pytest.mark.parametrize(
    "create", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True
)


@pytest.fixture
def storage(migrated: StorageSettings, tmp_path: Path) -> StorageSettings:
    return migrated.model_copy(update={"directory": tmp_path / "spool's"})


def test_the_first_says_which_it_is_and_all_others_find_it_so(
    engine: sa.Engine, storage: StorageSettings
) -> None:
    check_belonging(engine, storage)
    check_belonging(engine, storage)

    marked = (storage.directory / FILE).exists()
    assert marked == (engine.dialect.name == "postgresql")  # SQLite lies in it


@on_postgresql
def test_an_empty_folder_where_nothing_is_mounted_is_another(
    engine: sa.Engine,
    storage: StorageSettings,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    check_belonging(engine, storage)
    identity = (storage.directory / FILE).read_text().strip()
    empty = storage.model_copy(update={"directory": tmp_path / "empty"})

    with pytest.raises(SystemExit) as ended:
        belong_or_exit(engine, empty)

    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"has {identity} in its file {FILE}, this has no such file" in said
    assert "Is it mounted?" in said
    assert not (tmp_path / "empty").exists()


@on_postgresql
def test_the_storage_of_another_database_is_another(
    engine: sa.Engine, storage: StorageSettings
) -> None:
    check_belonging(engine, storage)
    (storage.directory / FILE).write_text("f" * 32)

    with pytest.raises(StrangeStorageError, match=f"this has {'f' * 32}"):
        check_belonging(engine, storage)


@on_postgresql
def test_a_directory_that_has_an_id_keeps_it_under_a_new_database(
    engine: sa.Engine, storage: StorageSettings
) -> None:
    storage.directory.mkdir()
    (storage.directory / FILE).write_text("a" * 32)

    check_belonging(engine, storage)

    assert (storage.directory / FILE).read_text() == "a" * 32
