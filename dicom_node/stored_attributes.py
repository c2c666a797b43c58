"""The attributes of an instance that are in its header and in the journal."""

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class StoredAttributes:
    """The attributes of an instance that the header and the journal have in common.

    Each attribute is a column of the journal's table of instances. The text of an
    absent attribute is empty. This class is the base class of InstanceHeader,
    InstanceRecord and WorklistEntry.

    Attributes:
        sop_class_uid: SOP Class UID (0008,0016).
        sop_instance_uid: SOP Instance UID (0008,0018), the only identifier in the
            header that may appear in a log.
        transfer_syntax_uid: The transfer syntax of the dataset: that of the
            presentation context, or that of an uploaded or local file.
        study_instance_uid: Study Instance UID (0020,000D).
        series_instance_uid: Series Instance UID (0020,000E).
        modality: Modality (0008,0060).
        study_date: Study Date (0008,0020), YYYYMMDD.
        body_part: Body Part Examined (0018,0015).
        view_position: View Position (0018,5101).
        laterality: Image Laterality (0020,0062), else Laterality (0020,0060).
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

    def stored_values(self) -> dict[str, Any]:
        """Return the values of the attributes by name, without those of subclasses."""
        names = [each.name for each in fields(StoredAttributes)]
        return {name: getattr(self, name) for name in names}
