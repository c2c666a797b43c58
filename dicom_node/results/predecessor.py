"""An object of an examination summary that a later revision replaces."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Predecessor:
    """An object of an earlier revision of an examination summary.

    Attributes:
        sop_class_uid: SOP Class UID (0008,0016).
        sop_instance_uid: SOP Instance UID (0008,0018).
        series_instance_uid: Series Instance UID (0020,000E).
        revision: The revision that the object belongs to, from 1.
        image_count: The number of images that this revision of the summary is about.
    """

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    revision: int
    image_count: int
