"""A SOP Instance as it was received: where its bytes lie, who sent it when."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from dicom_node.patient import Patient


@dataclass(frozen=True, slots=True)
class InstanceHeader:
    """What the receiver reads of a dataset.

    Text is as in the dataset, stripped; empty where the attribute is absent.

    Attributes:
        sop_class_uid: (0008,0016).
        sop_instance_uid: (0008,0018), the one identifier that may appear in a log.
        transfer_syntax_uid: As negotiated for the presentation context.
        study_instance_uid: (0020,000D).
        series_instance_uid: (0020,000E).
        modality: (0008,0060).
        study_date: (0008,0020), YYYYMMDD.
        body_part: Body Part Examined (0018,0015).
        view_position: (0018,5101).
        laterality: Image Laterality (0020,0062), else Laterality (0020,0060).
        source_sop_instance_uids: Of Source Image Sequence (0008,2112), which ties a
            For Presentation image to the For Processing image it was made from.
        acquisition: What tells one exposure from another: Irradiation Event UID
            (0008,3010), else Acquisition DateTime (0008,002A), else Acquisition Date
            and Time (0008,0022 and 0032).
        patient: The patient; written to the journal's table of patients and to the
            audit file, and nowhere else.
        assumptions: What was assumed of a header that breaks the standard, in
            sentences.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    modality: str = ""
    study_date: str = ""
    body_part: str = ""
    view_position: str = ""
    laterality: str = ""
    source_sop_instance_uids: tuple[str, ...] = ()
    acquisition: str = ""
    patient: Patient = field(default=Patient(), repr=False)
    assumptions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """One SOP Instance, untouched since it was received.

    Attributes:
        id: Our own UUID, hexadecimal; names the file and the journal's row.
        path: The Part 10 file in the spool: our File Meta Information, then the
            dataset byte for byte as it was sent.
        header: What the receiver read of it.
        content_digest: BLAKE3 of the dataset's bytes as sent, hexadecimal.
        size: Bytes of the dataset as sent.
        calling_ae_title: The AE that sent it, stripped of padding.
        calling_address: Its network address.
        received_at: When the C-STORE request was served, UTC.
    """

    id: str
    path: Path
    header: InstanceHeader
    content_digest: str
    size: int
    calling_ae_title: str
    calling_address: str
    received_at: datetime
