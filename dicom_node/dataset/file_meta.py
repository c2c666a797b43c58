"""Preamble, prefix and File Meta Information of the files that the node writes."""

from pydicom import DataElement
from pydicom.config import IGNORE
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.tag import Tag
from pydicom.uid import UID

from dicom_node.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

PREAMBLE_AND_PREFIX = bytes(128) + b"DICM"


def file_head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax: UID) -> bytes:
    """Return the preamble, the prefix and File Meta Information (PS3.10 7.1) as bytes.

    Args:
        sop_class_uid: The SOP Class UID of the instance; written even if it is invalid.
        sop_instance_uid: The SOP Instance UID; written even if it is invalid.
        transfer_syntax: The transfer syntax of the dataset that follows.
    """
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = transfer_syntax
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    for keyword, uid in (
        ("MediaStorageSOPClassUID", sop_class_uid),
        ("MediaStorageSOPInstanceUID", sop_instance_uid),
    ):
        meta.add(
            DataElement(Tag(keyword), "UI", UID(uid, IGNORE), validation_mode=IGNORE)
        )
    buffer = DicomBytesIO()
    write_file_meta_info(buffer, meta)
    return PREAMBLE_AND_PREFIX + buffer.getvalue()
