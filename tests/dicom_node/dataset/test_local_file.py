"""Local files become instances, or are refused with an error."""

import random
from pathlib import Path

import pytest

from dicom_node.dataset.local_file import read_local_file, read_local_header
from dicom_node.errors import AnalysisError
from dicom_node.instance import ReceivedInstance
from dicom_node.results.source import read_source
from tests.support.mutation_runs import phantoms
from tests.support.mutations import Draft, closed, opened

PHANTOM = phantoms()[0]


def adopted(draft: Draft, folder: Path) -> ReceivedInstance:
    path = folder / "file"
    path.write_bytes(PHANTOM.part10[: -len(PHANTOM.dataset)] + closed(draft))
    return read_local_file(path, read_local_header(path, 10**8))


def draft() -> Draft:
    return opened(PHANTOM, random.Random(0))


def nested_too_deep(draft: Draft) -> None:
    begun = draft.encoding.named("ReferencedStudySequence", b"")[:8] + b"\xff" * 4
    items = begun + draft.encoding.tag(0xFFFEE000) + b"\xff" * 4
    draft.put_element(0x00081110, items * 5000)


def unknown_vr(draft: Draft) -> None:
    draft.put("Modality", b"Secret", b"ZZ")


@pytest.mark.parametrize("damage", [nested_too_deep, unknown_vr])
def test_broken_file_raises_an_error_without_its_content(
    damage: object, tmp_path: Path
) -> None:
    broken = draft()
    damage(broken)  # type: ignore[operator]

    with pytest.raises(
        AnalysisError, match=r"cannot be read as DICOM|ends early"
    ) as caught:
        adopted(broken, tmp_path)

    assert "Secret" not in str(caught.value)


def test_file_without_preamble_is_read_in_place(tmp_path: Path) -> None:
    path = tmp_path / "bare"
    path.write_bytes(PHANTOM.dataset)

    adopted = read_local_file(path, read_local_header(path, 10**8))

    assert adopted.path == path
    assert adopted.header.sop_instance_uid == PHANTOM.sop_instance_uid
    assert adopted.header.transfer_syntax_uid == PHANTOM.syntax
    assert read_source(adopted).text("PatientID") == "PHANTOM-BROKEN"


@pytest.mark.parametrize("uid", [b"../../etc/passwd", b"1.2\n3", b"1" * 257, b"\xc3"])
def test_invalid_uids_are_dropped(uid: bytes, tmp_path: Path) -> None:
    invalid = draft()
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        invalid.put(keyword, uid)

    header = adopted(invalid, tmp_path).header

    assert header.sop_instance_uid == ""
    assert header.study_instance_uid == ""
    assert header.series_instance_uid == ""
