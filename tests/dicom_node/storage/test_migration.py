"""The migration of a database: access to a new file, and a file that is in use."""

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from config.settings import load
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
