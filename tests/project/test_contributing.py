"""CONTRIBUTING.md names files and packages that exist."""

import re
from pathlib import Path

from tests.project.test_architecture import MAY_IMPORT

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """Return the cells of each row of the table under a heading.

    The table head is left out.
    """
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_table_of_packages_lists_all_packages_in_the_order_of_imports() -> None:
    packages = [cells[0].strip("`").replace("/", ".") for cells in rows("Packages")]

    seen: set[str] = set()
    for package in packages:
        assert MAY_IMPORT[package] <= seen, package
        seen.add(package)
    assert seen == MAY_IMPORT.keys() - {"dicom_node.storage.migrations"}


def test_each_task_names_at_most_4_files_and_a_test_that_exist() -> None:
    tasks = rows("Where do I change …")

    assert len(tasks) >= 15
    for task, files, _notes, test in tasks:
        paths = re.findall(r"`([\w./]+)`", files)
        assert 1 <= len(paths) <= 4, task
        for path in (*paths, test.strip("`")):
            assert (ROOT / path).exists(), path
