"""Reads a DICOM file that a command line names as if it had been received."""

from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from blake3 import blake3
from pydicom import Dataset

from dicom_node.attributes import UID_PATTERN, text
from dicom_node.attributes import uid as whole_uid
from dicom_node.instance import InstanceHeader, ReceivedInstance
from dicom_node.part10 import check_complete, locate, read_part10, reading_dicom


def adopt(path: Path, max_inflated: int) -> ReceivedInstance:
    """Read the identity of a file. Run in the decoding child.

    Args:
        path: A DICOM file, with or without preamble and File Meta Information.
        max_inflated: Bytes that a deflated dataset may become.

    Raises:
        AnalysisError: The file is not DICOM, ends early, or is broken.
        OSError: It is not there.
    """
    identity = uuid4().hex
    # The current time would give another object when the same file is analyzed again.
    modified = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    content = path.read_bytes()
    with reading_dicom():
        with path.open("rb") as file:
            check_complete(file, locate(file), inflated_limit=max_inflated)
        header = _header(read_part10(path, max_inflated))
    return ReceivedInstance(
        id=identity,
        path=path,
        header=header,
        content_digest=blake3(content).hexdigest(),
        size=len(content),
        calling_ae_title="",
        calling_address="",
        received_at=modified,
    )


def _header(dataset: Dataset) -> InstanceHeader:
    def uid(keyword: str) -> str:
        found = whole_uid(dataset, keyword)
        return found if UID_PATTERN.fullmatch(found) else ""

    return InstanceHeader(
        sop_class_uid=uid("SOPClassUID"),
        sop_instance_uid=uid("SOPInstanceUID"),
        transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
        study_instance_uid=uid("StudyInstanceUID"),
        series_instance_uid=uid("SeriesInstanceUID"),
        modality=text(dataset, "Modality"),
    )
