"""UIDs that contain paths or control characters: none reaches a path or the log."""

import json
import logging
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.settings import load
from dicom_node.demo.archive import start_archive
from dicom_node.network.sockets import listen
from dicom_node.receiver.server import start_receiver
from dicom_node.storage.spool import Spool
from tests.support.mutation_runs import analyzed, phantoms
from tests.support.mutations import Sample, closed, opened
from tests.support.raw_sender import c_store, raw_sender

pytestmark = [
    pytest.mark.integration,
    pytest.mark.usefixtures("common_decoders"),
]

PHANTOM = phantoms()[0]
NAMES = [
    pytest.param(b"../../etc/passwd", id="relative"),
    pytest.param(b"/etc/passwd", id="absolute"),
    pytest.param(b"", id="empty"),
    pytest.param(b"1" * 257, id="257"),
    pytest.param(b"1.2\x00../x", id="NUL"),
    pytest.param(b"1.2\nERROR forged line", id="newline"),
    pytest.param(b"1.2\x1b[2J", id="escape"),
    pytest.param(b"\xc3\xa9\xff", id="no-ASCII"),
]


def named(name: bytes) -> Sample:
    """Return the phantom with `name` as SOP and Series Instance UID of its dataset.

    The UIDs of the command stay valid.
    """
    draft = opened(PHANTOM, random.Random(0))
    draft.put("SOPInstanceUID", name)
    draft.put("SeriesInstanceUID", name)
    uids = PHANTOM.sop_class_uid, PHANTOM.sop_instance_uid
    return Sample("named", PHANTOM.syntax, *uids, closed(draft))


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "node.toml").write_text("[storage]\nmin_free_mb = 0\n")
    settings = load(tmp_path / "node.toml", {})
    with listen("127.0.0.1", 0) as listening:
        started = start_receiver(
            settings.receiver,
            Spool(settings.storage),
            lambda _: None,
            {listening: None},
        )
        yield started.port
        started.drain(5)


def paths_below(folder: Path) -> set[Path]:
    """Return all paths below a folder, without the run folder that receivers share."""
    return {each for each in folder.rglob("*") if "run" not in each.parts}


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.filterwarnings("ignore:The value length")
@pytest.mark.parametrize("name", NAMES)
def test_receiver_refuses_invalid_uids_and_writes_them_to_no_path_or_log(
    name: bytes, receiver: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = paths_below(tmp_path)
    sample = named(name)

    with caplog.at_level(logging.INFO), raw_sender(receiver) as sender:
        command = c_store(sample.sop_class_uid.encode(), name)
        as_command = sender.send(sample, command)
        as_dataset = sender.send(sample)

    assert as_command.status == 0xA900
    assert as_dataset.status == 0xA900
    assert paths_below(tmp_path) == before
    for record in caplog.records:
        if record.name.startswith("dicom_node"):  # log/format.py silences libraries
            line = record.getMessage()
            assert line.isprintable()
            assert "forged" not in line
            assert "passwd" not in line


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize("name", [each for each in NAMES if each.id != "empty"])
def test_archive_of_the_tests_names_its_files_independently_of_uids(
    name: bytes, tmp_path: Path
) -> None:
    archive = start_archive(tmp_path / "archive")
    sample = named(name)

    with raw_sender(archive.port) as sender:
        sender.send(sample, c_store(sample.sop_class_uid.encode(), name))
        sender.send(sample)
    archive.stop()

    files = {each.name for each in tmp_path.rglob("*") if each.is_file()}
    assert len(files) >= 2
    assert all(re.fullmatch(r"log\.jsonl|[0-9a-f]{32}\.dcm", each) for each in files)
    lines = (tmp_path / "archive" / "log.jsonl").read_text("ascii").splitlines()
    assert all(json.loads(line)["status"] == 0 for line in lines)


def test_analyze_derives_output_names_from_input_files_only(
    tmp_path: Path,
) -> None:
    (tmp_path / "node.toml").write_text('[storage]\ndirectory = "node"\n')
    samples = [named(each.values[0]) for each in NAMES[:3]]  # type: ignore[arg-type]

    rows = analyzed(samples, tmp_path, tmp_path)

    states = [outcome.split()[0] for _, outcome in rows]
    assert states == [
        "not",
        "not",
        "analyzed",
    ]  # instances with an invalid UID are not analyzed
    written = {each.name for each in tmp_path.rglob("*") if each.is_file()}
    inputs = {f"{number:05}" for number in range(3)}
    results = {
        f"{each}{end}" for each in inputs for end in (".png", ".secondary_capture.dcm")
    }
    assert written <= {"node.toml", *inputs, *results}
    assert written >= {"00002.png"}
