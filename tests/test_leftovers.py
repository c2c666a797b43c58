"""Files that nobody will ask for go; what is written, recorded or kept stays."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from config.settings import StorageSettings
from dicom_node.leftovers import Known, remove_orphans, remove_unfinished
from dicom_node.spool import Spool


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(StorageSettings(directory=tmp_path, database="", min_free_mb=0))


def files(spool: Spool) -> list[str]:
    return sorted(path.suffix for path in spool.directory.iterdir())


def nobody(_: Sequence[str]) -> set[str]:
    return set()


def swept(spool: Spool, known: Known, *, older_than_s: float) -> int:
    return remove_orphans(spool, known, nobody, older_than_s=older_than_s)


def test_a_sweep_removes_what_a_dead_writer_left_and_nothing_that_is_written(
    spool: Spool,
) -> None:
    (spool.directory / "dead.part").touch()
    (spool.results / "dead.part").touch()
    alive = spool.begin(b"")

    assert remove_unfinished(spool) == 2
    alive.keep()
    alive.close()
    assert files(spool) == [".dcm"]


def kept(spool: Spool, *, age_s: float = 0) -> str:
    arrival = spool.begin(b"")
    arrival.keep()
    arrival.close()
    os.utime(arrival.path, (0, time.time() - age_s))
    return arrival.id


def test_a_sweep_removes_old_instances_that_no_journal_knows(spool: Spool) -> None:
    known, orphan, young = kept(spool, age_s=99), kept(spool, age_s=99), kept(spool)

    removed = swept(spool, {known}.intersection, older_than_s=10)

    assert removed == 1
    assert spool.path(known).exists()
    assert spool.path(young).exists()
    assert not spool.path(orphan).exists()


def test_a_sweep_leaves_alone_what_is_being_recorded(spool: Spool) -> None:
    arrival = spool.begin(b"")
    arrival.keep()
    os.utime(arrival.path, (0, 0))

    assert swept(spool, nobody, older_than_s=0) == 0
    arrival.close()
    assert swept(spool, nobody, older_than_s=0) == 1


def test_a_sweep_asks_again_once_nobody_can_be_recording(spool: Spool) -> None:
    instance = kept(spool, age_s=99)
    answers: list[set[str]] = [{instance}, set()]  # from the end

    def recorded_meanwhile(_: Sequence[str]) -> set[str]:
        return answers.pop()

    assert swept(spool, recorded_meanwhile, older_than_s=10) == 0
    assert spool.path(instance).exists()


def test_old_results_that_no_answer_names_any_more_are_removed(spool: Spool) -> None:
    old, kept, young = (spool.store_result(name, b"") for name in "abc")
    for path in (old, kept):
        os.utime(spool.results.parent / path, (0, time.time() - 99))

    removed = remove_orphans(spool, nobody, {kept}.intersection, older_than_s=10)

    assert removed == 1
    there = {f"results/{path.name}" for path in spool.results.iterdir()}
    assert there == {kept, young}
