"""A SOP Instance as the node received it: the file, the header and the sender."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from dicom_node.patient import Patient
from dicom_node.stored_attributes import StoredAttributes


@dataclass(frozen=True, slots=True)
class InstanceHeader(StoredAttributes):
    """The attributes that the receiver reads from a dataset.

    Texts have no padding, and their unprintable characters are replaced. A text is
    empty if the attribute is absent or if the receiver rejects the value, such as an
    invalid UID.

    Attributes:
        source_sop_instance_uids: SOP Instance UIDs in Source Image Sequence
            (0008,2112). In a For Presentation image, they name the For Processing
            image from which it was made.
        acquisition: Text that differs between exposures: Irradiation Event UID
            (0008,3010), else Acquisition DateTime (0008,002A), else Acquisition Date
            and Time (0008,0022 and 0032) if both are present; else empty.
        patient: The patient. The journal stores these values only in its table of
            patients.
        assumptions: Sentences that say how the node interpreted attributes that violate
            the standard.
    """

    source_sop_instance_uids: tuple[str, ...] = ()
    acquisition: str = ""
    patient: Patient = field(default=Patient(), repr=False)
    assumptions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """One SOP Instance as the node received it.

    `read_local_file` in dataset/local_file.py returns this class for a local file. The
    docstring of that function says which attributes then have another meaning.

    Attributes:
        id: The node's own UUID of the instance, hexadecimal. It is the name of the
            file, without its extension, and the key of the row in the journal.
        path: The Part 10 file in the spool. It has the node's own File Meta Information
            and the bytes of the dataset as they were sent.
        header: The header that the receiver read.
        content_digest: BLAKE3 of the dataset's bytes as sent, hexadecimal.
        size: Size of the dataset as sent, in bytes.
        calling_ae_title: The AE title of the sender, without padding; "UPLOAD" for an
            uploaded file.
        calling_address: The network address of the sender.
        received_at: Time at which the file was complete in the spool, UTC.
    """

    id: str
    path: Path
    header: InstanceHeader
    content_digest: str
    size: int
    calling_ae_title: str
    calling_address: str
    received_at: datetime
