"""Reads a DICOM file that a command line names, and describes it as an instance."""

import os
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from blake3 import blake3
from pydicom import Dataset

from dicom_node.dataset.attributes import UID_PATTERN, text
from dicom_node.dataset.attributes import uid as whole_uid
from dicom_node.dataset.part10 import check_complete, locate, read_part10, reading_dicom
from dicom_node.instance import InstanceHeader, ReceivedInstance


def read_local_header(path: Path, max_inflated: int) -> InstanceHeader:
    """Return the header of a file, which may be hostile.

    Run this function in the decoder. The header contains only the UIDs and Modality.

    Args:
        path: A DICOM file, with or without preamble and File Meta Information.
        max_inflated: Maximum size of a deflated dataset after inflation, in bytes.

    Raises:
        AnalysisError: The file is not DICOM, ends early, or is broken.
    """
    with reading_dicom():
        with path.open("rb") as file:
            check_complete(file, locate(file), inflated_limit=max_inflated)
        return _header(read_part10(path, max_inflated))


def read_local_file(path: Path, header: InstanceHeader) -> ReceivedInstance:
    """Return a ReceivedInstance that describes a local file.

    The file is neither copied nor moved. `content_digest` and `size` are those of the
    whole file. `received_at` is the time at which the file was last changed. The AE
    title and the address of the caller are empty.

    Args:
        path: The file.
        header: The header that `read_local_header` returned for this file.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        digest = blake3()
        while piece := file.read(2**20):
            digest.update(piece)
        state = os.fstat(file.fileno())
    return ReceivedInstance(
        id=uuid4().hex,
        path=path,
        header=header,
        content_digest=digest.hexdigest(),
        size=state.st_size,
        calling_ae_title="",
        calling_address="",
        # Not the current time: a second analysis of the same file must give the same
        # object.
        received_at=datetime.fromtimestamp(state.st_mtime, UTC),
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
