"""Old orphans are removed. Files that are young, in use or in the journal are kept."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from config.settings import StorageSettings
from dicom_node.storage.orphans import (
    Known,
    is_abandoned,
    remove_orphans,
    remove_partial_files,
)
from dicom_node.storage.spool import Spool


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(StorageSettings(directory=tmp_path, database="", min_free_mb=0))


def files(spool: Spool) -> list[str]:
    return sorted(path.suffix for path in spool.directory.iterdir())


def none_known(_: Sequence[str]) -> set[str]:
    return set()


def sweep(spool: Spool, known: Known, *, older_than_s: float) -> int:
    return remove_orphans(spool, known, none_known, older_than_s=older_than_s)


def test_sweep_removes_unfinished_files_of_dead_writers_only(
    spool: Spool,
) -> None:
    (spool.directory / "dead.part").touch()
    (spool.results / "dead.part").touch()
    alive = spool.begin(b"")

    assert remove_partial_files(spool) == 2
    alive.commit()
    alive.close()
    assert files(spool) == [".dcm"]


def stored_instance(spool: Spool, *, age_s: float = 0) -> str:
    spool_file = spool.begin(b"")
    spool_file.commit()
    spool_file.close()
    os.utime(spool_file.path, (0, time.time() - age_s))
    return spool_file.id


def test_sweep_removes_old_instances_that_are_not_in_the_journal(spool: Spool) -> None:
    known, orphan, young = (
        stored_instance(spool, age_s=99),
        stored_instance(spool, age_s=99),
        stored_instance(spool),
    )

    removed = sweep(spool, {known}.intersection, older_than_s=10)

    assert removed == 1
    assert spool.path(known).exists()
    assert spool.path(young).exists()
    assert not spool.path(orphan).exists()


def test_sweep_keeps_an_instance_that_is_being_recorded(spool: Spool) -> None:
    spool_file = spool.begin(b"")
    spool_file.commit()
    os.utime(spool_file.path, (0, 0))

    assert sweep(spool, none_known, older_than_s=0) == 0
    spool_file.close()
    assert sweep(spool, none_known, older_than_s=0) == 1


def test_sweep_queries_the_journal_again_before_it_removes(spool: Spool) -> None:
    instance = stored_instance(spool, age_s=99)
    responses: list[set[str]] = [{instance}, set()]  # popped from the end

    def recorded_in_between(_: Sequence[str]) -> set[str]:
        return responses.pop()

    assert sweep(spool, recorded_in_between, older_than_s=10) == 0
    assert spool.path(instance).exists()


def test_sweep_removes_old_results_that_are_not_in_the_journal(spool: Spool) -> None:
    old, kept, young = (spool.store_result(name, b"") for name in "abc")
    message = spool.store_result("d", b"", ".hl7")
    for path in (old, kept, message):
        os.utime(spool.results.parent / path, (0, time.time() - 99))

    removed = remove_orphans(spool, none_known, {kept}.intersection, older_than_s=10)

    assert removed == 2
    left = {f"results/{path.name}" for path in spool.results.iterdir()}
    assert left == {kept, young}


def test_result_that_is_written_again_during_the_sweep_is_kept(spool: Spool) -> None:
    result = spool.results / "a-2.25.1.dcm"
    result.write_bytes(b"old")
    os.utime(result, (0, time.time() - 99))

    def write_again(_: Sequence[str]) -> set[str]:
        result.write_bytes(b"new")
        return set()

    assert remove_orphans(spool, none_known, write_again, older_than_s=10) == 0
    assert result.read_bytes() == b"new"


def test_part_that_cannot_be_opened_is_not_abandoned(tmp_path: Path) -> None:
    (tmp_path / "loop.part").symlink_to("loop.part")

    assert not is_abandoned(tmp_path / "loop.part")
