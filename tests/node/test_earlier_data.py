"""The node continues the work in a storage directory of an earlier release.

The last release before the modules moved into packages wrote `schema_13.tar.xz`. A node
of that release received eight phantoms, and was killed. The results of two phantoms
were delivered, and those of two others wait for an unreachable archive. Two phantoms
are not analyzed yet, one is a chest, and one has invalid Bits Stored.
"""

import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from dicom_node.demo.archive import start_archive
from tests.support.node import counts, serving, wait_for

pytestmark = pytest.mark.acceptance

DATA = Path(__file__).with_name("schema_13.tar.xz")
BEFORE = {
    "delivered": 2,
    "delivering": 2,
    "received": 2,
    "not_analyzed": 1,
    "failed": 1,
}
CONFIG = """
[receiver]
host = "127.0.0.1"
port = 0
[storage]
directory = "node"
min_free_mb = 1
[api]
processes = 0
[retention]  # the data may be older than the defaults
delivered_days = 36500
failed_days = 36500
journal_days = 36500
audit_days = 36500
[[destinations]]
name = "pacs"
type = "dicom"
ae_title = "PACS"
host = "127.0.0.1"
port = {port}
retry_days = 36500
"""


def test_work_of_an_earlier_release_is_continued(tmp_path: Path) -> None:
    with tarfile.open(DATA) as archive_file:
        archive_file.extractall(tmp_path, filter="data")
    archive = start_archive(tmp_path / "archive", ae_title="PACS")
    config = tmp_path / "node.toml"
    config.write_text(CONFIG.format(port=archive.port))
    before = states_before(tmp_path / "node" / "node.sqlite")

    with serving(config):
        wait_for(
            lambda: counts(config) == {"delivered": 6, "not_analyzed": 1, "failed": 1}
        )
    archive.stop()

    assert before == BEFORE
    assert len(list((tmp_path / "archive").rglob("*.dcm"))) == 4


def states_before(database: Path) -> dict[str, int]:
    """Return the number of instances by state in a database of the earlier release."""
    query = "SELECT state, COUNT(*) FROM instance GROUP BY state"
    with closing(sqlite3.connect(database)) as connection:
        return dict(connection.execute(query))
