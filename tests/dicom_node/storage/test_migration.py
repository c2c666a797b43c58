"""The migration of a database that does not exist yet."""

import os
import stat
from pathlib import Path

import pytest

from config.settings import load
from dicom_node.storage.migration import migrate

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
