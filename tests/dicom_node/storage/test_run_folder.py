"""The name of a machine, and the run folder that its processes share."""

import tempfile
from pathlib import Path

import pytest

from config.settings import StorageSettings
from dicom_node.storage import run_folder as run_folder_module
from dicom_node.storage.run_folder import machine_name, run_folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the machine's folder for temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(folder))
    return folder


def storage(directory: Path, database: str = "postgresql://db/node") -> StorageSettings:
    return StorageSettings(directory=directory, database=database, min_free_mb=0)


def test_run_folder_is_in_the_storage_directory_with_sqlite(tmp_path: Path) -> None:
    settings = storage(tmp_path, database="")

    assert run_folder(settings) == tmp_path / "run"
    assert machine_name(settings) == "local"


def test_machines_with_a_shared_directory_have_separate_run_folders(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = set()
    for name in ("one", "two"):
        monkeypatch.setattr(
            run_folder_module.socket, "gethostname", lambda name=name: name
        )
        folders |= {run_folder(storage(tmp_path / each)) for each in ("a", "b")}

    assert len(folders) == 4
    assert all(each.is_relative_to(temporary) for each in folders)
    assert {each.stat().st_mode & 0o777 for each in temporary.iterdir()} == {0o700}


def test_run_folder_that_is_a_link_is_refused(temporary: Path, tmp_path: Path) -> None:
    run_folder(storage(tmp_path))
    (folder,) = temporary.iterdir()
    folder.rmdir()
    folder.symlink_to(tmp_path)

    with pytest.raises(PermissionError, match="belongs to another user"):
        run_folder(storage(tmp_path))
